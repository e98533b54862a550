package gateway

import (
	"bytes"
	"errors"
	"strconv"
	"testing"

	"sallyport"
	"sallyport/internal/wire"
)

// FuzzCursor presents cursors to a list of two pages and a bit. Whatever cursor is
// accepted leads somewhere within the list, what it leads to is a message that can
// be read, and from there its own cursors lead to the end.
func FuzzCursor(f *testing.F) {
	for _, cursor := range []string{"", "NTAw", "MTAwMA", "MA", "MTAwNg", "MTAwNw", "LTE", "KzE", "MDA1MDA", "NTAw=", "NTAw ", "*", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "NTAwXG4", "IDU", "MHgx"} {
		f.Add(cursor, true)
		f.Add(cursor, false)
	}
	items := make([][]byte, 2*listPage+6)
	for i := range items {
		items[i] = strconv.AppendInt(nil, int64(i), 10)
	}
	f.Fuzz(func(t *testing.T, cursor string, stateless bool) {
		x := &Exchange{Era: wire.Sessions}
		if stateless {
			x.Era = wire.Stateless
		}
		x.Message.Cursor = cursor
		for pages := 0; ; pages++ {
			r := listReply(x, "resources", items, nil)
			if r.Refusal != nil {
				var refusal *sallyport.Refusal
				if !errors.As(error(r.Refusal), &refusal) || refusal.Code != sallyport.BadRequest || r.Result != nil || pages > 0 {
					t.Fatalf("page %d: %v", pages, r.Refusal)
				}
				return
			}
			page, next, err := wire.Items(r.Result, "resources")
			if err != nil || len(page) > listPage {
				t.Fatalf("%.200s: %v", r.Result, err)
			}
			if next == "" {
				if len(page) > 0 && !bytes.Equal(page[len(page)-1], items[len(items)-1]) {
					t.Fatalf("the last page ends with %s", page[len(page)-1])
				}
				return
			}
			if x.Message.Cursor = next; pages > 3 {
				t.Fatal("the list has no end")
			}
		}
	})
}
