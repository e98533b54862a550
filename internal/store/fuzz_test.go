package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// FuzzPayload opens payloads whose content is anything under the right key, and
// sealed ones of which any byte may be another. What opens takes apart into what
// it was put together from; what was touched, or belongs to another record or
// key, does not open.
func FuzzPayload(f *testing.F) {
	salt := bytes.Repeat([]byte{7}, 32)
	for _, n := range [][]byte{{0}, {1}, {2}, {3}, {0x80}, {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, {}} {
		f.Add(append(append(bytes.Clone(salt), n...), `{}`...), uint16(3), byte(1))
	}
	f.Add([]byte{}, uint16(0), byte(0))
	f.Add(salt[:31], uint16(40), byte(0x80))
	f.Fuzz(func(t *testing.T, plain []byte, at uint16, flip byte) {
		raw := sha256.Sum256([]byte("key"))
		key, err := newAEAD(raw[:])
		if err != nil {
			t.Fatal(err)
		}
		blob := sealBytes(key, plain, []byte("rec_1"))
		p, err := openPayload(key, "rec_1", blob)
		if err == nil {
			again := binary.AppendUvarint(bytes.Clone(p.Salt), uint64(len(p.Arguments)))
			again = append(append(again, p.Arguments...), p.Result...)
			// A length may be written longer than it has to be.
			if len(p.Salt) != 32 || len(again) > len(plain) || !bytes.HasPrefix(plain, p.Salt) || !bytes.HasSuffix(plain, append(bytes.Clone(p.Arguments), p.Result...)) {
				t.Fatalf("%q became %q", plain, p)
			}
		}
		if _, err := openPayload(key, "rec_2", blob); err == nil {
			t.Fatal("opened as another record's")
		}
		raw[0]++
		other, err := newAEAD(raw[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openPayload(other, "rec_1", blob); err == nil {
			t.Fatal("opened with another key")
		}
		if flip != 0 {
			blob[int(at)%len(blob)] ^= flip
			if _, err := openPayload(key, "rec_1", blob); err == nil {
				t.Fatal("opened although it was touched")
			}
		}
		if _, err := openPayload(key, "rec_1", plain); err == nil {
			t.Fatal("opened what nobody sealed")
		}
	})
}
