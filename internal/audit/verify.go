package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// VerifyOptions say what somebody who verifies trusts already.
type VerifyOptions struct {
	// Keys are the public keys trusted to sign for the log. Without any,
	// [VerifyExport] takes the one the export names, and the report says so.
	Keys []string
	// Against are signed checkpoints that were kept elsewhere, out of reach of
	// those who could change the log.
	Against [][]byte
	// Beside, if not nil, compares what a store keeps beside the log (what is in
	// force, what payloads open to) with the records it must follow from, and calls
	// found for what does not. [VerifySource] asks it if the log itself fits.
	Beside func(ctx context.Context, found func(seq int64, text string)) error
	// Progress, if not nil, is called now and then with the records done so far
	// and the records there should be, as far as is known.
	Progress func(done, total int64)
}

// FindingKind says in which way something does not fit.
type FindingKind string

// The kinds of findings.
const (
	// Altered: the record at that sequence is not the one that was logged.
	Altered FindingKind = "altered"
	// Reordered: another record of the log stands where that one belongs.
	Reordered FindingKind = "reordered"
	// Missing: that record is nowhere, and those after it have moved up.
	Missing FindingKind = "missing"
	// Inserted: before that record stands one that was never logged.
	Inserted FindingKind = "inserted"
	// Duplicated: that record is there twice.
	Duplicated FindingKind = "duplicated"
	// TreeBroken: hashes do not make the tree that was signed. Where no record can
	// be named, Sequence is the first of the range the text names.
	TreeBroken FindingKind = "tree"
	// CheckpointBad: a checkpoint cannot be read or is not signed by a trusted key,
	// or none covers the records from that sequence on.
	CheckpointBad FindingKind = "checkpoint"
	// Cut: the log, or the file, ends too early.
	Cut FindingKind = "cut"
	// Replaced: the log is not the one that was signed before.
	Replaced FindingKind = "replaced"
	// Malformed: something is not in the form it must have.
	Malformed FindingKind = "malformed"
	// Repeated: a call has two intents or two outcomes.
	Repeated FindingKind = "repeated"
	// Unfounded: what the store keeps beside the log does not follow from it.
	Unfounded FindingKind = "unfounded"
	// NoIntent: a changing call has an outcome and no intent before it.
	NoIntent FindingKind = "no_intent"
)

// Finding is one thing that does not fit.
type Finding struct {
	// Sequence is the position in the log, or -1 if it is about no position.
	Sequence int64       `json:"sequence"`
	Kind     FindingKind `json:"kind"`
	Text     string      `json:"text"`
}

// maxFindings bounds the findings of a report; the rest are counted.
const maxFindings = 100

// CannotExclude is what no verification without a checkpoint kept elsewhere can say.
const CannotExclude = "Cannot exclude: a cut tail or a tree replaced together with its signing key; " +
	"keep a checkpoint elsewhere and pass --against"

// Report is what verification found.
type Report struct {
	OK     bool   `json:"ok"`
	Origin string `json:"origin"`
	// Records are those that are there; Size and Root are of the largest checkpoint
	// that fits, and Checkpoints counts those that fit.
	Records     int64     `json:"records"`
	Size        int64     `json:"size"`
	Root        tlog.Hash `json:"root"`
	Checkpoints int       `json:"checkpoints"`
	// Against counts the checkpoints kept elsewhere that fit.
	Against int      `json:"against"`
	Keys    []string `json:"keys"`
	// KeyFromExport says that nobody vouched for the key.
	KeyFromExport bool `json:"key_from_export,omitempty"`
	// Findings begin with the first record that does not fit; More counts those
	// that are not listed.
	Findings []Finding `json:"findings,omitempty"`
	More     int       `json:"more,omitempty"`
	// Unknown are the calls whose outcome nobody knows. They are no findings.
	Unknown []OpenCall `json:"unknown,omitempty"`
	// Notes say what was not, or could not be, checked.
	Notes []string `json:"notes,omitempty"`
}

// entry is one record as it was found.
type entry struct {
	leaf Leaf
	// seq is the sequence it claims, or -1 if it is not a record at all.
	seq int64
}

// anchor is a checkpoint with a good signature: does it sign the leaf hashes as they
// are stored, and does it sign the records as they were found?
type anchor struct {
	size                int64
	fitsLeaves, fitsAll bool
}

