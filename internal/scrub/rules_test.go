package scrub_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/scrub"
)

const schemaText = `{"type":"array","items":{"properties":{
  "mail":{"x-data-class":"email"},
  "nick":{"x-data-class":{"class":"name","action":"redact"}},
  "tags":{"items":{"x-data-class":"drop"}},
  "home":{"$ref":"#/$defs/place"},
  "a/b":{"anyOf":[{"x-data-class":"keep"},{"type":"null"}]},
  "tree":{"$ref":"#/$defs/node"}},
  "additionalProperties":{"x-data-class":"text"}},
 "$defs":{"place":{"properties":{"street":{"x-data-class":"address"}}},
  "node":{"properties":{"name":{"x-data-class":"name"},"kids":{"items":{"$ref":"#/$defs/node"}}}}}}`

func TestParseRules(t *testing.T) {
	r, err := scrub.ParseRules("c.yaml", []byte(`
subject: customer_id
columns:
  ref: id
  note: {class: text, action: redact}
  shop: keep
pointers:
  /mail: keep
  /x/**/y: {action: drop}
classes: {ip: redact, secret: drop}
schema: s.json
`), func(name string) ([]byte, error) { return []byte(schemaText), nil })
	if err != nil {
		t.Fatal(err)
	}
	if r.Subject != "customer_id" {
		t.Errorf("subject %q", r.Subject)
	}
	if diff := cmp.Diff(map[string]scrub.Rule{"ref": of("id"), "note": do(scrub.Redact, "text"), "shop": do(scrub.Keep, "")}, r.Columns); diff != "" {
		t.Error(diff)
	}
	for at, want := range map[string]scrub.Rule{
		"/mail": do(scrub.Keep, ""), "/x/**/y": do(scrub.Drop, ""), "/nick": do(scrub.Redact, "name"), "/tags/*": do(scrub.Drop, ""), "/home/street": of("address"),
		"/a~1b": do(scrub.Keep, ""), "/*": of("text"), "/tree/name": of("name"), "/tree/kids/*/kids/*/name": of("name"),
	} {
		if got := r.Pointers[at]; got != want {
			t.Errorf("%s: %+v, want %+v", at, got, want)
		}
	}
	s := scrubber(t, 1, *r)
	if got := jsonOf(t, s, `{"mail":"a@corp.example","nick":"Bob","a/b":"a@corp.example","y":1,"x":{"q":{"y":1}}}`); !strings.HasPrefix(got, `{"mail":"a@corp.example","nick":"[name]","a/b":"a@corp.example",`) || !strings.HasSuffix(got, `{"y":null}}}`) {
		t.Errorf("got %s", got)
	}
}

func TestRulesDigest(t *testing.T) {
	parse := func(text string) string {
		r, err := scrub.ParseRules("c.yaml", []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest()
	}
	a := parse("columns: {a: id, b: {class: name, action: pseudonymise}}\nclasses: {ip: redact}")
	if b := parse("classes:\n  ip: redact\ncolumns:\n  b: name\n  a: {class: id}\n"); a != b {
		t.Error("the same rules have two digests")
	}
	seen := map[string]bool{a: true}
	for _, other := range []string{"", "subject: a", "columns: {a: id}", "pointers: {/a: id}", "columns: {a: name}", "columns: {a: keep}", "classes: {ip: drop}"} {
		if d := parse(other); seen[d] {
			t.Errorf("%q has a digest that others have", other)
		} else {
			seen[d] = true
		}
	}
}

func TestRulesRefused(t *testing.T) {
	read := func(name string) ([]byte, error) {
		if name == "none.json" {
			return nil, errors.New("there is none")
		}
		return []byte(name), nil
	}
	for _, c := range []struct{ text, want string }{
		{"colums: {}", `c.yaml:1:1: unknown member "colums"`},
		{"columns:\n  a: mail", `c.yaml:2:6: there is no class "mail"`},
		{"columns:\n  a: {action: pseudonymise}", "c.yaml:2:6: a class is missing"},
		{"columns:\n  a: {action: hide}", `c.yaml:2:15: "hide" is no action`},
		{"columns:\n  a: {clas: id}", "c.yaml:2:7: unknown member"},
		{"columns:\n  a: id\n  a: name", `c.yaml:3:3: "a" is here twice`},
		{"columns: [a]", "c.yaml:1:10: write members"},
		{"pointers: {a: id}", "begin it with a slash"},
		{"pointers: {/a~2: id}", "a ~ is written ~0"},
		{"pointers: {/**/**/**/a: id}", "at most twice"},
		{"classes: {email: keep}", "to keep values, declare their columns"},
		{"classes: {mail: drop}", "there is no class"},
		{"subject: [a]", "write a text"},
		{"subject: /a~", "a ~ is written ~0"},
		{"schema: none.json", "there is none"},
		{"schema: '{'", "not a JSON Schema"},
		{`schema: '{"$ref":"other.json"}'`, "only references into the same file"},
		{`schema: '{"$ref":"#/$defs/x"}'`, "leads nowhere"},
		{`schema: '{"properties":{"a":{"x-data-class":"mail"}}}'`, `x-data-class of "/a"`},
		{`schema: '{"properties":{"a":{"x-data-class":7}}}'`, `x-data-class of "/a"`},
		{`schema: '{"properties":{"*":{"x-data-class":"id"}}}'`, "no pointer can name it"},
		{`schema: '{"$defs":{"x":{"anyOf":[{"$ref":"#/$defs/x"},{"$ref":"#/$defs/x"},{"$ref":"#/$defs/x"}]}},"$ref":"#/$defs/x"}'`, "more than 10000"},
		{"a: b: c", "c.yaml: not YAML"},
		{"a: 1\n---\nb: 2", "more than one document"},
	} {
		if _, err := scrub.ParseRules("c.yaml", []byte(c.text), read); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := scrub.ParseRules("c.yaml", []byte("schema: x"), nil); err == nil {
		t.Error("a schema is read by nobody")
	}
	for _, r := range []scrub.Rules{
		{Columns: map[string]scrub.Rule{"a": {}}}, {Columns: map[string]scrub.Rule{"a": {Class: "id"}}}, {Classes: map[string]scrub.Action{"email": scrub.Keep}}, {Classes: map[string]scrub.Action{"email": 0}},
	} {
		if _, err := scrub.New([32]byte{}, &r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	f.Add("columns: {a: id}\npointers: {/a/*: keep}\nclasses: {ip: drop}\nsubject: x\n", `{"properties":{"a":{"x-data-class":"email"}}}`)
	f.Add("schema: s", schemaText)
	f.Fuzz(func(t *testing.T, text, schema string) {
		r, err := scrub.ParseRules("c.yaml", []byte(text), func(string) ([]byte, error) { return []byte(schema), nil })
		if err != nil {
			return
		}
		s, err := scrub.New([32]byte{1}, r)
		if err != nil {
			t.Fatalf("%q is read and not taken: %v", text, err)
		}
		if _, err := s.JSON(nil, []byte(`{"a":[{"b":"jane@corp.example"}]}`), new(scrub.Tally)); err != nil {
			t.Fatal(err)
		}
	})
}
