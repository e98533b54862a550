package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/control"
)

func key(name string) map[string]string { return map[string]string{"Idempotency-Key": name} }

// TestReplay sends every verb that takes a key twice: the second answer is the
// first, to the byte, and nothing is done again.
func TestReplay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	tried := 0
	for id, v := range verbs {
		op := r.doc.ops[id]
		takes := false
		params, _ := op.body["parameters"].([]any)
		for _, p := range params {
			takes = takes || p.(map[string]any)["name"] == "Idempotency-Key"
		}
		if want := op.method == "POST" && id != "halt" && id != "login"; takes != want {
			t.Errorf("%s takes an idempotency key: %v", id, takes)
		}
		if !takes {
			continue
		}
		tried++
		a := r.verb(id, v.as, key("replay-"+id))
		first := r.ask(a)
		if first.Code != http.StatusOK || first.Header().Get("Idempotency-Replayed") != "" {
			t.Fatalf("%s: %d %s", id, first.Code, first.Body)
		}
		before := r.store.Size()
		second := r.ask(a)
		if second.Code != first.Code || !bytes.Equal(second.Body.Bytes(), first.Body.Bytes()) || second.Header().Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s again: %d %s, not %s", id, second.Code, second.Body, first.Body)
		}
		if after := r.store.Size(); after != before {
			t.Errorf("%s again made %d records", id, after-before)
		}
		// Another program that serves the same store knows it as well.
		r.handler = api.Handler(r.Config)
		if third := r.ask(a); !bytes.Equal(third.Body.Bytes(), first.Body.Bytes()) {
			t.Errorf("%s after a restart: %s", id, third.Body)
		}
		// Without the key, or with a fresh one, it is another request.
		a.headers = key("another-" + id)
		if fresh := r.ask(a); fresh.Header().Get("Idempotency-Replayed") != "" {
			t.Errorf("%s with a fresh key was replayed", id)
		}
	}
	if tried < 8 {
		t.Errorf("%d verbs were tried", tried)
	}
}

// TestReplayIsOfTheSameRequest: what differs in anything that counts is no
// replay, and what differs in nothing that counts is one.
func TestReplayIsOfTheSameRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	send := func(as, path, body, name string) *httptest.ResponseRecorder {
		t.Helper()
		return r.ask(ask{method: "POST", path: path, as: as, body: body, headers: key(name)})
	}
	made := send("operator", "/v1/keys", `{"kind":"host","agent":"support","stage":"sandbox","days":1}`, "a")
	if made.Code != http.StatusOK {
		t.Fatalf("%d %s", made.Code, made.Body)
	}
	if w := send("operator", "/v1/keys", ` { "days" : 1, "stage":"sandbox","agent":"supp\u006frt","kind":"host"}`, "a"); w.Body.String() != made.Body.String() {
		t.Errorf("the same request in other words: %s", w.Body)
	}
	for what, w := range map[string]*httptest.ResponseRecorder{
		"another body": send("operator", "/v1/keys", `{"kind":"host","agent":"support","stage":"sandbox","days":2}`, "a"),
		"another path": send("operator", "/v1/keys/"+string(r.host.ID)+"/revoke", `{"reason":"test"}`, "a"),
	} {
		p := r.problem(w, http.StatusUnprocessableEntity, sallyport.Conflict)
		if !strings.Contains(p.Detail, "another request") {
			t.Errorf("%s: %s", what, w.Body)
		}
	}
	// A key belongs to a credential: another caller's is another.
	theirs := send("developer", "/v1/keys", `{"kind":"host","agent":"support","stage":"sandbox","days":1}`, "a")
	if theirs.Code != http.StatusOK || theirs.Body.String() == made.Body.String() || theirs.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("another caller was given the answer: %d %s", theirs.Code, theirs.Body)
	}
	// So does a refusal: it is the answer.
	refused := send("viewer", "/v1/halt", `{"scope":"global","reason":"test"}`, "b")
	r.problem(refused, http.StatusForbidden, sallyport.NotPermitted)
	first := send("operator", "/v1/resume", `{"scope":"global","reason":"test"}`, "c")
	r.problem(first, http.StatusNotFound, sallyport.NotFound)
	r.must(r.store.Commit(t.Context(), nil, control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltGlobal, Reason: "test", At: r.now()}}))
	if again := send("operator", "/v1/resume", `{"scope":"global","reason":"test"}`, "c"); again.Body.String() != first.Body.String() || again.Code != first.Code {
		t.Errorf("the refusal was not the answer: %d %s", again.Code, again.Body)
	}
	if fresh := send("operator", "/v1/resume", `{"scope":"global","reason":"test"}`, "d"); fresh.Code != http.StatusOK {
		t.Errorf("%d %s", fresh.Code, fresh.Body)
	}
	// What is refused before it is carried out takes no place.
	r.problem(send("operator", "/v1/resume", `{"scope":"global"}`, "e"), http.StatusBadRequest, sallyport.BadRequest)
	if w := send("operator", "/v1/resume", `{"scope":"global","reason":"test"}`, "e"); w.Header().Get("Idempotency-Replayed") != "" || w.Code == http.StatusBadRequest {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// A credential that has ended gets nothing, whatever it knows.
	mine := r.signIn("operator@example.com")
	r.credentials["mine"] = mine
	secret := send("mine", "/v1/keys", `{"kind":"host","agent":"support","stage":"sandbox","days":1}`, "f")
	r.clock.Add(int64(31 * 24 * time.Hour / time.Microsecond))
	r.problem(send("mine", "/v1/keys", `{"kind":"host","agent":"support","stage":"sandbox","days":1}`, "f"), http.StatusUnauthorized, sallyport.Unauthenticated)
	if secret.Code != http.StatusOK {
		t.Errorf("%d %s", secret.Code, secret.Body)
	}
}

