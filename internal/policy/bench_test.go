package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/policy"
)

// benchSet has n policies, of which 11 are in the scope of any one tool: the
// others are about other tools and agents, as they are in real bundles.
func benchSet(b *testing.B, n int) (*policy.Set, *policy.Query) {
	var tools []policy.Tool
	for i := range 100 {
		tools = append(tools, policy.Tool{Name: fmt.Sprintf("payments/refund%d", i), Upstream: "payments", InputSchema: []byte(refundSchema)})
	}
	var s strings.Builder
	fmt.Fprintln(&s, `permit (principal == Agent::"support", action == Action::"payments/refund0", resource) when { context.args.amount < 10000 };`)
	for i := 1; i < n; i++ {
		tool := 0
		if i > 10 {
			tool = i%99 + 1
		}
		switch i % 4 {
		case 0:
			fmt.Fprintf(&s, `permit (principal == Agent::"support", action == Action::"payments/refund%d", resource) when { context.args.amount < %d && context.args.payment like "x*" };`, tool, i)
		case 1:
			fmt.Fprintf(&s, `forbid (principal, action == Action::"payments/refund%d", resource) when { context.stage == "production" && context.args.amount > %d };`, tool, 20000+i)
		case 2:
			fmt.Fprintf(&s, `forbid (principal, action == Action::"payments/refund%d", resource) when { context.run.integrity_level < 2 && context.run.calls > %d };`, tool, i)
		case 3:
			fmt.Fprintf(&s, `forbid (principal == Agent::"support", action == Action::"payments/refund%d", resource) when { context.now.hour > 22 || principal.owner == "o%d" };`, tool, i)
		}
		s.WriteByte('\n')
	}
	set, problems := policy.Compile(tools, []policy.Source{{Path: "bench.cedar", Text: s.String()}})
	if set == nil {
		b.Fatal(problems)
	}
	q := refund(benchArgs)
	q.Tool = "refund0"
	return set, q
}

// benchArgs has 200 bytes.
const benchArgs = `{"payment":"p_0123456789","amount":100,"fee":1.25,"reason":"goodwill","urgent":false,"tags":["one","two"],"order":{"total":7,"lines":[{"sku":"a-17","n":2}]},"comment":"the customer was very kind"}`

func Benchmark(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		set, q := benchSet(b, n)
		b.Run(fmt.Sprintf("Decide/policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d, _ := set.Decide(q); !d.Allow {
					b.Fatal(d)
				}
			}
		})
		b.Run(fmt.Sprintf("CouldAllow/policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !set.CouldAllow(q) {
					b.Fatal("not listed")
				}
			}
		})
	}
	unread := compile(b, permitRefund)
	q := refund(benchArgs)
	b.Run("Decide/no argument read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if d, _ := unread.Decide(q); !d.Allow {
				b.Fatal(d)
			}
		}
	})
	for name, condition := range map[string]string{
		"two arguments": `context.args.amount < 500 && context.args.payment like "p*"`,
		"all arguments": `context.args.amount < 500 && context.args.payment like "p*" && context.args has fee && context.args.fee.lessThan(decimal("9.0")) &&
			context.args has reason && context.args.reason == "goodwill" && context.args has urgent && context.args has tags && context.args.tags.contains("one") &&
			context.args has order.lines && context.args.order.total == 7 && !context.args.order.lines.isEmpty()`,
	} {
		set := when(b, condition)
		b.Run("Decide/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d, _ := set.Decide(q); !d.Allow {
					b.Fatal(d)
				}
			}
		})
	}
	b.Run("Convert/all arguments", func(b *testing.B) {
		b.ReportAllocs()
		read := policy.Reader([]byte(refundSchema))
		for b.Loop() {
			if err := read([]byte(benchArgs)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Convert/encoding json into any, for comparison", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v map[string]any
			if err := json.Unmarshal([]byte(benchArgs), &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Compile/policies=1000", func(b *testing.B) {
		for b.Loop() {
			benchSet(b, 1000)
		}
	})
	b.Run("CouldAllow/first list of 2000 tools", func(b *testing.B) {
		var many []policy.Tool
		var text strings.Builder
		for i := range 2000 {
			many = append(many, policy.Tool{Name: fmt.Sprintf("crm/t%d", i), Upstream: "crm", Access: sallyport.Read, InputSchema: []byte(refundSchema)})
		}
		for i := range 100 {
			fmt.Fprintf(&text, "permit (principal, action in Action::\"read\", resource) when { context.run.calls < %d };\nforbid (principal, action == Action::\"crm/t%d\", resource) when { context.args.amount > 5 };\n", i+5, i)
		}
		q := refund("")
		q.Upstream = "crm"
		for b.Loop() {
			b.StopTimer()
			set, problems := policy.Compile(many, sourcesOf(text.String()))
			if set == nil {
				b.Fatal(problems)
			}
			b.StartTimer()
			for i := range many {
				q.Tool = strings.TrimPrefix(many[i].Name, "crm/")
				if !set.CouldAllow(q) {
					b.Fatal("not listed")
				}
			}
		}
	})
}
