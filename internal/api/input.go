package api

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/schema"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 1 << 20

// readBody reads the body strictly and checks it against the very schema that
// the document shows. It returns the value and its canonical form.
func (r *route) readBody(w http.ResponseWriter, q *http.Request) (any, []byte, error) {
	if r.body == nil {
		return nil, nil, nil
	}
	bad := func(reason, hint string) (any, []byte, error) {
		return nil, nil, sallyport.Refuse(sallyport.BadRequest, "the request body: "+reason, hint)
	}
	media, params, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return nil, nil, &refused{http.StatusUnsupportedMediaType, sallyport.Refuse(sallyport.BadRequest, "the request body is not declared to be JSON", "send Content-Type: application/json")}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return nil, nil, &refused{http.StatusRequestEntityTooLarge, sallyport.Refuse(sallyport.BadRequest, "the request body is longer than 1 MiB", "send less at a time")}
	case err != nil:
		return bad("it could not be read to its end", "")
	case len(raw) == 0:
		return bad("it is empty", "send one JSON object")
	}
	body, err := canonical.JSON(raw)
	if err != nil {
		return bad(strings.TrimPrefix(err.Error(), "canonical form: "), "send one JSON object in UTF-8, without repeated names")
	}
	if err := r.schema.Validate(body); err != nil {
		var invalid *schema.Invalid
		if !errors.As(err, &invalid) {
			return nil, nil, err
		}
		refusal := sallyport.Refuse(sallyport.BadRequest, "the request body: "+invalid.Error(), documentPath+" describes it: "+r.method+" "+r.path)
		return nil, nil, &misplaced{invalid.Pointer, refusal}
	}
	into := reflect.New(r.body)
	if err := json.Unmarshal(wholeNumbers(body), into.Interface()); err != nil {
		return bad(err.Error(), documentPath+" describes it: "+r.method+" "+r.path)
	}
	return into.Interface(), body, nil
}

// wholeNumbers spells the whole numbers of a canonical body without a fraction or
// an exponent: to JSON Schema 1.0 is an integer, to encoding/json it is none.
// Exponents beyond those of any integer here stay as they are.
func wholeNumbers(body []byte) []byte {
	out := make([]byte, 0, len(body))
	for i := 0; i < len(body); {
		end := i + 1
		switch b := body[i]; {
		case b == '"':
			for body[end] != '"' {
				if body[end] == '\\' {
					end++
				}
				end++
			}
			end++
		case b == '-' || b >= '0' && b <= '9':
			for end < len(body) && strings.IndexByte("0123456789+-.eE", body[end]) >= 0 {
				end++
			}
			token := string(body[i:end])
			mantissa, exponent, _ := strings.Cut(strings.ToLower(token), "e")
			if n, err := strconv.Atoi(exponent); (mantissa != token || strings.Contains(token, ".")) && len(token) < 64 && (exponent == "" || err == nil && n >= -40 && n <= 40) {
				if exact, ok := new(big.Rat).SetString(token); ok && exact.IsInt() {
					out = append(out, exact.Num().String()...)
					i = end
					continue
				}
			}
		}
		out = append(out, body[i:end]...)
		i = end
	}
	return out
}

// readQuery reads the query by the fields of a struct that have a query tag.
// A parameter that is not known or stands twice is refused: a filter that is
// misspelt must not show everything.
func (r *route) readQuery(q *http.Request) (any, error) {
	bad := func(format string, args ...any) error {
		return sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf(format, args...), documentPath+" lists the parameters of "+r.method+" "+r.path)
	}
	values, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return nil, bad("the query is not well formed")
	}
	into := reflect.New(r.query)
	fields := map[string]reflect.Value{}
	for _, f := range parameters(r.query) {
		fields[f.Tag.Get("query")] = into.Elem().FieldByIndex(f.Index)
	}
	for name, list := range values {
		field, ok := fields[name]
		switch {
		case !ok:
			return nil, bad("there is no parameter %q", name)
		case len(list) != 1:
			return nil, bad("the parameter %s stands %d times", name, len(list))
		}
		err := setField(field, list[0])
		if fits := r.strings[name]; err == nil && fits != nil {
			var quoted []byte
			if quoted, err = json.Marshal(list[0]); err == nil {
				err = fits.Validate(quoted)
			}
		}
		if err != nil {
			return nil, bad("the parameter %s: %v", name, err)
		}
	}
	return into.Interface(), nil
}

// parameters are the fields of a struct that have a query tag, also those of
// structs it embeds.
func parameters(t reflect.Type) []reflect.StructField {
	var out []reflect.StructField
	for _, f := range reflect.VisibleFields(t) {
		if f.Tag.Get("query") != "" {
			out = append(out, f)
		}
	}
	return out
}

func setField(field reflect.Value, text string) error {
	switch into := field.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		if err := into.UnmarshalText([]byte(text)); err != nil {
			if _, ok := into.(*time.Time); ok {
				return fmt.Errorf("%q is not a time as in RFC 3339, such as 2026-07-01T12:00:00Z", text)
			}
			return err
		}
		return nil
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			return fmt.Errorf("%q is not a number from 1 to %d", text, maxPage)
		}
		*into = n
		return nil
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*into = text == "true"
		return nil
	default: // kinds of string
		field.SetString(text)
		return nil
	}
}

const (
	defaultPage = 50
	maxPage     = 500
)

// Page is one page of a listing, newest first.
type Page[T any] struct {
	Items []T `json:"items"`
	// Next is the cursor of the next page, absent at the end. A page may hold
	// fewer items than were asked for, or none, and still have a next one.
	Next string `json:"next,omitempty"`
}

// Paging is what every listing takes.
type Paging struct {
	Limit  int    `query:"limit" doc:"How many items at most: 1 to 500, 50 unless given."`
	Cursor string `query:"cursor" doc:"Where to continue: next of the page before. Opaque; good for the same listing only."`
}

func (p *Paging) limit() int {
	if p.Limit == 0 {
		return defaultPage
	}
	return p.Limit
}

// pageOf cuts a page from what was read with one item more than its limit, and
// takes the cursor from its last item.
func pageOf[T any](items []T, limit int, at func(*T) string) *Page[T] {
	p := &Page[T]{Items: items}
	if len(items) > limit {
		p.Items = items[:limit]
		p.Next = at(&p.Items[limit-1])
	}
	if p.Items == nil {
		p.Items = []T{} // never null
	}
	return p
}

// cursor makes the opaque form of a position in a listing.
func cursor(listing string, position ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(listing + " " + strings.Join(position, " ")))
}

// positionOf reads a cursor of the listing with as many parts as it has; nil for
// an empty one.
func positionOf(listing, text string, parts int) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	words := strings.Split(string(raw), " ")
	if err != nil || len(words) != 1+parts || words[0] != listing {
		return nil, badCursor
	}
	return words[1:], nil
}

var badCursor = sallyport.Refuse(sallyport.BadRequest, "the cursor is not one of this listing", "take it from next of the page before, or leave it out for the newest")

func micros(t time.Time) string { return strconv.FormatInt(t.UnixMicro(), 10) }

func timeOf(micros string) (time.Time, error) {
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}, badCursor
	}
	return time.UnixMicro(n).UTC(), nil
}
