package console

import (
	"crypto/rand"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport"
)

// signInBody is the sign-in page.
type signInBody struct {
	Token string
	Link  string // as it was typed, or as the address has it
	Next  string
	Wrong string // what was wrong with it
	As    sallyport.PersonID
}

var linkPattern = regexp.MustCompile(`sp_link_[A-Za-z0-9_-]{20,120}`)

// signInPage changes nothing, wherever its address was opened: a link in it is used by the
// button.
func (s *server) signInPage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.signInForm(w, r, http.StatusOK, linkPattern.FindString(q.Get("link")), q.Get("next"), "")
}

// signInForm shows the form. Its token is made of the cookie of an earlier session, or of
// one that is good for nothing else.
func (s *server) signInForm(w http.ResponseWriter, r *http.Request, status int, link, next, wrong string) {
	cookie := cookieOf(r)
	if cookie == "" {
		cookie = "form_" + rand.Text()
		setCookie(w, r, cookie, s.Now().Add(time.Hour))
	}
	body := signInBody{Token: tokenOf(cookie), Link: link, Next: local(next), Wrong: wrong}
	if person, err := s.Who.Person(r.Context(), cookie); err == nil {
		body.As = person.ID
	}
	s.show(w, r, status, nil, &page{Title: "Sign in", Name: "login", Body: body})
}

// signIn uses the link up and gives the browser the person's credential.
func (s *server) signIn(w http.ResponseWriter, r *http.Request) {
	if err := readForm(w, r, cookieOf(r)); err != nil {
		s.fail(w, r, nil, err)
		return
	}
	typed, next := strings.TrimSpace(r.PostForm.Get("link")), r.PostForm.Get("next")
	link := linkPattern.FindString(typed) // of what was copied, maybe with the command around it
	if link == "" {
		if utf8.RuneCountInString(typed) > 200 {
			typed = ""
		}
		s.signInForm(w, r, http.StatusUnprocessableEntity, typed, next, "That is no sign-in link: one begins with sp_link_.")
		return
	}
	made, err := s.Control.SignIn(r.Context(), link, "browser")
	if err != nil {
		refusal := s.refusalOf(err)
		s.signInForm(w, r, statusOf(refusal), "", next, sentence(refusal))
		return
	}
	setCookie(w, r, made.Secret, made.Key.Expires)
	http.Redirect(w, r, local(next), http.StatusSeeOther)
}

// signOut ends the credential, not only the cookie.
func (s *server) signOut(w http.ResponseWriter, r *http.Request, who *session) {
	key, err := s.Who.Key(r.Context(), who.credential)
	if err == nil {
		err = s.Control.SignOut(r.Context(), who.person, key)
	}
	if err != nil {
		s.fail(w, r, who, err)
		return
	}
	setCookie(w, r, "", time.Time{})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// sentence is a refusal as people read it.
func sentence(r *sallyport.Refusal) string {
	text := capital(r.Reason)
	if r.Hint != "" {
		text += ": " + r.Hint
	}
	return text + "."
}

func capital(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return strings.ToUpper(string(first)) + text[size:]
}
