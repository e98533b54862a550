package flow

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sallyport"
)

// Suggestion is what the definition of a tool lets one think. It takes effect when a
// person has confirmed it, never before.
type Suggestion struct {
	Tool   string       `json:"tool"`
	Args   []ArgGuess   `json:"args"`
	Fields []FieldGuess `json:"fields"`
	Class  ClassGuess   `json:"class"`
}

// ArgGuess is what an argument seems to decide. Where nothing tells, Kind is
// Authority and Sure is false.
type ArgGuess struct {
	Name string            `json:"name"`
	Kind sallyport.ArgKind `json:"kind"`
	Sure bool              `json:"sure"`
	Why  string            `json:"why"`
}

// FieldGuess is what a field of the results seems to hold. Its Integrity is Endorsed
// where the field looks as if only the server wrote it: that is for a person to say.
type FieldGuess struct {
	Field
	Sure bool   `json:"sure"`
	Why  string `json:"why"`
}

// ClassGuess is how confidential the results seem to be.
type ClassGuess struct {
	Class sallyport.Confidentiality `json:"class"`
	Sure  bool                      `json:"sure"`
	Why   string                    `json:"why"`
}

// Definition is a tool as its server describes it.
type Definition struct {
	Name string
	// Raw is the definition: a JSON object with description, inputSchema and, where
	// the server has one, outputSchema.
	Raw []byte
	// Samples are structured results that were seen in a sandbox; they are only looked
	// at for the names and types of their fields.
	Samples [][]byte
}

// Suggest guesses what a person is asked to confirm when a tool is registered, with
// a reason each. peers are the other tools of the same server: what they let an agent
// write into a field is no directory.
func Suggest(def Definition, peers []Definition) (*Suggestion, error) {
	t, err := readTool(&def)
	if err != nil {
		return nil, err
	}
	s := &Suggestion{Tool: def.Name, Class: t.class()}
	for _, name := range slices.Sorted(maps.Keys(t.In.Properties)) {
		s.Args = append(s.Args, argGuess(name, t.In.Properties[name]))
	}
	written := make(map[string]string) // words of what peers let an agent write, by tool
	for i := range peers {
		peer, err := readTool(&peers[i])
		if err != nil {
			return nil, err
		}
		if !peer.writes() {
			continue
		}
		for name, p := range peer.In.Properties {
			if g := argGuess(name, p); g.Kind == sallyport.Authority {
				for _, w := range nameWords(name) {
					written[strings.TrimSuffix(w, "s")] = peers[i].Name
				}
			}
		}
	}
	fields := make(map[string]property)
	shape(fields, "", t.Out, 0)
	for _, sample := range def.Samples {
		if err := walkJSON(sample, func(at *leaf) error {
			if at.isName {
				return nil
			}
			p := property{Type: "string"}
			if at.kind == '0' {
				p.Type = "number"
			} else if at.kind != '"' {
				p.Type = "boolean"
			}
			if _, ok := fields[at.pointer(false)]; !ok && len(fields) < 256 {
				fields[at.pointer(false)] = p
			}
			return nil
		}); err != nil {
			return nil, fmt.Errorf("sample of %s: %w", def.Name, err)
		}
	}
	for _, pointer := range slices.Sorted(maps.Keys(fields)) {
		s.Fields = append(s.Fields, t.fieldGuess(pointer, fields[pointer], written))
	}
	return s, nil
}

// property is what is read of a JSON Schema.
type property struct {
	Type        any                 `json:"type"`
	Format      string              `json:"format"`
	Description string              `json:"description"`
	Enum        []any               `json:"enum"`
	Properties  map[string]property `json:"properties"`
	Items       *property           `json:"items"`
	AnyOf       []property          `json:"anyOf"`
}

// is reports whether the schema names the type, null aside.
func (p *property) is(types ...string) bool {
	switch t := p.Type.(type) {
	case string:
		return slices.Contains(types, t)
	case []any:
		for _, each := range t {
			if s, ok := each.(string); ok && s != "null" && !slices.Contains(types, s) {
				return false
			}
		}
		return len(t) > 0
	}
	some := false
	for i := range p.AnyOf {
		if p.AnyOf[i].Type == "null" {
			continue
		}
		if !p.AnyOf[i].is(types...) {
			return false
		}
		some = true
	}
	return some
}

type tool struct {
	Name        string
	Description string   `json:"description"`
	In          property `json:"inputSchema"`
	Out         property `json:"outputSchema"`
	words       []string // of the name
}

