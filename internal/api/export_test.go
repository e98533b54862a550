package api

import "sallyport"

// Statuses are those of HTTP by code.
func Statuses() map[string]int {
	out := map[string]int{}
	for code, meaning := range meanings {
		out[string(code)] = meaning.status
	}
	return out
}

// TypeOf is the type of problems with a code.
func TypeOf(code string) string { return typeOf(sallyport.Code(code)) }
