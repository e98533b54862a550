package conform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sallyport"
	"sallyport/internal/audit"
)

// hashes are the stored hashes of a log in memory, made by the library.
type hashes []tlog.Hash

// ReadHashes implements [tlog.HashReader].
func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = h[at]
	}
	return out, nil
}

// recomputed makes all hashes again from nothing but the records.
func (r *rig) recomputed() hashes {
	r.Helper()
	var all hashes
	r.must(r.Records(context.Background(), 0, audit.MaxSize, func(seq int64, body []byte) error {
		more, err := tlog.StoredHashes(seq, body, all)
		all = append(all, more...)
		return err
	}))
	if int64(len(all)) != tlog.StoredHashCount(r.Size()) {
		r.Fatalf("%d hashes of %d records", len(all), r.Size())
	}
	return all
}

// root is that of the tree of the first size records.
func (r *rig) root(all hashes, size int64) tlog.Hash {
	r.Helper()
	root, err := tlog.TreeHash(size, all)
	r.must(err)
	return root
}

func (r *rig) verifiers() note.Verifiers {
	r.Helper()
	known, err := audit.Verifiers(r.vkey)
	r.must(err)
	return known
}

// signed are the checkpoints as they are stored, and what they say.
func (r *rig) signed() (notes [][]byte, out []audit.Checkpoint) {
	r.Helper()
	known := r.verifiers()
	r.must(r.Engine.Checkpoints(context.Background(), func(signed []byte) error {
		c, err := audit.OpenCheckpoint(signed, known)
		notes, out = append(notes, bytes.Clone(signed)), append(out, c)
		return err
	}))
	return notes, out
}

// sameTree compares every stored hash, asked for in several ways.
func (r *rig) sameTree() {
	r.Helper()
	all := r.recomputed()
	var at []int64
	for i := range all {
		at = append(at, int64(i))
	}
	backwards := slices.Clone(at)
	slices.Reverse(backwards)
	var some []int64 // out of order, and some twice
	for i := range all {
		if i%7 == 0 {
			some = append(some, int64(len(all)-1-i), int64(i), int64(i))
		}
	}
	for _, indexes := range [][]int64{at, backwards, some, nil} {
		want, err := all.ReadHashes(indexes)
		r.must(err)
		have, err := r.ReadHashes(indexes)
		r.must(err)
		if !slices.Equal(want, have) {
			r.Fatalf("the hashes of a log of %d are not those of its records", r.Size())
		}
	}
	for _, beyond := range [][]int64{{int64(len(all))}, {0, int64(len(all)) + 1000}} {
		if _, err := r.ReadHashes(beyond); !errors.Is(err, audit.ErrNoHash) {
			r.Fatalf("the hashes %v of %d: %v", beyond, len(all), err)
		}
	}
}

// tree: at every size, whatever has happened since the last checkpoint, the stored
// hashes are those that the records make.
func tree(r *rig) {
	ctx := context.Background()
	for step := range 32 {
		for range 1 + step*5%7 {
			r.must(r.Commit(ctx, r.applied()))
		}
		r.sameTree()
		switch step % 4 {
		case 0:
			r.must(r.Checkpoint())
		case 1:
			r.crash()
		case 2:
			r.reopen()
		}
		if step%4 != 3 {
			r.sameTree()
		}
	}
}

// treeOfManyRecords: also of more records than fit any page or batch.
func treeOfManyRecords(r *rig) {
	sides(64, func(int) {
		for range 25 {
			if err := r.Commit(context.Background(), r.applied()); err != nil {
				r.Error(err)
			}
		}
	})
	r.sameTree()
	r.must(r.Checkpoint())
	r.sameTree()
	if r.Size() != 64*25 {
		r.Errorf("%d records", r.Size())
	}
}

// proofs: every record can be shown to be in every tree after it, and every tree
// to begin with every one before it.
func proofs(r *rig) {
	ctx := context.Background()
	prove := func(sizes []int64) {
		r.Helper()
		all := r.recomputed()
		var leaves []audit.Leaf
		r.must(r.Records(ctx, 0, audit.MaxSize, func(_ int64, body []byte) error {
			leaves = append(leaves, audit.LeafHash(body))
			return nil
		}))
		for i, size := range sizes {
			root := r.root(all, size)
			for _, at := range []int64{0, 1, size / 3, size / 2, size - 2, size - 1} {
				if at < 0 || at >= size {
					continue
				}
				p, err := audit.Inclusion(r.Engine, size, at)
				r.must(err)
				r.must(audit.CheckInclusion(p, size, root, at, leaves[at]))
			}
			for _, old := range sizes[:i+1] {
				p, err := audit.Consistency(r.Engine, old, size)
				r.must(err)
				r.must(audit.CheckConsistency(p, old, r.root(all, old), size, root))
			}
		}
	}
	var sizes []int64
	for size := int64(1); size <= 260; size++ {
		r.must(r.Commit(ctx, r.applied()))
		if size <= 20 || size >= 62 && size <= 66 || size >= 126 && size <= 130 || size%29 == 0 || size >= 254 && size <= 258 {
			sizes = append(sizes, size)
		}
		if size == 99 {
			r.must(r.Checkpoint())
		}
	}
	prove([]int64{1, 98, 99, 100, 101, 259, 260}) // some of it is not written down
	r.must(r.Checkpoint())
	prove(sizes)

	// A receipt for somebody who has nothing but the public key.
	signed, err := r.LastCheckpoint(ctx)
	r.must(err)
	r.must(r.Records(ctx, 0, 260, func(seq int64, body []byte) error {
		if seq%13 != 0 {
			return nil
		}
		p, err := audit.NewProof(r.Engine, signed, r.verifiers(), seq, body)
		if err != nil {
			return err
		}
		_, err = audit.VerifyProof(p, body, r.verifiers())
		return err
	}))
}

