package wire_test

import (
	"testing"

	"sallyport/internal/wire"
)

func TestEraOf(t *testing.T) {
	for version, want := range map[string]wire.Era{
		wire.Version20250618: wire.Sessions,
		wire.Version20251125: wire.Sessions,
		wire.Version20260728: wire.Stateless,
		"":                   0,
		"2024-11-05":         0,
		"2026-07-29":         0,
		"2026-07-28 ":        0,
	} {
		if got, ok := wire.EraOf(version); got != want || ok != (want != 0) {
			t.Errorf("%q: %v, %v", version, got, ok)
		}
	}
	if wire.Era(0).String() != "unknown" || wire.MessageKind(0).String() != "unknown" {
		t.Error("the zero value has a name")
	}
}
