// Package console is the pages for people: the front page, signing in, and deciding about
// calls that wait. They are rendered here, hold no scripts, and load nothing.
//
// A person signs in with a one-time link and gets their credential in a cookie. What they
// see and may do is what the API shows and lets them do: both ask package control. Each
// form carries a token that is made of the cookie, and no request of another origin's page
// is taken.
package console

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/control"
)

// Who knows credentials.
type Who interface {
	// Person refuses (code not_permitted) a credential that is not a person's.
	Person(ctx context.Context, credential string) (*sallyport.Person, error)
	// Key refuses (code unauthenticated) a credential that is not good now.
	Key(ctx context.Context, credential string) (*control.Key, error)
}

// Config is what the pages need. All fields are required.
type Config struct {
	Who     Who
	Control *control.Control
	Now     func() time.Time
	Log     *slog.Logger
}

// Paths are the patterns of what [Handler] serves.
var Paths = []string{"/login", "/logout", "/approvals", "/approvals/{id}"}

// maxForm bounds what a browser sends, in bytes: edited arguments, each byte of which may
// take three.
const maxForm = 1 << 20

type server struct{ Config }

// Handler serves the pages of [Paths].
func Handler(c Config) http.Handler {
	s := &server{c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", s.signInPage)
	mux.HandleFunc("POST /login", s.signIn)
	mux.HandleFunc("POST /logout", s.persons(s.signOut))
	mux.HandleFunc("GET /approvals", s.persons(s.waiting))
	mux.HandleFunc("GET /approvals/{id}", s.persons(s.approval))
	mux.HandleFunc("POST /approvals/{id}", s.persons(s.decide))
	origins := http.NewCrossOriginProtection()
	origins.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, nil, sallyport.Refuse(sallyport.NotPermitted, "the form was sent by a page of another origin", "open the page here and send it from there"))
	}))
	return origins.Handler(mux)
}

// session is a person who is signed in.
type session struct {
	person     *sallyport.Person
	credential string
}

// persons lets those through who are signed in as persons with a role, and others sign in
// first. What a form brings has been read and is of this session.
func (s *server) persons(next func(http.ResponseWriter, *http.Request, *session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		credential := cookieOf(r)
		if credential == "" && r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
			// The cookie is not sent where a page elsewhere led; from here it is.
			s.show(w, r, http.StatusOK, nil, &page{Title: "Continue", Name: "continue", Refresh: true, Body: r.URL.Path})
			return
		}
		person, err := s.Who.Person(r.Context(), credential)
		if refusal, ok := errors.AsType[*sallyport.Refusal](err); ok && refusal.Code == sallyport.Unauthenticated {
			if r.Method == http.MethodGet {
				http.Redirect(w, r, "/login?next="+local(r.URL.Path), http.StatusSeeOther)
				return
			}
			s.signInForm(w, r, http.StatusUnauthorized, "", r.URL.Path, "You are not signed in any more, and nothing was done. Sign in and do it again.")
			return
		}
		if err == nil {
			err = control.Look(person)
		}
		who := &session{person, credential}
		if err == nil && r.Method == http.MethodPost {
			err = readForm(w, r, credential)
		}
		if err != nil {
			s.fail(w, r, nil, err)
			return
		}
		next(w, r, who)
	}
}

// readForm reads a form and refuses one that was not made for the cookie.
func readForm(w http.ResponseWriter, r *http.Request, cookie string) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return sallyport.Refuse(sallyport.BadRequest, "the form cannot be read, or is longer than can be taken", "open the page again and send it from there")
	}
	if cookie == "" || !hmac.Equal([]byte(r.PostForm.Get("token")), []byte(tokenOf(cookie))) {
		return sallyport.Refuse(sallyport.NotPermitted, "the form is not of this session, or the browser keeps no cookies", "open the page again and send it from there")
	}
	return nil
}

