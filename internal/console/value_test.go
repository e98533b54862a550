package console

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/canonical"
	"sallyport/internal/control"
)

// readable is what a person reads of HTML that show made.
func readable(t testing.TB, shown string) string {
	t.Helper()
	bare := regexp.MustCompile(`</?bdi>|<span class="unseen">|</span>`).ReplaceAllString(shown, "")
	if strings.ContainsAny(bare, "<>") {
		t.Errorf("markup of others: %q", shown)
	}
	return html.UnescapeString(bare)
}

func TestShow(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"plain & <b>bold</b>":   "plain & <b>bold</b>",
		"two\nlines":            "two\nlines",
		"tab\tbell\a":           "tabU+0009bellU+0007",
		"\u202eexe.gnp\u202c":   "U+202Eexe.gnpU+202C",
		"שלום":                  "שלום",
		"a\u00a0b\u3000c\u2800": "aU+00A0bU+3000cU+2800",
		"\u200b\u200b\u200bx":   "U+200B ×3x",
		"\xff\xfe":              "not UTF-8 ×2",
		"\U000e0041":            "U+E0041",
		"\u200b\u200c\u200b\u200c\u200b\u200c\u200b\u200c\u200b\u200c": "U+200BU+200CU+200BU+200CU+200BU+200CU+200BU+200Cand 2 more that are not seen",
	} {
		if got := readable(t, string(show(text))); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	n, err := parse([]byte(`{"b":1.10,"a/~":[true,null,{"x":""}],"e":{},"big":123456789012345678901234567890}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	n.each(func(n *node) { got = append(got, n.pointer+" "+n.Name+" "+n.Kind+" "+n.Text) })
	want := []string{
		"  object ", "/b b number 1.10", "/a~1~0 a/~ list ", "/a~1~0/0 1 yes or no yes (true)", "/a~1~0/1 2 nothing nothing (null)", "/a~1~0/2 3 object ",
		"/a~1~0/2/x x text ", "/e e object ", "/big big number 123456789012345678901234567890",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	if n, err = parse([]byte(deep)); err != nil {
		t.Fatal(err)
	}
	last := ""
	n.each(func(n *node) { last = n.Text })
	if last != strings.Repeat(`{"a":`, 100-deepest)+"1"+strings.Repeat("}", 100-deepest) {
		t.Errorf("the rest of what is too deep is %q", last)
	}
	for _, bad := range []string{"", "{", `{"a":1}{}`, `{"a" 1}`} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// FuzzShow: whatever arguments hold, each character of them is seen, no markup of theirs
// is left, a page stays within some multiple of them, and what is offered for editing says
// the same.
func FuzzShow(f *testing.F) {
	for _, seed := range []string{
		`{"a":"\u202e<script>","b":[1,2.50,null,true,{"c":"\ud83d\ude00\u200b"}]}`, `{"\u0000":"\udb40\udc41"}`, `[]`, `"x"`, "{\"a\":\"\u200b\ufeff\"}", `{"a":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before, err := canonical.JSON(raw)
		if err != nil {
			return // the gateway takes none of these
		}
		n, err := parse(raw)
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		var page strings.Builder
		if err := templates.ExecuteTemplate(&page, "value", n); err != nil {
			t.Fatal(err)
		}
		for _, r := range page.String() {
			if !seen(r) {
				t.Fatalf("%q is shown with %U", raw, r)
			}
		}
		n.each(func(n *node) {
			readable(t, string(show(n.Name)))
			readable(t, string(show(n.Text)))
		})
		text := editable(raw)
		for _, r := range text {
			if !seen(r) {
				t.Fatalf("%q is edited with %U", raw, r)
			}
		}
		if after, err := canonical.JSON([]byte(text)); err != nil || string(after) != string(before) {
			t.Fatalf("%q is edited as %q: %v", raw, text, err)
		}
	})
}

// TestLongText: all of it is there, and has a box of its own.
func TestLongText(t *testing.T) {
	raw, err := json.Marshal(map[string]string{"a": strings.Repeat("long ", 50_000) + strings.Repeat("\u200b", 50_000) + "the end"})
	if err != nil {
		t.Fatal(err)
	}
	n, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	if err := templates.ExecuteTemplate(&page, "value", n); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the end", "U+200B ×50000", `role="region"`, "300007 characters"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if page.Len() > 300_000 {
		t.Errorf("%d bytes of page", page.Len())
	}
}

// TestTrace: where values came from stands beside them, and what has no place among the
// arguments is not lost.
func TestTrace(t *testing.T) {
	s := &server{Config{Now: func() time.Time { return time.Unix(1e9, 0) }}}
	a := &control.ApprovalDetail{Approval: control.Approval{
		Arguments: json.RawMessage(`{"to":["ada@example.com","eve@example.com"],"memo":"x"}`),
		Facts: json.RawMessage(`{"hour":3,"provenance":{"untrusted_args":["to"],"args":[
			{"pointer":"/to/0","kind":"authority","trusted":true,"source":{"kind":"task","integrity":"user"}},
			{"pointer":"/to/1","kind":"authority","trusted":false,"why":"it was found only in content that anybody may have written","source":{"kind":"result","upstream":"mail","tool":"read","pointer":"/body","integrity":"untrusted"}},
			{"pointer":"/gone","kind":"authority","trusted":false,"why":"nobody named it, and no result held it"}]}}`),
	}, Asks: &control.ToolAsked{ArgKinds: map[string]sallyport.ArgKind{"memo": sallyport.Content}}}
	a.Bound.Stage = sallyport.Production
	b, err := s.approvalBody(a, &session{&sallyport.Person{ID: "cam", Roles: []sallyport.Role{sallyport.Approver}}, "sp_person_x"}, form{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	b.Arguments.each(func(n *node) {
		for _, o := range n.From {
			got = append(got, n.pointer+" "+o.Text())
		}
	})
	for _, o := range b.Lost {
		got = append(got, "lost "+o.Pointer+" "+o.Text())
	}
	want := []string{
		"/to/0 Found in the task of the run",
		"/to/1 Not trusted: it was found only in content that anybody may have written. Seen in a result of mail/read, at /body",
		"lost /gone Not trusted: nobody named it, and no result held it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if b.Arguments.Items[0].Means != "who, where or which (nobody has declared it)" || b.Arguments.Items[1].Means != "what is said" {
		t.Errorf("meanings: %q %q", b.Arguments.Items[0].Means, b.Arguments.Items[1].Means)
	}
}

// TestStyle: the page's policy allows its style, as the browser sees it, and nothing else.
func TestStyle(t *testing.T) {
	w := httptest.NewRecorder()
	Front(w, nil)
	_, rest, _ := strings.Cut(w.Body.String(), "<style>")
	css, _, ok := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(css))
	if !ok || !strings.Contains(w.Header().Get("Content-Security-Policy"), "style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';") {
		t.Errorf("%s does not allow the style", w.Header().Get("Content-Security-Policy"))
	}
}

func TestLasting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Minute: "0 seconds", 499 * time.Millisecond: "0 seconds", time.Second: "1 second", 59*time.Second + 600*time.Millisecond: "1 minute", 61 * time.Second: "1 minute 1 second",
		4*time.Minute + 59*time.Second: "4 minutes 59 seconds", 5*time.Minute + 30*time.Second: "5 minutes", time.Hour: "1 hour", 90 * time.Minute: "1 hour 30 minutes", 7 * 24 * time.Hour: "7 days", 25 * time.Hour: "1 day 1 hour",
	} {
		if got := lasting(d); got != want {
			t.Errorf("%v lasts %q, want %q", d, got, want)
		}
	}
}

func TestLocal(t *testing.T) {
	const id = "/approvals/apr_01k00000000000000000000000"
	for path, want := range map[string]string{
		"/approvals": "/approvals", id: id, "": "/approvals", "//evil.example": "/approvals", "/\\evil.example": "/approvals", "https://evil.example/approvals": "/approvals",
		"/approvals/../v1": "/approvals", id + "\r\nSet-Cookie: x=y": "/approvals", id + "\n": "/approvals", "/login": "/approvals", "/approvals?x": "/approvals",
	} {
		if got := local(path); got != want {
			t.Errorf("%q leads to %q, want %q", path, got, want)
		}
	}
	if !utf8.ValidString(style) || strings.Contains(style, "/*") {
		t.Error("the style has a comment, which templates would take out")
	}
}
