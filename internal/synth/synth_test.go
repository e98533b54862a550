package synth_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/ident"
	"sallyport/internal/synth"
	"sallyport/internal/testkit/people"
	"sallyport/internal/twin"
)

const shop = `{"world":"shop","tables":{
 "customers":{"key":"id","id":{"style":"prefix","prefix":"cus_","digits":7},"seed":"customers.ndjson","unique":["email"],"fields":{
  "first_name":{"type":"string","required":true},"name":{"type":"string"},"email":{"type":"string","required":true},"phone":{"type":"string","unique":true},
  "iban":{"type":"string"},"birth_date":{"type":"string"},"ssn":{"type":"string"},"ip":{"type":"string"},"card_number":{"type":"string"},
  "status":{"type":"enum","values":["active","closed","new"],"required":true},"created_at":{"type":"time","required":true},
  "street":{"type":"string"},"vip":{"type":"bool"},"code":{"type":"string"},"remark":{"type":"string"}}},
 "orders":{"key":"id","id":{"style":"uuid"},"seed":"orders.ndjson","fields":{
  "customer_id":{"type":"string","refs":"customers","required":true},"previous":{"type":"string","refs":"orders"},
  "total":{"type":"number","required":true},"quantity":{"type":"int","required":true},"currency":{"type":"string"},"tags":{"type":"array"},"ship":{"type":"object"}}},
 "lines":{"key":["order_id","line"],"seed":"lines.ndjson","unique":[["order_id","sku"]],"fields":{
  "order_id":{"type":"string","refs":"orders"},"line":{"type":"int"},"sku":{"type":"string"}}},
 "profiles":{"key":"customer_id","key_outside":true,"seed":"profiles.json","fields":{
  "plan":{"type":"enum","values":["free","paid"]},"best":{"type":"string","refs":"orders","unique":true}}}}}`

func parse(t interface{ Fatal(...any) }, text string) (*twin.Definition, []synth.Table) {
	def, err := twin.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var tables []synth.Table
	for _, name := range slices.Sorted(maps.Keys(def.Tables)) {
		d := def.Tables[name]
		table := synth.Table{Name: name, Key: d.Key, KeyOutside: d.KeyOutside, ID: synth.ID(d.ID)}
		for _, u := range d.Unique {
			table.Unique = append(table.Unique, u)
		}
		for _, f := range slices.Sorted(maps.Keys(d.Fields)) {
			of := d.Fields[f]
			table.Fields = append(table.Fields, synth.Field{Name: f, Type: of.Type, Values: of.Values, Required: of.Required, Unique: of.Unique, Refs: of.Refs})
		}
		tables = append(tables, table)
	}
	return def, tables
}

// files are the seeds of a world.
func files(def *twin.Definition, g *synth.Generator) map[string][]byte {
	out := map[string][]byte{}
	for name, table := range def.Tables {
		var b bytes.Buffer
		first := true
		for row := range g.Rows(name) {
			if table.KeyOutside {
				b.WriteString(map[bool]string{true: "{", false: ","}[first])
				b.Write(row.Key)
				b.WriteByte(':')
			}
			b.Write(row.JSON)
			b.WriteByte('\n')
			first = false
		}
		if table.KeyOutside {
			if first {
				b.WriteByte('{')
			}
			b.WriteByte('}')
		}
		out[table.Seed.File] = b.Bytes()
	}
	return out
}

func table(t testing.TB, tables []synth.Table, name string) *synth.Table {
	for i := range tables {
		if tables[i].Name == name {
			return &tables[i]
		}
	}
	t.Fatalf("no table %s", name)
	return nil
}

