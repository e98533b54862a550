package wire_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/wire"
)

func TestItems(t *testing.T) {
	result := []byte(`{"nextCursor":"c\u0032","t\u006fols":[ {"name":"a", "n":1.0} ,{"name":"b"}, 3 ],"ttlMs":5}`)
	items, cursor, err := wire.Items(result, "tools")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, item := range items {
		texts = append(texts, string(item))
	}
	if diff := cmp.Diff([]string{`{"name":"a", "n":1.0}`, `{"name":"b"}`, "3"}, texts); diff != "" {
		t.Error(diff)
	}
	if cursor != "c2" {
		t.Errorf("cursor %q", cursor)
	}
	items[0][0] = '!' // they are parts of what was given, and cannot grow into one another
	if !strings.Contains(string(result), `[ !"name"`) {
		t.Error("items were copied")
	}
	if grown := append(items[1], "xxx"...); !strings.Contains(string(result), `{"name":"b"}, 3`) {
		t.Errorf("%s grew over its neighbour: %s", grown, result)
	}

	for _, c := range []struct {
		raw, cursor string
		n           int
	}{
		{`{"tools":[]}`, "", 0},
		{` {"tools":[1,2],"nextCursor":null} `, "", 2},
		{`{"tools":[[1,2]],"nextCursor":""}`, "", 1},
	} {
		items, cursor, err := wire.Items([]byte(c.raw), "tools")
		if err != nil || cursor != c.cursor || len(items) != c.n {
			t.Errorf("%s: %d items, cursor %q, %v", c.raw, len(items), cursor, err)
		}
	}
	for raw, reason := range map[string]string{
		`{}`:                                   "no tools",
		`{"Tools":[]}`:                         "no tools",
		`{"tools":null}`:                       "not an array",
		`{"tools":{}}`:                         "not an array",
		`[]`:                                   "not an object",
		``:                                     "no JSON value",
		`{"tools":[],"nextCursor":1}`:          "not a string",
		`{"tools":[{"a":1,"a":2}]}`:            "same name",
		`{"tools":[],"x":1,"x":2}`:             "same name",
		`{"tools":[1 2]}`:                      "',' or ']'",
		`{"tools":[]} x`:                       "more text",
		`{"tools":[` + strings.Repeat("[", 70): "deeper",
	} {
		_, _, err := wire.Items([]byte(raw), "tools")
		var syntax *wire.SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(syntax.Reason, reason) {
			t.Errorf("%s: %v, want %q", raw, err, reason)
		}
	}
}

func TestField(t *testing.T) {
	obj := []byte(`{"a":{"b":"no"},"\u0062": [1, 2] ,"c":null,"":7}`)
	for key, want := range map[string]string{"a": `{"b":"no"}`, "b": "[1, 2]", "c": "null", "": "7"} {
		got, ok, err := wire.Field(obj, key)
		if err != nil || !ok || string(got) != want {
			t.Errorf("%q: %q, %v, %v", key, got, ok, err)
		}
	}
	for _, key := range []string{"A", "d", `\u0062`} {
		if got, ok, err := wire.Field(obj, key); err != nil || ok || got != nil {
			t.Errorf("%q: %q, %v, %v", key, got, ok, err)
		}
	}
	for _, raw := range []string{``, `[]`, `"a"`, `{"a":1`, `{"a":1}}`, `{"a":1,"b":2,"b":3}`, `{"a":1,"b":"` + "\xff" + `"}`} {
		if got, ok, err := wire.Field([]byte(raw), "a"); err == nil || ok || got != nil {
			t.Errorf("%s: %q, %v, %v", raw, got, ok, err)
		}
	}
}

func TestEach(t *testing.T) {
	var got []string
	err := wire.Each([]byte(`{ "b":1.0, "\u0061" : {"x":[]}, "":"" }`), func(key string, value []byte) error {
		got = append(got, key+"="+string(value))
		return nil
	})
	if diff := cmp.Diff([]string{"b=1.0", `a={"x":[]}`, `=""`}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}

	stop := errors.New("enough")
	n := 0
	if err := wire.Each([]byte(`{"a":1,"b":2,!`), func(string, []byte) error { n++; return stop }); err != stop || n != 1 {
		t.Errorf("%d calls, %v", n, err)
	}
	if err := wire.Each([]byte(`{"a":1,"a":2}`), func(string, []byte) error { return nil }); err == nil {
		t.Error("duplicate names were accepted")
	}
}

