package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport"
	"sallyport/internal/app"
	"sallyport/internal/cassette"
	"sallyport/internal/wire"
)

// TestAlignment: ids that a run made stand for the recorded ones wherever they are, and
// nothing else does.
func TestAlignment(t *testing.T) {
	was := `{"structuredContent":{"id":"ord_001","total":12.50,"lines":[{"line_id":7}],"note":"no id 1"},"content":[{"type":"text","text":"{\"id\":\"ord_001\"}"}]}`
	is := `{"structuredContent":{"id":"ord_9f3","total":99.00,"lines":[{"line_id":41}],"note":"no id 2"},"content":[{"type":"text","text":"{\"id\":\"ord_9f3\"}"}]}`
	for _, c := range []struct{ document, want string }{
		{`{"order":"ord_001"}`, `{"order":"ord_9f3"}`},
		{`{"order" : "ord_001", "ord_001" : 7.0}`, `{"order" : "ord_9f3", "ord_001" : 7.0}`},
		{`[7, "7", 12.50, "no id 1"]`, `[41, "41", 12.50, "no id 1"]`},
		{`{"text":"{\"order\": \"ord_001\"}"}`, `{"text":"{\"order\": \"ord_9f3\"}"}`},
		{`{"text":"ord_001 is late"}`, `{"text":"ord_001 is late"}`},
		{`{"a":[],"b":{},"c":null,"d":true,"e":1e400}`, `{"a":[],"b":{},"c":null,"d":true,"e":1e400}`},
	} {
		if got := string(app.Aligned([]byte(was), []byte(is), []byte(c.document))[0]); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.document, got, c.want)
		}
	}
	// Times, and values that are the same, are none.
	same := app.Aligned([]byte(`{"at":"2026-01-02T03:04:05Z","id":"a1"}`), []byte(`{"at":"2026-01-02T03:04:06Z","id":"a1"}`), []byte(`["2026-01-02T03:04:05Z","a1"]`))
	if string(same[0]) != `["2026-01-02T03:04:05Z","a1"]` {
		t.Errorf("%s", same[0])
	}
}

// keepAll is a scrubber that keeps everything.
type keepAll struct{}

func (keepAll) Scrub(*cassette.Leaf) (cassette.Scrubbed, error) {
	return cassette.Scrubbed{Verdict: cassette.Keep}, nil
}

// TestVerifyAligns: a world that makes other ids than the real system made is as
// faithful as one that makes the same; one whose rows differ is not.
func TestVerifyAligns(t *testing.T) {
	for _, c := range []struct {
		status string
		same   int
		effect float64
	}{{"open", 5, 1}, {"new", 1, 0}} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "worlds", "desk.yaml"), `world: desk
cassettes: [desk.jsonl]
tables:
  tickets: {key: id, id: {style: prefix, prefix: t_}}
tools:
  make: {create: tickets, set: {title: args.title, status: '"`+c.status+`"'}}
  look: {get: tickets, key: args.id, missing: no such ticket}
`)
		var text strings.Builder
		digest := sallyport.Digest("sha256:" + strings.Repeat("0", 64))
		w, err := cassette.NewWriter(&text, cassette.Header{Upstream: "desk", Tools: digest, Scrub: digest, Recorded: time.Unix(1_700_000_000, 0), Domain: "default"}, keepAll{})
		if err != nil {
			t.Fatal(err)
		}
		row := `{"title":"lamp","status":"open","id":"t_00000017"}`
		result := func(row string) []byte {
			return append(wire.AppendString([]byte(`{"content":[{"type":"text","text":`), row), `}],"structuredContent":`+row+`}`...)
		}
		for _, r := range []cassette.Raw{
			{Tool: "make", Arguments: []byte(`{"title":"lamp"}`), Result: result(row), Access: sallyport.Changing},
			{Tool: "look", Arguments: []byte(`{"id":"t_00000017"}`), Result: result(row), Access: sallyport.Read},
			{Tool: "look", Arguments: []byte(`{"id":"t_1"}`), Result: []byte(`{"content":[{"type":"text","text":"no such ticket"}],"isError":true}`), Access: sallyport.Read},
			{Tool: "look", Arguments: []byte(`{"id":"t_00000017"}`), Result: result(row), Access: sallyport.Read},
			// Nobody ever names this one.
			{Tool: "make", Arguments: []byte(`{"title":"desk"}`), Result: result(`{"title":"desk","status":"open","id":"t_00000023"}`), Access: sallyport.Changing},
		} {
			if err := w.Append(r); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(dir, "worlds", "cassettes", "desk.jsonl"), text.String())
		card, err := app.VerifyWorld(t.Context(), app.VerifyWorldOptions{Dir: dir, Name: "desk", Seed: 3, Now: time.Unix(1_700_000_000+36*3600, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if card.Total.Same != c.same || card.Total.Effect != c.effect || card.Total.Observed != 1 || card.Evidence || card.Recordings[0].Age != 1.5 {
			t.Errorf("status %s: %+v of %+v, first %+v", c.status, card.Total, card.Recordings, card.Total.First)
		}
		if c.same < 5 && (card.Total.First == nil || !strings.Contains(card.Total.First.Recorded, "open") || !strings.Contains(card.Total.First.Got, "new")) {
			t.Errorf("the first difference: %+v", card.Total.First)
		}
		// What a rule lets be anything is not counted as checked.
		all := card.Recordings[0]
		path := filepath.Join(dir, "worlds", "desk.yaml")
		text0, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, string(text0)+"match: {results: {ignore: [{tool: make, path: /structuredContent/title, why: test}]}}\n")
		if card, err = app.VerifyWorld(t.Context(), app.VerifyWorldOptions{Dir: dir, Name: "desk", Seed: 3, Now: time.Unix(1_700_000_000, 0)}); err != nil {
			t.Fatal(err)
		}
		if some := card.Recordings[0]; all.Live != all.Leaves || all.Live == 0 || some.Leaves != all.Leaves || some.Live != all.Live-2 {
			t.Errorf("checked %d of %d, and with a rule %d of %d", all.Live, all.Leaves, some.Live, some.Leaves)
		}
	}
}

