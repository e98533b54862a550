package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// The test binary is also the programs that the tests start.
func TestMain(m *testing.M) {
	switch os.Getenv("PLAY") {
	case "":
		goleak.VerifyTestMain(m)
	case "server":
		playServer()
	case "gateway":
		playGateway()
	case "sleep":
		select {}
	}
}

// deadline bounds what should be over in an instant.
const deadline = time.Minute

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func newStage(t testing.TB, stage sallyport.Stage) *upstream.Stage {
	t.Helper()
	return newStageWith(t, upstream.Config{Stage: stage})
}

func newStageWith(t testing.TB, c upstream.Config) *upstream.Stage {
	t.Helper()
	c.Client = upstream.Implementation{Name: "sallyport", Version: "test"}
	if c.Stage == 0 {
		c.Stage = sallyport.Production
	}
	if testing.Verbose() {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s := upstream.NewStage(c)
	t.Cleanup(func() {
		if err := s.Close(within(t)); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func backend(t testing.TB, s *upstream.Stage, transport sallyport.Transport) gateway.Backend {
	t.Helper()
	b, err := s.Backend(&sallyport.StageUpstream{ID: "crm", Transport: transport})
	if err != nil {
		t.Fatalf("backend: %v", err)
	}
	return b
}

func scan(t testing.TB, raw string) wire.Message {
	t.Helper()
	m, err := wire.Scan([]byte(raw), wire.Limits{Bytes: 32 << 20})
	if err != nil {
		t.Fatalf("scan %.200s: %v", raw, err)
	}
	return m
}

// stateless is a tools/call of the stateless era. arguments is JSON.
func stateless(t testing.TB, id, tool, arguments string) *gateway.Request {
	t.Helper()
	raw := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":{`+
		`"progressToken":"tok-%s","io.modelcontextprotocol/protocolVersion":"2026-07-28",`+
		`"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`,
		id, tool, arguments, strings.Trim(id, `"`))
	m := scan(t, raw)
	return &gateway.Request{Message: m, Method: m.Method, Era: wire.Stateless, MaxResult: 4 << 20}
}

// sessions is a tools/call of the sessions era.
func sessions(t testing.TB, s *gateway.Session, id, tool, arguments string) *gateway.Request {
	t.Helper()
	raw := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":{"progressToken":"tok-%s"}}}`,
		id, tool, arguments, strings.Trim(id, `"`))
	m := scan(t, raw)
	return &gateway.Request{Message: m, Method: m.Method, Era: wire.Sessions, Session: s, MaxResult: 4 << 20}
}

func clientSession(id string) *gateway.Session {
	return &gateway.Session{
		ID: id, ClientInfo: json.RawMessage(`{"name":"client-` + id + `","version":"7"}`),
		ClientCapabilities: json.RawMessage(`{"sampling":{},"elicitation":{}}`),
	}
}

func do(t testing.TB, b gateway.Backend, r *gateway.Request) wire.Message {
	t.Helper()
	res, err := b.Do(within(t), r)
	if err != nil {
		t.Fatalf("do: %v", err)
	}
	return res.Message
}

// refused asserts the code of a refusal and whether the request may have been
// sent.
func refused(t testing.TB, err error, code sallyport.Code, sent bool) *sallyport.Refusal {
	t.Helper()
	var r *sallyport.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal with code %s", err, code)
	}
	if r.Code != code {
		t.Fatalf("got %v, want code %s", r, code)
	}
	if got, _ := r.Detail["sent"].(bool); got != sent {
		t.Errorf("%v: sent is %v, want %v", r, r.Detail["sent"], sent)
	}
	return r
}

func status(t testing.TB, s *upstream.Stage) upstream.Status {
	t.Helper()
	all := s.Status()
	if len(all) != 1 {
		t.Fatalf("%d upstreams in the status, want 1", len(all))
	}
	return all[0]
}

// eventually waits for something another process or the kernel does.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, deadline)
		case <-tick.C:
		}
	}
}

// program is the transport of this binary playing a part.
func program(t testing.TB, era string, env ...string) sallyport.Transport {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"PLAY": "server"}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		vars[k] = v
	}
	return sallyport.Transport{Command: []string{self}, Env: vars, Era: era}
}

// strange is a result that no decoder and encoder leaves alone.
const strange = `{ "content" : [ {"type":"video","data":"<a>&x \u0041","n":12345678901234567890, "f":1.0} ],` + "\t" +
	`"structuredContent":{"id":12345678901234567890,"z":1,"a":2},"unknown":null,"resultType":"complete" }`

