package sandbox

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

// schemaWorld answers from what a tool itself says. It is safe for concurrent use.
type schemaWorld struct {
	mu      sync.Mutex
	outputs map[sallyport.Digest]*output
}

func newSchemaWorld() *schemaWorld { return &schemaWorld{outputs: map[sallyport.Digest]*output{}} }

// maxOutputs bounds how many output schemas are kept ready; beyond it all are
// made anew.
const maxOutputs = 4096

// output is the output schema of one definition. A nil document means that the
// definition has none.
type output struct {
	document *value
	schema   *schema.Schema
	err      error
}

// answer is the result of a tools/call: a complete result value in the form of
// the era. Args are the arguments as canonical or plain JSON, an object, or
// nothing at all; n counts the calls of the run from 0.
//
// The first example whose "when" the arguments meet answers, then the first
// without a "when", then a value made from the output schema. A tool that changes
// something answers equal arguments differently at another n, a tool that reads
// does not. The error is a *sallyport.Refusal with code WorldGap where there is
// nothing to answer from, and with InvalidArguments where args are no object.
func (w *schemaWorld) answer(t *sallyport.Tool, args []byte, era wire.Era, seed uint64, n int) ([]byte, error) {
	if len(args) == 0 {
		args = []byte("{}")
	}
	out := w.output(t)
	if out.err != nil {
		return nil, gap("", "its output schema cannot be used: "+out.err.Error())
	}
	given, err := arguments(args)
	if err != nil {
		return nil, sallyport.Refuse(sallyport.InvalidArguments, err.Error(), "pass the arguments as one JSON object")
	}
	example, err := choose(t.Examples, given)
	if err != nil {
		return nil, err
	}
	if example != nil {
		return fromExample(example.Result, out, era)
	}
	if out.document == nil {
		return nil, gap("", "it has neither an output schema nor an example that fits these arguments")
	}
	key, err := keyOf(t, args, seed, n)
	if err != nil {
		return nil, sallyport.Refuse(sallyport.InvalidArguments, err.Error(), "pass the arguments as one JSON object")
	}
	made, err := generate(out, given, key)
	if err != nil {
		return nil, err
	}
	return complete(made, era), nil
}

// gap refuses what the world cannot answer. Its words reach the agent: they speak
// of the tool, never of where it is answered.
func gap(pointer, why string) *sallyport.Refusal {
	r := sallyport.Refuse(sallyport.WorldGap, "no answer is known for this tool: "+why,
		"add an example result for these arguments to the tool's entry")
	if pointer != "" {
		r.Detail = map[string]any{"pointer": pointer}
	}
	return r
}

func (w *schemaWorld) output(t *sallyport.Tool) *output {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, ok := w.outputs[t.Digest]
	if !ok {
		out = newOutput(t.Definition)
		if len(w.outputs) >= maxOutputs {
			clear(w.outputs)
		}
		w.outputs[t.Digest] = out
	}
	return out
}

func newOutput(definition []byte) *output {
	raw, ok, err := wire.Field(definition, "outputSchema")
	if err != nil {
		return &output{err: fmt.Errorf("tool definition: %w", err)}
	}
	if !ok || string(raw) == "null" {
		return &output{}
	}
	s, err := schema.Compile(raw)
	if err != nil {
		return &output{err: err}
	}
	doc, err := parse(raw)
	if err != nil {
		return &output{err: err}
	}
	return &output{document: doc, schema: s}
}