// checkpoints are signed, never taken back, and each continues the one before.
func checkpoints(r *rig) {
	ctx := context.Background()
	_, err := r.LastCheckpoint(ctx)
	r.wants(sallyport.NotFound, err)
	published := map[string]bool{} // all that anybody has ever been given
	publish := func() {
		r.Helper()
		signed, err := r.LastCheckpoint(ctx)
		r.must(err)
		c, err := audit.OpenCheckpoint(signed, r.verifiers())
		r.must(err)
		if c.Origin != origin || c.Root != r.root(r.recomputed(), c.Size) {
			r.Fatalf("the checkpoint is of another tree: %+v", c)
		}
		published[string(signed)] = true
	}
	for step := range 12 {
		for range step % 4 {
			r.must(r.Commit(ctx, r.applied()))
		}
		if r.Size() == 0 {
			continue
		}
		r.must(r.Checkpoint())
		publish()
		if _, all := r.signed(); all[len(all)-1].Size != r.Size() {
			r.Errorf("the last checkpoint is of %d records of %d", all[len(all)-1].Size, r.Size())
		}
		switch step % 3 {
		case 0:
			r.must(r.Commit(ctx, r.applied()))
			r.crash()
		case 1:
			r.must(r.Commit(ctx, r.applied()))
			r.reopen() // which signs what there is
			if _, all := r.signed(); all[len(all)-1].Size != r.Size() {
				r.Errorf("closed with %d records of %d under a checkpoint", all[len(all)-1].Size, r.Size())
			}
			publish()
		}
	}
	notes, all := r.signed()
	for i, c := range all {
		delete(published, string(notes[i]))
		if i == 0 {
			continue
		}
		before := all[i-1]
		if before.Size >= c.Size {
			r.Errorf("the checkpoint of %d comes after that of %d", c.Size, before.Size)
		}
		p, err := audit.Consistency(r.Engine, before.Size, c.Size)
		r.must(err)
		r.must(audit.CheckConsistency(p, before.Size, before.Root, c.Size, c.Root))
	}
	if len(published) > 0 {
		r.Errorf("checkpoints that were given out are not there any more: %q", published)
	}
	// Nobody has to ask for one.
	r.must(r.Commit(ctx, r.applied()))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); ; <-tick.C {
		if _, all := r.signed(); all[len(all)-1].Size == r.Size() {
			break
		}
		if time.Since(begun) > time.Minute {
			r.Fatal("no checkpoint is signed")
		}
	}
}

// exports: what is handed to somebody else says the same, and fits a checkpoint
// that was kept elsewhere, also one from before a crash.
func exports(r *rig) {
	ctx := context.Background()
	run := r.started()
	work := func() {
		for range 40 {
			call, err := r.intend(run)
			r.must(err)
			r.must(r.conclude(run, call, sallyport.OutcomeOK))
		}
		r.must(r.Checkpoint())
	}
	work()
	kept, err := r.LastCheckpoint(ctx)
	r.must(err)
	r.crash()
	work()
	var file bytes.Buffer
	r.must(audit.Export(ctx, &file, r.Engine, audit.ExportOptions{Key: r.vkey}))
	report, err := audit.VerifyExport(&file, audit.VerifyOptions{Keys: []string{r.vkey}, Against: [][]byte{kept}})
	if err != nil || !report.OK || report.Against != 1 || report.Records != r.Size() {
		r.Errorf("%+v, %v", report, err)
	}
	if report, err = audit.VerifySource(ctx, r.Engine, audit.VerifyOptions{Keys: []string{r.vkey}, Against: [][]byte{kept}, Beside: r.Check}); err != nil || !report.OK || report.Against != 1 {
		r.Errorf("%+v, %v", report, err)
	}
	var paths []string
	r.must(audit.Tiles(ctx, r.Engine, r.Size(), func(path string, data []byte) error {
		paths = append(paths, path)
		if len(data) == 0 {
			return fmt.Errorf("%s is empty", path)
		}
		return nil
	}))
	if diff := cmp.Diff([]string{"tile/0/000.p/161", "tile/entries/000.p/161", "checkpoint"}, paths); diff != "" {
		r.Error(diff)
	}
	// A reader takes part of it, and an error of the reader ends it.
	var seen []int64
	r.must(r.Records(ctx, 10, 13, func(seq int64, _ []byte) error { seen = append(seen, seq); return nil }))
	if diff := cmp.Diff([]int64{10, 11, 12}, seen); diff != "" {
		r.Error(diff)
	}
	enough := errors.New("enough")
	n := 0
	if err := r.Records(ctx, 0, audit.MaxSize, func(int64, []byte) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		r.Errorf("%v after %d records", err, n)
	}
	if err := r.Engine.Checkpoints(ctx, func([]byte) error { return enough }); !errors.Is(err, enough) {
		r.Error(err)
	}
}
