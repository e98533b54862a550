package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/cassette"
	"sallyport/internal/config"
	"sallyport/internal/draft"
	"sallyport/internal/sandbox"
	"sallyport/internal/wire"
)

// toolsDigest is over the definitions of an upstream's tools, whatever their order: a
// recording says which it was made with.
func toolsDigest(tools []json.RawMessage) (sallyport.Digest, error) {
	forms := make([]string, len(tools))
	for i, t := range tools {
		form, err := canonical.JSON(t)
		if err != nil {
			return "", err
		}
		forms[i] = string(form)
	}
	slices.Sort(forms)
	return sallyport.Digest(canonical.SumBytes([]byte("[" + strings.Join(forms, ",") + "]"))), nil
}

// pinnedUpstream is one that people have pinned.
func pinnedUpstream(dir string, id sallyport.UpstreamID) (*config.Upstream, error) {
	u, err := LoadUpstream(dir, id)
	if err != nil {
		return nil, err
	}
	if u.Pins == nil && u.API == nil {
		return nil, sallyport.Refuse(sallyport.NotFound, fmt.Sprintf("nobody has pinned upstream %s, so it is not known which tools it has", id), "sallyport upstream pin "+string(id))
	}
	return u, nil
}

// recording is a cassette that a world is held against.
type recording struct {
	file string // as it was named
	*cassette.Cassette
}