// arguments are the members of the arguments in canonical form, by name.
func arguments(args []byte) (map[string][]byte, error) {
	given := map[string][]byte{}
	err := wire.Each(args, func(name string, raw []byte) error {
		c, err := canonical.JSON(raw)
		given[name] = c
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("arguments: %w", err)
	}
	return given, nil
}

// errOther ends the comparison of a "when" that does not fit.
var errOther = errors.New("another value")

// choose finds the example that answers, or nil.
func choose(examples []sallyport.Example, given map[string][]byte) (*sallyport.Example, error) {
	for i := range examples {
		when := examples[i].When
		if isNothing(when) {
			continue
		}
		err := wire.Each(when, func(name string, raw []byte) error {
			want, err := canonical.JSON(raw)
			if err != nil {
				return err
			}
			if got, ok := given[name]; !ok || string(got) != string(want) {
				return errOther
			}
			return nil
		})
		if err == nil {
			return &examples[i], nil
		}
		if !errors.Is(err, errOther) {
			return nil, gap("", fmt.Sprintf("the arguments of example %d are not a JSON object", i+1))
		}
	}
	for i := range examples {
		if isNothing(examples[i].When) {
			return &examples[i], nil
		}
	}
	return nil, nil
}

func isNothing(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

// fromExample turns an example's result into an answer. A string is the text of
// the result; a whole result (see isWhole) stands as it is; anything else is the
// structured content, which has to fit the output schema, if there is one.
func fromExample(raw []byte, out *output, era wire.Era) ([]byte, error) {
	v, err := parse(raw)
	if err != nil {
		return nil, gap("", "the result of its example is not JSON")
	}
	switch {
	case v.kind == '"':
		return textResult(v.text, nil, era), nil
	case isWhole(v):
		if structured := v.member("structuredContent"); structured != nil && v.truth("isError") != 't' {
			if err := out.check(structured.raw); err != nil {
				return nil, err
			}
		}
		if era != wire.Stateless || v.member("resultType") != nil {
			return v.raw, nil
		}
		return append([]byte(`{"resultType":"complete",`), v.raw[1:]...), nil
	default:
		if err := out.check(v.raw); err != nil {
			return nil, err
		}
		return complete(v.raw, era), nil
	}
}

// check holds an example against the output schema.
func (o *output) check(structured []byte) error {
	if o.schema == nil {
		return nil
	}
	var bad *schema.Invalid
	if err := o.schema.Validate(structured); errors.As(err, &bad) {
		return gap(bad.Pointer, "its example does not fit its output schema: "+bad.Error())
	}
	return nil
}

// isWhole reports whether a value is a whole tools/call result rather than its
// structured content: it has content blocks, and nothing a result has not.
func isWhole(v *value) bool {
	content := v.member("content")
	if content == nil || content.kind != '[' {
		return false
	}
	for _, block := range content.items {
		if kind := block.member("type"); kind == nil || kind.kind != '"' {
			return false
		}
	}
	for _, name := range v.names {
		switch name {
		case "content", "structuredContent", "isError", "_meta", "resultType":
		default:
			return false
		}
	}
	return true
}

// complete is the result with a structured value. The sessions era knows only
// objects there (MCP 2025-11-25, "Structured Content").
func complete(structured []byte, era wire.Era) []byte {
	if era != wire.Stateless && structured[0] != '{' {
		return textResult(string(structured), nil, era)
	}
	return textResult(string(structured), structured, era)
}

func textResult(text string, structured []byte, era wire.Era) []byte {
	dst := make([]byte, 0, len(text)+len(structured)+128)
	dst = append(dst, '{')
	if era == wire.Stateless {
		dst = append(dst, `"resultType":"complete",`...)
	}
	dst = append(dst, `"content":[{"type":"text","text":`...)
	dst = wire.AppendString(dst, text)
	dst = append(dst, `}]`...)
	if structured != nil {
		dst = append(dst, `,"structuredContent":`...)
		dst = append(dst, structured...)
	}
	return append(dst, '}')
}

// keyOf is what the values of one answer are drawn from.
func keyOf(t *sallyport.Tool, args []byte, seed uint64, n int) ([32]byte, error) {
	c, err := canonical.JSON(args)
	if err != nil {
		return [32]byte{}, fmt.Errorf("arguments: %w", err)
	}
	if t.Access == sallyport.Read {
		n = 0
	}
	text := []byte("sallyport schema world 1\x00")
	text = binary.BigEndian.AppendUint64(text, seed)
	text = binary.BigEndian.AppendUint64(text, uint64(n))
	text = binary.BigEndian.AppendUint64(text, uint64(len(t.Digest)))
	text = append(text, t.Digest...)
	text = append(text, c...)
	return sha256.Sum256(text), nil
}
