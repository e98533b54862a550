package scrub

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sallyport/internal/ident"
)

// Action is what becomes of a value.
type Action uint8

// The actions. The zero value is none.
const (
	Pseudonymise Action = iota + 1 // it becomes a pseudonym of its class
	Redact                         // it becomes its class in brackets: [email]
	Drop                           // it becomes nothing: null in JSON, an empty field, no text
	Keep                           // it stays, byte for byte, and is not looked into
)

var actionNames = [...]string{Pseudonymise: "pseudonymise", Redact: "redact", Drop: "drop", Keep: "keep"}

// String returns the action as files have it.
func (a Action) String() string {
	if a == 0 || int(a) >= len(actionNames) {
		return "unknown"
	}
	return actionNames[a]
}

func parseAction(name string) (Action, bool) {
	i := slices.Index(actionNames[1:], name)
	return Action(i + 1), i >= 0
}

// Rule is what a person declared of the values in one place. It wins over whatever a
// detector would find there.
type Rule struct {
	// Class is that of an [ident.Kind] or, for those that are one class, national-id,
	// ip or wallet. It may be empty where Action is not Pseudonymise.
	Class  string
	Action Action
}

// Rules are what people declared. The zero value declares nothing: what is found is
// pseudonymised, what is not stays.
type Rules struct {
	// Columns holds for a column of a table, and for a member of a JSON document with
	// that name, at any depth. What it says of an object or array holds for all in it.
	Columns map[string]Rule
	// Pointers holds for places in a record: a row of a table, a line of NDJSON, an
	// element of the array that is a JSON document, or else the whole document. It is by
	// JSON pointer (RFC 6901) in which * stands for any one step and ** for any number.
	// The deepest that holds for a leaf wins, before a column at the same depth.
	Pointers map[string]Rule
	// Classes is what becomes of what detectors find, by class or kind; it is never
	// Keep: only a place can be kept.
	Classes map[string]Action
	// Kept are classes of which what detectors find is counted and stays. It wins over
	// Classes, and is not for files: there only a place can be kept.
	Kept []string
	// Subject is whom the dates of a record belong to: a column or member, or a pointer
	// if it begins with a slash. The dates of one subject move by the same number of
	// days. Without it each date moves for itself, and intervals are lost.
	Subject string
}

// Version is that of what scrubbing makes of a value. It changes when the same rules
// and key would give something else.
const Version = 1

