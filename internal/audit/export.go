package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrNoHash is what a [Source] wraps when it is asked for a hash it does not hold.
var ErrNoHash = errors.New("no such stored hash")

// Source is a stored log, to be read from. It may be growing meanwhile.
type Source interface {
	// Records calls fn for the stored records with from <= sequence < to, in
	// ascending order of the sequence; to may lie beyond the last one. The body is
	// valid only during the call. An error of fn ends it and is returned.
	Records(ctx context.Context, from, to int64, fn func(seq int64, body []byte) error) error
	// ReadHashes returns the hashes with these stored-hash indexes (see
	// [tlog.StoredHashIndex]), as many as asked for and in that order. If one is
	// not stored, the error wraps [ErrNoHash].
	ReadHashes(indexes []int64) ([]tlog.Hash, error)
	// Checkpoints calls fn for every signed checkpoint, in ascending order of
	// size. An error of fn ends it and is returned.
	Checkpoints(ctx context.Context, fn func(signed []byte) error) error
}

// ExportOptions say what to export.
type ExportOptions struct {
	// Key is the public key of the log, to be named in the export; its name is
	// the origin.
	Key string
	// Size is how many records to export: a size some checkpoint has. Zero means
	// those that the last checkpoint covers.
	Size int64
}

// leavesPerLine is how many leaf hashes a line of an export and a tile hold.
const leavesPerLine = 256

// header is the first line of an export.
type header struct {
	Version int    `json:"sallyport_export"`
	Origin  string `json:"origin"`
	Size    int64  `json:"size"`
	Key     string `json:"key"`
}

func (h header) append(b []byte) []byte {
	b = append(b, `{"sallyport_export":`...)
	b = strconv.AppendInt(b, int64(h.Version), 10)
	b = append(b, `,"origin":`...)
	b = appendString(b, h.Origin)
	b = append(b, `,"size":`...)
	b = strconv.AppendInt(b, h.Size, 10)
	b = append(b, `,"key":`...)
	b = appendString(b, h.Key)
	return append(b, "}\n"...)
}

