package cassette

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rules say which differences do not matter.
type Rules struct {
	Arguments Differences `yaml:"arguments" json:"arguments,omitzero"` // when a call looks for its recording
	Results   Differences `yaml:"results" json:"results,omitzero"`     // when a result is compared with the recorded one
	// MaxIgnored is the most that may be ignored, as a share of the leaves recorded
	// in arguments: from 0 to 1, 0 for the default of 0.2.
	MaxIgnored float64 `yaml:"max_ignored" json:"max_ignored,omitempty"`
}

// Differences are rules for one part of the calls.
type Differences struct {
	Ignore   []Ignore   `yaml:"ignore" json:"ignore,omitempty"`
	Tolerate []Tolerate `yaml:"tolerate" json:"tolerate,omitempty"`
}

// Ignore is a place that is not looked at, and all that is below it.
type Ignore struct {
	Tool string `yaml:"tool" json:"tool,omitempty"` // empty for every tool
	Path string `yaml:"path" json:"path"`           // pointer; * is any element or member
	Why  string `yaml:"why" json:"why"`             // has to be said
}

// Tolerate is a place at which values may differ in one way.
type Tolerate struct {
	Tool string `yaml:"tool" json:"tool,omitempty"`
	Path string `yaml:"path" json:"path"`
	Why  string `yaml:"why" json:"why,omitempty"`

	// Exactly one of these is set.

	// Number is by how much a number may differ, as a decimal number; "0" for other
	// spellings of the same number alone.
	Number string `yaml:"number" json:"number,omitempty"`
	// Percent is that in hundredths of the recorded number.
	Percent string `yaml:"percent" json:"percent,omitempty"`
	// Within is by how much an RFC 3339 time or date may differ: a Go duration.
	Within string `yaml:"within" json:"within,omitempty"`
	// Regex fits, from the beginning to the end, both strings (syntax of Go).
	Regex string `yaml:"regex" json:"regex,omitempty"`
	// Casefold lets capitals differ.
	Casefold bool `yaml:"casefold" json:"casefold,omitempty"`
	// Set lets the elements of an array be in another order.
	Set bool `yaml:"set" json:"set,omitempty"`
	// Subset lets there be more members or elements than were recorded.
	Subset bool `yaml:"subset" json:"subset,omitempty"`
}

// rule is one that is ready for use.
type rule struct {
	what    what
	path    []string
	pointer string
	amount  *big.Rat
	within  time.Duration
	regex   *regexp.Regexp
}

type what uint8

const (
	ignored what = iota + 1
	number
	percent
	within
	matching
	casefold
	asSet
	asSubset
)

// ruleset are the rules of one part.
type ruleset struct {
	every *branch[rule]
	tools map[string]*branch[rule]
}

const defaultMaxIgnored = 0.2

func (r *Rules) compile() (arguments, results *ruleset, most float64, err error) {
	if most = r.MaxIgnored; most == 0 {
		most = defaultMaxIgnored
	}
	if !(most > 0 && most <= 1) {
		return nil, nil, 0, fmt.Errorf("max_ignored is %v: a share from 0 to 1", r.MaxIgnored)
	}
	if arguments, err = r.Arguments.compile(); err != nil {
		return nil, nil, 0, fmt.Errorf("rules for arguments: %w", err)
	}
	if results, err = r.Results.compile(); err != nil {
		return nil, nil, 0, fmt.Errorf("rules for results: %w", err)
	}
	return arguments, results, most, nil
}

