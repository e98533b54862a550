package fault

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/wire"
)

// Alter returns what the fault makes of a result of tools/call. Every byte that is not
// of the fault stays. A result that is an error, or has nothing the fault can be done
// to, stays as it is.
func (f *Fate) Alter(result []byte) []byte {
	if isError, ok, err := wire.Field(result, "isError"); err != nil || ok && string(isError) == "true" {
		return result
	}
	switch f.Rule.Fault {
	case TruncatedResult:
		return f.truncated(result)
	case PartialResult, PaginationCut, SchemaDrift, InjectedInstruction:
	default:
		return result
	}
	var edits []wire.Edit
	for _, d := range documents(result) {
		edits = append(edits, d.within(f.plan(d.parts))...)
	}
	if len(edits) == 0 && f.Rule.Fault == InjectedInstruction && f.Rule.Field == "" {
		if text, ok := firstText(result); ok {
			edits = []wire.Edit{f.inject(text)}
		}
	}
	slices.SortFunc(edits, func(a, b wire.Edit) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
	return wire.Splice(result, edits...)
}

// part is a value of a document.
type part struct {
	at     string // JSON pointer
	kind   byte   // its first byte; 0 to 9 and - are '0'
	span   wire.Span
	name   wire.Span // of its member, with quotes; nothing in a list
	member string    // the name, unescaped
	parent int       // -1 of the whole
	count  int       // of values in it
}

// parts are the values of a JSON text, each before those in it; nil if it is no JSON.
func parts(doc []byte) []part {
	d := jsontext.NewDecoder(bytes.NewReader(doc))
	var all []part
	var open []int
	var name wire.Span
	var member string
	for {
		kind := d.PeekKind()
		if depth := d.StackDepth(); depth > 0 && kind != '}' && kind != ']' {
			if in, n := d.StackIndex(depth); in == '{' && n%2 == 0 {
				raw, err := d.ReadValue()
				if err != nil {
					return nil
				}
				end := int(d.InputOffset())
				name = wire.Span{Start: end - len(raw), End: end}
				if member, err = wire.DecodeString(raw); err != nil {
					return nil
				}
				continue
			}
		}
		p := part{kind: byte(kind), name: name, member: member, parent: -1}
		if len(open) > 0 {
			p.parent = open[len(open)-1]
		}
		name, member = wire.Span{}, ""
		size := 1
		switch kind {
		case '{', '[', '}', ']':
			if _, err := d.ReadToken(); err != nil {
				return nil
			}
		default:
			raw, err := d.ReadValue()
			if err == io.EOF && len(open) == 0 {
				return all
			}
			if err != nil || len(open) == 0 && len(all) > 0 {
				return nil
			}
			size = len(raw)
		}
		end := int(d.InputOffset())
		p.span, p.at = wire.Span{Start: end - size, End: end}, string(d.StackPointer())
		if kind == '}' || kind == ']' {
			all[open[len(open)-1]].span.End = end
			open = open[:len(open)-1]
			continue
		}
		if p.parent >= 0 {
			all[p.parent].count++
		} else {
			p.at = ""
		}
		if kind == '{' || kind == '[' {
			open = append(open, len(all))
		}
		all = append(all, p)
	}
}

// document is a JSON text in a result: the structured content, or a text that is JSON.
type document struct {
	parts []part
	start int    // of the document, or of the string that it is the text of
	token []byte // that string; nil for structured content
}

// documents are those of a result, in their order.
func documents(result []byte) []document {
	var found []document
	whole := parts(result)
	for i := range whole {
		p := &whole[i]
		switch {
		case p.at == "/structuredContent":
			found = append(found, document{parts: parts(p.span.Of(result)), start: p.span.Start})
		case isText(whole, p):
			token := p.span.Of(result)
			text, err := wire.DecodeString(token)
			if trimmed := strings.TrimLeft(text, " \t\r\n"); err != nil || trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
				continue
			}
			if inner := parts([]byte(text)); inner != nil {
				found = append(found, document{inner, p.span.Start, token})
			}
		}
	}
	return found
}