// TestHaltTakesNoKey: nothing stands before a halt, and it is done each time.
func TestHaltTakesNoKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.Answers = failing{}
	r.handler = api.Handler(r.Config)
	a := ask{method: "POST", path: "/v1/halt", as: "operator", body: `{"scope":"global","reason":"test"}`, headers: key("a")}
	for range 2 {
		before := r.store.Size()
		if w := r.ask(a); w.Code != http.StatusOK || r.store.Size() == before {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	// Everything else does not begin what it could not answer twice.
	before := r.store.Size()
	a.path, a.body = "/v1/keys", `{"kind":"host","agent":"support","stage":"sandbox","days":1}`
	r.problem(r.ask(a), http.StatusInternalServerError, sallyport.Internal500)
	if r.store.Size() != before {
		t.Error("a key was made without a place for the answer")
	}
}

// failing keeps nothing.
type failing struct{}

func (failing) Reserve(context.Context, control.Answer) (*control.Answer, error) {
	return nil, errors.New("the disk said no")
}
func (failing) Keep(context.Context, control.Answer) error { return errors.New("the disk said no") }

// forgetful reserves, and cannot keep what came of it: as if the program had
// ended in between.
type forgetful struct{ api.Answers }

func (forgetful) Keep(context.Context, control.Answer) error { return errors.New("the program ended") }

// TestLostAnswer: whoever asks again after the answer was lost is told so, and
// it is not done again.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	config := r.Config
	r.Answers = forgetful{r.store}
	r.handler = api.Handler(r.Config)
	a := ask{method: "POST", path: "/v1/keys", as: "operator", body: `{"kind":"host","agent":"support","stage":"sandbox","days":1}`, headers: key("a")}
	if w := r.ask(a); w.Code != http.StatusOK {
		t.Fatalf("who is still there gets the answer: %d %s", w.Code, w.Body)
	}
	r.handler = api.Handler(config)
	before := r.store.Size()
	for range 2 {
		w := r.ask(a)
		r.problem(w, http.StatusConflict, sallyport.OutcomeUnknown)
		r.answered("makeKey", w)
	}
	if r.store.Size() != before {
		t.Error("it was done again")
	}
	a.body = `{"kind":"host","agent":"support","stage":"sandbox","days":2}`
	r.problem(r.ask(a), http.StatusUnprocessableEntity, sallyport.Conflict)
}

