package ident

import "bytes"

// subscriber is how many digits a national number has behind a country code, and
// the ranges its regulator keeps for books and films.
type subscriber struct {
	code      string
	min, max  int
	fictional []string // how such a number begins, without the code
	digits    int      // of a fictional number
}

// subscribers are the country codes (ITU-T E.164, list of assigned codes) with what
// is known of their numbers; lengths from the national numbering plans.
//
// Ranges for fiction: 555-0100 to 555-0199 behind any area code of the North
// American plan (ATIS-0300115); Ofcom, "Numbers for use in TV and radio drama";
// Arcep, décision 2018-0881, section 2.5; ACMA, "Numbers for use in radio, books,
// film and TV". Those of Germany (5,000 numbers), Sweden (some hundreds) and others
// are left alone: so few numbers for all would give many persons the same.
var subscribers = func() [1000]*subscriber {
	var table [1000]*subscriber
	for _, zone := range []string{
		"20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86",
		"90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236",
		"237 238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265",
		"266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378",
		"380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 596",
		"597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 850 852 853 855",
		"856 880 886 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 992 993 994 995 996 998",
	} {
		for _, code := range bytes.Fields([]byte(zone)) {
			table[number(code)] = &subscriber{code: string(code), min: 6, max: 12}
		}
	}
	for _, s := range []subscriber{
		{code: "1", min: 10, max: 10}, {code: "7", min: 10, max: 10}, {code: "27", min: 9, max: 9},
		{code: "30", min: 10, max: 10}, {code: "31", min: 9, max: 9}, {code: "32", min: 8, max: 9},
		{code: "33", min: 9, max: 9, fictional: []string{"19900", "26191", "35301", "46571", "53649", "63998"}, digits: 9},
		{code: "34", min: 9, max: 9}, {code: "36", min: 8, max: 9}, {code: "39", min: 6, max: 11},
		{code: "41", min: 9, max: 9}, {code: "43", min: 7, max: 13},
		{code: "44", min: 9, max: 10, fictional: []string{
			"1134960", "1144960", "1154960", "1164960", "1174960", "1184960", "1214960", "1314960", "1414960", "1514960",
			"1614960", "2079460", "1914980", "2896496", "2920180", "1632960", "7700900",
		}, digits: 10},
		{code: "45", min: 8, max: 8}, {code: "46", min: 7, max: 10}, {code: "47", min: 8, max: 8},
		{code: "48", min: 9, max: 9}, {code: "49", min: 7, max: 12}, {code: "52", min: 10, max: 10},
		{code: "55", min: 10, max: 11}, {code: "56", min: 9, max: 9}, {code: "57", min: 10, max: 10},
		{code: "61", min: 9, max: 9, fictional: []string{
			"25550", "27010", "35550", "37010", "75550", "77010", "85550", "87010",
		}, digits: 9},
		{code: "65", min: 8, max: 8}, {code: "81", min: 9, max: 10}, {code: "86", min: 9, max: 11},
		{code: "90", min: 10, max: 10}, {code: "91", min: 10, max: 10}, {code: "351", min: 9, max: 9},
		{code: "353", min: 7, max: 9}, {code: "380", min: 9, max: 9}, {code: "420", min: 9, max: 9},
		{code: "421", min: 9, max: 9},
	} {
		table[number([]byte(s.code))] = &s
	}
	return table
}()

// subscriberOf looks for the country code the digits begin with.
func subscriberOf(d []byte) *subscriber {
	if len(d) == 0 || d[0] == '0' {
		return nil
	}
	for n := 1; n <= 3 && n <= len(d); n++ {
		if s := subscribers[number(d[:n])]; s != nil {
			return s
		}
	}
	return nil
}

// ValidPhone checks the digits of an international number, without the plus: an
// assigned country code and as many digits as fit it, fifteen at most (ITU-T E.164).
func ValidPhone(d []byte) bool {
	s := subscriberOf(d)
	if s == nil || len(d) > 15 {
		return false
	}
	rest := d[len(s.code):]
	if len(rest) > s.max && rest[0] == '0' {
		rest = rest[1:] // written with the trunk zero, as in +49 (0)30
	}
	if s.code == "1" {
		return northAmerican(rest)
	}
	return s.min <= len(rest) && len(rest) <= s.max
}