func learn(t testing.TB, of *synth.Table, rows []string, keep ...string) *synth.Shape {
	l := synth.NewLearner(of, keep)
	for _, r := range rows {
		if err := l.Add([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	return l.Shape()
}

// orders are rows as a shop has them: few customers order most.
func orders(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	var rows []string
	for range n {
		customer := r.IntN(1000)
		if r.IntN(2) == 0 {
			customer = r.IntN(10) // half of the orders are of ten customers
		}
		ship := `null`
		if r.IntN(10) < 3 {
			ship = fmt.Sprintf(`{"kind":%q,"days":%d}`, []string{"AIR-77", "SEA-12"}[r.IntN(2)], 1+r.IntN(9))
		}
		tags := strings.Repeat(`"qqwwee",`, r.IntN(4))
		rows = append(rows, fmt.Sprintf(`{"id":"%032x","customer_id":"cus_%07d","total":%.2f,"quantity":%d,"currency":%q,"ship":%s,"tags":[%s]}`,
			r.Uint64(), customer, math.Exp(r.NormFloat64())*40, 1+r.IntN(3), []string{"EUR", "EUR", "EUR", "USD"}[r.IntN(4)], ship, strings.TrimSuffix(tags, ",")))
	}
	return rows
}

func customers(n int) []string {
	r := rand.New(rand.NewPCG(3, 4))
	var rows []string
	for i := range n {
		name, vip := `"Someone Real"`, ""
		if r.IntN(5) == 0 {
			name = "null"
		}
		if r.IntN(4) > 0 {
			vip = fmt.Sprintf(`,"vip":%t`, r.IntN(10) == 0)
		}
		rows = append(rows, fmt.Sprintf(`{"id":"cus_%07d","name":%s,"email":"p%d@corp.test","status":%q,"created_at":"20%02d-03-04T05:06:07Z","code":"%c%c-%04d","remark":%q%s}`,
			i, name, i, []string{"active", "active", "active", "closed"}[r.IntN(4)], 10+r.IntN(10), 'A'+r.IntN(26), 'A'+r.IntN(26), r.IntN(10000),
			strings.Repeat("wxyz ", 5+r.IntN(20)), vip))
	}
	return rows
}

var counts = map[string]int64{"customers": 2000, "orders": 5000, "lines": 20000, "profiles": 1500}

func TestTwinAcceptsWhatIsMade(t *testing.T) {
	def, tables := parse(t, shop)
	learned := map[string]*synth.Shape{"orders": learn(t, table(t, tables, "orders"), orders(3000)), "customers": learn(t, table(t, tables, "customers"), customers(2000))}
	var sums []string
	for _, shapes := range []map[string]*synth.Shape{nil, learned} {
		for _, seed := range []uint64{1, 1, 2} {
			g, err := synth.New(tables, shapes, counts, seed)
			if err != nil {
				t.Fatal(err)
			}
			data := files(def, g)
			if _, err := twin.Compile(def, data, nil); err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			for _, name := range slices.Sorted(maps.Keys(data)) {
				sum.Write(data[name])
			}
			sums = append(sums, hex.EncodeToString(sum.Sum(nil)[:8]))
		}
	}
	if sums[0] != sums[1] || sums[0] == sums[2] || sums[3] != sums[4] || sums[3] == sums[5] || sums[0] == sums[3] {
		t.Error("a seed makes one world, and two make two:", sums)
	}
	// On any machine: these are what the first one made.
	if diff := cmp.Diff([]string{"449d8db4a96a7a3f", "0044e74c91852342"}, []string{sums[0], sums[3]}); diff != "" {
		t.Error("other bytes than before:", diff)
	}
}

// rows of a table, decoded.
func rows(t testing.TB, g *synth.Generator, name string) []map[string]any {
	var all []map[string]any
	for row := range g.Rows(name) {
		var one map[string]any
		if err := json.Unmarshal(row.JSON, &one); err != nil {
			t.Fatalf("%s: %v", row.JSON, err)
		}
		all = append(all, one)
	}
	return all
}

func near(t *testing.T, what string, got, want, off float64) {
	t.Helper()
	if math.Abs(got-want) > off {
		t.Errorf("%s: %.3f, want %.3f give or take %.3f", what, got, want, off)
	}
}

func part[T any](all []T, is func(T) bool) float64 {
	n := 0
	for _, one := range all {
		if is(one) {
			n++
		}
	}
	return float64(n) / float64(len(all))
}

func TestDistributions(t *testing.T) {
	_, tables := parse(t, shop)
	from := orders(20000)
	shapes := map[string]*synth.Shape{
		"orders":    learn(t, table(t, tables, "orders"), from, "currency"),
		"customers": learn(t, table(t, tables, "customers"), customers(1000)),
	}
	g, err := synth.New(tables, shapes, map[string]int64{"customers": 10000, "orders": 40000}, 9)
	if err != nil {
		t.Fatal(err)
	}
	type row = map[string]any
	made, people := rows(t, g, "orders"), rows(t, g, "customers")

	near(t, "ship is null", part(made, func(r row) bool { return r["ship"] == nil }), 0.7, 0.02)
	near(t, "name is null", part(people, func(r row) bool { return r["name"] == nil }), 0.2, 0.03)
	near(t, "vip is absent", part(people, func(r row) bool { _, ok := r["vip"]; return !ok }), 0.25, 0.04)
	near(t, "vip", part(people, func(r row) bool { return r["vip"] == true }), 0.075, 0.03)
	near(t, "closed", part(people, func(r row) bool { return r["status"] == "closed" }), 0.25, 0.04)
	near(t, "new", part(people, func(r row) bool { return r["status"] == "new" }), 0, 0)
	near(t, "in euros", part(made, func(r row) bool { return r["currency"] == "EUR" }), 0.75, 0.02)
	for q := 1.0; q <= 3; q++ {
		near(t, "quantity", part(made, func(r row) bool { return r["quantity"] == q }), 1.0/3, 0.02)
	}
	for n := range 4 {
		near(t, "tags", part(made, func(r row) bool { return len(r["tags"].([]any)) == n }), 0.25, 0.02)
	}
	quantiles := func(of []row) []float64 {
		var x []float64
		for _, r := range of {
			x = append(x, r["total"].(float64))
		}
		slices.Sort(x)
		return []float64{x[len(x)/20], x[len(x)/4], x[len(x)/2], x[len(x)*3/4], x[len(x)*19/20]}
	}
	var original []row
	for _, text := range from {
		var one row
		if err := json.Unmarshal([]byte(text), &one); err != nil {
			t.Fatal(err)
		}
		original = append(original, one)
	}
	want := quantiles(original)
	for i, got := range quantiles(made) {
		near(t, fmt.Sprint("quantile ", i, " of total"), got/want[i], 1, 0.06)
	}
	near(t, "year before 2015", part(people, func(r row) bool { return r["created_at"].(string) < "2015" }), 0.5, 0.06)
	near(t, "code as AA-0000", part(people, func(r row) bool { s := r["code"].(string); return len(s) == 7 && s[2] == '-' && s[3] <= '9' }), 1, 0)

	byCustomer := map[any]int{}
	for _, r := range made {
		byCustomer[r["customer_id"]]++
	}
	most := slices.SortedFunc(maps.Values(byCustomer), func(a, b int) int { return b - a })
	top := 0
	for _, n := range most[:100] {
		top += n
	}
	near(t, "orders of the first hundredth of customers", float64(top)/float64(len(made)), 0.5, 0.08)

	// What repeats repeats: 2 values of ship.kind, whatever they are now.
	kinds := map[any]int{}
	for _, r := range made {
		if ship, ok := r["ship"].(row); ok {
			kinds[ship["kind"]]++
		}
	}
	if len(kinds) != 2 {
		t.Errorf("ship.kind has %d values, want 2: %v", len(kinds), kinds)
	}
}

func TestNobodysData(t *testing.T) {
	_, tables := parse(t, shop)
	g, err := synth.New(tables, nil, map[string]int64{"customers": 3000}, 5)
	if err != nil {
		t.Fatal(err)
	}
	digits := func(s string) []byte { c, _ := ident.Compact(nil, []byte(strings.TrimPrefix(s, "+"))); return c }
	for _, r := range rows(t, g, "customers") {
		text := func(name string) string { return r[name].(string) }
		if !strings.HasSuffix(text("email"), "@example.com") && !strings.HasSuffix(text("email"), "@example.net") && !strings.HasSuffix(text("email"), "@example.org") {
			t.Fatalf("email %s", text("email"))
		}
		if !ident.ReservedPhone(digits(text("phone")), true) {
			t.Fatalf("phone %s", text("phone"))
		}
		if c := []byte(text("iban")); !ident.ValidIBAN(c) || !ident.ReservedIBAN(c) {
			t.Fatalf("iban %s", c)
		}
		if c := digits(text("ssn")); !ident.ReservedNational(ident.USSSN, c) {
			t.Fatalf("ssn %s", c)
		}
		if c := digits(text("card_number")); !ident.ReservedCard(c) {
			t.Fatalf("card %s", c)
		}
		a := netip.MustParseAddr(text("ip"))
		if !slices.ContainsFunc([]string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"}, func(n string) bool { return netip.MustParsePrefix(n).Contains(a) }) {
			t.Fatalf("ip %s", a)
		}
	}
}

// TestNoOriginalSurvives plants rows of persons, and looks for every value of theirs in
// the shape and in what is made of it.
func TestNoOriginalSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := people.New(rapid.Uint64().Draw(t, "seed"))
		n := rapid.IntRange(1, 120).Draw(t, "rows")
		of := synth.Table{Name: "people", Key: []string{"id"}, Fields: []synth.Field{{Name: "id", Type: "string"}, {Name: "plan", Type: "enum", Values: []string{"free-of-charge"}}}}
		l := synth.NewLearner(&of, []string{"/tier"})
		var originals []string
		for i := range n {
			one := p.Next(people.Countries[i%len(people.Countries)])
			row := map[string]any{
				"id": one.ID, "email": one.Email, "given": one.Given + one.Family, "handle": one.Email, "token": one.Token, "where": one.Street, "plan": "free-of-charge",
				"tier": "gold-and-more", "amount": json.Number(fmt.Sprintf("%d.%04d7", 1000+p.IntN(9000), p.IntN(10000))),
				"number": json.Number(fmt.Sprintf("%d7", 100000+p.IntN(9000000))), "born": one.Born, "seen": one.Born + "T10:11:12Z", "deep": map[string]any{"iban": one.IBAN, "list": []string{one.Password, one.Card}},
				one.Email: true, one.Given + one.Family: true,
			}
			for _, name := range []string{"id", "email", "given", "token", "where"} {
				originals = append(originals, row[name].(string))
			}
			originals = append(originals, row["amount"].(json.Number).String(), row["number"].(json.Number).String(), one.Password, one.Card, one.Born)
			raw, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Add(raw); err != nil {
				t.Fatal(err)
			}
		}
		shape := l.Shape()
		text, err := json.Marshal(shape)
		if err != nil {
			t.Fatal(err)
		}
		var back synth.Shape
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if err := back.Check(); err != nil {
			t.Fatalf("what was learned is no shape: %v in %s", err, text)
		}
		made := append([]byte{}, text...)
		g, err := synth.New([]synth.Table{of}, map[string]*synth.Shape{"people": &back}, map[string]int64{"people": 50}, 3)
		if err != nil {
			t.Fatal(err)
		}
		for row := range g.Rows("people") {
			if !json.Valid(row.JSON) {
				t.Fatalf("not JSON: %s", row.JSON)
			}
			if bytes.Contains(row.JSON, []byte(`"tier":"gold`)) != bytes.Contains(row.JSON, []byte(`"tier"`)) {
				t.Fatalf("what is kept has gone: %s", row.JSON)
			}
			for _, o := range originals {
				if len(o) >= 12 && bytes.Contains(row.JSON, []byte(o)) {
					t.Fatalf("%q is in what was made: %s", o, row.JSON)
				}
			}
		}
		for _, o := range originals {
			if bytes.Contains(made, []byte(o)) {
				t.Fatalf("%q is in the shape %s", o, text)
			}
		}
	})
}

