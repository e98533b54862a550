package cassette

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/wire"
)

// Tier is how close a call came to the recording that answered it.
type Tier uint8

// The tiers, closest first.
const (
	Exact     Tier = iota + 1 // T0: equal arguments
	Bounded                   // T1: but for what is ignored, and for ids
	Tolerated                 // T2: within tolerances
	Nearest                   // T3: the nearest there is; never evidence
)

// String returns T0 to T3.
func (t Tier) String() string {
	if t < Exact || t > Nearest {
		return "unknown"
	}
	return "T" + strconv.Itoa(int(t-Exact))
}

// Deck is a cassette that is ready to answer. It does not change: all runs share it.
type Deck struct {
	cassette  *Cassette
	calls     []*node // the arguments of each call
	arguments *ruleset
	results   *ruleset
	classes   map[string]*Classes
	byTool    map[string]*tool
	index     map[key][]int32 // calls, in order
	exports   map[int][]string
	ignored   Share
}

// tool is what is known of the calls of one tool.
type tool struct {
	rules    []*branch[rule]
	calls    []int32
	bound    map[string]bool // pointers at which a recorded call has an id of an earlier one
	ignores  bool
	tolerant bool
}

// key is a digest of a tool's name, a tier and arguments in the form of that tier.
type key [sha256.Size]byte

func keyOf(tool string, tier Tier, args []byte) key {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %s", tier, len(tool), tool)
	h.Write(args)
	return key(h.Sum(nil))
}

// Share is a part of the leaves.
type Share struct{ Part, Of int }

// Value is the share from 0 to 1.
func (s Share) Value() float64 {
	if s.Of == 0 {
		return 0
	}
	return float64(s.Part) / float64(s.Of)
}

// NewDeck makes a cassette ready. It is an error if a rule is none, or if more of the
// recorded leaves are ignored than may be. The classes, by tool, say which values a
// [Miss] must not show; there need not be any.
func NewDeck(c *Cassette, rules Rules, classes map[string]*Classes) (*Deck, error) {
	d, most, err := newDeck(c, rules, classes)
	if err != nil {
		return nil, err
	}
	if d.ignored.Value() > most {
		return nil, fmt.Errorf("cassette rules: %d of %d recorded leaves (%.0f %%) are ignored, %.0f %% may be; ignore less, or tolerate what has a form",
			d.ignored.Part, d.ignored.Of, 100*d.ignored.Value(), 100*most)
	}
	return d, nil
}

func newDeck(c *Cassette, rules Rules, classes map[string]*Classes) (*Deck, float64, error) {
	d := &Deck{
		cassette: c, classes: maps.Clone(classes), byTool: map[string]*tool{},
		index: map[key][]int32{}, exports: map[int][]string{},
	}
	var most float64
	var err error
	if d.arguments, d.results, most, err = rules.compile(); err != nil {
		return nil, 0, fmt.Errorf("cassette rules: %w", err)
	}
	for i := range c.Calls {
		call := &c.Calls[i]
		args, err := parse(call.Arguments, MaxDepth)
		if err != nil {
			return nil, 0, fmt.Errorf("recorded arguments of call %d: %w", call.Seq, err)
		}
		d.calls = append(d.calls, args)
		t := d.byTool[call.Tool]
		if t == nil {
			t = &tool{rules: d.arguments.of(call.Tool), bound: map[string]bool{}}
			for _, b := range t.rules {
				b.each(func(r *rule) {
					t.ignores = t.ignores || r.what == ignored
					t.tolerant = t.tolerant || r.what != ignored
				})
			}
			d.byTool[call.Tool] = t
		}
		t.calls = append(t.calls, int32(i))
		for _, b := range call.Bound {
			t.bound[b.At] = true
			if !slices.Contains(d.exports[b.Seq], b.From) {
				d.exports[b.Seq] = append(d.exports[b.Seq], b.From)
			}
		}
		for _, tier := range t.tiers() {
			k := t.key(call.Tool, tier, args)
			if list := d.index[k]; len(list) == 0 || list[len(list)-1] != int32(i) {
				d.index[k] = append(list, int32(i))
			}
		}
		part, of := share(args, t.rules)
		d.ignored.Part, d.ignored.Of = d.ignored.Part+part, d.ignored.Of+of
	}
	return d, most, nil
}