func TestStrings(t *testing.T) {
	got, err := wire.Strings([]byte(` [ "a" ,"\u00e4\n", ""] `))
	if diff := cmp.Diff([]string{"a", "ä\n", ""}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := wire.Strings([]byte(`[]`)); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	for _, raw := range []string{``, `{}`, `["a",1]`, `["a",null]`, `["a"`, `["\ud800"]`} {
		if got, err := wire.Strings([]byte(raw)); err == nil {
			t.Errorf("%s: %q", raw, got)
		}
	}
}

// TestFieldsFindWhatV2Finds compares every member and element of generated
// documents with those json v2 finds.
func TestFieldsFindWhatV2Finds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(genObject(t, 4, 30, nil))
		var want map[string]jsontext.Value
		if err := jsonv2.Unmarshal(raw, &want); err != nil {
			t.Fatalf("generated what v2 refuses: %q: %v", raw, err)
		}
		n := 0
		if err := wire.Each(raw, func(key string, value []byte) error {
			n++
			if string(want[key]) != string(value) {
				return fmt.Errorf("%q is %q, for v2 %q", key, value, want[key])
			}
			field, ok, err := wire.Field(raw, key)
			if err != nil || !ok || string(field) != string(value) {
				return fmt.Errorf("field %q is %q, %v, %v", key, field, ok, err)
			}
			if value[0] != '[' {
				return nil
			}
			items, _, err := wire.Items(raw, key)
			if err != nil && key != "nextCursor" {
				return err
			}
			var elements []jsontext.Value
			if err := jsonv2.Unmarshal(value, &elements); err != nil {
				return err
			}
			if !slices.EqualFunc(items, elements, func(a []byte, b jsontext.Value) bool { return string(a) == string(b) }) {
				return fmt.Errorf("items %q, for v2 %q", items, elements)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if n != len(want) {
			t.Fatalf("%d members, for v2 %d", n, len(want))
		}
	})
}

// FuzzFields takes documents apart and holds the parts against json v2: the same
// documents are objects and arrays to both, with the same members, names and
// elements, each where it was in the bytes that were given.
func FuzzFields(f *testing.F) {
	for _, raw := range []string{
		`{}`, `[]`, ` {"a":1,"\u0061b":[ 1.0 , {"c":null} ]} `, `{"a":1,"\u0061":2}`, `[1,"x\ud83d\ude00",{"tools":[]}]`, `{"tools":[{"name":"a"},2],"nextCursor":"c\u0032"}`,
		`{"tools":[],"nextCursor":null}`, `{"tools":{}}`, `{"":{"":[]}}`, "{\"\xff\":1}", `{"\ud800":1}`, `[1,]`, `[1]x`, "\ufeff[]", `{"a":1E400,"b":-0}`, strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 65) + strings.Repeat("]", 65), `["a","b\n"]`,
	} {
		f.Add([]byte(raw), "a")
		f.Add([]byte(raw), "tools")
	}
	f.Fuzz(func(t *testing.T, raw []byte, key string) {
		value := jsontext.Value(raw)
		valid, kind := value.IsValid(), value.Kind()
		// Beyond v2 there is a limit of depth; nothing else may make a difference.
		shallow := depthOf(raw) <= wire.DefaultDepth
		var names []string
		members := map[string]string{}
		err := wire.Each(raw, func(name string, value []byte) error {
			names = append(names, name)
			members[name] = string(value)
			return nil
		})
		if want := valid && kind == '{' && shallow; (err == nil) != want {
			t.Fatalf("members of %q: %v, v2 says %v", raw, err, want)
		}
		field, ok, fieldErr := wire.Field(raw, key)
		at, spanOK, spanErr := wire.FieldSpan(raw, key)
		if (fieldErr == nil) != (err == nil) || (spanErr == nil) != (err == nil) || ok != spanOK || string(field) != string(at.Of(raw)) {
			t.Fatalf("field %q of %q: %q %v %v; at %v %v %v", key, raw, field, ok, fieldErr, at, spanOK, spanErr)
		}
		if err == nil {
			var want map[string]jsontext.Value
			if err := jsonv2.Unmarshal(raw, &want); err != nil {
				t.Fatalf("v2 refuses %q: %v", raw, err)
			}
			if len(names) != len(want) {
				t.Fatalf("%q has %q, v2 says %v", raw, names, want)
			}
			for name, value := range want {
				if members[name] != string(value) {
					t.Fatalf("%q of %q is %q, v2 says %q", name, raw, members[name], value)
				}
			}
			if value, there := want[key]; there != ok || string(value) != string(field) {
				t.Fatalf("%q of %q is %q, v2 says %q", key, raw, field, value)
			}
		}
		elements, err := wire.Elements(raw)
		if want := valid && kind == '[' && shallow; (err == nil) != want {
			t.Fatalf("elements of %q: %v, v2 says %v", raw, err, want)
		}
		if err == nil {
			var want []jsontext.Value
			if err := jsonv2.Unmarshal(raw, &want); err != nil || len(want) != len(elements) {
				t.Fatalf("%q has %q, v2 says %v, %v", raw, elements, want, err)
			}
			for i := range want {
				if string(want[i]) != string(elements[i]) {
					t.Fatalf("element %d of %q is %q, v2 says %q", i, raw, elements[i], want[i])
				}
			}
			var texts []string
			v2 := jsonv2.Unmarshal(raw, &texts)
			for _, e := range want { // v2 takes null for an empty string
				if e.Kind() != '"' {
					v2 = errors.New("not a string")
				}
			}
			got, err := wire.Strings(raw)
			if (err == nil) != (v2 == nil) || err == nil && !slices.Equal(got, texts) {
				t.Fatalf("strings of %q: %q %v, v2 says %q %v", raw, got, err, texts, v2)
			}
		}
		items, cursor, err := wire.Items(raw, key)
		if err == nil && (!valid || len(items) > len(raw) || len(cursor) > len(raw)) {
			t.Fatalf("items of %q: %q %q", raw, items, cursor)
		}
	})
}

// depthOf counts brackets outside strings: how deeply a good document nests.
func depthOf(raw []byte) (most int) {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
			most = max(most, depth)
		case c == '}', c == ']':
			depth--
		}
	}
	return most
}
