package detect

import (
	"encoding/base64"
	"encoding/hex"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxWrapped is how many bytes of a wrapped run are unwrapped.
const maxWrapped = 64 << 10

// wrapped looks into a long word, with what surrounds it, that may be base64 or
// hexadecimal digits around a text.
func (p *pass) wrapped(start, end int) int {
	text := p.text
	for start > max(p.floor, p.unwrapped) && std64[text[start-1]] && text[start-1] != '=' {
		start--
	}
	for end < len(text) && (url64[text[end]] || text[end] == '+' || text[end] == '/') {
		end++
	}
	p.unwrapped = end
	run := text[start:end]
	if start < p.floor || len(run) < 16 {
		return 0
	}
	how := Base64
	if isHex(run) {
		if how = Hex; len(run)%2 != 0 {
			return end
		}
	}
	// Most runs are not text: the first bytes tell.
	var head [24]byte
	first, ok := unwrap(head[:0], how, run[:min(len(run), 32)/4*4])
	if !ok || !printable(first) {
		return end
	}
	var closed int
	for closed = end; closed < len(text) && text[closed] == '='; closed++ {
	}
	inner, ok := unwrap(p.buf[:0], how, run[:min(len(run), maxWrapped)])
	p.buf = inner
	if ok && printable(inner) && p.into(how, start, closed, inner) {
		return closed
	}
	return end
}

// percent looks at the % at i, and the run of a URL around it.
func (p *pass) percent(i int) int {
	text := p.text
	if p.depth == 0 || i+2 >= len(text) || !hexDigit(text[i+1]) || !hexDigit(text[i+2]) {
		return 0
	}
	start, end := i, i+3
	for start > max(p.floor, p.decoded) && urlPart(text[start-1]) {
		start--
	}
	for end < len(text) && urlPart(text[end]) && end-start < maxWrapped {
		end++
	}
	p.decoded = end
	inner, ok := unwrap(p.buf[:0], Percent, text[start:end])
	p.buf = inner
	// Findings in the run as it stands are given up for those in what it means.
	kept, floor := p.dst, p.floor
	for len(p.dst) > p.first && p.dst[len(p.dst)-1].Start >= start {
		p.dst = p.dst[:len(p.dst)-1]
	}
	if ok && p.into(Percent, start, end, inner) {
		return end
	}
	p.dst, p.floor = kept, floor
	return end
}

func urlPart(c byte) bool {
	return class[c] != 0 && class[c] != high || c == '.' || c == '-' || c == '%' || c == '+'
}

// into scans what was unwrapped, and reports whether there was something in it.
func (p *pass) into(how Encoding, start, end int, inner []byte) bool {
	if p.inner == nil {
		p.inner = new(pass)
	}
	at := len(p.dst)
	key := p.hint(start)
	p.dst = p.inner.scan(p.dst, inner, key, 0)
	if len(p.dst) == at {
		return false
	}
	f := p.dst[at]
	p.dst = p.dst[:at]
	p.found(f.Kind, start, end, f.Confidence)
	p.dst[at].Encoding = how
	return true
}

// unwrap appends what the text stands for.
func unwrap(dst []byte, how Encoding, text []byte) ([]byte, bool) {
	switch how {
	case Base64:
		for len(text) > 0 && text[len(text)-1] == '=' {
			text = text[:len(text)-1]
		}
		enc := base64.RawStdEncoding
		for _, c := range text {
			if c == '-' || c == '_' {
				enc = base64.RawURLEncoding
				break
			}
		}
		out, err := enc.AppendDecode(dst, text)
		return out, err == nil
	case Hex:
		out, err := hex.AppendDecode(dst, text)
		return out, err == nil
	case Percent:
		for i := 0; i < len(text); i++ {
			if text[i] == '%' && i+2 < len(text) && hexDigit(text[i+1]) && hexDigit(text[i+2]) {
				var b [1]byte
				hex.Decode(b[:], text[i+1:i+3])
				dst = append(dst, b[0])
				i += 2
				continue
			}
			dst = append(dst, text[i])
		}
		return dst, true
	case JSON:
		quoted := append(append([]byte{'"'}, text...), '"')
		out, err := jsontext.AppendUnquote(dst, quoted)
		return out, err == nil
	default:
		return dst, false
	}
}

func isHex(b []byte) bool {
	for _, c := range b {
		if !hexDigit(c) {
			return false
		}
	}
	return true
}

// printable reports whether bytes are text: UTF-8, cut off at most in its last
// character, without control characters but those of white space.
func printable(b []byte) bool {
	if len(b) < 6 {
		return false
	}
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			if b[i] < ' ' && b[i] != '\n' && b[i] != '\t' && b[i] != '\r' || b[i] == 0x7F {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return !utf8.FullRune(b[i:])
		}
		i += n
	}
	return true
}

// Unwrap returns what a finding's bytes stand for, so that it can be rewritten and
// wrapped again with [Wrap]. A Finding of the encoding JSON is the inside of a string
// token.
func Unwrap(how Encoding, run []byte) ([]byte, bool) {
	if how == Plain {
		return run, true
	}
	return unwrap(nil, how, run)
}

// Wrap encodes a text as the run did that it comes from: the same alphabet, and
// padding if there was some.
func Wrap(how Encoding, text, like []byte) []byte {
	switch how {
	case Base64:
		enc := base64.StdEncoding
		for _, c := range like {
			if c == '-' || c == '_' {
				enc = base64.URLEncoding
				break
			}
		}
		if len(like)%4 != 0 {
			enc = enc.WithPadding(base64.NoPadding)
		}
		return enc.AppendEncode(nil, text)
	case Hex:
		out := hex.AppendEncode(nil, text)
		for _, c := range like {
			if class[c] == upper {
				for i := range out {
					if class[out[i]] == lower {
						out[i] -= 'a' - 'A'
					}
				}
				break
			}
		}
		return out
	case Percent:
		var out []byte
		for _, c := range text {
			if class[c]&(digit|lower|upper|line) != 0 || c == '-' || c == '.' {
				out = append(out, c)
				continue
			}
			const digits = "0123456789ABCDEF"
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
		return out
	case JSON:
		quoted, err := jsontext.AppendQuote(nil, text)
		if err != nil {
			return nil // not UTF-8, which nothing unwrapped from JSON is
		}
		return quoted[1 : len(quoted)-1]
	default:
		return text
	}
}