// tokenOf binds a form to a cookie, which no other page can read.
func tokenOf(cookie string) string {
	mac := hmac.New(sha256.New, []byte(cookie))
	mac.Write([]byte("a form of the console"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// A browser lets nobody but this origin set a cookie whose name begins with __Host-.
const (
	cookieName   = "sallyport"
	secureCookie = "__Host-sallyport"
)

// secure reports whether the browser came by TLS, which something in front does.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" || strings.HasPrefix(r.Header.Get("Origin"), "https://")
}

// cookieOf is the value of the session's cookie, empty if there is none.
func cookieOf(r *http.Request) string {
	for _, name := range []string{secureCookie, cookieName} {
		if c, err := r.Cookie(name); err == nil {
			return c.Value
		}
	}
	return ""
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, expires time.Time) {
	c := &http.Cookie{Name: cookieName, Value: value, Path: "/", Expires: expires, HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if secure(r) {
		c.Name, c.Secure = secureCookie, true
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// approvalPath is where one may want to go from the sign-in page.
var approvalPath = regexp.MustCompile(`^/approvals(/apr_[0-9a-z]{26})?$`)

// local is a page of this console, the list of approvals if path is none.
func local(path string) string {
	if approvalPath.MatchString(path) {
		return path
	}
	return "/approvals"
}

// page is what the frame around each page shows. Body is for the template of the name.
type page struct {
	Title   string
	Name    string // of the template
	Person  sallyport.PersonID
	Token   string
	Refresh bool // at once
	Wide    bool
	Body    any
}

//go:embed page/*.html
var pages embed.FS

//go:embed style.css
var style string

var (
	templates = template.Must(template.New("").Funcs(template.FuncMap{
		"show": show, "plain": plain, "when": when, "brief": brief, "capital": capital, "length": utf8.RuneCountInString,
		"percent": percent, "median": median, "drills": drills, "knows": knows, "style": func() template.CSS { return template.CSS(style) },
	}).ParseFS(pages, "page/*.html"))
	policy = func() string {
		sum := sha256.Sum256([]byte(style))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	}()
)

// show writes a page.
func (s *server) show(w http.ResponseWriter, r *http.Request, status int, who *session, p *page) {
	if who != nil {
		p.Person, p.Token = who.person.ID, tokenOf(who.credential)
	}
	if err := write(w, status, p); err != nil {
		s.Log.Error("a page could not be written", "page", p.Name, "err", err)
		http.Error(w, "Sallyport met a fault of its own", http.StatusInternalServerError)
	}
}

func write(w http.ResponseWriter, status int, p *page) error {
	var main, whole bytes.Buffer
	if err := templates.ExecuteTemplate(&main, p.Name, p); err != nil {
		return err
	}
	if err := templates.ExecuteTemplate(&whole, "frame", struct {
		*page
		Main template.HTML
	}{p, template.HTML(main.String())}); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // with less, browsers do not say where a form comes from
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(whole.Bytes()) // the browser may have gone
	return nil
}

// Front is the page at /.
func Front(w http.ResponseWriter, _ *http.Request) {
	if err := write(w, http.StatusOK, &page{Title: "Sallyport is running", Name: "front"}); err != nil {
		http.Error(w, "Sallyport is running", http.StatusOK)
	}
}

// statuses are those of the codes that people meet here; of others it is 409.
var statuses = map[sallyport.Code]int{
	sallyport.Unauthenticated: http.StatusUnauthorized, sallyport.NotPermitted: http.StatusForbidden, sallyport.NotFound: http.StatusNotFound,
	sallyport.BadRequest: http.StatusBadRequest, sallyport.InvalidArguments: http.StatusUnprocessableEntity,
	sallyport.NotReady: http.StatusServiceUnavailable, sallyport.Internal500: http.StatusInternalServerError,
}

func statusOf(r *sallyport.Refusal) int {
	if status, ok := statuses[r.Code]; ok {
		return status
	}
	return http.StatusConflict
}

// refusalOf is what an error says to people. Faults are logged, and say nothing of the
// insides of the program.
func (s *server) refusalOf(err error) *sallyport.Refusal {
	if r, ok := errors.AsType[*sallyport.Refusal](err); ok {
		return r
	}
	s.Log.Error("a page could not be served", "err", err)
	return sallyport.Refuse(sallyport.Internal500, "Sallyport met a fault of its own", "it may have happened all the same: look again, and have an operator look at the log")
}

// fail shows what went wrong, and nothing else.
func (s *server) fail(w http.ResponseWriter, r *http.Request, who *session, err error) {
	refusal := s.refusalOf(err)
	s.show(w, r, statusOf(refusal), who, &page{Title: "That did not work", Name: "refused", Body: refusal})
}
