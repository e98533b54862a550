package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"sallyport"
)

// cedar-go keeps no places but that of a policy's first token, and its syntax
// errors name the token after the wrong one. So the text is read twice: by
// cedar-go, which alone decides what a policy means, and here, for places. A text
// that only one of the two can read is refused.

// span is a piece of source text, in bytes, and the pieces it is made of in the
// order of the syntax tree. mark is the byte to point at.
type span struct {
	at, end, mark int
	kids          []*span
}

// policySpan is the text of one policy.
type policySpan struct {
	span
	annotations                 map[string]span // by name; the whole annotation
	principal, action, resource span
	conditions                  []*span
}

type syntaxError struct {
	at      int
	message string
	hint    string
}

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokName
	tokKeyword
	tokNumber
	tokString
	tokSign
)

type token struct {
	kind    tokenKind
	at, end int
}

// keywords cannot be names; cedar-go internal/scanner lists the same.
var keywords = []string{"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"}

var functions = []string{"ip", "decimal", "datetime", "duration"}

var methods = []string{
	"contains", "containsAll", "containsAny", "isEmpty", "hasTag", "getTag",
	"lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual",
	"isIpv4", "isIpv6", "isLoopback", "isMulticast", "isInRange",
	"toDate", "toTime", "toDays", "toHours", "toMinutes", "toSeconds", "toMilliseconds", "offset", "durationSince",
}

// tokens takes the text apart. The last token is tokEnd, also after an error.
func tokens(s string) ([]token, *syntaxError) {
	var out []token
	i := 0
	fail := func(at int, message string) ([]token, *syntaxError) {
		return append(out, token{tokEnd, len(s), len(s)}), &syntaxError{at: at, message: message}
	}
	for i < len(s) {
		at, c := i, s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
			continue
		case strings.HasPrefix(s[i:], "//"):
			if n := strings.IndexByte(s[i:], '\n'); n >= 0 {
				i += n
			} else {
				i = len(s)
			}
			continue
		case strings.HasPrefix(s[i:], "/*"):
			n := strings.Index(s[i+2:], "*/")
			if n < 0 {
				return fail(at, "the comment does not end")
			}
			i += n + 4
			continue
		case c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			for i < len(s) && (s[i] == '_' || s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9') {
				i++
			}
			kind := tokName
			if slices.Contains(keywords, s[at:i]) {
				kind = tokKeyword
			}
			out = append(out, token{kind, at, i})
			continue
		case c >= '0' && c <= '9':
			for i < len(s) && s[i] >= '0' && s[i] <= '9' {
				i++
			}
			out = append(out, token{tokNumber, at, i})
			continue
		case c == '"':
			for i++; i < len(s) && s[i] != '"' && s[i] != '\n'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
			if i >= len(s) || s[i] != '"' {
				return fail(at, "the string does not end on its line")
			}
			i++
			out = append(out, token{tokString, at, i})
			continue
		}
		n := 0
		for _, sign := range []string{"::", "==", "!=", "<=", ">=", "&&", "||"} {
			if strings.HasPrefix(s[i:], sign) {
				n = 2
			}
		}
		if n == 0 && strings.IndexByte("@.,;(){}[]+-*!<>:", c) >= 0 {
			n = 1
		}
		if n == 0 {
			r, _ := utf8.DecodeRuneInString(s[i:])
			return fail(at, fmt.Sprintf("%q means nothing here", r))
		}
		i += n
		out = append(out, token{tokSign, at, i})
	}
	return append(out, token{tokEnd, len(s), len(s)}), nil
}

// parser reads policies. After the first error every token is tokEnd, so that
// loops end, and what is returned is of no use.
type parser struct {
	text  string
	toks  []token
	depth int
	err   *syntaxError
}

// parse finds the places of all policies in a text.
func parse(s string) ([]*policySpan, *syntaxError) {
	toks, err := tokens(s)
	if err != nil {
		return nil, err
	}
	p := &parser{text: s, toks: toks}
	var out []*policySpan
	for p.peek().kind != tokEnd {
		out = append(out, p.policy())
	}
	return out, p.err
}

