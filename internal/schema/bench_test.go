package schema_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"sallyport/internal/schema"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

const (
	mailSchema = `{"type":"object","properties":{"to":{"type":"string","description":"address"},"subject":{"type":"string","maxLength":200},"body":{"type":"string"}},"required":["to","subject","body"],"additionalProperties":false}`
	mailValue  = `{"to":"ada@example.com","subject":"Your refund","body":"Dear Ada, we have sent you 40 EUR back. It takes two days."}`
)

func BenchmarkValidate(b *testing.B) {
	for _, c := range []struct{ name, schema, value string }{
		{"mail", mailSchema, mailValue},
		{"refund", refundSchema, `{"payment":"pay_1","amount":40,"reason":"late","speed":"fast","lines":[{"sku":"a"}],"to":{"iban":"DE02"}}`},
	} {
		s, oracle, err := schema.CompileBoth([]byte(c.schema))
		if err != nil {
			b.Fatal(err)
		}
		for name, s := range map[string]*schema.Schema{"walker": s, "library": schema.ForceLibrary(s, oracle)} {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				value := []byte(c.value)
				b.ReportAllocs()
				for b.Loop() {
					if err := s.Validate(value); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	wide := map[string]any{}
	for i := range 4000 {
		wide[string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))] = map[string]any{}
	}
	widest, err := json.Marshal(map[string]any{"properties": wide})
	if err != nil {
		b.Fatal(err)
	}
	for name, raw := range map[string][]byte{"mail": []byte(mailSchema), "widest": widest} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := schema.Compile(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
