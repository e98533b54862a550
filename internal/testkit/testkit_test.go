package testkit_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sallyport/internal/testkit"
	"sallyport/internal/wire"
)

func TestMain(m *testing.M) {
	testkit.Main()
	os.Exit(m.Run())
}

const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"progressToken":"p"}`

// request is a request of an era, as it stands in a body.
func request(era wire.Era, method, params string) string {
	members := []string{}
	if era == wire.Stateless {
		members = append(members, meta)
	}
	if params != "" {
		members = append(members, params)
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":"r-1","method":%q,"params":{%s}}`, method, strings.Join(members, ","))
}

func post(t testing.TB, client *http.Client, url string, era wire.Era, session, body string) (string, http.Header, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.Scan([]byte(body), wire.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	version := wire.Version20251125
	if era == wire.Stateless {
		version = wire.Version20260728
	}
	if m.Method != wire.MethodInitialize {
		wire.SetHeaders(req.Header, &m, version)
	}
	if session != "" {
		req.Header.Set(wire.HeaderSessionID, session)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), resp.Header, err
}

const echo = `"name":"echo","arguments":{"message":"hi"}`

func TestFastUpstream(t *testing.T) {
	testkit.Leak(t)
	u := testkit.NewFastUpstream(t)
	client := http.DefaultClient
	ask := func(era wire.Era, session, method, params string) (string, http.Header) {
		t.Helper()
		text, h, err := post(t, client, u.URL, era, session, request(era, method, params))
		if err != nil {
			t.Fatal(err)
		}
		return text, h
	}
	_, h := ask(wire.Sessions, "", "initialize", `"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}`)
	session := h.Get("Mcp-Session-Id")
	if session == "" || u.Sessions() != 1 {
		t.Fatalf("session %q, %d begun", session, u.Sessions())
	}
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		if text, _ := ask(era, session, "tools/list", ""); !strings.Contains(text, testkit.Definition) || strings.Contains(text, "resultType") != (era == wire.Stateless) {
			t.Errorf("%v: %s", era, text)
		}
		u.SetSize(testkit.DefaultSize)
		text, _ := ask(era, session, "tools/call", echo)
		m, err := wire.Scan([]byte(text), wire.Limits{})
		if err != nil || !m.StructuredContent.Present() || len(m.Result.Of(m.Raw)) < 290 || len(m.Result.Of(m.Raw)) > 350 || (m.ResultType == "complete") != (era == wire.Stateless) {
			t.Errorf("%v: %s, %v", era, text, err)
		}
		u.SetSize(32 << 10)
		if text, _ := ask(era, session, "tools/call", echo); len(text) < 32<<10 || len(text) > 33<<10 {
			t.Errorf("%v: %d bytes", era, len(text))
		}
		u.SetResult([]byte(testkit.Fidelity))
		if text, _ := ask(era, session, "tools/call", echo); !strings.Contains(text, testkit.Fidelity[1:]) {
			t.Errorf("%v: %s", era, text)
		}
		u.SetError([]byte(testkit.FidelityError))
		if text, _ := ask(era, session, "tools/call", echo); text != `{"jsonrpc":"2.0","id":"r-1","error":`+testkit.FidelityError+`}` {
			t.Errorf("%v: %s", era, text)
		}
		u.SetReply(func(id []byte) []byte { return fmt.Appendf(nil, " { \"id\" : %s }\n", id) })
		if text, _ := ask(era, session, "tools/call", echo); text != " { \"id\" : \"r-1\" }\n" {
			t.Errorf("%v: %q", era, text)
		}
		u.SetReply(nil)
		u.SetError(nil)
		u.SetStream(2)
		text, h := ask(era, session, "tools/call", echo)
		events := wire.NewEventReader(strings.NewReader(text), 1<<20)
		var kinds []string
		for {
			e, err := events.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			m, err := wire.Scan(e.Data, wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, m.Kind.String()+" "+m.Method)
		}
		if want := "notification notifications/progress,notification notifications/progress,result "; strings.Join(kinds, ",") != want || h.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%v: %q", era, kinds)
		}
		u.SetStream(0)
	}
	if u.Calls() != 12 || u.Requests() != 15 {
		t.Errorf("%d calls, %d requests", u.Calls(), u.Requests())
	}
	if u.Connections() != 1 {
		t.Errorf("%d connections for one client", u.Connections())
	}
	u.Reset()
	if u.Calls()+u.Requests()+u.Connections() != 0 {
		t.Error("reset does not reset")
	}
	if text, _ := ask(wire.Stateless, "", "prompts/list", ""); !strings.Contains(text, "-32601") {
		t.Error(text)
	}
	if text, _ := ask(wire.Sessions, "", "tools/list", ""); !strings.Contains(text, "session id") {
		t.Error(text)
	}
	var seen string
	u.OnRequest(func(r *http.Request, body []byte) { seen = r.Header.Get("Mcp-Name") + " " + string(body) })
	body := request(wire.Stateless, "tools/call", echo)
	if _, _, err := post(t, client, u.URL, wire.Stateless, "", body); err != nil || seen != "echo "+body {
		t.Errorf("seen %q, %v", seen, err)
	}

	u.SetHang(true)
	answered := make(chan error, 1)
	go func() {
		_, _, err := post(t, client, u.URL, wire.Stateless, "", body)
		answered <- err
	}()
	for u.Calls() != 2 {
		select {
		case err := <-answered:
			t.Fatalf("a call that hangs was answered: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	u.Release()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	u.Kill()
	if _, _, err := post(t, client, u.URL, wire.Stateless, "", body); err == nil {
		t.Error("a dead server answered")
	}
}

// start runs a stdio server with exactly the environment it asks for.
func start(t *testing.T, s testkit.Stdio) (*exec.Cmd, io.WriteCloser, *bufio.Reader, *bytes.Buffer) {
	t.Helper()
	command, env := s.Command(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = []string{}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cancel()
		_ = cmd.Wait() // it has been killed if it was not done
	})
	return cmd, in, bufio.NewReader(out), &stderr
}

func TestStdio(t *testing.T) {
	oneLine := strings.ReplaceAll(testkit.Fidelity, "\n", " ")
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		cmd, in, out, stderr := start(t, testkit.Stdio{Era: era, Result: oneLine, Progress: 1, ExitAfter: 2, Stderr: "hello there"})
		ask := func(era wire.Era, method, params string) string {
			t.Helper()
			if _, err := io.WriteString(in, request(era, method, params)+"\n"); err != nil {
				t.Fatal(err)
			}
			line, err := out.ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return line
		}
		greeting, other := "initialize", wire.Stateless
		if era == wire.Stateless {
			greeting, other = "server/discover", wire.Sessions
		}
		if got := ask(era, greeting, ""); !strings.Contains(got, `"capabilities":`+testkit.Capabilities) {
			t.Errorf("%v: %s", era, got)
		}
		if got := ask(other, "tools/list", ""); !strings.Contains(got, "era is not spoken") {
			t.Errorf("%v: %s", era, got)
		}
		if got := ask(era, "tools/list", ""); !strings.Contains(got, testkit.Definition) {
			t.Errorf("%v: %s", era, got)
		}
		if got := ask(era, "tools/call", echo); !strings.Contains(got, `notifications/progress`) {
			t.Errorf("%v: %s", era, got)
		}
		if got, err := out.ReadString('\n'); err != nil || !strings.Contains(got, oneLine[1:]) {
			t.Errorf("%v: %s, %v", era, got, err)
		}
		if got := ask(era, "tools/call", echo); got != "" {
			t.Errorf("%v: the last call was answered: %s", era, got)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 || stderr.String() != "hello there\n" {
			t.Errorf("%v: ended with %v, stderr %q", era, err, stderr)
		}
	}
}

func TestStdioEnds(t *testing.T) {
	cmd, in, out, _ := start(t, testkit.Stdio{Hang: true, Delay: time.Nanosecond, Error: testkit.FidelityError})
	if _, err := io.WriteString(in, request(wire.Stateless, "tools/call", echo)+"\n"+request(wire.Sessions, "ping", "")+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := out.ReadString('\n'); err != nil || got != `{"jsonrpc":"2.0","id":"r-1","result":{}}`+"\n" {
		t.Errorf("%s, %v", got, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("at the end of its input: %v", err)
	}

	cmd, in, out, _ = start(t, testkit.Stdio{Stubborn: true})
	if _, err := io.WriteString(in, request(wire.Sessions, "ping", "")+"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Errorf("the stubborn one ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

func BenchmarkFastUpstream(b *testing.B) {
	for _, era := range []wire.Era{wire.Sessions, wire.Stateless} {
		b.Run(era.String(), func(b *testing.B) {
			u := testkit.NewFastUpstream(b)
			body := request(era, "tools/call", echo)
			h := http.Header{}
			m, err := wire.Scan([]byte(body), wire.Limits{})
			if err != nil {
				b.Fatal(err)
			}
			version := wire.Version20251125
			if era == wire.Stateless {
				version = wire.Version20260728
			}
			wire.SetHeaders(h, &m, version)
			h.Set(wire.HeaderSessionID, "s")
			w := discard{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				r := &http.Request{Method: http.MethodPost, Header: h, Body: io.NopCloser(strings.NewReader(body))}
				u.ServeHTTP(w, r)
			}
		})
	}
}

// discard is a response nobody reads: what is measured is the handler alone.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