func (p *parser) peek() token { return p.toks[0] }

func (p *parser) next() token {
	t := p.toks[0]
	if t.kind != tokEnd {
		p.toks = p.toks[1:]
	}
	return t
}

func (p *parser) textOf(t token) string { return p.text[t.at:t.end] }

// is reports whether the next token is text; it is never a string.
func (p *parser) is(text string) bool {
	t := p.peek()
	return t.kind != tokString && t.kind != tokEnd && p.textOf(t) == text
}

func (p *parser) skip(text string) bool {
	if p.is(text) {
		p.next()
		return true
	}
	return false
}

func (p *parser) fail(t token, hint, format string, args ...any) {
	if p.err == nil {
		p.err = &syntaxError{at: t.at, message: fmt.Sprintf(format, args...), hint: hint}
	}
	p.toks = p.toks[len(p.toks)-1:]
}

// want takes the token text, and says what stood there instead.
func (p *parser) want(text string) token {
	if t := p.peek(); !p.is(text) {
		p.fail(t, "", "expected %q but found %s", text, p.describe(t))
		return t
	}
	return p.next()
}

func (p *parser) wantKind(kind tokenKind, what string) token {
	t := p.peek()
	if t.kind != kind {
		hint := ""
		if t.kind == tokKeyword && kind == tokName {
			hint = fmt.Sprintf("%s is a word of the language; as the name of an attribute write [%q]", p.textOf(t), p.textOf(t))
		}
		p.fail(t, hint, "expected %s but found %s", what, p.describe(t))
		return t
	}
	return p.next()
}

func (p *parser) describe(t token) string {
	if t.kind == tokEnd {
		return "the end of the text"
	}
	s := p.textOf(t)
	if len(s) > 40 {
		s = s[:40]
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(s, "\uFFFD"))
}

func (p *parser) policy() *policySpan {
	out := &policySpan{annotations: map[string]span{}}
	out.at = p.peek().at
	for p.is("@") {
		at := p.next().at
		name := p.peek()
		if name.kind != tokName && name.kind != tokKeyword {
			p.fail(name, "", "expected the name of an annotation but found %s", p.describe(name))
			return out
		}
		end := p.next().end
		if p.skip("(") {
			p.wantKind(tokString, "a string")
			end = p.want(")").end
		}
		out.annotations[p.textOf(name)] = span{at: at, end: end, mark: at}
	}
	effect := p.peek()
	out.mark = effect.at
	if !p.skip("permit") && !p.skip("forbid") {
		p.fail(effect, nearest(p.textOf(effect), []string{"permit", "forbid"}), "expected permit or forbid but found %s", p.describe(effect))
		return out
	}
	p.want("(")
	out.principal = p.scope("principal")
	p.want(",")
	out.action = p.scope("action")
	p.want(",")
	out.resource = p.scope("resource")
	p.skip(",")
	p.want(")")
	for p.is("when") || p.is("unless") {
		p.next()
		p.want("{")
		out.conditions = append(out.conditions, p.expression())
		p.want("}")
	}
	if t := p.peek(); !p.is(";") {
		p.fail(t, "", "expected when, unless or %q but found %s", ";", p.describe(t))
		return out
	}
	out.end = p.next().end
	return out
}

// scope reads principal, action or resource, and what follows it.
func (p *parser) scope(variable string) span {
	t := p.want(variable)
	s := span{at: t.at, end: t.end, mark: t.at}
	switch {
	case p.skip("=="):
		s.mark, s.end = p.entity()
	case variable != "action" && p.skip("is"):
		s.mark, s.end = p.path()
		if p.skip("in") {
			_, s.end = p.entity()
		}
	case p.skip("in"):
		if variable == "action" && p.skip("[") {
			s.mark = p.peek().at
			for !p.is("]") && p.peek().kind != tokEnd {
				at, end := p.entity()
				s.kids = append(s.kids, &span{at: at, end: end, mark: at})
				if !p.is("]") {
					p.want(",")
				}
			}
			s.end = p.want("]").end
			break
		}
		s.mark, s.end = p.entity()
	}
	return s
}