// Ignored is how many of the recorded leaves of arguments are not looked at.
func (d *Deck) Ignored() Share { return d.ignored }

// share counts the ignored leaves, and all.
func share(n *node, rules []*branch[rule]) (part, of int) {
	if r := said(rules); r != nil && r.what == ignored {
		return n.leaves(), n.leaves()
	}
	if n.isLeaf() || len(rules) == 0 {
		return 0, n.leaves()
	}
	for i, item := range n.items {
		p, o := share(item, along(rules, n.step(i)))
		part, of = part+p, of+o
	}
	return part, of
}

// tiers are those at which a call of the tool may be answered by what fits.
func (t *tool) tiers() []Tier {
	if t.tolerant {
		return []Tier{Exact, Bounded, Tolerated}
	}
	return []Tier{Exact, Bounded}
}

// key is that of all recordings that may answer at a tier.
func (t *tool) key(name string, tier Tier, args *node) key {
	if tier == Exact || tier == Bounded && !t.ignores {
		return keyOf(name, Exact, args.raw)
	}
	return keyOf(name, tier, appendNormal(nil, args, t.rules, tier == Tolerated))
}

// Options of a [Player].
type Options struct {
	// Explore lets the nearest recording answer where none fits.
	Explore bool
}

// Player is what one run has of its own. It is for one at a time.
type Player struct {
	deck    *Deck
	options Options
	used    []uint64          // a bit for each call that has answered
	cursor  map[key]int       // in a list of calls: all before have answered
	live    map[string]string // by recorded id: the one of this run
	taped   map[string]string // the other way round
}

// NewPlayer begins a run.
func NewPlayer(d *Deck, o Options) *Player {
	return &Player{
		deck: d, options: o, used: make([]uint64, (len(d.calls)+63)/64),
		cursor: map[key]int{}, live: map[string]string{}, taped: map[string]string{},
	}
}

// Answer is what a recording answers.
type Answer struct {
	Result  []byte // of the tools/call; nil if Error is set
	Error   []byte // the JSON-RPC error object
	Tier    Tier
	Seq     int  // of the recording
	Repeat  bool // a read, that this recording has answered before
	Latency time.Duration
	// Evidence is false of what the tier Nearest answers, and of all that a cassette
	// without a seal does.
	Evidence bool
}

// Next answers a call. Args are the arguments, an object, or nothing. The error is a
// *Miss, or a *sallyport.Refusal with code InvalidArguments. Neither changes the run.
func (p *Player) Next(toolName string, args []byte) (Answer, error) {
	at, tier, err := p.find(toolName, args, p.options.Explore)
	if err != nil {
		return Answer{}, err
	}
	call := &p.deck.cassette.Calls[at]
	a := Answer{
		Result: p.Live(call.Result), Error: p.Live(call.Error), Tier: tier, Seq: call.Seq, Repeat: p.has(at),
		Latency: call.Latency, Evidence: tier != Nearest && p.deck.cassette.Evidence() == nil,
	}
	p.used[at/64] |= 1 << (at % 64)
	return a, nil
}

// Observe tells what something else than the cassette answered to a call: a twin, or
// the real system. If the call fits a recorded one, that one has answered by it, and
// its ids are those of the result from now on. It returns the number of the recorded
// call, or the errors of [Player.Next].
func (p *Player) Observe(toolName string, args, result []byte) (int, error) {
	at, _, err := p.find(toolName, args, false)
	if err != nil {
		return 0, err
	}
	if err := p.Align(at+1, result); err != nil {
		return 0, err
	}
	p.used[at/64] |= 1 << (at % 64)
	return at + 1, nil
}

// Align binds the ids of a recorded result, by its number, to those that stand at the
// same places of this one.
func (p *Player) Align(seq int, result []byte) error {
	from := p.deck.exports[seq]
	if len(from) == 0 || result == nil {
		return nil
	}
	now, err := parse(result, MaxDepth)
	if err != nil {
		return fmt.Errorf("result of this run for call %d: %w", seq, err)
	}
	was, err := parse(p.deck.cassette.Calls[seq-1].Result, MaxDepth)
	if err != nil {
		return fmt.Errorf("recorded result of call %d: %w", seq, err)
	}
	for _, pointer := range from {
		taped, live := was.at(pointer), now.at(pointer)
		if taped == nil || live == nil || live.kind != '"' && live.kind != '0' {
			continue
		}
		if old, ok := p.live[taped.text]; ok {
			delete(p.taped, old)
		}
		p.live[taped.text], p.taped[live.text] = live.text, taped.text
	}
	return nil
}

