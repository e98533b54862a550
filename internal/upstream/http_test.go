package upstream_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// site is an HTTP server that keeps what it received.
type site struct {
	*httptest.Server
	conns atomic.Int64
	mu    sync.Mutex
	got   []received
}

type received struct {
	method  string
	target  string
	proto   string
	header  http.Header
	body    string
	message wire.Message
	gone    <-chan struct{} // closed when the sender is
}

func newSite(t testing.TB, h func(w http.ResponseWriter, r received)) *site {
	t.Helper()
	s := newUnstarted(h)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func newUnstarted(h func(w http.ResponseWriter, r received)) *site {
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		x := received{method: r.Method, target: r.RequestURI, proto: r.Proto, header: r.Header.Clone(), body: string(body), gone: r.Context().Done()}
		x.header.Set("Host", r.Host)
		if len(body) > 0 {
			if x.message, err = wire.Scan(body, wire.Limits{Bytes: 32 << 20}); err != nil {
				http.Error(w, err.Error(), 400)
				return
			}
		}
		s.mu.Lock()
		s.got = append(s.got, x)
		s.mu.Unlock()
		h(w, x)
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			s.conns.Add(1)
		}
	}
	return s
}

func (s *site) received() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (r received) id() string { return string(r.message.ID.Of(r.message.Raw)) }

func at(s *site) sallyport.Transport {
	return sallyport.Transport{URL: s.URL + "/mcp", Era: wire.Version20260728}
}

func atSessions(s *site) sallyport.Transport {
	return sallyport.Transport{URL: s.URL + "/mcp", Era: wire.Version20251125}
}

func sayJSON(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, format, args...)
}

// say sends an event of an event stream and does not keep it back.
func sayEvent(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Write(wire.AppendEvent(nil, "", fmt.Appendf(nil, format, args...)))
	w.(http.Flusher).Flush()
}

func echo(w http.ResponseWriter, r received) {
	sayJSON(w, `{"result":%s ,"id" : %s, "jsonrpc":"2.0"}`+"\n", strange, r.id())
}

func TestHTTPPassesBytes(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]func(http.ResponseWriter, received){
		"json": echo,
		"events": func(w http.ResponseWriter, r received) {
			sayEvent(w, `{"result":%s ,"id" : %s, "jsonrpc":"2.0"}`, strange, r.id())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, h)
			r := stateless(t, `"my id"`, "echo", `{ "n":12345678901234567890,`+"\n"+` "f":1.00}`)
			m := do(t, backend(t, newStage(t, sallyport.Production), at(s)), r)
			want := `{"result":` + strange + ` ,"id" : "my id", "jsonrpc":"2.0"}`
			if got := strings.TrimSuffix(string(m.Raw), "\n"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if got := s.received()[0].body; got != string(r.Message.Raw) {
				t.Errorf("sent %s\nfor  %s", got, r.Message.Raw)
			}
		})
	}
}

func TestHTTPHeaders(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r received) {
		http.SetCookie(w, &http.Cookie{Name: "track", Value: "you", Path: "/"})
		echo(w, r)
	})
	stage := newStageWith(t, upstream.Config{Secret: func(ref string) (string, error) {
		return map[string]string{"env:KEY": "k3y\n", "file:team": "blue"}[ref], nil
	}})
	transport := at(s)
	transport.URL += "?tenant=a%20b"
	transport.Credential = "env:KEY"
	transport.Headers = map[string]string{"X-Team": "file:team", "x-plain": "as it is"}
	b := backend(t, stage, transport)
	for range 2 {
		r := stateless(t, "1", "Zürich", `{}`)
		r.ParamHeaders = http.Header{
			"Mcp-Param-Region": {"eu"}, "Authorization": {"Bearer client"}, "Cookie": {"a=b"}, "Mcp-Session-Id": {"x"},
			"Mcp-Param-Bad": {"a\r\nX-Injected: 1"}, "Mcp-Param-X: y\r\nZ": {"1"},
		}
		do(t, b, r)
	}
	for _, got := range s.received() {
		if got.target != "/mcp?tenant=a%20b" {
			t.Errorf("target %s", got.target)
		}
		want := http.Header{
			"Accept":               {"application/json, text/event-stream"},
			"Accept-Encoding":      {"identity"},
			"Authorization":        {"Bearer k3y"},
			"Content-Length":       {strconv.Itoa(len(got.body))},
			"Content-Type":         {"application/json"},
			"Host":                 {strings.TrimPrefix(s.URL, "http://")},
			"Mcp-Method":           {"tools/call"},
			"Mcp-Name":             {wire.EncodeHeaderValue("Zürich")},
			"Mcp-Param-Bad":        {"aX-Injected: 1"},
			"Mcp-Param-Region":     {"eu"},
			"Mcp-Protocol-Version": {"2026-07-28"},
			"User-Agent":           {"sallyport/test"},
			"X-Plain":              {"as it is"},
			"X-Team":               {"blue"},
		}
		if diff := cmp.Diff(want, got.header); diff != "" {
			t.Error(diff)
		}
	}
}

func TestHTTPOneConnectionForSequentialCalls(t *testing.T) {
	t.Parallel()
	const calls = 10_000
	for name, h := range map[string]func(http.ResponseWriter, received){
		"json": echo,
		"events": func(w http.ResponseWriter, r received) {
			sayEvent(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, r.id())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, h)
			b := backend(t, newStage(t, sallyport.Production), at(s))
			r := stateless(t, "1", "echo", `{}`)
			for range calls {
				do(t, b, r)
			}
			if n := s.conns.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
			if n := len(s.received()); n != calls {
				t.Errorf("%d requests for %d calls", n, calls)
			}
		})
	}
}

func TestHTTPRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	target := newSite(t, echo)
	for _, code := range []int{301, 302, 303, 307, 308} {
		s := newSite(t, func(w http.ResponseWriter, r received) {
			w.Header().Set("Location", target.URL+"/mcp")
			w.WriteHeader(code)
		})
		b := backend(t, newStage(t, sallyport.Production), at(s))
		_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
		refused(t, err, sallyport.UpstreamProtocol, true)
		_, err = backend(t, newStage(t, sallyport.Production), atSessions(s)).Do(within(t), sessions(t, clientSession("s"), "1", "echo", `{}`))
		refused(t, err, sallyport.UpstreamProtocol, false)
	}
	if n := target.conns.Load(); n != 0 {
		t.Errorf("%d connections to where the redirects lead", n)
	}
}

