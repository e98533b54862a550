package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/wire"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func startDemo(t *testing.T) *Demo {
	t.Helper()
	dir := t.TempDir()
	// Tests make one call again and again until it is answered otherwise.
	if err := writeOnce(dir, "pipeline.yaml", "stages: {sandbox: {suspend: {never: true}}, production: {suspend: {never: true}}}\n"); err != nil {
		t.Fatal(err)
	}
	d, err := NewDemo(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
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
	req, err := callRequest(url, token, tool, args)
	if err != nil {
		return nil, err
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

func callRequest(url, token, tool, args string) (*http.Request, error) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, tool, args)
	req, err := http.NewRequest("POST", url+"/mcp", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool} {
		req.Header.Set(k, v)
	}
	return req, nil
}

func TestDemoShowsEverything(t *testing.T) {
	d := startDemo(t)
	var out bytes.Buffer
	if err := d.Play(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ok      find_customer", "Refused (denied)", "Refused (invalid_arguments)", "Refused (halted)", "Halt of agent support: confirmed",
		"in sandbox", "40 EUR. At the live payments server: 395 EUR before, 395 EUR after", "in production", "40 EUR. At the live payments server: 395 EUR before, 435 EUR after"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not show %q:\n%s", want, &out)
		}
	}
	verify(t, d)
}

// TestDemoKeepsWhatPeopleEdit: a demo that is started again has the policy that
// somebody edited, and one that cannot start beside another leaves that one's
// files alone.
func TestDemoKeepsWhatPeopleEdit(t *testing.T) {
	o := Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet()}
	first, err := NewDemo(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	policy, upstream := filepath.Join(o.Dir, "policies", "support.cedar"), filepath.Join(o.Dir, "upstreams", "crm.yaml")
	edited := strings.ReplaceAll(demoPolicy, "100", "50")
	if err := os.WriteFile(policy, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(upstream)
	if err != nil {
		t.Fatal(err)
	}
	var refusal *sallyport.Refusal
	if second, err := NewDemo(t.Context(), o); !errors.As(err, &refusal) || refusal.Code != sallyport.Conflict {
		t.Fatalf("a second demo in the same directory: %v, %v", second, err)
	}
	if after, err := os.ReadFile(upstream); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the second demo repointed the first one's upstream: %v\n%s", err, after)
	}
	if err := first.App.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := NewDemo(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.App.Close()
	if text, err := os.ReadFile(policy); err != nil || string(text) != edited {
		t.Errorf("the edited policy is gone: %v\n%s", err, text)
	}
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
		t.Fatalf("the log does not verify: %+v", report.Findings)
	}
	return report
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
	if m, err := call(d.App.URL, made.Secret, "list_payments", `{"customer":"cus_0412"}`); err != nil || m.IsError {
		t.Fatalf("%v %v", m, err)
	}
	if err := d.App.Control.RevokeKey(t.Context(), d.Person, made.Key.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if m, err := call(d.App.URL, made.Secret, "list_payments", `{"customer":"cus_0412"}`); err != nil || !m.Error.Present() {
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
