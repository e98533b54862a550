package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/openapi"
	"sallyport/internal/schema"
)

// API is what the document of an HTTP API describes, as far as it is served.
type API struct {
	Path      string // of the document, in the project directory
	Version   string // "OpenAPI 3.1.0"
	Server    sallyport.PinnedServer
	Tools     []json.RawMessage // definitions, in the document's order
	Transport sallyport.OpenAPI
}

// readAPI reads the document of an HTTP API.
func (l *loader) readAPI(d *document, u *upstream, f *upstreamFile) {
	if !d.has("openapi") {
		return
	}
	at := d.value("openapi")
	if !fs.ValidPath(f.OpenAPI) || f.OpenAPI == "." || strings.HasPrefix(f.OpenAPI, "upstreams/") && strings.HasSuffix(f.OpenAPI, ".yaml") {
		d.problem(at, "put the document into the project directory, as openapi/"+string(u.id)+".yaml", "%s cannot be the path of a document", quote(f.OpenAPI))
		return
	}
	text, exists := l.text(f.OpenAPI, openapi.MaxDocument)
	if !exists {
		d.problem(at, "the path is relative to the project directory", "there is no file %s", quote(f.OpenAPI))
	}
	if text == nil {
		return
	}
	var supplied []string
	for _, stage := range f.Stages {
		supplied = slices.AppendSeq(supplied, maps.Keys(stage.Headers))
	}
	api, err := openapi.Read(text, supplied...)
	if err != nil {
		p := Problem{Path: f.OpenAPI, Message: err.Error(), Hint: "correct the document"}
		var e *openapi.Error
		if errors.As(err, &e) {
			p.Line, p.Message = e.Line, e.Message
		}
		l.add(p)
		return
	}
	for _, left := range api.LeftOut {
		l.notes = append(l.notes, Problem{Path: f.OpenAPI, Line: left.Line, Message: left.Message})
	}
	// What the rest of Sallyport cannot read is no tool.
	api.Operations = slices.DeleteFunc(api.Operations, func(o openapi.Operation) bool {
		for _, part := range []string{"inputSchema", "outputSchema"} {
			raw := member(o.Definition, part)
			if raw == nil {
				continue
			}
			if _, err := schema.Compile(raw); err != nil {
				l.notes = append(l.notes, Problem{Path: f.OpenAPI, Message: o.Method + " " + o.Path + " is left out: its " + part + ": " +
					strings.TrimPrefix(err.Error(), "schema: ")})
				return true
			}
		}
		return false
	})
	if len(api.Operations) == 0 {
		d.problem(at, "", "the document %s describes no operation that can be served", quote(f.OpenAPI))
		return
	}
	a := &API{
		Path: f.OpenAPI, Version: "OpenAPI " + api.Spec,
		Server: sallyport.PinnedServer{
			ProtocolVersion: "OpenAPI " + api.Spec, Capabilities: json.RawMessage(`{"tools":{}}`), ServerInfo: api.Server().Info(),
		},
		Transport: sallyport.OpenAPI{Document: sallyport.Digest(canonical.SumBytes(text)), Plan: api.Plan()},
	}
	for _, o := range api.Operations {
		a.Tools = append(a.Tools, o.Definition)
	}
	u.api = a
}

// sameAPI checks that the document is the one that was pinned: each tool is still
// what a person has looked at.
func (l *loader) sameAPI(d *document, u *upstream) {
	if u.api == nil || u.pins == nil {
		return
	}
	u.asDescribed = slices.EqualFunc(u.pins.Tools, u.api.Tools, func(a, b json.RawMessage) bool {
		x, err := canonical.Sum(a)
		y, err2 := canonical.Sum(b)
		return err == nil && err2 == nil && x == y
	})
	if !l.unpinned && (!u.asDescribed || string(u.pins.Server.ServerInfo) != string(u.api.Server.ServerInfo)) {
		d.problem(d.value("openapi"), "look at what has changed and pin it again: sallyport upstream pin "+string(u.id),
			"%s describes other tools than those that are pinned (%s)", quote(u.api.Path), u.pinsPath)
	}
}

