package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/schema"
)

// What holds where a stage says nothing of its own (see sallyport.StageUpstream).
const (
	DefaultDeadline    = 30 * time.Second
	DefaultMaxResult   = 4 << 20 // bytes
	DefaultMaxInFlight = 64
)

// upstream is one file of upstreams/ with its pins.
type upstream struct {
	id       sallyport.UpstreamID
	pinsPath string
	pins     *Pins // nil if there are none that can be read
	// tools have the upstream's own names. They are nil unless all is well with
	// them.
	tools  []sallyport.Tool
	stages map[sallyport.Stage]sallyport.StageUpstream
}

// Upstream is one upstream before anything is made of its tools: what it takes
// to reach it and pin them.
type Upstream struct {
	ID sallyport.UpstreamID
	// Stages holds all three.
	Stages   map[sallyport.Stage]sallyport.StageUpstream
	PinsPath string // relative to the project directory
	Pins     *Pins  // nil if nobody pinned the upstream yet
	Secrets  SecretRoots
}

// LoadUpstream reads what it takes to reach one upstream: sallyport.yaml and
// upstreams/<id>.yaml. Unlike [Load] it is content without pins, and what is wrong
// elsewhere in the project directory does not matter.
func LoadUpstream(fsys fs, id sallyport.UpstreamID) (*Upstream, Problems) {
	l := &loader{fsys: fsys, upstreams: map[sallyport.UpstreamID]*upstream{}, unpinned: true}
	server := l.server()
	name := "upstreams/" + string(id) + ".yaml"
	if !sallyport.ValidName(string(id)) {
		l.add(Problem{Path: "upstreams", Message: quote(string(id)) + " is no name of an upstream"})
		return nil, l.problems.ordered()
	}
	u := l.upstream(name)
	if u == nil || len(l.problems) > 0 {
		return nil, l.problems.ordered()
	}
	return &Upstream{ID: u.id, Stages: u.stages, PinsPath: u.pinsPath, Pins: u.pins, Secrets: server.Secrets}, nil
}

func (l *loader) readUpstreams() {
	for _, name := range l.list("upstreams", ".yaml", ".yml", ".yaml.txt") {
		id := sallyport.UpstreamID(strings.TrimSuffix(name, ".yaml"))
		l.upstreams[id] = l.upstream(path.Join("upstreams", name))
	}
}

// upstream reads upstreams/<id>.yaml. It is nil if the file has no content that
// could be judged.
func (l *loader) upstream(name string) *upstream {
	var f upstreamFile
	d, exists := l.document(name, &f)
	if !exists {
		l.add(Problem{Path: name, Message: "there is no such file"})
	}
	if d == nil {
		return nil
	}
	defer func() { l.problems = append(l.problems, d.problems...) }()
	if d.root == nil {
		return nil
	}
	id := sallyport.UpstreamID(strings.TrimSuffix(path.Base(name), ".yaml"))
	d.sameName("upstream", string(f.Upstream), string(id))
	u := &upstream{id: id, pinsPath: "upstreams/" + or(f.Pins, string(id)+".pins.json")}
	if f.Pins != "" && !pinsName.MatchString(f.Pins) {
		d.problem(d.value("pins"), "write the name of a file beside this one, as in "+string(id)+".pins.json", "%s cannot hold pins", quote(f.Pins))
		u.pinsPath = ""
	}
	l.readPins(d, u)
	names := u.toolNames()
	d.declared(f.Tools, "tools", names, u.pins != nil)
	l.tools(d, u, f.Tools)
	u.stages = map[sallyport.Stage]sallyport.StageUpstream{}
	for _, stage := range sallyport.Stages {
		s, ok := f.Stages[stage]
		if !ok {
			u.stages[stage] = sallyport.StageUpstream{ID: id, Identity: identity(sallyport.Transport{}), Binding: sallyport.Off}
			continue
		}
		u.stages[stage] = l.stage(d, u, stage, &s, names)
	}
	if len(f.Stages) == 0 && d.root != nil {
		l.notes = append(l.notes, Problem{Path: name, Message: "no stages: every tool is off everywhere"})
	}
	return u
}

var pinsName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\.json$`)

// sameName checks the name in a file against the file's own.
func (d *document) sameName(key, name, file string) {
	switch {
	case !sallyport.ValidName(file):
		d.problem(nil, "use a-z, 0-9 and '-', at most 64 of them, not '-' first", "%s cannot be the name of an %s", quote(file), key)
	case name != "" && name != file:
		d.problem(d.value(key), "write "+key+": "+file+", or rename the file", "%s is %s in a file named %s.yaml", key, quote(name), file)
	}
}

func (u *upstream) toolNames() []string {
	var names []string
	if u.pins != nil {
		for _, raw := range u.pins.Tools {
			names = append(names, toolName(raw))
		}
	}
	return names
}

func toolName(definition json.RawMessage) string {
	var name string
	if json.Unmarshal(member(definition, "name"), &name) != nil {
		return ""
	}
	return name
}

func (l *loader) readPins(d *document, u *upstream) {
	if u.pinsPath == "" {
		return
	}
	b, exists := l.text(u.pinsPath, maxPins)
	if !exists && !l.unpinned {
		d.problem(d.key("pins"), "pin what the upstream offers with: sallyport upstream pin "+string(u.id),
			"there is no file %s, so it is not known which tools the upstream has", u.pinsPath)
	}
	if b == nil {
		return
	}
	pins, err := ParsePins(b)
	if err != nil {
		var ps Problems
		errors.As(err, &ps)
		for _, p := range ps {
			p.Path = u.pinsPath
			l.add(p)
		}
		return
	}
	u.pins = pins
}

// declared checks that the keys of a mapping are pinned tools.
func (d *document) declared(m any, key string, names []string, pinned bool) {
	_ = m
	_ = key
	_ = names
	_ = pinned
}
