package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// progress is a bar on the terminal of whoever waits. Work that is done at once
// shows none.
type progress struct {
	out   io.Writer
	what  string
	unit  string // of what there is to do
	width int    // of the terminal, 0 if there is none
	began time.Time
	drawn time.Time
	shown bool
}

const (
	// patienceOfPeople is after what time somebody wants to see that it goes on.
	patienceOfPeople = 700 * time.Millisecond
	redraw           = 100 * time.Millisecond
)

func newProgress(c *cobra.Command, what string) *progress {
	out := c.ErrOrStderr()
	return &progress{out: out, what: what, unit: "records", width: terminalWidth(out), began: time.Now()}
}

// set says how far the work is.
func (b *progress) set(done, total int64) {
	now := time.Now()
	if b.width == 0 || now.Sub(b.began) < patienceOfPeople || now.Sub(b.drawn) < redraw {
		return
	}
	b.drawn, b.shown = now, true
	fmt.Fprint(b.out, "\r\x1b[K"+bar(b.what, b.unit, done, total, b.width))
}

// end takes the bar away.
func (b *progress) end() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = false
	}
}

// bar is one line that says how far the work is.
func bar(what, unit string, done, total int64, width int) string {
	if total <= 0 || done > total {
		return fmt.Sprintf("%s %d %s", what, done, unit)
	}
	count := fmt.Sprintf(" %3d%%  %d of %d %s", done*100/total, done, total, unit)
	room := min(width-len(what)-len(count)-3, 40)
	if room < 8 {
		return what + count
	}
	full := int(done * int64(room) / total)
	return what + " " + strings.Repeat("█", full) + strings.Repeat("░", room-full) + count
}

// contextFor is a command's context that ends after a time.
func contextFor(c *cobra.Command, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context(), limit)
}