func (p *parser) entity() (at, end int) {
	at = p.wantKind(tokName, "an entity such as Action::\"crm/lookup\"").at
	for {
		p.want("::")
		if t := p.peek(); t.kind == tokString {
			return at, p.next().end
		}
		if p.wantKind(tokName, "a name or a string").kind == tokEnd || p.err != nil {
			return at, at
		}
	}
}

func (p *parser) path() (at, end int) {
	t := p.wantKind(tokName, "the name of a type")
	at, end = t.at, t.end
	for p.skip("::") {
		end = p.wantKind(tokName, "a name").end
	}
	return at, end
}

// deeper counts nesting; it reports false, once, where there is too much of it.
func (p *parser) deeper(t token) bool {
	if p.depth++; p.depth > MaxNesting {
		p.fail(t, "", "the expression is nested more than %d deep", MaxNesting)
		return false
	}
	return true
}

func (p *parser) expression() *span {
	t := p.peek()
	if !p.deeper(t) {
		return &span{}
	}
	defer func() { p.depth-- }()
	if p.skip("if") {
		cond := p.expression()
		p.want("then")
		yes := p.expression()
		p.want("else")
		no := p.expression()
		return &span{at: t.at, end: no.end, mark: t.at, kids: []*span{cond, yes, no}}
	}
	return p.chain(p.conjunction, "||")
}

func (p *parser) conjunction() *span { return p.chain(p.relation, "&&") }
func (p *parser) sum() *span         { return p.chain(p.product, "+", "-") }
func (p *parser) product() *span     { return p.chain(p.unary, "*") }

// chain reads a row of operators that group from the left.
func (p *parser) chain(operand func() *span, operators ...string) *span {
	left := operand()
	for slices.ContainsFunc(operators, p.is) {
		p.next()
		right := operand()
		left = &span{at: left.at, end: right.end, mark: left.mark, kids: []*span{left, right}}
	}
	return left
}

func (p *parser) relation() *span {
	left := p.sum()
	t := p.peek()
	switch {
	case p.skip("has"):
		if n := p.peek(); n.kind == tokString {
			p.next()
			return &span{at: left.at, end: n.end, mark: n.at, kids: []*span{left}}
		}
		n := p.wantKind(tokName, "a name or a string")
		// Places of the steps of "has a.b.c" are lost: its tree has more nodes.
		out := &span{at: left.at, end: n.end, mark: n.at, kids: []*span{left}}
		for p.skip(".") {
			out.end = p.wantKind(tokName, "a name").end
		}
		return out
	case p.skip("like"):
		n := p.wantKind(tokString, "a pattern in quotes")
		return &span{at: left.at, end: n.end, mark: n.at, kids: []*span{left}}
	case p.skip("is"):
		at, end := p.path()
		out := &span{at: left.at, end: end, mark: at, kids: []*span{left}}
		if p.skip("in") {
			in := p.sum()
			out.end, out.kids = in.end, append(out.kids, in)
		}
		return out
	}
	for _, op := range []string{"<", "<=", ">", ">=", "!=", "==", "in"} {
		if p.is(op) {
			p.next()
			right := p.sum()
			return &span{at: left.at, end: right.end, mark: left.mark, kids: []*span{left, right}}
		}
	}
	if t.kind == tokSign && p.is(":") {
		p.fail(t, "", "%q means nothing here", ":")
	}
	return left
}

func (p *parser) unary() *span {
	var signs []token
	for p.is("-") || p.is("!") {
		t := p.next()
		if !p.deeper(t) {
			return &span{}
		}
		signs = append(signs, t)
	}
	p.depth -= len(signs)
	var out *span
	if n := len(signs); n > 0 && p.textOf(signs[n-1]) == "-" && p.peek().kind == tokNumber {
		out = &span{at: signs[n-1].at, end: p.number("-").end, mark: signs[n-1].at}
		signs = signs[:n-1]
	} else {
		out = p.member()
	}
	for _, t := range slices.Backward(signs) {
		out = &span{at: t.at, end: out.end, mark: t.at, kids: []*span{out}}
	}
	return out
}

