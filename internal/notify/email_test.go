package notify_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"maps"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/config"
	"sallyport/internal/control"
	"sallyport/internal/notify"
)

// mailServer is an SMTP server that takes what is sent to it.
type mailServer struct {
	t        *testing.T
	addr     string
	cert     tls.Certificate
	roots    *x509.CertPool
	starttls bool
	implicit bool
	refuse   string // the recipient that is not known
	mu       sync.Mutex
	letters  []letter
	clear    int // sign-ins without TLS
}

type letter struct {
	from, user string
	to         []string
	secure     bool
	text       []byte
}

func newMailServer(t *testing.T, starttls, implicit bool) *mailServer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := &mailServer{t: t, starttls: starttls, implicit: implicit, roots: x509.NewCertPool(), cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	s.roots.AddCert(cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return s
}

func (s *mailServer) serve(c net.Conn) {
	defer func() { c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	secure := false
	if s.implicit {
		c, secure = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}}), true
	}
	in := bufio.NewReader(c)
	say := func(line string) { _, _ = io.WriteString(c, line+"\r\n") }
	say("220 mail.example.com")
	var it letter
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-mail.example.com")
			if s.starttls && !secure {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			c, secure = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}}), true
			in = bufio.NewReader(c)
		case "AUTH":
			raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			if !secure {
				s.mu.Lock()
				s.clear++
				s.mu.Unlock()
			}
			if it.user = string(raw); it.user != "\x00sallyport\x00hunter2" {
				say("535 no")
				continue
			}
			say("235 yes")
		case "MAIL":
			it.from, it.secure = rest, secure
			say("250 yes")
		case "RCPT":
			if s.refuse != "" && strings.Contains(rest, s.refuse) {
				say("550 nobody has that name here")
				continue
			}
			it.to = append(it.to, rest)
			say("250 yes")
		case "DATA":
			say("354 go on")
			var text bytes.Buffer
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(strings.TrimPrefix(line, "."))
			}
			it.text = text.Bytes()
			s.mu.Lock()
			s.letters = append(s.letters, it)
			s.mu.Unlock()
			it = letter{}
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what?")
		}
	}
}

func (s *mailServer) took() []letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.letters)
}

func (s *mailServer) settings(o *outbox) notify.Config {
	c := settings(o)
	c.Roots = s.roots
	c.To.Email = &config.Email{
		Server: s.addr, From: "sallyport@example.com", Username: "sallyport", Password: "env:SMTP",
		To: map[sallyport.Role][]string{
			sallyport.Approver: {"ana@example.com", "ben@example.com"},
			sallyport.Operator: {"ana@example.com", "ops@example.com"},
		},
	}
	c.Secret = func(string) (string, error) { return "hunter2", nil }
	return c
}

// read takes a letter apart as a mail program does.
func read(t testing.TB, text []byte) (*mail.Message, string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%q", err, text)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	return m, string(body)
}