// Live rewrites a recorded document for this run: whole leaves that are recorded ids
// become the ids they are bound to. Without any it is returned as it is.
func (p *Player) Live(recorded []byte) []byte {
	if len(recorded) == 0 || !p.rebinds() {
		return recorded
	}
	doc, err := parse(recorded, MaxDepth)
	if err != nil {
		return recorded
	}
	return rewrite(nil, recorded, doc, "", func(_ string, leaf *node) (string, bool) {
		to, ok := p.live[leaf.text]
		return to, ok
	}, true)
}

func (p *Player) rebinds() bool {
	for taped, live := range p.live {
		if taped != live {
			return true
		}
	}
	return false
}

// rewrite copies a document, with the strings and numbers that become others.
func rewrite(b, doc []byte, n *node, pointer string, to func(pointer string, leaf *node) (string, bool), open bool) []byte {
	at := n.start
	for i, item := range n.items {
		b = append(b, doc[at:item.start]...)
		b = rewrite(b, doc, item, below(pointer, n.step(i)), to, open)
		at = item.end
	}
	if n.kind != '"' && n.kind != '0' {
		return append(b, doc[at:n.end]...)
	}
	if text, ok := to(pointer, n); ok && text != n.text {
		if n.kind == '0' {
			if v, err := parse([]byte(text), 0); err == nil && v.kind == '0' {
				return append(b, text...)
			}
		}
		return wire.AppendString(b, text)
	}
	if open {
		if inner := n.held(MaxDepth); inner != nil {
			text := rewrite(nil, []byte(n.text), inner, pointer, to, false)
			if out := n.text[:inner.start] + string(text) + n.text[inner.end:]; out != n.text {
				return wire.AppendString(b, out)
			}
		}
	}
	return append(b, n.raw...)
}

// find returns which call answers, counted from 0, without taking it.
func (p *Player) find(name string, raw []byte, explore bool) (int, Tier, error) {
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	form, err := canonical.JSON(raw)
	if err == nil && form[0] != '{' {
		err = fmt.Errorf("they are no object")
	}
	if err != nil {
		return 0, 0, sallyport.Refuse(sallyport.InvalidArguments, "arguments: "+err.Error(), "pass the arguments as one JSON object")
	}
	args, err := parse(form, MaxDepth)
	if err != nil {
		return 0, 0, fmt.Errorf("arguments: %w", err)
	}
	t := p.deck.byTool[name]
	if t == nil {
		return 0, 0, p.miss(name, args)
	}
	asked, stale := args, ""
	rebound := false
	if len(p.live) > 0 && len(t.bound) > 0 {
		form = rewrite(nil, form, args, "", func(pointer string, leaf *node) (string, bool) {
			if !t.bound[pointer] {
				return "", false
			}
			if taped, ok := p.taped[leaf.text]; ok {
				rebound = rebound || taped != leaf.text
				return taped, true
			}
			if live, ok := p.live[leaf.text]; ok && live != leaf.text && stale == "" {
				stale = pointer // the recording's own id, which this run has another for
			}
			return "", false
		}, false)
		if rebound {
			if asked, err = parse(form, MaxDepth); err != nil {
				return 0, 0, fmt.Errorf("arguments: %w", err)
			}
		}
	}
	for _, tier := range t.tiers() {
		if stale != "" || tier == Exact && rebound || tier == Bounded && !rebound && !t.ignores {
			continue
		}
		fits := func(int) bool { return true }
		if tier == Tolerated {
			fits = func(at int) bool { return same(p.deck.calls[at], asked, t.rules) }
		}
		at, state := p.pick(t.key(name, tier, asked), fits)
		switch state {
		case free, again:
			return at, tier, nil
		case spent:
			return 0, 0, &Miss{Tool: name, Reason: Spent, Seq: at + 1}
		}
	}
	if stale != "" {
		return 0, 0, &Miss{Tool: name, Reason: Stale, Pointer: stale}
	}
	if explore {
		if at, ok := p.near(t, asked); ok {
			return at, Nearest, nil
		}
	}
	return 0, 0, p.miss(name, asked)
}