// TestConstraints makes definitions up: what is not refused compiles.
func TestConstraints(t *testing.T) {
	filled := 0
	rapid.Check(t, func(t *rapid.T) {
		tables := map[string]any{}
		var names []string
		for i := range rapid.IntRange(1, 4).Draw(t, "tables") {
			name := fmt.Sprintf("t%d", i)
			names = append(names, name)
			fields := map[string]any{}
			all := []string{"f0", "email", "phone", "name", "count", "at"}
			for _, f := range all {
				field := map[string]any{"type": rapid.SampledFrom([]string{"string", "int", "number", "bool", "time", "enum"}).Draw(t, "type")}
				if field["type"] == "enum" {
					field["values"] = []string{"a", "b", "c", "d", "e"}[:rapid.IntRange(1, 5).Draw(t, "values")]
				}
				if rapid.IntRange(0, 5).Draw(t, "refs") == 0 {
					field = map[string]any{"refs": rapid.SampledFrom(append([]string{name}, names...)).Draw(t, "to")}
				}
				field["unique"] = rapid.IntRange(0, 15).Draw(t, "unique") == 0
				field["required"] = rapid.Bool().Draw(t, "required")
				fields[f] = field
			}
			table := map[string]any{"fields": fields, "seed": name + ".ndjson"}
			switch rapid.IntRange(0, 7).Draw(t, "key") {
			case 0:
				table["key"] = rapid.SampledFrom(all).Draw(t, "field")
			case 1:
				table["key"] = []string{"f0", rapid.SampledFrom(all[1:]).Draw(t, "second")}
			default:
				table["key"] = "id"
				table["id"] = map[string]any{"style": rapid.SampledFrom([]string{"sequence", "prefix", "uuid", "base32"}).Draw(t, "style"), "prefix": "x_"}
				if table["id"].(map[string]any)["style"] == "sequence" || table["id"].(map[string]any)["style"] == "uuid" {
					delete(table["id"].(map[string]any), "prefix")
				}
			}
			if rapid.IntRange(0, 2).Draw(t, "pair") == 0 {
				table["unique"] = [][]string{{rapid.SampledFrom(all[:3]).Draw(t, "a"), rapid.SampledFrom(all[3:]).Draw(t, "b")}}
			}
			tables[name] = table
		}
		raw, err := json.Marshal(map[string]any{"world": "w", "tables": tables})
		if err != nil {
			t.Fatal(err)
		}
		def, described := parse(t, string(raw))
		n := map[string]int64{}
		for _, name := range names {
			n[name] = int64(rapid.IntRange(1, 40).Draw(t, "rows"))
		}
		g, err := synth.New(described, nil, n, 1)
		if err != nil {
			return
		}
		empty := map[string][]byte{}
		for _, name := range def.Files() {
			empty[name] = nil
		}
		if _, err := twin.Compile(def, empty, nil); err != nil {
			return // it could never be
		}
		if _, err := twin.Compile(def, files(def, g), nil); err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		filled++
	})
	if filled < 20 {
		t.Errorf("only %d definitions could be filled", filled)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ world, want string }{
		{`{"key":"id","id":{"style":"prefix","prefix":"x","digits":2}}`, "100 values for 500 rows"},
		{`{"key":"id","id":{"style":"sequence","start":10}}`, "begin at 10"},
		{`{"key":"kind","fields":{"kind":{"type":"enum","values":["a"]}}}`, "1 values for 500 rows"},
		{`{"key":"ssn","fields":{"ssn":{"type":"string"}}}`, "too few made-up values"},
		{`{"key":["a","b"],"fields":{"a":{"type":"bool"},"b":{"type":"bool"}}}`, "4 combinations for 500 rows"},
		{`{"key":"id","id":{"style":"uuid"},"fields":{"o":{"refs":"u","required":true}}}`, "give it rows as well"},
	} {
		_, tables := parse(t, `{"world":"w","tables":{"t":`+c.world+`,"u":{"key":"id","id":{"style":"uuid"}}}}`)
		_, err := synth.New(tables, nil, map[string]int64{"t": 500}, 1)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something about %q", c.world, err, c.want)
		}
	}
	_, tables := parse(t, shop)
	if _, err := synth.New(tables, nil, map[string]int64{"order": 1}, 1); err == nil || !strings.Contains(err.Error(), `no table "order"`) {
		t.Error(err)
	}
	l := synth.NewLearner(&tables[0], []string{"x"})
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		err = l.Add(fmt.Appendf(nil, `{"x":"v%d"}`, i))
	}
	if err == nil || !strings.Contains(err.Error(), "too many to keep") {
		t.Error(err)
	}
}

