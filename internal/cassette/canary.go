package cassette

import "errors"

// Search looks for canaries in a recording that is sealed, as [Seal] does. A recording
// whose seal does not hold is an error of [Parse].
func Search(sealed []byte, canaries [][]byte) ([]Hit, error) {
	s := search{originals: NewOriginals()}
	if err := s.prepare(s.originals, canaries); err != nil {
		return nil, err
	}
	c, err := parseLines(sealed, Limits{}, func(line int, _ []byte, doc *node) error {
		s.read(line, doc)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if c.Sealed == "" {
		return nil, errors.New("cassette is not sealed")
	}
	return s.hits, nil
}
