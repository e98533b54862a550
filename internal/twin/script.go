package twin

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"sallyport/internal/wire"
)

// Starlark bounds the steps of a script, but one step can double a text or turn a
// range into a list. So the operations that make something large are rewritten, before
// a script is compiled, into calls of functions of this file, which count the bytes:
// + * % | and their assignments, a.b, and every object, list and tuple that is written
// out. The names of these functions are no identifiers, so no script has them itself.

var dialect = syntax.FileOptions{Set: true, While: true}

// Source beyond this could exhaust the parser's stack, in bytes.
const maxSource = 256 << 10

// program compiles statements and runs them once, with the limits a call has.
func program(file *syntax.File, known starlark.StringDict, limits Limits) (starlark.StringDict, error) {
	p, err := starlark.FileProgram(file, known.Has)
	if err != nil {
		return nil, err
	}
	c := &call{left: limits.Memory}
	globals, err := p.Init(c.begin(limits), known)
	if err != nil {
		return nil, err
	}
	globals.Freeze()
	return globals, nil
}

func compileScript(name string, source []byte, limits Limits) (starlark.StringDict, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("more than %d bytes", maxSource)
	}
	file, err := dialect.Parse(name, source, 0)
	if err != nil {
		return nil, err
	}
	var rw rewriter
	rw.statements(file.Stmts)
	if rw.err != nil {
		return nil, rw.err
	}
	return program(file, predeclared, limits)
}

// compileExpr makes a function of an expression, which knows what a script does, and
// the functions of the world's own script.
func compileExpr(name string, e Expr, params []string, known starlark.StringDict, limits Limits) (*starlark.Function, error) {
	if len(e) > maxSource {
		return nil, fmt.Errorf("more than %d bytes", maxSource)
	}
	body, err := parseExpr(name, e)
	if err != nil {
		return nil, err
	}
	var rw rewriter
	body = rw.expr(body)
	if rw.err != nil {
		return nil, rw.err
	}
	at := syntax.MakePosition(&name, 1, 1)
	lambda := &syntax.LambdaExpr{Lambda: at, Body: body}
	for _, p := range params {
		lambda.Params = append(lambda.Params, &syntax.Ident{NamePos: at, Name: p})
	}
	file := &syntax.File{Path: name, Options: &dialect, Stmts: []syntax.Stmt{
		&syntax.AssignStmt{OpPos: at, Op: syntax.EQ, LHS: &syntax.Ident{NamePos: at, Name: "expression"}, RHS: lambda},
	}}
	globals, err := program(file, known, limits)
	if err != nil {
		return nil, err
	}
	return globals["expression"].(*starlark.Function), nil
}

func parseExpr(name string, e Expr) (syntax.Expr, error) {
	switch e.Kind() {
	case '"':
		source, err := wire.DecodeString(e)
		if err != nil {
			return nil, err
		}
		return dialect.ParseExpr(name, source, 0)
	case '{':
		dict := &syntax.DictExpr{}
		err := wire.Each(e, func(key string, raw []byte) error {
			v, err := parseExpr(string(jsontext.Pointer(name).AppendToken(key)), raw)
			dict.List = append(dict.List, &syntax.DictEntry{Key: text(key), Value: v})
			return err
		})
		return dict, err
	case '[':
		list := &syntax.ListExpr{}
		elements, err := wire.Elements(e)
		for i, raw := range elements {
			v, err := parseExpr(name+"/"+strconv.Itoa(i), raw)
			if err != nil {
				return nil, err
			}
			list.List = append(list.List, v)
		}
		return list, err
	case 't':
		return &syntax.Ident{Name: "True"}, nil
	case 'f':
		return &syntax.Ident{Name: "False"}, nil
	case 'n':
		return &syntax.Ident{Name: "None"}, nil
	default:
		return dialect.ParseExpr(name, string(e), 0)
	}
}

