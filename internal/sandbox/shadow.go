package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/twin"
	"sallyport/internal/wire"
)

// mostAsked bounds what one call has to hear of a live system before it is given up.
const mostAsked = 16

// Shadow says what comes next in a call of a run over a live system. It is asked again
// with all that was heard, until there is an answer. An error is a *sallyport.Refusal
// where the call cannot be understood, or a fault.
func (w *Worlds) Shadow(ctx context.Context, q *sallyport.Shadowed) (*sallyport.ShadowStep, error) {
	it, err := w.world(ctx, q.World.Digest)
	if err != nil {
		return nil, err
	}
	if err := it.fitsShadow(); err != nil {
		return nil, sallyport.Refuse(sallyport.BadConfig, "world "+it.def.Name+" cannot lie over a live system: "+err.Error(), "apply a world that can")
	}
	r := w.run(runKey{q.Run, q.World.Digest}, it, q.Seed)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shadow == nil {
		opened, _ := sallyport.TimeOfID("run", string(q.Run))
		r.shadow = it.twin.NewShadow(q.Seed, opened)
	}
	if r.next < q.Number && (w.Shared || r.next == 0) {
		past, err := w.Source.Simulated(ctx, q.Run, q.World.Digest, r.next+1, q.Number+1)
		if err != nil {
			return nil, fmt.Errorf("what run %s did before: %w", q.Run, err)
		}
		r.again(it, q, past)
	}
	step, err := r.step(it, q)
	r.next = max(r.next, q.Number+1)
	if err == nil && step.Opaque == "" {
		step.Opaque = r.opaque
	}
	return step, err
}

// fitsShadow says why a world cannot lie over a live system.
func (w *world) fitsShadow() error {
	switch {
	case w.twin == nil:
		return errors.New("it has no tables")
	case len(w.decks) > 0 || w.def.Fallback == sallyport.FallbackSchema || w.faults != nil:
		return errors.New("it has recordings, faults or a fallback of a sandbox")
	}
	return w.twin.FitsShadow()
}

// again makes the calls of a run again from what was recorded of them: rules run again,
// and the live system is heard again from the records.
func (r *run) again(it *world, q *sallyport.Shadowed, past []sallyport.PastCall) {
	slices.SortStableFunc(past, func(a, b sallyport.PastCall) int { return a.Number - b.Number })
	for len(past) > 0 {
		n := 1
		for n < len(past) && past[n].Number == past[0].Number {
			n++
		}
		one := *q
		one.Number, one.Heard = past[0].Number-1, nil
		var change *sallyport.PastCall
		for i, p := range past[:n] {
			if p.Access != sallyport.Read {
				change = &past[i]
			} else {
				one.Heard = append(one.Heard, sallyport.Heard{Tool: p.Tool, Args: p.Args, Result: p.Result})
			}
			if r.opaque == "" {
				r.opaque = p.Opaque
			}
		}
		made := past[:n]
		if change != nil {
			made = []sallyport.PastCall{*change}
		}
		for _, p := range made {
			call := one
			call.Tool, call.Args = &sallyport.Tool{Upstream: p.Upstream, UpstreamName: p.Tool, Name: p.Tool, Access: p.Access}, p.Args
			if change == nil {
				call.Heard = []sallyport.Heard{{Tool: p.Tool, Args: p.Args, Result: p.Result}}
			}
			step, err := r.step(it, &call)
			if r.opaque == "" && (err != nil || step.Ask != nil) {
				r.opaque = fmt.Sprintf("call %d of the run cannot be made again from its record", p.Number)
			}
		}
		past = past[n:]
	}
}

// step is what comes next. Whatever ends the evidence of the run ends it for good.
func (r *run) step(it *world, q *sallyport.Shadowed) (*sallyport.ShadowStep, error) {
	var step *sallyport.ShadowStep
	var err error
	if q.Tool != nil && q.Tool.Access != sallyport.Read {
		step, err = r.change(it, q)
	} else {
		step, err = r.read(it, q)
	}
	if err == nil && step.Opaque != "" && r.opaque == "" {
		r.opaque = step.Opaque
	}
	return step, err
}

func opaque(format string, args ...any) *sallyport.ShadowStep {
	return &sallyport.ShadowStep{Opaque: fmt.Sprintf(format, args...)}
}

