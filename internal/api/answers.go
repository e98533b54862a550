package api

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"sync"

	"sallyport"
	"sallyport/internal/control"
)

// Idempotency keys, after draft-ietf-httpapi-idempotency-key-header. Whoever
// got no answer to a POST sends it again with the same key and gets the answer
// of the first, without anything being done twice; also when the first is that
// of a refusal. A key is good for 24 hours, for the credential it came with.
//
// A place for the answer is made durable before the verb is carried out, and the
// answer after it. If the program ends, or the store fails, in between, the place
// stays empty: whoever asks again is told that nobody knows whether it happened
// (code outcome_unknown), and it is not done again.
//
// Answers hold secrets: keys, run tokens, sign-in links. What is kept is
// encrypted under a key made from the caller's credential, of which this
// installation keeps nothing but the hash: nobody can open an answer who could
// not have asked for it, not even with the store and all keys of the server.

const idempotencyHeader = "Idempotency-Key"

// Answers keeps answers for a day.
type Answers interface {
	// Reserve makes a place for the answer of a request, or returns what is there.
	Reserve(ctx context.Context, a control.Answer) (there *control.Answer, err error)
	// Keep puts the answer into its place.
	Keep(ctx context.Context, a control.Answer) error
}

// underWay are the places of requests that this program is carrying out.
type underWay struct {
	mu     sync.Mutex
	places map[string]bool
}

func (u *underWay) enter(place string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.places[place] {
		return false
	}
	u.places[place] = true
	return true
}

func (u *underWay) leave(place string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.places, place)
}

// once carries out a request that has an idempotency key, unless it has been.
func (c *server) once(w http.ResponseWriter, q *http.Request, r *route, in *request, credential string, names []string, body []byte) {
	name := names[0]
	if len(names) != 1 || !goodName(name) {
		c.fail(w, sallyport.Refuse(sallyport.BadRequest, "the Idempotency-Key header is not one key of 1 to 255 visible ASCII characters", "send a fresh random one, such as a UUID, with each new request"))
		return
	}
	place, seal, err := placeOf(credential, name)
	if err != nil {
		c.fail(w, err)
		return
	}
	// The path is that of one verb on one thing; the body is in canonical form.
	request := place.tag("request", []byte(q.Method+" "+q.URL.EscapedPath()+"\n"+string(body)))
	key := place.tag("place", []byte(in.key.ID))
	if !c.under.enter(key) {
		w.Header().Set("Retry-After", "1")
		c.fail(w, sallyport.Refuse(sallyport.Conflict, "a request with this idempotency key is being carried out", "ask again in a moment with the same key"))
		return
	}
	defer c.under.leave(key)
	// Whoever hangs up now will ask again, and wants the answer of the verb, not
	// of having hung up.
	in.Context = context.WithoutCancel(in.Context)
	there, err := c.Answers.Reserve(in, control.Answer{Key: key, Request: request, At: c.Now()})
	switch {
	case err != nil:
		c.fail(w, err)
		return
	case there == nil:
		status, answer := c.do(r, in)
		a := control.Answer{Key: key, Request: request, Status: status, Body: seal.Seal(nil, nil, answer, []byte(key)), At: c.Now()}
		if err := c.Answers.Keep(in, a); err != nil {
			c.Log.Error("the answer to a request with an idempotency key could not be kept", "route", r.id, "err", err)
		}
		send(w, status, answer)
		return
	case there.Request != request:
		c.fail(w, &refused{http.StatusUnprocessableEntity, sallyport.Refuse(sallyport.Conflict, "this idempotency key was used for another request", "send a fresh one with each new request")})
		return
	case there.Status == 0:
		c.fail(w, sallyport.Refuse(sallyport.OutcomeUnknown, "a request with this idempotency key was begun, and its answer was lost", "look whether it happened before you send it with a fresh key"))
		return
	}
	answer, err := seal.Open(nil, nil, there.Body, []byte(key))
	if err != nil {
		c.fail(w, err)
		return
	}
	w.Header().Set("Idempotency-Replayed", "true")
	send(w, there.Status, answer)
}

// goodName reports whether a key is one that this API takes: longer ones, and
// those that a proxy could change, are refused.
func goodName(name string) bool {
	if name == "" || len(name) > 255 {
		return false
	}
	for _, b := range []byte(name) {
		if b < 0x21 || b > 0x7e {
			return false
		}
	}
	return true
}

// placeKey makes the names of places and the fingerprints of requests.
type placeKey []byte

func (k placeKey) tag(what string, text []byte) string {
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(what + "\x00"))
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil))
}

// placeOf derives (RFC 5869) what names a request's place, and what encrypts the
// answer in it, from the caller's credential, which has 256 random bits, and the
// idempotency key.
func placeOf(credential, name string) (placeKey, cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, []byte(credential), []byte(name), "sallyport answers 1", 64)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(derived[:32])
	if err != nil {
		return nil, nil, err
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	return derived[32:], seal, err
}