func text(s string) *syntax.Literal {
	return &syntax.Literal{Token: syntax.STRING, Raw: strconv.Quote(s), Value: s}
}

// checked are the operators that are rewritten.
var checked = map[syntax.Token]string{
	syntax.PLUS: "+", syntax.STAR: "*", syntax.PERCENT: "%", syntax.PIPE: "|",
	syntax.PLUS_EQ: "+=", syntax.STAR_EQ: "*=", syntax.PERCENT_EQ: "%=", syntax.PIPE_EQ: "|=",
}

var operators = map[string]syntax.Token{
	"+": syntax.PLUS, "*": syntax.STAR, "%": syntax.PERCENT, "|": syntax.PIPE,
	"+=": syntax.PLUS, "*=": syntax.STAR, "%=": syntax.PERCENT, "|=": syntax.PIPE,
}

type rewriter struct{ err error }

func (rw *rewriter) fail(at syntax.Position, text string) {
	if rw.err == nil {
		rw.err = syntax.Error{Pos: at, Msg: text}
	}
}

func callOf(at syntax.Position, name string, args ...syntax.Expr) *syntax.CallExpr {
	return &syntax.CallExpr{Fn: &syntax.Ident{NamePos: at, Name: name}, Lparen: at, Args: args, Rparen: at}
}

func (rw *rewriter) statements(list []syntax.Stmt) {
	for i, s := range list {
		switch s := s.(type) {
		case *syntax.AssignStmt:
			s.RHS = rw.expr(s.RHS)
			list[i] = rw.assign(s)
		case *syntax.DefStmt:
			rw.params(s.Params)
			rw.statements(s.Body)
		case *syntax.ExprStmt:
			s.X = rw.expr(s.X)
		case *syntax.ForStmt:
			s.Vars = rw.target(s.Vars)
			s.X = rw.expr(s.X)
			rw.statements(s.Body)
		case *syntax.WhileStmt:
			s.Cond = rw.expr(s.Cond)
			rw.statements(s.Body)
		case *syntax.IfStmt:
			s.Cond = rw.expr(s.Cond)
			rw.statements(s.True)
			rw.statements(s.False)
		case *syntax.ReturnStmt:
			if s.Result != nil {
				s.Result = rw.expr(s.Result)
			}
		case *syntax.LoadStmt:
			rw.fail(s.Load, "there is no load: a script stands alone")
		}
	}
}

// assign rewrites what is on the left, and operators that assign.
func (rw *rewriter) assign(s *syntax.AssignStmt) syntax.Stmt {
	name, isChecked := checked[s.Op]
	if s.Op == syntax.EQ || !isChecked {
		s.LHS = rw.target(s.LHS)
		return s
	}
	switch target := unparen(s.LHS).(type) {
	case *syntax.Ident:
		read := &syntax.Ident{NamePos: target.NamePos, Name: target.Name}
		return &syntax.AssignStmt{OpPos: s.OpPos, Op: syntax.EQ, LHS: target, RHS: callOf(s.OpPos, name, read, s.RHS)}
	default:
		x, ok := rw.target(s.LHS).(*syntax.IndexExpr)
		if !ok {
			rw.fail(s.OpPos, "cannot assign to this")
			return s
		}
		return &syntax.ExprStmt{X: callOf(s.OpPos, "[]"+name, x.X, x.Y, s.RHS)}
	}
}

func unparen(e syntax.Expr) syntax.Expr {
	for {
		p, ok := e.(*syntax.ParenExpr)
		if !ok {
			return e
		}
		e = p.X
	}
}