// TestMemory makes a million rows that refer to others, and learns from them as they
// come.
func TestMemory(t *testing.T) {
	_, tables := parse(t, shop)
	g, err := synth.New(tables, nil, map[string]int64{"customers": 200_000, "orders": 800_000, "lines": 200_000}, 1)
	if err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, n := heap(), uint64(0), 0
	for _, name := range []string{"customers", "orders"} {
		l := synth.NewLearner(table(t, tables, name), nil)
		for row := range g.Rows(name) {
			if n++; n%8 == 0 {
				if err := l.Add(row.JSON); err != nil {
					t.Fatal(err)
				}
			}
			if n%100_000 == 0 {
				most = max(most, heap())
			}
		}
		runtime.KeepAlive(l)
	}
	t.Logf("%d rows, %d KiB more on the heap", n, (int64(most)-int64(before))>>10)
	if n != 1_000_000 || most > before+8<<20 {
		t.Errorf("%d rows took %d KiB, want 1000000 and less than 8 MiB", n, (int64(most)-int64(before))>>10)
	}
}

func FuzzShape(f *testing.F) {
	_, tables := parse(f, shop)
	for _, name := range []string{"orders", "customers"} {
		var all []string
		if name == "orders" {
			all = orders(50)
		} else {
			all = customers(50)
		}
		raw, err := json.Marshal(learn(f, table(f, tables, name), all))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"rows":3,"fields":{"tags":{"kind":"array","ranges":[{"from":1e17,"to":1e18,"share":1}],"items":{"kind":"number","ranges":[{"from":-1e19,"to":1e19,"share":1}]}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s synth.Shape
		if json.Unmarshal(raw, &s) != nil || s.Check() != nil {
			return
		}
		for _, name := range []string{"orders", "customers"} {
			g, err := synth.New(tables, map[string]*synth.Shape{name: &s}, map[string]int64{"customers": 3, "orders": 3}, 1)
			if err != nil {
				continue
			}
			for row := range g.Rows(name) {
				if !json.Valid(row.JSON) {
					t.Fatalf("not JSON: %s", row.JSON)
				}
			}
		}
	})
}

func BenchmarkRows(b *testing.B) {
	_, tables := parse(b, shop)
	g, err := synth.New(tables, nil, map[string]int64{"customers": 1000, "orders": int64(max(b.N, 1))}, 1)
	if err != nil {
		b.Fatal(err)
	}
	for row := range g.Rows("orders") {
		b.SetBytes(int64(len(row.JSON)))
	}
}
