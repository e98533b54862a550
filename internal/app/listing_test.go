package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/control"
)

// TestListingsOfTheDemo: what the demo did is listed, and real records, calls,
// runs and releases are what the document says they are.
func TestListingsOfTheDemo(t *testing.T) {
	d := startDemo(t)
	if err := d.Play(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	link, err := d.App.Control.MakeLink(t.Context(), d.Person.ID)
	if err != nil {
		t.Fatal(err)
	}
	me, err := d.App.Control.SignIn(t.Context(), link, "test")
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", d.App.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+me.Secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s %v", path, resp.Status, raw, err)
		}
		return raw
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(get("/v1/openapi.json")))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("document.json", doc); err != nil {
		t.Fatal(err)
	}
	fits := func(component string, raw []byte) {
		t.Helper()
		s, err := compiler.Compile("document.json#/components/schemas/" + component)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err != nil {
			t.Errorf("%s\nis no %s: %v", raw, component, err)
		}
	}
	fits("Status", get("/v1/status"))
	fits("Diff", get("/v1/diff"))
	fits("PageOfKey", get("/v1/keys"))
	fits("PageOfRecord", get("/v1/records?limit=500"))
	fits("PageOfRun", get("/v1/runs"))
	fits("PageOfReleaseSummary", get("/v1/releases"))
	calls := get("/v1/calls?limit=500")
	fits("PageOfCall", calls)

	seen, shown := map[sallyport.Outcome]int{}, false
	for _, c := range decoded[api.Page[control.Call]](t, calls).Items {
		seen[c.Outcome]++
		raw := get("/v1/calls/" + string(c.ID) + "?payloads=true")
		fits("CallDetail", raw)
		detail := decoded[api.CallDetail](t, raw)
		if detail.Call.Outcome != c.Outcome || len(detail.Records) == 0 {
			t.Errorf("%s in the listing, %s", c.Outcome, raw)
		}
		// A call that was halted has not been read as far as its arguments; that of
		// a change holds them with its intent alone.
		committed, given := false, false
		for _, r := range detail.Records {
			commits := bytes.Contains(r.Record.Body, []byte(`"arguments":"hmac`))
			committed, given = committed || commits, given || r.Arguments != ""
			if r.Arguments != "" && (!commits || !json.Valid([]byte(r.Arguments))) {
				t.Errorf("arguments that their record does not commit to: %s", raw)
			}
		}
		if committed != given {
			t.Errorf("records commit to arguments: %v; they are shown: %v: %s", committed, given, raw)
		}
		shown = shown || given
		if found := get("/v1/runs/" + string(c.Run)); c.Run != "" {
			fits("Run", found)
		}
	}
	if seen[sallyport.OutcomeOK] == 0 || seen[sallyport.OutcomeRefused] == 0 || !shown {
		t.Errorf("the demo's calls: %v", seen)
	}
	releases := decoded[api.Page[api.ReleaseSummary]](t, get("/v1/releases?agent=support"))
	if len(releases.Items) == 0 {
		t.Fatal("the demo's release is not listed")
	}
	fits("ReleaseDetail", get("/v1/releases/"+string(releases.Items[0].ID)))
	if got := decoded[api.ReleaseDetail](t, get("/v1/releases/"+string(releases.Items[0].ID))); got.Release.ID != releases.Items[0].ID || len(got.Release.Tools) == 0 {
		t.Errorf("%+v", got)
	}
}

func decoded[T any](t *testing.T, raw []byte) (out T) {
	t.Helper()
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return out
}