// verification gathers what is found, in this order: records, leaves, checkpoints;
// then finish judges.
type verification struct {
	report Report
	known  note.Verifiers // nil if no key is known
	where  func(i int) string

	found   []entry
	leaves  []tlog.Hash // as stored beside the records
	partial bool        // there should be more leaves: what comes after is unknown
	anchors []anchor
	last    Checkpoint // the last of the anchors

	foundTree, leafTree Tree
	hashes              []tlog.Hash // for Tree.Append, thrown away

	calls Calls
	// late are findings that only mean something in a log that fits otherwise.
	late       []Finding
	unknownKey bool
}

func (v *verification) add(seq int64, kind FindingKind, format string, args ...any) {
	if len(v.report.Findings) >= maxFindings {
		v.report.More++
		return
	}
	v.report.Findings = append(v.report.Findings, Finding{seq, kind, fmt.Sprintf(format, args...)})
}

func (v *verification) record(seq int64, body []byte) {
	v.found = append(v.found, entry{LeafHash(body), seq})
	if len(v.late) >= maxFindings {
		return
	}
	var r Record
	if err := parseRecord(body, &r, true); err != nil {
		v.late = append(v.late, Finding{seq, Malformed, fmt.Sprintf("record %d cannot be read: %v", seq, err)})
		return
	}
	v.late = append(v.late, v.calls.Add(seq, &r)...)
}

// grow extends t to size leaves and returns its root; false if there are too few.
func grow(v *verification, t *Tree, size int64, n int, leaf func(i int64) Leaf) (tlog.Hash, bool) {
	if size > int64(n) {
		return tlog.Hash{}, false
	}
	for t.size < size {
		v.hashes = t.Append(v.hashes[:0], leaf(t.size))
	}
	return t.root(), true
}

func (v *verification) foundRoot(t *Tree, size int64) (tlog.Hash, bool) {
	return grow(v, t, size, len(v.found), func(i int64) Leaf { return v.found[i].leaf })
}

func (v *verification) leafRoot(t *Tree, size int64) (tlog.Hash, bool) {
	return grow(v, t, size, len(v.leaves), func(i int64) Leaf { return v.leaves[i] })
}

// checkpoint takes a signed checkpoint of the log itself; name says which.
func (v *verification) checkpoint(name string, signed []byte) {
	if v.known == nil {
		return // finish says so, once
	}
	c, err := OpenCheckpoint(signed, v.known)
	if _, unknown := errors.AsType[*UnknownKeyError](err); unknown {
		if !v.unknownKey {
			v.add(-1, CheckpointBad, "%s: %v", name, err)
		}
		v.unknownKey = true
		return
	}
	if v.report.Origin == "" {
		v.report.Origin = c.Origin
	}
	switch {
	case err != nil:
		v.add(-1, CheckpointBad, "%s: %v", name, err)
		return
	case c.Origin != v.report.Origin:
		v.add(-1, CheckpointBad, "%s is of the log %q, not %q", name, c.Origin, v.report.Origin)
		return
	case len(v.anchors) > 0 && c.Size < v.last.Size:
		v.add(-1, CheckpointBad, "%s, of %d records, comes after one of %d", name, c.Size, v.last.Size)
		return
	}
	a := anchor{size: c.Size}
	if root, ok := v.leafRoot(&v.leafTree, c.Size); ok && root == c.Root {
		a.fitsLeaves = true
	}
	if root, ok := v.foundRoot(&v.foundTree, c.Size); ok && root == c.Root {
		a.fitsAll = true
	}
	if a.fitsLeaves || a.fitsAll {
		v.report.Checkpoints++
		v.report.Size, v.report.Root = c.Size, c.Root
	}
	v.anchors, v.last = append(v.anchors, a), c
}

