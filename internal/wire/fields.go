package wire

// The functions of this file take parts of messages apart. They are as strict as
// Scan, read the whole part before they return without an error, and hand out
// parts of what they were given, never copies. Nesting is limited to
// DefaultDepth; size is not, since the message was measured. Errors are
// *SyntaxError, with offsets into the part.

func (s *scanner) whole(first byte, what string, visit member) bool {
	if !s.begin(1<<31 - 1) {
		return false
	}
	if s.peek() != first {
		return s.failAt(InvalidRequest, "not "+what, s.i)
	}
	if first == '{' {
		return s.object(plain, visit) && s.end()
	}
	return s.array(visit) && s.end()
}

// Each calls fn with the unescaped name and the raw value of each member of an
// object, in their order, until fn returns an error, which it returns. fn may have
// seen some members when a later one turns out to be bad.
func Each(obj []byte, fn func(key string, value []byte) error) error {
	s := scanner{b: obj, depth: DefaultDepth}
	var err error
	ok := s.whole('{', "an object", func(name, value Span) bool {
		err = fn(string(unquoted(name.Of(obj))), value.Of(obj))
		return err == nil
	})
	if err != nil {
		return err
	}
	if !ok {
		return s.err
	}
	return nil
}

// Field returns the raw value of one member of an object, and whether there is
// one.
func Field(obj []byte, key string) (raw []byte, ok bool, err error) {
	at, ok, err := FieldSpan(obj, key)
	if !ok {
		return nil, false, err
	}
	return at.Of(obj), true, nil
}

// FieldSpan is where the value that [Field] returns lies in the object.
func FieldSpan(obj []byte, key string) (at Span, ok bool, err error) {
	s := scanner{b: obj, depth: DefaultDepth}
	if !s.whole('{', "an object", func(name, value Span) bool {
		if string(unquoted(name.Of(obj))) == key {
			at, ok = value, true
		}
		return true
	}) {
		return Span{}, false, s.err
	}
	return at, ok, nil
}

// Elements returns the raw elements of an array.
func Elements(arr []byte) ([][]byte, error) {
	s := scanner{b: arr, depth: DefaultDepth}
	var items [][]byte
	if !s.whole('[', "an array", func(_, value Span) bool {
		items = append(items, value.Of(arr))
		return true
	}) {
		return nil, s.err
	}
	return items, nil
}

// Items returns the raw elements of the array result.<key> of a list method, and
// result.nextCursor, "" if this is the last page. A result without the array is an
// error.
func Items(result []byte, key string) (items [][]byte, nextCursor string, err error) {
	var list, cursor []byte
	s := scanner{b: result, depth: DefaultDepth}
	if !s.whole('{', "an object", func(name, value Span) bool {
		switch string(unquoted(name.Of(result))) {
		case key:
			list = value.Of(result)
		case "nextCursor":
			cursor = value.Of(result)
		}
		return true
	}) {
		return nil, "", s.err
	}
	if list == nil {
		return nil, "", &SyntaxError{Code: InvalidRequest, Reason: "result has no " + key}
	}
	if items, err = Elements(list); err != nil {
		return nil, "", err
	}
	if cursor == nil || string(cursor) == "null" {
		return items, "", nil
	}
	nextCursor, err = DecodeString(cursor)
	return items, nextCursor, err
}

// Strings returns the unescaped elements of an array of strings.
func Strings(arr []byte) ([]string, error) {
	elements, err := Elements(arr)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		if texts[i], err = DecodeString(e); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// DecodeString returns the text of a JSON string, given with its quotes and
// nothing around them.
func DecodeString(tok []byte) (string, error) {
	s := scanner{b: tok}
	if s.peek() != '"' {
		s.failAt(InvalidRequest, "not a string", 0)
		return "", s.err
	}
	if _, ok := s.str(); !ok {
		return "", s.err
	}
	if s.i != len(tok) {
		s.fail("more text after the string")
		return "", s.err
	}
	return string(unquoted(tok)), nil
}
