package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

// TestMain lets the test binary be the server that the crash test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SALLYPORT_TEST_SERVE"); dir != "" {
		if err := serveForCrash(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func startDemo(t *testing.T) *Demo {
	t.Helper()
	d, err := NewDemo(t.Context(), Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.App.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Demo) run(t *testing.T, stage sallyport.Stage) string {
	t.Helper()
	host, err := d.App.Control.MakeHostKey(t.Context(), d.Person, "support", stage, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	run, err := d.App.Control.OpenRun(t.Context(), &host.Key, 0, sallyport.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	return run.Token
}

// call makes one tools/call in the stateless era and returns the result's raw
// bytes.
func call(url, token, tool, args string) (*wire.Message, error) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, tool, args)
	req, err := http.NewRequest("POST", url+"/mcp", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	m, err := wire.Scan(raw, wire.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", resp.Status, raw, err)
	}
	return &m, nil
}

func TestFrontStyle(t *testing.T) {
	sum := sha256.Sum256([]byte(frontStyle))
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != frontStyleHash {
		t.Errorf("the style's hash is %s, the page's policy allows %s", got, frontStyleHash)
	}
}

func TestDemoShowsEverything(t *testing.T) {
	d := startDemo(t)
	var out bytes.Buffer
	if err := d.Play(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ok      find_customer", "Refused (denied)", "Refused (invalid_arguments)", "Refused (halted)", "Halt of agent support: confirmed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not show %q:\n%s", want, &out)
		}
	}
	verify(t, d)
}

// verify exports the log of a running installation and checks it.
func verify(t *testing.T, d *Demo) *audit.Report {
	t.Helper()
	if err := d.App.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	report, err := audit.VerifySource(t.Context(), d.App.Store, audit.VerifyOptions{Keys: []string{d.App.Ring.Verifier}})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		var text bytes.Buffer
		_ = report.WriteText(&text)
		t.Fatalf("the log does not verify:\n%s", &text)
	}
	return report
}

// TestSandboxCannotCross lets an agent whose run is in the sandbox try every
// name it can give to get at production.
func TestSandboxCannotCross(t *testing.T) {
	d := startDemo(t)
	token := d.run(t, sallyport.Sandbox)
	arrived := func() int {
		n := 0
		for _, name := range []string{"crm", "payments", "mail"} {
			n += len(d.Company.Calls(name))
		}
		return n
	}
	before := arrived()
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find_customer","stage":"production","arguments":{"email":"ada@example.com"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{},"sallyport/stage":"production","stage":"production"}}}`
	req, _ := http.NewRequest("POST", d.App.URL+"/mcp", strings.NewReader(body))
	for k, v := range map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "find_customer",
		"X-Stage": "production", "Sallyport-Stage": "production", "X-Forwarded-Host": "production", "X-Original-URL": "/production"} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || strings.Contains(string(raw), "cus_0001") {
		t.Fatalf("%s %s", resp.Status, raw)
	}
	for _, name := range []string{"crm/find_customer", "crm__find_customer", "production/find_customer", "../find_customer", "find_customer@production"} {
		m, err := call(d.App.URL, token, name, `{"email":"ada@example.com"}`)
		if err != nil {
			t.Fatal(err)
		}
		if !m.IsError {
			t.Errorf("%q was answered: %s", name, m.Raw)
		}
	}
	if n := arrived(); n != before {
		t.Errorf("%d calls of a sandbox run arrived at production servers", n-before)
	}
	// The same agent in production does arrive: the test can fail.
	if _, err := call(d.App.URL, d.run(t, sallyport.Production), "find_customer", `{"email":"ada@example.com"}`); err != nil {
		t.Fatal(err)
	}
	if n := arrived(); n != before+1 {
		t.Errorf("%d calls of a production run arrived, want 1", n-before)
	}
}

func TestOnlyPersonsDecide(t *testing.T) {
	d := startDemo(t)
	for name, credential := range map[string]string{"run token": d.run(t, sallyport.Production), "nothing": "", "a guess": "sp_person_AAAA"} {
		for _, path := range []string{"/v1/promote", "/v1/halt", "/v1/resume", "/v1/apply", "/v1/keys", "/v1/persons", "/v1/settle"} {
			req, _ := http.NewRequest("POST", d.App.URL+path, strings.NewReader(`{}`))
			req.Header.Set("Authorization", "Bearer "+credential)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
				t.Errorf("POST %s with %s: %s", path, name, resp.Status)
			}
		}
	}
}

