package twin_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/twin"
)

// The model holds every row in a map, copies all of it for each snapshot, and looks
// at every row for every question.
type model struct {
	parents, children map[string]map[string]any
	order             []string // of children
}

func (m model) clone() model {
	deep := func(rows map[string]map[string]any) map[string]map[string]any {
		out := map[string]map[string]any{}
		for k, row := range rows {
			out[k] = maps.Clone(row)
		}
		return out
	}
	return model{deep(m.parents), deep(m.children), slices.Clone(m.order)}
}

func (m *model) drop(id string) {
	delete(m.children, id)
	m.order = slices.DeleteFunc(m.order, func(o string) bool { return o == id })
}

const family = `{"world":"family","tables":{
	"parents":{"key":"id","seed":"parents.json","fields":{"code":{"unique":true}}},
	"children":{"key":"id","seed":"children.json","fields":{"of":{"refs":"parents","on_delete":"cascade"},"by":{"refs":"parents"}}}},
	"tools":{
	"add_parent":{"create":"parents"},"set_parent":{"patch":"parents","key":"args.id"},"drop_parent":{"delete":"parents","key":"args.id"},
	"get_parent":{"get":"parents","key":"args.id"},
	"add":{"create":"children"},"set":{"patch":"children","key":"args.id"},"drop":{"delete":"children","key":"args.id"},
	"get":{"get":"children","key":"args.id"},"list":{"list":"children"},"of":{"list":"children","match":{"of":"args.of"}},
	"put":{"steps":[{"delete":"children","key":"args.id"},{"insert":"children","set":"args","as":"made"},{"return":"made"}]},
	"undone":{"steps":[{"delete":"parents","key":"args.id"},{"insert":"parents","set":"args"},{"require":false,"else":"undone"}]}}}`

// do is what a call should do; the answer as a value, or false for an error.
func (m *model) do(name string, args map[string]any) (any, bool) {
	id, _ := args["id"].(string)
	fits := func(row map[string]any) bool {
		for _, f := range []string{"of", "by"} {
			if v, ok := row[f]; ok && v != nil && m.parents[v.(string)] == nil {
				return false
			}
		}
		return true
	}
	codeTaken := func(id string, row map[string]any) bool {
		for other, r := range m.parents {
			if other != id && row["code"] != nil && r["code"] == row["code"] {
				return true
			}
		}
		return false
	}
	merged := func(row map[string]any) map[string]any {
		out := maps.Clone(row)
		maps.Copy(out, args)
		return out
	}
	switch name {
	case "get_parent", "get":
		row, ok := map[string]map[string]map[string]any{"get_parent": m.parents, "get": m.children}[name][id]
		return row, ok
	case "add_parent":
		if m.parents[id] != nil || codeTaken(id, args) {
			return nil, false
		}
		m.parents[id] = maps.Clone(args)
		return args, true
	case "set_parent":
		row := m.parents[id]
		if row == nil || codeTaken(id, merged(row)) {
			return nil, false
		}
		m.parents[id] = merged(row)
		return m.parents[id], true
	case "drop_parent":
		row := m.parents[id]
		if row == nil {
			return nil, false
		}
		// Fields go in the order of their names: by forbids before of takes a child away.
		for _, child := range m.children {
			if child["by"] == id {
				return nil, false
			}
		}
		for _, key := range slices.Collect(maps.Keys(m.children)) {
			if m.children[key]["of"] == id {
				m.drop(key)
			}
		}
		delete(m.parents, id)
		return row, true
	case "add":
		if m.children[id] != nil || !fits(args) {
			return nil, false
		}
		m.children[id] = maps.Clone(args)
		m.order = append(m.order, id)
		return args, true
	case "set":
		row := m.children[id]
		if row == nil || !fits(merged(row)) {
			return nil, false
		}
		m.children[id] = merged(row)
		return m.children[id], true
	case "drop":
		row := m.children[id]
		if row == nil {
			return nil, false
		}
		m.drop(id)
		return row, true
	case "put":
		if m.children[id] == nil || !fits(args) {
			return nil, false
		}
		m.drop(id)
		m.children[id] = maps.Clone(args)
		m.order = append(m.order, id)
		return args, true
	case "list", "of":
		rows := []any{}
		for _, key := range m.order {
			if row := m.children[key]; name == "list" || row["of"] == args["of"] {
				rows = append(rows, row)
			}
		}
		return rows, true
	default: // undone
		return nil, false
	}
}