// finish judges what was gathered. The stored leaf hashes are trusted as far as a
// checkpoint signs them, and so are the records.
func (v *verification) finish(against [][]byte) {
	v.report.Records = int64(len(v.found))

	var byLeaves, byFound int64 // records under the largest checkpoint that fits
	for _, a := range v.anchors {
		if a.fitsLeaves {
			byLeaves = a.size
		}
		if a.fitsAll {
			byFound = a.size
		}
	}
	trusted := max(byLeaves, byFound)
	total := int64(max(len(v.leaves), len(v.found)))

	// The first checkpoint that fits neither, before and after the trusted part.
	forked, broken := int64(-1), int64(-1)
	var forkedFrom, brokenFrom int64
	fits := int64(0)
	for _, a := range v.anchors {
		switch {
		case a.fitsLeaves || a.fitsAll:
			fits = a.size
		case a.size <= trusted && forked < 0:
			forked, forkedFrom = a.size, fits
		case a.size > trusted && broken < 0:
			broken, brokenFrom = a.size, fits
		}
	}

	differ := v.differences()
	if byLeaves < byFound {
		// The records are those that were signed, so it is the hashes that are not.
		for i := range v.found[:byFound] {
			if i >= len(v.leaves) {
				break // which is said elsewhere
			}
			if v.leaves[i] != v.found[i].leaf {
				v.add(int64(i), TreeBroken, "the hash stored for record %d is not that of the record; the signed checkpoint agrees with the record", i)
				break
			}
		}
		differ = slices.DeleteFunc(differ, func(f Finding) bool { return f.Sequence < byFound })
	}
	for _, f := range differ {
		if broken < 0 || f.Sequence < trusted {
			v.add(f.Sequence, f.Kind, "%s", f.Text)
		}
	}
	if forked >= 0 {
		v.add(forkedFrom, Replaced, "a signed checkpoint of %d records signs another history than a later one: the records from %d to %d were replaced, and signed again", forked, forkedFrom, forked-1)
	}
	switch {
	case broken > total:
		v.add(total, Cut, "a signed checkpoint says that there were %d records; %d are here", broken, total)
	case broken >= 0:
		also := ""
		if i := slices.IndexFunc(differ, func(f Finding) bool { return f.Sequence >= trusted }); i >= 0 {
			also = "; where records and stored hashes differ first: " + differ[i].Text
		}
		v.add(brokenFrom, TreeBroken, "records and stored hashes from %d to %d are not those that the checkpoint of %d records signs; the checkpoint before, of %d, fits%s",
			brokenFrom, broken-1, broken, brokenFrom, also)
	}
	if len(v.anchors) == 0 && !v.unknownKey {
		v.add(-1, CheckpointBad, "there is no checkpoint that is signed by a trusted key")
	}
	v.against(against, total)
}

// close ends the report: what only counts if all else fits, and the verdict.
func (v *verification) close() *Report {
	r := &v.report
	if len(r.Findings) == 0 {
		for _, f := range v.late {
			v.add(f.Sequence, f.Kind, "%s", f.Text)
		}
		r.Unknown = v.calls.Open()
	} else {
		r.Notes = append(r.Notes, "Not checked: that every outcome follows its intent; the records do not fit.")
	}
	r.OK = len(r.Findings) == 0
	return r
}

// against compares with the checkpoints kept elsewhere. They count even if the key
// that signed them is not known: a log that was replaced together with its key is
// what they are kept for.
func (v *verification) against(kept [][]byte, total int64) {
	type keptOne struct {
		name    string
		c       Checkpoint
		unknown error
	}
	var list []keptOne
	for i, signed := range kept {
		k := keptOne{name: fmt.Sprintf("checkpoint %d of those kept elsewhere", i+1)}
		var err error
		k.c, err = OpenCheckpoint(signed, v.known)
		if u, ok := errors.AsType[*UnknownKeyError](err); ok {
			k.c, k.unknown = u.Checkpoint, err
		} else if err != nil {
			v.add(-1, CheckpointBad, "%s: %v", k.name, err)
			continue
		}
		if v.report.Origin != "" && k.c.Origin != v.report.Origin {
			v.add(-1, CheckpointBad, "%s is of the log %q, not %q", k.name, k.c.Origin, v.report.Origin)
			continue
		}
		list = append(list, k)
	}
	if len(list) == 0 {
		v.report.Notes = append(v.report.Notes, CannotExclude)
		return
	}
	slices.SortStableFunc(list, func(a, b keptOne) int { return cmp.Compare(a.c.Size, b.c.Size) })
	var leafTree, foundTree Tree
	for _, k := range list {
		if k.c.Size > total {
			v.add(total, Cut, "%s proves that there were %d records; %d are here", k.name, k.c.Size, total)
			continue
		}
		byLeaves, ok1 := v.leafRoot(&leafTree, k.c.Size)
		byFound, ok2 := v.foundRoot(&foundTree, k.c.Size)
		switch {
		case (!ok1 || byLeaves != k.c.Root) && (!ok2 || byFound != k.c.Root):
			v.add(-1, Replaced, "%s has another root at %d records: this is not the log it was made of", k.name, k.c.Size)
		case k.unknown != nil:
			v.add(-1, CheckpointBad, "%s: %v", k.name, k.unknown)
		default:
			v.report.Against++
		}
	}
}