// plain is a server of raw connections: h gets each, and its number from 1.
func plain(t testing.TB, h func(n int, c net.Conn)) sallyport.Transport {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	conns.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			conns.Go(func() {
				defer c.Close()
				h(n, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return sallyport.Transport{URL: "http://" + l.Addr().String() + "/", Era: wire.Version20260728}
}

// read reads one request.
func read(in *bufio.Reader) (string, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

func jsonAnswer(id, more string) string {
	body := `{"jsonrpc":"2.0","id":` + id + `,"result":{}}`
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", more, len(body), body)
}

func TestHTTPConnectionThatDiedWhileIdle(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	closed := make(chan struct{}, 10)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, plain(t, func(_ int, c net.Conn) {
		if _, err := read(bufio.NewReader(c)); err != nil {
			t.Error(err)
			return
		}
		requests.Add(1)
		io.WriteString(c, jsonAnswer("1", ""))
		c.Close() // without having said so
		closed <- struct{}{}
	}))
	for i := range 5 {
		do(t, b, stateless(t, "1", "echo", `{}`))
		<-closed
		if n := requests.Load(); n != int64(i+1) {
			t.Fatalf("%d requests for %d calls", n, i+1)
		}
	}
	if n := status(t, stage).Dials; n != 5 {
		t.Errorf("%d connections for 5 calls", n)
	}
}

func TestHTTPConnectionThatIsNotKept(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"close": "Connection: close\r\n", "keep-alive": "Keep-Alive: timeout=0\r\n"} {
		stage := newStage(t, sallyport.Production)
		b := backend(t, stage, plain(t, func(_ int, c net.Conn) {
			in := bufio.NewReader(c)
			for {
				if _, err := read(in); err != nil {
					return
				}
				io.WriteString(c, jsonAnswer("1", more))
			}
		}))
		for range 3 {
			do(t, b, stateless(t, "1", "echo", `{}`))
		}
		if n := status(t, stage).Dials; n != 3 {
			t.Errorf("%s: %d connections for 3 calls", name, n)
		}
	}
}

// A request that was read and not answered may have had its effect. It arrives
// once, and the refusal says so.
func TestHTTPServerClosesAfterReading(t *testing.T) {
	t.Parallel()
	for _, answered := range []int{0, 1} { // on a new connection, and on a reused one
		t.Run(fmt.Sprint(answered), func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			b := backend(t, newStage(t, sallyport.Production), plain(t, func(_ int, c net.Conn) {
				in := bufio.NewReader(c)
				for range answered {
					if _, err := read(in); err != nil {
						return
					}
					io.WriteString(c, jsonAnswer("1", ""))
				}
				if _, err := read(in); err != nil {
					return
				}
				requests.Add(1)
			}))
			for range answered {
				do(t, b, stateless(t, "1", "echo", `{}`))
			}
			_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
			r := refused(t, err, sallyport.UpstreamUnavailable, true)
			if !strings.Contains(r.Reason, "may have been sent") {
				t.Errorf("the refusal says %q", r)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("the request arrived %d times", n)
			}
		})
	}
}

// The same for one that was not even read to its end, on a connection that was
// kept: a part of it may be all that was needed.
func TestHTTPServerResetsWhileReading(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	b := backend(t, newStage(t, sallyport.Production), plain(t, func(n int, c net.Conn) {
		in := bufio.NewReader(c)
		if n == 1 {
			if _, err := read(in); err != nil {
				return
			}
			io.WriteString(c, jsonAnswer("1", ""))
		}
		if _, err := io.CopyN(io.Discard, in, 1000); err != nil {
			return
		}
		requests.Add(1)
		c.(*net.TCPConn).SetLinger(0) // closing resets
	}))
	do(t, b, stateless(t, "1", "echo", `{}`))
	_, err := b.Do(within(t), stateless(t, "1", "echo", fmt.Sprintf("%q", strings.Repeat("x", 15<<20))))
	refused(t, err, sallyport.UpstreamUnavailable, true)
	if n := requests.Load(); n != 1 {
		t.Errorf("the request arrived %d times", n)
	}
}

func TestHTTPNobodyThere(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b := backend(t, newStage(t, sallyport.Production), sallyport.Transport{URL: "http://" + l.Addr().String(), Era: wire.Version20260728})
	r := stateless(t, "1", "echo", `{}`)
	r.BeforeWrite = func() error { t.Error("about to write"); return nil }
	_, err = b.Do(within(t), r)
	got := refused(t, err, sallyport.UpstreamUnavailable, false)
	if strings.Contains(got.Error(), "127.0.0.1") {
		t.Errorf("the refusal says %q", got)
	}
}

func TestHTTPBeforeWriteHoldsBackEveryByte(t *testing.T) {
	t.Parallel()
	var bytesRead atomic.Int64
	var connections sync.WaitGroup
	connections.Add(1)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, plain(t, func(_ int, c net.Conn) {
		defer connections.Done()
		n, _ := io.Copy(io.Discard, c)
		bytesRead.Add(n)
	}))
	veto := sallyport.Refuse(sallyport.Halted, "stop", "")
	for range 3 {
		r := stateless(t, "1", "echo", `{}`)
		r.BeforeWrite = func() error { return veto }
		r.AfterWrite = func() { t.Error("written") }
		if _, err := b.Do(within(t), r); err != error(veto) {
			t.Errorf("got %v, want what BeforeWrite returned", err)
		}
	}
	if n := status(t, stage).Dials; n != 1 {
		t.Errorf("%d connections", n)
	}
	if err := stage.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	connections.Wait()
	if n := bytesRead.Load(); n != 0 {
		t.Errorf("%d bytes were written", n)
	}
}

func TestHTTPHangEndsAtDeadline(t *testing.T) {
	t.Parallel()
	cases := map[string]func(in *bufio.Reader, c net.Conn){
		"says nothing":  func(*bufio.Reader, net.Conn) {},
		"half a head":   func(_ *bufio.Reader, c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Ty") },
		"half a result": func(_ *bufio.Reader, c net.Conn) { io.WriteString(c, jsonAnswer("1", "")[:100]) },
		"events, no result": func(_ *bufio.Reader, c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hi\n\n")
		},
	}
	for name, h := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backend(t, newStage(t, sallyport.Production), plain(t, func(_ int, c net.Conn) {
				in := bufio.NewReader(c)
				if _, err := read(in); err != nil {
					return
				}
				h(in, c)
				io.Copy(io.Discard, in)
			}))
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := b.Do(ctx, stateless(t, "1", "echo", `{}`))
			refused(t, err, sallyport.DeadlineExceeded, true)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			ctx, cancel = context.WithCancel(context.Background())
			r := stateless(t, "1", "echo", `{}`)
			r.AfterWrite = cancel
			_, err = b.Do(ctx, r)
			refused(t, err, sallyport.Cancelled, true)
		})
	}
	t.Run("does not read", func(t *testing.T) {
		t.Parallel()
		b := backend(t, newStage(t, sallyport.Production), plain(t, func(_ int, c net.Conn) {
			<-t.Context().Done()
		}))
		r := stateless(t, "1", "echo", fmt.Sprintf("%q", strings.Repeat("x", 15<<20)))
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_, err := b.Do(ctx, r)
		refused(t, err, sallyport.DeadlineExceeded, true)
	})
}

