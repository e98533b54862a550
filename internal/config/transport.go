package config

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"sallyport"
)

// transport reads how an upstream is reached in a stage that may reach it.
func (l *loader) transport(d *document, u *upstream, stage sallyport.Stage, f *stageFile, at func(...string) []string) sallyport.Transport {
	t := sallyport.Transport{Era: string(f.Era)}
	http, stdio := d.has(at("url")...), d.has(at("command")...)
	if d.has("openapi") {
		for _, key := range []string{"command", "era"} {
			if d.has(at(key)...) {
				d.problem(d.key(at(key)...), "leave it out", "an HTTP API (openapi) is reached by a url, and speaks no version of MCP")
				return t
			}
		}
	}
	if http && stdio {
		d.problem(d.key(at("command")...), "keep one of them", "an upstream is reached by a url or by a command, not both")
		return t
	}
	for _, key := range transportKeys {
		if !d.has(at(key)...) {
			continue
		}
		switch key {
		case "insecure", "headers", "credential", "oauth":
			if !http {
				d.problem(d.key(at(key)...), other(stdio, "leave it out: a command has its secrets in env", "add the url"), "%s goes with a url, and %s has none", key, stage)
			}
		case "dir", "env":
			if !stdio {
				d.problem(d.key(at(key)...), other(http, "leave it out: a url has its secrets in credential or headers", "add the command"), "%s goes with a command, and %s has none", key, stage)
			}
		case "era":
			if !http && !stdio {
				d.problem(d.key(at(key)...), "add the url or the command", "era says how an upstream speaks, and %s does not reach it", stage)
			}
		}
	}
	if !http && !stdio {
		return t
	}
	if u.api == nil && t.Era == "" && u.pins != nil {
		t.Era = eraOf(u.pins.Server.ProtocolVersion)
	}
	c := claim{stage: stage, upstream: u.id}
	if http {
		if key, ok := d.url(f.URL, f.Insecure, at("url")...); ok {
			t.URL = f.URL
			c.tree = d.has("openapi")
			l.claim(d, c, "endpoint", key, d.value(at("url")...))
			c.tree = false
			if d.has("openapi") && strings.Contains(f.URL, "?") {
				d.problem(d.value(at("url")...), "leave out what follows the ?", "the paths of an HTTP API are below its url, so it has no query")
			}
		}
		for _, name := range slices.Sorted(maps.Keys(f.Headers)) {
			if why := badHeader(name); why != "" {
				d.problem(d.key(at("headers", name)...), "", "header %s: %s", quote(name), why)
			}
			if v, ok := l.value(d, c, name, f.Headers[name], at("headers", name)...); ok {
				if t.Headers == nil {
					t.Headers = map[string]string{}
				}
				t.Headers[name] = v
			}
		}
		if f.Credential != "" {
			t.Credential, _ = l.reference(d, c, string(f.Credential), at("credential")...)
		}
		if f.OAuth != nil {
			t.OAuth = l.oauth(d, c, f, at)
		}
		return t
	}

	if len(f.Command) == 0 || f.Command[0] == "" {
		d.problem(d.value(at("command")...), `write the program and its arguments, as in ["npx", "-y", "some-server"]`, "the command is empty")
		return t
	}
	for i, arg := range f.Command {
		switch {
		case strings.ContainsRune(arg, 0):
			d.problem(d.value(at("command", strconv.Itoa(i))...), "", "an argument of a command cannot hold a NUL character")
		case secretArg(f.Command, i):
			d.problem(d.key(at("command")...), "pass it in env, as a secret reference: every user of a machine can read the arguments of a program",
				"argument %d of the command looks like a secret", i)
		}
	}
	t.Command = f.Command
	if f.Dir != "" {
		t.Dir = d.place(f.Dir, at("dir")...)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Env)) {
		if !envName.MatchString(name) {
			d.problem(d.key(at("env", name)...), "use letters, digits and '_'", "%s cannot be the name of an environment variable", quote(name))
			continue
		}
		if v, ok := l.value(d, c, name, f.Env[name], at("env", name)...); ok {
			if t.Env == nil {
				t.Env = map[string]string{}
			}
			t.Env[name] = v
		}
	}
	// The directory is left out: the same program started twice is the same
	// system wherever it starts.
	key, err := json.Marshal([]any{t.Command, t.Env})
	if err == nil {
		l.claim(d, c, "command", string(key), d.key(at("command")...))
	}
	return t
}

