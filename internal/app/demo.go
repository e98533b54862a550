package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/demo"
	"sallyport/internal/wire"
)

// demoPolicy is what the demo's support agent may do. People can edit it and
// apply again.
const demoPolicy = `// What the support agent may do. Nothing is allowed that no permit names.

@id("read")
permit (principal == Agent::"support", action in Action::"read", resource);

@id("refunds")
permit (principal == Agent::"support", action == Action::"payments/refund", resource);

@id("refund-approval")
@reason("refunds above 100 EUR are approved by a person")
@on_deny("approval") @approver_role("approver") @expires("1h")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 100 };

@id("refund-limit")
@reason("refunds above 500 EUR are not for agents")
@hint("ask a person of the payments team to make this refund")
forbid (principal, action == Action::"payments/refund", resource)
when { context.args.amount > 500 };

@id("notes")
permit (principal == Agent::"support", action == Action::"crm/add_note", resource);
`

const demoTools = `tools:
  find_customer: {access: read, data_class: confidential, args: {email: authority}, fields: {/id: {kind: opaque_id, endorsed: true}}}
  get_customer: {access: read, data_class: confidential, args: {id: authority}}
  add_note: {access: changing, data_class: internal, args: {id: authority, text: content}}
|tools:
  list_payments: {access: read, data_class: confidential, args: {customer: authority}, fields: {/payments/*/payment: {kind: opaque_id, endorsed: true}}}
  refund: {access: changing, data_class: confidential, args: {payment: authority, amount: quantity, reason: content}}
|tools:
  send_mail: {access: changing, data_class: internal, args: {to: authority, subject: content, body: content}}
  list_outbox: {access: read, data_class: confidential}
`

// Demo is the demo company with an installation in front of it.
type Demo struct {
	App     *App
	Company *demo.Company
	Person  *sallyport.Person

	agent *demo.Agent // the one in production
	held  demo.Step   // what it waits for
}

// NewDemo writes a project directory under dir, starts the company's servers and
// an installation in front of them, applies and promotes the support agent to the
// sandbox, where the world of the template support answers it, and to production,
// where it meets the servers themselves.
func NewDemo(ctx context.Context, o Options) (*Demo, error) {
	d := &Demo{Company: demo.New()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for _, name := range demo.Names {
		mux.Handle("/"+name, d.Company.Handler(name))
	}
	servers := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go servers.Serve(l)
	if err := writeOnce(o.Dir, "sallyport.yaml", "listen: 127.0.0.1:8484\nsecrets: {files: [secrets], env: [SALLYPORT_]}\n"); err != nil {
		return nil, errors.Join(err, servers.Close())
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:8484"
	}
	if d.App, err = New(ctx, o); err != nil {
		return nil, errors.Join(err, servers.Close())
	}
	d.App.stops = append([]func() error{servers.Close}, d.App.stops...)
	// Not before the store is held: a demo that runs already keeps its files.
	if err := d.write(o.Dir, l.Addr().String()); err != nil {
		return nil, errors.Join(err, d.App.Close())
	}
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(err, d.App.Close())
	}
	return d, nil
}

