package app

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/config"
)

const synthWorld = `world: shop
tables:
  customers:
    key: id
    id: {style: base32, prefix: c-}
    seed: customers.ndjson
    unique: [email]
    fields:
      email: {type: string, required: true}
      status: {type: enum, values: [active, closed]}
  orders:
    key: id
    id: {style: sequence}
    seed: orders.ndjson
    fields:
      customer_id: {type: string, refs: customers, required: true}
      total: {type: number}
  profiles:
    key: customer_id
    key_outside: true
    seed: profiles.json
    fields:
      bio: {type: string}
`

func synthDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"worlds/shop.yaml": synthWorld,
		"customers.csv":    "id,email,status\n" + strings.Repeat("c-1,masked@corp.test,closed\n", 20),
		"orders.ndjson":    strings.Repeat(`{"id": 1, "customer_id": "c-1", "total": 5.25}`+"\n", 20),
		"orders.json":      "[" + strings.Repeat(`{"id": 1, "customer_id": "c-1", "total": 5.25},`, 19) + `{"id": 1, "customer_id": "c-1", "total": null}]`,
		"profiles.json":    `{"c-1": {"bio": "likes dogs and letters"}}`,
		"broken.json":      `[{"id": 1}, {"id": `,
		"broken.csv":       "id,email\n1,2,3\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestSynthMakesSeeds: the world loads with what was made in its place.
func TestSynthMakesSeeds(t *testing.T) {
	dir := synthDir(t)
	o := SynthOptions{
		Dir: dir, World: "shop", Rows: map[string]int64{"customers": 300, "orders": 1000, "profiles": 50}, Seed: 3,
		Out: filepath.Join(dir, "worlds", "data"), Shapes: filepath.Join(dir, "shapes.json"),
		Learn: []string{filepath.Join(dir, "customers.csv"), filepath.Join(dir, "orders.ndjson"), "orders=" + filepath.Join(dir, "orders.json"), filepath.Join(dir, "profiles.json")},
	}
	done, err := Synth(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, problems := config.LoadWorld(os.DirFS(dir), "shop", nil); len(problems) > 0 {
		t.Fatal(problems)
	}
	learned := map[string]int64{}
	for _, table := range done.Tables {
		learned[table.Table] = table.Learned
		text := readFile(t, table.File)
		if int64(len(text)) != table.Bytes || int64(strings.Count(text, "\n")) != table.Rows {
			t.Errorf("%s has %d bytes and %d lines, the report says %+v", table.File, len(text), strings.Count(text, "\n"), table)
		}
	}
	if learned["customers"] != 20 || learned["orders"] != 40 || learned["profiles"] != 1 {
		t.Error("rows learned from:", learned)
	}
	if text := readFile(t, filepath.Join(o.Out, "customers.ndjson")); strings.Contains(text, "active") || strings.Contains(text, "corp.test") {
		t.Errorf("all customers were closed, and their address is nobody's: %.300s", text)
	}

	// From the shapes come the same bytes, without the data.
	again := SynthOptions{Dir: dir, World: "shop", Rows: o.Rows, Seed: 3, Shapes: o.Shapes, Out: filepath.Join(dir, "again")}
	if _, err := Synth(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"customers.ndjson", "orders.ndjson", "profiles.json"} {
		if readFile(t, filepath.Join(o.Out, name)) != readFile(t, filepath.Join(again.Out, name)) {
			t.Error(name, "differs when it is made of the shapes that were kept")
		}
	}
}

// TestSynthLeavesNothing: what cannot be finished is not there.
func TestSynthLeavesNothing(t *testing.T) {
	dir := synthDir(t)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, c := range []struct {
		ctx   context.Context
		learn string
		code  sallyport.Code
	}{
		{t.Context(), "orders=" + filepath.Join(dir, "broken.json"), ""},
		{t.Context(), "customers=" + filepath.Join(dir, "broken.csv"), ""},
		{t.Context(), filepath.Join(dir, "broken.csv"), sallyport.NotFound},
		{stopped, filepath.Join(dir, "orders.ndjson"), ""},
	} {
		o := SynthOptions{
			Dir: dir, World: "shop", Rows: map[string]int64{"customers": 10, "orders": 10}, Learn: []string{c.learn},
			Out: filepath.Join(dir, "out"), Shapes: filepath.Join(dir, "shapes.json"),
		}
		_, err := Synth(c.ctx, o)
		var refused *sallyport.Refusal
		if err == nil || c.code != "" && (!errors.As(err, &refused) || refused.Code != c.code) {
			t.Errorf("%s: %v, want %s", c.learn, err, c.code)
		}
		left, _ := filepath.Glob(filepath.Join(o.Out, "*"))
		hidden, _ := filepath.Glob(filepath.Join(o.Out, ".*"))
		if _, err := os.Stat(o.Shapes); err == nil || len(left)+len(hidden) > 0 {
			t.Errorf("%s: left are %v %v, shapes %v", c.learn, left, hidden, err)
		}
	}
}

// TestSynthMemory writes a million rows, and looks at the heap while it does.
func TestSynthMemory(t *testing.T) {
	dir := synthDir(t)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most, calls := m.HeapAlloc, uint64(0), 0
	done, err := Synth(t.Context(), SynthOptions{
		Dir: dir, World: "shop", Rows: map[string]int64{"customers": 200_000, "orders": 800_000}, Out: filepath.Join(dir, "out"),
		Progress: func(int64, int64) {
			if calls++; calls%25 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(done)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s; %d KiB more on the heap", text, (int64(most)-int64(before))>>10)
	if calls < 100 || most > before+8<<20 {
		t.Errorf("a million rows took %d KiB of heap, want less than 8 MiB", (int64(most)-int64(before))>>10)
	}
}
