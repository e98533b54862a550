package descriptor

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/guard"
)

// Code names a kind of finding. Codes are snake_case and never renamed; doc/tools.md
// says what each means, and a test holds that complete.
type Code string

// The codes.
const (
	HiddenText     Code = "hidden_text"
	HTMLComment    Code = "html_comment"
	EncodedText    Code = "encoded_text"
	PushedAway     Code = "pushed_away"
	Instruction    Code = "instruction"
	Secrecy        Code = "secrecy"
	SecretPlace    Code = "secret_place"
	AsksContext    Code = "asks_context"
	CrossReference Code = "cross_reference"
	SecretInside   Code = "secret"
	Lookalike      Code = "lookalike"
	PromptArgument Code = "prompt_argument"
	Address        Code = "address"
	Overlong       Code = "overlong"
	OpenArguments  Code = "open_arguments"
	HintConflict   Code = "hint_conflict"
)

// advice says, by code, why a finding matters and what to do about it.
var advice = map[Code]struct{ why, do string }{
	HiddenText:     {"a model reads characters here that a person does not see", "do not pin it; ask whoever runs the server what they are for"},
	HTMLComment:    {"a page would not show this to a person; a model reads it", "read the comment; do not pin it if it says anything to a model"},
	EncodedText:    {"a text is encoded here, and a model may decode it", "decode it and read it before you pin it"},
	PushedAway:     {"a text stands behind so much white space that a person will not see it", "read all of it; do not pin it if it says anything to a model"},
	Instruction:    {"it tells a model what to do beyond describing the tool", "read it word by word; pin it only if every word belongs to this tool"},
	Secrecy:        {"it asks a model to keep something from people", "do not pin it"},
	SecretPlace:    {"it speaks of where credentials are kept", "do not pin it unless handing those out is what the tool is for"},
	AsksContext:    {"it asks for what the model was told or has thought", "do not pin it unless you want all of that to be sent to this server"},
	CrossReference: {"it speaks of a tool of another upstream", "a description has no say over others: ask why it is there"},
	SecretInside:   {"a credential stands in the definition, and every model is shown it", "have it revoked; do not pin the definition"},
	Lookalike:      {"its name can be taken for another", "see to it that agents have only one of the two, or advertise it under another name"},
	PromptArgument: {"an argument of this name invites a model to write down what it knows", "declare it as content, and leave it out where policy can"},
	Address:        {"a model may follow an address in a description", "look where it leads; policy decides what may be fetched, not this text"},
	Overlong:       {"what is long is not read by people, and is by models", "read all of it"},
	OpenArguments:  {"it takes arguments that its schema does not name, and it may change something", "ask for a closed schema, or forbid other arguments by policy"},
	HintConflict:   {"it claims to change nothing, and its name says otherwise", "declare it changing unless you have seen what it does"},
}

// Codes are all codes, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(advice)) }

// Check looks for what makes a definition an attack, in all texts that a model may read:
// names, descriptions, defaults, enumerations, examples. Others are the tools of other
// upstreams that the same agents have. The gravest findings come first. That nothing is
// found proves nothing: whoever knows the list writes around it.
func Check(of *Set, others ...Set) ([]Finding, error) {
	tools, err := read(of.Tools)
	if err != nil {
		return nil, fmt.Errorf("tools of %s: %w", of.Upstream, err)
	}
	c := newChecker(of.Upstream)
	for i := range others {
		if others[i].Upstream == of.Upstream {
			continue
		}
		theirs, err := read(others[i].Tools)
		if err != nil {
			return nil, fmt.Errorf("tools of %s: %w", others[i].Upstream, err)
		}
		for _, d := range theirs {
			c.elsewhere = append(c.elsewhere, named{d.name, others[i].Upstream})
		}
	}
	for _, d := range tools {
		c.here = append(c.here, d.name)
	}
	found := c.instructions(of.Instructions)
	for _, d := range tools {
		found = append(found, c.tool(d)...)
		found = append(found, c.names(d)...)
	}
	sortFindings(found)
	return found, nil
}

type named struct {
	tool     string
	upstream sallyport.UpstreamID
}

// checker checks the definitions of one upstream.
type checker struct {
	upstream  sallyport.UpstreamID
	guard     *guard.Guard
	here      []string
	elsewhere []named

	clean  map[string]bool // texts in which nothing was found, names of schemas mostly
	tooled string          // the tool at hand
	found  []Finding
}

func newChecker(id sallyport.UpstreamID) *checker {
	return &checker{upstream: id, guard: content(), clean: map[string]bool{}}
}

// content labels what it finds and changes nothing, so that its key makes nothing.
var content = sync.OnceValue(func() *guard.Guard {
	g, err := guard.New([32]byte{}, &guard.Rules{})
	if err != nil {
		panic("descriptor: a guard without rules: " + err.Error())
	}
	return g
})