// TestEmail: everybody who holds a role gets one letter about each event that concerns
// them, over TLS.
func TestEmail(t *testing.T) {
	o := newOutbox(t)
	s := newMailServer(t, true, false)
	n := notify.New(s.settings(o))
	a := o.asks("apr_1")
	n.Round(t.Context())
	n.Round(t.Context())
	o.pass(20 * time.Minute)
	n.Round(t.Context())
	o.decide(a.ID, sallyport.ApprovalApproved)
	n.Round(t.Context())
	got := map[string][]string{}
	for _, l := range s.took() {
		m, body := read(t, l.text)
		subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
		if err != nil || !l.secure || len(l.to) != 1 || l.from != "FROM:<sallyport@example.com>" {
			t.Errorf("%+v, %v", l, err)
		}
		to, err := m.Header.AddressList("To")
		if err != nil || len(to) != 1 || l.to[0] != "TO:<"+to[0].Address+">" {
			t.Errorf("to %v, %v: %v", to, l.to, err)
		}
		got[to[0].Address] = append(got[to[0].Address], subject)
		if _, err := m.Header.Date(); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"https://sallyport.example.com/approvals/apr_1\r\n", "large-refunds: refunds above 100 EUR are approved by people", "risk      high"} {
			if !strings.Contains(body, want) {
				t.Errorf("%q is not in\n%s", want, body)
			}
		}
		if strings.Contains(body, secretArgument) || strings.Contains(body, "?") {
			t.Errorf("it holds arguments, or a link that does more than lead:\n%s", body)
		}
	}
	of := "payments/refund by support in production"
	want := map[string][]string{
		"ana@example.com": {"Approval asked: " + of, "Approval still waits: " + of, "Approved: " + of},
		"ben@example.com": {"Approval asked: " + of, "Approved: " + of},
		"ops@example.com": {"Approval still waits: " + of, "Approved: " + of},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEmailTLS(t *testing.T) {
	for _, c := range []struct {
		name                      string
		starttls, implicit, local bool
		distrusted                bool
		want                      string
	}{
		{name: "STARTTLS", starttls: true},
		{name: "from the beginning", implicit: true},
		{name: "none, on this machine", local: true},
		{name: "none, elsewhere", want: "nothing is sent to it in the clear"},
		{name: "of somebody else", starttls: true, distrusted: true, want: "certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOutbox(t)
			s := newMailServer(t, c.starttls, c.implicit)
			cfg := s.settings(o)
			if c.distrusted {
				cfg.Roots = x509.NewCertPool()
			}
			a := o.asks("apr_1")
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := notify.Mail(ctx, &cfg, "ana@example.com", c.implicit, c.local, &sallyport.Notice{ID: "ntc_1", Event: sallyport.ApprovalAsked}, a)
			if c.want == "" && (err != nil || len(s.took()) != 1 || s.took()[0].secure == c.local) {
				t.Errorf("%v: %+v", err, s.took())
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || len(s.took()) != 0 || s.clear != 0) {
				t.Errorf("%v: %d letters, %d passwords in the clear", err, len(s.took()), s.clear)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("an error holds the password: %v", err)
			}
		})
	}
}

// TestOneAddressIsWrong: the others get their letters.
func TestOneAddressIsWrong(t *testing.T) {
	o := newOutbox(t)
	s := newMailServer(t, true, false)
	s.refuse = "ana@"
	n := notify.New(s.settings(o))
	o.asks("apr_1")
	n.Round(t.Context())
	if l := s.took(); len(l) != 1 || l[0].to[0] != "TO:<ben@example.com>" {
		t.Errorf("%+v", l)
	}
	if o.left() != 1 {
		t.Errorf("%d notices are left, want that of the wrong address", o.left())
	}
}

// FuzzLetter: whatever names and reasons say, a letter has the headers it has to have, no
// other, and one line for each field.
func FuzzLetter(f *testing.F) {
	f.Add("refund", "refunds above 100 EUR")
	f.Add("refund\r\nBcc: eve@example.com", "why\r\n\r\nApprove here: https://evil.example.com")
	f.Add("=?utf-8?q?Bcc:_eve?=", "\u202egnp.exe\u2028x")
	f.Add(strings.Repeat("ü", 400), "\xff\x00.\r\n.\r\n")
	c := notify.Config{
		To:   config.Notify{Email: &config.Email{Server: "smtp.example.com:587", From: "sallyport@example.com"}},
		Page: func(id sallyport.ApprovalID) string { return "https://sallyport.example.com/approvals/" + string(id) },
	}
	f.Fuzz(func(t *testing.T, tool, says string) {
		a := &control.Approval{Approval: sallyport.Approval{
			ID: "apr_1", State: sallyport.ApprovalPending, Call: "call_1", Tier: sallyport.TierLow,
			Bound: sallyport.Bound{Agent: "support", Stage: sallyport.Production, Kind: sallyport.KindTool, Upstream: "payments", Tool: tool},
			Needs: []sallyport.Need{{Policy: "p", Says: says}},
		}}
		text, err := notify.Letter(&c, "ana@example.com", &sallyport.Notice{ID: "ntc_1", Event: sallyport.ApprovalAsked}, a)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(bytes.ReplaceAll(text, []byte("\r\n"), nil), []byte("\n")) {
			t.Fatalf("a bare line break: %q", text)
		}
		for line := range bytes.SplitSeq(text, []byte("\r\n")) {
			if len(line) > 998 {
				t.Fatalf("a line of %d bytes", len(line))
			}
		}
		m, body := read(t, text)
		want := []string{"Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "References", "Subject", "To"}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(m.Header))); diff != "" {
			t.Fatal(diff)
		}
		if n := strings.Count(body, "\n"); n != 14 {
			t.Fatalf("%d lines:\n%s", n, body)
		}
	})
}