func (d *Differences) compile() (*ruleset, error) {
	set := &ruleset{every: new(branch[rule]), tools: map[string]*branch[rule]{}}
	var all []struct {
		tool string
		rule *rule
	}
	add := func(tool, pointer string, r rule) error {
		path, err := steps(pointer)
		if err != nil {
			return err
		}
		r.path, r.pointer = path, pointer
		root := set.every
		if tool != "" {
			if root = set.tools[tool]; root == nil {
				root = new(branch[rule])
				set.tools[tool] = root
			}
		}
		at := root.grow(path)
		if at.value != nil {
			return fmt.Errorf("two rules for %q: keep one", pointer)
		}
		at.value = &r
		all = append(all, struct {
			tool string
			rule *rule
		}{tool, &r})
		return nil
	}
	for _, i := range d.Ignore {
		if strings.TrimSpace(i.Why) == "" {
			return nil, fmt.Errorf("%q is ignored without a reason: say why it may differ", i.Path)
		}
		if i.Path == "" {
			return nil, errors.New("everything is ignored: name a place below it")
		}
		if err := add(i.Tool, i.Path, rule{what: ignored}); err != nil {
			return nil, err
		}
	}
	for _, t := range d.Tolerate {
		r, err := t.compile()
		if err == nil {
			err = add(t.Tool, t.Path, r)
		}
		if err != nil {
			return nil, fmt.Errorf("tolerance for %q: %w", t.Path, err)
		}
	}
	// The elements of a set have no places of their own, so nothing but ignoring can be
	// said of what is in them.
	for _, outer := range all {
		if outer.rule.what != asSet && outer.rule.what != asSubset {
			continue
		}
		for _, inner := range all {
			if inner.rule.what != ignored && len(inner.rule.path) > len(outer.rule.path) &&
				(inner.tool == outer.tool || inner.tool == "" || outer.tool == "") && meet(outer.rule.path, inner.rule.path) &&
				(outer.rule.what == asSet || digits(inner.rule.path[len(outer.rule.path)])) {
				return nil, fmt.Errorf("tolerance for %q: lies in the elements of %q, which have no order; ignore it or the order, not both", inner.rule.pointer, outer.rule.pointer)
			}
		}
	}
	return set, nil
}

// meet reports whether a path may lead through another.
func meet(outer, inner []string) bool {
	for i, s := range outer {
		if s != inner[i] && s != "*" && inner[i] != "*" {
			return false
		}
	}
	return true
}

// digits reports whether a step may lead to an element.
func digits(step string) bool {
	_, err := strconv.Atoi(step)
	return err == nil || step == "*"
}

func (t *Tolerate) compile() (rule, error) {
	var out []rule
	for _, n := range []struct {
		text string
		what what
	}{{t.Number, number}, {t.Percent, percent}} {
		if n.text == "" {
			continue
		}
		amount := ratOf(n.text)
		if amount == nil || amount.Sign() < 0 {
			return rule{}, fmt.Errorf("%q is no amount: a decimal number from 0 on", n.text)
		}
		out = append(out, rule{what: n.what, amount: amount})
	}
	if t.Within != "" {
		d, err := time.ParseDuration(t.Within)
		if err != nil || d < 0 {
			return rule{}, fmt.Errorf("%q is no duration, such as 90s or 24h", t.Within)
		}
		out = append(out, rule{what: within, within: d})
	}
	if t.Regex != "" {
		re, err := regexp.Compile(`\A(?:` + t.Regex + `)\z`)
		if err != nil {
			return rule{}, fmt.Errorf("regex: %w", err)
		}
		out = append(out, rule{what: matching, regex: re})
	}
	for _, b := range []struct {
		set  bool
		what what
	}{{t.Casefold, casefold}, {t.Set, asSet}, {t.Subset, asSubset}} {
		if b.set {
			out = append(out, rule{what: b.what})
		}
	}
	if len(out) != 1 {
		return rule{}, errors.New("say one of number, percent, within, regex, casefold, set, subset")
	}
	return out[0], nil
}

// of are the rules at the root of a tool's documents; its own come first.
func (s *ruleset) of(tool string) []*branch[rule] {
	return forked(forked(nil, s.tools[tool]), s.every)
}

// same reports whether two values agree, but for what the rules let differ: was is the
// recorded one.
func same(was, is *node, rules []*branch[rule]) bool {
	if r := said(rules); r != nil {
		if r.what == ignored {
			return true
		}
		return was != nil && is != nil && r.allows(was, is, rules)
	}
	if was == is {
		return true
	}
	if was == nil || is == nil {
		return was == is
	}
	if len(rules) == 0 || was.kind != is.kind || was.isLeaf() || is.isLeaf() {
		if was.kind != '{' || len(rules) == 0 {
			return was.kind == is.kind && bytes.Equal(was.raw, is.raw)
		}
		if is.kind != '{' {
			return false
		}
	}
	if was.kind == '[' {
		if len(was.items) != len(is.items) {
			return false
		}
		for i := range was.items {
			if !same(was.items[i], is.items[i], along(rules, strconv.Itoa(i))) {
				return false
			}
		}
		return true
	}
	agree := true
	eachPair(was, is, func(step string, a, b *node) bool {
		agree = same(a, b, along(rules, step))
		return agree
	})
	return agree
}