// TestConcurrentDuplicates: of many equal requests at one time one is carried
// out; the others are told to wait, or get its answer.
func TestConcurrentDuplicates(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var wait sync.WaitGroup
	answers := make(chan *httptest.ResponseRecorder, 32)
	before := r.store.Size()
	for range cap(answers) {
		wait.Go(func() {
			answers <- r.ask(ask{method: "POST", path: "/v1/runs", as: "host", body: `{}`, headers: key("a")})
		})
	}
	wait.Wait()
	close(answers)
	bodies, busy := map[string]int{}, 0
	for w := range answers {
		if w.Code == http.StatusOK {
			bodies[w.Body.String()]++
			continue
		}
		r.problem(w, http.StatusConflict, sallyport.Conflict)
		r.answered("openRun", w)
		if w.Header().Get("Retry-After") == "" {
			t.Error("nobody says when to ask again")
		}
		busy++
	}
	if len(bodies) != 1 || r.store.Size() != before+1 {
		t.Errorf("%d different answers, %d records", len(bodies), r.store.Size()-before)
	}
	t.Logf("%d were told to wait", busy)
}

// slow holds the first request until it is let go.
type slow struct {
	api.Answers
	entered, leave chan struct{}
	once           sync.Once
}

func (s *slow) Keep(ctx context.Context, a control.Answer) error {
	s.once.Do(func() { close(s.entered); <-s.leave })
	return s.Answers.Keep(ctx, a)
}

func TestDuplicateOfOneUnderWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	held := &slow{Answers: r.store, entered: make(chan struct{}), leave: make(chan struct{})}
	r.Answers = held
	r.handler = api.Handler(r.Config)
	a := ask{method: "POST", path: "/v1/runs", as: "host", body: `{}`, headers: key("a")}
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- r.ask(a) }()
	<-held.entered
	w := r.ask(a)
	r.problem(w, http.StatusConflict, sallyport.Conflict)
	if w.Header().Get("Retry-After") == "" {
		t.Error("nobody says when to ask again")
	}
	close(held.leave)
	done := <-first
	if w := r.ask(a); done.Code != http.StatusOK || w.Body.String() != done.Body.String() {
		t.Errorf("%d %s, then %d %s", done.Code, done.Body, w.Code, w.Body)
	}
}

// TestKeyIsGoodForADay.
func TestKeyIsGoodForADay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := ask{method: "POST", path: "/v1/runs", as: "host", body: `{}`, headers: key("a")}
	first := r.ask(a)
	r.clock.Add(int64(24*time.Hour/time.Microsecond) - 1)
	if w := r.ask(a); w.Body.String() != first.Body.String() || w.Code != http.StatusOK {
		t.Errorf("within a day: %d %s", w.Code, w.Body)
	}
	r.clock.Add(1)
	if w := r.ask(a); w.Code != http.StatusOK || w.Body.String() == first.Body.String() || w.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("after a day: %d %s", w.Code, w.Body)
	}
}

// TestHangUp: a client that hangs up while its request is carried out finds the
// answer when it asks again, not a fault.
func TestHangUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	q := httptest.NewRequestWithContext(ctx, "POST", "/v1/keys", strings.NewReader(`{"kind":"host","agent":"support","stage":"sandbox","days":1}`))
	q.Header.Set("Authorization", "Bearer "+r.credentials["operator"])
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Idempotency-Key", "a")
	w := httptest.NewRecorder()
	if api.Handler(api.Config{Who: steady{r.Config.Who}, Control: r.Control, Past: r.Past, Answers: r.Answers, Now: r.Config.Now, Log: r.Config.Log}).ServeHTTP(w, q); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	again := r.ask(ask{method: "POST", path: "/v1/keys", as: "operator", body: `{"kind":"host","agent":"support","stage":"sandbox","days":1}`, headers: key("a")})
	if again.Code != http.StatusOK || again.Body.String() != w.Body.String() {
		t.Errorf("%d %s, not %s", again.Code, again.Body, w.Body)
	}
}

// steady knows credentials also for whoever has hung up: the request had come as
// far as its verb.
type steady struct{ api.Who }

func (s steady) Person(ctx context.Context, credential string) (*sallyport.Person, error) {
	return s.Who.Person(context.WithoutCancel(ctx), credential)
}