// isText reports whether a value is the text of a block of content.
func isText(whole []part, p *part) bool {
	if p.kind != '"' || p.member != "text" || p.parent < 0 || whole[p.parent].parent < 0 {
		return false
	}
	return whole[whole[p.parent].parent].at == "/content"
}

// firstText is where the first text of a result lies.
func firstText(result []byte) (part, bool) {
	whole := parts(result)
	for i := range whole {
		if isText(whole, &whole[i]) {
			return whole[i], true
		}
	}
	return part{}, false
}

// within makes edits of a document edits of the result it is in.
func (d *document) within(edits []wire.Edit) []wire.Edit {
	for i := range edits {
		e := &edits[i]
		if d.token != nil {
			e.Span = wire.Span{Start: offset(d.token, e.Span.Start), End: offset(d.token, e.Span.End)}
			quoted := wire.AppendString(nil, string(e.With))
			e.With = quoted[1 : len(quoted)-1]
		}
		e.Span.Start += d.start
		e.Span.End += d.start
	}
	return edits
}

// offset is where, in a JSON string with its quotes, the n-th byte of its text is
// written, or the character it belongs to.
func offset(token []byte, n int) int {
	i := 1
	for text := 0; text < n && i < len(token)-1; {
		size, width := 1, 1 // of the text, and as it is written
		switch {
		case token[i] != '\\':
			_, size = utf8.DecodeRune(token[i:])
			width = size
		case token[i+1] != 'u':
			width = 2
		default:
			width = 6
			if token[i+2]|0x20 == 'd' && token[i+3] >= '8' { // the first half of a pair
				width = 12
			}
			s, err := wire.DecodeString(slices.Concat([]byte{'"'}, token[i:i+width], []byte{'"'}))
			if err != nil {
				return i
			}
			size = len(s)
		}
		if text+size > n {
			return i
		}
		text, i = text+size, i+width
	}
	return i
}

// plan is what the rule does to a document.
func (f *Fate) plan(doc []part) []wire.Edit {
	switch f.Rule.Fault {
	case InjectedInstruction:
		if p := f.find(doc, func(p *part) bool { return p.kind == '"' }); p != nil {
			return []wire.Edit{f.inject(*p)}
		}
	case PaginationCut:
		if p := f.find(doc, isCursor); p != nil {
			with := "null"
			if p.kind == 't' {
				with = "false"
			}
			return []wire.Edit{{Span: p.span, With: []byte(with)}}
		}
	case PartialResult:
		return f.partial(doc)
	case SchemaDrift:
		return f.drift(doc)
	}
	return nil
}

// find is the value at the rule's field, or the first of a kind; nil if there is none.
func (f *Fate) find(doc []part, fits func(*part) bool) *part {
	for i := range doc {
		if p := &doc[i]; fits(p) && (f.Rule.Field == "" || f.Rule.Field == p.at) {
			return p
		}
	}
	return nil
}

// inject adds the instruction to the end of a string.
func (f *Fate) inject(p part) wire.Edit {
	quoted := wire.AppendString(nil, " "+f.Rule.Text)
	return wire.Edit{Span: wire.Span{Start: p.span.End - 1, End: p.span.End - 1}, With: quoted[1 : len(quoted)-1]}
}

// cursors are the names of members that lead to the next page, without case and lines.
var cursors = []string{"next", "nextcursor", "nextpage", "nextpagetoken", "nexttoken", "nexturl", "cursor", "hasmore", "hasnext", "hasnextpage", "more"}

func isCursor(p *part) bool {
	name := strings.ToLower(strings.ReplaceAll(p.member, "_", ""))
	return slices.Contains(cursors, name) && (p.kind == '"' || p.kind == '0' || p.kind == 't')
}