func TestOverlayIsAModel(t *testing.T) {
	def, err := twin.Parse([]byte(family))
	if err != nil {
		t.Fatal(err)
	}
	base := model{parents: map[string]map[string]any{}, children: map[string]map[string]any{}}
	var parents, children []any
	for i := range 4 {
		id := fmt.Sprintf("p%d", i)
		base.parents[id] = map[string]any{"id": id, "code": float64(i)}
		parents = append(parents, base.parents[id])
		child := fmt.Sprintf("c%d", i)
		base.children[child] = map[string]any{"id": child, "of": "p0"}
		children = append(children, base.children[child])
		base.order = append(base.order, child)
	}
	data := map[string][]byte{}
	data["parents.json"], _ = json.Marshal(parents)
	data["children.json"], _ = json.Marshal(children)
	w, err := twin.Compile(def, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(def.Tools))

	rapid.Check(t, func(t *rapid.T) {
		run, m := w.NewRun(1), base.clone()
		type saved struct {
			snapshot *twin.Snapshot
			model    model
			hash     [32]byte
		}
		stack := []saved{{run.Snapshot(), m.clone(), run.Hash()}}
		deltas, hashes := map[[32]byte][32]byte{}, map[[32]byte][32]byte{}
		for n := range rapid.IntRange(1, 60).Draw(t, "calls") {
			hash, delta := run.Hash(), run.Delta()
			if d, seen := deltas[hash]; seen && d != delta {
				t.Fatal("equal tables have different deltas")
			}
			if h, seen := hashes[delta]; seen && h != hash {
				t.Fatal("different tables have one delta")
			}
			deltas[hash], hashes[delta] = delta, hash
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				stack = append(stack, saved{run.Snapshot(), m.clone(), run.Hash()})
				continue
			case 1:
				i := rapid.IntRange(0, len(stack)-1).Draw(t, "to")
				stack = stack[:i+1]
				if err := run.Reset(stack[i].snapshot); err != nil {
					t.Fatal(err)
				}
				m = stack[i].model.clone()
				if run.Hash() != stack[i].hash {
					t.Fatal("the state after going back has another hash")
				}
				continue
			}
			name := rapid.SampledFrom(names).Draw(t, "tool")
			args := map[string]any{}
			letter := "c"
			if strings.Contains(name, "parent") || name == "undone" {
				letter = "p"
				if rapid.Bool().Draw(t, "code") {
					args["code"] = float64(rapid.IntRange(0, 6).Draw(t, "code"))
				}
			} else {
				for _, f := range []string{"of", "by"} {
					switch v := rapid.IntRange(-2, 6).Draw(t, f); {
					case v == -2:
						args[f] = nil
					case v >= 0:
						args[f] = fmt.Sprintf("p%d", v)
					}
				}
			}
			if name == "of" {
				args = map[string]any{"of": fmt.Sprintf("p%d", rapid.IntRange(0, 6).Draw(t, "of"))}
			} else if name != "list" {
				args["id"] = fmt.Sprintf("%s%d", letter, rapid.IntRange(0, 6).Draw(t, "id"))
			}
			before := run.Hash()
			raw, _ := json.Marshal(args)
			a, err := run.Call(tool(name), raw, n)
			if err != nil {
				t.Fatalf("%s %s: %v", name, raw, err)
			}
			want, ok := m.do(name, args)
			if ok == a.IsError {
				t.Fatalf("%s %s: answer %q, want an error: %v", name, raw, a.Text, !ok)
			}
			if a.IsError {
				if run.Hash() != before || len(a.Changes) > 0 {
					t.Fatalf("%s %s: an error changed the state", name, raw)
				}
				continue
			}
			var got any
			if err := json.Unmarshal(a.Structured, &got); err != nil {
				t.Fatal(err)
			}
			var plain any
			b, _ := json.Marshal(want)
			if err := json.Unmarshal(b, &plain); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(plain, got); d != "" {
				t.Fatalf("%s %s: %s", name, raw, d)
			}
			if (len(a.Changes) == 0) != (run.Hash() == before) {
				t.Fatalf("%s %s: changes %v, though the hash says otherwise", name, raw, a.Changes)
			}
		}
		// All that is there, and in which order.
		for table, rows := range map[string]map[string]map[string]any{"parents": m.parents, "children": m.children} {
			got := map[string]map[string]any{}
			var order []string
			run.Rows(table, func(_ string, raw []byte) bool {
				var row map[string]any
				if err := json.Unmarshal(raw, &row); err != nil {
					t.Fatal(err)
				}
				got[row["id"].(string)] = row
				order = append(order, row["id"].(string))
				return true
			})
			if d := cmp.Diff(rows, got); d != "" {
				t.Fatal(d)
			}
			if table == "children" && !slices.Equal(order, m.order) {
				t.Fatalf("order %v, want %v", order, m.order)
			}
		}
		// The hash is that of a world which begins like this.
		fresh := map[string][]byte{}
		for table, rows := range map[string]map[string]map[string]any{"parents": m.parents, "children": m.children} {
			fresh[table+".json"], _ = json.Marshal(rows)
		}
		again, err := twin.Compile(&twin.Definition{World: def.World, Tables: def.Tables}, fresh, nil)
		if err != nil {
			t.Fatal(err)
		}
		if again.NewRun(9).Hash() != run.Hash() {
			t.Fatal("the same rows have another hash in a world that begins with them")
		}
	})
}
