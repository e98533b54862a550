package testkit

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"
)

// Leak fails the test if goroutines that it started are left when it ends. Call it
// first: what is to be stopped by then is stopped by later calls of Cleanup, which
// run before. Not for tests that run in parallel.
func Leak(tb testing.TB) {
	tb.Helper()
	before := goleak.IgnoreCurrent()
	tb.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(tb, before)
	})
}