// differences aligns the records as found with the stored leaf hashes and says, in
// the order found, where they part.
func (v *verification) differences() []Finding {
	found, leaves := v.found, v.leaves
	same := len(found) == len(leaves)
	for i := 0; same && i < len(found); i++ {
		same = found[i].leaf == leaves[i] && found[i].seq == int64(i)
	}
	if same {
		return nil
	}

	// position is where a leaf belongs; lastSeen the last record found with it.
	position := make(map[Leaf]int, len(leaves))
	for i := len(leaves) - 1; i >= 0; i-- {
		position[leaves[i]] = i
	}
	lastSeen := make(map[Leaf]int, len(found))
	for j, e := range found {
		lastSeen[e.leaf] = j
	}
	done := make([]bool, len(leaves))
	next := 0 // the first leaf not accounted for
	var list []Finding
	add := func(seq int, kind FindingKind, format string, args ...any) {
		list = append(list, Finding{int64(seq), kind, fmt.Sprintf(format, args...)})
	}
	comes := func(i, after int) bool { // will leaf i be found after record after?
		j, ok := lastSeen[leaves[i]]
		return ok && j > after
	}
	// missing accounts for the leaves from next up to end of which no record comes.
	missing := func(end, after int) {
		for next < end {
			for next < end && done[next] {
				next++
			}
			first := next
			for next < end && !done[next] && !comes(next, after) {
				done[next] = true
				next++
			}
			switch {
			case next-first == 1:
				add(first, Missing, "record %d is missing", first)
			case next > first:
				add(first, Missing, "records %d to %d are missing", first, next-1)
			default:
				return
			}
		}
	}

	moved := -1 // where the record before belongs, if it stood elsewhere
	for j, e := range found {
		if len(list) >= maxFindings {
			return list
		}
		for next < len(leaves) && done[next] {
			next++
		}
		if next < len(leaves) && e.leaf == leaves[next] {
			// A file cut and renumbered claims positions that are its own.
			if e.seq != int64(next) && e.seq != int64(j) {
				add(next, Altered, "%s: the record that belongs at %d has the sequence %d", v.where(j), next, e.seq)
			}
			done[next] = true
			moved = -1
			continue
		}
		if next == len(leaves) && v.partial {
			return list
		}
		p, logged := position[e.leaf]
		switch {
		case logged && done[p]:
			add(p, Duplicated, "%s: record %d is there again", v.where(j), p)
			moved = -1
		case logged:
			// p is behind next: those before it are missing, or come later.
			missing(p, j)
			if next == p {
				if e.seq != int64(p) && e.seq != int64(j) {
					add(p, Altered, "%s: the record that belongs at %d has the sequence %d", v.where(j), p, e.seq)
				}
				done[p] = true
				moved = -1
				break
			}
			if moved < 0 || p != moved+1 { // a run of records that moved together is named once
				add(next, Reordered, "%s: record %d stands where record %d belongs", v.where(j), p, next)
			}
			done[p] = true
			moved = p
		default:
			moved = -1
			if claims := int(min(e.seq, math.MaxInt32)); claims > next && claims < len(leaves) && !done[claims] && !comes(claims, j) {
				missing(claims, j)
			}
			if next < len(leaves) && !comes(next, j) {
				if e.seq < 0 {
					add(next, Malformed, "%s, where record %d belongs, is not a record", v.where(j), next)
				} else {
					add(next, Altered, "%s: record %d was altered", v.where(j), next)
				}
				done[next] = true
				next++
				break
			}
			add(next, Inserted, "%s: a record that was never logged, before record %d", v.where(j), next)
		}
	}
	missing(len(leaves), len(found))
	return list
}

