package sandbox

import (
	"errors"
	"math/big"
)

// limits are what the keywords about numbers leave: each nil for no limit.
func (f *form) limits() (low, high *big.Rat, above, below bool, units []*big.Rat) {
	for _, s := range f.all {
		if n, ok := number(s.member("minimum")); ok && (low == nil || n.Cmp(low) > 0) {
			low, above = n, s.truth("exclusiveMinimum") == 't' // draft 04
		}
		if n, ok := number(s.member("exclusiveMinimum")); ok && (low == nil || n.Cmp(low) >= 0) {
			low, above = n, true
		}
		if n, ok := number(s.member("maximum")); ok && (high == nil || n.Cmp(high) < 0) {
			high, below = n, s.truth("exclusiveMaximum") == 't'
		}
		if n, ok := number(s.member("exclusiveMaximum")); ok && (high == nil || n.Cmp(high) <= 0) {
			high, below = n, true
		}
		if n, ok := number(s.member("multipleOf")); ok && n.Sign() > 0 {
			units = append(units, n)
		}
	}
	return low, high, above, below, units
}

func (f *form) fitsNumber(v *value) bool {
	n, ok := number(v)
	if !ok {
		return false
	}
	low, high, above, below, units := f.limits()
	if low != nil && (n.Cmp(low) < 0 || above && n.Cmp(low) == 0) {
		return false
	}
	if high != nil && (n.Cmp(high) > 0 || below && n.Cmp(high) == 0) {
		return false
	}
	for _, unit := range units {
		if !new(big.Rat).Quo(n, unit).IsInt() {
			return false
		}
	}
	return true
}

var errNoNumber = errors.New("no number was found between the limits of its schema")

// number makes a number, exactly: a whole count of units, near the lower limit, or
// near the upper one, or between 1 and 1000 where there is neither. It is none of
// those taken.
func (f *form) number(whole bool, taken map[string]bool, d *dice) (string, error) {
	low, high, above, below, units := f.limits()
	unit := big.NewRat(1, 100)
	switch {
	case len(units) > 0:
		unit = units[0]
		for _, other := range units[1:] {
			unit = common(unit, other)
		}
		if whole {
			unit = common(unit, big.NewRat(1, 1))
		}
	case whole:
		unit = big.NewRat(1, 1)
	}
	fixed := whole || len(units) > 0
	for range 40 {
		first, last := counts(low, high, above, below, unit)
		if first.Cmp(last) <= 0 {
			span := new(big.Int).Sub(last, first)
			n := 1 << 30
			if span.IsInt64() && span.Int64() < int64(n) {
				n = int(span.Int64()) + 1
			}
			start := d.below(n)
			for i := range min(n, len(taken)+1) {
				k := new(big.Int).Add(first, big.NewInt(int64((start+i)%n)))
				text := decimal(new(big.Rat).Mul(new(big.Rat).SetInt(k), unit))
				if !taken[text] {
					return text, nil
				}
			}
		}
		if fixed {
			break
		}
		// Between two close limits there are numbers only on a finer scale.
		unit = new(big.Rat).Quo(unit, big.NewRat(10, 1))
	}
	if low != nil && high != nil && low.Cmp(high) == 0 && !above && !below && !fixed {
		return decimal(low), nil
	}
	return "", errNoNumber
}

// counts are the least and the greatest number of units to draw from.
func counts(low, high *big.Rat, above, below bool, unit *big.Rat) (first, last *big.Int) {
	if low != nil {
		q := new(big.Rat).Quo(low, unit)
		first = floor(q)
		if !q.IsInt() || above {
			first.Add(first, big.NewInt(1))
		}
	}
	if high != nil {
		q := new(big.Rat).Quo(high, unit)
		last = floor(q)
		if q.IsInt() && below {
			last.Sub(last, big.NewInt(1))
		}
	}
	// A thousand whole ones are wide enough where a side is open.
	reach := floor(new(big.Rat).Quo(big.NewRat(1000, 1), unit))
	if reach.Sign() == 0 {
		reach = big.NewInt(10)
	}
	switch {
	case first == nil && last == nil:
		first = floor(new(big.Rat).Quo(big.NewRat(1, 1), unit))
		if first.Sign() == 0 {
			first = big.NewInt(1)
		}
		last = reach
		if last.Cmp(first) < 0 {
			last = first
		}
	case first == nil:
		first = new(big.Int).Sub(last, reach)
		if first.Sign() < 0 && last.Sign() >= 0 {
			first = big.NewInt(0)
		}
	case last == nil:
		last = new(big.Int).Add(first, reach)
	}
	return first, last
}

func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }

// common is the least number that is a multiple of both.
func common(a, b *big.Rat) *big.Rat {
	// lcm(p/q, r/s) = lcm(ps, rq) / qs
	x := new(big.Int).Mul(a.Num(), b.Denom())
	y := new(big.Int).Mul(b.Num(), a.Denom())
	gcd := new(big.Int).GCD(nil, nil, x, y)
	lcm := x.Mul(x, y).Div(x, gcd)
	return new(big.Rat).SetFrac(lcm, new(big.Int).Mul(a.Denom(), b.Denom()))
}

// decimal writes a number that has an end in decimal digits.
func decimal(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	digits, _ := r.FloatPrec()
	return r.FloatString(digits)
}
