package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/config"
	"sallyport/internal/descriptor"
	"sallyport/internal/upstream"
	"sallyport/internal/wire"
)

// UpstreamIDs are the upstreams that the files of a project directory declare,
// by name.
func UpstreamIDs(dir string) ([]sallyport.UpstreamID, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "upstreams"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []sallyport.UpstreamID
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && sallyport.ValidName(name) {
			ids = append(ids, sallyport.UpstreamID(name))
		}
	}
	return ids, nil
}

// LoadUpstream reads one upstream of a project directory. One that no file
// declares is a refusal with code not_found.
func LoadUpstream(dir string, id sallyport.UpstreamID) (*config.Upstream, error) {
	ids, err := UpstreamIDs(dir)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(ids, id) {
		hint := "upstreams/*.yaml declare them; there are none"
		var names []string
		for _, known := range ids {
			names = append(names, string(known))
		}
		if near := sallyport.Nearest(string(id), names); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		} else if len(ids) > 0 {
			hint = fmt.Sprintf("there are: %s", joined(ids))
		}
		return nil, sallyport.Refuse(sallyport.NotFound, fmt.Sprintf("no file of upstreams/ declares an upstream %s", id), hint)
	}
	u, problems := config.LoadUpstream(os.DirFS(dir), id)
	if len(problems) > 0 {
		return nil, problems
	}
	return u, nil
}

func joined[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = string(t)
	}
	return strings.Join(texts, ", ")
}

// secret resolves a reference to a secret within a project directory.
func secret(dir string, roots config.SecretRoots, ref string) (string, error) {
	a := &App{Options: Options{Dir: dir}, Project: &config.Project{Server: config.Server{Secrets: roots}}}
	return roots.Resolve(ref, os.LookupEnv, func(name string) ([]byte, error) {
		_, folder, within, err := a.findSecret(name)
		if err != nil {
			return nil, err
		}
		root, err := os.OpenRoot(folder)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		return root.ReadFile(within)
	})
}

// probe asks an upstream of a project directory, as its files say to reach it in
// a stage, what it is and what it offers.
func probe(ctx context.Context, dir string, u *config.Upstream, stage sallyport.Stage) (upstream.Probed, error) {
	var heard hearing
	s := upstream.NewStage(upstream.Config{
		Stage: stage, Dir: dir, Log: slog.New(&heard), Client: upstream.Implementation{Name: "sallyport", Version: Version},
		Secret: func(ref string) (string, error) { return secret(dir, u.Secrets, ref) },
	})
	of := u.Stages[stage]
	found, err := s.Probe(ctx, &of)
	if u.API != nil {
		found = described(u.API, found.Latency)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	closed := s.Close(closing)
	// What an agent is not told, whoever runs the server wants to know.
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		told := *r
		told.Reason += heard.beyond(r)
		if r.Code != sallyport.UpstreamProtocol {
			told.Hint = fmt.Sprintf("start it, or correct its url, command or credential in upstreams/%s.yaml", u.ID)
		}
		err = &told
	}
	return found, errors.Join(err, closed)
}

// described is what the document of an HTTP API says of it: there is nobody to
// ask.
func described(a *config.API, latency time.Duration) upstream.Probed {
	return upstream.Probed{Version: a.Version, Server: a.Server, Tools: a.Tools, Latency: latency}
}

// hearing is a log that keeps the errors that were logged and the last lines that
// a command wrote to its standard error.
type hearing struct {
	mu     sync.Mutex
	errors []string
	lines  []string
}

const linesHeard = 5

func (h *hearing) Enabled(context.Context, slog.Level) bool { return true }
func (h *hearing) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *hearing) WithGroup(string) slog.Handler            { return h }

func (h *hearing) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch text := a.Value.String(); {
		case a.Key == "error" && !slices.Contains(h.errors, text):
			h.errors = append(h.errors, text)
		case a.Key == "line" && strings.TrimSpace(text) != "":
			if len(h.lines) == linesHeard {
				h.lines = slices.Delete(h.lines, 0, 1)
			}
			h.lines = append(h.lines, text)
		}
		return true
	})
	return nil
}