// change carries out a change over what the live system has shown.
func (r *run) change(it *world, q *sallyport.Shadowed) (*sallyport.ShadowStep, error) {
	name := q.Tool.UpstreamName
	switch {
	case it.twin.Opaque(q.Tool):
		return opaque("what %s does is declared opaque", name), nil
	case !it.twin.Knows(q.Tool):
		return opaque("no rule of world %s says what %s does", it.def.Name, name), nil
	}
	for range mostAsked {
		a, err := r.shadow.Call(q.Tool, q.Args, q.Number)
		var unknown *twin.Unknown
		var refusal *sallyport.Refusal
		switch {
		case err == nil:
			return &sallyport.ShadowStep{Result: replyOf(&a, q.Era), Own: true}, nil
		case errors.As(err, &refusal) && refusal.Code == sallyport.InvalidArguments:
			return nil, refusal
		case !errors.As(err, &unknown):
			return opaque("%s: %v", name, err), nil
		}
		tool, args, err := r.shadow.Fetch(unknown)
		if err != nil {
			return opaque("%s: %v", name, err), nil
		}
		i := slices.IndexFunc(q.Heard, func(h sallyport.Heard) bool { return h.Tool == tool && bytes.Equal(h.Args, args) })
		if i < 0 {
			return &sallyport.ShadowStep{Ask: &sallyport.LiveRead{Tool: tool, Args: args}}, nil
		}
		h := &q.Heard[i]
		if h.Failed != "" {
			return opaque("%s: %v; asking %s for it was refused: %s", name, unknown, tool, h.Failed), nil
		}
		if h.Result == nil {
			return opaque("%s: %v, and %s did not say what it is", name, unknown, tool), nil
		}
		document, text := said(h.Result)
		if err := r.shadow.Fetched(unknown, document, text); err != nil {
			return opaque("%s: %v: %v", name, unknown, err), nil
		}
	}
	return opaque("%s needs more than %d rows of the live system", name, mostAsked), nil
}

// read patches what the live system says with what the run has changed.
func (r *run) read(it *world, q *sallyport.Shadowed) (*sallyport.ShadowStep, error) {
	if q.Tool == nil { // a resource or a prompt: nobody says what it shows
		if r.shadow.ChangedAny() {
			return &sallyport.ShadowStep{Pass: true, Opaque: "what a resource, prompt or completion shows of the run's changes is not known"}, nil
		}
		return &sallyport.ShadowStep{Pass: true}, nil
	}
	own, err := r.shadow.Owns(q.Tool, q.Args)
	if own {
		a, err := r.shadow.Call(q.Tool, q.Args, q.Number)
		if err == nil {
			return &sallyport.ShadowStep{Result: replyOf(&a, q.Era), Own: true}, nil
		}
	}
	if len(q.Heard) == 0 {
		return &sallyport.ShadowStep{Pass: true}, nil
	}
	result := q.Heard[0].Result
	step := &sallyport.ShadowStep{Result: result}
	texts := textsOf(result)
	learning := err
	if document := texts.document(); document != nil && learning == nil {
		learning = r.shadow.Learn(q.Tool.UpstreamName, document)
	}
	if !r.shadow.Changed(q.Tool) {
		return step, nil
	}
	if err = learning; err == nil {
		step.Result, err = texts.patched(func(document []byte) ([]wire.Edit, error) { return r.shadow.Patch(q.Tool, q.Args, document) })
	}
	if err != nil {
		step.Result, step.Opaque = result, fmt.Sprintf("%s: %v", q.Tool.UpstreamName, err)
	}
	return step, nil
}

// said is the document of a result, or the text of one that is an error.
func said(result []byte) (document []byte, text string) {
	t := textsOf(result)
	if document = t.document(); document != nil {
		return document, ""
	}
	for _, at := range t.blocks {
		if s, err := wire.DecodeString(at.Of(result)); err == nil {
			text += s + "\n"
		}
	}
	return nil, text
}

// texts are the places of a tools/call result where its document stands, or may: the
// structured content, and the same as text.
type texts struct {
	result     []byte
	structured wire.Span
	blocks     []wire.Span // strings with their quotes
	other      bool        // there is content that is no text
	isError    bool
}

