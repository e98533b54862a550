package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/audit"
)

// Credentials begin with what they are, so that people and scanners of secrets
// can tell: sp_person_, sp_host_, sp_run_, sp_agent_, sp_link_.
const credentialBytes = 32

// NewCredential makes a random credential and its hash.
func NewCredential(kind string) (string, [32]byte) {
	var random [credentialBytes]byte
	rand.Read(random[:])
	secret := "sp_" + kind + "_" + base64.RawURLEncoding.EncodeToString(random[:])
	return secret, sha256.Sum256([]byte(secret))
}

// KeyMade is a key with its secret, which is shown once and kept nowhere.
type KeyMade struct {
	Key    Key    `json:"key"`
	Secret string `json:"secret"`
}

// MakeHostKey makes a key that opens runs of one agent in stages up to ceiling.
func (c *Control) MakeHostKey(ctx context.Context, by *sallyport.Person, agent sallyport.AgentID, ceiling sallyport.Stage, days int, note string) (*KeyMade, error) {
	if _, err := c.applied(ctx, agent); err != nil {
		return nil, err
	}
	return c.makeKey(ctx, by, Key{Kind: sallyport.KeyHost, Agent: agent, Ceiling: ceiling, Note: note}, days)
}

// MakeAgentKey makes a key for one release of an agent (the one applied last if
// release is empty), for clients that cannot open runs.
func (c *Control) MakeAgentKey(ctx context.Context, by *sallyport.Person, agent sallyport.AgentID, release sallyport.ReleaseID, ceiling sallyport.Stage, days int, note string) (*KeyMade, error) {
	past, err := c.applied(ctx, agent)
	if err != nil {
		return nil, err
	}
	if release == "" {
		release = past.Latest[agent]
	}
	if _, err := c.releaseOf(ctx, past, agent, release); err != nil {
		return nil, err
	}
	return c.makeKey(ctx, by, Key{Kind: sallyport.KeyAgent, Agent: agent, Release: release, Ceiling: ceiling, Note: note}, days)
}

// applied is what has been decided, an agent's latest release among it.
func (c *Control) applied(ctx context.Context, agent sallyport.AgentID) (*Decided, error) {
	past, err := c.Past.Decided(ctx)
	if err == nil && past.Latest[agent] == "" {
		err = noAgent(past, agent)
	}
	return past, err
}

func (c *Control) makeKey(ctx context.Context, by *sallyport.Person, k Key, days int) (*KeyMade, error) {
	roles := []sallyport.Role{sallyport.Developer, sallyport.Operator}
	if k.Ceiling == sallyport.Production {
		roles = []sallyport.Role{sallyport.Operator, sallyport.Approver}
	}
	if err := needs(by, "make a "+k.Kind.String()+" key up to "+k.Ceiling.String(), roles...); err != nil {
		return nil, err
	}
	if !slices.Contains(sallyport.Stages, k.Ceiling) {
		return nil, sallyport.Refuse(sallyport.BadRequest, "a key needs the highest stage it may reach", "add --stage sandbox, staging or production")
	}
	if days < 1 || days > 366 {
		return nil, sallyport.Refuse(sallyport.BadRequest, "a key is good for 1 to 366 days", "add --days N")
	}
	k.ID, k.Made = sallyport.KeyID(c.newID("key")), c.Now()
	k.Expires = k.Made.AddDate(0, 0, days)
	secret, hash := NewCredential(k.Kind.String())
	k.Hash = hash
	record, err := c.record(audit.KeyMade, by.ID, map[string]any{"key": k.ID, "kind": k.Kind, "ceiling": k.Ceiling, "expires": k.Expires, "note": k.Note})
	if err != nil {
		return nil, err
	}
	record.Principal = &audit.Principal{Agent: k.Agent, Release: k.Release, Key: k.ID}
	return &KeyMade{Key: k, Secret: secret}, c.Book.Commit(ctx, record, PutKey{k})
}

// SignOut ends the credential that a person is signed in with. It takes no role.
func (c *Control) SignOut(ctx context.Context, by *sallyport.Person, key *Key) error {
	if key.Kind != sallyport.KeyPerson || key.Person != by.ID || by.ID == "" {
		return sallyport.Refuse(sallyport.NotPermitted, "nobody signs out with the credential of another", "revoke it: sallyport keys revoke")
	}
	record, err := c.record(audit.KeyRevoked, by.ID, map[string]any{"key": key.ID, "reason": "signed out"})
	if err != nil {
		return err
	}
	return c.decide(ctx, record, RevokeKey{key.ID, c.Now()})
}

