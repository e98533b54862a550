package app

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sallyport"
)

// TestNoHaltIsLost: whoever writes to the file of halts while others write to it
// or take theirs away, every halt stays that nobody took away.
func TestNoHaltIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "halts.json")
	var writing sync.WaitGroup
	for n := range 20 {
		h := sallyport.Halt{Scope: sallyport.HaltAgent, Subject: fmt.Sprintf("agent-%d", n), Reason: "test", At: time.Unix(1, 0).UTC()}
		writing.Go(func() {
			// Each as another process would: with a lock of its own.
			err := spare{path}.Change(func(kept []sallyport.Halt) []sallyport.Halt { return append(kept, h) })
			if err != nil {
				t.Error(err)
			}
			if n%2 == 0 {
				return
			}
			err = spare{path}.Change(func(kept []sallyport.Halt) []sallyport.Halt {
				var rest []sallyport.Halt
				for _, k := range kept {
					if k.Subject != h.Subject {
						rest = append(rest, k)
					}
				}
				return rest
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	writing.Wait()
	kept, err := spare{path}.Kept()
	if err != nil || len(kept) != 10 {
		t.Fatalf("%d halts are left, want 10: %v, %v", len(kept), kept, err)
	}
}