// VerifyExport checks what [Export] has written, with nothing but the file. It reads
// r to its end and returns a report whatever is in it; the error is that of r, or
// that a key in the options is none.
func VerifyExport(r io.Reader, o VerifyOptions) (*Report, error) {
	v := &verification{where: func(i int) string { return "line " + strconv.Itoa(i+2) }}
	if len(o.Keys) > 0 {
		known, err := Verifiers(o.Keys...)
		if err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		v.known, v.report.Keys = known, o.Keys
	}

	total := int64(-1) // records by the header
	const (
		inHeader = iota
		inRecords
		inLeaves
		inCheckpoints
		atEnd
	)
	state := inHeader
	whole := sha256.New() // all lines before the end
	wrongSum := false
	stray := 0 // the first line that should be leaves and is not

	lines := lineReader{r: bufio.NewReaderSize(r, 64<<10)}
	for n := 1; ; n++ {
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("verify: line %d: %w", n, err)
		}
		if line[len(line)-1] != '\n' && !lines.long {
			v.add(-1, Cut, "the file ends in the middle of line %d", n)
		}
		if state == inHeader {
			state = inRecords
			whole.Write(line)
			var h header
			if json.Unmarshal(line, &h) != nil || h.Version != 1 || h.Size < 0 || h.Size > MaxSize ||
				!bytes.Equal(h.append(nil), line) {
				v.add(-1, Malformed, "line 1 is not the header of an export")
				continue
			}
			total, v.report.Origin = h.Size, h.Origin
			signer, err := newVerifier(h.Key)
			switch {
			case err != nil:
				v.add(-1, Malformed, "line 1: %v", err)
			case signer.Name() != h.Origin:
				v.add(-1, Malformed, "line 1: the key is that of %q, the log is called %q", signer.Name(), h.Origin)
			case len(o.Keys) == 0:
				v.known, v.report.Keys, v.report.KeyFromExport = note.VerifierList(signer), []string{h.Key}, true
			case !slices.Contains(o.Keys, h.Key):
				v.add(-1, CheckpointBad, "line 1 names the key %s, which is not a trusted one", h.Key)
			}
			continue
		}

		kind := state
		switch {
		case bytes.HasPrefix(line, []byte(`{"sequence":`)):
			kind = inRecords
		case bytes.HasPrefix(line, []byte(`{"leaves":`)):
			kind = inLeaves
		case bytes.HasPrefix(line, []byte(`{"checkpoint":`)):
			kind = inCheckpoints
		case bytes.HasPrefix(line, []byte(`{"end":`)):
			kind = atEnd
		}
		if kind < state || state == atEnd {
			v.add(-1, Malformed, "line %d does not belong there", n)
			continue
		}
		state = kind
		if state != atEnd {
			whole.Write(line)
		}
		switch state {
		case inRecords:
			seq, body, ok := recordLine(line)
			if !ok {
				if stray == 0 && int64(len(v.found)) >= total {
					stray = n
				}
				v.found = append(v.found, entry{LeafHash(line), -1})
			} else {
				v.record(seq, body)
			}
			if o.Progress != nil && len(v.found)%4096 == 0 {
				o.Progress(int64(len(v.found)), total)
			}
		case inLeaves:
			hashes, ok := leavesLine(line, int64(len(v.leaves)))
			if !ok && stray == 0 {
				stray = n // those after it do not fit either, and need not be named
			}
			v.leaves = append(v.leaves, hashes...)
		case inCheckpoints:
			var l struct {
				Checkpoint string `json:"checkpoint"`
			}
			if json.Unmarshal(line, &l) != nil || !bytes.Equal(appendCheckpointLine(nil, []byte(l.Checkpoint)), line) {
				v.add(-1, Malformed, "line %d is not a checkpoint", n)
				continue
			}
			v.checkpoint("line "+strconv.Itoa(n), []byte(l.Checkpoint))
		case atEnd:
			wrongSum = !bytes.Equal(line, appendEndLine(nil, [sha256.Size]byte(whole.Sum(nil))))
		}
	}
	if o.Progress != nil {
		o.Progress(int64(len(v.found)), total)
	}
	if state == inHeader {
		v.add(-1, Malformed, "the file is empty")
	} else if state != atEnd {
		v.add(-1, Cut, "the file ends before its last line")
	}
	v.partial = int64(len(v.leaves)) < total || state < inCheckpoints
	v.finish(o.Against)
	if total >= 0 && state == atEnd {
		n := int64(len(v.leaves))
		if stray > 0 {
			v.add(-1, Malformed, "line %d is not a line of leaves, or not of those that come there", stray)
		} else if n != total {
			v.add(min(n, total), Malformed, "line 1 says that there are %d records; there are %d leaf hashes", total, n)
		}
		if len(v.anchors) > 0 && v.last.Size < total {
			v.add(v.last.Size, CheckpointBad, "no checkpoint covers the records from %d to %d", v.last.Size, total-1)
		}
	}
	if wrongSum && len(v.report.Findings) == 0 {
		v.add(-1, Malformed, "the last line is not the sum of those before it: something that nothing else covers was changed, such as a signature by an unknown key")
	}
	if v.report.KeyFromExport {
		v.report.Notes = append(v.report.Notes, "The key was taken from the export itself: this shows that the export fits together, not whose it is.")
	}
	return v.close(), nil
}

