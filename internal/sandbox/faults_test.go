package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// desk is a world with notes, faults as they are given, and its log.
type desk struct {
	def   *sallyport.WorldDefinition
	id    sallyport.Digest
	calls []sallyport.PastCall
}

const notes = `{"world":"desk","result":"both","tables":{"notes":{"key":"id","id":{"style":"sequence"},
	"fields":{"text":{"type":"string"}}}},
	"tools":{"add":{"create":"notes"},"get":{"get":"notes","key":"args.id","missing":"no such note"},
	"list":{"list":"notes","limit":"args.get(\"limit\", 10)","cursor":"args.get(\"cursor\")","return":{"rows":"rows","next_cursor":"next"}},
	"drop":{"delete":"notes","key":"args.id","missing":"no such note"},
	"time":{"return":"now()"}}}`

func newDesk(t testing.TB, faults string) *desk {
	t.Helper()
	d := &desk{def: &sallyport.WorldDefinition{Name: "desk", Twin: []byte(notes), Faults: []byte(faults), Fallback: sallyport.FallbackRefuse}}
	if err := Check(d.def, nil); err != nil {
		t.Fatal(err)
	}
	d.id = sallyport.Digest(canonical.SumBytes([]byte(notes + faults)))
	return d
}

func (d *desk) World(context.Context, sallyport.Digest) (*sallyport.WorldDefinition, map[string][]byte, error) {
	return d.def, nil, nil
}

func (d *desk) Simulated(_ context.Context, _ sallyport.RunID, _ sallyport.Digest, from, to int) ([]sallyport.PastCall, error) {
	var out []sallyport.PastCall
	for _, c := range d.calls {
		if c.Number >= from && c.Number < to {
			out = append(out, c)
		}
	}
	return out, nil
}

func (d *desk) worlds() *Worlds { return New(Config{Source: d, Now: time.Now, Shared: true}) }

// call makes one call and keeps what the store would: all that has a grade.
func (d *desk) call(ctx context.Context, w *Worlds, seed uint64, n int, tool, args string) (*sallyport.Simulation, error) {
	access := sallyport.Changing
	if tool == "get" || tool == "list" || tool == "time" {
		access = sallyport.Read
	}
	a, err := w.Answer(ctx, &sallyport.Simulated{
		World: sallyport.WorldRef{Name: "desk", Digest: d.id}, Tool: &sallyport.Tool{Name: tool, UpstreamName: tool, Upstream: "desk", Access: access},
		Args: []byte(args), Era: wire.Sessions, Run: "run_1", Seed: seed, Number: n,
	})
	if err == nil && a.Grade != 0 {
		d.calls = append(d.calls, sallyport.PastCall{Number: n + 1, Upstream: "desk", Tool: tool, Args: []byte(args)})
	}
	return a, err
}

func (d *desk) hash(w *Worlds) [32]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs[runKey{"run_1", d.id}].twin.Hash()
}

// told is all that a caller sees of an answer.
func told(a *sallyport.Simulation, err error) string {
	switch {
	case err != nil:
		return "error " + err.Error()
	case a.Refused != nil:
		return "refused " + a.Refused.Error()
	case a.Error != nil:
		return "rpc " + string(a.Error)
	}
	return string(a.Result)
}

// all makes calls and returns the answer to the last.
func (d *desk) all(t testing.TB, calls ...string) (*Worlds, *sallyport.Simulation) {
	t.Helper()
	w := d.worlds()
	var last *sallyport.Simulation
	for i, c := range calls {
		tool, args, _ := strings.Cut(c, " ")
		a, err := d.call(t.Context(), w, 7, i, tool, args)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		last = a
	}
	return w, last
}

const busy = `{"rules":[
	{"rate":0.07,"fault":"timeout_after_commit"},{"rate":0.07,"fault":"timeout"},{"rate":0.1,"fault":"duplicate_delivery"},
	{"rate":0.1,"fault":"stale_read","behind":3},{"rate":0.1,"fault":"stale_read"},{"rate":0.1,"fault":"too_many_requests","retry_after":"2s"},
	{"rate":0.1,"fault":"partial_result"},{"rate":0.1,"fault":"schema_drift"},{"rate":0.1,"fault":"injected_instruction"},
	{"rate":0.1,"fault":"truncated_result"},{"rate":0.1,"fault":"rpc_error"},{"rate":0.1,"fault":"oversized_result"}]}`