// Digest is the SHA-256 of the rules, as sha256: and 64 hexadecimal digits. Equal
// rules have equal digests, however they were written.
func (r *Rules) Digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "scrub %d\nsubject %q\n", Version, r.Subject)
	for _, part := range []struct {
		name  string
		rules map[string]Rule
	}{{"column", r.Columns}, {"pointer", r.Pointers}} {
		for _, at := range slices.Sorted(maps.Keys(part.rules)) {
			fmt.Fprintf(h, "%s %q %q %v\n", part.name, at, part.rules[at].Class, part.rules[at].Action)
		}
	}
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		fmt.Fprintf(h, "class %q %v\n", class, r.Classes[class])
	}
	for _, class := range slices.Sorted(slices.Values(r.Kept)) {
		fmt.Fprintf(h, "kept %q\n", class)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// groups are the classes of several kinds.
var groups = func() map[string][]ident.Kind {
	m := map[string][]ident.Kind{}
	for _, k := range ident.Kinds() {
		if k.Class() != k.String() {
			m[k.Class()] = append(m[k.Class()], k)
		}
	}
	return m
}()

// Classes are all classes that can be declared, sorted.
func Classes() []string {
	all := slices.Collect(maps.Keys(groups))
	for _, k := range ident.Kinds() {
		all = append(all, k.String())
	}
	slices.Sort(all)
	return all
}

func validClass(name string) bool {
	_, kind := ident.ParseKind(name)
	return kind || groups[name] != nil
}

// check says what is wrong with a rule.
func (r Rule) check() error {
	switch {
	case r.Action < Pseudonymise || r.Action > Keep:
		return errors.New("no action: write pseudonymise, redact, drop or keep")
	case r.Class == "" && r.Action == Pseudonymise:
		return errors.New("a class is missing: a pseudonym is one of its class")
	case r.Class != "" && !validClass(r.Class):
		return fmt.Errorf("there is no class %q: write one of %s", r.Class, strings.Join(Classes(), ", "))
	}
	return nil
}

func (r *Rules) check() error {
	for _, at := range slices.Sorted(maps.Keys(r.Columns)) {
		if err := r.Columns[at].check(); err != nil {
			return fmt.Errorf("rule for column %q: %w", at, err)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(r.Pointers)) {
		if err := checkPointer(at); err != nil {
			return err
		}
		if err := r.Pointers[at].check(); err != nil {
			return fmt.Errorf("rule for pointer %q: %w", at, err)
		}
	}
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		switch a := r.Classes[class]; {
		case !validClass(class):
			return fmt.Errorf("rule for a class: there is no class %q: write one of %s", class, strings.Join(Classes(), ", "))
		case a == Keep:
			return fmt.Errorf("rule for class %s: a class is not kept as a whole: declare the columns or pointers to keep", class)
		case a < Pseudonymise || a > Drop:
			return fmt.Errorf("rule for class %s: no action: write pseudonymise, redact or drop", class)
		}
	}
	for _, class := range r.Kept {
		if !validClass(class) {
			return fmt.Errorf("kept: there is no class %q: write one of %s", class, strings.Join(Classes(), ", "))
		}
	}
	if strings.HasPrefix(r.Subject, "/") {
		return checkPointer(r.Subject)
	}
	return nil
}

func checkPointer(p string) error {
	if p != "" && p[0] != '/' {
		return fmt.Errorf("pointer %q: begin it with a slash", p)
	}
	for i := 0; i < len(p); i++ {
		if p[i] == '~' && (i+1 == len(p) || p[i+1] != '0' && p[i+1] != '1') {
			return fmt.Errorf("pointer %q: a ~ is written ~0, a slash in a name ~1", p)
		}
	}
	if strings.Count(p, "/") > maxSteps {
		return fmt.Errorf("pointer %q has more than %d steps", p, maxSteps)
	}
	if strings.Count(p, "**") > 2 {
		return fmt.Errorf("pointer %q: write ** at most twice", p)
	}
	return nil
}

// maxRulesFile bounds a file of rules, in bytes.
const maxRulesFile = 1 << 20

// ParseRules reads a file of rules, YAML with the members subject, columns, pointers,
// classes and schema. name is the file's, for errors. schema reads the file of a JSON
// Schema that the rules name; its x-data-class keywords become pointers, and pointers
// of the file itself win over them. Errors name the line.
func ParseRules(name string, text []byte, schema func(name string) ([]byte, error)) (*Rules, error) {
	if len(text) > maxRulesFile {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxRulesFile)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return &Rules{}, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: not YAML: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document", name)
	}
	f := rulesFile{name: name}
	r := &Rules{Columns: map[string]Rule{}, Pointers: map[string]Rule{}, Classes: map[string]Action{}}
	f.members(doc.Content[0], func(key, value *yaml.Node) {
		switch key.Value {
		case "subject":
			r.Subject = f.text(value)
		case "columns":
			f.members(value, func(at, rule *yaml.Node) { r.Columns[at.Value] = f.rule(rule) })
		case "pointers":
			f.members(value, func(at, rule *yaml.Node) {
				if err := checkPointer(at.Value); err != nil {
					f.say(at, "%v", err)
				}
				r.Pointers[at.Value] = f.rule(rule)
			})
		case "classes":
			f.members(value, func(class, action *yaml.Node) {
				a, ok := parseAction(f.text(action))
				switch {
				case !validClass(class.Value):
					f.say(class, "there is no class %q: write one of %s", class.Value, strings.Join(Classes(), ", "))
				case !ok || a == Keep:
					f.say(action, "%q: write pseudonymise, redact or drop; to keep values, declare their columns or pointers", action.Value)
				}
				r.Classes[class.Value] = a
			})
		case "schema":
			if err := r.readSchema(f.text(value), schema); err != nil {
				f.say(value, "%v", err)
			}
		default:
			f.say(key, "unknown member %q: there are subject, columns, pointers, classes and schema", key.Value)
		}
	})
	if f.err == nil {
		f.err = r.check()
	}
	return r, f.err
}

// rulesFile is a file while it is read; err is the first thing wrong with it.
type rulesFile struct {
	name string
	err  error
}

func (f *rulesFile) say(n *yaml.Node, format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%s:%d:%d: %w", f.name, n.Line, n.Column, fmt.Errorf(format, args...))
	}
}

func (f *rulesFile) members(n *yaml.Node, fn func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		f.say(n, "write members here: name: value")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			f.say(key, "a name is a plain text")
			return
		}
		if seen[key.Value] {
			f.say(key, "%q is here twice", key.Value)
		}
		seen[key.Value] = true
		fn(key, n.Content[i+1])
	}
}

func (f *rulesFile) text(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		f.say(n, "write a text here")
	}
	return n.Value
}

