package app

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/audit"
	"sallyport/internal/control"
)

// TestFollow reads the log beside the server that writes it: what fits is seen
// once and in order, from where the listing before it ended.
func TestFollow(t *testing.T) {
	d := startDemo(t)
	token := d.run(t, sallyport.Production)
	list := func(customer string) {
		t.Helper()
		if _, err := call(d.App.URL, token, "list_payments", `{"customer":"`+customer+`"}`); err != nil {
			t.Fatal(err)
		}
	}
	list("cus_0001")
	log, err := OpenLogFiles(t.Context(), d.App.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	list("cus_0001") // after it was opened, before it is listed
	f := control.RecordFilter{Upstream: "payments", Tool: "list_payments"}
	first, more, err := log.Newest(t.Context(), audit.Outcome, f, 10)
	if err != nil || len(first) != 2 || more {
		t.Fatalf("%d records, %v, %v", len(first), more, err)
	}
	if newest, more, err := log.Newest(t.Context(), audit.Outcome, f, 1); err != nil || len(newest) != 1 || !more {
		t.Fatalf("%d records, %v, %v", len(newest), more, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	list("cus_0002")
	enough := errors.New("enough")
	var seen []int64
	err = log.Follow(ctx, audit.Outcome, f, first, func(records []api.Record) error {
		for _, r := range records {
			seen = append(seen, r.Sequence)
		}
		if len(seen) == 1 {
			list("cus_0001")
		}
		if len(seen) >= 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || len(seen) != 2 || seen[0] <= first[0].Sequence || seen[1] <= seen[0] {
		t.Fatalf("followed %v after %d: %v", seen, first[0].Sequence, err)
	}
}

func TestReplacedFile(t *testing.T) {
	under := fstest.MapFS{"a/one": {Data: []byte("old")}, "a/two": {Data: []byte("two")}}
	for name, want := range map[string]string{"a/one": "new", "a/two": "two"} {
		if got, err := fs.ReadFile(replaced{under, "a/one", []byte("new")}, name); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	// A file that is not there yet.
	if got, err := fs.ReadFile(replaced{under, "b/three", []byte("new")}, "b/three"); err != nil || string(got) != "new" {
		t.Errorf("%q %v", got, err)
	}
}

// TestProbeSecretStaysInItsFolder: what reads a secret for a person's command
// follows no link out of the folder of secrets.
func TestProbeSecretStaysInItsFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sallyport.yaml", "secrets: {files: [secrets], env: []}\n")
	write("upstreams/crm.yaml", "upstream: crm\nstages: {sandbox: {binding: off}}\n")
	write("secrets/good", "a secret\n")
	write("elsewhere", "another\n")
	if err := os.Symlink("../elsewhere", filepath.Join(dir, "secrets", "link")); err != nil {
		t.Fatal(err)
	}
	u, err := LoadUpstream(dir, "crm")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := secret(dir, u.Secrets, "file:secrets/good"); err != nil || got != "a secret" {
		t.Errorf("%q %v", got, err)
	}
	for _, ref := range []string{"file:secrets/link", "file:elsewhere", "file:secrets/../elsewhere", "env:HOME", "file:secrets/none"} {
		if got, err := secret(dir, u.Secrets, ref); err == nil {
			t.Errorf("%s leads to %q", ref, got)
		}
	}
	var r *sallyport.Refusal
	if _, err := LoadUpstream(dir, "crn"); !errors.As(err, &r) || r.Code != sallyport.NotFound {
		t.Errorf("an upstream that no file declares: %v", err)
	}
}

func TestReleasesOfTwoAgentsAreNotCompared(t *testing.T) {
	var r *sallyport.Refusal
	if _, err := DiffReleases(&sallyport.Release{Agent: "a"}, &sallyport.Release{Agent: "b"}); !errors.As(err, &r) || r.Code != sallyport.BadRequest {
		t.Errorf("%v", err)
	}
	changes, err := DiffReleases(&sallyport.Release{Agent: "a", Owner: "x"}, &sallyport.Release{Agent: "a", Owner: "y"})
	if err != nil || len(changes) == 0 {
		t.Errorf("%v %v", changes, err)
	}
}