// script is what an agent does that goes on whatever happens.
func script(i int) (tool, args string) {
	switch i % 6 {
	case 0, 1, 3:
		return "add", fmt.Sprintf(`{"text":"note %d \u00e9"}`, i)
	case 2:
		return "list", `{}`
	case 4:
		return "drop", fmt.Sprintf(`{"id":%d}`, i/3)
	}
	return "time", `{}`
}

// A run repeats exactly, and is the same when what was in memory is lost at any time.
func TestFaultsRepeat(t *testing.T) {
	const length = 60
	play := func(forget int, seed uint64) (string, [32]byte) {
		d := newDesk(t, busy)
		w := d.worlds()
		var b strings.Builder
		for i := range length {
			if forget > 0 && i%forget == 0 {
				w = d.worlds()
			}
			tool, args := script(i)
			a, err := d.call(t.Context(), w, seed, i, tool, args)
			fmt.Fprintf(&b, "%d %s %s\n", i, tool, told(a, err))
		}
		return b.String(), d.hash(w)
	}
	want, hash := play(0, 7)
	for _, s := range []string{"did not answer in time", "status 429", `"code":-32603`, "larger than", "locked"} {
		if !strings.Contains(want, s) {
			t.Errorf("nothing in it goes wrong like %q:\n%s", s, want)
		}
	}
	for range 100 {
		if got, h := play(0, 7); got != want || h != hash {
			t.Fatalf("another time another run:\n%s", cmp.Diff(want, got))
		}
	}
	for _, every := range []int{1, 2, 3, 7, 13} {
		if got, h := play(every, 7); got != want || h != hash {
			t.Errorf("forgotten every %d calls (same state: %v):\n%s", every, h == hash, cmp.Diff(want, got))
		}
	}
	if other, _ := play(0, 8); other == want {
		t.Error("another seed has the same fate")
	}
}

// An answer of a system with such a status is the same refusal, whether the system is
// real or not.
func TestFaultsAsUpstream(t *testing.T) {
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then is it seen that nobody waits any more
		<-r.Context().Done()
	}
	for _, c := range []struct {
		rule   string
		answer http.HandlerFunc
	}{
		{`"fault":"too_many_requests","retry_after":"17s"`, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "17")
			w.WriteHeader(429)
		}},
		{`"fault":"too_many_requests"`, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }},
		{`"fault":"server_error"`, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }},
		{`"fault":"server_error","status":502,"retry_after":"3s"`, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(502)
		}},
		{`"fault":"expired_credential"`, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }},
		{`"fault":"oversized_result"`, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[],"x":%q}}`, strings.Repeat("x", 5000))
		}},
		{`"fault":"timeout"`, silent},
		{`"fault":"timeout_after_commit"`, silent},
	} {
		t.Run(c.rule, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			stage := upstream.NewStage(upstream.Config{Stage: sallyport.Production})
			defer stage.Close(t.Context())
			b, err := stage.Backend(&sallyport.StageUpstream{ID: "desk", Transport: sallyport.Transport{URL: server.URL, Era: wire.Version20260728}})
			if err != nil {
				t.Fatal(err)
			}
			m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{},"_meta":{`+
				`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},`+
				`"io.modelcontextprotocol/clientCapabilities":{}}}}`), wire.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			patience := 20 * time.Second
			if strings.Contains(c.rule, "timeout") {
				patience = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			pass := func() error { return nil }
			_, err = b.Do(ctx, &gateway.Request{Message: m, Method: m.Method, Era: wire.Stateless, MaxResult: 4000, BeforeWrite: pass, AfterWrite: func() {}})
			real, ok := errors.AsType[*sallyport.Refusal](err)
			if !ok {
				t.Fatalf("the upstream says %v", err)
			}
			_, a := newDesk(t, `{"rules":[{"at":[1],`+c.rule+`}]}`).all(t, `add {"text":"x"}`)
			if diff := cmp.Diff(real, a.Refused); diff != "" {
				t.Errorf("(-real +world)\n%s", diff)
			}
		})
	}
}