// beyond is what was heard that a refusal does not say.
func (h *hearing) beyond(r *sallyport.Refusal) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var more string
	for _, text := range h.errors {
		if !strings.Contains(r.Reason+more, text) && !strings.HasSuffix(text, r.Reason) {
			more += ": " + text
		}
	}
	if len(h.lines) > 0 {
		more += "; it wrote:\n  " + strings.Join(h.lines, "\n  ")
	}
	return more
}

// Repin is what an upstream offers beside what it is pinned to, before anything
// is written.
type Repin struct {
	Upstream sallyport.UpstreamID `json:"upstream"`
	Stage    sallyport.Stage      `json:"stage"` // where it was asked
	Path     string               `json:"path"`  // of the pins, in the project directory
	Version  string               `json:"version"`
	// Era is the era it speaks, if the files say another or none: they have to say
	// this one.
	Era string `json:"era,omitempty"`
	// First says that nobody has pinned it before.
	First bool `json:"first"`
	// Moved says that the pins do not say yet that it was pinned where it is reached
	// now.
	Moved bool `json:"moved"`
	// Server says that what it says of itself has changed.
	Server bool        `json:"server_changed"`
	Tools  []ToolRepin `json:"tools"`
	// Review is what the differences mean, absent where nobody has pinned it before, and
	// Findings are what in the definitions looks like an attack.
	Review   []descriptor.Change  `json:"review,omitempty"`
	Findings []descriptor.Finding `json:"findings,omitempty"`
	// Unfit are tools that it offers and that cannot be offered to agents: they are
	// left out, and the others are kept.
	Unfit []UnfitTool `json:"unfit,omitempty"`
	// Changes are what the new pins change for releases and stages, and in which
	// direction, where the project is sound before and after.
	Changes []config.Change `json:"changes,omitempty"`
	// Problems are what the files of the project will have to be corrected for.
	Problems []string `json:"problems,omitempty"`

	dir  string
	pins []byte
	next *config.Pins
}

// ToolRepin is one tool of a Repin.
type ToolRepin struct {
	Name  string `json:"name"`
	State string `json:"state"` // "same", "added", "changed" or "removed"
	// Old and New are its definitions, byte for byte.
	Old json.RawMessage `json:"old,omitempty"`
	New json.RawMessage `json:"new,omitempty"`
}

// UnfitTool is a tool that cannot be offered to agents, and why.
type UnfitTool struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// ProbePins asks an upstream of a project directory what it offers in a stage,
// or, if that is zero, in the lowest one that reaches it. Nothing is written
// before [Repin.Write].
func ProbePins(ctx context.Context, dir string, id sallyport.UpstreamID, stage sallyport.Stage) (*Repin, error) {
	if _, err := LoadUpstream(dir, id); err != nil {
		return nil, err
	}
	return probePins(ctx, os.DirFS(dir), dir, id, stage)
}