func TestHTTPOversizedResult(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 10_000)
	for name, h := range map[string]func(w http.ResponseWriter, r received){
		"length": func(w http.ResponseWriter, r received) {
			body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{%q:1}}`, r.id(), big)
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			sayJSON(w, "%s", body)
		},
		"chunks": func(w http.ResponseWriter, r received) {
			sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"`, r.id())
			for i := range 100 {
				fmt.Fprint(w, big[:100+i])
				w.(http.Flusher).Flush()
			}
			fmt.Fprint(w, `":1}}`)
		},
		"event": func(w http.ResponseWriter, r received) {
			sayEvent(w, `{"jsonrpc":"2.0","id":%s,"result":{%q:1}}`, r.id(), big)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, h)
			stage := newStage(t, sallyport.Production)
			b := backend(t, stage, at(s))
			r := stateless(t, "1", "echo", `{}`)
			r.MaxResult = 9_999
			_, err := b.Do(within(t), r)
			refused(t, err, sallyport.ResultTooLarge, true)
			if n := status(t, stage).Connections; n != 0 {
				t.Errorf("%d connections are still open", n)
			}
			r.MaxResult = 20_000
			do(t, b, r)
		})
	}
}

func TestHTTPResponsesThatBreakTheProtocol(t *testing.T) {
	t.Parallel()
	json := func(text string) func(http.ResponseWriter, received) {
		return func(w http.ResponseWriter, _ received) { sayJSON(w, "%s", text) }
	}
	for name, h := range map[string]func(http.ResponseWriter, received){
		"another id":       json(`{"jsonrpc":"2.0","id":2,"result":{}}`),
		"a text id":        json(`{"jsonrpc":"2.0","id":"1","result":{}}`),
		"no id":            json(`{"jsonrpc":"2.0","error":{"code":1,"message":""}}`),
		"a request":        json(`{"jsonrpc":"2.0","id":1,"method":"ping"}`),
		"a batch":          json(`[{"jsonrpc":"2.0","id":1,"result":{}}]`),
		"a duplicate name": json(`{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}`),
		"two messages":     json(`{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":1,"result":{}}`),
		"nothing":          json(``),
		"html": func(w http.ResponseWriter, _ received) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html>")
		},
		"accepted":   func(w http.ResponseWriter, _ received) { w.WriteHeader(202) },
		"no content": func(w http.ResponseWriter, _ received) { w.WriteHeader(204) },
		"compressed": func(w http.ResponseWriter, r received) {
			w.Header().Set("Content-Encoding", "gzip")
			echo(w, r)
		},
		"an event that is no message": func(w http.ResponseWriter, _ received) { sayEvent(w, "hello") },
		"an event for another":        func(w http.ResponseWriter, _ received) { sayEvent(w, `{"jsonrpc":"2.0","id":2,"result":{}}`) },
		"a question":                  func(w http.ResponseWriter, _ received) { sayEvent(w, `{"jsonrpc":"2.0","id":2,"method":"roots/list"}`) },
		"events without end": func(w http.ResponseWriter, _ received) {
			for range 20 {
				sayEvent(w, `{"jsonrpc":"2.0","method":"m","params":{%q:1}}`, strings.Repeat("x", 1<<20))
			}
		},
		"status 418": func(w http.ResponseWriter, _ received) { w.WriteHeader(418) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backend(t, newStage(t, sallyport.Production), at(newSite(t, h)))
			_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
			refused(t, err, sallyport.UpstreamProtocol, true)
		})
	}
	t.Run("events that end", func(t *testing.T) {
		t.Parallel()
		b := backend(t, newStage(t, sallyport.Production), at(newSite(t, func(w http.ResponseWriter, _ received) {
			sayEvent(w, `{"jsonrpc":"2.0","method":"m"}`)
		})))
		_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
		refused(t, err, sallyport.UpstreamUnavailable, true)
	})
	t.Run("an id that does not survive a double is not sent", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, func(w http.ResponseWriter, r received) {
			if r.message.Name == "fail" {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(400)
				fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":1,"message":"m"}}`, r.id())
				return
			}
			echo(w, r)
		})
		b := backend(t, newStage(t, sallyport.Production), at(s))
		for _, tool := range []string{"echo", "fail"} {
			r := stateless(t, "-9007199254740993", tool, `{}`)
			m := do(t, b, r)
			if got := string(m.ID.Of(m.Raw)); got != "-9007199254740993" {
				t.Errorf("answered to %s", got)
			}
			got := s.received()[len(s.received())-1].message
			back := wire.Splice(got.Raw, wire.Edit{Span: got.ID, With: []byte("-9007199254740993")})
			if string(back) != string(r.Message.Raw) {
				t.Errorf("sent %s", got.Raw)
			}
		}
	})
	t.Run("an id written otherwise is the same", func(t *testing.T) {
		t.Parallel()
		b := backend(t, newStage(t, sallyport.Production), at(newSite(t, json(`{"jsonrpc":"2.0","id":"\u0061/b","result":{}}`))))
		do(t, b, stateless(t, `"a\/b"`, "echo", `{}`))
	})
}

func TestHTTPErrorsOfTheUpstream(t *testing.T) {
	t.Parallel()
	const message = `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"v","data":{"n":12345678901234567890}}}`
	for status, want := range map[int]sallyport.Code{
		400: sallyport.UpstreamProtocol, 404: sallyport.UpstreamProtocol, 405: sallyport.UpstreamProtocol,
		401: sallyport.UpstreamUnavailable, 403: sallyport.UpstreamUnavailable, 429: sallyport.UpstreamUnavailable,
		500: sallyport.UpstreamUnavailable, 503: sallyport.UpstreamUnavailable,
	} {
		for _, body := range []string{message, strings.Replace(message, `"id":1,`, `"id":null,`, 1), "sorry", `{"jsonrpc":"2.0","id":1,"result":{}}`} {
			s := newSite(t, func(w http.ResponseWriter, r received) {
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				w.Header().Set("Retry-After", "17")
				w.WriteHeader(status)
				io.WriteString(w, body)
			})
			b := backend(t, newStage(t, sallyport.Production), at(s))
			res, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
			if strings.Contains(body, "error") {
				if err != nil || string(res.Message.Raw) != body || res.Message.Kind != wire.Error {
					t.Errorf("%d %s: got %v", status, body, err)
				}
				continue
			}
			r := refused(t, err, want, true)
			if status == 503 && !strings.Contains(r.Hint, "17 s") {
				t.Errorf("the hint is %q", r.Hint)
			}
		}
	}
}

func TestHTTPRefusalBeforeTheRequestWasRead(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), plain(t, func(_ int, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		io.CopyN(io.Discard, c, 1000)
		c.(*net.TCPConn).CloseWrite()
		io.CopyN(io.Discard, c, 8<<20)
	}))
	_, err := b.Do(within(t), stateless(t, "1", "echo", fmt.Sprintf("%q", strings.Repeat("x", 15<<20))))
	r := refused(t, err, sallyport.UpstreamProtocol, true)
	if !strings.Contains(r.Reason, "413") {
		t.Errorf("the refusal says %q", r)
	}
}