// rule is a class, an action, or both: email, keep, {class: text, action: redact}.
func (f *rulesFile) rule(n *yaml.Node) Rule {
	var r Rule
	if n.Kind == yaml.MappingNode {
		f.members(n, func(key, value *yaml.Node) {
			switch key.Value {
			case "class":
				r.Class = f.text(value)
			case "action":
				var ok bool
				if r.Action, ok = parseAction(f.text(value)); !ok {
					f.say(value, "%q is no action: write pseudonymise, redact, drop or keep", value.Value)
				}
			default:
				f.say(key, "unknown member %q: there are class and action", key.Value)
			}
		})
		if r.Action == 0 {
			r.Action = Pseudonymise
		}
	} else {
		r = ruleOf(f.text(n))
	}
	if err := r.check(); err != nil {
		f.say(n, "%v", err)
	}
	return r
}

// ruleOf reads a rule of one word.
func ruleOf(word string) Rule {
	if a, ok := parseAction(word); ok {
		return Rule{Action: a}
	}
	return Rule{Class: word, Action: Pseudonymise}
}

// Bounds of what is followed in a schema: a recursive one is unrolled so deep.
const (
	maxSchemaDepth = 12
	maxSchemaRules = 10_000
)

func (r *Rules) readSchema(name string, read func(string) ([]byte, error)) error {
	if read == nil {
		return errors.New("a schema cannot be read here")
	}
	text, err := read(name)
	if err != nil {
		return err
	}
	found, err := SchemaRules(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for at, rule := range found {
		if _, ok := r.Pointers[at]; !ok {
			r.Pointers[at] = rule
		}
	}
	return nil
}

// SchemaRules returns what the x-data-class keywords of a JSON Schema declare: a class,
// an action, or an object with both. It describes one record; that of an array is taken
// for that of its elements. It follows $ref within the document.
func SchemaRules(text []byte) (map[string]Rule, error) {
	var root any
	if err := json.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("not a JSON Schema: %w", err)
	}
	w := schemaWalk{root: root, rules: map[string]Rule{}}
	start := root
	if m, ok := root.(map[string]any); ok && m["properties"] == nil && m["items"] != nil {
		start = m["items"]
	}
	w.walk(start, "", 0)
	return w.rules, w.err
}

type schemaWalk struct {
	root  any
	rules map[string]Rule
	err   error
	steps int
}

func (w *schemaWalk) walk(at any, pointer string, depth int) {
	m, ok := at.(map[string]any)
	if w.steps++; !ok || depth > maxSchemaDepth || w.err != nil {
		return
	}
	if w.steps > maxSchemaRules {
		w.err = fmt.Errorf("more than %d subschemas once its references are followed", maxSchemaRules)
		return
	}
	if declared, ok := m["x-data-class"]; ok {
		var rule Rule
		switch d := declared.(type) {
		case string:
			rule = ruleOf(d)
		case map[string]any:
			rule.Class, _ = d["class"].(string)
			action, _ := d["action"].(string)
			rule.Action, _ = parseAction(cmp.Or(action, Pseudonymise.String()))
		}
		if err := rule.check(); err != nil {
			w.err = fmt.Errorf("x-data-class of %q: %w", pointer, err)
			return
		}
		w.rules[pointer] = rule
	}
	if ref, ok := m["$ref"].(string); ok {
		w.walk(w.resolve(ref), pointer, depth+1)
	}
	for _, word := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := m[word].([]any)
		for _, sub := range list {
			w.walk(sub, pointer, depth+1)
		}
	}
	for _, word := range []string{"if", "then", "else"} {
		w.walk(m[word], pointer, depth+1)
	}
	properties, _ := m["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if name == "*" || name == "**" {
			w.err = fmt.Errorf("property %q: no pointer can name it", name)
			return
		}
		w.walk(properties[name], pointer+"/"+escapeStep(name), depth+1)
	}
	patterns, _ := m["patternProperties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(patterns)) {
		w.walk(patterns[name], pointer+"/*", depth+1)
	}
	for _, word := range []string{"items", "additionalProperties", "additionalItems", "contains", "unevaluatedProperties"} {
		w.walk(m[word], pointer+"/*", depth+1)
	}
	list, _ := m["prefixItems"].([]any)
	for i, sub := range list {
		w.walk(sub, fmt.Sprintf("%s/%d", pointer, i), depth+1)
	}
}

// resolve follows a reference within the document; what is elsewhere is an error, so
// that nothing declared there is passed over.
func (w *schemaWalk) resolve(ref string) any {
	at := w.root
	pointer, ok := strings.CutPrefix(ref, "#")
	if !ok || pointer != "" && pointer[0] != '/' {
		w.err = fmt.Errorf("$ref %q: only references into the same file (#/…) are followed", ref)
		return nil
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if pointer == "" {
			break
		}
		m, ok := at.(map[string]any)
		if at = m[unescapeStep(step)]; !ok || at == nil {
			w.err = fmt.Errorf("$ref %q leads nowhere", ref)
			return nil
		}
	}
	return at
}

func escapeStep(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}

func unescapeStep(s string) string {
	if strings.IndexByte(s, '~') < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
}