func other(yes bool, then, otherwise string) string {
	if yes {
		return then
	}
	return otherwise
}

// eraOf is the era a protocol version belongs to. Versions are dates, so they are
// ordered as text.
func eraOf(version string) string {
	if version >= eraStateless {
		return eraStateless
	}
	return eraSessions
}

// hostName matches what DNS and hosts files hold, in ASCII.
var hostName = regexp.MustCompile(`^(?i:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)(?:\.(?i:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?))*\.?$`)

// url checks the address of an endpoint and returns what it claims: host, port and
// path, so that two spellings of one place are one. The scheme does not count,
// since one port listens whatever it is spoken to in; neither does the case of the
// path, which not every server looks at. What it finds wrong is said without the
// URL, which may hold a password.
func (d *document) url(text string, insecure bool, key ...string) (claims string, ok bool) {
	at := d.value(key...)
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" {
		d.problem(at, "write it out, as in https://tools.example.com/mcp", "this is no absolute http or https URL")
		return "", false
	}
	if u.User != nil {
		d.problem(d.key(key...), "put the secret in credential or headers, as a reference", "a URL may not hold a user name or password")
		return "", false
	}
	if strings.Contains(text, "#") {
		d.problem(at, "leave out what follows the #", "a URL that is called has no fragment")
		return "", false
	}
	for name := range u.Query() {
		if secretName.MatchString(name) {
			d.problem(d.key(key...), "put the secret in credential or headers, as a reference", "a parameter of the URL looks like a secret")
			return "", false
		}
	}
	if secretPrefix.MatchString(text) {
		d.problem(d.key(key...), "put the secret in credential or headers, as a reference", "part of the URL looks like a secret")
		return "", false
	}
	if looksSecret(text) {
		d.note(d.key(key...), "whoever may read this file or the records can read the URL", "part of the URL looks like a secret")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && addr.Zone() != "":
		d.problem(at, "", "the address has a zone, which means something on one machine only")
		return "", false
	case err == nil && (addr.Unmap().IsUnspecified() || addr.Unmap().IsMulticast() || addr.Unmap().IsLinkLocalUnicast()):
		d.problem(at, "write the address the upstream listens on", "no upstream has the address %s: it stands for another, or for this machine's own services", host)
		return "", false
	case err == nil:
		host = addr.Unmap().String()
	case !hostName.MatchString(host), last != "" && last[0] >= '0' && last[0] <= '9':
		// 127.1 and 0x7f.1 are addresses to some resolvers.
		d.problem(at, "write a name in ASCII, or an address in full", "this is no name of a host")
		return "", false
	}
	local := loopback(host)
	if u.Scheme == "http" && !local && !insecure {
		d.problem(at, "use https, or say insecure: true where the network itself is trusted", "plain http to another machine: credentials and data could be read on the way")
		return "", false
	}
	if insecure && (u.Scheme == "https" || local) {
		d.note(d.key(append(key[:len(key)-1:len(key)-1], "insecure")...), "leave it out", "insecure has no use here")
	}
	if local {
		host = "loopback"
	}
	port := or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		d.problem(at, "", "the port of a URL is from 1 to 65535")
		return "", false
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)) + strings.ToLower(path.Clean("/"+u.Path)), true
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// badHeader says why a header cannot be configured, "" if it can: it is no header
// name (RFC 9110, section 5.1), or the protocol or the connection writes it.
func badHeader(name string) string {
	if !headerName.MatchString(name) {
		return "this is no name of a header"
	}
	low := strings.ToLower(name)
	if strings.HasPrefix(low, "mcp-") || slices.Contains([]string{
		"host", "content-length", "content-type", "content-encoding", "accept", "accept-encoding", "connection", "keep-alive",
		"transfer-encoding", "te", "trailer", "upgrade", "expect", "last-event-id", "proxy-authorization", "proxy-connection",
	}, low) {
		return "Sallyport writes this one itself"
	}
	return ""
}