func (p *parser) member() *span {
	out := p.primary()
	for n := 0; ; n++ {
		if n > MaxNesting {
			p.fail(p.peek(), "", "the expression is nested more than %d deep", MaxNesting)
		}
		switch {
		case p.skip("."):
			name := p.wantKind(tokName, "a name")
			out = &span{at: out.at, end: name.end, mark: name.at, kids: []*span{out}}
			if p.skip("(") {
				if s := p.textOf(name); p.err == nil && !slices.Contains(methods, s) {
					p.fail(name, nearest(s, methods), "there is no method %s", s)
				}
				args, end := p.list(")")
				out.kids, out.end = append(out.kids, args...), end
			}
		case p.skip("["):
			name := p.wantKind(tokString, "the name of an attribute in quotes")
			end := p.want("]").end
			out = &span{at: out.at, end: end, mark: name.at, kids: []*span{out}}
		default:
			return out
		}
	}
}

// number takes a number, which has to fit in 64 bits.
func (p *parser) number(sign string) token {
	t := p.next()
	if _, err := strconv.ParseInt(sign+p.textOf(t), 10, 64); err != nil {
		p.fail(t, "", "the number has more than 64 bits")
	}
	return t
}

// list reads expressions up to the closing sign, which it takes.
func (p *parser) list(closing string) (kids []*span, end int) {
	for !p.is(closing) && p.peek().kind != tokEnd {
		kids = append(kids, p.expression())
		if !p.is(closing) {
			p.want(",")
		}
	}
	return kids, p.want(closing).end
}

func (p *parser) primary() *span {
	t := p.peek()
	leaf := &span{at: t.at, end: t.end, mark: t.at}
	switch {
	case t.kind == tokNumber:
		p.number("")
		return leaf
	case t.kind == tokString, p.is("true"), p.is("false"):
		p.next()
		return leaf
	case t.kind == tokName:
		return p.named()
	case p.skip("("):
		in := p.expression()
		p.want(")")
		return in
	case p.skip("["):
		leaf.kids, leaf.end = p.list("]")
		return leaf
	case p.skip("{"):
		for !p.is("}") && p.peek().kind != tokEnd {
			if k := p.next(); k.kind != tokName && k.kind != tokString {
				p.fail(k, "", "expected a name or a string but found %s", p.describe(k))
			}
			p.want(":")
			leaf.kids = append(leaf.kids, p.expression())
			if !p.is("}") {
				p.want(",")
			}
		}
		leaf.end = p.want("}").end
		return leaf
	}
	p.fail(t, "", "expected a value but found %s", p.describe(t))
	return leaf
}

// named reads what begins with a name: a variable, an entity or a function.
func (p *parser) named() *span {
	t := p.next()
	out := &span{at: t.at, end: t.end, mark: t.at}
	path := p.textOf(t)
	for p.skip("::") {
		if s := p.peek(); s.kind == tokString {
			out.end = p.next().end
			return out
		}
		n := p.wantKind(tokName, "a name or a string")
		path += "::" + p.textOf(n)
		out.end = n.end
		if !p.is("::") && !p.is("(") {
			p.want("::")
		}
	}
	if p.skip("(") {
		if p.err == nil && !slices.Contains(functions, path) {
			p.fail(t, nearest(path, functions), "there is no function %s", path)
		}
		out.kids, out.end = p.list(")")
		return out
	}
	variables := []string{"principal", "action", "resource", "context"}
	if p.err == nil && !slices.Contains(variables, path) {
		p.fail(t, nearest(path, append(variables, "true", "false")), "%s means nothing here", path)
	}
	return out
}