// probePins is ProbePins of a project directory whose files are those of fsys.
func probePins(ctx context.Context, fsys fs.FS, dir string, id sallyport.UpstreamID, stage sallyport.Stage) (*Repin, error) {
	u, wrong := config.LoadUpstream(fsys, id)
	if len(wrong) > 0 {
		return nil, wrong
	}
	for _, s := range []sallyport.Stage{sallyport.Staging, sallyport.Production} {
		if of := u.Stages[s]; stage == 0 && !of.Transport.None() {
			stage = s
		}
	}
	of := u.Stages[stage]
	if of.Transport.None() && u.API == nil {
		where := "in no stage"
		if stage != 0 {
			where = "not in " + stage.String()
		}
		return nil, sallyport.Refuse(sallyport.BadConfig, fmt.Sprintf("upstream %s is reached %s, so there is nobody to ask what it offers", id, where),
			fmt.Sprintf("add a url or a command under stages in upstreams/%s.yaml", id))
	}
	var found upstream.Probed
	if u.API != nil {
		found = described(u.API, 0)
	} else if seen, err := probe(ctx, dir, u, stage); err == nil {
		found = seen
	} else {
		var r *sallyport.Refusal
		if !errors.As(err, &r) {
			return nil, fmt.Errorf("asking %s of %s what it offers: %w", id, stage, err)
		}
		told := *r
		told.Reason = fmt.Sprintf("asking %s of %s what it offers: %s", id, stage, r.Reason)
		return nil, &told
	}
	old := u.Pins
	if old == nil {
		old = &config.Pins{}
	}
	unfit := leaveOut(u, &found)
	next := config.Pins{Server: found.Server, Tools: found.Tools, Pinned: maps.Clone(old.Pinned)}
	r := &Repin{Upstream: id, Stage: stage, Path: u.PinsPath, Version: found.Version, First: u.Pins == nil, Unfit: unfit, dir: dir, pins: next.Marshal()}
	// A stage that names no era takes that of the pins: only with the new ones is it
	// known how the upstream will be reached.
	as, problems := config.LoadUpstream(replaced{fsys, u.PinsPath, r.pins}, id)
	at := of
	if len(problems) == 0 {
		at = as.Stages[stage]
	}
	if next.Pinned == nil {
		next.Pinned = map[sallyport.Stage]sallyport.Digest{}
	}
	if !at.Transport.None() {
		next.Pinned[stage] = at.Identity
		r.Moved = old.Pinned[stage] != at.Identity
	}
	r.pins, r.next = next.Marshal(), &next
	// What is written has to be what will be read.
	if _, err := config.ParsePins(r.pins); err != nil {
		return nil, sallyport.Refuse(sallyport.UpstreamProtocol, fmt.Sprintf("what %s says of itself cannot be pinned: %v", id, err), "the server has to be corrected")
	}
	spoken := wire.Version20251125
	if found.Era == wire.Stateless {
		spoken = wire.Version20260728
	}
	if u.API == nil && at.Transport.Era != "" && at.Transport.Era != spoken {
		r.Era = spoken
	}
	r.Server = u.Pins == nil || old.Server.ProtocolVersion != next.Server.ProtocolVersion || old.Server.Instructions != next.Server.Instructions ||
		!bytes.Equal(old.Server.Capabilities, next.Server.Capabilities) || !bytes.Equal(old.Server.ServerInfo, next.Server.ServerInfo)
	r.Tools = compareTools(old.Tools, next.Tools)
	if err := r.review(u, old, &next); err != nil {
		return nil, err
	}
	r.consequences()
	return r, nil
}

// review says what the differences mean and what looks like an attack.
func (r *Repin) review(u *config.Upstream, old, next *config.Pins) error {
	reads := map[string]bool{}
	for i := range u.Tools {
		reads[u.Tools[i].UpstreamName] = u.Tools[i].Access == sallyport.Read
	}
	set := func(p *config.Pins) *descriptor.Set {
		s := &descriptor.Set{Upstream: u.ID, Instructions: p.Server.Instructions}
		for _, d := range p.Tools {
			s.Tools = append(s.Tools, descriptor.Tool{Definition: d, Reads: reads[toolName(d)]})
		}
		return s
	}
	others, err := pinnedBeside(r.dir, u.ID)
	if err != nil {
		return err
	}
	if r.Findings, err = descriptor.Check(set(next), others...); err != nil || r.First {
		return err
	}
	r.Review, err = descriptor.Compare(set(old), set(next))
	return err
}

// pinnedBeside are the pinned tools of all upstreams of a project directory but one. What
// is wrong with their files is for doctor to say.
func pinnedBeside(dir string, id sallyport.UpstreamID) ([]descriptor.Set, error) {
	ids, err := UpstreamIDs(dir)
	if err != nil {
		return nil, err
	}
	var all []descriptor.Set
	for _, other := range ids {
		u, problems := config.LoadUpstream(os.DirFS(dir), other)
		if other == id || len(problems) > 0 || u.Pins == nil {
			continue
		}
		s := descriptor.Set{Upstream: other}
		for _, d := range u.Pins.Tools {
			s.Tools = append(s.Tools, descriptor.Tool{Definition: d})
		}
		all = append(all, s)
	}
	return all, nil
}