// value checks the value of a header or an environment variable: a reference, or
// text that is no secret.
func (l *loader) value(d *document, c claim, name, v string, key ...string) (string, bool) {
	if isReference(v) {
		return l.reference(d, c, v, key...)
	}
	if v == "" {
		return v, true
	}
	if secretName.MatchString(name) || looksSecret(v) {
		d.hide(v)
		d.problem(d.key(key...), "write a reference: env:NAME or file:path", "%s looks like a secret, and secrets are not written down here", quote(name))
		return "", false
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		d.problem(d.key(key...), "", "%s holds a line break or another control character", quote(name))
		return "", false
	}
	return v, true
}

// reference checks a secret reference and claims it for its stage.
func (l *loader) reference(d *document, c claim, ref string, key ...string) (string, bool) {
	ref, ok := l.leadsTo(d, ref, key...)
	if !ok {
		return "", false
	}
	if does, ok := l.reserved[ref]; ok {
		d.problem(d.key(key...), "give the upstream a secret of its own", "that secret %s, which no upstream may ever be sent", does)
		return "", false
	}
	l.claim(d, c, "credential", ref, d.key(key...))
	return ref, true
}

// leadsTo checks a secret reference. It is pointed at by its key: the value may be
// the secret itself.
func (l *loader) leadsTo(d *document, ref string, key ...string) (string, bool) {
	name := key[len(key)-1]
	if !isReference(ref) {
		d.hide(ref)
		d.problem(d.key(key...), "write a reference: env:NAME or file:path", "%s has to be a secret reference, never the secret itself", name)
		return "", false
	}
	if looksSecret(ref) {
		d.hide(ref)
		d.problem(d.key(key...), "write the name of the variable or file that holds it", "%s looks like a secret itself, not a reference to one", name)
		return "", false
	}
	if err := l.secrets.Check(ref); err != nil {
		d.problem(d.key(key...), "secrets in sallyport.yaml says where references may lead", "the secret reference of %s leads nowhere: %v", name, err)
		return "", false
	}
	if p, ok := strings.CutPrefix(ref, "file:"); ok {
		ref = "file:" + path.Clean(p)
	}
	return ref, true
}

// secretOption matches an option of a program that takes a secret, and not one
// that takes the name of a file that holds one.
var (
	secretOption = regexp.MustCompile(`(?i)^--?[a-z0-9_-]*(?:secret|token|passw(?:or)?d|passphrase|api[-_]?key|access[-_]?key|authorization|bearer)(=.+)?$`)
	headerOption = regexp.MustCompile(`(?i)^(?:authorization|cookie|x-api-key|[a-z-]*token)\s*:\s*\S`)
)

// secretArg reports whether argument i of a command looks like a secret.
func secretArg(command []string, i int) bool {
	arg := command[i]
	if looksSecret(arg) || headerOption.MatchString(arg) {
		return true
	}
	if m := secretOption.FindStringSubmatch(arg); m != nil && m[1] != "" {
		return true
	}
	if i == 0 || strings.HasPrefix(arg, "-") {
		return false
	}
	m := secretOption.FindStringSubmatch(command[i-1])
	return m != nil && m[1] == ""
}

// claim is that an endpoint, a command or a credential belongs to a stage.
type claim struct {
	stage    sallyport.Stage
	upstream sallyport.UpstreamID
	what     string // "endpoint", "command" or "credential"; or what is at a shared endpoint
	key      string
	tree     bool // all that is below the endpoint, too
	tokens   bool // the endpoint is one for tokens
	shared   bool // it is no stage's own, says whoever configured it
	place    Problem
}

func (l *loader) claim(d *document, c claim, what, key string, at *yaml.Node) {
	c.what, c.key = what, key
	c.place = d.say(at, "", "")
	l.claims = append(l.claims, c)
}

