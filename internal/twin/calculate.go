package twin

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

func calculateFunc(c *call, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var source string
	if err := starlark.UnpackArgs("calculate", args, kwargs, "text", &source); err != nil {
		return nil, err
	}
	v, err := calculate(source)
	if err != nil {
		return starlark.None, nil
	}
	return v, c.charge(shallow(v))
}

// maxSum is how long an expression that calculate reads may be, in bytes.
const maxSum = 4096

// calculate reads + - * / and parentheses over decimal numbers, as Python does: whole
// numbers stay whole but for /, everything else is a double.
func calculate(source string) (starlark.Value, error) {
	if len(source) > maxSum {
		return nil, fmt.Errorf("more than %d bytes", maxSum)
	}
	p := &arithmetic{rest: source}
	v, err := p.sum(0)
	if err != nil {
		return nil, err
	}
	if p.peek() != 0 {
		return nil, fmt.Errorf("%q does not belong here", p.rest)
	}
	if f, ok := v.(starlark.Float); ok && (math.IsInf(float64(f), 0) || math.IsNaN(float64(f))) {
		return nil, errors.New("the result is too large")
	}
	return v, nil
}

type arithmetic struct{ rest string }

func (p *arithmetic) peek() byte {
	p.rest = strings.TrimLeft(p.rest, " ")
	if p.rest == "" {
		return 0
	}
	return p.rest[0]
}

func (p *arithmetic) sum(depth int) (starlark.Value, error) {
	v, err := p.product(depth)
	for err == nil {
		op := p.peek()
		if op != '+' && op != '-' {
			return v, nil
		}
		p.rest = p.rest[1:]
		var w starlark.Value
		if w, err = p.product(depth); err != nil {
			return nil, err
		}
		v, err = starlark.Binary(map[byte]syntax.Token{'+': syntax.PLUS, '-': syntax.MINUS}[op], v, w)
	}
	return nil, err
}

func (p *arithmetic) product(depth int) (starlark.Value, error) {
	v, err := p.factor(depth)
	for err == nil {
		op := p.peek()
		if op != '*' && op != '/' {
			return v, nil
		}
		p.rest = p.rest[1:]
		var w starlark.Value
		if w, err = p.factor(depth); err != nil {
			return nil, err
		}
		v, err = starlark.Binary(map[byte]syntax.Token{'*': syntax.STAR, '/': syntax.SLASH}[op], v, w)
	}
	return nil, err
}

const maxParentheses = 100

func (p *arithmetic) factor(depth int) (starlark.Value, error) {
	if depth > maxParentheses {
		return nil, fmt.Errorf("nested deeper than %d", maxParentheses)
	}
	switch c := p.peek(); {
	case c == '(':
		p.rest = p.rest[1:]
		v, err := p.sum(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, errors.New("a parenthesis is not closed")
		}
		p.rest = p.rest[1:]
		return v, nil
	case c == '-' || c == '+':
		p.rest = p.rest[1:]
		v, err := p.factor(depth + 1)
		if err != nil || c == '+' {
			return v, err
		}
		if f, ok := v.(starlark.Float); ok {
			return -f, nil
		}
		return starlark.Binary(syntax.MINUS, starlark.MakeInt(0), v)
	default:
		return p.number()
	}
}

func (p *arithmetic) number() (starlark.Value, error) {
	end := strings.IndexFunc(p.rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(p.rest)
	}
	token := p.rest[:end]
	whole, fraction, isFloat := strings.Cut(token, ".")
	if strings.Contains(fraction, ".") || whole+fraction == "" || !isFloat && len(whole) > 1 && strings.Trim(whole, "0") != "" && whole[0] == '0' {
		return nil, fmt.Errorf("%q is no number", token)
	}
	p.rest = p.rest[end:]
	v, _ := number(token)
	return v, nil
}