// recordLine undoes appendRecordLine.
func recordLine(line []byte) (seq int64, body []byte, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"sequence":`))
	comma := bytes.IndexByte(rest, ',')
	if !ok || comma < 1 || comma > 15 || len(rest) < comma+3 || rest[len(rest)-1] != '\n' {
		return 0, nil, false
	}
	seq, err := strconv.ParseInt(string(rest[:comma]), 10, 64)
	if err != nil || strconv.FormatInt(seq, 10) != string(rest[:comma]) || seq < 0 || seq >= MaxSize {
		return 0, nil, false
	}
	body = rest[comma : len(rest)-1]
	body[0] = '{' // over the comma: line is the reader's, and not used again
	return seq, body, true
}

// leavesLine undoes appendLeavesLine, for leaves from first on.
func leavesLine(line []byte, first int64) ([]tlog.Hash, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"leaves":"`))
	quote := bytes.IndexByte(rest, '"')
	if !ok || quote < 0 {
		return nil, false
	}
	raw, err := base64.StdEncoding.DecodeString(string(rest[:quote]))
	if err != nil || len(raw) == 0 || len(raw)%tlog.HashSize != 0 || len(raw) > leavesPerLine*tlog.HashSize {
		return nil, false
	}
	var hashes []tlog.Hash
	for h := range slices.Chunk(raw, tlog.HashSize) {
		hashes = append(hashes, tlog.Hash(h))
	}
	if first%leavesPerLine != 0 || !bytes.Equal(appendLeavesLine(nil, first, hashes), line) {
		return nil, false
	}
	return hashes, true
}

// lineReader reads lines of bounded length.
type lineReader struct {
	r *bufio.Reader
	// long says that the line was longer than maxLine; the rest of it was skipped.
	long bool
	buf  []byte
}

// maxLine bounds a line of an export: a body, and room for its sequence. A line of
// leaves has about 11,000 bytes, one with a checkpoint at most 6 * MaxCheckpoint.
const maxLine = MaxBody + 64

// next returns a line with its line break, if it has one. It is valid until the next
// call. The error is io.EOF at the end, or that of the reader.
func (l *lineReader) next() ([]byte, error) {
	l.buf, l.long = l.buf[:0], false
	for {
		part, err := l.r.ReadSlice('\n')
		if room := maxLine - len(l.buf); len(part) > room {
			l.long = true
			part = part[:room]
		}
		l.buf = append(l.buf, part...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && len(l.buf) > 0:
			return l.buf, nil
		}
		return l.buf, err
	}
}

