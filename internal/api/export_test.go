package api

// Statuses are those of HTTP by code.
func Statuses() map[string]int {
	out := map[string]int{}
	for code, meaning := range meanings {
		out[string(code)] = meaning.status
	}
	return out
}