func appendRecordLine(b []byte, seq int64, body []byte) []byte {
	b = append(b, `{"sequence":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, ',')
	b = append(b, body[1:]...)
	return append(b, '\n')
}

func appendLeavesLine(b []byte, first int64, leaves []tlog.Hash) []byte {
	b = append(b, `{"leaves":"`...)
	raw := make([]byte, 0, leavesPerLine*tlog.HashSize)
	for _, h := range leaves {
		raw = append(raw, h[:]...)
	}
	b = base64.StdEncoding.AppendEncode(b, raw)
	b = append(b, `","first":`...)
	b = strconv.AppendInt(b, first, 10)
	return append(b, "}\n"...)
}

func appendCheckpointLine(b, signed []byte) []byte {
	b = append(b, `{"checkpoint":`...)
	b = appendString(b, string(signed))
	return append(b, "}\n"...)
}

func appendEndLine(b []byte, sum [sha256.Size]byte) []byte {
	b = append(b, `{"end":"sha256:`...)
	b = hex.AppendEncode(b, sum[:])
	return append(b, "\"}\n"...)
}

// Export writes the log as lines of JSON, every one in its only form:
//
//	{"sallyport_export":1,"origin":"…","size":N,"key":"<public key>"}
//	{"sequence":17,…                     one a record: its body, with the sequence
//	                                     after the opening brace and nothing else
//	                                     changed, so that the leaf can be recomputed
//	{"leaves":"<base64>","first":0}      the leaf hashes, 256 a line
//	{"checkpoint":"<signed note>"}       every checkpoint, the last covers N records
//	{"end":"sha256:…"}                   SHA-256 of all the lines before, in hexadecimal
//
// It writes what is stored and does not judge it: that is for [VerifyExport]. Only
// what cannot be written in this form is an error, and a size that no checkpoint
// has.
func Export(ctx context.Context, w io.Writer, src Source, o ExportOptions) error {
	signer, err := newVerifier(o.Key)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	known := note.VerifierList(signer)
	size, err := checkpointSize(ctx, src, known, o.Size)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}

	out := bufio.NewWriterSize(w, 64<<10)
	sum := sha256.New()
	all := io.MultiWriter(out, sum)
	line := header{Version: 1, Origin: signer.Name(), Size: size, Key: o.Key}.append(nil)
	if _, err := all.Write(line); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	err = src.Records(ctx, 0, size, func(seq int64, body []byte) error {
		if len(body) < 3 || len(body) > MaxBody || body[0] != '{' || bytes.IndexByte(body, '\n') >= 0 {
			return fmt.Errorf("record %d is not one JSON object in one line of at most %d bytes", seq, MaxBody)
		}
		line = appendRecordLine(line[:0], seq, body)
		_, err := all.Write(line)
		return err
	})
	if err != nil {
		return fmt.Errorf("export records: %w", err)
	}
	for first := int64(0); first < size; first += leavesPerLine {
		leaves, err := readLeaves(src, first, min(first+leavesPerLine, size))
		if err != nil {
			return fmt.Errorf("export leaves: %w", err)
		}
		line = appendLeavesLine(line[:0], first, leaves)
		if _, err := all.Write(line); err != nil {
			return fmt.Errorf("export leaves: %w", err)
		}
	}
	err = src.Checkpoints(ctx, func(signed []byte) error {
		c, err := openBy(signed, known)
		if err != nil || c.Size > size {
			return err
		}
		line = appendCheckpointLine(line[:0], signed)
		_, err = all.Write(line)
		return err
	})
	if err != nil {
		return fmt.Errorf("export checkpoints: %w", err)
	}
	if _, err := out.Write(appendEndLine(line[:0], [sha256.Size]byte(sum.Sum(nil)))); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// openBy is OpenCheckpoint, but a key that is not known, perhaps the one before the
// one in use now, is no error.
func openBy(signed []byte, known note.Verifiers) (Checkpoint, error) {
	c, err := OpenCheckpoint(signed, known)
	if unknown, ok := errors.AsType[*UnknownKeyError](err); ok {
		return unknown.Checkpoint, nil
	}
	return c, err
}

// checkpointSize is want if a checkpoint signed by a known key has that size, or the
// largest size of such a checkpoint if want is zero.
func checkpointSize(ctx context.Context, src Source, known note.Verifiers, want int64) (int64, error) {
	size, before := int64(-1), int64(0)
	err := src.Checkpoints(ctx, func(signed []byte) error {
		c, err := openBy(signed, known)
		if err != nil {
			return err
		}
		if c.Size < before {
			return fmt.Errorf("the checkpoint of %d records comes after that of %d", c.Size, before)
		}
		before = c.Size
		if _, err := OpenCheckpoint(signed, known); err == nil && (want == 0 || c.Size == want) {
			size = c.Size
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case size < 0 && want == 0:
		return 0, errors.New("no checkpoint is signed by this key")
	case size < 0:
		return 0, fmt.Errorf("no checkpoint of %d records is signed by this key", want)
	}
	return size, nil
}

func readLeaves(src tlog.HashReader, from, to int64) ([]tlog.Hash, error) {
	at := make([]int64, 0, to-from)
	for n := from; n < to; n++ {
		at = append(at, tlog.StoredHashIndex(0, n))
	}
	hashes, err := src.ReadHashes(at)
	if err == nil && len(hashes) != len(at) {
		err = fmt.Errorf("got %d hashes for %d", len(hashes), len(at))
	}
	if err != nil {
		return nil, fmt.Errorf("records %d to %d: %w", from, to-1, err)
	}
	return hashes, nil
}

// MaxTileEntry bounds an entry of an entry bundle, in bytes: its length is written
// in 16 bits.
const MaxTileEntry = 1<<16 - 1

// Tiles writes the first size records in the layout of C2SP tlog-tiles, for a size
// some checkpoint has: hash tiles tile/<L>/<N>, entry bundles tile/entries/<N>
// whose entries are the bodies, and last checkpoint. Each path is put once; data is
// the callee's to keep. A record longer than [MaxTileEntry] cannot be written so:
// an error names it.
func Tiles(ctx context.Context, src Source, size int64, put func(path string, data []byte) error) error {
	var signed []byte
	err := src.Checkpoints(ctx, func(b []byte) error {
		c, err := openBy(b, note.VerifierList())
		if err == nil && c.Size == size {
			signed = bytes.Clone(b)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	if signed == nil {
		return fmt.Errorf("tiles: no checkpoint has %d records", size)
	}
	for _, t := range tlog.NewTiles(8, 0, size) {
		data, err := tlog.ReadTileData(t, src)
		if err != nil {
			return fmt.Errorf("tile %s: %w", tilePath(t, strconv.Itoa(t.L)), err)
		}
		if err := put(tilePath(t, strconv.Itoa(t.L)), data); err != nil {
			return err
		}
	}

	var bundle []byte
	next := int64(0) // sequence of the record to come
	putBundle := func() error {
		w := int((next-1)%leavesPerLine) + 1
		t := tlog.Tile{H: 8, N: (next - 1) / leavesPerLine, W: w}
		err := put(tilePath(t, "entries"), bundle)
		bundle = nil
		return err
	}
	err = src.Records(ctx, 0, size, func(seq int64, body []byte) error {
		if seq != next {
			return fmt.Errorf("record %d is missing", next)
		}
		if len(body) > MaxTileEntry {
			return fmt.Errorf("record %d has %d bytes: an entry holds at most %d", seq, len(body), MaxTileEntry)
		}
		bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(body)))
		bundle = append(bundle, body...)
		if next++; next%leavesPerLine == 0 {
			return putBundle()
		}
		return nil
	})
	if err == nil && len(bundle) > 0 {
		err = putBundle()
	}
	if err == nil && next != size {
		err = fmt.Errorf("record %d is missing", next)
	}
	if err != nil {
		return fmt.Errorf("tiles: entries: %w", err)
	}
	return put("checkpoint", signed)
}

// tilePath is the path of a tile of height 8, which tlog writes with the height.
func tilePath(t tlog.Tile, level string) string {
	rest := strings.TrimPrefix(t.Path(), "tile/8/")
	return "tile/" + level + rest[strings.IndexByte(rest, '/'):]
}