// eachPair calls do for each name of either object, in their order, with the members of
// that name, until it returns false.
func eachPair(a, b *node, do func(step string, a, b *node) bool) {
	sorted := func(n *node) bool {
		return slices.IsSorted(n.names)
	}
	if !sorted(a) || !sorted(b) {
		for i, item := range a.items {
			if !do(a.names[i], item, b.member(a.names[i])) {
				return
			}
		}
		for i, item := range b.items {
			if a.member(b.names[i]) == nil && !do(b.names[i], nil, item) {
				return
			}
		}
		return
	}
	i, j := 0, 0
	for i < len(a.items) || j < len(b.items) {
		switch {
		case j == len(b.items) || i < len(a.items) && a.names[i] < b.names[j]:
			if !do(a.names[i], a.items[i], nil) {
				return
			}
			i++
		case i == len(a.items) || b.names[j] < a.names[i]:
			if !do(b.names[j], nil, b.items[j]) {
				return
			}
			j++
		default:
			if !do(a.names[i], a.items[i], b.items[j]) {
				return
			}
			i, j = i+1, j+1
		}
	}
}

func (r *rule) allows(was, is *node, rules []*branch[rule]) bool {
	if was.kind != is.kind {
		return false
	}
	if bytes.Equal(was.raw, is.raw) {
		return true
	}
	switch r.what {
	case number, percent:
		a, b := ratOf(was.text), ratOf(is.text)
		if was.kind != '0' || a == nil || b == nil {
			return was.kind == '0' && was.text == is.text
		}
		most := r.amount
		if r.what == percent {
			most = new(big.Rat).Mul(new(big.Rat).Abs(a), new(big.Rat).Mul(r.amount, big.NewRat(1, 100)))
		}
		gap := b.Sub(b, a)
		return gap.Abs(gap).Cmp(most) <= 0
	case within:
		a, ok := timeOf(was.text)
		b, ok2 := timeOf(is.text)
		if was.kind != '"' || !ok || !ok2 {
			return was.kind == '"' && was.text == is.text
		}
		gap := b.Sub(a)
		return max(gap, -gap) <= r.within
	case matching:
		return was.kind == '"' && r.regex.MatchString(was.text) && r.regex.MatchString(is.text)
	case casefold:
		return was.kind == '"' && strings.EqualFold(was.text, is.text)
	case asSet:
		return was.kind == '[' && len(was.items) == len(is.items) && contains(was, is, rules)
	case asSubset:
		if was.kind == '[' {
			return contains(was, is, rules)
		}
		if was.kind != '{' {
			return false
		}
		for i, item := range was.items {
			step := was.names[i]
			if !same(item, is.member(step), along(rules, step)) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// contains reports whether each element of an array has one of its own in another.
func contains(was, is *node, rules []*branch[rule]) bool {
	have := map[string]int{}
	for i, item := range is.items {
		have[string(appendNormal(nil, item, along(rules, strconv.Itoa(i)), false))]++
	}
	for i, item := range was.items {
		key := string(appendNormal(nil, item, along(rules, strconv.Itoa(i)), false))
		if have[key] == 0 {
			return false
		}
		have[key]--
	}
	return true
}

// appendNormal writes a value without what is ignored and, if so wanted, without what
// is tolerated, so that values that can agree are written alike. A step to which no
// rule leads is copied as it is.
func appendNormal(b []byte, n *node, rules []*branch[rule], tolerant bool) []byte {
	if len(rules) == 0 {
		return append(b, n.raw...)
	}
	if r := said(rules); r != nil && (r.what == ignored || tolerant) {
		return append(b, '~') // no JSON begins with it
	}
	switch n.kind {
	case '{':
		b = append(b, '{')
		for i, item := range n.items {
			below := along(rules, n.names[i])
			if r := said(below); r != nil && r.what == ignored {
				continue
			}
			b = strconv.AppendQuote(b, n.names[i])
			b = append(appendNormal(append(b, ':'), item, below, tolerant), ',')
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, item := range n.items {
			b = append(appendNormal(b, item, along(rules, strconv.Itoa(i)), tolerant), ',')
		}
		return append(b, ']')
	default:
		return append(b, n.raw...)
	}
}

// mostExponent bounds the numbers that are calculated with.
const mostExponent = 400

// ratOf reads a JSON number exactly; nil if it is none, or too large to be handled.
func ratOf(text string) *big.Rat {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(mantissa) > mostExponent || len(mantissa) == 0 || strings.Trim(mantissa, "0123456789.-") != "" {
		return nil
	}
	if exponent != "" {
		if e, err := strconv.Atoi(exponent); err != nil || e > mostExponent || e < -mostExponent {
			return nil
		}
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil
	}
	return r
}

// timeOf reads an RFC 3339 time, also without a zone, or a date.
func timeOf(text string) (time.Time, bool) {
	if len(text) < len(time.DateOnly) || text[0] < '0' || text[0] > '9' {
		return time.Time{}, false
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