// TestRecordRefuses: nothing is reached where it may not be, and nothing that is there
// is written over.
func TestRecordRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sallyport.yaml"), "listen: 127.0.0.1:0\n")
	write(t, filepath.Join(dir, "upstreams", "desk.yaml"), "upstream: desk\nstages:\n  sandbox: {binding: simulate}\n  staging: {binding: live, url: \"http://127.0.0.1:1/mcp\", era: \"2025-11-25\"}\n")
	began := 0
	o := app.RecordOptions{
		Dir: dir, Upstream: "desk", Stage: sallyport.Staging, Out: filepath.Join(dir, "worlds", "cassettes", "desk.jsonl"), Domain: "default",
		Begin: func(context.Context) error { began++; return errors.New("not on record") }, Permitted: func(context.Context, string) error { return nil },
	}
	if _, err := app.Record(t.Context(), o); !refusedWith(err, sallyport.NotFound) {
		t.Errorf("an upstream that nobody has pinned: %v", err)
	}
	write(t, filepath.Join(dir, "upstreams", "desk.pins.json"), `{"server":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}},"tools":[{"name":"look","inputSchema":{"type":"object"}}]}`)
	if _, err := app.Record(t.Context(), o); err == nil || err.Error() != "not on record" || began != 1 {
		t.Errorf("what is not on record: %v", err)
	}
	for _, c := range []struct {
		why    string
		change func(o *app.RecordOptions)
		code   sallyport.Code
	}{
		{"the sandbox", func(o *app.RecordOptions) { o.Stage = sallyport.Sandbox }, sallyport.BadRequest},
		{"a stage without an endpoint", func(o *app.RecordOptions) { o.Stage = sallyport.Production }, sallyport.BadConfig},
		{"no domain", func(o *app.RecordOptions) { o.Domain = "A B" }, sallyport.BadRequest},
		{"a file that is there", func(o *app.RecordOptions) { o.Out = filepath.Join(dir, "sallyport.yaml") }, sallyport.Conflict},
	} {
		wrong := o
		c.change(&wrong)
		if _, err := app.Record(t.Context(), wrong); !refusedWith(err, c.code) || began != 1 {
			t.Errorf("%s: %v", c.why, err)
		}
	}
	if _, err := os.Stat(o.Out); !os.IsNotExist(err) {
		t.Errorf("a file was written: %v", err)
	}
}

// TestRecordStops: a halt stops what is recorded, the address alone lets nobody in, and
// what was recorded until the end is sealed.
func TestRecordStops(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sallyport.yaml"), "listen: 127.0.0.1:0\n")
	write(t, filepath.Join(dir, "upstreams", "gopher.yaml"), "upstream: gopher\nstages:\n  sandbox: {binding: simulate}\n  staging: {binding: live, url: \""+serveGo(t)+"\"}\n")
	pins, err := app.ProbePins(t.Context(), dir, "gopher", sallyport.Staging)
	if err != nil {
		t.Fatal(err)
	}
	if err := pins.Write(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	out := filepath.Join(dir, "gopher.jsonl")
	var report *app.Recording
	go func() {
		var err error
		report, err = app.Record(ctx, app.RecordOptions{
			Dir: dir, Upstream: "gopher", Stage: sallyport.Staging, Out: out, Domain: "default",
			Begin: func(context.Context) error { return nil },
			Permitted: func(_ context.Context, tool string) error {
				if tool == "fail" {
					return sallyport.Refuse(sallyport.Halted, "halted: tool gopher/fail", "")
				}
				return nil
			},
			Ready: func(url string) { ready <- url },
		})
		done <- err
	}()
	var url string
	select {
	case url = <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	for _, wrong := range []string{strings.TrimSuffix(url, "/mcp"), url[:strings.Index(url[8:], "/")+8] + "/mcp", strings.Replace(url, "127.0.0.1", "localhost", 1) + "x"} {
		res, err := http.Post(wrong, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s lets in: %s", wrong, res.Status)
		}
	}
	if info, err := os.Stat(out + ".recorder"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file that says where the recorder is: %v, %v", info, err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "unchanged", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: url, DisableStandaloneSSE: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	args := json.RawMessage(`{"small":0.1,"text":"write to ada@example.com"}`)
	if res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "exact", Arguments: args}); err != nil || res.IsError {
		t.Fatalf("%+v, %v", res, err)
	}
	if res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "fail", Arguments: json.RawMessage(`{}`)}); err == nil && !res.IsError {
		t.Errorf("a halt is passed over: %+v", res)
	}
	if text, err := os.ReadFile(out); err != nil || strings.Count(string(text), "\n") != 2 || strings.Contains(string(text), "ada@example.com") {
		t.Errorf("the recording is %q, %v", text, err)
	}
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil || !report.Sealed || report.Calls != 1 || report.Replaced["email"] == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cassette.Parse(data, cassette.Limits{})
	if err != nil || c.Evidence() != nil || c.Calls[0].Access != sallyport.Changing {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := os.Stat(out + ".recorder"); !os.IsNotExist(err) {
		t.Errorf("the recorder's file is left: %v", err)
	}
}
