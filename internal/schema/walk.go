package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// walk checks one value, straight on its bytes.
type walk struct {
	raw    []byte
	budget int
	// broken is why the walk was given up; from then on nothing fits, also
	// where a branch that does not fit would be good news.
	broken string

	explain bool
	path    []string // of the value being visited; kept only to explain
	why     *Invalid // the first reason, kept only to explain
}

// visit checks the value at i and returns where it ends, or -1.
func (w *walk) visit(n *node, i, depth int) int {
	if w.budget--; w.budget < 0 {
		w.tooMuch()
	}
	if w.broken != "" {
		return -1
	}
	if n.never {
		return w.fail(i, "nothing", "no value is allowed here")
	}
	kind := kindAt(w.raw, i)
	if n.types != 0 && n.types&kind == 0 {
		// An integer is a number that has to be looked at.
		if kind != typeNumber || n.types&typeInteger == 0 || !w.integerAt(i) {
			return w.wrong(i, n.types.String())
		}
	}
	if n.values != nil && !w.among(n, i) {
		if w.wrong(i, n.listed); w.why != nil && w.why.Expected == n.listed {
			w.why.listed = true
		}
		return -1
	}
	end := -1
	if n.ref != nil {
		if end = w.visit(n.ref, i, depth); end < 0 {
			return -1
		}
	}
	switch kind {
	case typeObject:
		end = w.object(n, i, depth)
	case typeArray:
		end = w.array(n, i, depth)
	case typeString:
		end = w.text(n, i)
	case typeNumber:
		end = w.number(n, i)
	case 0:
		return w.malformed()
	default:
		end = w.skip(i)
	}
	if end < 0 || !w.branches(n, i, depth) {
		return -1
	}
	return end
}

// branches checks the subschemas that judge the same value.
func (w *walk) branches(n *node, i, depth int) bool {
	for _, sub := range n.allOf {
		if w.visit(sub, i, depth) < 0 {
			return false
		}
	}
	if len(n.anyOf) > 0 && w.fitting(n.anyOf, 1, i, depth) == 0 {
		return false
	}
	if len(n.oneOf) > 0 {
		switch w.fitting(n.oneOf, 2, i, depth) {
		case 0:
			return false
		case 2:
			w.fail(i, "exactly one of the forms", "fits more than one of the forms allowed here, want exactly one")
			return false
		}
	}
	if n.not != nil && w.quietly(n.not, i, depth) {
		w.fail(i, "another value", "this value is excluded")
		return false
	}
	if n.when != nil {
		then := n.other
		if w.quietly(n.when, i, depth) {
			then = n.then
		}
		if then != nil && w.visit(then, i, depth) < 0 {
			return false
		}
	}
	return w.broken == ""
}

// quietly is visit without a reason.
func (w *walk) quietly(n *node, i, depth int) bool {
	explain := w.explain
	w.explain = false
	fits := w.visit(n, i, depth) >= 0
	w.explain = explain
	return fits
}

// fitting counts the subschemas that fit, up to enough. Where none does, the
// reason is that of the one that came nearest to it.
func (w *walk) fitting(subs []*node, enough, i, depth int) int {
	count := 0
	for _, sub := range subs {
		if w.quietly(sub, i, depth) {
			if count++; count == enough {
				break
			}
		}
	}
	if count > 0 || !w.explain || w.broken != "" {
		return count
	}
	var nearest []*Invalid
	at, level := w.pointer(), len(w.path)
	for _, sub := range subs {
		w.why = nil
		w.visit(sub, i, depth)
		w.path = w.path[:level]
		switch {
		case w.why == nil:
		case len(nearest) == 0 || w.why.near() > nearest[0].near():
			nearest = []*Invalid{w.why}
		case w.why.near() == nearest[0].near():
			nearest = append(nearest, w.why)
		}
	}
	// What tells forms apart is wrong in many of them; what is wrong in few is meant.
	complaints := func(e *Invalid) int {
		n := 0
		for _, other := range nearest {
			if other.Pointer == e.Pointer {
				n++
			}
		}
		return n
	}
	var best *Invalid
	for _, e := range nearest {
		if best == nil || e.listed && complaints(e) < complaints(best) {
			best = e
		}
	}
	var alike []string // what is wanted at the same place
	for _, e := range nearest {
		if e.Pointer == best.Pointer && (e.Pointer == at || e.listed) && !slices.Contains(alike, e.Expected) {
			alike = append(alike, e.Expected)
		}
	}
	if len(alike) > 1 {
		all := strings.Join(alike, ", or ")
		if got, ok := strings.CutPrefix(best.Message, "want "+best.Expected+", got "); ok && best.listed {
			best.Message, best.Expected = "want "+all+", got "+got, all
		} else {
			w.why = nil
			w.wrong(i, all)
			best = w.why
		}
	}
	w.why = best
	return 0
}