// VerifySource checks a stored log: it recomputes every leaf from the bodies,
// compares with the stored hashes, rebuilds the tree, and compares with every
// checkpoint. Records after the last checkpoint are checked against the stored
// hashes only; the report says how many. The error is that of src, or that no
// trusted key is given.
func VerifySource(ctx context.Context, src Source, o VerifyOptions) (*Report, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("verify: no trusted key is given")
	}
	known, err := Verifiers(o.Keys...)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v := &verification{known: known}
	v.report.Keys = o.Keys
	v.where = func(i int) string { return "stored record " + strconv.FormatInt(v.found[i].seq, 10) }

	// The checkpoints first: how many leaves there must be follows from them too.
	// Those that come while the records are read are left alone.
	total := int64(0)
	err = src.Checkpoints(ctx, func(signed []byte) error {
		if c, err := openBy(signed, nil); err == nil {
			total = max(total, c.Size)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify: checkpoints: %w", err)
	}
	err = src.Records(ctx, 0, MaxSize, func(seq int64, body []byte) error {
		v.record(seq, body)
		if o.Progress != nil && len(v.found)%4096 == 0 {
			o.Progress(int64(len(v.found)), total)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify: records: %w", err)
	}
	if o.Progress != nil {
		o.Progress(int64(len(v.found)), max(total, int64(len(v.found))))
	}

	inner, err := v.readTree(src, max(total, int64(len(v.found))))
	if err != nil {
		return nil, err
	}
	n := 0
	err = src.Checkpoints(ctx, func(signed []byte) error {
		if c, err := openBy(signed, nil); err == nil && c.Size > total {
			return nil
		}
		n++
		v.checkpoint(fmt.Sprintf("stored checkpoint %d", n), signed)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify: checkpoints: %w", err)
	}
	v.finish(o.Against)
	if len(v.report.Findings) == 0 && inner != nil {
		v.add(inner.Sequence, inner.Kind, "%s", inner.Text)
	}
	if n := int64(len(v.found)) - v.last.Size; n > 0 && len(v.report.Findings) == 0 {
		v.report.Notes = append(v.report.Notes, fmt.Sprintf("Not signed: the last %d records, which came after the last checkpoint; only the store vouches for them.", n))
	}
	if o.Beside != nil && len(v.report.Findings) == 0 {
		if err := o.Beside(ctx, func(seq int64, text string) { v.add(seq, Unfounded, "%s", text) }); err != nil {
			return nil, fmt.Errorf("verify: what is kept beside the log: %w", err)
		}
	}
	return v.close(), nil
}

// readTree reads the stored hashes of the first size records into v.leaves, and
// returns the first inner hash that does not follow from them, if there is one. A
// leaf that is not stored is a finding, and ends the leaves.
func (v *verification) readTree(src tlog.HashReader, size int64) (inner *Finding, err error) {
	var t Tree
	var at []int64
	var made []tlog.Hash
	for t.size < size {
		first, from := t.size, FirstIndex(t.size)
		end := min(first+leavesPerLine, size)
		at = at[:0]
		for i := from; i < tlog.StoredHashCount(end); i++ {
			at = append(at, i)
		}
		stored, err := src.ReadHashes(at)
		if errors.Is(err, ErrNoHash) {
			stored, err = readSome(src, at)
		}
		if err == nil && len(stored) != len(at) {
			err = fmt.Errorf("got %d hashes for %d", len(stored), len(at))
		}
		if err != nil {
			return nil, fmt.Errorf("verify: stored hashes of records %d to %d: %w", first, end-1, err)
		}
		for t.size < end {
			n := t.size
			leaf := stored[FirstIndex(n)-from]
			if leaf == (tlog.Hash{}) {
				if v.partial = true; n < int64(len(v.found)) {
					v.add(n, TreeBroken, "the stored hash of record %d is missing", n)
				}
				return inner, nil
			}
			v.leaves = append(v.leaves, leaf)
			made = t.Append(made[:0], leaf)
			for i, h := range made {
				if stored[FirstIndex(n)-from+int64(i)] != h && inner == nil {
					inner = &Finding{n, TreeBroken, fmt.Sprintf(
						"the stored hash over records %d to %d does not follow from those below it: proofs made from it fail", n+1-1<<i, n)}
				}
			}
		}
	}
	return inner, nil
}

// readSome is ReadHashes one by one, with a zero hash for each that is not stored.
func readSome(src tlog.HashReader, at []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(at))
	for i := range at {
		one, err := src.ReadHashes(at[i : i+1])
		if errors.Is(err, ErrNoHash) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(one) == 1 {
			hashes[i] = one[0]
		}
	}
	return hashes, nil
}
