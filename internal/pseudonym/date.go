package pseudonym

import (
	"time"
)

// Dates are moved by at least leastDays and at most mostDays, back or forth.
const (
	leastDays = 30
	mostDays  = 730
)

// noDate is what becomes of what cannot be read as a date. It cannot be read as one
// either, so it stays.
const noDate = "0000-00-00"

// date moves a date by the number of days of its subject. A date without a subject has
// a number of its own: then intervals are lost.
func (d *Domain) date(dst, value, subject []byte) []byte {
	at, when, ok := readDate(value)
	if !ok {
		return append(dst, noDate...)
	}
	if d.known(subject) {
		return append(dst, value...)
	}
	src := d.source([]byte("date"), subject)
	if len(subject) == 0 {
		src = d.source([]byte("date-alone"), value)
	}
	days := leastDays + src.below(mostDays-leastDays+1)
	if src.below(2) == 0 {
		days = -days
	}
	moved := when.AddDate(0, 0, days)
	from := len(dst)
	dst = append(dst, value...)
	at.write(dst[from:], moved)
	return dst
}

// places are where in a text its year, month and day stand.
type places struct{ year, yearSize, month, monthSize, day, daySize int }

func (p places) write(text []byte, t time.Time) {
	y, m, d := t.Date()
	put := func(at, size, n int) {
		for i := at + size - 1; i >= at; i-- {
			text[i] = byte('0' + n%10)
			n /= 10
		}
	}
	put(p.year, p.yearSize, y)
	put(p.month, p.monthSize, int(m))
	put(p.day, p.daySize, d)
}

// readDate reads the date a text begins with: 1985-03-12 and the same without or with
// other separators, 12.03.1985, 12-03-1985, 03/12/1985, where with slashes the month
// comes first unless it would be no month; a year of two digits is of 1931 to 2030.
// Months and days have two digits. What stands behind the date stays, if it is no
// digit.
func readDate(text []byte) (p places, t time.Time, ok bool) {
	number := func(at, size int) int {
		if at+size > len(text) {
			return -1
		}
		n := 0
		for _, c := range text[at : at+size] {
			if !isDigit(c) {
				return -1
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	sep := func(at int) byte {
		if at < len(text) && (text[at] == '-' || text[at] == '/' || text[at] == '.') {
			return text[at]
		}
		return 0
	}
	var end int
	switch s := sep(4); {
	case s != 0 && sep(7) == s && number(0, 4) >= 0:
		p, end = places{0, 4, 5, 2, 8, 2}, 10
	case number(0, 8) >= 0:
		p, end = places{0, 4, 4, 2, 6, 2}, 8
	case sep(2) != 0 && sep(5) == sep(2):
		p, end = places{6, 4, 3, 2, 0, 2}, 10
		if number(6, 4) < 0 {
			p.yearSize, end = 2, 8
		}
		a, b := number(0, 2), number(3, 2)
		if b > 12 || sep(2) == '/' && a <= 12 {
			p.month, p.day = 0, 3
		}
	default:
		return p, t, false
	}
	y, m, d := number(p.year, p.yearSize), number(p.month, 2), number(p.day, 2)
	if y < 0 || m < 0 || d < 0 || end < len(text) && isDigit(text[end]) {
		return p, t, false
	}
	if p.yearSize == 2 {
		if y += 1900; y <= 1930 {
			y += 100
		}
	}
	if y < 3 || y > 9990 {
		return p, t, false
	}
	t = time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC)
	return p, t, t.Month() == time.Month(m) && t.Day() == d
}