// target rewrites what is assigned to: a.b is a["b"].
func (rw *rewriter) target(e syntax.Expr) syntax.Expr {
	switch e := unparen(e).(type) {
	case *syntax.IndexExpr:
		e.X, e.Y = rw.expr(e.X), rw.expr(e.Y)
		return e
	case *syntax.DotExpr:
		if slices.Contains((*starlark.Dict)(nil).AttrNames(), e.Name.Name) {
			rw.fail(e.NamePos, fmt.Sprintf("%s is a method of objects: write [%q]", e.Name.Name, e.Name.Name))
		}
		return &syntax.IndexExpr{X: rw.expr(e.X), Lbrack: e.Dot, Y: text(e.Name.Name), Rbrack: e.NamePos}
	case *syntax.TupleExpr:
		for i := range e.List {
			e.List[i] = rw.target(e.List[i])
		}
		return e
	case *syntax.ListExpr:
		for i := range e.List {
			e.List[i] = rw.target(e.List[i])
		}
		return e
	default:
		return e
	}
}

func (rw *rewriter) params(params []syntax.Expr) {
	for _, p := range params {
		if d, ok := p.(*syntax.BinaryExpr); ok {
			d.Y = rw.expr(d.Y)
		}
	}
}

func (rw *rewriter) expr(e syntax.Expr) syntax.Expr {
	switch e := e.(type) {
	case *syntax.BinaryExpr:
		e.X, e.Y = rw.expr(e.X), rw.expr(e.Y)
		if name, ok := checked[e.Op]; ok {
			return callOf(e.OpPos, name, e.X, e.Y)
		}
	case *syntax.CallExpr:
		e.Fn = rw.expr(e.Fn)
		for i, arg := range e.Args {
			switch arg := arg.(type) {
			case *syntax.BinaryExpr:
				if arg.Op == syntax.EQ {
					arg.Y = rw.expr(arg.Y)
					continue
				}
			case *syntax.UnaryExpr:
				if arg.Op == syntax.STAR || arg.Op == syntax.STARSTAR {
					arg.X = rw.expr(arg.X)
					continue
				}
			}
			e.Args[i] = rw.expr(arg)
		}
	case *syntax.Comprehension:
		rw.entry(&e.Body)
		for _, clause := range e.Clauses {
			switch clause := clause.(type) {
			case *syntax.ForClause:
				clause.Vars = rw.target(clause.Vars)
				clause.X = rw.expr(clause.X)
			case *syntax.IfClause:
				clause.Cond = rw.expr(clause.Cond)
			}
		}
		return callOf(e.Lbrack, "[]", e)
	case *syntax.CondExpr:
		e.Cond, e.True, e.False = rw.expr(e.Cond), rw.expr(e.True), rw.expr(e.False)
	case *syntax.DictExpr:
		for i := range e.List {
			rw.entry(&e.List[i])
		}
		return callOf(e.Lbrace, "[]", e)
	case *syntax.DotExpr:
		return callOf(e.Dot, ".", rw.expr(e.X), text(e.Name.Name))
	case *syntax.Ident:
		if e.Name == "tables" {
			return callOf(e.NamePos, "tables()")
		}
	case *syntax.IndexExpr:
		e.X, e.Y = rw.expr(e.X), rw.expr(e.Y)
	case *syntax.LambdaExpr:
		rw.params(e.Params)
		e.Body = rw.expr(e.Body)
	case *syntax.ListExpr:
		for i := range e.List {
			e.List[i] = rw.expr(e.List[i])
		}
		return callOf(e.Lbrack, "[]", e)
	case *syntax.ParenExpr:
		return rw.expr(e.X)
	case *syntax.SliceExpr:
		e.X = rw.expr(e.X)
		for _, part := range []*syntax.Expr{&e.Lo, &e.Hi, &e.Step} {
			if *part != nil {
				*part = rw.expr(*part)
			}
		}
		return callOf(e.Lbrack, "[]", e)
	case *syntax.TupleExpr:
		for i := range e.List {
			e.List[i] = rw.expr(e.List[i])
		}
		at, _ := e.Span()
		return callOf(at, "[]", e)
	case *syntax.UnaryExpr:
		if e.X != nil {
			e.X = rw.expr(e.X)
		}
	}
	return e
}