func TestHTTPCredentialIsReadAgainAfterItWasNotAccepted(t *testing.T) {
	t.Parallel()
	var current atomic.Value
	current.Store("old")
	var resolved atomic.Int64
	s := newSite(t, func(w http.ResponseWriter, r received) {
		if r.header.Get("Authorization") != "Bearer new" {
			w.WriteHeader(401)
			return
		}
		echo(w, r)
	})
	stage := newStageWith(t, upstream.Config{Secret: func(string) (string, error) {
		resolved.Add(1)
		return current.Load().(string), nil
	}})
	transport := at(s)
	transport.Credential = "env:KEY"
	b := backend(t, stage, transport)
	_, err := b.Do(within(t), stateless(t, "1", "echo", `{}`))
	refused(t, err, sallyport.UpstreamUnavailable, true)
	current.Store("new")
	for range 50 {
		do(t, b, stateless(t, "1", "echo", `{}`))
	}
	// Twice, and again for every ten seconds that the test may take.
	if n := resolved.Load(); n < 2 || n > 10 {
		t.Errorf("resolved %d times for 51 calls, want 2", n)
	}
	if n := len(s.received()); n != 51 {
		t.Errorf("%d requests for 51 calls", n)
	}
}

func TestHTTPProgress(t *testing.T) {
	t.Parallel()
	b := backend(t, newStage(t, sallyport.Production), at(newSite(t, func(w http.ResponseWriter, r received) {
		for i := range 3 {
			sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s, "progress":%d.0}}`,
				r.message.ProgressToken.Of(r.message.Raw), i)
		}
		io.WriteString(w, "event: ping\ndata: {}\n\n: comment\n\nid: 5\nretry: 10\n\n")
		sayEvent(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, r.id())
	})))
	var got []string
	r := stateless(t, "1", "echo", `{}`)
	r.Notify = func(raw []byte) { got = append(got, string(raw)) }
	do(t, b, r)
	var want []string
	for i := range 3 {
		want = append(want, fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"tok-1", "progress":%d.0}}`, i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Cancelling a call must not reach into the next one that uses its connection.
func TestHTTPCancelledCallKeepsItsConnectionToItself(t *testing.T) {
	t.Parallel()
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, at(newSite(t, func(w http.ResponseWriter, r received) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"m\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n")
	})))
	for range 5 {
		ctx, cancel := context.WithCancel(within(t))
		r := stateless(t, "1", "echo", `{}`)
		r.Notify = func([]byte) { cancel() } // the result has arrived with it
		if _, err := b.Do(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if n := status(t, stage).Dials; n != 5 {
		t.Errorf("%d connections for 5 calls that were cancelled", n)
	}
}

// Bodies of 13 to 518 KB in both directions over connections that are kept: the
// sizes at which a streaming proxy was seen to lose replies (golang/go #40747).
func TestHTTPLargeBodiesOverKeptConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r received) {
		n, _ := strconv.Atoi(r.message.Name)
		sum := sha256.Sum256([]byte(r.body))
		text := strings.Repeat("é", n/2)
		if n%2 == 0 {
			sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"sum":"%x","text":%q}}`, r.id(), sum, text)
			return
		}
		sayEvent(w, `{"jsonrpc":"2.0","id":%s,"result":{"sum":"%x","text":%q}}`, r.id(), sum, text)
	})
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, at(s))
	const workers, each = 8, 60
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 0))
			for i := range each {
				n := 13_000 + rng.IntN(505_000)
				r := stateless(t, fmt.Sprint(i), fmt.Sprint(n), fmt.Sprintf("%q", strings.Repeat("x", 13_000+rng.IntN(505_000))))
				m := do(t, b, r)
				var got struct{ Sum, Text string }
				if err := json.Unmarshal(m.Result.Of(m.Raw), &got); err != nil {
					t.Error(err)
				}
				if want := fmt.Sprintf("%x", sha256.Sum256(r.Message.Raw)); got.Sum != want || len(got.Text) != n/2*2 {
					t.Errorf("a body of %d bytes was not the same at the other end", len(r.Message.Raw))
				}
			}
		})
	}
	all.Wait()
	if n := len(s.received()); n != workers*each {
		t.Errorf("%d requests for %d calls", n, workers*each)
	}
	if n := status(t, stage).Dials; n > 2*workers {
		t.Errorf("%d connections for %d callers", n, workers)
	}
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	s := newUnstarted(echo)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	stage := newStage(t, sallyport.Production)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	upstream.Trust(stage, roots)
	b := backend(t, stage, at(s))
	for range 100 {
		do(t, b, stateless(t, "1", "echo", fmt.Sprintf("%q", strings.Repeat("x", rand.IntN(100_000)))))
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if got := s.received()[0].proto; got != "HTTP/1.1" {
		t.Errorf("spoke %s", got)
	}
	s.CloseClientConnections()
	do(t, b, stateless(t, "1", "echo", `{}`))

	stranger := backend(t, newStage(t, sallyport.Production), at(s))
	_, err := stranger.Do(within(t), stateless(t, "1", "echo", `{}`))
	refused(t, err, sallyport.UpstreamUnavailable, false)
}

func TestEraAndWall(t *testing.T) {
	t.Parallel()
	s := newSite(t, echo)
	r := sessions(t, clientSession("s"), "1", "echo", `{}`)
	r.Message = scan(t, `{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a:b"}}`)
	_, err := backend(t, newStage(t, sallyport.Production), at(s)).Do(within(t), r)
	if r := refused(t, err, sallyport.EraMismatch, false); r.Hint == "" {
		t.Error("no hint")
	}
	r = stateless(t, "1", "echo", `{}`)
	r.Owner, r.Message = "me", scan(t, `{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{}}`)
	_, err = backend(t, newStage(t, sallyport.Production), atSessions(s)).Do(within(t), r)
	refused(t, err, sallyport.EraMismatch, false)

	for _, stage := range []sallyport.Stage{sallyport.Sandbox, 77} {
		walled := newStage(t, stage)
		for _, transport := range []sallyport.Transport{at(s), program(t, wire.Version20260728)} {
			u := &sallyport.StageUpstream{ID: "crm", Transport: transport}
			_, err := walled.Backend(u)
			refused(t, err, sallyport.StageWall, false)
			_, err = walled.Probe(within(t), u)
			refused(t, err, sallyport.StageWall, false)
		}
	}
	_, err = newStage(t, sallyport.Production).Backend(&sallyport.StageUpstream{ID: "crm"})
	refused(t, err, sallyport.StageWall, false)
	if n := s.conns.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestNoProxyOfTheEnvironment(t *testing.T) {
	proxy := newSite(t, echo)
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	// net/http asks no proxy for addresses of this machine; a name that does not
	// exist would be one to ask it for.
	b := backend(t, newStage(t, sallyport.Production), sallyport.Transport{URL: "http://upstream.invalid/", Era: wire.Version20260728})
	_, err = b.Do(within(t), stateless(t, "1", "echo", `{}`))
	refused(t, err, sallyport.UpstreamUnavailable, false)
	if n := proxy.conns.Load(); n != 0 {
		t.Errorf("%d connections to the proxy", n)
	}
}

func TestMisconfigured(t *testing.T) {
	t.Parallel()
	headers := func(kv ...string) sallyport.Transport {
		return sallyport.Transport{URL: "http://h/", Era: wire.Version20260728, Headers: map[string]string{kv[0]: kv[1]}}
	}
	both := headers("authorization", "Basic x")
	both.Credential = "env:A"
	for name, transport := range map[string]sallyport.Transport{
		"no era":             {URL: "http://h/"},
		"an era to come":     {URL: "http://h/", Era: "2031-01-01"},
		"both":               {URL: "http://h/", Command: []string{"x"}, Era: wire.Version20260728},
		"scheme":             {URL: "ftp://h/", Era: wire.Version20260728},
		"no host":            {URL: "http:///x", Era: wire.Version20260728},
		"user":               {URL: "http://a:b@h/", Era: wire.Version20260728},
		"fragment":           {URL: "http://h/#x", Era: wire.Version20260728},
		"not a url":          {URL: "http://h/%zz", Era: wire.Version20260728},
		"space":              {URL: "http://h/?a b", Era: wire.Version20260728},
		"host header":        headers("Host", "other"),
		"length":             headers("content-length", "3"),
		"cookie":             headers("Cookie", "a=b"),
		"session":            headers("Mcp-Session-Id", "x"),
		"header name":        headers("X:", "a"),
		"two authorizations": both,
	} {
		if _, err := newStage(t, sallyport.Production).Backend(&sallyport.StageUpstream{ID: "crm", Transport: transport}); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			refused(t, err, sallyport.BadConfig, false)
		}
	}
	// What only shows when it is used.
	plainSecret := headers("x-a", "a\r\nb: c")
	bare := headers("x-a", "1")
	bare.Credential = "s3cret"
	for name, transport := range map[string]sallyport.Transport{"line end": plainSecret, "bare credential": bare} {
		_, err := backend(t, newStage(t, sallyport.Production), transport).Do(within(t), stateless(t, "1", "echo", `{}`))
		if r := refused(t, err, sallyport.BadConfig, false); strings.Contains(r.Error(), "s3cret") {
			t.Errorf("%s: the refusal says %q", name, r)
		}
	}
}

func TestEqualConfigurationsShareABackend(t *testing.T) {
	t.Parallel()
	s, other := newSite(t, echo), newSite(t, echo)
	stage := newStage(t, sallyport.Production)
	a := backend(t, stage, at(s))
	do(t, a, stateless(t, "1", "echo", `{}`))
	same := at(s)
	same.Env = map[string]string{}
	if b := backend(t, stage, same); b != a {
		t.Error("an equal configuration got another backend")
	}
	if n := stage.Status()[0].Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
	b := backend(t, stage, at(other))
	if b == a {
		t.Error("a repointed upstream got the same backend")
	}
	eventually(t, "the end of the connection to where it was", func() bool { return stage.Status()[0].Connections == 0 })
	do(t, b, stateless(t, "1", "echo", `{}`))
	// A call decided under the old configuration still reaches the old endpoint,
	// and leaves nothing open.
	do(t, a, stateless(t, "1", "echo", `{}`))
	if n, m := len(s.received()), len(other.received()); n != 2 || m != 1 {
		t.Errorf("%d and %d requests, want 2 and 1", n, m)
	}
	eventually(t, "the end of the connection to where it was", func() bool { return stage.Status()[0].Connections == 0 })
	if back := backend(t, stage, at(s)); back != a {
		t.Error("going back made another backend")
	}
	if st := stage.Status(); !st[0].Retired || st[1].Retired {
		t.Errorf("status %+v", st)
	}
}

// conversation is a server of the sessions era.
type conversation struct {
	*site
	t        testing.TB
	session  func(n int) string // the id it gives its n-th session
	mu       sync.Mutex
	opened   int
	version  string
	lost     map[string]bool
	open     chan struct{} // receives when a stream beside the calls is opened
	push     chan string   // what is sent on it
	answers  chan string
	initWait chan struct{}
	noStream bool
	// finish receives the names of calls of "beside" that are to end.
	finish       chan string
	capabilities string
}

func newConversation(t testing.TB) *conversation {
	c := &conversation{
		t: t, session: func(n int) string { return fmt.Sprintf("up-%d", n) }, version: wire.Version20251125, lost: map[string]bool{},
		open: make(chan struct{}, 16), push: make(chan string), answers: make(chan string, 16),
		finish: make(chan string), capabilities: "{}",
	}
	c.site = newUnstarted(c.serve)
	c.Start()
	t.Cleanup(func() {
		c.CloseClientConnections()
		c.Close()
	})
	return c
}

func (c *conversation) serve(w http.ResponseWriter, r received) {
	id := r.header.Get("Mcp-Session-Id")
	c.mu.Lock()
	lost := c.lost[id]
	c.mu.Unlock()
	if lost {
		w.WriteHeader(404)
		sayJSON(w, `{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}`)
		return
	}
	switch {
	case r.method == "DELETE":
		w.WriteHeader(204)
	case r.method == "GET" && r.header.Get("Last-Event-ID") != "":
		w.Header().Set("Content-Type", "text/event-stream")
		if last := r.header.Get("Last-Event-ID"); last != "e-3" {
			fmt.Fprintf(w, "id: e-%d\nretry: 10\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{\"after\":%q}}\n\n", int(last[2]-'0')+1, last)
			return
		}
		sayEvent(w, `{"jsonrpc":"2.0","id":7,"result":{"structuredContent":{"session":%q}}}`, id)
	case r.method == "GET" && c.noStream:
		w.WriteHeader(405)
	case r.method == "GET":
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		c.open <- struct{}{}
		for text := range c.push {
			if text == "" {
				return
			}
			sayEvent(w, "%s", text)
		}
	case r.message.Kind == wire.Result || r.message.Kind == wire.Error:
		c.answers <- r.body
		w.WriteHeader(202)
	case r.message.Kind == wire.Notification:
		w.WriteHeader(202)
	case r.message.Method == wire.MethodInitialize:
		if c.initWait != nil {
			<-c.initWait
		}
		c.mu.Lock()
		c.opened++
		n := c.opened
		c.mu.Unlock()
		if id := c.session(n); id != "" {
			w.Header().Set("Mcp-Session-Id", id)
		}
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":%q,"capabilities":%s,"serverInfo":{"name":"c","version":"1"}}}`, r.id(), c.version, c.capabilities)
	case r.message.Method == wire.MethodLoggingSetLevel:
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, r.id())
	case r.message.Name == "beside":
		for name := range c.finish {
			if r.id() == `"`+name+`"` {
				break
			}
			c.finish <- name
		}
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, r.id())
	case r.message.Name == "ask":
		sayEvent(w, `{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`)
		answer, _ := json.Marshal(<-c.answers)
		sayEvent(w, `{"jsonrpc":"2.0","id":%s,"result":{"structuredContent":{"answer":%s}}}`, r.id(), answer)
	case r.message.Name == "hang":
		<-c.push
	case r.message.Name == "poll":
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "event: prime\nid: e-1\nretry: 10\ndata:\n\n")
	default:
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"structuredContent":{"session":%q}}}`, r.id(), id)
	}
}

func (c *conversation) log() []string {
	var lines []string
	for _, r := range c.received() {
		line := r.method + " " + r.message.Method
		if id := r.header.Get("Mcp-Session-Id"); id != "" {
			line += " " + id
		}
		if v := r.header.Get("Mcp-Protocol-Version"); v != "" {
			line += " " + v
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func TestSessionsOverHTTP(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	one, two := clientSession("one"), clientSession("two")
	for _, s := range []*gateway.Session{one, two, one} {
		do(t, b, sessions(t, s, "1", "echo", `{}`))
	}
	stage.Tell(within(t), two, []byte(`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`))
	stage.Tell(within(t), clientSession("three"), []byte(`{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`))
	stage.Tell(within(t), two, []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`))
	if n := status(t, stage).Sessions; n != 2 {
		t.Errorf("%d sessions", n)
	}
	stage.Forget(two)
	eventually(t, "the end of a session", func() bool { return slices.Contains(c.log(), "DELETE  up-2 2025-11-25") })
	do(t, b, sessions(t, two, "1", "echo", `{}`))
	want := []string{
		"POST initialize", "POST notifications/initialized up-1 2025-11-25", "POST tools/call up-1 2025-11-25",
		"POST initialize", "POST notifications/initialized up-2 2025-11-25", "POST tools/call up-2 2025-11-25",
		"POST tools/call up-1 2025-11-25", "POST notifications/roots/list_changed up-2 2025-11-25", "DELETE  up-2 2025-11-25",
		"POST initialize", "POST notifications/initialized up-3 2025-11-25", "POST tools/call up-3 2025-11-25",
	}
	if diff := cmp.Diff(want, c.log()); diff != "" {
		t.Error(diff)
	}
	got := c.received()[0]
	if want := `{"jsonrpc":"2.0","id":"sallyport-initialize","method":"initialize","params":{"protocolVersion":"2025-11-25",` +
		`"capabilities":{"sampling":{},"elicitation":{}},"clientInfo":{"name":"client-one","version":"7"}}}`; got.body != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}
	if err := stage.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	ends := c.log()[len(want):]
	slices.Sort(ends)
	if diff := cmp.Diff([]string{"DELETE  up-1 2025-11-25", "DELETE  up-3 2025-11-25"}, ends); diff != "" {
		t.Error(diff)
	}
	if n := c.conns.Load(); n > 3 {
		t.Errorf("%d connections", n)
	}
}

