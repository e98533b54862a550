package app

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"sallyport"
)

// TestMetrics: persons see the calls that were made, and nobody else sees
// anything.
func TestMetrics(t *testing.T) {
	d := startDemo(t)
	token := d.run(t, sallyport.Production)
	for _, args := range []string{`{"customer":"cus_0001"}`, `{"customer":"cus_0001"}`, `{"customer":7}`} {
		if _, err := call(d.App.URL, token, "list_payments", args); err != nil {
			t.Fatal(err)
		}
	}
	link, err := d.App.Control.MakeLink(t.Context(), d.Person.ID)
	if err != nil {
		t.Fatal(err)
	}
	me, err := d.App.Control.SignIn(t.Context(), link, "test")
	if err != nil {
		t.Fatal(err)
	}
	get := func(credential string) (int, string) {
		req, err := http.NewRequest(http.MethodGet, d.App.URL+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if credential != "" {
			req.Header.Set("Authorization", "Bearer "+credential)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for name, credential := range map[string]string{"nobody": "", "an agent": token, "a guess": "sp_person_x"} {
		if status, text := get(credential); status != http.StatusUnauthorized || strings.Contains(text, "sallyport_") {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	status, text := get(me.Secret)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	for _, want := range []string{
		`sallyport_calls_total{agent="support",kind="tool",outcome="ok",stage="production",upstream="payments"} 2`,
		`sallyport_calls_total{agent="support",kind="tool",outcome="refused",stage="production",upstream="payments"} 1`,
		`sallyport_refusals_total{code="invalid_arguments",stage="production"} 1`,
		`sallyport_call_seconds_count{stage="production",upstream="payments"} 3`,
		`sallyport_upstream_seconds_count{stage="production",upstream="payments"} 2`,
		`sallyport_calls_in_flight 0`,
		`sallyport_halts 0`,
		`sallyport_build_info{version="` + Version + `"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "sallyport_") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}