func readTool(def *Definition) (*tool, error) {
	t := &tool{Name: def.Name, words: nameWords(def.Name)}
	if err := json.Unmarshal(def.Raw, t); err != nil {
		return nil, fmt.Errorf("definition of %s: %w", def.Name, err)
	}
	return t, nil
}

func shape(into map[string]property, pointer string, p property, depth int) {
	if depth > 8 || len(into) >= 256 {
		return
	}
	switch {
	case len(p.Properties) > 0:
		for _, name := range slices.Sorted(maps.Keys(p.Properties)) {
			shape(into, pointer+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name), p.Properties[name], depth+1)
		}
	case p.Items != nil:
		shape(into, pointer+"/*", *p.Items, depth+1)
	case p.Type != nil || len(p.AnyOf) > 0:
		into[pointer] = p
	}
}

var (
	authorityWords = set("to cc bcc from recipient recipients sender user users username member members person customer owner author assignee attendee attendees " +
		"participant participants invitee contact payee beneficiary account accounts iban bic card wallet address addresses email emails phone url uri link " +
		"href host hostname domain server endpoint webhook path file filename folder directory dir bucket repo repository branch channel room group team " +
		"project workspace id ids uid uuid guid key ref handle role roles permission permissions scope scopes access visibility password passwd secret token " +
		"credential command cmd code script sql query where filter target destination source name database table street city zip country location")
	quantityWords = set("amount amounts price cost total sum count number num n limit offset page size max min quantity qty rate percent percentage " +
		"duration days hours minutes seconds interval timeout date time start end since until before after when year month day rating score age weight depth")
	contentWords = set("body content contents text message messages subject title description note notes comment comments summary caption reason memo details " +
		"html markdown payload data greeting signature answer reply snippet feedback review")
	directoryWords = set("user users member members person people customer customers contact contacts employee employees directory attendee team channel channels " +
		"room rooms group groups account accounts folder folders project projects repository repositories workspace workspaces calendar calendars")
	outsideWords = set("web webpage website page pages url search browse fetch internet crawl scrape news rss feed issue issues review reviews comment comments")
	secretWords  = set("password passwords secret secrets token tokens credential credentials ssn passport medical health salary card cvv pin")
	privateWords = set("bank account balance iban transaction transactions payment payments invoice invoices bill mail email emails inbox message messages file files " +
		"document documents contact contacts customer customers user users profile order orders calendar event events note notes chat history address phone")
	writingWords = set("create add insert new register make book schedule append post write save put upload store upsert replace update modify edit set patch " +
		"change rename delete remove drop cancel clear erase send pay transfer move grant revoke share invite approve submit publish close reply forward " +
		"import subscribe join assign reset")
)

func has(words []string, in map[string]bool) string {
	for _, w := range words {
		if in[w] {
			return w
		}
	}
	return ""
}

// argGuess is what an argument decides: its last telling word says it, and a name
// that tells nothing decides everything.
func argGuess(name string, p property) ArgGuess {
	g := ArgGuess{Name: name, Kind: sallyport.Authority}
	words := nameWords(name)
	say := func(k sallyport.ArgKind, sure bool, format string, args ...any) ArgGuess {
		g.Kind, g.Sure, g.Why = k, sure, fmt.Sprintf(format, args...)
		return g
	}
	switch p.Format {
	case "email", "idn-email", "uri", "url", "uri-reference", "iri", "hostname", "ipv4", "ipv6", "uuid":
		return say(sallyport.Authority, true, "its format is %s", p.Format)
	case "date", "date-time", "time", "duration":
		return say(sallyport.Quantity, true, "its format is %s", p.Format)
	}
	for i := len(words) - 1; i >= 0; i-- {
		w := words[i]
		switch {
		case authorityWords[w] && w != "name" && w != "number":
			return say(sallyport.Authority, true, "%q says who, where or which", w)
		case quantityWords[w] && p.is("number", "integer"):
			return say(sallyport.Quantity, true, "%q is a number that says how much", w)
		case w == "date" || w == "time":
			return say(sallyport.Quantity, true, "%q says when", w)
		case contentWords[w] && !p.is("number", "integer", "boolean"):
			return say(sallyport.Content, true, "%q is what is said", w)
		}
	}
	switch {
	case p.is("boolean"):
		return say(sallyport.Quantity, false, "a yes or no; make it an authority if it opens something to others")
	case len(p.Enum) > 0:
		return say(sallyport.Authority, false, "one of a few choices; nobody knows what they open")
	case p.is("number"):
		return say(sallyport.Quantity, false, "a number that may have a fraction cannot name anything")
	default:
		return say(sallyport.Authority, false, "its name does not say; unknown is strict")
	}
}

