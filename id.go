package sallyport

import (
	"strings"
	"time"
)

// idAlphabet is Crockford's base 32 in lower case: no i, l, o, u.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// MakeID is prefix, "_" and 26 base-32 digits: 48 bits of milliseconds since
// 1970 and 80 random bits (the layout of a ULID), so that ids sort by time.
func MakeID(prefix string, at time.Time, random [10]byte) string {
	ms := uint64(at.UnixMilli())
	buf := make([]byte, 0, len(prefix)+27)
	buf = append(append(buf, prefix...), '_')
	for shift := 45; shift >= 0; shift -= 5 {
		buf = append(buf, idAlphabet[ms>>shift&31])
	}
	// 80 bits are sixteen digits: two groups of five bytes.
	for _, five := range [2][]byte{random[:5], random[5:]} {
		v := uint64(five[0])<<32 | uint64(five[1])<<24 | uint64(five[2])<<16 | uint64(five[3])<<8 | uint64(five[4])
		for shift := 35; shift >= 0; shift -= 5 {
			buf = append(buf, idAlphabet[v>>shift&31])
		}
	}
	return string(buf)
}

// TimeOfID is when an id was made, in whole milliseconds, and whether it is one
// that [MakeID] makes for the prefix.
func TimeOfID(prefix, id string) (time.Time, bool) {
	digits, ok := strings.CutPrefix(id, prefix+"_")
	if !ok || len(digits) != 26 || digits[0] > '7' {
		return time.Time{}, false
	}
	var ms int64
	for i := range digits {
		v := strings.IndexByte(idAlphabet, digits[i])
		if v < 0 {
			return time.Time{}, false
		}
		if i < 10 {
			ms = ms<<5 | int64(v)
		}
	}
	return time.UnixMilli(ms).UTC(), true
}