func (d *Demo) write(dir, servers string) error {
	// These are people's to edit.
	theirs := map[string]string{
		"agents/support.yaml":    "agent: support\nowner: support@example.com\ntier: medium\nupstreams: [crm, payments, mail]\ntools: {crm: [\"*\"], payments: [\"*\"], mail: [\"*\"]}\npolicies: [policies/support.cedar]\n",
		"policies/support.cedar": demoPolicy,
	}
	template, err := config.Init("support")
	if err != nil {
		return err
	}
	for name, text := range template {
		if strings.HasPrefix(name, "worlds/") {
			theirs[name] = text
		}
	}
	for name, text := range theirs {
		if err := writeOnce(dir, name, text); err != nil {
			return err
		}
	}
	files := map[string]string{}
	tools := strings.Split(demoTools, "|")
	for i, name := range []string{"crm", "payments", "mail"} {
		files["upstreams/"+name+".pins.json"] = string(d.Company.Pins(name))
		files["secrets/"+name] = d.Company.Token(name)
		files["upstreams/"+name+".yaml"] = fmt.Sprintf("upstream: %s\npins: %s.pins.json\nstages:\n  sandbox: {binding: simulate, world: company}\n  production:\n    url: http://%s/%s\n    credential: file:secrets/%s\n    era: \"2026-07-28\"\n    binding: live\n    deadline: 5s\n%s",
			name, name, servers, name, name, tools[i])
	}
	for name, text := range files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			return err
		}
	}
	// The servers have other ports at every start: the demo's person pins them anew.
	for _, name := range []sallyport.UpstreamID{"crm", "payments", "mail"} {
		u, problems := config.LoadUpstream(os.DirFS(dir), name)
		if len(problems) > 0 {
			return fmt.Errorf("the demo's own files: %w", problems)
		}
		u.Pins.Pinned = map[sallyport.Stage]sallyport.Digest{sallyport.Production: u.Stages[sallyport.Production].Identity}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(u.PinsPath)), u.Pins.Marshal(), 0o600); err != nil {
			return err
		}
	}
	if _, problems := config.Load(os.DirFS(dir)); len(problems) > 0 {
		return fmt.Errorf("%w\nto begin anew, remove %s", problems, dir)
	}
	return nil
}

// writeOnce writes a file of a project directory, unless it exists.
func writeOnce(dir, name, text string) error {
	at := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// prepare does what a person would do by hand: apply and promote.
func (d *Demo) prepare(ctx context.Context) error {
	const founder = "you@localhost"
	if _, err := d.App.Founder(ctx, founder); err != nil {
		return err
	}
	people, err := d.App.Store.Persons(ctx)
	if err != nil {
		return err
	}
	d.Person = &people[0]
	c := d.App.Control
	// A halt that an earlier demo left would stop this one.
	past, err := d.App.Store.Decided(ctx)
	if err != nil {
		return err
	}
	for _, h := range past.Halts {
		if err := c.Resume(ctx, d.Person, h.Scope, h.Subject, "a new demo begins"); err != nil {
			return err
		}
	}
	p, err := d.App.Propose(ctx)
	if err != nil {
		return err
	}
	applied, err := c.Apply(ctx, d.Person, p, p.Digest, "the demo begins")
	if err != nil {
		return err
	}
	for _, stage := range []sallyport.Stage{sallyport.Sandbox, sallyport.Production} {
		running := false
		for _, at := range past.Pointers {
			running = running || at.Agent == "support" && at.Stage == stage && at.Release == applied.Releases["support"]
		}
		if running {
			continue
		}
		if _, err := c.Promote(ctx, d.Person, "support", "", stage, "the demo begins"); err != nil {
			return err
		}
	}
	return nil
}

// Play lets the scripted agent work in the sandbox and then in production, until a
// halt stops it there, and tells what it met. Between the two only its credential is
// another.
func (d *Demo) Play(ctx context.Context, out io.Writer) error {
	if err := d.rehearse(ctx, out); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return d.perform(ctx, out)
}

// hire opens a run in a stage and gives its credential to the agent.
func (d *Demo) hire(ctx context.Context, out io.Writer, stage sallyport.Stage) (*demo.Agent, error) {
	host, err := d.App.Control.MakeHostKey(ctx, d.Person, "support", stage, 30, "demo")
	if err != nil {
		return nil, err
	}
	run, err := d.App.Control.OpenRun(ctx, &host.Key, 0, sallyport.Envelope{Task: "Refund Ada for the late delivery"})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "Agent support, release %s, in %s. Run %s.\n\n", run.Run.Release.Short(), run.Run.Stage, run.Run.ID)
	return &demo.Agent{Endpoint: d.App.URL + "/mcp", Token: run.Token, Era: wire.Stateless}, nil
}