func (rw *rewriter) entry(e *syntax.Expr) {
	if entry, ok := (*e).(*syntax.DictEntry); ok {
		entry.Key, entry.Value = rw.expr(entry.Key), rw.expr(entry.Value)
		return
	}
	*e = rw.expr(*e)
}

// call is one call of a tool, as its expressions and scripts see it. While a script
// is compiled there is no run.
type call struct {
	run    *Run
	number int
	vals   values
	left   int64 // bytes that may still be made
	draws  uint64
}

func (c *call) begin(limits Limits) *starlark.Thread {
	c.vals.charge = c.charge
	t := &starlark.Thread{Name: "world", Print: func(*starlark.Thread, string) {}}
	t.SetMaxExecutionSteps(limits.Steps)
	t.SetLocal("call", c)
	return t
}

var errMemory = errors.New("too much memory: the limit of this world is reached")

func (c *call) charge(bytes int) error {
	c.left -= int64(bytes)
	if c.left < 0 {
		return errMemory
	}
	return nil
}

// expected is an error that the tool answers with.
type expected struct{ text string }

func (e *expected) Error() string { return e.text }

// A function of this package, as a script calls it.
type builtin func(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error)

func makeBuiltin(name string, fn builtin) *starlark.Builtin {
	return starlark.NewBuiltin(name, func(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		return fn(t.Local("call").(*call), args, kwargs)
	})
}

var predeclared starlark.StringDict

func init() {
	predeclared = starlark.StringDict{}
	for name, fn := range map[string]builtin{
		"fail": func(_ *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			var text string
			if err := starlark.UnpackArgs("fail", args, kwargs, "text", &text); err != nil {
				return nil, err
			}
			return nil, &expected{text}
		},
		"print":      func(*call, starlark.Tuple, []starlark.Tuple) (starlark.Value, error) { return starlark.None, nil },
		"new_id":     newIDFunc,
		"now":        nowFunc,
		"now_unix":   nowUnixFunc,
		"unix":       unixFunc,
		"rfc3339":    rfc3339Func,
		"rand":       randFunc,
		"rand_int":   randIntFunc,
		"round":      roundFunc,
		"round2":     round2Func,
		"sum":        sumFunc,
		"json":       jsonFunc,
		"parse_json": parseJSONFunc,
		"calculate":  calculateFunc,
		"str":        textFunc("str"),
		"repr":       textFunc("repr"),
		"tables()": func(c *call, _ starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
			if c.run == nil {
				return nil, errors.New("there are no tables outside of a call")
			}
			return &tablesValue{c}, nil
		},
		"int": func(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			for _, arg := range args {
				if text, ok := starlark.AsString(arg); ok && len(text) > maxDigits {
					return nil, fmt.Errorf("a number of more than %d characters", maxDigits)
				}
			}
			return starlark.Universe["int"].(*starlark.Builtin).CallInternal(nil, args, kwargs)
		},
		"[]": func(c *call, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
			return args[0], c.charge(shallow(args[0]))
		},
	} {
		predeclared[name] = makeBuiltin(name, fn)
	}
	predeclared["."] = starlark.NewBuiltin(".", attribute)
	for name := range operators {
		op := name
		predeclared[op] = makeBuiltin(op, func(c *call, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
			return operate(c, op, args[0], args[1])
		})
		if strings.HasSuffix(op, "=") {
			predeclared["[]"+op] = makeBuiltin(op, func(c *call, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
				return starlark.None, operateAt(c, op, args[0], args[1], args[2])
			})
		}
	}
	// These walk the whole of what they are given in one step.
	for _, name := range []string{"all", "any", "bytes", "dict", "enumerate", "list", "max", "min", "reversed", "set", "sorted", "tuple", "zip"} {
		whole := starlark.Universe[name].(*starlark.Builtin)
		predeclared[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			c := t.Local("call").(*call)
			for _, arg := range args {
				if _, ok := arg.(starlark.Iterable); !ok {
					continue
				}
				n := starlark.Len(arg)
				if n < 0 {
					return nil, fmt.Errorf("%s: the length of %s is not known before", name, arg.Type())
				}
				if n > math.MaxInt32 {
					return nil, errMemory
				}
				if err := c.charge(48 * n); err != nil {
					return nil, err
				}
			}
			return whole.CallInternal(t, args, kwargs)
		})
	}
}

