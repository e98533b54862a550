package app

// Aligned rewrites documents of a recording with the ids that a run made in one of
// them.
func Aligned(was, is []byte, documents ...[]byte) [][]byte {
	a := newAlignment()
	a.learn(was, is)
	out := make([][]byte, len(documents))
	for i, d := range documents {
		out[i] = a.rewritten(d)
	}
	return out
}