func TestConcurrentFirstCallsOpenOneSession(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	c.initWait = make(chan struct{})
	b := backend(t, newStage(t, sallyport.Production), atSessions(c.site))
	s := clientSession("one")
	// Who came first goes away while the session is being opened.
	ctx, cancel := context.WithCancel(within(t))
	first := make(chan error, 1)
	go func() {
		_, err := b.Do(ctx, sessions(t, s, "1", "echo", `{}`))
		first <- err
	}()
	eventually(t, "initialize", func() bool { return len(c.log()) == 1 })
	cancel()
	refused(t, <-first, sallyport.Cancelled, false)
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() { do(t, b, sessions(t, s, fmt.Sprint(i+2), "echo", `{}`)) })
	}
	close(c.initWait)
	all.Wait()
	if c.opened != 1 {
		t.Errorf("%d sessions", c.opened)
	}
	if n := len(c.log()); n != 12 {
		t.Errorf("%d requests", n)
	}
}

func TestLostSession(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	s := clientSession("one")
	do(t, b, sessions(t, s, "1", "echo", `{}`))
	c.mu.Lock()
	c.lost["up-1"] = true
	c.mu.Unlock()
	_, err := b.Do(within(t), sessions(t, s, "2", "echo", `{}`))
	if r := refused(t, err, sallyport.UpstreamUnavailable, true); !strings.Contains(r.Reason, "session") {
		t.Errorf("the refusal says %q", r)
	}
	do(t, b, sessions(t, s, "3", "echo", `{}`))
	want := []string{
		"POST initialize", "POST notifications/initialized up-1 2025-11-25", "POST tools/call up-1 2025-11-25", "POST tools/call up-1 2025-11-25",
		"POST initialize", "POST notifications/initialized up-2 2025-11-25", "POST tools/call up-2 2025-11-25",
	}
	if diff := cmp.Diff(want, c.log()); diff != "" {
		t.Error(diff)
	}
}