// shallow is about what a value takes without what is in it, in bytes.
func shallow(v starlark.Value) int {
	switch v := v.(type) {
	case starlark.String:
		return 16 + len(v)
	case starlark.Bytes:
		return 16 + len(v)
	case starlark.Int:
		return 16 + v.BigInt().BitLen()/8
	case *starlark.List:
		return 64 + 16*v.Len()
	case starlark.Tuple:
		return 64 + 16*len(v)
	case *starlark.Dict:
		return 64 + 64*v.Len()
	case *starlark.Set:
		return 64 + 64*v.Len()
	default:
		return 16
	}
}

// Printing goes this deep, and no deeper.
const maxPrintDepth = 200

// printed is how many bytes a value has in print, at most; an error beyond what is
// left. A value that holds another one many times is long in print, and short in
// memory.
func (c *call) printed(v starlark.Value, depth int) (int, error) {
	if depth > maxPrintDepth {
		return 0, fmt.Errorf("nested deeper than %d", maxPrintDepth)
	}
	total := 32
	switch v := v.(type) {
	case starlark.String:
		total += 4 * len(v)
	case starlark.Bytes:
		total += 4 * len(v)
	case starlark.Int:
		total += v.BigInt().BitLen()/3 + 1
	case *starlark.Dict:
		for _, item := range v.Items() {
			for _, x := range item {
				n, err := c.printed(x, depth+1)
				if err != nil {
					return 0, err
				}
				total += n
			}
		}
	case starlark.Iterable:
		if starlark.Len(v) < 0 {
			break
		}
		if _, isRange := v.(starlark.Indexable); !isRange || v.Type() != "range" {
			for x := range starlark.Elements(v) {
				n, err := c.printed(x, depth+1)
				if err != nil {
					return 0, err
				}
				total += n
			}
		}
	}
	return total, c.charge(total)
}

func textFunc(name string) builtin {
	return func(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var v starlark.Value
		if err := starlark.UnpackPositionalArgs(name, args, kwargs, 1, &v); err != nil {
			return nil, err
		}
		if name == "str" {
			switch v := v.(type) {
			case starlark.String:
				return v, nil
			case starlark.Float:
				if !math.IsInf(float64(v), 0) && !math.IsNaN(float64(v)) {
					return starlark.String(appendFloat(nil, float64(v))), nil
				}
			}
		}
		if _, err := c.printed(v, 0); err != nil {
			return nil, err
		}
		return starlark.String(v.String()), nil
	}
}

// operate is an operator that may make something large.
func operate(c *call, op string, x, y starlark.Value) (starlark.Value, error) {
	token := operators[op]
	if err := c.chargeOperation(token, x, y); err != nil {
		return nil, err
	}
	// These change what is on the left.
	switch x := x.(type) {
	case *starlark.List:
		if items, ok := y.(starlark.Iterable); ok && op == "+=" {
			var added []starlark.Value
			for v := range starlark.Elements(items) {
				added = append(added, v)
			}
			for _, v := range added {
				if err := x.Append(v); err != nil {
					return nil, err
				}
			}
			return x, nil
		}
	case *starlark.Dict:
		if other, ok := y.(*starlark.Dict); ok && op == "|=" {
			for _, item := range other.Items() {
				if err := x.SetKey(item[0], item[1]); err != nil {
					return nil, err
				}
			}
			return x, nil
		}
	}
	return starlark.Binary(token, x, y)
}