// near grows with how much of a form a value meets: what is wrong further inside is
// nearer. A member with none of the values listed makes another form of it, more often
// than not; one that is missing does not.
func (e *Invalid) near() int {
	n := 2 * strings.Count(e.Pointer, "/")
	if e.lacking {
		n += 2
	}
	if !e.listed {
		n++
	}
	return n
}

func (w *walk) object(n *node, i, depth int) int {
	if depth >= MaxValueDepth {
		return w.breakOff("nested too deep", fmt.Sprintf("at most %d levels", MaxValueDepth))
	}
	raw := w.raw
	var few uint64
	var many []bool
	if n.required > 64 {
		many = make([]bool, n.required)
	}
	count, found := 0, 0
	i++
	j := w.space(i)
	for peek(raw, j) != '}' {
		if peek(raw, j) != '"' {
			return w.malformed()
		}
		after := w.skip(j)
		if after < 0 {
			return -1
		}
		nameAt := j
		name := plainText(raw[j:after])
		if j = w.space(after); peek(raw, j) != ':' {
			return w.malformed()
		}
		j = w.space(j + 1)
		count++

		end, judged := -1, false
		if w.explain {
			w.path = append(w.path, string(name))
		}
		if p := n.property(name); p != nil {
			if p.required >= 0 {
				if many == nil {
					if few&(1<<p.required) == 0 {
						found++
					}
					few |= 1 << p.required
				} else if !many[p.required] {
					many[p.required] = true
					found++
				}
			}
			if p.declared {
				judged = true
				if end = w.visit(p.schema, j, depth+1); end < 0 {
					return -1
				}
			}
		}
		for _, p := range n.patterns {
			if !w.matches(p.pattern, name) {
				if w.broken != "" {
					return -1
				}
				continue
			}
			judged = true
			if end = w.visit(p.schema, j, depth+1); end < 0 {
				return -1
			}
		}
		if !judged && n.additional != nil {
			if n.additional.never && w.explain {
				return w.fail(j, n.known(), "unknown property; "+n.known())
			}
			if end = w.visit(n.additional, j, depth+1); end < 0 {
				return -1
			}
		}
		if n.names != nil && w.visit(n.names, nameAt, depth+1) < 0 {
			return -1
		}
		if w.explain {
			w.path = w.path[:len(w.path)-1]
		}
		if end < 0 {
			if end = w.skip(j); end < 0 {
				return -1
			}
		}
		if j = w.space(end); peek(raw, j) == ',' {
			if j = w.space(j + 1); peek(raw, j) == '}' {
				return w.malformed()
			}
		} else if peek(raw, j) != '}' {
			return w.malformed()
		}
		w.budget--
	}
	if found < n.required {
		return w.missing(n, i-1)
	}
	if n.minProperties >= 0 && count < n.minProperties {
		return w.fail(i-1, fmt.Sprintf("at least %d properties", n.minProperties), "")
	}
	if n.maxProperties >= 0 && count > n.maxProperties {
		return w.fail(i-1, fmt.Sprintf("at most %d properties", n.maxProperties), "")
	}
	var present map[string]bool
	if len(n.dependents) > 0 {
		present = w.members(i)
	}
	for _, d := range n.dependents {
		if !present[d.name] {
			continue
		}
		for _, name := range d.needs {
			if !present[name] {
				return w.fail(i-1, "property "+strconv.Quote(name),
					"missing property "+strconv.Quote(name)+", needed beside "+strconv.Quote(d.name))
			}
		}
		if d.schema != nil && w.visit(d.schema, i-1, depth) < 0 {
			return -1
		}
	}
	return j + 1
}

// property finds what the schema says of a member, or nil.
func (n *node) property(name []byte) *property {
	if n.index != nil {
		if i, ok := n.index[string(name)]; ok {
			return &n.properties[i]
		}
		return nil
	}
	for i := range n.properties {
		if n.properties[i].name == string(name) {
			return &n.properties[i]
		}
	}
	return nil
}