// expr is a node of cedar-go's syntax tree with its place and what it reads of
// those parts of the context that a listing does not know.
type expr struct {
	ast.IsNode
	*span
	kids  []*expr
	reads unknowns
}

// placed lays a tree over the spans of the same text.
func placed(n ast.IsNode, s *span) *expr {
	e := &expr{IsNode: n, span: s}
	kids := children(n)
	for i, k := range kids {
		at := s
		if len(s.kids) == len(kids) {
			at = s.kids[i]
		}
		kid := placed(k, at)
		e.kids = append(e.kids, kid)
		e.reads = e.reads.or(kid.reads)
	}
	switch n := n.(type) {
	case ast.NodeTypeVariable:
		if n.Name == "context" {
			e.reads = unknowns{args: true, uri: true, prompt: true}
		}
	case ast.NodeTypeAccess, ast.NodeTypeHas:
		e.reads = e.reads.step(n)
	}
	return e
}

// step narrows what context.x reads to x.
func (u unknowns) step(n ast.IsNode) unknowns {
	var t touch
	t.read(n)
	if t.whole {
		return u
	}
	return unknowns{args: t.ofArguments(), uri: t.members["uri"] != nil, prompt: t.members["prompt"] != nil}
}

func (u unknowns) or(v unknowns) unknowns {
	return unknowns{u.args || v.args, u.uri || v.uri, u.prompt || v.prompt}
}

// children are the operands of n, from left to right.
func children(n ast.IsNode) []ast.IsNode {
	switch n := n.(type) {
	case ast.NodeTypeIfThenElse:
		return []ast.IsNode{n.If, n.Then, n.Else}
	case ast.NodeTypeOr:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeAnd:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeLessThan:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeLessThanOrEqual:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeGreaterThan:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeGreaterThanOrEqual:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeEquals:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeNotEquals:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeIn:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeHasTag:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeGetTag:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeContains:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeContainsAll:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeContainsAny:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeAdd:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeSub:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeMult:
		return []ast.IsNode{n.Left, n.Right}
	case ast.NodeTypeIsIn:
		return []ast.IsNode{n.Left, n.Entity}
	case ast.NodeTypeIs:
		return []ast.IsNode{n.Left}
	case ast.NodeTypeLike:
		return []ast.IsNode{n.Arg}
	case ast.NodeTypeHas:
		return []ast.IsNode{n.Arg}
	case ast.NodeTypeAccess:
		return []ast.IsNode{n.Arg}
	case ast.NodeTypeNegate:
		return []ast.IsNode{n.Arg}
	case ast.NodeTypeNot:
		return []ast.IsNode{n.Arg}
	case ast.NodeTypeIsEmpty:
		return []ast.IsNode{n.Arg}
	case ast.NodeTypeExtensionCall:
		return n.Args
	case ast.NodeTypeSet:
		return n.Elements
	case ast.NodeTypeRecord:
		out := make([]ast.IsNode, len(n.Elements))
		for i, e := range n.Elements {
			out[i] = e.Value
		}
		return out
	}
	return nil // a value or a variable
}

// lineOf is the line and column of a byte of text, both from 1, the column in
// characters, and the line itself.
func lineOf(s string, at int) (line, column int, excerpt string) {
	at = min(at, len(s))
	start := strings.LastIndexByte(s[:at], '\n') + 1
	end := len(s)
	if n := strings.IndexByte(s[at:], '\n'); n >= 0 {
		end = at + n
	}
	excerpt = strings.TrimSuffix(s[start:end], "\r")
	if len(excerpt) > 200 {
		excerpt = strings.ToValidUTF8(excerpt[:200], "") + "..."
	}
	return strings.Count(s[:at], "\n") + 1, utf8.RuneCountInString(s[start:at]) + 1, strings.ToValidUTF8(excerpt, "\uFFFD")
}

// nearest is a hint at the one of names that word was probably meant to be, or
// "" if none is near.
func nearest(word string, names []string) string {
	if near := sallyport.Nearest(word, names); len(near) > 0 {
		return "did you mean " + near[0] + "?"
	}
	return ""
}