// maxBits is how large a product may be: multiplying larger ones is slow.
const maxBits = 1 << 16

func (c *call) chargeOperation(token syntax.Token, x, y starlark.Value) error {
	switch token {
	case syntax.PLUS, syntax.PIPE:
		n := starlark.Len(y)
		if n > math.MaxInt32 {
			return errMemory
		}
		return c.charge(shallow(x) + shallow(y) + 16*max(n, 0))
	case syntax.STAR:
		xi, xIsInt := x.(starlark.Int)
		yi, yIsInt := y.(starlark.Int)
		switch {
		case xIsInt && yIsInt:
			if xi.BigInt().BitLen()+yi.BigInt().BitLen() > maxBits {
				return fmt.Errorf("a number of more than %d bits", maxBits)
			}
			return nil
		case xIsInt:
			x, yi = y, xi
		case !yIsInt:
			return nil
		}
		if _, isFloat := x.(starlark.Float); isFloat {
			return nil
		}
		times, ok := yi.Int64()
		if !ok || times > math.MaxInt32 {
			return errMemory
		}
		return c.charge(shallow(x) * int(max(times, 1)))
	default: // %
		s, ok := x.(starlark.String)
		if !ok {
			return nil
		}
		_, err := c.printed(y, 0)
		return cmp.Or(err, c.charge(len(s)))
	}
}

// operateAt is a[i] op= y.
func operateAt(c *call, op string, a, i, y starlark.Value) error {
	var x starlark.Value
	n := 0
	switch a := a.(type) {
	case *starlark.Dict:
		v, found, err := a.Get(i)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("there is no member %s", i)
		}
		x = v
	case *starlark.List:
		if err := starlark.AsInt(i, &n); err != nil {
			return err
		}
		if n < 0 {
			n += a.Len()
		}
		if n < 0 || n >= a.Len() {
			return fmt.Errorf("index %s of a list of %d", i, a.Len())
		}
		x = a.Index(n)
	default:
		return fmt.Errorf("%s does not support item assignment", a.Type())
	}
	v, err := operate(c, op, x, y)
	if err != nil {
		return err
	}
	if dict, ok := a.(*starlark.Dict); ok {
		return dict.SetKey(i, v)
	}
	return a.(*starlark.List).SetIndex(n, v)
}

// attribute is a.b.
func attribute(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	x, name := args[0], string(args[1].(starlark.String))
	if has, ok := x.(starlark.HasAttrs); ok {
		v, err := has.Attr(name)
		if err != nil {
			return nil, err
		}
		if method, ok := v.(*starlark.Builtin); ok && method.Receiver() != nil {
			return checkedMethod(method), nil
		}
		if v != nil {
			return v, nil
		}
	}
	if dict, ok := x.(*starlark.Dict); ok {
		v, found, err := dict.Get(starlark.String(name))
		if err != nil || found {
			return v, err
		}
		return nil, fmt.Errorf("there is no member %q; get(%q) would give None", name, name)
	}
	return nil, fmt.Errorf("%s has no member %q", x.Type(), name)
}

// checkedMethod counts what a method makes.
func checkedMethod(method *starlark.Builtin) *starlark.Builtin {
	return starlark.NewBuiltin(method.Name(), func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		c := t.Local("call").(*call)
		if err := c.chargeMethod(method, args, kwargs); err != nil {
			return nil, err
		}
		v, err := method.CallInternal(t, args, kwargs)
		if err != nil {
			return nil, err
		}
		return v, c.charge(shallow(v))
	})
}

