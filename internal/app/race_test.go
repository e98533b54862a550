//go:build race

package app

// slow is how many times slower the race detector makes what is done most often.
const slow = 10