// readRecording finds a cassette by its path, or by its name in worlds/cassettes.
func readRecording(dir, name string) (*recording, error) {
	var data []byte
	err := fs.ErrNotExist
	for _, path := range []string{name, filepath.Join(dir, name), filepath.Join(dir, "worlds", "cassettes", name)} {
		if data, err = os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sallyport.Refuse(sallyport.NotFound, "there is no recording "+name, "name a file, or one of worlds/cassettes; sallyport world record makes them")
	}
	if err != nil {
		return nil, err
	}
	c, err := cassette.Parse(data, cassette.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &recording{name, c}, nil
}

// inMemory is where a world that is being tried comes from.
type inMemory struct {
	def   *sallyport.WorldDefinition
	files map[string][]byte
}

func (m inMemory) World(context.Context, sallyport.Digest) (*sallyport.WorldDefinition, map[string][]byte, error) {
	return m.def, m.files, nil
}

func (m inMemory) Simulated(context.Context, sallyport.RunID, sallyport.Digest, int, int) ([]sallyport.PastCall, error) {
	return nil, nil
}

// replayed is a recorded call as a world answers it.
type replayed struct {
	call     *cassette.Call
	fidelity cassette.Fidelity
	known    bool   // a rule answered
	gap      string // why none did
	was, is  []byte // the recorded answer, with the ids of this run, and the world's
}

// rehearsal replays recordings through the twin of a world, and through nothing else
// of it: what a cassette answers would be held against itself.
type rehearsal struct {
	worlds *sandbox.Worlds
	ref    sallyport.WorldRef
	tools  map[string]*sallyport.Tool
	rules  cassette.Rules
	runs   int
	seed   uint64
}

func newRehearsal(def *sallyport.WorldDefinition, files map[string][]byte, tools []sallyport.Tool, seed uint64) (*rehearsal, error) {
	r := &rehearsal{tools: map[string]*sallyport.Tool{}, ref: sallyport.WorldRef{Name: def.Name, Digest: "rehearsal"}, seed: seed}
	if len(def.Match) > 0 {
		if err := json.Unmarshal(def.Match, &r.rules); err != nil {
			return nil, fmt.Errorf("match of world %s: %w", def.Name, err)
		}
	}
	alone := *def
	alone.Cassettes, alone.Match, alone.Faults, alone.Fallback = nil, nil, nil, sallyport.FallbackRefuse
	if err := sandbox.Check(&alone, files); err != nil {
		return nil, err
	}
	r.worlds = sandbox.New(sandbox.Config{Source: inMemory{&alone, files}, Now: time.Now})
	for i := range tools {
		r.tools[tools[i].UpstreamName] = &tools[i]
	}
	return r, nil
}

// play replays one recording in a run of its own.
func (r *rehearsal) play(ctx context.Context, c *cassette.Cassette) ([]replayed, error) {
	deck, err := cassette.NewDeck(c, r.rules, nil)
	if err != nil {
		return nil, err
	}
	r.runs++
	run := sallyport.RunID("rehearsal-" + strconv.Itoa(r.runs))
	player, ids := cassette.NewPlayer(deck, cassette.Options{}), newAlignment()
	out := make([]replayed, len(c.Calls))
	for i := range c.Calls {
		call := &c.Calls[i]
		one := replayed{call: call}
		tool := r.tools[call.Tool]
		if tool == nil {
			tool = &sallyport.Tool{UpstreamName: call.Tool, Name: call.Tool}
		}
		args := ids.rewritten(player.Live(call.Arguments))
		answer, err := r.worlds.Answer(ctx, &sallyport.Simulated{
			World: r.ref, Tool: tool, Args: args, Era: eraOf(call), Run: run, Seed: r.seed, Number: i,
		})
		var refused *sallyport.Refusal
		switch {
		case errors.As(err, &refused):
			// It agrees in nothing: what no rule answers is held against no answer.
			one.gap = refused.Reason
			if one.fidelity, err = deck.Compare(call.Tool, cassette.Reply{Result: call.Result, Error: call.Error}, cassette.Reply{Error: []byte("{}")}); err != nil {
				return nil, fmt.Errorf("call %d: %w", call.Seq, err)
			}
			if one.fidelity.Agree, one.fidelity.Status = 0, false; one.fidelity.Leaves == 0 {
				one.fidelity.Leaves = 1
			}
			out[i] = one
			continue
		case err != nil:
			return nil, err
		}
		one.known = true
		if answer.Error == nil {
			if err := player.Align(call.Seq, answer.Result); err != nil {
				return nil, err
			}
		}
		ids.saw(call.Arguments, args)
		was := cassette.Reply{Result: player.Live(call.Result), Error: call.Error}
		if call.Access != sallyport.Read {
			ids.learn(was.Result, answer.Result)
		}
		was.Result = ids.rewritten(was.Result)
		ids.saw(call.Result, answer.Result)
		if one.fidelity, err = deck.Compare(call.Tool, was, cassette.Reply{Result: answer.Result, Error: answer.Error}); err != nil {
			return nil, fmt.Errorf("call %d: %w", call.Seq, err)
		}
		one.was, one.is = was.Result, answer.Result
		if one.was == nil {
			one.was = was.Error
		}
		out[i] = one
	}
	return out, nil
}

// eraOf is the era whose results a recorded one is of.
func eraOf(c *cassette.Call) wire.Era {
	if _, ok, err := wire.Field(c.Result, "resultType"); err == nil && ok && c.Result != nil {
		return wire.Stateless
	}
	return wire.Sessions
}

// DraftOptions say what a world is drafted from.
type DraftOptions struct {
	Dir, Name string
	From      sallyport.UpstreamID
	Cassettes []string // files, or names in worlds/cassettes
	Threshold float64  // 0 for the default
	Force     bool     // write over what is there
}

// DraftedWorld is what was drafted.
type DraftedWorld struct {
	World     string               `json:"world"`
	Upstream  sallyport.UpstreamID `json:"upstream"`
	Files     []string             `json:"files"` // that were written, in the project directory
	Cassettes []string             `json:"cassettes"`
	Threshold float64              `json:"threshold"`
	Findings  []draft.Finding      `json:"findings"`
	// Problems are what the project has to be corrected for before the world answers.
	Problems []string `json:"problems,omitempty"`
}

// DraftWorld writes worlds/<name>.yaml and its data.
func DraftWorld(ctx context.Context, o DraftOptions) (*DraftedWorld, error) {
	if !sallyport.ValidName(o.Name) {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%q is no name of a world", o.Name), "use a-z, 0-9 and '-'")
	}
	u, err := pinnedUpstream(o.Dir, o.From)
	if err != nil {
		return nil, err
	}
	in := draft.Input{World: o.Name, Upstream: o.From, Tools: u.Tools, Threshold: o.Threshold}
	var recordings []*recording
	kept := filepath.Join(o.Dir, "worlds", "cassettes")
	for _, name := range o.Cassettes {
		c, err := readRecording(o.Dir, name)
		if err != nil {
			return nil, err
		}
		if c.Header.Upstream != o.From {
			return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("%s was recorded of upstream %s, not of %s", name, c.Header.Upstream, o.From), "name recordings of that upstream, or draft from the other one")
		}
		recordings = append(recordings, c)
		s := draft.Session{Name: name}
		for _, call := range c.Calls {
			s.Calls = append(s.Calls, draft.Call{Tool: call.Tool, Args: call.Arguments, Result: call.Result, IsError: call.IsError})
		}
		in.Sessions = append(in.Sessions, s)
		// Only what lies there can be named by a world.
		if info, err := os.Stat(filepath.Join(kept, filepath.Base(name))); err == nil && info.Mode().IsRegular() {
			in.Cassettes = append(in.Cassettes, filepath.Base(name))
		}
	}
	trial := func(definition []byte, files map[string][]byte) ([][]draft.Verdict, error) {
		r, err := newRehearsal(&sallyport.WorldDefinition{Name: o.Name, Twin: definition}, files, u.Tools, 1)
		if err != nil {
			return nil, err
		}
		var out [][]draft.Verdict
		for _, c := range recordings {
			calls, err := r.play(ctx, c.Cassette)
			if err != nil {
				return nil, err
			}
			verdicts := make([]draft.Verdict, len(calls))
			for i, one := range calls {
				f := &one.fidelity
				verdicts[i] = draft.Verdict{Known: one.known, Status: f.Status, Shape: f.Shape, Same: one.known && f.Same()}
				if n := f.Leaves + f.Extra; n > 0 {
					verdicts[i].Value = float64(f.Agree) / float64(n)
				}
			}
			out = append(out, verdicts)
		}
		return out, ctx.Err()
	}
	d, err := draft.New(in, trial)
	if err != nil {
		return nil, err
	}
	out := &DraftedWorld{World: o.Name, Upstream: o.From, Findings: d.Findings, Threshold: o.Threshold, Cassettes: in.Cassettes}
	if out.Threshold == 0 {
		out.Threshold = draft.Threshold
	}
	if out.Cassettes == nil {
		out.Cassettes = []string{}
	}
	files := map[string][]byte{filepath.Join("worlds", o.Name+".yaml"): d.Text}
	for name, data := range d.Files {
		files[filepath.Join("worlds", "data", name)] = data
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(o.Dir, name)); err == nil && !o.Force {
			return nil, sallyport.Refuse(sallyport.Conflict, name+" is there already, and somebody may have worked on it", "choose another name, or write over it with --force")
		}
	}
	for _, name := range names {
		if err := writeWhole(filepath.Join(o.Dir, name), files[name]); err != nil {
			return nil, err
		}
		out.Files = append(out.Files, filepath.ToSlash(name))
	}
	if _, _, problems := config.LoadWorld(os.DirFS(o.Dir), o.Name, u.Tools); len(problems) > 0 {
		for _, p := range problems {
			out.Problems = append(out.Problems, p.String())
		}
	}
	return out, nil
}