// RevokeKey ends a key at once.
func (c *Control) RevokeKey(ctx context.Context, by *sallyport.Person, id sallyport.KeyID, reason string) error {
	if err := needs(by, "revoke keys", sallyport.Developer, sallyport.Operator, sallyport.Approver); err != nil {
		return err
	}
	if err := reasoned(reason); err != nil {
		return err
	}
	record, err := c.record(audit.KeyRevoked, by.ID, map[string]any{"key": id, "reason": reason})
	if err != nil {
		return err
	}
	return c.decide(ctx, record, RevokeKey{id, c.Now()})
}

// PutPerson adds a person or replaces their roles. Nobody but an admin may, and
// an admin cannot take the role from themselves: somebody must hold it.
func (c *Control) PutPerson(ctx context.Context, by *sallyport.Person, p sallyport.Person) error {
	if err := needs(by, "add persons", sallyport.Admin); err != nil {
		return err
	}
	if p.ID == by.ID && !p.Has(sallyport.Admin) {
		return sallyport.Refuse(sallyport.Conflict, "an admin cannot give up the role", "have another admin do it")
	}
	return c.putPerson(ctx, by.ID, p)
}

func (c *Control) putPerson(ctx context.Context, by sallyport.PersonID, p sallyport.Person) error {
	if p.ID == "" || utf8.RuneCountInString(string(p.ID)) > 254 || strings.ContainsAny(string(p.ID), " \t\r\n\x00") || len(p.Roles) == 0 || slices.ContainsFunc(p.Roles, unknownRole) {
		return sallyport.Refuse(sallyport.BadRequest, "a person needs a name without spaces, of at most 254 characters, and at least one role", "roles are viewer, developer, reviewer, approver, operator, auditor and admin")
	}
	record, err := c.record(audit.PersonMade, by, map[string]any{"roles": p.Roles})
	if err != nil {
		return err
	}
	record.Principal = &audit.Principal{Person: string(p.ID)}
	return c.Book.Commit(ctx, record, PutPerson{p})
}

// unknownRole: a role that has no name cannot be read back.
func unknownRole(r sallyport.Role) bool { return r < sallyport.Viewer || r > sallyport.Admin }

// Founder makes the first admin, on the word of the machine itself.
func (c *Control) Founder(ctx context.Context, id sallyport.PersonID) error {
	return c.putPerson(ctx, id, sallyport.Person{ID: id, Roles: []sallyport.Role{sallyport.Admin}})
}

// MakeLink makes a one-time sign-in link for a person, good for fifteen
// minutes. An admin may make one for anybody; the terminal of the server makes
// one for its own user.
func (c *Control) MakeLink(ctx context.Context, person sallyport.PersonID) (string, error) {
	if _, err := c.People.Person(ctx, person); err != nil {
		return "", err
	}
	secret, hash := NewCredential("link")
	return secret, c.Book.Commit(ctx, nil, PutLink{Link{Hash: hash, Person: person, Expires: c.Now().Add(15 * time.Minute)}})
}

// SignIn uses a one-time link up and makes a credential for its person, good for
// thirty days.
func (c *Control) SignIn(ctx context.Context, link, note string) (*KeyMade, error) {
	hash := sha256.Sum256([]byte(link))
	l, err := c.People.Link(ctx, hash)
	if err != nil {
		return nil, err
	}
	now := c.Now()
	secret, keyHash := NewCredential("person")
	k := Key{ID: sallyport.KeyID(c.newID("key")), Kind: sallyport.KeyPerson, Hash: keyHash, Person: l.Person, Note: note, Made: now, Expires: now.AddDate(0, 0, 30)}
	record, err := c.record(audit.SignedIn, l.Person, map[string]any{"key": k.ID, "expires": k.Expires})
	if err != nil {
		return nil, err
	}
	return &KeyMade{Key: k, Secret: secret}, c.Book.Commit(ctx, record, UseLink{hash, now}, PutKey{k})
}
