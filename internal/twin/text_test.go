package twin_test

import (
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/testkit"
	"sallyport/internal/twin"
)

// TestText: a tool may say something else in words than in its structured answer, and
// JSON in words may be indented.
func TestText(t *testing.T) {
	def, err := twin.Parse(testkit.FromYAML(t, []byte(`
world: words
style: indent
tools:
  message: {return: {ok: true, message: '"done: " + args.what'}, text: answer.message}
  part: {return: {items: [1.5, '"a"'], none: {}}, text: 'answer["items"]'}
  whole: {return: {items: [1, []]}}
  told: {return: {n: args.n}, text: 'json({"n": args.n}, "indent") + "\n"'}
  wrong: {return: {n: args.n}, text: answer.no}
`)))
	if err != nil {
		t.Fatal(err)
	}
	w, err := twin.Compile(def, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	run := w.NewRun(1)
	for _, c := range []struct{ tool, args, text, structured string }{
		{"message", `{"what":"it"}`, "done: it", `{"ok":true,"message":"done: it"}`},
		{"part", `{}`, "[\n  1.5,\n  \"a\"\n]", `{"items":[1.5,"a"],"none":{}}`},
		{"whole", `{}`, "{\n  \"items\": [\n    1,\n    []\n  ]\n}", `{"items":[1,[]]}`},
		{"told", `{"n":2.5}`, "{\n  \"n\": 2.5\n}\n", `{"n":2.5}`},
	} {
		a, err := run.Call(&sallyport.Tool{UpstreamName: c.tool}, []byte(c.args), 0)
		if err != nil || a.Text != c.text || string(a.Structured) != c.structured {
			t.Errorf("%s: %q, %s, %v; want %q, %s", c.tool, a.Text, a.Structured, err, c.text, c.structured)
		}
	}
	if _, err := run.Call(&sallyport.Tool{UpstreamName: "wrong"}, []byte(`{"n":1}`), 0); err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("a text that cannot be made: %v", err)
	}
	def, err = twin.Parse([]byte(`{"world":"words","tools":{"mute":{"return":"1","result":"structured","text":"answer"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := twin.Compile(def, nil, nil); err == nil || !strings.Contains(err.Error(), "/tools/mute/text") {
		t.Errorf("a text that nobody is told: %v", err)
	}
}