func textsOf(result []byte) *texts {
	t := &texts{result: result}
	if result == nil {
		t.isError = true
		return t
	}
	if raw, ok, err := wire.Field(result, "isError"); err != nil || ok && string(raw) == "true" {
		t.isError = true
	}
	if at, ok, err := wire.FieldSpan(result, "structuredContent"); err == nil && ok && result[at.Start] != 'n' {
		t.structured = at
	}
	content, ok, err := wire.FieldSpan(result, "content")
	if err != nil || !ok {
		return t
	}
	blocks, err := wire.Elements(content.Of(result))
	if err != nil {
		t.other = true
		return t
	}
	at := content.Start
	for _, block := range blocks {
		at += bytes.Index(result[at:], block)
		text, ok, err := wire.FieldSpan(block, "text")
		if kind, _, _ := wire.Field(block, "type"); err != nil || !ok || string(kind) != `"text"` || block[text.Start] != '"' {
			t.other = true
		} else {
			t.blocks = append(t.blocks, wire.Span{Start: at + text.Start, End: at + text.End})
		}
		at += len(block)
	}
	return t
}

// document is the JSON that the result holds, nil for none: also if it is an error.
func (t *texts) document() []byte {
	if t.isError {
		return nil
	}
	if t.structured.Present() {
		return t.structured.Of(t.result)
	}
	for _, at := range t.blocks {
		if document := documentIn(at.Of(t.result)); document != nil {
			return document
		}
	}
	return nil
}

// documentIn is the object or list that a text is, nil if it is none.
func documentIn(quoted []byte) []byte {
	text, err := wire.DecodeString(quoted)
	if err != nil {
		return nil
	}
	if trimmed := bytes.TrimLeft([]byte(text), " \n\t\r"); len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
		return nil
	}
	if _, err := canonical.JSON([]byte(text)); err != nil {
		return nil
	}
	return []byte(text)
}

// patched is the result with the edits that patch makes of its document, wherever that
// stands. It is an error if something else stands beside it: it may show the same.
func (t *texts) patched(patch func(document []byte) ([]wire.Edit, error)) ([]byte, error) {
	document := t.document()
	edits, err := patch(document)
	if err != nil || len(edits) == 0 {
		return t.result, err
	}
	if t.other {
		return nil, errors.New("the answer has content that is no text")
	}
	var all []wire.Edit
	for _, at := range t.blocks {
		quoted := at.Of(t.result)
		own := documentIn(quoted)
		if own == nil {
			return nil, errors.New("the answer says something in words")
		}
		if same, err := canonical.Equal(own, document); err != nil || !same {
			return nil, errors.New("a text of the answer says something else than its structured content")
		}
		if edits, err = patch(own); err != nil {
			return nil, err
		}
		all = append(all, quotedEdits(quoted, at.Start, edits)...)
	}
	if t.structured.Present() {
		if edits, err = patch(document); err != nil {
			return nil, err
		}
		for _, e := range edits {
			e.Span.Start += t.structured.Start
			e.Span.End += t.structured.Start
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b wire.Edit) int { return a.Span.Start - b.Span.Start })
	return wire.Splice(t.result, all...), nil
}

// quotedEdits are edits of a text as edits of the JSON string that it is, which begins
// at start: the escapes of all that stays are as they were.
func quotedEdits(quoted []byte, start int, edits []wire.Edit) []wire.Edit {
	var places []int // of each byte of the text, in quoted; and of its end
	for i := 1; i < len(quoted)-1; {
		size, length := 1, 1
		if quoted[i] == '\\' {
			size = 2
			if quoted[i+1] == 'u' {
				size = 6
				if high := quoted[i+2] | 0x20; high == 'd' && bytes.IndexByte([]byte("89abAB"), quoted[i+3]) >= 0 {
					size = 12 // the other half of a surrogate pair: the text is valid
				}
			}
			decoded, err := jsontext.AppendUnquote(nil, slices.Concat([]byte{'"'}, quoted[i:i+size], []byte{'"'}))
			if err != nil {
				panic("sandbox: a string that was read is not JSON: " + err.Error())
			}
			length = len(decoded)
		}
		for range length {
			places = append(places, i)
		}
		i += size
	}
	places = append(places, len(quoted)-1)
	out := make([]wire.Edit, len(edits))
	for i, e := range edits {
		with := wire.AppendString(nil, string(e.With))
		out[i] = wire.Edit{Span: wire.Span{Start: start + places[e.Span.Start], End: start + places[e.Span.End]}, With: with[1 : len(with)-1]}
	}
	return out
}