func (c *checker) say(code Code, s Severity, at, excerpt string) {
	// One place is told once of each kind.
	if slices.ContainsFunc(c.found, func(f Finding) bool { return f.Code == code && f.Pointer == at && f.Severity >= s }) {
		return
	}
	c.found = slices.DeleteFunc(c.found, func(f Finding) bool { return f.Code == code && f.Pointer == at })
	c.found = append(c.found, Finding{
		Code: code, Severity: s, Upstream: c.upstream, Tool: c.tooled, Pointer: at, Excerpt: excerpt, Why: advice[code].why, Do: advice[code].do,
	})
}

func (c *checker) instructions(text string) []Finding {
	c.tooled, c.found = "", nil
	if text != "" {
		c.text("/instructions", text, false)
	}
	return c.found
}

// What is more than this is not read by people, in bytes.
const (
	longText       = 2 << 10
	longDefinition = 16 << 10
)

func (c *checker) tool(d *definition) []Finding {
	c.tooled, c.found = Safe(d.name), nil
	c.walk("", d.members, 0)
	if len(d.raw) > longDefinition {
		c.say(Overlong, Low, "", strconv.Itoa(len(d.raw))+" bytes")
	}
	input, _ := d.members["inputSchema"].(map[string]any)
	c.arguments("/inputSchema", input, 0)
	hints, _ := d.members["annotations"].(map[string]any)
	if hints["readOnlyHint"] == true && changes(d.name) {
		c.say(HintConflict, Medium, "/annotations/readOnlyHint", Safe(d.name))
	}
	if !d.reads && input["additionalProperties"] == true {
		c.say(OpenArguments, Low, "/inputSchema/additionalProperties", "true")
	}
	return c.found
}

// walk checks every text in a definition.
func (c *checker) walk(at string, v any, depth int) {
	switch v := v.(type) {
	case string:
		c.text(at, v, false)
	case []any:
		for i, x := range v {
			c.walk(at+pointer(strconv.Itoa(i)), x, depth+1)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			in := at + pointer(name)
			c.text(in, name, true)
			c.walk(in, v[name], depth+1)
		}
	}
}

// text checks one text. Names are looked at for what is hidden and for what they say.
func (c *checker) text(at, text string, isName bool) {
	if before := len(c.found); c.clean[text] {
		return
	} else if c.look(at, text, isName); len(c.found) == before && !isName && !slices.ContainsFunc(c.found, func(f Finding) bool { return f.Pointer == at }) {
		c.clean[text] = true
	}
}

func (c *checker) look(at, text string, isName bool) {
	c.unseen(at, text)
	c.spoken(at, text)
	if isName {
		return
	}
	if i := strings.Index(text, "<!--"); i >= 0 {
		c.say(HTMLComment, High, at, around(text, i))
	}
	if place := away.FindStringIndex(text); place != nil {
		c.say(PushedAway, Medium, at, Safe(text[place[1]-1:]))
	}
	c.encoded(at, text)
	if len(text) > longText {
		c.say(Overlong, Low, at, strconv.Itoa(len(text))+" bytes")
	}
	c.others(at, text)
	c.addresses(at, text)
}

// away is white space that pushes what follows out of sight.
var away = regexp.MustCompile(`(?:[ \t\x{a0}]{40,}|(?:[ \t]*\n){10,})\S`)

// unseen asks the guard of calls, which knows secrets, hidden characters and what looks
// like an instruction in results.
func (c *checker) unseen(at, text string) {
	doc, err := json.Marshal(text)
	if err != nil {
		return
	}
	v := c.guard.Check(doc)
	for i := range v.Findings {
		switch v.Findings[i].Class {
		case guard.Hidden:
			where := strings.IndexFunc(text, func(r rune) bool { return strings.HasPrefix(Safe(string(r)), "<U+") })
			c.say(HiddenText, High, at, around(text, max(where, 0)))
		case "secret":
			c.say(SecretInside, High, at, "") // it is not shown again
		}
	}
	if v.Suspected {
		c.say(Instruction, Medium, at, Safe(text))
	}
}

// spoken looks for what no description has to say.
func (c *checker) spoken(at, text string) {
	plain := fold(text)
	for i := range signs {
		s := &signs[i]
		if place := s.words.FindStringIndex(plain); place != nil {
			c.say(s.code, s.severity, at, around(plain, place[0]))
		}
	}
}

// run is what may be base64 (RFC 4648, either alphabet).
var run = regexp.MustCompile(`[A-Za-z0-9+/_-]{24,}={0,2}`)

func (c *checker) encoded(at, text string) {
	for _, place := range run.FindAllStringIndex(text, 32) {
		bare := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text[place[0]:place[1]], "="))
		inner, err := base64.RawStdEncoding.DecodeString(bare)
		if err != nil || !utf8.Valid(inner) || strings.ContainsFunc(string(inner), func(r rune) bool { return !unicode.IsPrint(r) && !unicode.IsSpace(r) }) {
			continue
		}
		c.say(EncodedText, High, at, Safe(string(inner)))
		c.spoken(at, string(inner))
	}
}

