// Package api is /v1: what people and hosts do over HTTP. Errors are
// problem+json (RFC 9457) made from refusals. Control verbs take a person's
// credential; opening and closing runs takes a host key.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"sallyport"
	"sallyport/internal/control"
)

// Who knows credentials.
type Who interface {
	Person(ctx context.Context, credential string) (*sallyport.Person, error)
	Key(ctx context.Context, credential string) (*control.Key, error)
}

// Config is what the API needs. All fields are required.
type Config struct {
	Who     Who
	Control *control.Control
	Past    Past
	// Propose reads the project directory of the server and says what it would
	// change.
	Propose func(ctx context.Context) (*control.Proposal, error)
	// Diff says what Propose would change, for people.
	Diff func(ctx context.Context) (any, error)
	Log  *slog.Logger
}

// Past is what the API shows.
type Past interface {
	Decided(ctx context.Context) (*control.Decided, error)
	Unknowns(ctx context.Context) ([]control.Unknown, error)
	Keys(ctx context.Context) ([]control.Key, error)
	Size() int64
}

const maxBody = 1 << 20

// Handler serves /v1.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	person := func(pattern string, do func(r *http.Request, by *sallyport.Person) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			by, err := c.Who.Person(r.Context(), bearer(r))
			if err != nil {
				c.fail(w, err)
				return
			}
			c.answer(w, r, func() (any, error) { return do(r, by) })
		})
	}
	host := func(pattern string, do func(r *http.Request, key *control.Key) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			key, err := c.Who.Key(r.Context(), bearer(r))
			if err != nil {
				c.fail(w, err)
				return
			}
			c.answer(w, r, func() (any, error) { return do(r, key) })
		})
	}
	person("GET /v1/status", func(r *http.Request, _ *sallyport.Person) (any, error) {
		decided, err := c.Past.Decided(r.Context())
		if err != nil {
			return nil, err
		}
		unknowns, err := c.Past.Unknowns(r.Context())
		return Status{Pointers: decided.Pointers, Halts: decided.Halts, Unknown: unknowns, Latest: decided.Latest, Records: c.Past.Size()}, err
	})
	person("GET /v1/diff", func(r *http.Request, _ *sallyport.Person) (any, error) { return c.Diff(r.Context()) })
	person("GET /v1/keys", func(r *http.Request, _ *sallyport.Person) (any, error) { return c.Past.Keys(r.Context()) })
	person("POST /v1/keys", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in KeyRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		switch in.Kind {
		case sallyport.KeyHost:
			return c.Control.MakeHostKey(r.Context(), by, in.Agent, in.Stage, in.Days, in.Note)
		case sallyport.KeyAgent:
			return c.Control.MakeAgentKey(r.Context(), by, in.Agent, in.Release, in.Stage, in.Days, in.Note)
		default:
			return nil, sallyport.Refuse(sallyport.BadRequest, "keys of kind "+in.Kind.String()+" are not made here", "host or agent")
		}
	})
	person("POST /v1/keys/{id}/revoke", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in struct {
			Reason string `json:"reason"`
		}
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, c.Control.RevokeKey(r.Context(), by, sallyport.KeyID(r.PathValue("id")), in.Reason)
	})
	person("POST /v1/persons", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in sallyport.Person
		if err := read(r, &in); err != nil {
			return nil, err
		}
		if err := c.Control.PutPerson(r.Context(), by, in); err != nil {
			return nil, err
		}
		link, err := c.Control.MakeLink(r.Context(), in.ID)
		return map[string]string{"link": link}, err
	})
	person("POST /v1/apply", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in ApplyRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		p, err := c.Propose(r.Context())
		if err != nil {
			return nil, err
		}
		return c.Control.Apply(r.Context(), by, p, in.Digest, in.Reason)
	})
	person("POST /v1/promote", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in PromoteRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return c.Control.Promote(r.Context(), by, in.Agent, in.Release, in.Stage, in.Reason)
	})
	person("POST /v1/halt", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in HaltRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return c.Control.Halt(r.Context(), by, in.Scope, in.Subject, in.Reason)
	})
	person("POST /v1/resume", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in HaltRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, c.Control.Resume(r.Context(), by, in.Scope, in.Subject, in.Reason)
	})
	person("POST /v1/settle", func(r *http.Request, by *sallyport.Person) (any, error) {
		var in SettleRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		unknowns, err := c.Past.Unknowns(r.Context())
		if err != nil {
			return nil, err
		}
		for _, u := range unknowns {
			if u.Call == in.Call {
				return struct{}{}, c.Control.Settle(r.Context(), by, u, in.As, in.Reason)
			}
		}
		return nil, sallyport.Refuse(sallyport.NotFound, "no unknown outcome of "+string(in.Call)+" is waiting to be settled", "sallyport status lists them")
	})
	host("POST /v1/runs", func(r *http.Request, key *control.Key) (any, error) {
		var in RunRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return c.Control.OpenRun(r.Context(), key, in.Stage, in.Envelope)
	})
	host("POST /v1/runs/{id}/close", func(r *http.Request, key *control.Key) (any, error) {
		var in sallyport.RunClose
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, c.Control.CloseRun(r.Context(), key, sallyport.RunID(r.PathValue("id")), in)
	})
	// A link proves its person; it is in the body so that no log holds it.
	mux.HandleFunc("POST /v1/login", func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, func() (any, error) {
			var in struct {
				Link string `json:"link"`
				Note string `json:"note"`
			}
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return c.Control.SignIn(r.Context(), in.Link, in.Note)
		})
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		c.fail(w, sallyport.Refuse(sallyport.NotFound, "there is no "+r.Method+" "+r.URL.Path, ""))
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

