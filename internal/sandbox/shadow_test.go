package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/wire"
)

// office is a live system, its reads, and what was recorded of one run over it.
type office struct {
	def  sallyport.WorldDefinition
	rows map[string]string
	past []sallyport.PastCall
}

const officeTwin = `{"world":"desk","tables":{"tickets":{"key":"id","id":{"style":"prefix","prefix":"t_"}}},
"tools":{"get":{"get":"tickets","key":"args.id","missing":"no such ticket"},"set":{"patch":"tickets","key":"args.id"},"drop":{"delete":"tickets","key":"args.id"},
"make":{"create":"tickets","set":{"note":"args.note","at":"now()"}}},
"shadow":{"reads":{"get":{"table":"tickets","row":""},"list":{"table":"tickets","rows":"/items","show":"True"}},"fetch":{"tickets":{"tool":"get","args":{"id":"key"}}}}}`

func (d *office) World(context.Context, sallyport.Digest) (*sallyport.WorldDefinition, map[string][]byte, error) {
	return &d.def, nil, nil
}

func (d *office) Simulated(_ context.Context, _ sallyport.RunID, _ sallyport.Digest, from, to int) ([]sallyport.PastCall, error) {
	return slices.DeleteFunc(slices.Clone(d.past), func(p sallyport.PastCall) bool { return p.Number < from || p.Number >= to }), nil
}

// live is what the system says itself.
func (d *office) live(tool string, args []byte) []byte {
	document := ""
	switch tool {
	case "get":
		var a struct{ ID string }
		_ = json.Unmarshal(args, &a)
		if document = d.rows[a.ID]; document == "" {
			return []byte(`{"content":[{"type":"text","text":"no such ticket"}],"isError":true}`)
		}
	default:
		var all []string
		for _, id := range []string{"a", "b", "c"} {
			if d.rows[id] != "" {
				all = append(all, d.rows[id])
			}
		}
		document = `{"items":[` + strings.Join(all, ",") + `]}`
	}
	return textResult(document, []byte(document), wire.Sessions)
}

// call makes one call as the gateway does, and records what the gateway records.
func (d *office) call(t interface{ Fatal(...any) }, w *Worlds, number int, tool string, args []byte) *sallyport.ShadowStep {
	access := sallyport.Read
	if tool != "get" && tool != "list" {
		access = sallyport.Changing
	}
	q := &sallyport.Shadowed{Simulated: sallyport.Simulated{
		World: sallyport.WorldRef{Name: "desk", Digest: "sha256:desk"}, Tool: &sallyport.Tool{UpstreamName: tool, Access: access},
		Args: args, Era: wire.Sessions, Run: "run_01k00000000000000000000000", Seed: 3, Number: number,
	}}
	for {
		step, err := w.Shadow(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		ask := step.Ask
		if step.Pass {
			ask = &sallyport.LiveRead{Tool: tool, Args: args}
		}
		if ask == nil {
			past := sallyport.PastCall{Number: number + 1, Tool: tool, Args: args, Access: access, Opaque: step.Opaque}
			if len(q.Heard) > 0 && access == sallyport.Read {
				past.Result = q.Heard[0].Result
			}
			d.past = append(d.past, past)
			return step
		}
		heard := sallyport.Heard{Tool: ask.Tool, Args: ask.Args, Result: d.live(ask.Tool, ask.Args)}
		q.Heard = append(q.Heard, heard)
		if !step.Pass {
			d.past = append(d.past, sallyport.PastCall{Number: number + 1, Tool: ask.Tool, Args: ask.Args, Access: sallyport.Read, Result: heard.Result})
		}
	}
}

// TestShadowMadeAgain: a run over a live system goes on as if nothing had happened where
// another replica, or a later start, makes it again from its records; also if the live
// system has changed in between.
func TestShadowMadeAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fresh := func(d *office) *Worlds { return New(Config{Source: d, Now: time.Now}) }
		var through, restarted office
		for _, d := range []*office{&through, &restarted} {
			d.def = sallyport.WorldDefinition{Name: "desk", Twin: json.RawMessage(officeTwin)}
			d.rows = map[string]string{"a": `{"id":"a","n":1}`, "b": `{"id":"b","n":2}`}
		}
		w, v := fresh(&through), fresh(&restarted)
		made := []string{"a", "b", "c", "x"}
		for number := range rapid.IntRange(1, 12).Draw(t, "calls") {
			if rapid.IntRange(0, 3).Draw(t, "elsewhere") == 0 {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "row")
				row := rapid.SampledFrom([]string{"", fmt.Sprintf(`{"id":%q,"n":%d}`, id, 10+number)}).Draw(t, "becomes")
				through.rows[id], restarted.rows[id] = row, row
			}
			tool := rapid.SampledFrom([]string{"get", "list", "set", "drop", "make"}).Draw(t, "tool")
			args := fmt.Appendf(nil, `{"id":%q,"note":"n%d"}`, rapid.SampledFrom(made).Draw(t, "id"), number)
			if rapid.Bool().Draw(t, "restart") {
				v = fresh(&restarted)
			}
			a, b := through.call(t, w, number, tool, args), restarted.call(t, v, number, tool, args)
			if string(a.Result) != string(b.Result) || a.Opaque != b.Opaque || a.Own != b.Own {
				t.Fatalf("call %d, %s %s\n       got %s (%s)\nrestarted %s (%s)", number, tool, args, a.Result, a.Opaque, b.Result, b.Opaque)
			}
			if structured, ok, _ := wire.Field(a.Result, "structuredContent"); ok && tool == "make" {
				var row struct{ ID, At string }
				if err := json.Unmarshal(structured, &row); err != nil || row.At == "" || row.At[:4] != "2025" {
					t.Fatalf("%s: %v", structured, err)
				}
				made = append(made, row.ID)
			}
		}
	})
}