// members are the names in the object whose first member is at i.
func (w *walk) members(i int) map[string]bool {
	names := map[string]bool{}
	for j := w.space(i); peek(w.raw, j) == '"'; {
		after := w.skip(j)
		if after < 0 {
			break
		}
		names[string(plainText(w.raw[j:after]))] = true
		j = w.space(w.skip(w.space(w.space(after) + 1)))
		if peek(w.raw, j) != ',' {
			break
		}
		j = w.space(j + 1)
		w.budget--
	}
	return names
}

func (w *walk) array(n *node, i, depth int) int {
	if depth >= MaxValueDepth {
		return w.breakOff("nested too deep", fmt.Sprintf("at most %d levels", MaxValueDepth))
	}
	count, matched := 0, 0
	var seen map[string]bool
	if n.unique {
		seen = map[string]bool{}
	}
	start := i
	j := w.space(i + 1)
	for peek(w.raw, j) != ']' {
		end := -1
		if w.explain {
			w.path = append(w.path, strconv.Itoa(count))
		}
		sub := n.rest
		if count < len(n.prefix) {
			sub = n.prefix[count]
		}
		if sub != nil {
			if sub.never && w.explain {
				return w.fail(j, fmt.Sprintf("at most %d items", count), fmt.Sprintf("want at most %d items", count))
			}
			end = w.visit(sub, j, depth+1)
		} else {
			end = w.skip(j)
		}
		if end < 0 {
			return -1
		}
		if n.contains != nil && w.quietly(n.contains, j, depth+1) {
			matched++
		}
		if seen != nil {
			w.budget -= end - j
			key, ok := w.canonical(j, end)
			if !ok {
				return -1
			}
			if seen[key] {
				return w.fail(j, "items that differ", "the same item a second time, want items that differ")
			}
			seen[key] = true
		}
		if w.explain {
			w.path = w.path[:len(w.path)-1]
		}
		count++
		w.budget--
		if j = w.space(end); peek(w.raw, j) == ',' {
			if j = w.space(j + 1); peek(w.raw, j) == ']' {
				return w.malformed()
			}
		} else if peek(w.raw, j) != ']' {
			return w.malformed()
		}
	}
	switch {
	case n.minItems >= 0 && count < n.minItems:
		return w.fail(start, fmt.Sprintf("at least %d items", n.minItems), fmt.Sprintf("want at least %d items, got %d", n.minItems, count))
	case n.maxItems >= 0 && count > n.maxItems:
		return w.fail(start, fmt.Sprintf("at most %d items", n.maxItems), fmt.Sprintf("want at most %d items, got %d", n.maxItems, count))
	case n.contains != nil && matched < n.leastContained():
		return w.fail(start, "an item of a certain kind", fmt.Sprintf("%d items are of the kind wanted, want at least %d", matched, n.leastContained()))
	case n.contains != nil && n.maxContains >= 0 && matched > n.maxContains:
		return w.fail(start, "fewer items of a certain kind", fmt.Sprintf("%d items are of one kind, want at most %d", matched, n.maxContains))
	}
	return j + 1
}

func (n *node) leastContained() int {
	if n.minContains >= 0 {
		return n.minContains
	}
	return 1
}

func (w *walk) text(n *node, i int) int {
	end := w.skip(i)
	if end < 0 || n.minLength < 0 && n.maxLength < 0 && n.pattern == nil {
		return end
	}
	s := plainText(w.raw[i:end])
	if n.minLength >= 0 || n.maxLength >= 0 {
		length := utf8.RuneCount(s)
		if length < n.minLength {
			return w.fail(i, fmt.Sprintf("at least %d characters", n.minLength), fmt.Sprintf("want at least %d characters, got %d", n.minLength, length))
		}
		if n.maxLength >= 0 && length > n.maxLength {
			return w.fail(i, fmt.Sprintf("at most %d characters", n.maxLength), fmt.Sprintf("want at most %d characters, got %d", n.maxLength, length))
		}
	}
	if n.pattern != nil && !w.matches(n.pattern, s) {
		return w.wrong(i, "text that matches "+n.pattern.text)
	}
	return end
}

func (w *walk) matches(p *pattern, s []byte) bool {
	if w.budget -= 1 + len(s)*p.size>>6; w.budget < 0 {
		w.tooMuch()
		return false
	}
	return p.match(s)
}

