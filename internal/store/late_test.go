package store

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// crashed is the store as it would be found if the program had just been killed,
// opened by another start.
func (r *rig) crashed() *rig {
	r.t.Helper()
	after := &rig{t: r.t, Config: r.Config, vkey: r.vkey}
	after.Path = filepath.Join(r.t.TempDir(), "store.db")
	if err := copyKilled(r.Path, after.Path); err != nil {
		r.t.Fatal(err)
	}
	after.open()
	r.t.Cleanup(func() { after.Close() })
	return after
}

// TestMissingEnd: a log shorter than what was written down has lost its end.
func TestMissingEnd(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for i := range 3 {
		if err := r.Commit(ctx, person(fmt.Sprintf("rec_%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.conn.ExecContext(ctx, `DELETE FROM records WHERE seq = 2`); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(ctx, r.Config); err == nil {
		s.Close()
		t.Fatal("a log without its end was opened")
	}
}