func (p *Player) has(at int) bool { return p.used[at/64]>>(at%64)&1 != 0 }

// state is what there is in a list of calls.
type state uint8

const (
	none  state = iota // that fits
	free               // that has not answered
	again              // a read, that may answer once more
	spent              // a change, that has answered
)

// pick returns the first call of a list that fits and has not answered; if there is
// none, the last that fits.
func (p *Player) pick(k key, fits func(at int) bool) (int, state) {
	list := p.deck.index[k]
	from := p.cursor[k]
	for from < len(list) && p.has(int(list[from])) {
		from++
	}
	if from > 0 {
		p.cursor[k] = from
	}
	for _, at := range list[from:] {
		if !p.has(int(at)) && fits(int(at)) {
			return int(at), free
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		if at := int(list[i]); fits(at) {
			if p.deck.cassette.Calls[at].Access == sallyport.Read {
				return at, again
			}
			return at, spent
		}
	}
	return 0, none
}

// near returns the nearest call of a tool that may answer.
func (p *Player) near(t *tool, args *node) (int, bool) {
	return p.deck.nearest(t, args, func(at int) bool {
		return !p.has(at) || p.deck.cassette.Calls[at].Access == sallyport.Read
	})
}

// nearest returns the first of the calls that are nearest.
func (d *Deck) nearest(t *tool, args *node, may func(at int) bool) (int, bool) {
	best, least := -1, math.MaxInt
	for _, at := range t.calls {
		if !may(int(at)) {
			continue
		}
		if gap := distance(d.calls[at], args, t.rules, least); gap < least {
			best, least = int(at), gap
		}
	}
	return best, best >= 0
}

// distance says how different two values are, in thousandths of a leaf; 0 for those
// that agree. From most on, it may say less.
func distance(was, is *node, rules []*branch[rule], most int) int {
	if said(rules) != nil && same(was, is, rules) {
		return 0
	}
	gap := 0
	switch {
	case was == nil:
		return 2000 * is.leaves()
	case is == nil:
		return 2000 * was.leaves()
	case bytes.Equal(was.raw, is.raw):
		return 0
	case was.kind == '{' && is.kind == '{':
		eachPair(was, is, func(step string, a, b *node) bool {
			gap += distance(a, b, along(rules, step), most-gap)
			return gap < most
		})
		return gap
	case was.kind == '[' && is.kind == '[':
		for i := 0; i < max(len(was.items), len(is.items)) && gap < most; i++ {
			gap += distance(element(was, i), element(is, i), along(rules, strconv.Itoa(i)), most-gap)
		}
		return gap
	case was.kind == '"' && is.kind == '"':
		// Texts that begin and end alike are nearer.
		a, b := was.text, is.text
		n := 0
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		m := 0
		for m < min(len(a), len(b))-n && a[len(a)-1-m] == b[len(b)-1-m] {
			m++
		}
		return 1000 - 500*(n+m)/max(len(a), len(b))
	case was.isLeaf() && is.isLeaf() && was.kind == is.kind:
		return 1000
	default:
		return 1500 * max(was.leaves(), is.leaves())
	}
}

func element(n *node, i int) *node {
	if i < len(n.items) {
		return n.items[i]
	}
	return nil
}

// firstDifference returns where two values differ first, in the order of names.
func firstDifference(was, is *node, rules []*branch[rule], pointer string) (string, *node, *node) {
	if was == nil || is == nil || was.kind != is.kind || was.isLeaf() && is.isLeaf() || was.kind != '{' && was.kind != '[' {
		return pointer, was, is
	}
	if r := said(rules); r != nil && r.what != asSubset {
		return pointer, was, is
	}
	where, a, b := pointer, was, is
	found := false
	look := func(step string, x, y *node) bool {
		if next := along(rules, step); !same(x, y, next) {
			where, a, b = firstDifference(x, y, next, below(pointer, step))
			found = true
		}
		return !found
	}
	if was.kind == '{' {
		eachPair(was, is, look)
		return where, a, b
	}
	for i := 0; i < max(len(was.items), len(is.items)) && !found; i++ {
		look(strconv.Itoa(i), element(was, i), element(is, i))
	}
	return where, a, b
}
