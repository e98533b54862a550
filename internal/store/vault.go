package store

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sallyport"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
	"sallyport/internal/guard"
)

// The vault holds what pseudonyms stand for. A row is found by a keyed hash of domain
// and pseudonym. Its original is sealed twice: under the data key of the run it was last
// seen in, so that it is gone when that run's data is erased, and under a key of its
// domain, which no other domain's rows open with.

// vaultKeys are those of one domain, from the sealing key by HKDF (RFC 5869).
type vaultKeys struct {
	lookup []byte
	seal   cipher.AEAD
}

func (s *Store) vaultKeys(domain string) (*vaultKeys, error) {
	if k, ok := s.vaults.Load(domain); ok {
		return k.(*vaultKeys), nil
	}
	lookup, err := hkdf.Key(sha256.New, s.SealingKey, nil, "sallyport vault lookup\x00"+domain, 32)
	if err != nil {
		return nil, err
	}
	raw, err := hkdf.Key(sha256.New, s.SealingKey, nil, "sallyport vault originals\x00"+domain, 32)
	if err != nil {
		return nil, err
	}
	seal, err := newAEAD(raw)
	if err != nil {
		return nil, err
	}
	k := &vaultKeys{lookup, seal}
	s.vaults.Store(domain, k)
	return k, nil
}

func (k *vaultKeys) hash(what, text string) []byte {
	mac := hmac.New(sha256.New, k.lookup)
	mac.Write([]byte(what + "\x00"))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// same is equal for originals of which it does not matter which of them is had again:
// those that differ in letter case.
func (k *vaultKeys) same(m *guard.Masked) []byte {
	return k.hash("original", m.Class+"\x00"+strings.ToLower(m.Original))
}

// originals makes rows of what an outcome gives pseudonyms of.
func (s *Store) originals(e *gateway.Entry) ([]control.Change, error) {
	if len(e.Originals) == 0 {
		return nil, nil
	}
	keys, err := s.vaultKeys(e.Domain)
	if err != nil {
		return nil, fmt.Errorf("key of the vault of %s: %w", e.Domain, err)
	}
	data, err := s.dataKey(e.Record.Run)
	if err != nil {
		return nil, fmt.Errorf("data key of %s: %w", e.Record.Run, err)
	}
	put := control.PutOriginals{Run: e.Record.Run, Until: e.Until}
	for i := range e.Originals {
		m := &e.Originals[i]
		plain, err := json.Marshal(guard.Original{Class: m.Class, Text: m.Original})
		if err != nil {
			return nil, err
		}
		at := keys.hash("pseudonym", m.Pseudonym)
		put.Rows = append(put.Rows, control.SealedOriginal{At: at, Same: keys.same(m), Sealed: sealBytes(keys.seal, sealBytes(data, plain, at), at)})
	}
	// Everybody locks rows in this order.
	slices.SortFunc(put.Rows, func(a, b control.SealedOriginal) int { return bytes.Compare(a.At, b.At) })
	return []control.Change{put}, nil
}

// putOriginals writes rows of the vault. Of two originals that share a pseudonym nobody
// can say which is meant, so neither is kept.
func (t *transaction) putOriginals(c control.PutOriginals) error {
	for i := range c.Rows {
		r := &c.Rows[i]
		err := t.exec(`INSERT INTO vault (at, same, run, sealed, expires) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (at) DO UPDATE SET expires = CASE WHEN vault.expires > excluded.expires THEN vault.expires ELSE excluded.expires END, run = excluded.run,
				sealed = CASE WHEN vault.same = excluded.same AND length(vault.sealed) > 0 OR vault.expires < $6 THEN excluded.sealed ELSE $7 END,
				same = CASE WHEN vault.expires < $6 THEN excluded.same ELSE vault.same END`,
			r.At, r.Same, string(c.Run), r.Sealed, micros(c.Until), micros(t.s.Now()), []byte{})
		if err != nil {
			return fmt.Errorf("vault: %w", err)
		}
	}
	return nil
}

// Originals implements [gateway.Vault].
func (s *Store) Originals(ctx context.Context, domain string, pseudonyms []string) (map[string]guard.Original, error) {
	keys, err := s.vaultKeys(domain)
	if err != nil {
		return nil, fmt.Errorf("key of the vault of %s: %w", domain, err)
	}
	asked := make(map[string]string, len(pseudonyms))
	places := make([]string, 0, len(pseudonyms))
	args := []any{micros(s.Now())}
	for _, p := range pseudonyms {
		at := keys.hash("pseudonym", p)
		asked[string(at)] = p
		args = append(args, at)
		places = append(places, "$"+strconv.Itoa(len(args)))
	}
	type row struct {
		at, sealed []byte
		run        sallyport.RunID
	}
	var rows []row
	err = each(ctx, s.prompt, `SELECT at, run, sealed FROM vault WHERE expires >= $1 AND at IN (`+strings.Join(places, ", ")+`)`, func(scan func(...any) error) error {
		var at, sealed []byte
		var run sallyport.RunID
		err := scan(&at, &run, &sealed)
		rows = append(rows, row{bytes.Clone(at), bytes.Clone(sealed), run})
		return err
	}, args...)
	if err != nil {
		return nil, s.unread(err)
	}
	known := map[string]guard.Original{}
	for _, r := range rows {
		if len(r.sealed) == 0 { // it stands for two
			continue
		}
		data, err := s.dataKey(r.run)
		if refusal, ok := errors.AsType[*sallyport.Refusal](err); ok && refusal.Code == sallyport.NotFound {
			continue // erased
		}
		if err != nil {
			return nil, err
		}
		inner, err := openBytes(keys.seal, r.sealed, r.at)
		if err != nil {
			return nil, fmt.Errorf("a row of the vault of %s has been altered: %w", domain, err)
		}
		plain, err := openBytes(data, inner, r.at)
		if err != nil {
			return nil, fmt.Errorf("a row of the vault of %s has been altered: %w", domain, err)
		}
		var o guard.Original
		if err := json.Unmarshal(plain, &o); err != nil {
			return nil, err
		}
		known[asked[string(r.at)]] = o
	}
	return known, nil
}

// SweepVault forgets originals whose time is over, at most a thousand.
func (s *Store) SweepVault(ctx context.Context) error {
	var one int
	err := s.readers.QueryRowContext(ctx, `SELECT 1 FROM vault WHERE expires < $1 LIMIT 1`, micros(s.Now())).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.do(&op{changes: []control.Change{control.DropOriginals{Before: s.Now()}}})
}
