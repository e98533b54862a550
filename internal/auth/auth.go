// Package auth finds out whose credential is presented, and keeps the keys that
// the installation signs and encrypts with.
package auth

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	"sallyport"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
)

// Keys knows credentials by their hash.
type Keys interface {
	// Key returns a refusal with code unauthenticated for a hash that is not known.
	Key(ctx context.Context, hash [32]byte) (*control.Key, error)
	Person(ctx context.Context, id sallyport.PersonID) (*sallyport.Person, error)
	// Epoch changes when a key is revoked.
	Epoch() int64
}

// Auth identifies callers. What it has found out it keeps for a minute, or until
// anything is decided, or its run ends.
type Auth struct {
	Keys Keys
	Now  func() time.Time

	mu    sync.RWMutex
	kept  map[[32]byte]keptKey
	runs  map[sallyport.RunID][32]byte // which of them is the token of a run
	epoch int64
	sweep time.Time // when those that are out of date are dropped next
}

type keptKey struct {
	key   *control.Key
	until time.Time
}

const (
	keepFor  = time.Minute
	mostKept = 10_000
)

// Key returns the key of a credential that is good now, or a refusal with code
// unauthenticated.
func (a *Auth) Key(ctx context.Context, credential string) (*control.Key, error) {
	if !strings.HasPrefix(credential, "sp_") || len(credential) > 200 {
		return nil, sallyport.Refuse(sallyport.Unauthenticated, "no credential of this installation was presented",
			"send it in the Authorization header: Bearer sp_...")
	}
	hash := sha256.Sum256([]byte(credential))
	now, epoch := a.Now(), a.Keys.Epoch()
	a.mu.RLock()
	k, ok := a.kept[hash]
	fresh := ok && a.epoch == epoch && now.Before(k.until)
	a.mu.RUnlock()
	if !fresh {
		key, err := a.Keys.Key(ctx, hash)
		if err != nil {
			return nil, err
		}
		k = keptKey{key, now.Add(keepFor)}
		a.keep(hash, k, now, epoch)
	}
	switch {
	case !k.key.Revoked.IsZero():
		return nil, sallyport.Refuse(sallyport.Unauthenticated, "the credential was revoked", "ask for a new one")
	case !k.key.Expires.IsZero() && !now.Before(k.key.Expires):
		return nil, sallyport.Refuse(sallyport.Unauthenticated, "the credential has expired", "ask for a new one")
	}
	return k.key, nil
}

func (a *Auth) keep(hash [32]byte, k keptKey, now time.Time, epoch int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil || a.epoch != epoch || len(a.kept) >= mostKept {
		a.kept, a.runs, a.epoch = map[[32]byte]keptKey{}, map[sallyport.RunID][32]byte{}, epoch
	}
	if !now.Before(a.sweep) {
		for old, o := range a.kept {
			if !now.Before(o.until) {
				a.drop(old, o.key.Run)
			}
		}
		a.sweep = now.Add(keepFor)
	}
	a.kept[hash] = k
	if k.key.Run != "" {
		a.runs[k.key.Run] = hash
	}
}

func (a *Auth) drop(hash [32]byte, run sallyport.RunID) {
	delete(a.kept, hash)
	delete(a.runs, run)
}

// Ended drops the token of a run that has ended.
func (a *Auth) Ended(id sallyport.RunID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if hash, ok := a.runs[id]; ok {
		a.drop(hash, id)
	}
}

// Identify implements [gateway.Identities].
func (a *Auth) Identify(ctx context.Context, credential string) (*gateway.Identity, error) {
	k, err := a.Key(ctx, credential)
	if err != nil {
		return nil, err
	}
	return &gateway.Identity{Key: k.ID, Kind: k.Kind, Agent: k.Agent, Release: k.Release, Run: k.Run, Ceiling: k.Ceiling}, nil
}

// Person returns the person of a person's credential. Credentials of agents and
// hosts are refused: they decide nothing.
func (a *Auth) Person(ctx context.Context, credential string) (*sallyport.Person, error) {
	k, err := a.Key(ctx, credential)
	if err != nil {
		return nil, err
	}
	if k.Kind != sallyport.KeyPerson {
		return nil, sallyport.Refuse(sallyport.NotPermitted, "this is a person's command; the credential is a "+k.Kind.String()+" key", "sign in: sallyport login")
	}
	return a.Keys.Person(ctx, k.Person)
}
