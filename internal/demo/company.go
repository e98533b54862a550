// Package demo is the company that `sallyport up --demo` starts: three MCP servers
// that hold state (crm, payments, mail), and a scripted support agent that calls
// them through Sallyport. All of its people and addresses are made up; the
// addresses are in a domain set aside for examples (RFC 2606).
package demo

import (
	"bytes"
	"crypto/rand"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"sallyport/internal/schema"
	"sallyport/internal/wire"
)

// Names are the company's servers.
var Names = []string{"crm", "payments", "mail"}

// Company is the servers and what they hold. It is safe for concurrent use.
type Company struct {
	servers map[string]*server

	mu        sync.Mutex
	customers []*customer
	payments  []*payment
	outbox    []message
	notes     int // how many there are of each, for the next id
	refunds   int
	calls     map[string][]Call
}

// Call is one tools/call that arrived at a server with its token, whatever came of
// it.
type Call struct {
	Tool string
	Args json.RawMessage // as they arrived; nil if there were none
	Era  wire.Era
}

type customer struct {
	ID    string `json:"id"`
	Email string `json:"email"`
	Name  string `json:"name"`
	City  string `json:"city"`
	Plan  string `json:"plan"`
	Since string `json:"since"`
	Notes []note `json:"notes"`
}

type note struct {
	Note string `json:"note"`
	Text string `json:"text"`
}

type payment struct {
	customer string
	Payment  string `json:"payment"`
	Date     string `json:"date"`
	Purpose  string `json:"purpose"`
	Amount   int    `json:"amount"`   // euros
	Refunded int    `json:"refunded"` // euros
}

type message struct {
	Message string `json:"message"`
	To      string `json:"to"`
	Subject string `json:"subject"`
	Body    string `json:"body"`
}

//go:embed tools
var toolFiles embed.FS

// New founds the company. Its data are the same every time, its tokens are not.
func New() *Company {
	c := &Company{
		servers: map[string]*server{},
		calls:   map[string][]Call{},
		customers: []*customer{
			{"cus_0001", "ada@example.com", "Ada Lindqvist", "Malmo", "plus", "2023-02-14", []note{{"note_0001", "Prefers to be written to, not called."}}},
			{"cus_0002", "bruno@example.com", "Bruno Costa", "Porto", "basic", "2024-06-03", []note{}},
			{"cus_0003", "chiara@example.com", "Chiara Moreau", "Turin", "business", "2022-11-21", []note{{"note_0002", "Invoices go to the head office."}}},
			{"cus_0004", "david@example.com", "David Keller", "Graz", "basic", "2025-01-09", []note{}},
			{"cus_0005", "elif@example.com", "Elif Dahl", "Bergen", "plus", "2023-08-30", []note{{"note_0003", "Moved in March; the old address is wrong."}}},
			{"cus_0006", "farid@example.com", "Farid Novak", "Ghent", "business", "2021-04-17", []note{}},
		},
		payments: []*payment{
			{"cus_0001", "pay_1001", "2026-08-04", "Plus plan, one year", 1200, 0},
			{"cus_0001", "pay_1002", "2026-09-12", "Express delivery", 80, 0},
			{"cus_0001", "pay_1003", "2026-10-02", "Spare parts", 65, 0},
			{"cus_0002", "pay_1004", "2026-07-19", "Basic plan, one year", 240, 0},
			{"cus_0002", "pay_1005", "2026-10-11", "Repair", 95, 95},
			{"cus_0003", "pay_1006", "2026-05-02", "Business plan, one year", 3600, 0},
			{"cus_0003", "pay_1007", "2026-09-28", "Training", 450, 0},
			{"cus_0004", "pay_1008", "2026-06-15", "Basic plan, one year", 240, 0},
			{"cus_0005", "pay_1009", "2026-08-23", "Plus plan, one year", 1200, 300},
			{"cus_0005", "pay_1010", "2026-10-05", "Express delivery", 80, 0},
			{"cus_0006", "pay_1011", "2026-04-30", "Business plan, one year", 3600, 0},
			{"cus_0006", "pay_1012", "2026-09-01", "Installation", 780, 0},
		},
		notes: 3,
	}
	c.add("crm", "Customers", "Look a customer up by e-mail address first; the other tools take its id.", map[string]run{
		"find_customer": c.findCustomer, "get_customer": c.getCustomer, "add_note": c.addNote,
	})
	c.add("payments", "Payments", "Amounts are whole euros. A refund cannot be taken back.", map[string]run{
		"list_payments": c.listPayments, "refund": c.refund,
	})
	c.add("mail", "Mail", "Mails are sent at once.", map[string]run{
		"send_mail": c.sendMail, "list_outbox": c.listOutbox,
	})
	return c
}

// run does what a tool does, with arguments that fit its input schema, and returns
// the structured result or a complaint the caller can act on. It holds the
// company's lock.
type run func(args []byte) (result any, complaint string)