// oauth reads how the bearer token of an upstream is had.
func (l *loader) oauth(d *document, c claim, f *stageFile, at func(...string) []string) sallyport.OAuth {
	o := f.OAuth
	key := func(name string) []string { return at("oauth", name) }
	if d.has(at("credential")...) {
		d.problem(d.key(at("oauth")...), "keep one of them", "a bearer token is a credential or comes from an authorization server, not both")
	}
	out := sallyport.OAuth{
		Grant: or(string(o.Grant), grantClient), Client: o.Client, Auth: or(string(o.Auth), "basic"), KeyID: o.KeyID, Issuer: o.Issuer, Shared: o.Shared,
		Scope: o.Scope, Audience: o.Audience, Resource: o.Resource, SubjectType: o.SubjectType,
	}
	where, ok := d.url(o.URL, f.Insecure, key("url")...)
	if ok {
		out.URL = o.URL
		c.tokens, c.shared = true, o.Shared
		l.claim(d, c, "endpoint", where, d.value(key("url")...))
		c.tokens, c.shared = false, false
	}
	// own claims what is at a shared endpoint for the stage.
	own := func(what, value string, key ...string) {
		if ok && o.Shared && value != "" {
			l.claim(d, c, what, where+" "+value, d.value(key...))
		}
	}
	own("client at the shared token endpoint", o.Client, key("client")...)
	own("audience at the shared token endpoint", o.Audience, key("audience")...)
	own("resource at the shared token endpoint", o.Resource, key("resource")...)
	if d.has(key("secret")...) {
		out.Secret, _ = l.reference(d, c, string(o.Secret), key("secret")...)
	}
	if d.has(key("key_id")...) && out.Auth != authKey {
		d.problem(d.key(key("key_id")...), "say auth: "+authKey+", or leave it out", "key_id goes with auth: %s", authKey)
	}
	exchange := out.Grant == grantExchange
	for _, name := range []string{"subject", "subject_type", "person"} {
		if d.has(key(name)...) && !exchange {
			d.problem(d.key(key(name)...), "say grant: "+grantExchange+", or leave it out", "%s goes with the grant %s", name, grantExchange)
		}
	}
	texts := map[string]string{"issuer": o.Issuer, "client": o.Client, "key_id": o.KeyID, "scope": o.Scope, "audience": o.Audience, "resource": o.Resource, "subject_type": o.SubjectType}
	switch {
	case exchange && o.Person != nil:
		for _, name := range []string{"subject", "subject_type"} {
			if d.has(key(name)...) {
				d.problem(d.key(key(name)...), "keep one of them", "what is exchanged is one token (subject), or names the person of each run (person), not both")
			}
		}
		p, of := o.Person, func(name string) []string { return append(key("person"), name) }
		out.Person = sallyport.OAuthPerson{KeyID: p.KeyID, Issuer: p.Issuer}
		if d.has(of("key")...) {
			out.Person.Key, _ = l.reference(d, c, string(p.Key), of("key")...)
			if out.Person.Key != "" && out.Person.Key == out.Secret {
				d.problem(d.key(of("key")...), "make another key", "the key that names persons is the client's own, and a key is for one thing")
			}
		}
		if p.Issuer != "" && p.Issuer == o.Client {
			d.problem(d.value(of("issuer")...), "register an issuer of its own at the authorization server", "persons are named by the client itself: what names a person named like it would prove that it is the client")
		}
		own("issuer of persons at the shared token endpoint", p.Issuer, of("issuer")...)
		texts["person.key_id"], texts["person.issuer"] = p.KeyID, p.Issuer
	case exchange && !d.has(key("subject")...):
		d.problem(d.key(at("oauth")...), "add subject, a secret reference to the token that is exchanged, or person", "the grant %s needs a subject", grantExchange)
	case exchange:
		out.Subject, _ = l.reference(d, c, string(o.Subject), key("subject")...)
	}
	for name, text := range texts {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
			d.problem(d.value(at(append([]string{"oauth"}, strings.Split(name, ".")...)...)...), "", "%s holds a line break or another control character", name)
		}
	}
	return out
}
