package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"sallyport"
	"sallyport/internal/cassette"
	"sallyport/internal/gateway"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// Rival is a real system in staging that a world is held against: only tools that
// people declared to be reads are called there, with what was recorded as their
// arguments, and each once for the same ones.
type Rival struct {
	Upstream sallyport.UpstreamID
	// Begin puts on record that this begins; Permitted is asked before each call.
	Begin     func(ctx context.Context) error
	Permitted func(ctx context.Context, tool string) error
}

// compare calls the real system, and the world in a fresh run. What the real system
// answers is in no report: only where the two differ.
func (v *Rival) compare(ctx context.Context, def *sallyport.WorldDefinition, files map[string][]byte, o VerifyWorldOptions) (_ []ToolFidelity, err error) {
	u, err := pinnedUpstream(o.Dir, v.Upstream)
	if err != nil {
		return nil, err
	}
	of := u.Stages[sallyport.Staging]
	if of.Transport.None() {
		return nil, sallyport.Refuse(sallyport.BadConfig, fmt.Sprintf("upstream %s is not reached in staging", v.Upstream), "a world is only held against staging")
	}
	names := o.Cassettes
	if len(names) == 0 {
		names = def.Cassettes
	}
	type question struct {
		tool *sallyport.Tool
		args []byte
		file string
		seq  int
	}
	var questions []question
	seen := map[string]bool{}
	for i := range u.Tools {
		if t := &u.Tools[i]; t.Access == sallyport.Read {
			for _, name := range names {
				c, err := readRecording(o.Dir, name)
				if err != nil {
					return nil, err
				}
				for _, call := range c.Calls {
					if id := call.Tool + "\x00" + string(call.Arguments); call.Tool == t.UpstreamName && !seen[id] {
						seen[id] = true
						questions = append(questions, question{t, call.Arguments, name, call.Seq})
					}
				}
			}
		}
	}
	if len(questions) == 0 {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("no recorded call is of a tool of %s that is declared to be a read", v.Upstream), "declare some in upstreams/"+string(v.Upstream)+".yaml, or name other recordings")
	}
	if err := v.Begin(ctx); err != nil {
		return nil, err
	}
	stage := upstream.NewStage(upstream.Config{
		Stage: sallyport.Staging, Dir: o.Dir, Log: slog.New(slog.DiscardHandler), Client: upstream.Implementation{Name: "sallyport", Version: Version},
		Secret: func(ref string) (string, error) { return secret(o.Dir, u.Secrets, ref) },
	})
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, stage.Close(closing))
	}()
	found, err := stage.Probe(ctx, &of)
	if err != nil {
		return nil, err
	}
	if of.Transport.Era == "" {
		of.Transport.Era = found.Version
	}
	backend, err := stage.Backend(&of)
	if err != nil {
		return nil, err
	}
	r, err := newRehearsal(def, files, u.Tools, o.Seed)
	if err != nil {
		return nil, err
	}
	era, _ := wire.EraOf(of.Transport.Era)
	session := &gateway.Session{ID: "verify", ClientInfo: []byte(`{"name":"sallyport","version":"` + Version + `"}`), ClientCapabilities: []byte("{}")}
	if era == wire.Stateless {
		session = nil
	}
	tools := map[string]*ToolFidelity{}
	for i, q := range questions {
		if err := v.Permitted(ctx, q.tool.UpstreamName); err != nil {
			return nil, err
		}
		real, err := v.ask(ctx, backend, session, era, i+1, q.tool.UpstreamName, q.args, of.MaxResult)
		if err != nil {
			return nil, err
		}
		one := replayed{call: &cassette.Call{Seq: q.seq, Tool: q.tool.UpstreamName, Access: sallyport.Read}}
		answer, err := r.worlds.Answer(ctx, &sallyport.Simulated{
			World: r.ref, Tool: q.tool, Args: q.args, Era: era, Run: sallyport.RunID("against-" + strconv.Itoa(i)), Seed: o.Seed,
		})
		var refused *sallyport.Refusal
		switch {
		case errors.As(err, &refused):
			one.gap = refused.Reason
		case err != nil:
			return nil, err
		default:
			one.known = true
			if one.fidelity, err = cassette.Compare(q.tool.UpstreamName, real, cassette.Reply{Result: answer.Result, Error: answer.Error}, r.rules.Results); err != nil {
				return nil, err
			}
		}
		t := tools[q.tool.UpstreamName]
		if t == nil {
			t = &ToolFidelity{Tool: q.tool.UpstreamName}
			tools[t.Tool] = t
		}
		t.count(&one)
		if t.First == nil && (!one.known || !one.fidelity.Same()) {
			t.First = one.divergence(q.file)
			t.First.Recorded, t.First.Got = "", ""
		}
	}
	var out []ToolFidelity
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		tools[name].finish()
		out = append(out, *tools[name])
	}
	return out, nil
}

func (v *Rival) ask(ctx context.Context, backend gateway.Backend, session *gateway.Session, era wire.Era, id int, tool string, args []byte, most int) (cassette.Reply, error) {
	params := append(wire.AppendString([]byte(`{"name":`), tool), `,"arguments":`...)
	params = append(append(params, args...), '}')
	if era == wire.Stateless {
		meta := fmt.Appendf(nil, `{%q:%q,%q:{"name":"sallyport","version":%q},%q:{}}`, wire.MetaProtocolVersion, wire.Version20260728, wire.MetaClientInfo, Version, wire.MetaClientCapabilities)
		params = wire.Splice(params, wire.Insert(params, wire.Span{End: len(params)}, "_meta", meta))
	}
	m, err := wire.Scan(wire.AppendRequest(nil, strconv.AppendInt(nil, int64(id), 10), wire.MethodToolsCall, params), wire.Limits{})
	if err != nil {
		return cassette.Reply{}, err
	}
	if most <= 0 {
		most = 4 << 20
	}
	res, err := backend.Do(ctx, &gateway.Request{Message: m, Method: wire.MethodToolsCall, Era: era, Session: session, MaxResult: most, Owner: "verify"})
	if err != nil {
		return cassette.Reply{}, err
	}
	if res.Message.Kind == wire.Error {
		return cassette.Reply{Error: res.Message.Error.Of(res.Message.Raw)}, nil
	}
	return cassette.Reply{Result: res.Message.Result.Of(res.Message.Raw)}, nil
}
