package cassette

import "testing"

func TestZZ(t *testing.T) {
	f := newFinder([][]byte{[]byte("abababab"), []byte("babababb"), []byte("ababb")})
	for _, text := range []string{"xababababb", "abababb", "aababb"} {
		f.each([]byte(text), func(v, at int) bool { t.Log(text, string(f.values[v]), at); return true })
	}
}