// others looks for tools of other upstreams, by names that are no words of a language.
func (c *checker) others(at, text string) {
	for _, o := range c.elsewhere {
		if len(o.tool) < 6 || !strings.ContainsAny(o.tool, "_-./") && strings.ToLower(o.tool[1:]) == o.tool[1:] || slices.Contains(c.here, o.tool) {
			continue
		}
		if i := wordAt(text, o.tool); i >= 0 {
			c.say(CrossReference, High, at, around(text, i))
		}
	}
}

// wordAt is where a word stands in a text, -1 if nowhere.
func wordAt(text, word string) int {
	part := func(b byte) bool {
		return b == '_' || b == '-' || '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
	}
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return -1
		}
		i += from
		if end := i + len(word); (i == 0 || !part(text[i-1])) && (end == len(text) || !part(text[end])) {
			return i
		}
		from = i + 1
	}
}

var links = regexp.MustCompile(`(?i)\b(?:https?|wss?|ftp|file|javascript|data|vbscript):[^\s"'<>)\]]{3,}`)

// addresses looks at URLs. Those of a definition's own dialect are no addresses.
func (c *checker) addresses(at, text string) {
	if strings.HasSuffix(at, "/$schema") || strings.HasSuffix(at, "/$id") || strings.Contains(at, "/icons/") {
		return
	}
	for _, place := range links.FindAllStringIndex(text, 32) {
		u, err := url.Parse(strings.TrimRight(text[place[0]:place[1]], ".,;:!?"))
		severity := Low
		switch {
		case err != nil:
			severity = Medium
		case slices.Contains([]string{"javascript", "data", "vbscript", "file"}, strings.ToLower(u.Scheme)):
			severity = Medium
		default:
			host := u.Hostname()
			_, notNumber := netip.ParseAddr(host)
			if notNumber == nil || u.User != nil || strings.Contains(host, "xn--") || strings.IndexFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
				severity = Medium
			}
		}
		c.say(Address, severity, at, Safe(text[place[0]:place[1]]))
	}
}

// promptNames are names of arguments that invite a model to write down what it knows,
// folded and without what separates words.
var promptNames = map[string]Severity{
	"sidenote": High, "sidenotes": High, "systemprompt": High, "conversation": High, "conversationhistory": High, "chathistory": High, "chatlog": High,
	"previousmessages": High, "chainofthought": High, "thoughts": Medium, "reasoning": Medium, "rationale": Medium, "scratchpad": Medium, "feedback": Low,
	"context": Medium, "userintent": Medium, "userrequest": Medium, "originalprompt": High, "prompt": Low, "instructions": Medium, "memory": Medium,
	"notes": Low, "note": Low, "history": Low, "metadata": Low, "background": Low, "additionalcontext": High, "additionalinfo": Medium, "extra": Low,
}

// arguments looks at the names of arguments.
func (c *checker) arguments(at string, schema map[string]any, depth int) {
	if depth > 16 {
		return
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		of, _ := properties[name].(map[string]any)
		in := at + pointer("properties", name)
		plain := strings.NewReplacer("_", "", "-", "", " ", "").Replace(fold(name))
		if severity, known := promptNames[plain]; known && takesText(of) {
			c.say(PromptArgument, severity, in, Safe(name))
		}
		if why := disguised(name); why != "" {
			c.say(Lookalike, High, in, Safe(name)+": "+why)
		}
		c.arguments(in, of, depth+1)
		if items, ok := of["items"].(map[string]any); ok {
			c.arguments(in+"/items", items, depth+1)
		}
	}
}

// takesText reports whether a schema lets a model write what it likes.
func takesText(s map[string]any) bool {
	if s["enum"] != nil || s["const"] != nil || s["format"] != nil {
		return false
	}
	kinds, limited := types(s)
	return !limited || kinds["string"]
}

// names looks for what a tool's name can be taken for.
func (c *checker) names(d *definition) []Finding {
	c.tooled, c.found = Safe(d.name), nil
	if why := disguised(d.name); why != "" {
		c.say(Lookalike, High, "/name", Safe(d.name)+": "+why)
	}
	own := skeleton(d.name)
	for _, other := range c.here {
		if other != d.name && skeleton(other) == own {
			c.say(Lookalike, High, "/name", Safe(d.name)+" looks like "+Safe(other))
		}
	}
	for _, o := range c.elsewhere {
		switch {
		case o.tool == d.name:
			c.say(Lookalike, Medium, "/name", Safe(d.name)+" is a tool of "+string(o.upstream)+", too")
		case skeleton(o.tool) == own:
			c.say(Lookalike, High, "/name", Safe(d.name)+" looks like "+Safe(o.tool)+" of "+string(o.upstream))
		case len(d.name) >= 6 && nearly(d.name, o.tool):
			c.say(Lookalike, Medium, "/name", Safe(d.name)+" is one letter away from "+Safe(o.tool)+" of "+string(o.upstream))
		}
	}
	return c.found
}
