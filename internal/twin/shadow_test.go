package twin_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/internal/canonical"
	"sallyport/internal/twin"
	"sallyport/internal/wire"
)

func shadowOf(t interface{ Fatal(...any) }, definition string) *twin.Run {
	def, err := twin.Parse([]byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	if err := def.FitsShadow(); err != nil {
		t.Fatal(err)
	}
	w, err := twin.Compile(def, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.NewShadow(7, time.Unix(1_700_000_000, 0))
}

const deskShadow = `{"world":"desk","tables":{"tickets":{"key":"id","id":{"style":"prefix","prefix":"t_"}},"people":{"key":"id"}},
"tools":{
 "get":{"get":"tickets","key":"args.id","missing":"no such ticket"},
 "open":{"list":"tickets","match":{"status":"\"open\""},"order":"-rank"},
 "page":{"list":"tickets","limit":"args.get(\"limit\", 2)","fields":["id","rank"]},
 "make":{"create":"tickets"},
 "set":{"patch":"tickets","key":"args.id"},
 "drop":{"delete":"tickets","key":"args.id"},
 "tidy":{"steps":[{"update":"tickets","key":"args.id","set":{"note":"None"}},{"return":{"ok":true}}]}},
"shadow":{"reads":{"get":{"table":"tickets","row":""},"open":{"table":"tickets","rows":"/items","count":"/total"},
 "page":{"table":"tickets","rows":"","more":"/0/more"},"all":{"table":"tickets","rows":"/items","show":"True"},"mine":{"table":"tickets","rows":"/items"},
 "top":{"table":"tickets","row":"/top"},"person":{"table":"people","row":""},
 "both":[{"table":"tickets","rows":"/items","show":"True","count":"none"},{"table":"tickets","row":"/top","show":"True"}]},
 "fetch":{"tickets":{"tool":"get","args":{"id":"key"}}},"apart":["rain"]}}`

// TestPatch: what an answer has to say differently, and what cannot be said.
func TestPatch(t *testing.T) {
	const a, b = `{"id":"a", "status":"open" ,"rank":2, "n":1e2}`, `{"id":"b","status":"open","rank":1}`
	for _, c := range []struct {
		name, calls, read, args, live, want, why string
	}{
		{"nothing changed", `person {}`, "all", `{}`, `{"items":[` + a + `]}`, "", ""},
		{"a member", `set {"id":"a","status":"done"}`, "get", `{"id":"a"}`, a, `{"id":"a", "status":"done" ,"rank":2, "n":1e2}`, ""},
		{"a new member", `set {"id":"b","who":[1]}`, "get", `{"id":"b"}`, b, `{"id":"b","status":"open","rank":1,"who":[1]}`, ""},
		{"a part of a row gets no new members", `set {"id":"b","who":[1]}`, "all", `{}`, `{"items":[{"id":"b"}]}`, "", ""},
		{"another row", `set {"id":"a","status":"done"}`, "get", `{"id":"b"}`, b, "", ""},
		{"a row that went", `drop {"id":"a"}`, "all", `{}`, `{"items":[ ` + a + ` , ` + b + ` ]}`, `{"items":[ ` + b + ` ]}`, ""},
		{"the last row", `drop {"id":"b"}`, "all", `{}`, `{"items":[ ` + a + ` , ` + b + ` ]}`, `{"items":[ ` + a + ` ]}`, ""},
		{"all rows", `drop {"id":"a"} drop {"id":"b"}`, "all", `{}`, `{"items":[ ` + a + ` , ` + b + ` ]}`, `{"items":[  ]}`, ""},
		{"out of a match, and the count", `set {"id":"a","status":"done"}`, "open", `{}`, `{"items":[` + a + `,` + b + `],"total":2}`, `{"items":[` + b + `],"total":1}`, ""},
		{"in order", `make {"id":"m","status":"open","rank":1.5}`, "open", `{}`, `{"items":[` + a + `,` + b + `],"total":2}`, `{"items":[` + a + `,{"id":"m","status":"open","rank":1.5},` + b + `],"total":3}`, ""},
		{"first in order, where a row went", `make {"id":"m","status":"open","rank":9} drop {"id":"a"}`, "open", `{}`, `{"items":[` + a + `,` + b + `],"total":2}`, `{"items":[{"id":"m","status":"open","rank":9},` + b + `],"total":2}`, ""},
		{"into an empty list", `make {"id":"m","status":"open"}`, "open", `{}`, `{"items":[],"total":0}`, `{"items":[{"id":"m","status":"open"}],"total":1}`, ""},
		{"not into it", `make {"id":"m","status":"done"}`, "open", `{}`, `{"items":[],"total":0}`, "", ""},
		{"members as the rule names them", `make {"id":"m","status":"open","rank":9}`, "page", `{}`, `[{"id":"b","rank":1}]`, `[{"id":"b","rank":1},{"id":"m","rank":9}]`, ""},
		{"a full page", `make {"id":"m","rank":9}`, "page", `{"limit":1}`, `[{"id":"b","rank":1}]`, "", "one page of several"},
		{"a page with more to come", `make {"id":"m","rank":9}`, "page", `{}`, `[{"id":"b","rank":1,"more":true}]`, "", ""},
		{"a removed member", `set {"id":"a","note":"x"} tidy {"id":"a"}`, "get", `{"id":"a"}`, a, `{"id":"a", "status":"open" ,"rank":2, "n":1e2,"note":null}`, ""},
		{"nobody says what belongs", `make {"id":"m"}`, "mine", `{}`, `{"items":[]}`, "", "say it with show"},
		{"nobody says what counts", `make {"id":"m"}`, "all", `{}`, `{"items":[],"n":0}`, "", "may count them"},
		{"nobody says what it shows", `make {"id":"m"}`, "search", `{}`, `{"items":[]}`, "", "shadow.reads"},
		{"it shows nothing of it", `make {"id":"m"}`, "rain", `{}`, `{"mm":3}`, "", ""},
		{"a table of its own", `make {"id":"m"}`, "person", `{}`, `{"id":"p"}`, "", ""},
		{"one row that another may stand for", `make {"id":"m"}`, "top", `{}`, `{"top":` + b + `}`, "", "may belong"},
		{"one row that is gone", `drop {"id":"b"}`, "top", `{}`, `{"top":` + b + `}`, "", "has removed"},
		{"an error where rows may be", `make {"id":"m"}`, "open", `{}`, "", "", "does not hold rows"},
		{"an error about a row that the run has changed", `set {"id":"a","status":"done"}`, "get", `{"id":"a"}`, "", "", "may belong"},
		{"an error about another row", `set {"id":"a","status":"done"}`, "get", `{"id":"b"}`, "", "", ""},
		{"rows that are elsewhere", `set {"id":"a","status":"done"}`, "all", `{}`, `{"list":[]}`, "", "does not hold"},
		{"a row in two places", `set {"id":"a","status":"done"}`, "both", `{}`, `{"top":` + a + `,"items":[` + a + `]}`, `{"top":` + strings.Replace(a, "open", "done", 1) + `,"items":[` + strings.Replace(a, "open", "done", 1) + `]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := shadowOf(t, deskShadow)
			for _, row := range []string{a, b} {
				if err := r.Learn("get", []byte(row)); err != nil {
					t.Fatal(err)
				}
			}
			for _, one := range strings.SplitAfter(c.calls, "}") {
				name, args, ok := strings.Cut(strings.TrimSpace(one), " ")
				if !ok || name == "person" {
					continue
				}
				for range 2 {
					answer, err := r.Call(tool(name), []byte(args), 0)
					var unknown *twin.Unknown
					if errors.As(err, &unknown) {
						if err := r.Fetched(unknown, nil, "Error: no such ticket"); err != nil {
							t.Fatal(err)
						}
						continue
					}
					if err != nil || answer.IsError {
						t.Fatalf("%s: %+v %v", one, answer, err)
					}
					break
				}
			}
			var live []byte
			if c.live != "" {
				live = []byte(c.live)
				if err := r.Learn(c.read, live); err != nil && c.why == "" {
					t.Fatal(err)
				}
			}
			edits, err := r.Patch(tool(c.read), []byte(c.args), live)
			if c.why != "" {
				if err == nil || !strings.Contains(err.Error(), c.why) {
					t.Fatalf("it was patched by %v, or not for another reason: %v", edits, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(wire.Splice(live, edits...)), cmp.Or(c.want, c.live); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// TestUnknown: what a rule would have to know is asked for or given up, never guessed;
// and a row that the live system changes meanwhile keeps what the run has made of it.
func TestUnknown(t *testing.T) {
	r := shadowOf(t, deskShadow)
	var unknown *twin.Unknown
	set := func() (twin.Answer, error) { return r.Call(tool("set"), []byte(`{"id":"a","status":"done"}`), 0) }
	if _, err := set(); !errors.As(err, &unknown) || unknown.Table != "tickets" || unknown.Key != `"a"` {
		t.Fatal(err)
	}
	if name, args, err := r.Fetch(unknown); name != "get" || string(args) != `{"id":"a"}` || err != nil {
		t.Errorf("%s %s %v", name, args, err)
	}
	for _, wrong := range []struct{ document, text string }{{"", "rate limited"}, {`{"id":"b"}`, ""}, {`[]`, ""}, {`{"name":"a"}`, ""}} {
		var document []byte
		if wrong.document != "" {
			document = []byte(wrong.document)
		}
		if err := r.Fetched(unknown, document, wrong.text); err == nil {
			t.Errorf("%+v says what a is", wrong)
		}
	}
	if err := r.Learn("all", []byte(`{"items":[{"id":"a","status":"open"}]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := set(); !errors.As(err, &unknown) {
		t.Errorf("a part of a row is not the row: %v", err)
	}
	if err := r.Fetched(unknown, []byte(`{"id":"a","status":"open","rank":1}`), ""); err != nil {
		t.Fatal(err)
	}
	before := r.Snapshot()
	if a, err := set(); err != nil || string(a.Structured) != `{"id":"a","status":"done","rank":1}` {
		t.Fatalf("%s %v", a.Structured, err)
	}
	live := []byte(`{"id":"a","status":"open","rank":5}`)
	if err := r.Learn("get", live); err != nil {
		t.Fatal(err)
	}
	if err := r.Reset(before); err == nil {
		t.Error("a run forgot what it has learned")
	}
	edits, err := r.Patch(tool("get"), []byte(`{"id":"a"}`), live)
	if got := string(wire.Splice(live, edits...)); err != nil || got != `{"id":"a","status":"done","rank":5}` {
		t.Errorf("%s %v", got, err)
	}
	// Ids that a world makes are new to it; one that the live system has, too, shows.
	made, err := r.Call(tool("make"), []byte(`{"status":"open"}`), 1)
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := wire.Field(made.Structured, "id")
	if own, err := r.Owns(tool("get"), fmt.Appendf(nil, `{"id":%s}`, id)); !own || err != nil {
		t.Errorf("the run does not own what it made: %v", err)
	}
	if err := r.Learn("get", fmt.Appendf(nil, `{"id":%s}`, id)); err == nil {
		t.Error("the live system has a row with the key of one that the run made, and nobody said so")
	}
}

// TestPatchAgreesWithPlainTables: a list that is patched holds the rows that a table
// would hold which had been changed in place; those that the run has not touched have
// their bytes.
func TestPatchAgreesWithPlainTables(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := shadowOf(t, deskShadow)
		rows, order := map[string]map[string]string{}, []string{}
		var live []string
		for i := range rapid.IntRange(0, 5).Draw(t, "rows") {
			id := string(rune('a' + i))
			rank, status := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "rank")), rapid.SampledFrom([]string{`"open"`, `"done"`}).Draw(t, "status")
			rows[id], order = map[string]string{"id": `"` + id + `"`, "rank": rank, "status": status}, append(order, id)
			live = append(live, fmt.Sprintf(`{ "rank":%s , "id":"%s","status": %s}`, rank, id, status))
			if err := r.Learn("get", []byte(live[i])); err != nil {
				t.Fatal(err)
			}
		}
		touched := map[string]bool{}
		for n := range rapid.IntRange(0, 6).Draw(t, "changes") {
			name := rapid.SampledFrom([]string{"set", "drop", "make"}).Draw(t, "change")
			id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "x", "y"}).Draw(t, "id")
			status := rapid.SampledFrom([]string{`"open"`, `"done"`}).Draw(t, "to")
			args := fmt.Sprintf(`{"id":"%s","status":%s}`, id, status)
			a, err := r.Call(tool(name), []byte(args), n)
			var unknown *twin.Unknown
			if errors.As(err, &unknown) {
				if err := r.Fetched(unknown, nil, "no such ticket"); err != nil {
					t.Fatal(err)
				}
				a, err = r.Call(tool(name), []byte(args), n)
			}
			_, there := rows[id]
			if err != nil || a.IsError != (there == (name == "make")) {
				t.Fatalf("%s %s: %+v %v", name, args, a, err)
			}
			if a.IsError {
				continue
			}
			touched[id] = true
			switch name {
			case "set":
				rows[id]["status"] = status
			case "drop":
				delete(rows, id)
				order = slices.DeleteFunc(order, func(o string) bool { return o == id })
			default:
				rows[id], order = map[string]string{"id": `"` + id + `"`, "status": status}, append(order, id)
			}
		}
		document := []byte("{\"items\": [\n" + strings.Join(live, " ,\n") + "\n] }")
		edits, err := r.Patch(tool("all"), nil, document)
		if err != nil {
			t.Fatal(err)
		}
		got := wire.Splice(document, edits...)
		items, _, err := wire.Field(got, "items")
		if err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		elements, err := wire.Elements(items)
		if err != nil {
			t.Fatal(err)
		}
		var have, want []string
		for _, e := range elements {
			c, err := canonical.JSON(e)
			if err != nil {
				t.Fatal(err)
			}
			have = append(have, string(c))
		}
		for _, id := range order {
			row := []byte{'{'}
			for name, v := range rows[id] {
				row = append(row, fmt.Sprintf(`,"%s":%s`, name, v)...)
			}
			c, err := canonical.JSON([]byte(strings.Replace(string(row)+"}", "{,", "{", 1)))
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, string(c))
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Fatalf("%s\n got %v\nwant %v", got, have, want)
		}
		for i, row := range live {
			if id := string(rune('a' + i)); !touched[id] && !strings.Contains(string(got), row) {
				t.Fatalf("%s is not as it came: %s", id, got)
			}
		}
	})
}
