package flow_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/flow"
)

// pages is about a megabyte of a result as tools give them: rows with names,
// addresses and ids, each with some sentences.
func pages() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the order was sent on time and the customer wrote back to say that it had arrived but one of the parts seems to be missing so please have a look")
	var rows []string
	for i := range 2600 {
		var text []string
		for range 45 {
			text = append(text, words[r.IntN(len(words))])
		}
		rows = append(rows, fmt.Sprintf(`{"id":%d,"name":"Mia Berg-%d","email":"mia%d@example.com","order":"W%07d","about":"%s. See https://shop.example.com/p/%d"}`, i, i, i, r.IntN(1e7), strings.Join(text, " "), i))
	}
	return structured(`{"users":[` + strings.Join(rows, ",") + `]}`)
}

func BenchmarkLearn(b *testing.B) {
	result := pages()
	for _, class := range []sallyport.Confidentiality{sallyport.Public, sallyport.Confidential} {
		b.Run(class.String(), func(b *testing.B) {
			p := *directory
			p.Class = class
			x := flow.New(&sallyport.Envelope{})
			c := &flow.Call{ID: "call_1", Upstream: "crm", Tool: "list_users", Profile: &p, Access: sallyport.Read, Result: result}
			b.SetBytes(int64(len(result)))
			b.ReportAllocs()
			for b.Loop() {
				x.Learn(c)
			}
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	x := flow.New(&sallyport.Envelope{})
	result := pages()
	d := x.Learn(&flow.Call{ID: "call_1", Upstream: "crm", Tool: "list_users", Profile: directory, Access: sallyport.Read, Result: result})
	b.SetBytes(int64(len(result)))
	var held uint64
	for b.Loop() {
		var before, after runtime.MemStats
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		y := flow.New(&sallyport.Envelope{})
		y.Join(d)
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		held = after.HeapAlloc - before.HeapAlloc
		if s := y.Size(); s.Values > 0 {
			b.ReportMetric(float64(held)/float64(s.Values+s.Marks), "B/value")
			b.ReportMetric(float64(s.Values), "values")
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(len(d.Encode()))/float64(len(result)), "delta/text")
}

func BenchmarkJudge(b *testing.B) {
	x := flow.New(envelope("write to mia17@example.com"))
	x.Join(x.Learn(&flow.Call{ID: "call_1", Upstream: "crm", Tool: "list_users", Profile: directory, Access: sallyport.Read, Result: pages()}))
	for name, arguments := range map[string]string{
		"one address":      `{"to":"mia1234@example.com"}`,
		"unknown name":     `{"who":"Somebody Else"}`,
		"content of 1 KiB": `{"body":"` + strings.Repeat("a word or two, ", 68) + `"}`,
	} {
		b.Run(name, func(b *testing.B) {
			q := &flow.Query{Upstream: "crm", Profile: &flow.Profile{Args: map[string]sallyport.ArgKind{"body": sallyport.Content}}, Arguments: []byte(arguments)}
			b.ReportAllocs()
			for b.Loop() {
				x.Judge(q)
			}
		})
	}
}