// playServer is an MCP server of either era on stdio, written by hand, so that
// every byte is known.
func playServer() {
	if os.Getenv("STUBBORN") != "" {
		signal.Ignore(syscall.SIGTERM)
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	fmt.Fprintf(os.Stderr, "hello from %d\n", os.Getpid())
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	answers := map[string]chan string{}
	cancelled := map[string]chan struct{}{}
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if os.Getenv("STUBBORN") != "" {
				select {}
			}
			return
		}
		m, err := wire.Scan(bytes.TrimRight(line, "\n"), wire.Limits{Bytes: 32 << 20})
		if err != nil {
			fmt.Fprintln(os.Stderr, "bad line:", err)
			os.Exit(3)
		}
		raw := m.Raw
		id := string(m.ID.Of(raw))
		token := string(m.ProgressToken.Of(raw))
		mu.Lock()
		switch {
		case m.Kind == wire.Result || m.Kind == wire.Error:
			if ch := answers[id]; ch != nil {
				ch <- string(raw)
			}
		case m.Method == wire.NotificationCancelled:
			fmt.Fprintf(os.Stderr, "cancelled %s\n", m.RequestID.Of(raw))
			if ch := cancelled[string(m.RequestID.Of(raw))]; ch != nil {
				close(ch)
			}
		case m.Kind == wire.Notification:
			fmt.Fprintf(os.Stderr, "told %s\n", m.Method)
		}
		mu.Unlock()
		if m.Kind != wire.Request {
			continue
		}
		switch m.Method {
		case wire.MethodInitialize:
			if os.Getenv("ERA") == wire.Version20260728 {
				say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, id)
				continue
			}
			fmt.Fprintf(os.Stderr, "initialize %s\n", m.Params.Of(raw))
			say(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},`+
				`"serverInfo":{"name":"by-hand","version":"1"},"instructions":"be \"kind\""}}`, id)
			continue
		case wire.MethodServerDiscover:
			if os.Getenv("ERA") != wire.Version20260728 {
				say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, id)
				continue
			}
			say(`{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},`+
				`"instructions":"be kind","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"by-hand","version":"1"}}}}`, id)
			continue
		case wire.MethodToolsList:
			page := m.Cursor
			if page == "" {
				say(`{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name" : "a","inputSchema":{"type":"object","maximum":1.0}}, {"name":"b","x":1e2}],"nextCursor":"p\"2"}}`, id)
			} else {
				say(`{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"c","cursor":%q}]}}`, id, page)
			}
			continue
		}
		switch m.Name {
		case "echo":
			say(`{"result":%s ,"id" : %s, "jsonrpc":"2.0"}`, strange, id)
		case "args":
			say(`{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":%s}}`, id, m.Arguments.Of(raw))
		case "raw":
			text, _ := json.Marshal(string(raw))
			say(`{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":{"raw":%s}}}`, id, text)
		case "environ":
			text, _ := json.Marshal(os.Environ())
			dir, _ := os.Getwd()
			say(`{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":{"env":%s,"dir":%q,"pid":%d}}}`, id, text, dir, os.Getpid())
		case "error":
			say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"no","data":{"n":12345678901234567890}}}`, id)
		case "progress":
			for i := range 3 {
				say(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d,"progressToken":%s, "extra":1.50}}`, i, token)
			}
			say(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"about %s"}}`, strings.Trim(id, `"`))
			say(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, strange)
		case "crash":
			os.Exit(7)
		case "hang":
			gone := make(chan struct{})
			mu.Lock()
			cancelled[id] = gone
			mu.Unlock()
		case "deaf":
			say(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"deaf"}}`)
			select {}
		case "big":
			say(`{"result":{"content":[{"type":"text","text":"\"id\":99,%s"}]},"jsonrpc":"2.0","id":%s}`, strings.Repeat("x", 6<<20), id)
		case "endless":
			go func() {
				for {
					if _, err := fmt.Print(strings.Repeat("x", 1<<20)); err != nil {
						return
					}
				}
			}()
		case "junk":
			say("starting up...")
			say(`{"level":"info","id":%s}`, id)
			say(`{"jsonrpc":"2.0","id":%s,"result":{"a":1,"a":2}}`, "12345")
			say(`{"jsonrpc":"2.0","id":"ours","result":{}}`)
			say("")
			say(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, strange)
		case "invalid":
			say(`{"jsonrpc":"2.0","id":%s,"result":{"a":1,"a":2}}`, id)
		case "ask":
			ch := make(chan string, 1)
			mu.Lock()
			answers[`"q"`] = ch
			mu.Unlock()
			say(`{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{"n":1}}`)
			go func() {
				text, _ := json.Marshal(<-ch)
				say(`{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":{"answer":%s}}}`, id, text)
			}()
		case "family":
			child := exec.Command(os.Args[0])
			child.Env = []string{"PLAY=sleep"}
			if err := child.Start(); err != nil {
				os.Exit(4)
			}
			say(`{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":{"pids":[%d,%d]}}}`, id, os.Getpid(), child.Process.Pid)
		default:
			say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32602,"message":"no such tool"}}`, id)
		}
	}
}

// playGateway starts a child of its own, says its number and waits to be killed.
func playGateway() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	s := upstream.NewStage(upstream.Config{Stage: sallyport.Production})
	b, err := s.Backend(&sallyport.StageUpstream{ID: "crm", Transport: sallyport.Transport{
		Command: []string{self}, Env: map[string]string{"PLAY": "server", "STUBBORN": "1"}, Era: wire.Version20260728,
	}})
	if err != nil {
		panic(err)
	}
	m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"environ"}}`), wire.Limits{})
	if err != nil {
		panic(err)
	}
	res, err := b.Do(context.Background(), &gateway.Request{Message: m, Era: wire.Stateless})
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", res.Message.Raw)
	select {}
}
