package twin_test

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"sallyport/internal/twin"
)

const bigWorld = `{"world":"big","script":"s.star","tables":{"orders":{"key":"id","seed":"orders.ndjson","id":{"style":"prefix","prefix":"o","digits":12},
	"fields":{"id":{"type":"string"},"customer":{"type":"string"},"total":{"type":"number"},"status":{"type":"enum","values":["open","done"]}}}},
	"tools":{"get":{"get":"orders","key":"args.id"},"find":{"list":"orders","match":{"customer":"args.customer"},"limit":20},
	"page":{"list":"orders","limit":20},"patch":{"patch":"orders","key":"args.id"},"create":{"create":"orders"},"script":{"call":"close"}}}`

const bigScript = `
def close(args):
    order = tables.orders[args.id]
    order.status = "done"
    order.total = round2(order.total * 1.19)
    tables.orders.put(order)
    return {"id": order.id, "total": order.total}
`

var bigRows = sync.OnceValue(func() []byte {
	var b []byte
	for i := range 1_000_000 {
		b = fmt.Appendf(b, `{"id":"o%07d","customer":"c%06d","status":"open","total":%d.25,"lines":[{"sku":"A-%d","n":2},{"sku":"B-%d","n":1}],"note":"row"}`+"\n", i, i%200_000, i%500, i%977, i%13)
	}
	return b
})

func compileBig(b *testing.B) *twin.World {
	def, err := twin.Parse([]byte(bigWorld))
	if err != nil {
		b.Fatal(err)
	}
	w, err := twin.Compile(def, map[string][]byte{"orders.ndjson": bigRows(), "s.star": []byte(bigScript)}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return w
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkCompileMillionRows(b *testing.B) {
	bytes := len(bigRows())
	before := heap()
	var w *twin.World
	for b.Loop() {
		w = compileBig(b)
	}
	b.SetBytes(int64(bytes))
	b.ReportMetric(float64(heap()-before)/float64(bytes), "held/byte")
	runtime.KeepAlive(w)
}

func BenchmarkCalls(b *testing.B) {
	w := compileBig(b)
	for _, bench := range []struct{ name, args string }{
		{"get", `{"id":"o%07d"}`}, {"find", `{"customer":"c%06d"}`}, {"page", `{}`}, {"patch", `{"id":"o%07d","status":"done"}`},
		{"create", `{"customer":"c1","total":%d}`}, {"script", `{"id":"o%07d"}`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			run := w.NewRun(1)
			used := tool(bench.name)
			// The index that find uses is made when it is first asked for.
			if _, err := run.Call(tool("find"), []byte(`{"customer":"c1"}`), 0); err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				args := []byte(bench.args)
				if bench.args != "{}" {
					args = fmt.Appendf(nil, bench.args, n*7919%200_000)
				}
				if a, err := run.Call(used, args, n); err != nil || a.IsError {
					b.Fatal(a, err)
				}
				n++
			}
		})
	}
}

// What 1,000 runs hold that have made 20 calls each, 10 of them changes.
func BenchmarkThousandRuns(b *testing.B) {
	w := compileBig(b)
	for b.Loop() {
		before := heap()
		runs := make([]*twin.Run, 1000)
		var wg sync.WaitGroup
		for part := range 4 {
			wg.Go(func() {
				for i := part; i < len(runs); i += 4 {
					runs[i] = w.NewRun(uint64(i))
					for n := range 10 {
						id := strconv.Itoa(1000000 + i*10 + n)[1:]
						for _, name := range []string{"get", "patch"} {
							if _, err := runs[i].Call(tool(name), []byte(`{"id":"o0`+id+`","status":"done"}`), n); err != nil {
								b.Error(err)
							}
						}
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(heap()-before)/1000, "B/run")
		runtime.KeepAlive(runs)
	}
}

func BenchmarkSnapshotAndReset(b *testing.B) {
	run := compileShop(b).NewRun(1)
	update := tool("set_customer")
	for b.Loop() {
		s := run.Snapshot()
		for n := range 10 {
			if _, err := run.Call(update, []byte(`{"id":"cus_1","note":1}`), n); err != nil {
				b.Fatal(err)
			}
		}
		if err := run.Reset(s); err != nil {
			b.Fatal(err)
		}
	}
}