func (c *Company) add(name, title, instructions string, runs map[string]run) {
	text, err := toolFiles.ReadFile("tools/" + name + ".json")
	if err != nil {
		panic("demo: " + err.Error()) // the files are part of the program
	}
	definitions, err := wire.Elements(bytes.TrimSpace(text))
	if err != nil {
		panic("demo: tools of " + name + ": " + err.Error())
	}
	s := &server{
		name: name, company: c, token: rand.Text(), instructions: instructions,
		info:     fmt.Appendf(nil, `{"name":"demo-%s","title":"%s","version":"1.0.0"}`, name, title),
		sessions: map[string]bool{}, tools: map[string]tool{},
	}
	for _, d := range definitions {
		t := tool{}
		var named struct {
			Name        string
			InputSchema json.RawMessage
		}
		if err := json.Unmarshal(d, &named); err != nil {
			panic("demo: tools of " + name + ": " + err.Error())
		}
		if t.input, err = schema.Compile(named.InputSchema); err != nil {
			panic("demo: " + named.Name + ": " + err.Error())
		}
		if t.run = runs[named.Name]; t.run == nil {
			panic("demo: nothing runs " + named.Name)
		}
		s.tools[named.Name] = t
		s.definitions = append(s.definitions, d)
	}
	c.servers[name] = s
}

// Handler serves one of the Names as an MCP server of both eras at any path, or is
// nil for another name.
func (c *Company) Handler(name string) http.Handler {
	if s := c.servers[name]; s != nil {
		return s
	}
	return nil
}

// Token is the bearer token a server asks for.
func (c *Company) Token(name string) string { return c.servers[name].token }

// Pins is the pins file of a server: what it says of itself, and its definitions
// byte for byte.
func (c *Company) Pins(name string) []byte {
	s := c.servers[name]
	out := fmt.Appendf(nil, "{\n  \"server\": {\n    \"protocolVersion\": %q,\n    \"capabilities\": %s,\n    \"serverInfo\": %s,\n    \"instructions\": %q\n  },\n  \"tools\": [\n    ",
		wire.Version20260728, capabilities, s.info, s.instructions)
	out = append(out, bytes.Join(s.definitions, []byte(",\n    "))...)
	return append(out, "\n  ]\n}\n"...)
}

// Calls are the calls that arrived at a server, in their order.
func (c *Company) Calls(name string) []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls[name])
}

// Refunded is what the payments server has paid back to all customers, in euros.
func (c *Company) Refunded() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0
	for _, p := range c.payments {
		sum += p.Refunded
	}
	return sum
}

// decode reads arguments that have been checked against their schema.
func decode[T any](raw []byte) (args T) {
	if err := json.Unmarshal(raw, &args); err != nil {
		panic("demo: arguments that fit their schema: " + err.Error())
	}
	return args
}

func (c *Company) customer(id string) *customer {
	for _, p := range c.customers {
		if p.ID == id {
			return p
		}
	}
	return nil
}

func (c *Company) findCustomer(raw []byte) (any, string) {
	args := decode[struct{ Email string }](raw)
	for _, p := range c.customers {
		if p.Email == args.Email {
			return struct {
				ID    string `json:"id"`
				Email string `json:"email"`
				Name  string `json:"name"`
			}{p.ID, p.Email, p.Name}, ""
		}
	}
	return nil, "no customer has the address " + args.Email
}

func (c *Company) getCustomer(raw []byte) (any, string) {
	args := decode[struct{ ID string }](raw)
	p := c.customer(args.ID)
	if p == nil {
		return nil, "no customer has the id " + args.ID
	}
	return p, ""
}

func (c *Company) addNote(raw []byte) (any, string) {
	args := decode[struct{ ID, Text string }](raw)
	p := c.customer(args.ID)
	if p == nil {
		return nil, "no customer has the id " + args.ID
	}
	c.notes++
	n := note{fmt.Sprintf("note_%04d", c.notes), args.Text}
	p.Notes = append(p.Notes, n)
	return struct {
		ID   string `json:"id"`
		Note string `json:"note"`
	}{p.ID, n.Note}, ""
}

func (c *Company) listPayments(raw []byte) (any, string) {
	args := decode[struct{ Customer string }](raw)
	if c.customer(args.Customer) == nil {
		return nil, "no customer has the id " + args.Customer
	}
	list := []*payment{}
	for _, p := range slices.Backward(c.payments) {
		if p.customer == args.Customer {
			list = append(list, p)
		}
	}
	return struct {
		Customer string     `json:"customer"`
		Payments []*payment `json:"payments"`
	}{args.Customer, list}, ""
}

func (c *Company) refund(raw []byte) (any, string) {
	args := decode[struct {
		Payment string
		Amount  float64 // an integer of at most four digits, however it is written
	}](raw)
	amount := int(args.Amount)
	i := slices.IndexFunc(c.payments, func(p *payment) bool { return p.Payment == args.Payment })
	if i < 0 {
		return nil, "there is no payment " + args.Payment
	}
	p := c.payments[i]
	if left := p.Amount - p.Refunded; amount > left {
		return nil, fmt.Sprintf("only %d EUR of %s are left to refund", left, p.Payment)
	}
	p.Refunded += amount
	c.refunds++
	return struct {
		Refund  string `json:"refund"`
		Payment string `json:"payment"`
		Amount  int    `json:"amount"`
	}{fmt.Sprintf("ref_%04d", c.refunds), p.Payment, amount}, ""
}

func (c *Company) sendMail(raw []byte) (any, string) {
	m := decode[message](raw)
	m.Message = fmt.Sprintf("msg_%04d", len(c.outbox)+1)
	c.outbox = append(c.outbox, m)
	return struct {
		Message string `json:"message"`
		To      string `json:"to"`
	}{m.Message, m.To}, ""
}

func (c *Company) listOutbox([]byte) (any, string) {
	list := []message{}
	for _, m := range slices.Backward(c.outbox) {
		list = append(list, m)
	}
	return struct {
		Messages []message `json:"messages"`
	}{list}, ""
}