// partial leaves out the end of a list: of the one at field, or of the longest.
func (f *Fate) partial(doc []part) []wire.Edit {
	best := -1
	for i := range doc {
		if p := &doc[i]; p.kind == '[' && p.count > 0 && (f.Rule.Field == "" || f.Rule.Field == p.at) && (best < 0 || p.count > doc[best].count) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	list := doc[best]
	keep, n := int(float64(list.count)*f.Rule.Keep), 0
	cut := wire.Span{Start: list.span.Start + 1, End: list.span.End - 1}
	for i := best + 1; i < len(doc) && n < keep; i++ {
		if doc[i].parent == best {
			n++
			cut.Start = doc[i].span.End
		}
	}
	return []wire.Edit{{Span: cut}}
}

// drift names a member otherwise, in every object that has it. Which one, and how,
// is the same in all calls of a tool that have the same members.
func (f *Fate) drift(doc []part) []wire.Edit {
	names := map[string]bool{}
	for i := range doc {
		if doc[i].name.Present() {
			names[doc[i].member] = true
		}
	}
	from := ""
	if field := f.Rule.Field; field != "" {
		from = strings.NewReplacer("~1", "/", "~0", "~").Replace(field[strings.LastIndexByte(field, '/')+1:])
	} else {
		least := uint64(0)
		for name := range names {
			if drawn := draw(f.key, f.Rule.id+"/"+name, 0); from == "" || drawn < least || drawn == least && name < from {
				from, least = name, drawn
			}
		}
	}
	to := cmp.Or(f.Rule.Becomes, otherSpelling(from))
	for names[to] {
		to += "_2"
	}
	var edits []wire.Edit
	for i := range doc {
		if p := &doc[i]; p.name.Present() && p.member == from {
			edits = append(edits, wire.Edit{Span: p.name, With: wire.AppendString(nil, to)})
		}
	}
	return edits
}

// otherSpelling turns snake_case into camelCase and back; what is neither gets a suffix.
func otherSpelling(name string) string {
	var b strings.Builder
	up := false
	for i, r := range name {
		switch {
		case r == '_' && i > 0:
			up = true
			continue
		case up:
			r = unicode.ToUpper(r)
		case i > 0 && unicode.IsUpper(r) && !strings.Contains(name, "_"):
			b.WriteByte('_')
			r = unicode.ToLower(r)
		}
		up = false
		b.WriteRune(r)
	}
	if s := b.String(); s != name {
		return s
	}
	return name + "_v2"
}

// truncated ends the first text after a part of it and leaves out the structured
// content: what comes in pieces is not whole in another place.
func (f *Fate) truncated(result []byte) []byte {
	whole := parts(result)
	var edits []wire.Edit
	last := 1 // the end of the member before
	for i := range whole {
		p := &whole[i]
		switch {
		case isText(whole, p) && !slices.ContainsFunc(edits, func(e wire.Edit) bool { return e.With != nil }):
			token := p.span.Of(result)
			text, err := wire.DecodeString(token)
			if err != nil || text == "" {
				return result
			}
			at := offset(token, int(float64(len(text))*f.Rule.Keep))
			edits = append(edits, wire.Edit{Span: wire.Span{Start: p.span.Start + at, End: p.span.End - 1}, With: []byte{}})
		case p.at == "/structuredContent":
			cut := wire.Span{Start: last, End: p.span.End}
			if last == 1 { // the first member: with the comma behind it
				cut.Start = p.name.Start
				if comma := bytes.IndexByte(result[cut.End:], ','); comma >= 0 {
					cut.End += comma + 1
				}
			}
			edits = append(edits, wire.Edit{Span: cut})
		}
		if p.parent == 0 {
			last = p.span.End
		}
	}
	slices.SortFunc(edits, func(a, b wire.Edit) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
	return wire.Splice(result, edits...)
}