func (w *walk) number(n *node, i int) int {
	end := w.skip(i)
	if end < 0 {
		return -1
	}
	tok := w.raw[i:end]
	if !readable(tok) {
		return w.breakOff("number out of range", "a number of at most 512 characters and an exponent of at most 1000")
	}
	switch {
	case n.min != nil && n.min.compareTo(tok) < 0:
		return w.wrong(i, "at least "+n.min.text)
	case n.max != nil && n.max.compareTo(tok) > 0:
		return w.wrong(i, "at most "+n.max.text)
	case n.above != nil && n.above.compareTo(tok) <= 0:
		return w.wrong(i, "more than "+n.above.text)
	case n.below != nil && n.below.compareTo(tok) >= 0:
		return w.wrong(i, "less than "+n.below.text)
	case n.multiple != nil && !multiple(tok, n.multiple):
		return w.wrong(i, "a multiple of "+n.multipleText)
	}
	return end
}

func (w *walk) integerAt(i int) bool {
	end := w.skip(i)
	if end < 0 {
		return false
	}
	if !readable(w.raw[i:end]) {
		w.breakOff("number out of range", "a number of at most 512 characters and an exponent of at most 1000")
		return false
	}
	return isInteger(w.raw[i:end])
}

// among reports whether the value at i is one of the values of an enum.
func (w *walk) among(n *node, i int) bool {
	end := w.skip(i)
	if end < 0 {
		return false
	}
	if n.plain {
		return w.raw[i] == '"' && n.values[string(plainText(w.raw[i:end]))]
	}
	w.budget -= end - i
	key, ok := w.canonical(i, end)
	return ok && n.values[key]
}

// canonical is the text that the value at raw[i:end] shares with all equal values.
func (w *walk) canonical(i, end int) (string, bool) {
	v, err := parse(w.raw[i:end], MaxValueDepth)
	if err != nil {
		w.breakOff("not a value that can be compared: "+err.Error(), "a plainer value")
		return "", false
	}
	return string(appendCanonical(nil, v)), true
}

// appendCanonical writes a parsed value so that equal values are equal bytes:
// members sorted, numbers by value.
func appendCanonical(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return strconv.AppendQuote(dst, v)
	case json.Number:
		return parseDecimal([]byte(v)).append(dst)
	case []any:
		dst = append(dst, '[')
		for _, item := range v {
			dst = append(appendCanonical(dst, item), ',')
		}
		return append(dst, ']')
	case map[string]any:
		dst = append(dst, '{')
		for _, name := range slices.Sorted(maps.Keys(v)) {
			dst = append(strconv.AppendQuote(dst, name), ':')
			dst = append(appendCanonical(dst, v[name]), ',')
		}
		return append(dst, '}')
	default:
		panic(fmt.Sprintf("schema: %T in a parsed value", v))
	}
}

// The scanner. The bytes are known to be JSON, so it only finds where things end;
// it stays within bounds whatever they are.

func peek(raw []byte, i int) byte {
	if i < 0 || i >= len(raw) {
		return 0
	}
	return raw[i]
}

// kindAt is the type of the value at i, zero where there is none.
func kindAt(raw []byte, i int) types {
	switch c := peek(raw, i); c {
	case '{':
		return typeObject
	case '[':
		return typeArray
	case '"':
		return typeString
	case 't', 'f':
		return typeBoolean
	case 'n':
		return typeNull
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return typeNumber
		}
		return 0
	}
}