// writeWhole writes a file so that it is there whole or not at all.
func writeWhole(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// VerifyWorldOptions say what a world is held against.
type VerifyWorldOptions struct {
	Dir, Name string
	Cassettes []string // none: those of the world
	Seed      uint64
	Now       time.Time
	// Live, if not nil, asks the real system in staging: see [Rival].
	Live *Rival
}

// Fidelity is how well a world answers what was recorded, tool by tool.
type Fidelity struct {
	World      string           `json:"world"`
	Digest     sallyport.Digest `json:"digest"` // of the definition and its files
	Recordings []FidelityOf     `json:"recordings"`
	Tools      []ToolFidelity   `json:"tools"`
	Total      ToolFidelity     `json:"total"`
	// Evidence says that every recording is sealed.
	Evidence bool `json:"evidence"`
	// Against are read tools as a real system answers them now.
	Against []ToolFidelity `json:"against,omitempty"`
}

// FidelityOf is one recording that a world was held against.
type FidelityOf struct {
	File     string               `json:"file"`
	Upstream sallyport.UpstreamID `json:"upstream"`
	Recorded time.Time            `json:"recorded"`
	Age      float64              `json:"age_days"`
	Calls    int                  `json:"calls"`
	Sealed   bool                 `json:"sealed"`
	// Drift says that the upstream has other tools now than when it was recorded.
	Drift bool `json:"drift"`
	// Of all Leaves that were recorded, Live are those that could not have been another
	// without anyone noticing: the others are ignored or tolerated by a rule of the world.
	Leaves int `json:"leaves"`
	Live   int `json:"live"`
}

// ToolFidelity is how well one tool is answered. Shares are from 0 to 1.
type ToolFidelity struct {
	Tool     string  `json:"tool"`
	Calls    int     `json:"calls"`
	Answered int     `json:"answered"` // by a rule
	Same     int     `json:"same"`     // calls in which nothing differs
	Status   float64 `json:"status"`   // share of calls that succeed or fail as recorded
	Shape    float64 `json:"shape"`    // share of calls with the same members
	Value    float64 `json:"value"`    // share of the leaves, recorded and now
	// Effect is the share of Observed changes after which all that was read before the
	// next change was read as recorded. Changes that nothing recorded looks at count in
	// neither.
	Effect   float64     `json:"effect"`
	Observed int         `json:"observed"`
	First    *Divergence `json:"first,omitempty"`
	Age      float64     `json:"age_days"` // of the oldest recording

	agree, leaves, effects int
}

// Divergence is where an answer first differs from the recorded one.
type Divergence struct {
	File    string `json:"file"`
	Call    int    `json:"call"`
	Pointer string `json:"pointer"` // into the result
	Kind    string `json:"kind"`
	// Recorded and Got are what stands there, shortened.
	Recorded string `json:"recorded,omitempty"`
	Got      string `json:"got,omitempty"`
}

// count adds one call to a tool.
func (t *ToolFidelity) count(one *replayed) {
	t.Calls++
	t.leaves += one.fidelity.Leaves + one.fidelity.Extra
	if !one.known {
		return
	}
	t.Answered++
	t.agree += one.fidelity.Agree
	if one.fidelity.Status {
		t.Status++
	}
	if one.fidelity.Shape {
		t.Shape++
	}
	if one.fidelity.Same() {
		t.Same++
	}
}

func (t *ToolFidelity) finish() {
	share := func(part float64, of int) float64 {
		if of == 0 {
			return 1
		}
		return float64(int(part/float64(of)*10000)) / 10000 // rounded down: 1 is all of them
	}
	t.Value = share(float64(t.agree), t.leaves)
	t.Status, t.Shape = share(t.Status, t.Calls), share(t.Shape, t.Calls)
	t.Effect = share(float64(t.effects), t.Observed)
}

// VerifyWorld replays recordings through a world's twin.
func VerifyWorld(ctx context.Context, o VerifyWorldOptions) (*Fidelity, error) {
	def, files, problems := config.LoadWorld(os.DirFS(o.Dir), o.Name, nil)
	if len(problems) > 0 {
		return nil, problems
	}
	names := o.Cassettes
	if len(names) == 0 {
		names = def.Cassettes
	}
	if len(names) == 0 && o.Live == nil {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("world %s names no recordings, so there is nothing to hold it against", o.Name), "name some with --cassette; sallyport world record makes them")
	}
	if len(def.Twin) == 0 {
		return nil, sallyport.Refuse(sallyport.BadRequest, fmt.Sprintf("world %s has no twin: it answers from recordings alone, and would be held against itself", o.Name), "draft one: sallyport world init NAME --from UPSTREAM --cassette FILE")
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	body, err := json.Marshal(def)
	if err != nil {
		return nil, err
	}
	out := &Fidelity{World: o.Name, Digest: sallyport.Digest(canonical.SumBytes(body)), Evidence: len(names) > 0, Recordings: []FidelityOf{}, Tools: []ToolFidelity{}, Total: ToolFidelity{Tool: "total"}}
	tools := map[string]*ToolFidelity{}
	tool := func(name string) *ToolFidelity {
		if tools[name] == nil {
			tools[name] = &ToolFidelity{Tool: name}
		}
		return tools[name]
	}
	upstreams := map[sallyport.UpstreamID]*config.Upstream{}
	for _, name := range names {
		c, err := readRecording(o.Dir, name)
		if err != nil {
			return nil, err
		}
		u, known := upstreams[c.Header.Upstream]
		if !known {
			if u, err = LoadUpstream(o.Dir, c.Header.Upstream); err != nil {
				u = nil // a world may outlive its upstream
			}
			upstreams[c.Header.Upstream] = u
		}
		var definitions []sallyport.Tool
		of := FidelityOf{File: c.file, Upstream: c.Header.Upstream, Recorded: c.Header.Recorded, Calls: len(c.Calls), Sealed: c.Sealed != "", Age: days(o.Now.Sub(c.Header.Recorded))}
		if u != nil {
			definitions = u.Tools
			if u.Pins != nil {
				now, err := toolsDigest(u.Pins.Tools)
				of.Drift = err != nil || now != c.Header.Tools
			}
		}
		r, err := newRehearsal(def, files, definitions, o.Seed)
		if err != nil {
			return nil, err
		}
		asserted, err := cassette.Liveness(c.Cassette, r.rules)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		of.Leaves, of.Live = asserted.Total, asserted.Live
		out.Recordings = append(out.Recordings, of)
		out.Evidence = out.Evidence && of.Sealed
		calls, err := r.play(ctx, c.Cassette)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for i := range calls {
			one := &calls[i]
			for _, t := range []*ToolFidelity{tool(one.call.Tool), &out.Total} {
				t.count(one)
				t.Age = max(t.Age, of.Age)
				if t.First == nil && (!one.known || !one.fidelity.Same()) {
					t.First = one.divergence(c.file)
				}
			}
		}
		effects(calls, func(name string, agreed bool) {
			for _, t := range []*ToolFidelity{tool(name), &out.Total} {
				t.Observed++
				if agreed {
					t.effects++
				}
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(tools)) {
		tools[name].finish()
		out.Tools = append(out.Tools, *tools[name])
	}
	out.Total.finish()
	if o.Live != nil {
		if out.Against, err = o.Live.compare(ctx, def, files, o); err != nil {
			return out, err
		}
	}
	return out, nil
}

func days(d time.Duration) float64 { return float64(int(d.Hours()/24*10)) / 10 }

// effects says of each change that reads look at, before the next change, whether they
// all agree.
func effects(calls []replayed, say func(tool string, agreed bool)) {
	for i := range calls {
		if calls[i].call.Access == sallyport.Read {
			continue
		}
		observed, agreed := false, calls[i].known && calls[i].fidelity.Status
		for j := i + 1; j < len(calls) && calls[j].call.Access == sallyport.Read; j++ {
			if !calls[j].known {
				continue // what no rule answers shows nothing of the state
			}
			observed = true
			agreed = agreed && calls[j].fidelity.Same()
		}
		if observed {
			say(calls[i].call.Tool, agreed)
		}
	}
}

// divergence is where the answer differs first.
func (one *replayed) divergence(file string) *Divergence {
	if !one.known {
		return &Divergence{File: file, Call: one.call.Seq, Kind: "no rule", Got: shortened(one.gap)}
	}
	d := &Divergence{File: file, Call: one.call.Seq, Pointer: one.fidelity.First, Kind: one.fidelity.Kind.String()}
	at := d.Pointer
	if one.fidelity.Kind == cassette.OtherStatus {
		at = "/content/0/text"
	}
	d.Recorded, d.Got = valueAt(one.was, at), valueAt(one.is, at)
	return d
}

// valueAt is what stands at a place of a document, shortened. The step ~json opens a
// string that holds JSON.
func valueAt(raw []byte, pointer string) string {
	v := valueOf(raw)
	for _, step := range strings.Split(pointer, "/")[1:] {
		switch at := v.(type) {
		case map[string]any:
			v = at[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return ""
			}
			v = at[i]
		case string:
			if v = opened(at); step != "~json" {
				return ""
			}
		default:
			return ""
		}
	}
	if v == nil {
		return ""
	}
	text, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return shortened(string(text))
}

const mostShown = 120

func shortened(text string) string {
	if r := []rune(text); len(r) > mostShown {
		return string(r[:mostShown]) + "…"
	}
	return text
}