// wall checks that every endpoint, command and credential belongs to one stage, or
// is a token endpoint that belongs to none.
func (l *loader) wall() {
	first := map[[2]string]claim{}
	slices.SortStableFunc(l.claims, func(a, b claim) int { return int(a.stage) - int(b.stage) })
	var files []heldSecret
	for i, c := range l.claims {
		if other := overlapping(l.claims[:i], c); other != nil {
			p := c.place
			p.Message = fmt.Sprintf("one of this and the endpoint of %s in %s is below the other (%s, line %d): an endpoint belongs to exactly one stage, and all that is below that of an HTTP API with it",
				other.upstream, other.stage, other.place.Path, other.place.Line)
			p.Hint = "give " + c.stage.String() + " one of its own"
			l.add(p)
			continue
		}
		c.key = l.oneFile(c, &files)
		was, ok := first[[2]string{c.what, c.key}]
		if !ok || was.shared && was.stage == c.stage { // one that is not shared stands for the stage
			first[[2]string{c.what, c.key}] = c
			continue
		}
		if was.stage == c.stage || was.shared && c.shared {
			continue
		}
		p := c.place
		p.Message = fmt.Sprintf("this is the %s of %s in %s too (%s, line %d): an endpoint or credential belongs to exactly one stage",
			c.what, was.upstream, was.stage, was.place.Path, was.place.Line)
		p.Hint = "give " + c.stage.String() + " one of its own"
		if c.tokens && was.tokens {
			p.Hint += ", such as another realm or authorization server of the same provider; or say shared: true in both, with clients of their own"
		}
		l.add(p)
	}
}

// readers checks that what opens a live system for upstreams that only read it, as
// shadow does, opens none for others.
func (l *loader) readers() {
	var files []heldSecret
	writer := map[string]claim{}
	var readers []claim
	for _, c := range l.claims {
		u := l.upstreams[c.upstream]
		if c.stage != sallyport.Production || c.what != "credential" || u == nil {
			continue
		}
		c.key = l.oneFile(c, &files)
		switch s := u.stages[c.stage]; {
		case s.Binds(sallyport.Shadow):
			readers = append(readers, c)
		case s.Binds(sallyport.Live):
			writer[c.key] = c
		}
	}
	for _, c := range readers {
		if other, shared := writer[c.key]; shared {
			p := c.place
			p.Message = fmt.Sprintf("this is the credential of %s, too, which is live (%s, line %d): shadow only reads", other.upstream, other.place.Path, other.place.Line)
			p.Hint = "give it one of its own that may only read"
			l.add(p)
		}
	}
}

// overlapping is the first of some claims that is of another stage than c and of
// an endpoint below which c is, or that is below c, where one of them is of all
// that is below it.
func overlapping(claims []claim, c claim) *claim {
	below := func(a, b string) bool { return strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/") }
	for i := range claims {
		o := &claims[i]
		if o.what == "endpoint" && c.what == "endpoint" && o.stage != c.stage && o.key != c.key &&
			(o.tree && below(o.key, c.key) || c.tree && below(c.key, o.key)) {
			return o
		}
	}
	return nil
}

// heldSecret is a file that a reference leads to, under the first name it has.
type heldSecret struct {
	ref  string
	file fs.FileInfo
}

// oneFile is what a claim is of: of a secret in a file that has several names, by
// links of either kind, the first name that came up. Files that are not there yet
// and those outside the project directory go by their own names: whoever reads
// them looks again.
func (l *loader) oneFile(c claim, held *[]heldSecret) string {
	name, ok := strings.CutPrefix(c.key, "file:")
	if c.what != "credential" || !ok || !fs.ValidPath(name) {
		return c.key
	}
	file, err := fs.Stat(l.fsys, name)
	if err != nil {
		return c.key
	}
	for _, h := range *held {
		if os.SameFile(h.file, file) {
			return h.ref
		}
	}
	*held = append(*held, heldSecret{c.key, file})
	return c.key
}
