package cassette

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"sallyport/internal/wire"
)

// Snapshot is the state of the run: one JSON object in canonical form, so that equal
// states are equal bytes.
func (p *Player) Snapshot() []byte {
	var used []byte
	for _, w := range p.used {
		for i := range 8 {
			used = append(used, bits.Reverse8(byte(w>>(8*i))))
		}
	}
	b := []byte(`{"live":{`)
	for i, taped := range slices.Sorted(maps.Keys(p.live)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(wire.AppendString(b, taped), ':')
		b = wire.AppendString(b, p.live[taped])
	}
	return fmt.Appendf(b, `},"used":"%s"}`, hex.EncodeToString(bytes.TrimRight(used, "\x00")))
}