// northAmerican reports whether ten digits are a number of that plan: neither area
// code nor exchange begin with 0 or 1, or are of the form N11.
func northAmerican(d []byte) bool {
	return len(d) == 10 && digits(d) && d[0] > '1' && d[3] > '1' && string(d[1:3]) != "11" && string(d[4:6]) != "11"
}

// written is a telephone number taken apart: what stays in front (the code for going
// abroad, the country code, the trunk zero) and the number behind it. by is nil for
// one whose country does not show.
type written struct {
	front, rest []byte
	by          *subscriber
}

// parsePhone takes the digits apart; plus says that there was a plus in front.
func parsePhone(d []byte, plus bool) written {
	abroad := 0
	if !plus && len(d) > 9 && d[0] == '0' && d[1] == '0' && subscriberOf(d[2:]) != nil {
		abroad, plus = 2, true
	}
	if !plus {
		switch {
		case northAmerican(d):
			return written{nil, d, subscribers[1]}
		case len(d) == 11 && d[0] == '1' && northAmerican(d[1:]):
			return written{d[:1], d[1:], subscribers[1]}
		case len(d) > 0 && d[0] == '0':
			return written{d[:1], d[1:], nil}
		}
		return written{nil, d, nil}
	}
	s := subscriberOf(d[abroad:])
	if s == nil {
		return written{nil, d, nil}
	}
	n := abroad + len(s.code)
	if n < len(d) && d[n] == '0' && s.code != "39" && !bytes.HasPrefix(d[n:], []byte("00")) {
		n++
	}
	return written{d[:n], d[n:], s}
}

// CanonicalPhone appends what is the same for all ways of writing a number whose
// country shows: the country code and the number behind it. Others are appended as
// they are.
func CanonicalPhone(dst, d []byte, plus bool) []byte {
	w := parsePhone(d, plus)
	if w.by == nil {
		return append(dst, d...)
	}
	return append(append(append(dst, '+'), w.by.code...), w.rest...)
}

// ReservedPhone reports whether IssuePhone may have written the digits.
func ReservedPhone(d []byte, plus bool) bool {
	w := parsePhone(d, plus)
	switch {
	case w.by == nil:
		return bytes.HasPrefix(d, []byte("000"))
	case w.by.code == "1" && northAmerican(w.rest):
		return string(w.rest[3:8]) == "55501"
	case len(w.rest) == w.by.digits:
		for _, f := range w.by.fictional {
			if bytes.HasPrefix(w.rest, []byte(f)) {
				return true
			}
		}
	}
	return bytes.HasPrefix(w.rest, []byte("00"))
}

// IssuePhone appends as many digits as there are in d, a number nobody has: one kept
// for fiction where the country has enough of those, else one that begins with two
// zeros behind the country code, or with three where no country shows, as no plan
// lets a subscriber's number begin.
func IssuePhone(dst, d []byte, plus bool, draw func(n int) int) []byte {
	w := parsePhone(d, plus)
	end := len(dst) + len(d)
	switch {
	case w.by == nil:
		dst = append(dst, "000"...)
	case w.by.code == "1" && len(w.rest) == 10:
		dst = append(dst, w.front...)
		area := 200 + draw(72)*10 // 20x to 91x
		if area/10%10 == 1 {
			area += []int{0, 2, 3, 4, 5, 6, 7, 8, 9}[draw(9)]
		} else {
			area += draw(10)
		}
		dst = append(appendDigits(dst, area, 3), "55501"...)
	case w.by.digits == len(w.rest):
		dst = append(append(dst, w.front...), w.by.fictional[draw(len(w.by.fictional))]...)
	default:
		dst = append(append(dst, w.front...), "00"...)
	}
	for len(dst) < end {
		dst = append(dst, byte('0'+draw(10)))
	}
	return dst[:end]
}