func (w *walk) space(i int) int {
	for i >= 0 && i < len(w.raw) {
		switch w.raw[i] {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// skip returns where the value at i ends, or -1.
func (w *walk) skip(i int) int {
	raw := w.raw
	switch peek(raw, i) {
	case '"':
		for j := i + 1; j < len(raw); j++ {
			switch raw[j] {
			case '"':
				return j + 1
			case '\\':
				j++
			}
		}
		return w.malformed()
	case '{', '[':
		depth := 0
		for j := i; j < len(raw); j++ {
			switch raw[j] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					w.budget -= (j - i) >> 5
					return j + 1
				}
			case '"':
				if j = w.skip(j) - 1; j < 0 {
					return -1
				}
			}
		}
		return w.malformed()
	}
	j := i
	for j >= 0 && j < len(raw) {
		switch raw[j] {
		case ' ', '\t', '\n', '\r', ',', ']', '}', ':', '"', '{', '[':
		default:
			j++
			continue
		}
		break
	}
	if j == i {
		return w.malformed()
	}
	return j
}

// plainText is what a JSON string token holds. It copies only to take out escapes.
// Half of a surrogate pair becomes U+FFFD.
func plainText(tok []byte) []byte {
	if len(tok) < 2 {
		return nil
	}
	if bytes.IndexByte(tok, '\\') < 0 {
		return tok[1 : len(tok)-1]
	}
	out, _ := jsontext.AppendUnquote(nil, tok) // what it cannot say becomes U+FFFD
	return out
}

// Reasons.

// maxListed is how many values or names a message lists, maxShown how many bytes
// of a value it quotes.
const (
	maxListed = 10
	maxShown  = 64
)

func listed(shown []string, total int) string {
	switch {
	case total == 0:
		return "nothing"
	case total == 1:
		return shown[0]
	case total > len(shown):
		return fmt.Sprintf("one of %s and %d more", strings.Join(shown, ", "), total-len(shown))
	default:
		return "one of " + strings.Join(shown, ", ")
	}
}

// show writes a parsed value as JSON, shortened.
func show(v any) string {
	if s, ok := v.(string); ok {
		text, _ := jsontext.AppendQuote(nil, s)
		return clip(text)
	}
	text, _ := json.Marshal(v)
	return clip(text)
}

func clip(text []byte) string {
	if len(text) <= maxShown {
		return string(text)
	}
	cut := maxShown
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return string(text[:cut]) + "…"
}

// known names the properties an object may have.
func (n *node) known() string {
	var names []string
	for _, p := range n.properties {
		if p.declared && len(names) < maxListed {
			names = append(names, strconv.Quote(p.name))
		}
	}
	if len(names) == 0 {
		return "none is known"
	}
	if more := len(n.properties) - len(names); more > 0 {
		return "known are " + strings.Join(names, ", ") + fmt.Sprintf(" and %d more", more)
	}
	return "known are " + strings.Join(names, ", ")
}

func (w *walk) pointer() string {
	var ptr string
	for _, token := range w.path {
		ptr = join(ptr, token)
	}
	return ptr
}

// fail keeps the reason why the value at i does not fit, and returns -1. Without a
// message it says what is wanted.
func (w *walk) fail(i int, expected, message string) int {
	if w.explain && w.why == nil {
		if message == "" {
			message = "want " + expected
		}
		w.why = &Invalid{Pointer: w.pointer(), Message: message, Expected: expected}
	}
	return -1
}

// wrong is fail with what came instead.
func (w *walk) wrong(i int, expected string) int {
	if !w.explain || w.why != nil || w.broken != "" {
		return -1
	}
	got := "null"
	end := w.skip(i)
	if end < 0 {
		return -1
	}
	switch kindAt(w.raw, i) {
	case typeString:
		got = "string " + clip(w.raw[i:end])
	case typeNumber:
		got = "number " + clip(w.raw[i:end])
	case typeBoolean:
		got = "boolean " + clip(w.raw[i:end])
	case typeArray:
		got = "an array"
	case typeObject:
		got = "an object"
	}
	return w.fail(i, expected, "want "+expected+", got "+got)
}

// missing explains which required properties the object at i lacks.
func (w *walk) missing(n *node, i int) int {
	if !w.explain {
		return -1
	}
	var names, wants []string
	present := w.members(i + 1)
	for _, p := range n.properties {
		if p.required < 0 || present[p.name] || len(names) == maxListed {
			continue
		}
		name := strconv.Quote(p.name)
		names = append(names, name)
		if p.schema != nil && p.schema.types != 0 {
			name += " (" + p.schema.types.String() + ")"
		}
		wants = append(wants, name)
	}
	what := "property "
	if len(names) > 1 {
		what = "properties "
	}
	if w.fail(i, what+strings.Join(names, ", "), "missing required "+what+strings.Join(wants, ", ")); w.why != nil {
		w.why.lacking = true
	}
	return -1
}

func (w *walk) tooMuch() int {
	return w.breakOff("too much work to check against this schema", "a smaller value")
}

func (w *walk) malformed() int { return w.breakOff("not one JSON value", "one JSON value") }

// breakOff gives up: the value is not accepted, whatever is around it.
func (w *walk) breakOff(message, expected string) int {
	if w.broken == "" {
		w.broken = message
		w.why = &Invalid{Pointer: w.pointer(), Message: message, Expected: expected}
	}
	return -1
}
