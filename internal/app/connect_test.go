package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/stdiobridge"
	"sallyport/internal/wire"
)

// bridged is a client that speaks stdio to a bridge.
type bridged struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string
	ended chan error
}

func bridgeTo(t *testing.T, url, token string) *bridged {
	t.Helper()
	in, toBridge := io.Pipe()
	fromBridge, out := io.Pipe()
	b := &bridged{t: t, in: toBridge, lines: make(chan string, 100), ended: make(chan error, 1)}
	go func() {
		err := stdiobridge.Run(context.Background(), stdiobridge.Config{
			URL: url + "/mcp", Credential: func() (string, error) { return token, nil }, In: in, Out: out, Say: func(line string) { t.Log(line) },
		})
		out.Close()
		in.Close()
		b.ended <- err
	}()
	go func() {
		defer close(b.lines)
		for s := bufio.NewScanner(fromBridge); s.Scan(); {
			b.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		toBridge.Close()
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
	})
	return b
}

// ask sends a line and returns the one that answers it.
func (b *bridged) ask(id int, method, params string) string {
	b.t.Helper()
	fmt.Fprintf(b.in, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`+"\n", id, method, params)
	return b.until(fmt.Sprintf(`"id":%d,`, id))
}

// until waits for a line with a text in it.
func (b *bridged) until(text string) string {
	b.t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-b.lines:
			if !ok {
				b.t.Fatal("the bridge has ended")
			}
			if strings.Contains(line, text) {
				return line
			}
		case <-late:
			b.t.Fatalf("nothing with %s came", text)
		}
	}
}

// TestBridge takes a client over stdio through a halt, a restart of the
// installation, and the end of its credential, in both eras.
func TestBridge(t *testing.T) {
	const find = `"name":"find_customer","arguments":{"email":"ada@example.com"}`
	const meta = `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		t.Run(era.String(), func(t *testing.T) {
			o := Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet()}
			d, err := NewDemo(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.App.Close(); err != nil {
					t.Error(err)
				}
			}()
			key, err := d.App.Control.MakeAgentKey(t.Context(), d.Person, "support", "", sallyport.Sandbox, 1, "bridge")
			if err != nil {
				t.Fatal(err)
			}
			b := bridgeTo(t, d.App.URL, key.Secret)
			call := find + meta
			if era == wire.Sessions {
				call = find
				b.ask(0, wire.MethodInitialize, `"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}`)
				fmt.Fprintln(b.in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			}
			want := func(got string, texts ...string) {
				t.Helper()
				for _, text := range texts {
					if !strings.Contains(got, text) {
						t.Errorf("got %s\nwithout %s", got, text)
					}
				}
			}
			want(b.ask(1, wire.MethodToolsCall, call), `"result"`, "ada@example.com")

			if _, err := d.App.Control.Halt(t.Context(), d.Person, sallyport.HaltAgent, "support", "to see"); err != nil {
				t.Fatal(err)
			}
			want(b.ask(2, wire.MethodToolsCall, call), "Refused (halted)")
			if err := d.App.Control.Resume(t.Context(), d.Person, sallyport.HaltAgent, "support", "seen"); err != nil {
				t.Fatal(err)
			}

			o.Listen = strings.TrimPrefix(d.App.URL, "http://")
			if err := d.App.Close(); err != nil {
				t.Fatal(err)
			}
			got := b.ask(3, wire.MethodToolsCall, call)
			if strings.Contains(got, `"sent":"maybe"`) { // on a connection that was kept, and broke under it
				got = b.ask(30, wire.MethodToolsCall, call)
			}
			want(got, `"error"`, "connection refused; nothing was sent", `"sent":"no"`)
			if d, err = NewDemo(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if era == wire.Sessions {
				b.until(wire.NotificationToolsListChanged) // it is another session
			}
			want(b.ask(4, wire.MethodToolsCall, call), `"result"`)

			if err := d.App.Control.RevokeKey(t.Context(), d.Person, key.Key.ID, "over"); err != nil {
				t.Fatal(err)
			}
			want(b.ask(5, wire.MethodToolsCall, call), `"error"`, "nauthenticated")
		})
	}
}