// writes reports whether the name of a tool says that it changes something, or does
// not say what it does.
func (t *tool) writes() bool {
	if has(t.words, writingWords) != "" {
		return true
	}
	return has(t.words, set("get list read search find query fetch show view describe count lookup check download browse open")) == ""
}

// class is how confidential results seem to be. Nobody's word for it is restricted.
func (t *tool) class() ClassGuess {
	words := slices.Clone(t.words)
	for name := range t.Out.Properties {
		words = append(words, nameWords(name)...)
	}
	if w := has(words, secretWords); w != "" {
		return ClassGuess{sallyport.Restricted, true, fmt.Sprintf("it deals with %q", w)}
	}
	if w := has(t.words, outsideWords); w != "" {
		return ClassGuess{sallyport.Public, false, fmt.Sprintf("%q is what anybody can read", w)}
	}
	if w := has(words, privateWords); w != "" {
		return ClassGuess{sallyport.Confidential, true, fmt.Sprintf("it deals with %q", w)}
	}
	if w := has(nameWords(t.Description), privateWords); w != "" {
		return ClassGuess{sallyport.Confidential, false, fmt.Sprintf("its description speaks of %q", w)}
	}
	if w := has(t.words, directoryWords); w != "" {
		return ClassGuess{sallyport.Internal, false, fmt.Sprintf("it lists %q", w)}
	}
	return ClassGuess{sallyport.Restricted, false, "nothing says what it returns; unknown is strict"}
}

// fieldGuess is what a field holds. Text stays text unless the whole tool reads a
// directory and no peer writes there.
func (t *tool) fieldGuess(pointer string, p property, written map[string]string) FieldGuess {
	g := FieldGuess{Field: Field{Pointer: pointer, Kind: FreeText, Integrity: sallyport.Untrusted}}
	say := func(k FieldKind, i sallyport.Integrity, sure bool, format string, args ...any) FieldGuess {
		g.Kind, g.Integrity, g.Sure, g.Why = k, i, sure, fmt.Sprintf(format, args...)
		return g
	}
	last := ""
	for step := range strings.SplitSeq(pointer, "/") {
		if step != "" && step != "*" {
			last = unescape.Replace(step)
		}
	}
	outside := has(t.words, outsideWords)
	switch {
	case outside != "":
		return say(FreeText, sallyport.Untrusted, true, "the tool reads %q, which anybody writes", outside)
	case t.writes():
		return say(FreeText, sallyport.Untrusted, false, "the tool writes: what it returns may be what it was told")
	case isID(last):
		return say(OpaqueID, sallyport.Endorsed, true, "%q is an id, and servers make ids", last)
	case p.is("number", "integer"), p.Format == "date", p.Format == "date-time", quantityWords[last]:
		return say(Number, sallyport.Untrusted, true, "a number or a time")
	case p.is("boolean"):
		return say(Number, sallyport.Untrusted, true, "a yes or no")
	}
	if len(t.words) < 2 || has(t.words[1:], directoryWords) == "" || has(t.words, contentWords) != "" || has(t.words, privateOnly) != "" {
		return say(FreeText, sallyport.Untrusted, false, "text; unknown is strict")
	}
	subject := last
	if subject == "" {
		subject = has(t.words[1:], directoryWords)
	}
	lastWord := ""
	if words := nameWords(subject); len(words) > 0 {
		lastWord = words[len(words)-1]
	}
	if !identityWords[lastWord] && !directoryWords[lastWord] {
		return say(FreeText, sallyport.Untrusted, false, "the tool reads a directory, but %q does not name anybody", subject)
	}
	if by, ok := written[strings.TrimSuffix(lastWord, "s")]; ok && last != "" {
		return say(FreeText, sallyport.Untrusted, false, "%s writes %q, so it may hold what an agent was told", by, lastWord)
	}
	switch {
	case lastWord == "email" || lastWord == "mail" || p.Format == "email":
		g.Form = Email
	case lastWord == "phone":
		g.Form = Phone
	}
	return say(DirectoryIdentity, sallyport.Endorsed, false, "the tool lists %s; confirm that outsiders cannot write there", has(t.words[1:], directoryWords))
}

var (
	identityWords = set("name username login email mail address user member handle channel group team")
	privateOnly   = set("transaction transactions payment payments invoice invoices history inbox event events order orders")
)