func TestServerWithoutSessions(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	c.session = func(int) string { return "" }
	c.version = wire.Version20250618
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	s := clientSession("one")
	s.Deliver = func([]byte) {}
	do(t, b, sessions(t, s, "1", "echo", `{}`))
	do(t, b, sessions(t, s, "2", "echo", `{}`))
	stage.Forget(s)
	if err := stage.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{"POST initialize", "POST notifications/initialized 2025-06-18", "POST tools/call 2025-06-18", "POST tools/call 2025-06-18"}
	if diff := cmp.Diff(want, c.log()); diff != "" {
		t.Error(diff)
	}
}

func TestSessionThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*conversation){
		"version of the other era": func(c *conversation) { c.version = wire.Version20260728 },
		"no version":               func(c *conversation) { c.version = "latest" },
		"id with a space":          func(c *conversation) { c.session = func(int) string { return "a b" } },
		"id without end":           func(c *conversation) { c.session = func(int) string { return strings.Repeat("x", 10_000) } },
	} {
		c := newConversation(t)
		spoil(c)
		stage := newStage(t, sallyport.Production)
		_, err := backend(t, stage, atSessions(c.site)).Do(within(t), sessions(t, clientSession("one"), "1", "echo", `{}`))
		refused(t, err, sallyport.UpstreamProtocol, false)
		if n := status(t, stage).Sessions; n != 0 {
			t.Errorf("%s: %d sessions", name, n)
		}
	}
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	for i := range upstream.MaxSessions {
		do(t, b, sessions(t, clientSession(fmt.Sprint(i)), "1", "echo", `{}`))
	}
	_, err := b.Do(within(t), sessions(t, clientSession("more"), "1", "echo", `{}`))
	if r := refused(t, err, sallyport.UpstreamUnavailable, false); !strings.Contains(r.Reason, "too many sessions") {
		t.Errorf("the refusal says %q", r)
	}
	stage.Forget(clientSession("7"))
	do(t, b, sessions(t, clientSession("more"), "1", "echo", `{}`))
}