func TestRevokedKeyAndClosedRunStopAtOnce(t *testing.T) {
	d := startDemo(t)
	made, err := d.App.Control.MakeAgentKey(t.Context(), d.Person, "support", "", sallyport.Sandbox, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := call(d.App.URL, made.Secret, "list_payments", `{"customer":"cus_0001"}`); err != nil || m.IsError {
		t.Fatalf("%v %v", m, err)
	}
	if err := d.App.Control.RevokeKey(t.Context(), d.Person, made.Key.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if m, err := call(d.App.URL, made.Secret, "list_payments", `{"customer":"cus_0001"}`); err != nil || !m.Error.Present() {
		t.Errorf("a revoked key made a call: %s", m.Raw)
	}
}

// TestHaltFileWorks writes the file of halts beside a running installation, as
// halt --local does.
func TestHaltFileWorks(t *testing.T) {
	d := startDemo(t)
	token := d.run(t, sallyport.Production)
	if err := HaltFile(d.App.Dir, sallyport.Halt{Scope: sallyport.HaltGlobal, Reason: "test", By: "file", At: time.Now().UTC()}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		m, err := call(d.App.URL, token, "list_payments", `{"customer":"cus_0001"}`)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(m.Raw), `"halted"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the file was not taken: %s", m.Raw)
		}
	}
}

func TestSignalHalts(t *testing.T) {
	d := startDemo(t)
	token := d.run(t, sallyport.Production)
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		m, err := call(d.App.URL, token, "list_payments", `{"customer":"cus_0001"}`)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(m.Raw), `"halted"`) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the signal was not taken: %s", m.Raw)
		}
	}
}

func TestStateSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	d, err := NewDemo(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	token := d.run(t, sallyport.Production)
	if _, err := d.App.Control.Halt(t.Context(), d.Person, sallyport.HaltTool, "payments/refund", "test"); err != nil {
		t.Fatal(err)
	}
	if err := d.App.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	m, err := call(a.URL, token, "refund", `{"payment":"pay_1003","amount":1,"reason":"x"}`)
	if err != nil || !strings.Contains(string(m.Raw), `"halted"`) {
		t.Errorf("after a restart the halt is gone: %s %v", m.Raw, err)
	}
}

// serveForCrash serves the project under dir and prints the address and a run
// token, until it is killed.
func serveForCrash(dir string) error {
	ctx := context.Background()
	d, err := NewDemo(ctx, Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		return err
	}
	host, err := d.App.Control.MakeHostKey(ctx, d.Person, "support", sallyport.Production, 1, "crash")
	if err != nil {
		return err
	}
	run, err := d.App.Control.OpenRun(ctx, &host.Key, 0, sallyport.Envelope{})
	if err != nil {
		return err
	}
	fmt.Printf("%s %s\n", d.App.URL, run.Token)
	time.Sleep(time.Minute) // the parent kills it long before
	return nil
}

// TestCrash kills a server with SIGKILL at random points under load, again and
// again on the same store. Afterwards no acknowledged call lacks its records, no
// intent stands twice, every intent without an outcome is listed as unknown, and
// the log verifies.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]bool{} // by a note that only one call carries
	var mu sync.Mutex
	rounds := 6
	for round := range rounds {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "SALLYPORT_TEST_SERVE="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("round %d: the server did not start: %v", round, err)
		}
		url, token, _ := strings.Cut(strings.TrimSpace(line), " ")
		var load sync.WaitGroup
		for worker := range 8 {
			load.Go(func() {
				for i := 0; ; i++ {
					text := fmt.Sprintf("note-%d-%d-%d", round, worker, i)
					m, err := call(url, token, "add_note", fmt.Sprintf(`{"id":"cus_0001","text":%q}`, text))
					if err != nil {
						return // killed
					}
					if !m.IsError {
						mu.Lock()
						acknowledged[text] = true
						mu.Unlock()
					}
				}
			})
		}
		time.Sleep(time.Duration(50+rand.IntN(400)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		load.Wait()
		_ = cmd.Wait()
	}
	if len(acknowledged) < 20 {
		t.Fatalf("only %d calls were acknowledged: the test shows nothing", len(acknowledged))
	}
	a, err := New(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	runs, err := a.Store.Runs(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	intents, outcomes := map[sallyport.CallID]string{}, map[sallyport.CallID]sallyport.Outcome{}
	recorded := map[string]bool{}
	for _, run := range runs {
		lines, err := a.Store.Trace(t.Context(), run.ID, "", true)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			r, err := audit.ParseRecord(l.Body)
			if err != nil {
				t.Fatal(err)
			}
			switch r.Kind {
			case audit.Intent:
				if _, twice := intents[r.Call]; twice {
					t.Errorf("the intent of %s stands twice", r.Call)
				}
				var args struct{ Text string }
				if err := json.Unmarshal(l.Payload.Arguments, &args); err != nil {
					t.Fatal(err)
				}
				intents[r.Call] = args.Text
			case audit.Outcome:
				outcomes[r.Call] = r.Outcome
				if text := intents[r.Call]; r.Outcome == sallyport.OutcomeOK {
					recorded[text] = true
				}
			}
		}
	}
	for text := range acknowledged {
		if !recorded[text] {
			t.Errorf("call %s was acknowledged and has no outcome record", text)
		}
	}
	unknowns, err := a.Store.Unknowns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listed := map[sallyport.CallID]bool{}
	for _, u := range unknowns {
		listed[u.Call] = true
	}
	open := 0
	for id := range intents {
		if o, ok := outcomes[id]; !ok || o == sallyport.OutcomeUnsettled {
			open++
			if !listed[id] {
				t.Errorf("the intent of %s has no outcome and is not listed", id)
			}
		} else if listed[id] {
			t.Errorf("%s ended as %s and is listed as unknown", id, o)
		}
	}
	t.Logf("%d calls acknowledged, %d intents, %d unknown, %d kills", len(acknowledged), len(intents), open, rounds)
	if err := a.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	report, err := audit.VerifySource(t.Context(), a.Store, audit.VerifyOptions{Keys: []string{a.Ring.Verifier}})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		var text bytes.Buffer
		_ = report.WriteText(&text)
		t.Errorf("the log does not verify:\n%s", &text)
	}
	if _, err := os.Stat(filepath.Join(dir, ".sallyport")); err != nil {
		t.Error(err)
	}
}