func (s steady) Key(ctx context.Context, credential string) (*control.Key, error) {
	return s.Who.Key(context.WithoutCancel(ctx), credential)
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, name := range []string{"", " ", "a b", "ä", strings.Repeat("x", 256), "a\tb", "\x7f"} {
		w := r.ask(ask{method: "POST", path: "/v1/runs", as: "host", body: `{}`, headers: key(name)})
		r.problem(w, http.StatusBadRequest, sallyport.BadRequest)
		r.answered("openRun", w)
	}
	for _, name := range []string{`"8e03978e-40d5-43dd-bc93-6894a57f9324"`, strings.Repeat("x", 255), "!~"} {
		if w := r.ask(ask{method: "POST", path: "/v1/runs", as: "host", body: `{}`, headers: key(name)}); w.Code != http.StatusOK {
			t.Errorf("%q: %d %s", name, w.Code, w.Body)
		}
	}
	q := httptest.NewRequest("POST", "/v1/runs", strings.NewReader(`{}`))
	q.Header.Set("Authorization", "Bearer "+r.credentials["host"])
	q.Header.Set("Content-Type", "application/json")
	q.Header["Idempotency-Key"] = []string{"a", "b"}
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, q)
	r.problem(w, http.StatusBadRequest, sallyport.BadRequest)
}

// TestAnswersAreTheCredentials: what is kept depends on the credential itself,
// which nobody but its holder has, not only on what the store and the server's
// keys tell of it. Two credentials that the store cannot tell apart find nothing
// of each other's.
func TestAnswersAreTheCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.Who = alike{r.Who, r.host}
	kept := &keeping{Answers: r.store}
	r.Answers = kept
	r.handler = api.Handler(r.Config)
	a := ask{method: "POST", path: "/v1/runs", as: "host", body: `{}`, headers: key("a")}
	first := r.ask(a)
	a.as = "sp_host_another"
	second := r.ask(a)
	if first.Code != http.StatusOK || second.Code != http.StatusOK || first.Body.String() == second.Body.String() {
		t.Fatalf("%d %s, then %d %s", first.Code, first.Body, second.Code, second.Body)
	}
	if len(kept.all) != 2 || kept.all[0].Key == kept.all[1].Key || kept.all[0].Request == kept.all[1].Request {
		t.Errorf("%+v", kept.all)
	}
}

// alike gives every credential the same key.
type alike struct {
	api.Who
	key control.Key
}

func (a alike) Key(context.Context, string) (*control.Key, error) { return &a.key, nil }

type keeping struct {
	api.Answers
	all []control.Answer
}

func (k *keeping) Keep(ctx context.Context, a control.Answer) error {
	k.all = append(k.all, a)
	return k.Answers.Keep(ctx, a)
}

// TestAnswersAreNotKeptInTheClear looks for secrets, and for what was asked, in
// the files of the store.
func TestAnswersAreNotKeptInTheClear(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var secrets []string
	run := decode[control.RunOpened](r, r.ask(ask{method: "POST", path: "/v1/runs", as: "host", body: `{"task":"a task nobody else may read"}`, headers: key("idem-run")}))
	secrets = append(secrets, run.Token, "a task nobody else may read", "idem-run")
	made := decode[control.KeyMade](r, r.ask(ask{method: "POST", path: "/v1/keys", as: "operator", body: `{"kind":"agent","agent":"support","stage":"sandbox","days":1}`, headers: key("idem-key")}))
	link := decode[api.LinkMade](r, r.ask(ask{method: "POST", path: "/v1/persons", as: "admin", body: `{"id":"new@example.com","roles":["viewer"]}`, headers: key("idem-person")}))
	secrets = append(secrets, made.Secret, link.Link, r.credentials["host"], r.credentials["admin"])
	var all []byte
	files, err := filepath.Glob(r.file + "*")
	r.must(err)
	for _, name := range files {
		raw, err := os.ReadFile(name)
		r.must(err)
		all = append(all, raw...)
	}
	for _, secret := range secrets {
		if secret == "" || bytes.Contains(all, []byte(secret)) {
			t.Errorf("the store holds %q", secret)
		}
	}
	for _, there := range []string{string(run.Run.ID), string(made.Key.ID), "new@example.com"} {
		if !bytes.Contains(all, []byte(there)) {
			t.Errorf("the store does not hold %q either: the test shows nothing", there)
		}
	}
	if len(files) == 0 {
		t.Error(fmt.Errorf("no files at %s", r.file))
	}
}
