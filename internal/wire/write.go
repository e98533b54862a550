package wire

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Edit puts With in the place of a span. A span whose ends are equal inserts
// there; an empty With deletes.
type Edit struct {
	Span Span
	With []byte
}

// Splice returns a copy of raw with the edits made and every other byte as it
// was. The edits are in ascending order and do not overlap; it panics otherwise.
// Without edits the result is raw itself.
func Splice(raw []byte, edits ...Edit) []byte {
	if len(edits) == 0 {
		return raw
	}
	size, at := len(raw), 0
	for _, e := range edits {
		if e.Span.Start < at || e.Span.End < e.Span.Start || e.Span.End > len(raw) {
			panic(fmt.Sprintf("wire: splice of %d bytes at [%d:%d] after %d", len(raw), e.Span.Start, e.Span.End, at))
		}
		at = e.Span.End
		size += len(e.With) - (e.Span.End - e.Span.Start)
	}
	dst, at := make([]byte, 0, size), 0
	for _, e := range edits {
		dst = append(dst, raw[at:e.Span.Start]...)
		dst = append(dst, e.With...)
		at = e.Span.End
	}
	return append(dst, raw[at:]...)
}

// Insert is the edit that puts a first member into the object at a span of raw,
// which must be present and must not have a member of that name. value is JSON.
func Insert(raw []byte, object Span, name string, value []byte) Edit {
	s := scanner{b: raw[:object.End], i: object.Start + 1}
	with := AppendString(make([]byte, 0, len(name)+len(value)+4), name)
	with = append(with, ':')
	with = append(with, value...)
	if s.space(); s.peek() != '}' {
		with = append(with, ',')
	}
	return Edit{Span: Span{object.Start + 1, object.Start + 1}, With: with}
}

// AppendResult appends a result. id and result are JSON.
func AppendResult(dst, id, result []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, id...)
	dst = append(dst, `,"result":`...)
	dst = append(dst, result...)
	return append(dst, '}')
}

// AppendError appends an error. id and data are JSON; a nil data is left out. A
// nil id, for an answer to something whose id could not be read, is left out too:
// the schemas of both eras have no null there.
func AppendError(dst, id []byte, code int, message string, data []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0",`...)
	if id != nil {
		dst = append(dst, `"id":`...)
		dst = append(dst, id...)
		dst = append(dst, ',')
	}
	dst = append(dst, `"error":{"code":`...)
	dst = strconv.AppendInt(dst, int64(code), 10)
	dst = append(dst, `,"message":`...)
	dst = AppendString(dst, message)
	if data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	}
	return append(dst, "}}"...)
}

// AppendRequest appends a request. id and params are JSON; nil params are left
// out.
func AppendRequest(dst, id []byte, method string, params []byte) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = append(dst, id...)
	return appendMethod(append(dst, ','), method, params)
}

// AppendNotification appends a notification. params are JSON; nil is left out.
func AppendNotification(dst []byte, method string, params []byte) []byte {
	return appendMethod(append(dst, `{"jsonrpc":"2.0",`...), method, params)
}

func appendMethod(dst []byte, method string, params []byte) []byte {
	dst = append(dst, `"method":`...)
	dst = AppendString(dst, method)
	if params != nil {
		dst = append(dst, `,"params":`...)
		dst = append(dst, params...)
	}
	return append(dst, '}')
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string in which only the quote, the backslash
// and control characters are escaped. What is not UTF-8 in s becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0 // s[from:i] is still to be copied
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(dst, s[from:i]...)
				dst = append(dst, "\uFFFD"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// ToolError appends the result value of a tools/call that ended in an error the
// model may read: one text and isError. meta, an object, becomes _meta; nil is
// left out.
func ToolError(dst []byte, era Era, text string, meta []byte) []byte {
	dst = append(dst, '{')
	if era == Stateless {
		dst = append(dst, `"resultType":"complete",`...)
	}
	dst = append(dst, `"content":[{"type":"text","text":`...)
	dst = AppendString(dst, text)
	dst = append(dst, `}],"isError":true`...)
	if meta != nil {
		dst = append(dst, `,"_meta":`...)
		dst = append(dst, meta...)
	}
	return append(dst, '}')
}