type (
	// Status is what status shows.
	Status struct {
		Pointers []control.Pointer                         `json:"pointers"`
		Halts    []sallyport.Halt                          `json:"halts"`
		Unknown  []control.Unknown                         `json:"unknown"`
		Latest   map[sallyport.AgentID]sallyport.ReleaseID `json:"latest"`
		Records  int64                                     `json:"records"`
	}
	// KeyRequest asks for a host or agent key.
	KeyRequest struct {
		Kind    sallyport.KeyKind   `json:"kind"`
		Agent   sallyport.AgentID   `json:"agent"`
		Release sallyport.ReleaseID `json:"release,omitempty"`
		Stage   sallyport.Stage     `json:"stage"` // the highest it may reach
		Days    int                 `json:"days"`
		Note    string              `json:"note,omitempty"`
	}
	// ApplyRequest applies the server's project directory.
	ApplyRequest struct {
		Digest sallyport.Digest `json:"digest,omitempty"`
		Reason string           `json:"reason,omitempty"`
	}
	// PromoteRequest moves a stage pointer.
	PromoteRequest struct {
		Agent   sallyport.AgentID   `json:"agent"`
		Release sallyport.ReleaseID `json:"release,omitempty"`
		Stage   sallyport.Stage     `json:"stage"`
		Reason  string              `json:"reason"`
	}
	// HaltRequest pulls or releases the kill switch.
	HaltRequest struct {
		Scope   sallyport.HaltScope `json:"scope"`
		Subject string              `json:"subject,omitempty"`
		Reason  string              `json:"reason"`
	}
	// SettleRequest settles an unknown outcome.
	SettleRequest struct {
		Call   sallyport.CallID `json:"call"`
		As     string           `json:"as"`
		Reason string           `json:"reason"`
	}
	// RunRequest opens a run.
	RunRequest struct {
		Stage sallyport.Stage `json:"stage,omitempty"`
		sallyport.Envelope
	}
)

func bearer(r *http.Request) string {
	scheme, credential, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return credential
}

func read(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return sallyport.Refuse(sallyport.BadRequest, "the request body could not be read", "")
	}
	if len(body) > maxBody {
		return sallyport.Refuse(sallyport.BadRequest, "the request body is longer than 1 MiB", "")
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return sallyport.Refuse(sallyport.BadRequest, "the request body: "+err.Error(), "send one JSON object with the documented members")
	}
	return nil
}

func (c Config) answer(w http.ResponseWriter, _ *http.Request, do func() (any, error)) {
	out, err := do()
	if err != nil {
		c.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		c.Log.Debug("an answer was not taken", "err", err)
	}
}

// statuses of refusals; any other code is a conflict with the state of things.
var statuses = map[sallyport.Code]int{
	sallyport.Unauthenticated: http.StatusUnauthorized,
	sallyport.NotPermitted:    http.StatusForbidden,
	sallyport.NotFound:        http.StatusNotFound,
	sallyport.NoRun:           http.StatusNotFound,
	sallyport.BadRequest:      http.StatusBadRequest,
	sallyport.BadConfig:       http.StatusUnprocessableEntity,
	sallyport.NotReady:        http.StatusServiceUnavailable,
}

func (c Config) fail(w http.ResponseWriter, err error) {
	var r *sallyport.Refusal
	status := http.StatusConflict
	if !errors.As(err, &r) {
		c.Log.Error("a request could not be served", "err", err)
		r, status = sallyport.Refuse(sallyport.Internal500, "Sallyport met a fault of its own", "look at its log"), http.StatusInternalServerError
	} else if s, ok := statuses[r.Code]; ok {
		status = s
	}
	body, _ := json.Marshal(map[string]any{"type": "about:blank", "title": r.Reason, "status": status, "code": r.Code, "detail": r.Hint})
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
