package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport"
	"sallyport/internal/audit"
)

// TestHeld opens a store that is open.
func TestHeld(t *testing.T) {
	r := newRig(t)
	_, err := Open(t.Context(), r.Config)
	var refusal *sallyport.Refusal
	if !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict || refusal.Detail["pid"] != os.Getpid() || refusal.Detail["since"] == nil {
		t.Fatalf("%v", err)
	}
	reader, err := OpenReader(t.Context(), r.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	// The file may say anything: the lock is the kernel's.
	if err := os.WriteFile(r.Path+".lock", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = Open(t.Context(), r.Config); !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict || refusal.Detail != nil {
		t.Fatalf("%v", err)
	}
	r.reopen()
}

// TestLostOutcome cannot record the outcome of a call that was sent. It is listed as
// unknown while this lasts, marked once when it is over, and can be settled.
func TestLostOutcome(t *testing.T) {
	for _, point := range []string{"begin", "commit", "committed"} {
		t.Run(point, func(t *testing.T) {
			r := newRig(t)
			ctx := context.Background()
			r.openRun(runA)
			if err := r.Intend(ctx, entry(audit.Intent, "x", 0)); err != nil {
				t.Fatal(err)
			}
			failing := func(at string) error {
				if at == point || at == "reload" {
					return errors.New("the disk said no")
				}
				return nil
			}
			r.fault.Store(&failing)
			if err := r.Conclude(ctx, entry(audit.Outcome, "x", sallyport.OutcomeOK)); err == nil {
				t.Fatal("no error")
			}
			if u, err := r.Unknowns(ctx); err != nil || len(u) != 1 || u[0].Call != "call_x" || u[0].Tool != "write" {
				t.Fatalf("while it lasts: %+v, %v", u, err)
			}
			r.fault.Store(nil)
			want := "[call_x]"
			if point == "committed" { // it was recorded all the same
				want = "[]"
			}
			for range 2 {
				u, err := r.Unknowns(ctx)
				calls := []sallyport.CallID{}
				for _, one := range u {
					calls = append(calls, one.Call)
				}
				if err != nil || fmt.Sprint(calls) != want {
					t.Fatalf("when it is over: %v, %v; want %s", calls, err, want)
				}
			}
			if report := r.verified(); len(report.Unknown) != len(want)/8 {
				t.Fatalf("%+v", report.Unknown)
			}
		})
	}
}

// TestRemedy opens what is no database, and asks for other errors' remedies.
func TestRemedy(t *testing.T) {
	r := newRig(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	other := r.Config
	other.Path = filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(other.Path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "restore a backup") {
		t.Errorf("%v", err)
	}
	for err, want := range map[error]string{
		syscall.ENOSPC: "make room", syscall.EROFS: "write the store's folder", syscall.EIO: "look at the disk", errors.New("x"): "",
	} {
		if got := remedy(fmt.Errorf("write: %w", err)); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%v: %q", err, got)
		}
	}
}
