package app

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/redteam"
	"sallyport/internal/wire"
)

// serviceDesk is an installation with the policies of examples/desk in front of an
// upstream that answers what it is told to.
type serviceDesk struct {
	*office
	upstream *recorded
	host     *control.Key
	last     held // the call that was held last
}

// openServiceDesk starts it; unguarded, nothing of the policies is left.
func openServiceDesk(t *testing.T, unguarded bool) *serviceDesk {
	t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("..", "..", "examples", "desk", filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	pins, err := config.ParsePins([]byte(read("upstreams/desk.pins.json")))
	if err != nil {
		t.Fatal(err)
	}
	d := &serviceDesk{upstream: newRecorded(t, map[string][]json.RawMessage{"desk": pins.Tools})}
	files := example(t, "desk")
	if unguarded {
		files = map[string]string{"policies/all.cedar": "@id(\"all\")\npermit (principal, action, resource);\n"}
	}
	var policies []string
	for name := range files {
		policies = append(policies, name)
	}
	files["sallyport.yaml"] = "listen: 127.0.0.1:8484\n"
	if !unguarded {
		files["pipeline.yaml"] = read("pipeline.yaml")
	}
	files["upstreams/desk.pins.json"] = read("upstreams/desk.pins.json")
	files["upstreams/desk.yaml"] = strings.ReplaceAll(read("upstreams/desk.yaml"), "{{url}}", d.upstream.url+"/desk")
	files["agents/desk.yaml"] = asYAML(t, map[string]any{"agent": "desk", "owner": "ana@example.com", "tier": "medium", "upstreams": []string{"desk"}, "policies": policies})
	d.office = openOffice(t, files)
	if _, err := d.App.Control.Promote(t.Context(), d.Person, "desk", "", sallyport.Production, "test"); err != nil {
		t.Fatal(err)
	}
	host, err := d.App.Control.MakeHostKey(t.Context(), d.Person, "desk", sallyport.Production, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	d.host = &host.Key
	return d
}

func (d *serviceDesk) Begin(task string) (redteam.Run, error) {
	run, err := d.App.Control.OpenRun(d.t.Context(), d.host, 0, sallyport.Envelope{Task: task})
	if err != nil {
		return nil, err
	}
	return &deskRun{d, run.Token}, nil
}

func (d *serviceDesk) Answer(text string) { d.upstream.next(text) }

func (d *serviceDesk) Arrived() []redteam.Arrival {
	var all []redteam.Arrival
	for _, a := range d.upstream.since(0) {
		all = append(all, redteam.Arrival{Tool: a.tool, Args: a.args})
	}
	return all
}

func (d *serviceDesk) Approve() error {
	if d.last.id == "" {
		return redteam.ErrNothingHeld
	}
	_, err := d.App.Control.Decide(d.t.Context(), d.cam, d.last.id, control.Verdict{Approve: true, Reason: "test"})
	return err
}

type deskRun struct {
	d     *serviceDesk
	token string
}

func (r *deskRun) Call(tool string, args json.RawMessage, attached bool) (string, error) {
	state := ""
	if attached {
		state = r.d.last.state
	}
	m, err := r.d.try(r.token, tool, string(args), true, state, "")
	if err != nil {
		return "", err
	}
	if strings.Contains(string(m.Raw), wire.ResultInputRequired) {
		r.d.last = r.d.waits(m)
	}
	return string(m.Raw), nil
}

func (r *deskRun) Request(method, path, body string) (int, string, error) {
	req, err := http.NewRequest(method, r.d.App.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func (d *serviceDesk) plays(c *redteam.Case, strength redteam.Strength) redteam.Result {
	d.t.Helper()
	r, err := redteam.Play(d, c, strength)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// redteamPacks are those of redteam/, R1 first.
func redteamPacks(t *testing.T) []*redteam.Pack {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("..", "..", "redteam", "*.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatal("there are no packs", err)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	var packs []*redteam.Pack
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := redteam.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		packs = append(packs, p)
	}
	return packs
}

// TestRedTeamCanWin: without policies and guardrails the attacks get through, so it is
// these that hold them. What Sallyport refuses by itself is refused all the same: what a
// run's credential is not good for, approvals nobody asked for, tools nobody registered,
// and the same call again and again (r12-04, r12-10).
func TestRedTeamCanWin(t *testing.T) {
	d := openServiceDesk(t, true)
	byItself := []string{"R8", "R9", "R14", "r12-04", "r12-10"}
	for _, p := range redteamPacks(t) {
		for i := range p.Cases {
			c := &p.Cases[i]
			if slices.Contains(byItself, p.Group) || slices.Contains(byItself, c.ID) {
				continue
			}
			if d.plays(c, redteam.Verbatim).Breach == "" {
				t.Errorf("%s (%s) does not get through where nothing is in its way: it shows nothing", c.ID, c.Title)
			}
		}
	}
}

// TestRedTeam plays every pack of redteam/ without a model, in every strength, through
// the whole program with the policies of examples/desk. What is known to get through is
// listed in redteam/known-failing.txt: that list has to be exact.
func TestRedTeam(t *testing.T) {
	d := openServiceDesk(t, false)
	var table redteam.Table
	var failing []string
	for _, p := range redteamPacks(t) {
		if len(p.Cases) < 10 {
			t.Errorf("group %s has %d cases, want ten", p.Group, len(p.Cases))
		}
		for i := range p.Cases {
			c := &p.Cases[i]
			for _, strength := range c.In() {
				r := d.plays(c, strength)
				table.Add(p.Group, r)
				if r.Breach != "" {
					failing = append(failing, fmt.Sprintf("%s %s", r.Case, r.Strength))
					t.Logf("%s %s (%s): %.300q", r.Case, r.Strength, c.Title, r.Breach)
				}
			}
		}
	}
	t.Logf("held of tried:\n%s", &table)
	b, err := os.ReadFile(filepath.Join("..", "..", "redteam", "known-failing.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for line := range strings.Lines(string(b)) {
		if line, _, _ := strings.Cut(line, "#"); strings.TrimSpace(line) != "" {
			known = append(known, strings.TrimSpace(line))
		}
	}
	slices.Sort(known)
	slices.Sort(failing)
	for _, f := range failing {
		if !slices.Contains(known, f) {
			t.Errorf("%s gets through and is not in redteam/known-failing.txt", f)
		}
	}
	for _, k := range known {
		if !slices.Contains(failing, k) {
			t.Errorf("%s is in redteam/known-failing.txt and does not get through any more", k)
		}
	}
	verify(t, d.Demo)
}