// Grave says why nobody should pin the upstream without having read every word; "" if
// nothing speaks for that.
func (r *Repin) Grave() string {
	dangerous := 0
	for i := range r.Review {
		if r.Review[i].Effect == descriptor.Dangerous {
			dangerous++
		}
	}
	high := 0
	for i := range r.Findings {
		if r.Findings[i].Severity == descriptor.High {
			high++
		}
	}
	var why []string
	if dangerous > 0 {
		why = append(why, Count(dangerous, "dangerous change"))
	}
	if high > 0 && !r.Same() {
		why = append(why, Count(high, "grave finding"))
	}
	return strings.Join(why, " and ")
}

// leaveOut takes the tools that cannot be offered to agents out of what an upstream
// offers.
func leaveOut(u *config.Upstream, found *upstream.Probed) (unfit []UnfitTool) {
	if u.API != nil {
		return nil // what its document cannot be made of was said of the files
	}
	found.Tools = slices.DeleteFunc(found.Tools, func(definition json.RawMessage) bool {
		err := config.Unfit(definition)
		if err != nil {
			unfit = append(unfit, UnfitTool{toolName(definition), err.Error()})
		}
		return err != nil
	})
	return unfit
}

// compareTools lists tools by name with how each differs. Definitions that are
// the same value are the same, however they are written.
func compareTools(old, next []json.RawMessage) []ToolRepin {
	byName := map[string]*ToolRepin{}
	of := func(definition json.RawMessage) *ToolRepin {
		name := toolName(definition)
		if byName[name] == nil {
			byName[name] = &ToolRepin{Name: name}
		}
		return byName[name]
	}
	for _, d := range old {
		of(d).Old = d
	}
	for _, d := range next {
		of(d).New = d
	}
	list := make([]ToolRepin, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		t := byName[name]
		switch {
		case t.Old == nil:
			t.State = "added"
		case t.New == nil:
			t.State = "removed"
		case sameValue(t.Old, t.New):
			t.State = "same"
		default:
			t.State = "changed"
		}
		list = append(list, *t)
	}
	return list
}

func toolName(definition json.RawMessage) string {
	// A map, because a struct would also take other spellings of the name.
	var members map[string]json.RawMessage
	var name string
	if json.Unmarshal(definition, &members) != nil || json.Unmarshal(members["name"], &name) != nil {
		return ""
	}
	return name
}

func sameValue(a, b json.RawMessage) bool {
	same, err := canonical.Equal(a, b)
	return err == nil && same
}

// consequences are what the project becomes with the new pins.
func (r *Repin) consequences() {
	after, problems := config.Load(replaced{os.DirFS(r.dir), r.Path, r.pins})
	for _, p := range problems {
		r.Problems = append(r.Problems, p.String())
	}
	before, unsound := config.Load(os.DirFS(r.dir))
	if len(problems) == 0 && len(unsound) == 0 {
		r.Changes = config.Diff(before.Versions(), after.Versions())
	}
}

// Same reports whether there is nothing to write.
func (r *Repin) Same() bool {
	return !r.Server && !r.Moved && !slices.ContainsFunc(r.Tools, func(t ToolRepin) bool { return t.State != "same" })
}

// Loosens reports whether the new pins may let more happen than before.
func (r *Repin) Loosens() bool {
	return slices.ContainsFunc(r.Changes, func(c config.Change) bool { return c.Direction.Loosening() })
}