func (c *call) chargeMethod(method *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) error {
	s, isString := method.Receiver().(starlark.String)
	total := 64
	each := func(v starlark.Value) error {
		n := starlark.Len(v)
		if n > math.MaxInt32 {
			return errMemory
		}
		total += 64 * max(n, 0)
		return c.charge(0)
	}
	switch name := method.Name(); {
	case isString && name == "format":
		holes := strings.Count(string(s), "{") + 1
		for _, v := range args {
			n, err := c.printed(v, 0)
			if err != nil {
				return err
			}
			total += n * holes
		}
		for _, kw := range kwargs {
			n, err := c.printed(kw[1], 0)
			if err != nil {
				return err
			}
			total += n * holes
		}
	case isString && name == "replace" && len(args) >= 2:
		old, _ := starlark.AsString(args[0])
		by, _ := starlark.AsString(args[1])
		total += len(s) + strings.Count(string(s), old)*len(by)
	case isString && name == "join" && len(args) == 1:
		if items, ok := args[0].(starlark.Iterable); ok {
			if err := each(items); err != nil {
				return err
			}
			if err := c.charge(total); err != nil {
				return err
			}
			for v := range starlark.Elements(items) {
				text, _ := starlark.AsString(v)
				total += len(s) + len(text)
			}
		}
	case isString:
		total += len(s)
	default:
		for _, v := range args {
			if err := each(v); err != nil {
				return err
			}
		}
	}
	return c.charge(total)
}

// place is where in a script or expression an error came up, and what it says.
func place(err error) (where, what string) {
	what = err.Error()
	var faulty *starlark.EvalError
	if errors.As(err, &faulty) {
		what = faulty.Msg
		for i := range faulty.CallStack {
			if pos := faulty.CallStack.At(i).Pos; pos.Filename() != "<builtin>" && pos.Line > 0 {
				return pos.String(), what
			}
		}
		return "", what
	}
	var bad syntax.Error
	if errors.As(err, &bad) {
		return bad.Pos.String(), bad.Msg
	}
	return "", what
}

// inRun is an error outside of a call.
func (c *call) inRun(name string) error {
	if c.run == nil {
		return fmt.Errorf("%s: only during a call", name)
	}
	return nil
}

func newIDFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var name string
	if err := starlark.UnpackArgs("new_id", args, kwargs, "table", &name); err != nil {
		return nil, err
	}
	if err := c.inRun("new_id"); err != nil {
		return nil, err
	}
	t := c.run.world.byName[name]
	if t == nil {
		return nil, fmt.Errorf("there is no table %q", name)
	}
	id, err := c.run.newID(t)
	if err != nil {
		return nil, err
	}
	return c.vals.read(id)
}

func nowFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	if err := starlark.UnpackArgs("now", args, kwargs); err != nil {
		return nil, err
	}
	if err := c.inRun("now"); err != nil {
		return nil, err
	}
	return starlark.String(c.run.clock.Format(time.RFC3339Nano)), nil
}

func nowUnixFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	if err := starlark.UnpackArgs("now_unix", args, kwargs); err != nil {
		return nil, err
	}
	if err := c.inRun("now_unix"); err != nil {
		return nil, err
	}
	return starlark.MakeInt64(c.run.clock.Unix()), nil
}

func unixFunc(_ *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var text string
	if err := starlark.UnpackArgs("unix", args, kwargs, "text", &text); err != nil {
		return nil, err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return starlark.None, nil
	}
	return starlark.MakeInt64(t.Unix()), nil
}

func rfc3339Func(_ *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var seconds int64
	if err := starlark.UnpackArgs("rfc3339", args, kwargs, "seconds", &seconds); err != nil {
		return nil, err
	}
	const year9999 = 253402300799
	if seconds < -62135596800 || seconds > year9999 {
		return nil, fmt.Errorf("rfc3339: %d is outside of the years 1 to 9999", seconds)
	}
	return starlark.String(time.Unix(seconds, 0).UTC().Format(time.RFC3339)), nil
}

func (c *call) draw(name string) (uint64, error) {
	if err := c.inRun(name); err != nil {
		return 0, err
	}
	c.draws++
	return c.run.draw("rand", c.number, c.draws), nil
}

func randFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	if err := starlark.UnpackArgs("rand", args, kwargs); err != nil {
		return nil, err
	}
	v, err := c.draw("rand")
	return starlark.Float(float64(v>>11) / (1 << 53)), err
}

func randIntFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var low, high int64
	if err := starlark.UnpackArgs("rand_int", args, kwargs, "low", &low, "high", &high); err != nil {
		return nil, err
	}
	if low > high || uint64(high-low) == math.MaxUint64 {
		return nil, fmt.Errorf("rand_int: nothing lies between %d and %d", low, high)
	}
	v, err := c.draw("rand_int")
	return starlark.MakeInt64(low + int64(below64(v, uint64(high-low)+1))), err
}

func roundTo(x starlark.Value, digits int) (starlark.Value, error) {
	if i, ok := x.(starlark.Int); ok {
		return i, nil
	}
	f, ok := starlark.AsFloat(x)
	if !ok {
		return nil, fmt.Errorf("round: a number is needed, not %s", x.Type())
	}
	if digits < 0 || digits > 20 || math.IsInf(f, 0) || math.IsNaN(f) {
		return nil, fmt.Errorf("round: cannot round %v to %d digits", f, digits)
	}
	// The decimal form is exact and rounds half to even, as Python does.
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', digits, 64), 64)
	return starlark.Float(rounded), err
}

func roundFunc(_ *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var x starlark.Value
	digits := -1
	if err := starlark.UnpackArgs("round", args, kwargs, "x", &x, "digits?", &digits); err != nil {
		return nil, err
	}
	if digits >= 0 {
		return roundTo(x, digits)
	}
	whole, err := roundTo(x, 0)
	if err != nil {
		return nil, err
	}
	return starlark.NumberToInt(whole)
}

func round2Func(_ *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var x starlark.Value
	if err := starlark.UnpackArgs("round2", args, kwargs, "x", &x); err != nil {
		return nil, err
	}
	return roundTo(x, 2)
}

func sumFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var list starlark.Iterable
	if err := starlark.UnpackArgs("sum", args, kwargs, "list", &list); err != nil {
		return nil, err
	}
	if n := starlark.Len(list); n < 0 || n > math.MaxInt32 {
		return nil, errMemory
	}
	var total starlark.Value = starlark.MakeInt(0)
	for v := range starlark.Elements(list) {
		switch v.(type) {
		case starlark.Int, starlark.Float:
		default:
			return nil, fmt.Errorf("sum: a number is needed, not %s", v.Type())
		}
		var err error
		if total, err = starlark.Binary(syntax.PLUS, total, v); err != nil {
			return nil, err
		}
		if err := c.charge(shallow(total)); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func jsonFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var v starlark.Value
	style := "compact"
	if err := starlark.UnpackArgs("json", args, kwargs, "value", &v, "style?", &style); err != nil {
		return nil, err
	}
	raw, err := c.vals.write(nil, v)
	if err != nil {
		return nil, err
	}
	switch style {
	case "compact":
		return starlark.String(raw), c.charge(len(raw))
	case "python", "indent":
		text, err := laidOut(raw, style)
		if err != nil {
			return nil, err
		}
		return starlark.String(text), c.charge(len(text))
	}
	return nil, fmt.Errorf("json: there is no style %q, only compact, indent and python", style)
}

func parseJSONFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var source string
	if err := starlark.UnpackArgs("parse_json", args, kwargs, "text", &source); err != nil {
		return nil, err
	}
	raw := jsontext.Value(source)
	if raw.Compact() != nil {
		return starlark.None, nil
	}
	return c.vals.read(raw)
}

const lessThan = syntax.LT

// flatten are the errors of a whole file, one by one.
func flatten(err error) []error {
	var many resolve.ErrorList
	if !errors.As(err, &many) {
		return []error{err}
	}
	var all []error
	for _, e := range many {
		all = append(all, syntax.Error{Pos: e.Pos, Msg: e.Msg})
	}
	return all
}
