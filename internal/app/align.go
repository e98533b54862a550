package app

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/internal/wire"
)

// alignment knows which ids of a run stand for which recorded ones. Ids are values that
// a change made: at one place of its recorded answer and of the run's stand two that
// differ, look like ids, and were seen nowhere before.
type alignment struct {
	live        map[string]string // by recorded id
	taken       map[string]bool   // ids of the run that stand for one
	taped, seen map[string]bool   // values of the recording, and of the run, so far
}

func newAlignment() *alignment {
	return &alignment{live: map[string]string{}, taken: map[string]bool{}, taped: map[string]bool{}, seen: map[string]bool{}}
}

// idKey are names of members that hold ids, where a number alone does not tell.
var idKey = regexp.MustCompile(`(?i)(^|[a-z0-9]_?)(id|uuid|key|number|ref|code)$`)

// isTime is how times begin.
var isTime = regexp.MustCompile(`^\d{4}-\d\d-\d\d`)

func looksLikeID(key string, v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, len(v) > 0 && len(v) <= 128 && strings.ContainsAny(v, "0123456789") && !strings.ContainsAny(v, " \t\n") && !isTime.MatchString(v)
	case json.Number:
		return v.String(), idKey.MatchString(key) && !strings.ContainsAny(v.String(), ".eE-")
	}
	return "", false
}

func valueOf(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}

// opened is the JSON that a string holds.
func opened(text string) any {
	if text = strings.TrimSpace(text); len(text) > 1 && (text[0] == '{' || text[0] == '[') {
		return valueOf([]byte(text))
	}
	return nil
}

// learn takes what a change answered, as recorded and in the run.
func (a *alignment) learn(was, is []byte) { a.pair("", valueOf(was), valueOf(is)) }

func (a *alignment) pair(key string, was, is any) {
	switch was := was.(type) {
	case map[string]any:
		if is, ok := is.(map[string]any); ok {
			for _, name := range slices.Sorted(maps.Keys(was)) {
				a.pair(name, was[name], is[name])
			}
		}
		return
	case []any:
		if is, ok := is.([]any); ok {
			for i := range min(len(was), len(is)) {
				a.pair(key, was[i], is[i])
			}
		}
		return
	case string:
		if now, ok := is.(string); ok {
			if inner := opened(was); inner != nil {
				a.pair(key, inner, opened(now))
				return
			}
		}
	}
	taped, ok := looksLikeID(key, was)
	now, also := looksLikeID(key, is)
	if ok && also && taped != now && !a.taped[taped] && !a.seen[now] && a.live[taped] == "" && !a.taken[now] {
		a.live[taped], a.taken[now] = now, true
	}
}

// saw notes the values of a call, recorded and in the run: none of them is new any more.
func (a *alignment) saw(recorded, run []byte) {
	note(a.taped, valueOf(recorded))
	note(a.seen, valueOf(run))
}

func note(in map[string]bool, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, item := range v {
			note(in, item)
		}
	case []any:
		for _, item := range v {
			note(in, item)
		}
	case string:
		in[v] = true
		note(in, opened(v))
	case json.Number:
		in[v.String()] = true
	}
}

// rewritten is a recorded document with the ids of the run.
func (a *alignment) rewritten(raw []byte) []byte {
	if len(a.live) == 0 || len(raw) == 0 {
		return raw
	}
	var out []byte
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	last := int64(0)
	for {
		k := d.PeekKind()
		v, err := []byte(nil), error(nil)
		switch k {
		case '"', '0':
			isName := false
			if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 0 {
				isName = true
			}
			v, err = d.ReadValue()
			if err == nil && !isName {
				end := d.InputOffset()
				out = append(out, raw[last:end-int64(len(v))]...)
				out = append(out, a.leaf(v)...)
				last = end
			}
		default:
			_, err = d.ReadToken()
		}
		if err != nil {
			return append(out, raw[last:]...)
		}
	}
}

func (a *alignment) leaf(raw []byte) []byte {
	if raw[0] != '"' {
		if now, ok := a.live[string(raw)]; ok {
			return []byte(now)
		}
		return raw
	}
	text, err := wire.DecodeString(raw)
	if err != nil {
		return raw
	}
	if now, ok := a.live[text]; ok {
		return wire.AppendString(nil, now)
	}
	if opened(text) != nil {
		if now := a.rewritten([]byte(text)); string(now) != text {
			return wire.AppendString(nil, string(now))
		}
	}
	return raw
}