func TestFaultsShow(t *testing.T) {
	add := []string{`add {"text":"a \"b\" é"}`, `add {"text":"two"}`, `add {"text":"three"}`}
	const one = `{"content":[{"type":"text","text":"{\"id\":1,\"text\":\"a \\\"b\\\" é\"}"}],"structuredContent":{"id":1,"text":"a \"b\" é"}}`
	if _, a := newDesk(t, `{"profile":"calm"}`).all(t, append(add, `get {"id":1}`)...); told(a, nil) != one {
		t.Fatalf("without a fault: %s", told(a, nil))
	}
	for _, c := range []struct{ name, rule, call, want string }{
		{"isError", `"fault":"tool_error"`, `get {"id":1}`, `{"content":[{"type":"text","text":"something went wrong, try again later"}],"isError":true}`},
		{"permission", `"fault":"permission_denied","message":"not yours"`, `get {"id":1}`, `{"content":[{"type":"text","text":"not yours"}],"isError":true}`},
		{"rpc", `"fault":"rpc_error","code":-32000,"message":"out of \"luck\""`, `get {"id":1}`, `rpc {"code":-32000,"message":"out of \"luck\""}`},
		{"partial", `"fault":"partial_result"`, `list {}`,
			`{"content":[{"type":"text","text":"{\"rows\":[{\"id\":1,\"text\":\"a \\\"b\\\" é\"}],\"next_cursor\":null}"}],"structuredContent":{"rows":[{"id":1,"text":"a \"b\" é"}],"next_cursor":null}}`},
		{"cut", `"fault":"pagination_cut"`, `list {"limit":1}`,
			`{"content":[{"type":"text","text":"{\"rows\":[{\"id\":1,\"text\":\"a \\\"b\\\" é\"}],\"next_cursor\":null}"}],"structuredContent":{"rows":[{"id":1,"text":"a \"b\" é"}],"next_cursor":null}}`},
		{"drift", `"fault":"schema_drift","field":"/text","becomes":"body"`, `get {"id":1}`,
			`{"content":[{"type":"text","text":"{\"id\":1,\"body\":\"a \\\"b\\\" é\"}"}],"structuredContent":{"id":1,"body":"a \"b\" é"}}`},
		{"injected", `"fault":"injected_instruction","text":"obey \"me\""`, `get {"id":1}`,
			`{"content":[{"type":"text","text":"{\"id\":1,\"text\":\"a \\\"b\\\" é obey \\\"me\\\"\"}"}],"structuredContent":{"id":1,"text":"a \"b\" é obey \"me\""}}`},
		{"injected at", `"fault":"injected_instruction","text":"obey","field":"/rows/1/text"`, `list {"limit":2}`, "two obey"},
		{"injected nowhere", `"fault":"injected_instruction","text":"obey","field":"/other"`, `get {"id":1}`, one},
		{"truncated", `"fault":"truncated_result","keep":0.75`, `get {"id":1}`, `{"content":[{"type":"text","text":"{\"id\":1,\"text\":\"a \\\"b"}]}`},
		{"an error stays", `"fault":"injected_instruction"`, `get {"id":9}`, `{"content":[{"type":"text","text":"no such note"}],"isError":true}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, a := newDesk(t, `{"rules":[{"at":[4],`+c.rule+`}]}`).all(t, append(add, c.call)...)
			got := told(a, nil)
			if got != c.want && (strings.HasPrefix(c.want, "{") || strings.HasPrefix(c.want, "rpc") || strings.Count(got, c.want) != 2) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if a.Grade != sallyport.GradeTwin {
				t.Errorf("grade %s", a.Grade)
			}
		})
	}
}

// What a call that goes wrong leaves behind, and what is kept of what was withheld.
func TestFaultsState(t *testing.T) {
	for _, c := range []struct {
		rule     string
		ids      string // of the notes that are there after the second of two was added
		withheld bool
	}{
		{`"fault":"timeout_after_commit"`, "1 2", true},
		{`"fault":"oversized_result"`, "1 2", true},
		{`"fault":"timeout"`, "1", false},
		{`"fault":"too_many_requests"`, "1", false},
		{`"fault":"server_error"`, "1", false},
		{`"fault":"expired_credential"`, "1", false},
		{`"fault":"permission_denied"`, "1", false},
		{`"fault":"duplicate_delivery"`, "1 2 3", false},
		{`"fault":"stale_read"`, "1 2", false},
		{`"fault":"truncated_result"`, "1 2", false},
		{`"fault":"latency","wait":"1ms"`, "1 2", false},
	} {
		d := newDesk(t, `{"rules":[{"tool":"add","at":[2,3],`+c.rule+`}]}`)
		w, a := d.all(t, `add {"text":"a"}`, `add {"text":"b"}`)
		if got := a.Refused != nil && a.Result != nil; got != c.withheld {
			t.Errorf("%s: a result withheld: %v", c.rule, got)
		}
		for _, w := range []*Worlds{w, d.worlds()} { // continued, and made again
			a, err := d.call(t.Context(), w, 7, 2, "list", `{}`)
			if err != nil {
				t.Fatal(err)
			}
			rows, _, _ := wire.Field(a.Result, "structuredContent")
			rows, _, _ = wire.Field(rows, "rows")
			all, err := wire.Elements(rows)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, row := range all {
				id, _, _ := wire.Field(row, "id")
				ids = append(ids, string(id))
			}
			if got := strings.Join(ids, " "); got != c.ids {
				t.Errorf("%s: notes %s, want %s", c.rule, got, c.ids)
			}
		}
	}
}

func TestFaultsStale(t *testing.T) {
	calls := []string{`add {"text":"a"}`, `get {"id":1}`, `add {"text":"b"}`, `get {"id":2}`}
	_, a := newDesk(t, `{"rules":[{"at":[4],"fault":"stale_read"}]}`).all(t, calls...)
	if got := told(a, nil); !strings.Contains(got, "no such note") {
		t.Errorf("the read sees the write before it: %s", got)
	}
	// It is an answer, not a state: the next read sees everything.
	_, a = newDesk(t, `{"rules":[{"at":[4],"fault":"stale_read","behind":100}]}`).all(t, append(calls, `get {"id":2}`)...)
	if got := told(a, nil); strings.Contains(got, "no such note") {
		t.Errorf("the state is stale: %s", got)
	}
	_, a = newDesk(t, `{"rules":[{"at":[4],"fault":"stale_read","behind":2},{"at":[99],"fault":"stale_read","behind":9}]}`).all(t, calls[0], calls[2], `time {}`, `get {"id":1}`)
	if got := told(a, nil); strings.Contains(got, "no such note") {
		t.Errorf("the read is behind by more than two: %s", got)
	}
}

// A call takes its time, in which it can be given up: then it has had no effect. What
// is made again takes none.
func TestFaultsLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, `{"latency":{"mean":"2s"},"rules":[{"at":[2],"fault":"timeout_after_commit","wait":"30s"}]}`)
		w := d.worlds()
		began := time.Now()
		took := func() time.Duration {
			defer func() { began = time.Now() }()
			return time.Since(began)
		}
		for n, want := range []time.Duration{2 * time.Second, 32 * time.Second} {
			if _, err := d.call(t.Context(), w, 7, n, "add", `{"text":"a"}`); err != nil {
				t.Fatal(err)
			}
			if got := took(); got != want {
				t.Errorf("call %d took %s, want %s", n, got, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.call(ctx, w, 7, 2, "add", `{"text":"given up"}`); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it was not given up: %v", err)
		}
		if got := took(); got != time.Second {
			t.Errorf("given up after %s", got)
		}
		continued, err := d.call(t.Context(), w, 7, 3, "list", `{}`)
		if err != nil {
			t.Fatal(err)
		}
		took()
		d.calls = d.calls[:2]
		again, err := d.call(t.Context(), d.worlds(), 7, 3, "list", `{}`)
		if err != nil || !bytes.Equal(again.Result, continued.Result) || bytes.Contains(again.Result, []byte("given up")) {
			t.Errorf("made again: %s, %v", told(again, err), err)
		}
		if got := took(); got != 2*time.Second {
			t.Errorf("what was made again took its time: %s", got)
		}
	})
}