func TestHTTPAsks(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		ask  func(context.Context, []byte) ([]byte, error)
		want string
	}{
		"answered": {func(context.Context, []byte) ([]byte, error) {
			return []byte(`{"jsonrpc":"2.0", "id":"q","result":{"action":"accept","n":1.0}}`), nil
		}, `{"jsonrpc":"2.0", "id":"q","result":{"action":"accept","n":1.0}}`},
		"nobody": {nil, `{"jsonrpc":"2.0","id":"q","error":{"code":-32601,"message":"the client cannot be asked this"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newConversation(t)
			b := backend(t, newStage(t, sallyport.Production), atSessions(c.site))
			r := sessions(t, clientSession("one"), "1", "ask", `{}`)
			r.Ask = x.ask
			if got := structured[struct{ Answer string }](t, do(t, b, r)).Answer; got != x.want {
				t.Errorf("got  %s\nwant %s", got, x.want)
			}
			if got := c.log()[3]; got != "POST  up-1 2025-11-25" {
				t.Errorf("answered by %q", got)
			}
		})
	}
}

// Many servers ask on the stream beside the calls, and do not say for which call: it
// is the youngest in flight. The stream is there before the first call is.
func TestHTTPAsksBesideTheCalls(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	s := clientSession("one")
	s.Ask = func(context.Context, []byte) ([]byte, error) { return nil, errors.New("beside") }
	type key struct{}
	call := func(name string) chan string {
		answered := make(chan string, 1)
		r := sessions(t, s, `"`+name+`"`, "beside", `{}`)
		written := make(chan struct{})
		r.AfterWrite = func() { close(written) }
		r.Ask = func(ctx context.Context, raw []byte) ([]byte, error) {
			if ctx.Value(key{}) != name {
				t.Errorf("the context of another call than %s", name)
			}
			return []byte(`{"jsonrpc":"2.0","id":"q","result":{"by":"` + name + `"}}`), nil
		}
		go func() {
			res, err := b.Do(context.WithValue(within(t), key{}, name), r)
			if err != nil {
				t.Error(err)
				close(answered)
				return
			}
			answered <- string(res.Message.Raw)
		}()
		<-written
		return answered
	}
	first := call("first")
	select {
	case <-c.open:
	default:
		t.Error("the stream is not open, and the call has been sent")
	}
	second := call("second")
	const question = `{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`
	for _, by := range []string{"second", "first"} {
		c.push <- question
		if got := <-c.answers; got != `{"jsonrpc":"2.0","id":"q","result":{"by":"`+by+`"}}` {
			t.Errorf("got %s, want an answer by %s", got, by)
		}
		c.finish <- by
		if by == "second" {
			<-second
		}
	}
	<-first
	c.push <- question
	if got := <-c.answers; !strings.Contains(got, "was not asked") {
		t.Errorf("without a call it was answered %s", got)
	}
	stage.Forget(s)
	close(c.push)
}

// What the client set as the least level of log messages goes ahead of the next
// request, once, and to servers that log alone.
func TestLogLevelIsFollowed(t *testing.T) {
	t.Parallel()
	for _, logs := range []bool{true, false} {
		c := newConversation(t)
		if logs {
			c.capabilities = `{"logging":{}}`
		}
		b := backend(t, newStage(t, sallyport.Production), atSessions(c.site))
		s, level := clientSession("one"), ""
		s.LogLevel = func() string { return level }
		for i, next := range []string{"", "debug", "debug", "error"} {
			level = next
			do(t, b, sessions(t, s, strconv.Itoa(i), "echo", `{}`))
		}
		var got []string
		for _, r := range c.received() {
			switch r.message.Method {
			case wire.MethodToolsCall:
				got = append(got, "call")
			case wire.MethodLoggingSetLevel:
				got = append(got, string(r.message.Params.Of(r.message.Raw)))
			}
		}
		want := []string{"call", `{"level":"debug"}`, "call", "call", `{"level":"error"}`, "call"}
		if !logs {
			want = []string{"call", "call", "call", "call"}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// A server that lets go of the stream during a long call is asked for the rest,
// and the call arrives once.
func TestHTTPStreamIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	b := backend(t, newStage(t, sallyport.Production), atSessions(c.site))
	r := sessions(t, clientSession("one"), "7", "poll", `{}`)
	var notes []string
	r.Notify = func(raw []byte) { notes = append(notes, string(raw)) }
	do(t, b, r)
	want := []string{
		"POST initialize", "POST notifications/initialized up-1 2025-11-25", "POST tools/call up-1 2025-11-25",
		"GET  up-1 2025-11-25", "GET  up-1 2025-11-25", "GET  up-1 2025-11-25",
	}
	if diff := cmp.Diff(want, c.log()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`{"jsonrpc":"2.0","method":"m","params":{"after":"e-1"}}`, `{"jsonrpc":"2.0","method":"m","params":{"after":"e-2"}}`}, notes); diff != "" {
		t.Error(diff)
	}
}

func TestHTTPCancelTellsTheUpstream(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	ctx, cancel := context.WithCancel(within(t))
	r := sessions(t, clientSession("one"), `"it"`, "hang", `{}`)
	r.AfterWrite = cancel
	_, err := b.Do(ctx, r)
	refused(t, err, sallyport.Cancelled, true)
	want := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"it","reason":"the caller no longer waits"}}`
	eventually(t, "cancellation", func() bool {
		return slices.ContainsFunc(c.received(), func(r received) bool { return r.body == want && r.header.Get("Mcp-Session-Id") == "up-1" })
	})
	close(c.push)
}

func TestStreamBesideTheCalls(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	s := clientSession("one")
	delivered := make(chan string, 4)
	s.Deliver = func(raw []byte) { delivered <- string(raw) }
	s.Ask = func(context.Context, []byte) ([]byte, error) {
		return []byte(`{"jsonrpc":"2.0","id":9,"result":{"roots":[]}}`), nil
	}
	do(t, b, sessions(t, s, "1", "echo", `{}`))
	<-c.open
	const changed = `{"jsonrpc":"2.0","method":"notifications/resources/list_changed", "params":{"n":1.0}}`
	c.push <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}` // what is pinned stays
	c.push <- changed
	if got := <-delivered; got != changed {
		t.Errorf("delivered %s", got)
	}
	if status := stage.Status(); status[0].PinsDue.IsZero() {
		t.Errorf("nobody noticed that the tools have changed: %+v", status)
	}
	c.push <- `{"jsonrpc":"2.0","id":9,"method":"roots/list"}`
	if got := <-c.answers; got != `{"jsonrpc":"2.0","id":9,"result":{"roots":[]}}` {
		t.Errorf("answered %s", got)
	}
	c.push <- `{"jsonrpc":"2.0","id":10,"method":"ping"}`
	if got := <-c.answers; got != `{"jsonrpc":"2.0","id":10,"result":{}}` {
		t.Errorf("answered %s", got)
	}
	c.push <- "" // it ends, and is opened again
	<-c.open
	c.push <- changed
	<-delivered
	// Calls do not wait for it.
	do(t, b, sessions(t, s, "2", "echo", `{}`))
	open := status(t, stage).Connections
	stage.Forget(s)
	eventually(t, "the end of the stream", func() bool { return status(t, stage).Connections == open-1 })
	if err := stage.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	close(c.push)
}

func TestServerWithoutStreamBesideTheCalls(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	c.noStream = true
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	s := clientSession("one")
	s.Deliver = func([]byte) {}
	do(t, b, sessions(t, s, "1", "echo", `{}`))
	eventually(t, "the try", func() bool { return slices.Contains(c.log(), "GET  up-1 2025-11-25") })
	do(t, b, sessions(t, s, "2", "echo", `{}`))
	if st := status(t, stage); st.Sessions != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestCloseWithCallsInFlight(t *testing.T) {
	t.Parallel()
	c := newConversation(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, atSessions(c.site))
	s := clientSession("one")
	var calls sync.WaitGroup
	for i := range 5 {
		written := make(chan struct{})
		calls.Go(func() {
			r := sessions(t, s, fmt.Sprint(i), "hang", `{}`)
			r.AfterWrite = func() { close(written) }
			_, err := b.Do(within(t), r)
			refused(t, err, sallyport.UpstreamUnavailable, true)
		})
		<-written
	}
	if err := stage.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
	_, err := b.Do(within(t), sessions(t, s, "9", "echo", `{}`))
	refused(t, err, sallyport.UpstreamUnavailable, false)
	if _, err := stage.Backend(&sallyport.StageUpstream{ID: "crm", Transport: atSessions(c.site)}); err == nil {
		t.Error("a closed stage hands out backends")
	}
	close(c.push)
}

func TestProbe(t *testing.T) {
	t.Parallel()
	for _, era := range []string{wire.Version20260728, wire.Version20251125} {
		t.Run(era, func(t *testing.T) {
			t.Parallel()
			stage := newStage(t, sallyport.Staging)
			transport := program(t, "", "ERA="+era) // nobody knows its era yet
			got, err := stage.Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != era || got.Server.ProtocolVersion != era || got.Era.String() != map[string]string{
				wire.Version20260728: "stateless", wire.Version20251125: "sessions"}[era] {
				t.Errorf("version %s, era %s", got.Version, got.Era)
			}
			if got.Latency <= 0 {
				t.Error("no latency")
			}
			if string(got.Server.ServerInfo) != `{"name":"by-hand","version":"1"}` {
				t.Errorf("server %s", got.Server.ServerInfo)
			}
			want := []json.RawMessage{
				json.RawMessage(`{"name" : "a","inputSchema":{"type":"object","maximum":1.0}}`), json.RawMessage(`{"name":"b","x":1e2}`),
				json.RawMessage(`{"name":"c","cursor":"p\"2"}`),
			}
			if diff := cmp.Diff(want, got.Tools); diff != "" {
				t.Error(diff)
			}
			if len(stage.Status()) != 0 {
				t.Error("the probe is still there")
			}
		})
	}
}

func TestProbeOverHTTP(t *testing.T) {
	t.Parallel()
	t.Run("an endless list", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, func(w http.ResponseWriter, r received) {
			switch r.message.Method {
			case wire.MethodServerDiscover:
				sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}`, r.id())
			default:
				n, _ := strconv.Atoi(r.message.Cursor)
				one := `{"name":"t"},`
				sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[%s{}],"nextCursor":"%d"}}`, r.id(), strings.Repeat(one, 999), n+1)
			}
		})
		_, err := newStage(t, sallyport.Staging).Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: at(s)})
		refused(t, err, sallyport.UpstreamProtocol, false)
		if n := len(s.received()); n > 13 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("a version refused that it speaks", func(t *testing.T) {
		t.Parallel()
		for _, x := range []struct {
			data string
			asks int // for server/discover
			era  wire.Era
		}{
			{`{"supported":["2026-07-28","2027-01-01"],"requested":"2026-07-28"}`, 2, wire.Stateless},
			{`{"supported":["2025-11-25"],"requested":"2026-07-28"}`, 1, wire.Sessions},
			{`{"supported":"2026-07-28"}`, 1, wire.Sessions},
			{`null`, 1, wire.Sessions},
		} {
			c := newConversation(t)
			asked := 0
			s := newSite(t, func(w http.ResponseWriter, r received) {
				if r.message.Method != wire.MethodServerDiscover {
					c.serve(w, r)
					return
				}
				if asked++; asked == 1 {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(400)
					sayJSON(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32022,"message":"no","data":%s}}`, r.id(), x.data)
					return
				}
				sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{"supportedVersions":["2026-07-28"],"capabilities":{}}}`, r.id())
			})
			got, err := newStage(t, sallyport.Staging).Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: at(s)})
			if err != nil || got.Era != x.era || asked != x.asks {
				t.Errorf("%s: era %v after asking %d times, %v", x.data, got.Era, asked, err)
			}
		}
	})
	t.Run("sessions, without tools", func(t *testing.T) {
		t.Parallel()
		c := newConversation(t)
		got, err := newStage(t, sallyport.Staging).Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: at(c.site)})
		if err != nil {
			t.Fatal(err)
		}
		// The hand-written server answers everything it does not know with a result.
		if got.Era != wire.Sessions || len(got.Tools) != 0 || string(got.Server.Capabilities) != "{}" {
			t.Errorf("got %+v", got)
		}
		if log := c.log(); !slices.Contains(log, "DELETE  up-1 2025-11-25") {
			t.Errorf("the session was left open: %q", log)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		_, err := newStage(t, sallyport.Staging).Probe(within(t), &sallyport.StageUpstream{ID: "crm", Transport: sallyport.Transport{URL: "http://127.0.0.1:1/"}})
		refused(t, err, sallyport.UpstreamUnavailable, false)
	})
}

// One upstream that hangs does not slow down another.
func TestHealthyUpstreamBesideAHangingOne(t *testing.T) {
	t.Parallel()
	stage := newStage(t, sallyport.Production)
	ctx, cancel := context.WithCancel(within(t))
	hanging := plain(t, func(_ int, c net.Conn) { io.Copy(io.Discard, c) })
	slow, err := stage.Backend(&sallyport.StageUpstream{ID: "slow", Transport: hanging})
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if _, err := slow.Do(ctx, stateless(t, "1", "echo", `{}`)); err == nil {
				t.Error("answered")
			}
		})
	}
	b := backend(t, stage, at(newSite(t, echo)))
	began := time.Now()
	for range 200 {
		do(t, b, stateless(t, "1", "echo", `{}`))
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("200 calls took %v", took)
	}
	cancel()
	calls.Wait()
}

// TestHTTPSecretThatDoesNotCome: a reference that blocks costs a call its
// deadline and no more, and holds up nobody once it has come.
func TestHTTPSecretThatDoesNotCome(t *testing.T) {
	t.Parallel()
	came := make(chan struct{})
	var asked atomic.Int64
	s := newSite(t, echo)
	transport := at(s)
	transport.Credential = "file:secrets/crm"
	b := backend(t, newStageWith(t, upstream.Config{Secret: func(string) (string, error) {
		asked.Add(1)
		<-came
		return "sesame", nil
	}}), transport)
	for range 3 {
		ctx, cancel := context.WithTimeout(within(t), 20*time.Millisecond)
		_, err := b.Do(ctx, stateless(t, "1", "echo", `{}`))
		cancel()
		refused(t, err, sallyport.DeadlineExceeded, false)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the secret was asked for %d times at once", n)
	}
	close(came)
	do(t, b, stateless(t, "1", "echo", `{}`))
}
