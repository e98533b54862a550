package upstream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport"
)

// visible reports whether s is visible ASCII.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

// isReference reports whether a configured value is a reference to a secret.
func isReference(s string) bool {
	return strings.HasPrefix(s, "env:") || strings.HasPrefix(s, "file:")
}

// resolve returns a configured value, or the secret it refers to. Line ends
// behind a secret are those of the file it is kept in.
func (u *upstream) resolve(what, value string) (string, error) {
	if !isReference(value) {
		return value, nil
	}
	if u.stage.config.Secret == nil {
		return "", u.misconfigured("there is nobody to resolve the reference of its " + what)
	}
	secret, err := u.stage.config.Secret(value)
	if err != nil {
		u.note(fmt.Errorf("%s of upstream %s: %w", what, u.id, err))
		return "", u.misconfigured("the reference of its " + what + " cannot be resolved")
	}
	return strings.TrimRight(secret, "\r\n"), nil
}

// reading is one reading of the secrets, which all who need them wait for.
type reading struct {
	done   chan struct{}
	fields *secretFields
	err    error
}

// authority returns the header fields of a request that is made on behalf of a
// person, or of nobody: the configured ones, and the broker's token.
func (h *httpLink) authority(ctx context.Context, person sallyport.PersonID) (*secretFields, error) {
	own, err := h.configured(ctx)
	if err != nil || h.broker == nil {
		return own, err
	}
	token, err := h.broker.token(ctx, person)
	if err != nil {
		return nil, err
	}
	return &secretFields{fields: append(slices.Clip(own.fields), token.field...), own: own, lent: token}, nil
}

// configured returns the configured header fields with secrets resolved, which
// are read again after secretsFor and after the upstream has not accepted them. A
// file that does not come (a pipe, a dead mount) is waited for no longer than ctx.
func (h *httpLink) configured(ctx context.Context) (*secretFields, error) {
	if s := h.secrets.Load(); s != nil && time.Now().Before(s.until) {
		return s, nil
	}
	h.resolving.Lock()
	if s := h.secrets.Load(); s != nil && time.Now().Before(s.until) {
		h.resolving.Unlock()
		return s, nil
	}
	r := h.reading
	if r == nil {
		r = &reading{done: make(chan struct{})}
		h.reading = r
		go func() {
			r.fields, r.err = h.readAuthority()
			h.resolving.Lock()
			defer h.resolving.Unlock()
			if h.reading = nil; r.err == nil {
				h.secrets.Store(r.fields)
			}
			close(r.done)
		}()
	}
	h.resolving.Unlock()
	select {
	case <-r.done:
		return r.fields, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *httpLink) readAuthority() (*secretFields, error) {
	s := &secretFields{until: time.Now().Add(secretsFor)}
	add := func(name, value string) error {
		for _, c := range []byte(value) {
			if c < ' ' && c != '\t' || c == 0x7f {
				return h.misconfigured("header " + name + " has a control character in it")
			}
		}
		s.fields = append(append(append(append(s.fields, name...), ": "...), value...), "\r\n"...)
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(h.transport.Headers)) {
		value, err := h.resolve("header "+name, h.transport.Headers[name])
		if err != nil {
			return nil, err
		}
		if err := add(name, value); err != nil {
			return nil, err
		}
	}
	if ref := h.transport.Credential; ref != "" {
		if !isReference(ref) {
			return nil, h.misconfigured("its credential is not a reference to a secret")
		}
		value, err := h.resolve("credential", ref)
		if err != nil {
			return nil, err
		}
		if value == "" {
			return nil, h.misconfigured("its credential is empty")
		}
		if err := add("Authorization", "Bearer "+value); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// unaccepted forgets secrets that the upstream did not accept.
func (h *httpLink) unaccepted(s *secretFields) {
	if s.lent == nil {
		h.secrets.CompareAndSwap(s, nil)
		return
	}
	h.secrets.CompareAndSwap(s.own, nil)
	h.broker.reject(s.lent)
}