// TestShadowStaysOpaque: that a run is no evidence any more is believed of its records,
// also where nothing in the calls would say so again.
func TestShadowStaysOpaque(t *testing.T) {
	d := &office{def: sallyport.WorldDefinition{Name: "desk", Twin: json.RawMessage(officeTwin)}, rows: map[string]string{"a": `{"id":"a"}`}}
	d.past = []sallyport.PastCall{{Number: 1, Tool: "get", Args: []byte(`{"id":"a"}`), Access: sallyport.Read, Opaque: "so it was"}}
	if step := d.call(t, New(Config{Source: d, Now: time.Now}), 1, "get", []byte(`{"id":"a"}`)); step.Opaque != "so it was" {
		t.Errorf("%+v", step)
	}
}

// TestShadowNeedsAnEmptyWorld: what is made up for a sandbox cannot lie over a live
// system, whatever was registered.
func TestShadowNeedsAnEmptyWorld(t *testing.T) {
	for name, change := range map[string]func(d *sallyport.WorldDefinition){
		"a fallback": func(d *sallyport.WorldDefinition) { d.Fallback = sallyport.FallbackSchema },
		"faults":     func(d *sallyport.WorldDefinition) { d.Faults = json.RawMessage(`{"profile":"flaky"}`) },
		"no tables":  func(d *sallyport.WorldDefinition) { d.Twin = json.RawMessage(`{"world":"desk"}`) },
		"no id that is free": func(d *sallyport.WorldDefinition) {
			d.Twin = json.RawMessage(strings.Replace(officeTwin, `{"style":"prefix","prefix":"t_"}`, `{"style":"sequence"}`, 1))
		},
	} {
		d := &office{def: sallyport.WorldDefinition{Name: "desk", Twin: json.RawMessage(officeTwin)}}
		change(&d.def)
		_, err := New(Config{Source: d, Now: time.Now}).Shadow(t.Context(), &sallyport.Shadowed{Simulated: sallyport.Simulated{
			World: sallyport.WorldRef{Digest: "sha256:desk"}, Tool: &sallyport.Tool{UpstreamName: "get", Access: sallyport.Read}, Args: []byte(`{}`),
		}})
		if r, ok := err.(*sallyport.Refusal); !ok || r.Code != sallyport.BadConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPatched: the places of a result are found whatever its texts are, and edits of a
// text change its meaning and nothing else of it.
func FuzzPatched(f *testing.F) {
	f.Add([]byte(`{"content":[{"type":"text","text":"{\"a\":\"\u00e9\ud83d\ude00\",\"b\":1}"}],"structuredContent":{"b":1, "a":"é😀"}}`))
	f.Add([]byte(`{"content":[{"type":"text","text":"[1, 2]"},{"type":"image"}]}`))
	f.Add([]byte(`{"content":[{"type":"text","text":"words"}],"isError":true}`))
	f.Fuzz(func(t *testing.T, result []byte) {
		if wire.Each(result, func(string, []byte) error { return nil }) != nil {
			return
		}
		texts := textsOf(result)
		if len(texts.document()) == 0 {
			return
		}
		insert := func(document []byte) ([]wire.Edit, error) {
			at := strings.IndexAny(string(document), "{[") + 1
			return []wire.Edit{{Span: wire.Span{Start: at, End: at}, With: []byte(" \t")}}, nil
		}
		out, err := texts.patched(insert)
		if err != nil {
			return
		}
		again := textsOf(out)
		if len(again.blocks) != len(texts.blocks) {
			t.Fatalf("%s became %s", result, out)
		}
		for i, at := range again.blocks {
			was, err := wire.DecodeString(texts.blocks[i].Of(result))
			if err != nil {
				t.Fatal(err)
			}
			edits, _ := insert([]byte(was))
			if is, err := wire.DecodeString(at.Of(out)); err != nil || is != string(wire.Splice([]byte(was), edits...)) {
				t.Fatalf("%q became %q: %v", was, is, err)
			}
		}
	})
}