// Write pins the upstream to what it offered, in one step.
func (r *Repin) Write() error {
	path := filepath.Join(r.dir, filepath.FromSlash(r.Path))
	next := path + ".new"
	if err := os.WriteFile(next, r.pins, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// replaced is a file system in which one file has other content.
type replaced struct {
	fs.FS
	name string
	text []byte
}

func (f replaced) Open(name string) (fs.File, error) {
	if name != f.name {
		return f.FS.Open(name)
	}
	return &textFile{Reader: bytes.NewReader(f.text), name: name, size: int64(len(f.text))}, nil
}

type textFile struct {
	io.Reader
	name string
	size int64
}

func (f *textFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *textFile) Close() error               { return nil }
func (f *textFile) Name() string               { return filepath.Base(f.name) }
func (f *textFile) Size() int64                { return f.size }
func (f *textFile) Mode() fs.FileMode          { return 0o444 }
func (f *textFile) ModTime() time.Time         { return time.Time{} }
func (f *textFile) IsDir() bool                { return false }
func (f *textFile) Sys() any                   { return nil }

// UpstreamSeen is an upstream as the files of a project directory have it.
type UpstreamSeen struct {
	ID     sallyport.UpstreamID                        `json:"id"`
	Stages map[sallyport.Stage]sallyport.StageUpstream `json:"stages"`
	Pins   string                                      `json:"pins"` // path of the file
	// Server is nil and Tools are none while nobody has pinned it.
	Server *sallyport.PinnedServer `json:"server,omitempty"`
	Tools  []ToolSeen              `json:"tools"`
	// Agents are those that have tools of it.
	Agents   []sallyport.AgentID `json:"agents"`
	Problems []string            `json:"problems,omitempty"`
}

// ToolSeen is a pinned tool with what people declared of it.
type ToolSeen struct {
	Name      string                       `json:"name"`
	Digest    sallyport.Digest             `json:"digest"`
	Access    sallyport.Access             `json:"access"`
	DataClass sallyport.Confidentiality    `json:"data_class"`
	Integrity sallyport.Integrity          `json:"integrity"`
	Args      map[string]sallyport.ArgKind `json:"args,omitempty"`
	Bindings  map[string]sallyport.Binding `json:"bindings"` // by stage
	Says      string                       `json:"says,omitempty"`
	Agents    []sallyport.AgentID          `json:"agents,omitempty"`
}

// SeeUpstreams reads the upstreams of a project directory: those named, or all.
func SeeUpstreams(dir string, ids ...sallyport.UpstreamID) ([]UpstreamSeen, error) {
	if len(ids) == 0 {
		var err error
		if ids, err = UpstreamIDs(dir); err != nil {
			return nil, err
		}
	}
	// What is wrong elsewhere in the project is for doctor and diff to say.
	project, _ := config.Load(os.DirFS(dir))
	list := make([]UpstreamSeen, 0, len(ids))
	for _, id := range ids {
		u, err := LoadUpstream(dir, id)
		var problems config.Problems
		if errors.As(err, &problems) {
			list = append(list, UpstreamSeen{ID: id, Problems: []string{problems.Error()}})
			continue
		}
		if err != nil {
			return nil, err
		}
		seen := UpstreamSeen{ID: id, Stages: u.Stages, Pins: u.PinsPath, Tools: []ToolSeen{}, Agents: []sallyport.AgentID{}}
		if u.Pins != nil {
			seen.Server = &u.Pins.Server
		}
		for i := range u.Tools {
			seen.Tools = append(seen.Tools, toolSeen(u, &u.Tools[i]))
		}
		if project != nil {
			seen.used(project)
		}
		list = append(list, seen)
	}
	return list, nil
}

func toolSeen(u *config.Upstream, of *sallyport.Tool) ToolSeen {
	t := ToolSeen{
		Name: of.UpstreamName, Digest: of.Digest, Access: of.Access, DataClass: of.DataClass, Integrity: of.Integrity, Args: of.ArgKinds,
		Bindings: map[string]sallyport.Binding{},
	}
	for _, stage := range sallyport.Stages {
		in := u.Stages[stage]
		t.Bindings[stage.String()] = in.BindingOf(t.Name)
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(of.Definition, &members) == nil {
		_ = json.Unmarshal(members["description"], &t.Says) // without one it says nothing
	}
	return t
}

// used adds the agents that have tools of the upstream.
func (u *UpstreamSeen) used(p *config.Project) {
	for _, r := range p.Releases {
		for i := range r.Tools {
			at := slices.IndexFunc(u.Tools, func(t ToolSeen) bool { return r.Tools[i].Upstream == u.ID && t.Name == r.Tools[i].UpstreamName })
			if at < 0 {
				continue
			}
			u.Tools[at].Agents = append(u.Tools[at].Agents, r.Agent)
			if !slices.Contains(u.Agents, r.Agent) {
				u.Agents = append(u.Agents, r.Agent)
			}
		}
	}
}