// rehearse shows the agent in the sandbox.
func (d *Demo) rehearse(ctx context.Context, out io.Writer) error {
	agent, err := d.hire(ctx, out, sallyport.Sandbox)
	if err != nil {
		return err
	}
	work, end := context.WithCancel(ctx)
	defer end()
	kept := d.books()
	err = agent.Run(work, func(s demo.Step) {
		if s.Name == "work" { // nobody halts it here
			end()
			return
		}
		kept.show(out, s)
	})
	if err != nil && !errors.Is(err, demo.ErrNotHalted) {
		return err
	}
	kept.close(out)
	return nil
}

// perform shows the agent in production, and a halt.
func (d *Demo) perform(ctx context.Context, out io.Writer) error {
	agent, err := d.hire(ctx, out, sallyport.Production)
	if err != nil {
		return err
	}
	stopped := make(chan *control.Stopped, 1)
	working := 0
	kept := d.books()
	err = agent.Run(ctx, func(s demo.Step) {
		if s.Name == "work" && s.Outcome == demo.OK {
			if working++; working == 3 {
				go func() {
					report, err := d.App.Control.Halt(ctx, d.Person, sallyport.HaltAgent, "support", "the demo pulls the kill switch")
					if err != nil {
						report = &control.Stopped{Problem: err.Error()}
					}
					stopped <- report
				}()
			}
			return
		}
		if s.Outcome == demo.Held {
			d.agent, d.held = agent, s
		}
		kept.show(out, s)
	})
	if err != nil {
		return err
	}
	report := <-stopped
	if report.Problem != "" {
		return errors.New("halt: " + report.Problem)
	}
	kept.close(out)
	fmt.Fprintf(out, "  Halt of agent support: confirmed in %d µs, %d calls in flight, recorded.\n", report.ConfirmedMicros, len(report.InFlight))
	return d.App.Control.Resume(ctx, d.Person, sallyport.HaltAgent, "support", "the demo goes on")
}

// Held is the approval that the agent waits for in production, and false if it waits for
// none.
func (d *Demo) Held() (sallyport.ApprovalID, bool) {
	return sallyport.ApprovalID(path.Base(d.held.Page)), d.held.State != ""
}

// Wait has the agent come back until people have decided, and tells what came of it.
func (d *Demo) Wait(ctx context.Context, out io.Writer) {
	for ctx.Err() == nil {
		s := d.agent.Return(ctx, d.held)
		if s.Outcome != demo.Held {
			if ctx.Err() == nil {
				fmt.Fprintln(out, "\nThe agent came back:")
				printStep(out, s)
			}
			return
		}
		d.held.State = s.State
		select { // where nothing holds it there
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// books are what was refunded while the agent worked: as it reads it, and at the live
// payments server. Euros.
type books struct {
	company      *demo.Company
	read, before int
}

func (d *Demo) books() *books {
	return &books{company: d.Company, before: d.Company.Refunded()}
}

func (b *books) show(out io.Writer, s demo.Step) {
	if s.Name != "check" || s.Outcome != demo.OK {
		printStep(out, s)
		return
	}
	var list struct{ Payments []struct{ Refunded int } }
	_ = json.Unmarshal([]byte(s.Text), &list) // whatever else it is counts as nothing
	for _, p := range list.Payments {
		b.read += p.Refunded
	}
}

func (b *books) close(out io.Writer) {
	fmt.Fprintf(out, "\n  Refunded as the agent reads it: %d EUR. At the live payments server: %d EUR before, %d EUR after.\n", b.read, b.before, b.company.Refunded())
}

func printStep(out io.Writer, s demo.Step) {
	if s.Tool == "" {
		return
	}
	mark := "ok    "
	switch s.Outcome {
	case demo.OK:
	case demo.Held:
		mark = "held"
		s.Text += " " + s.Page
	default:
		mark = "refused"
	}
	text := strings.Join(strings.Fields(s.Text), " ")
	if len(text) > 110 && s.Outcome != demo.Held {
		text = text[:107] + "..."
	}
	fmt.Fprintf(out, "  %-7s %s %s\n          %s\n", strings.TrimSpace(mark), s.Tool, s.Args, text)
}
