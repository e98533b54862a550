package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/control"
	"sallyport/internal/wire"
)

// shopDesk is the shop with the policies of examples/shop, and customers who confirm.
type shopDesk struct {
	*retail
	o    *office
	host *control.Key
	db   shopData
}

type shopData struct {
	Orders   map[string]shopOrder
	Products map[string]shopProduct
	Users    map[string]shopUser
}

type shopOrder struct {
	UserID  string `json:"user_id"`
	Status  string
	Items   []shopItem
	History []struct {
		Method string `json:"payment_method_id"`
		Amount float64
	} `json:"payment_history"`
}

type shopProduct struct {
	Variants map[string]struct{ Available bool }
}

type shopUser struct {
	Name struct {
		First string `json:"first_name"`
		Last  string `json:"last_name"`
	}
	Address struct{ Zip string }
	Email   string
	Methods map[string]struct {
		Source  string
		Balance float64
	} `json:"payment_methods"`
}

type shopItem struct {
	Item    string `json:"item_id"`
	Product string `json:"product_id"`
}

func openDesk(t *testing.T) *shopDesk {
	t.Helper()
	files, tasks := retailFiles(t, "")
	delete(files, "policies/all.cedar")
	var policies []string
	for name, text := range example(t, "shop") {
		files[name] = text
		policies = append(policies, name)
	}
	declared, err := os.ReadFile(filepath.Join("..", "..", "examples", "shop", "upstreams", "shop.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	files["upstreams/shop.yaml"] = string(declared)
	files["agents/clerk.yaml"] = asYAML(t, map[string]any{"agent": "clerk", "owner": "ana@example.com", "tier": "medium", "upstreams": []string{"shop"}, "policies": policies})
	d := &shopDesk{retail: startRetail(t, files, tasks)}
	d.agents.Approvals.Hold = time.Millisecond
	d.o = &office{Demo: &Demo{App: d.App, Person: d.person()}, t: t, cam: &sallyport.Person{ID: "customer@example.com", Roles: []sallyport.Role{sallyport.Approver}}}
	if err := d.Control.PutPerson(t.Context(), d.o.Person, *d.o.cam); err != nil {
		t.Fatal(err)
	}
	host, err := d.Control.MakeHostKey(t.Context(), d.o.Person, "clerk", sallyport.Sandbox, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	d.host = &host.Key
	if err := json.Unmarshal(unzipped(t, "retail_db.json.gz"), &d.db); err != nil {
		t.Fatal(err)
	}
	return d
}

// talk is one conversation with a customer.
type talk struct {
	*shopDesk
	token           string
	found, profiled bool            // the customer, and what the shop knows of them
	read            map[string]bool // orders
	confirms        bool            // the customer says yes to everything
}

// talks opens the run of a conversation. The customer's words are not in the envelope: a
// customer is not whom the clerk works for.
func (d *shopDesk) talks() *talk {
	d.t.Helper()
	run, err := d.Control.OpenRun(d.t.Context(), d.host, sallyport.Sandbox, sallyport.Envelope{Seed: 1})
	if err != nil {
		d.t.Fatal(err)
	}
	return &talk{shopDesk: d, token: run.Token, read: map[string]bool{}, confirms: true}
}

// What can become of a call.
const (
	byPolicy = "refused by policy"
	bySchema = "refused by the tool's schema"
	byShop   = "refused by the shop, after the customer's yes"
	waiting  = "held, and nobody says yes"
	done     = "done"
)

// does makes a call, confirms it if it is held and says what became of it.
func (c *talk) does(tool string, args any) (ending, text string, held bool) {
	c.t.Helper()
	raw, ok := args.(json.RawMessage)
	if !ok {
		raw = json.RawMessage(asYAML(c.t, args))
	}
	m := c.o.asks(c.token, tool, string(raw), true, "")
	if strings.Contains(string(m.Raw), wire.ResultInputRequired) {
		h := c.o.waits(m)
		if !c.confirms {
			m = c.o.asks(c.token, tool, string(raw), true, h.state)
			if !strings.Contains(string(m.Raw), wire.ResultInputRequired) {
				c.t.Errorf("nobody confirmed %s %s: %s", tool, raw, m.Raw)
			}
			return waiting, "", true
		}
		held = true
		c.o.says(c.o.cam, h.id, true)
		m = c.o.asks(c.token, tool, string(raw), true, h.state)
	}
	var result struct{ Content []struct{ Text string } }
	if err := json.Unmarshal(m.Result.Of(m.Raw), &result); err != nil || len(result.Content) != 1 {
		c.t.Fatalf("%s %s: %s: %v", tool, raw, m.Raw, err)
	}
	text = result.Content[0].Text
	switch code := codeOf(m); {
	case code == "denied":
		return byPolicy, text, held
	case code == "invalid_arguments":
		return bySchema, text, held
	case code != "":
		c.t.Errorf("%s %s: %s", tool, raw, m.Raw)
		return code, text, held
	case m.IsError:
		return byShop, text, held
	}
	return done, text, held
}

// must makes a call that has to be done.
func (c *talk) must(tool string, args any) {
	c.t.Helper()
	if ending, text, _ := c.does(tool, args); ending != done {
		c.t.Errorf("%s %v: %s: %s", tool, args, ending, text)
	}
}

// identifies finds who the customer is and reads the profile, where that has not been
// done. It says how many calls that took.
func (c *talk) identifies(user string) (calls int) {
	c.t.Helper()
	if !c.found {
		c.must("find_user_id_by_email", values{"email": c.db.Users[user].Email})
		c.found = true
		calls++
	}
	if !c.profiled {
		c.must("get_user_details", values{"user_id": user})
		c.profiled = true
		calls++
	}
	return calls
}

// reads reads an order that has not been read, and says how many calls that took.
func (c *talk) reads(order string) (calls int) {
	c.t.Helper()
	if c.read[order] {
		return 0
	}
	c.must("get_order_details", values{"order_id": order})
	c.read[order] = true
	return 1
}

// shopChanges are the tools that "update the database".
var shopChanges = []string{"cancel_pending_order", "modify_pending_order_address", "modify_pending_order_payment", "modify_pending_order_items", "modify_user_address", "return_delivered_order_items", "exchange_delivered_order_items"}

// TestShopServes: under the policies of examples/shop every call of the recorded tasks
// goes through as it was recorded, changes after the customer has confirmed them. Where a
// task has no call that identifies the customer or reads the order, which the shop's rules
// ask for, the clerk makes one. Every fourth task is taken; SALLYPORT_EXAM=1 takes all.
func TestShopServes(t *testing.T) {
	d := openDesk(t)
	every, _ := stride(t, 4)
	for _, split := range []string{"test", "train"} {
		calls, same, confirmed, added, endings := 0, 0, 0, 0, map[string]int{}
		for n, task := range d.tasks[split] {
			if n%every != 0 {
				continue
			}
			c := d.talks()
			finds := slices.ContainsFunc(task.Calls, func(call retailCall) bool { return strings.HasPrefix(call.Tool, "find_user") })
			for _, call := range task.Calls {
				var args struct {
					OrderID string `json:"order_id"`
				}
				_ = json.Unmarshal(call.Arguments, &args) // where it is of another type, it names no order
				change := slices.Contains(shopChanges, call.Tool)
				if !finds || c.found && args.OrderID != "" {
					added += c.identifies(task.User)
				}
				if change && args.OrderID != "" {
					added += c.reads(args.OrderID)
				}
				calls++
				ending, text, held := c.does(call.Tool, call.Arguments)
				endings[ending]++
				if held {
					confirmed++
				}
				if text == call.Output {
					same++
				}
				// Who reads an order that does not exist is told that it is not the customer's.
				if ending == byPolicy && call.Output == "Error: order not found" && call.Tool == "get_order_details" {
					continue
				}
				if ending == byPolicy || held != change && ending != bySchema {
					t.Errorf("%s %d: %s %s: held %v, %s: %s", split, task.ID, call.Tool, call.Arguments, held, ending, text)
				}
				switch {
				case ending != done:
				case strings.HasPrefix(call.Tool, "find_user"):
					c.found = true
				case call.Tool == "get_user_details":
					c.profiled = true
				case call.Tool == "get_order_details":
					c.read[args.OrderID] = true
				}
			}
		}
		t.Logf("%s: %d recorded calls, %d answered as recorded, %d of them after a confirmation; %v; %d calls added that the rules ask for", split, calls, same, confirmed, endings, added)
		if same+endings[bySchema]+endings[byPolicy] != calls {
			t.Errorf("%s: %d of %d calls answered as recorded", split, same, calls)
		}
	}
	verify(t, d.o.Demo)
}

type values map[string]any

// A breach is one kind of violation of the shop's rules. It may make the calls that lead
// to it, and is not ok where the data have none.
type breach struct {
	kind string
	by   string // who has to refuse it
	try  func(c *talk, r *rand.Rand) (tool string, args values, ok bool)
}

// pick gives a key of a map whose value fits, the same for the same state of r.
func pick[V any](r *rand.Rand, m map[string]V, fits func(string, V) bool) string {
	keys := slices.Sorted(maps.Keys(m))
	for {
		if k := keys[r.IntN(len(keys))]; fits(k, m[k]) {
			return k
		}
	}
}

func (d *shopDesk) order(r *rand.Rand, status ...string) (id string, of shopOrder) {
	id = pick(r, d.db.Orders, func(_ string, o shopOrder) bool { return slices.Contains(status, o.Status) })
	return id, d.db.Orders[id]
}

// other is an order of somebody else.
func (d *shopDesk) other(r *rand.Rand, user, status string) (string, shopOrder) {
	id := pick(r, d.db.Orders, func(_ string, o shopOrder) bool { return o.Status == status && o.UserID != user })
	return id, d.db.Orders[id]
}

// variant is another item of the product, or "" if there is none.
func (d *shopDesk) variant(r *rand.Rand, item shopItem, available bool) string {
	all := d.db.Products[item.Product].Variants
	keys := slices.Sorted(maps.Keys(all))
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, k := range keys {
		if k != item.Item && all[k].Available == available {
			return k
		}
	}
	return ""
}

func (d *shopDesk) method(r *rand.Rand, user string, fits func(id, source string, balance float64) bool) string {
	methods := d.db.Users[user].Methods
	for _, id := range slices.Sorted(maps.Keys(methods)) {
		if fits(id, methods[id].Source, methods[id].Balance) {
			return id
		}
	}
	return ""
}

// anyMethod is one that can pay whatever it is.
func (d *shopDesk) anyMethod(r *rand.Rand, user string) string {
	return d.method(r, user, func(_, source string, _ float64) bool { return source != "gift_card" })
}

var farAway = values{"address1": "1 Main Street", "address2": "", "city": "Springfield", "state": "IL", "country": "USA", "zip": "62701"}

func with(v values, more values) values {
	v = maps.Clone(v)
	maps.Copy(v, more)
	return v
}

// ready identifies the customer of an order and reads it.
func (c *talk) ready(id string, o shopOrder) {
	c.t.Helper()
	c.identifies(o.UserID)
	c.reads(id)
}

var breaches = []breach{
	{"change without having identified anybody", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, _ := c.order(r, "pending")
		return "cancel_pending_order", values{"order_id": id, "reason": "no longer needed"}, true
	}},
	{"profile without having identified anybody", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		return "get_user_details", values{"user_id": pick(r, c.db.Users, func(string, shopUser) bool { return true })}, true
	}},
	{"stock without having identified anybody", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		return "get_product_details", values{"product_id": pick(r, c.db.Products, func(string, shopProduct) bool { return true })}, true
	}},
	{"profile of another customer", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending", "delivered")
		c.ready(id, o)
		return "get_user_details", values{"user_id": pick(r, c.db.Users, func(u string, _ shopUser) bool { return u != o.UserID })}, true
	}},
	{"second customer in one conversation", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending", "delivered")
		c.ready(id, o)
		u := c.db.Users[pick(r, c.db.Users, func(u string, _ shopUser) bool { return u != o.UserID })]
		return "find_user_id_by_name_zip", values{"first_name": u.Name.First, "last_name": u.Name.Last, "zip": u.Address.Zip}, true
	}},
	{"address of another customer", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		return "modify_user_address", with(farAway, values{"user_id": pick(r, c.db.Users, func(u string, _ shopUser) bool { return u != o.UserID })}), true
	}},
	{"another customer's order read", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		other, _ := c.other(r, o.UserID, "pending")
		return "get_order_details", values{"order_id": other}, true
	}},
	{"another customer's order cancelled", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		other, _ := c.other(r, o.UserID, "pending")
		return "cancel_pending_order", values{"order_id": other, "reason": "ordered by mistake"}, true
	}},
	{"another customer's order sent elsewhere", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		other, _ := c.other(r, o.UserID, "pending")
		return "modify_pending_order_address", with(farAway, values{"order_id": other}), true
	}},
	{"another customer's order returned to one's own card", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered")
		c.ready(id, o)
		other, of := c.other(r, o.UserID, "delivered")
		m := c.method(r, o.UserID, func(string, string, float64) bool { return true })
		return "return_delivered_order_items", values{"order_id": other, "item_ids": []string{of.Items[0].Item}, "payment_method_id": m}, m != ""
	}},
	{"another customer's order paid otherwise", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		other, of := c.other(r, o.UserID, "pending")
		m := c.anyMethod(r, of.UserID)
		return "modify_pending_order_payment", values{"order_id": other, "payment_method_id": m}, m != ""
	}},
	{"refund to a foreign payment method", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered")
		c.ready(id, o)
		_, of := c.other(r, o.UserID, "delivered")
		m := c.anyMethod(r, of.UserID)
		return "return_delivered_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "payment_method_id": m}, m != ""
	}},
	{"payment by a foreign payment method", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		_, of := c.other(r, o.UserID, "pending")
		m := c.anyMethod(r, of.UserID)
		return "modify_pending_order_payment", values{"order_id": id, "payment_method_id": m}, m != ""
	}},
	{"items that were not read", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered")
		c.ready(id, o)
		return "return_delivered_order_items", values{"order_id": id, "item_ids": []string{fmt.Sprint(1_000_000_000 + r.IntN(1_000_000))}, "payment_method_id": o.History[0].Method}, true
	}},
	{"order that was not read", byPolicy, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.identifies(o.UserID)
		return "cancel_pending_order", values{"order_id": id, "reason": "no longer needed"}, true
	}},
	{"cancelled for another reason", bySchema, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		return "cancel_pending_order", values{"order_id": id, "reason": []string{"too expensive", "No longer needed", "", "refund"}[r.IntN(4)]}, true
	}},
	{"without the customer's yes", waiting, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		c.confirms = false
		return "cancel_pending_order", values{"order_id": id, "reason": "no longer needed"}, true
	}},
	{"cancelled twice", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		args := values{"order_id": id, "reason": "no longer needed"}
		c.must("cancel_pending_order", args)
		return "cancel_pending_order", args, true
	}},
	{"cancelled when it is under way or there", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered", "processed", "cancelled")
		c.ready(id, o)
		return "cancel_pending_order", values{"order_id": id, "reason": "no longer needed"}, true
	}},
	{"returned before it is there", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending", "processed", "cancelled")
		c.ready(id, o)
		return "return_delivered_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "payment_method_id": o.History[0].Method}, true
	}},
	{"items changed twice", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		m, v := c.anyMethod(r, o.UserID), c.variant(r, o.Items[0], true)
		if m == "" || v == "" {
			return "", nil, false
		}
		c.ready(id, o)
		c.must("get_product_details", values{"product_id": o.Items[0].Product})
		c.must("modify_pending_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "new_item_ids": []string{v}, "payment_method_id": m})
		return "modify_pending_order_items", values{"order_id": id, "item_ids": []string{v}, "new_item_ids": []string{o.Items[0].Item}, "payment_method_id": m}, true
	}},
	{"exchanged after a return", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered")
		m, v := c.anyMethod(r, o.UserID), c.variant(r, o.Items[0], true)
		if m == "" || v == "" {
			return "", nil, false
		}
		c.ready(id, o)
		c.must("return_delivered_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "payment_method_id": o.History[0].Method})
		return "exchange_delivered_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "new_item_ids": []string{v}, "payment_method_id": m}, true
	}},
	{"exchanged for another product", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered")
		m := c.anyMethod(r, o.UserID)
		product := pick(r, c.db.Products, func(p string, _ shopProduct) bool { return p != o.Items[0].Product })
		v := c.variant(r, shopItem{Product: product}, true)
		if m == "" || v == "" {
			return "", nil, false
		}
		c.ready(id, o)
		c.must("get_product_details", values{"product_id": product})
		return "exchange_delivered_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "new_item_ids": []string{v}, "payment_method_id": m}, true
	}},
	{"changed to what is not there", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		m, v := c.anyMethod(r, o.UserID), c.variant(r, o.Items[0], false)
		if m == "" || v == "" {
			return "", nil, false
		}
		c.ready(id, o)
		return "modify_pending_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "new_item_ids": []string{v}, "payment_method_id": m}, true
	}},
	{"refund to another card of one's own", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "delivered")
		m := c.method(r, o.UserID, func(id, source string, _ float64) bool { return source != "gift_card" && id != o.History[0].Method })
		if m == "" {
			return "", nil, false
		}
		c.ready(id, o)
		return "return_delivered_order_items", values{"order_id": id, "item_ids": []string{o.Items[0].Item}, "payment_method_id": m}, true
	}},
	{"payment changed to the same", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		c.ready(id, o)
		return "modify_pending_order_payment", values{"order_id": id, "payment_method_id": o.History[0].Method}, true
	}},
	{"gift card that does not cover it", byShop, func(c *talk, r *rand.Rand) (string, values, bool) {
		id, o := c.order(r, "pending")
		m := c.method(r, o.UserID, func(id, source string, balance float64) bool {
			return source == "gift_card" && balance < o.History[0].Amount && id != o.History[0].Method
		})
		if m == "" {
			return "", nil, false
		}
		c.ready(id, o)
		return "modify_pending_order_payment", values{"order_id": id, "payment_method_id": m}, true
	}},
}

// TestShopRefuses: what breaks the shop's rules is refused, by policy where a policy can
// know it, and else by the shop itself, whose tools look at the state of the order.
func TestShopRefuses(t *testing.T) {
	const each = 12
	d := openDesk(t)
	total, by := 0, map[string]int{}
	for i, b := range breaches {
		r := rand.New(rand.NewPCG(5, uint64(i)))
		endings := map[string]int{}
		for n := 0; n < each; {
			c := d.talks()
			tool, args, ok := b.try(c, r)
			if !ok {
				continue
			}
			n++
			total++
			ending, text, _ := c.does(tool, args)
			endings[ending]++
			by[ending]++
			if ending != b.by {
				t.Errorf("%s: %s %v: %s: %s, want it %s", b.kind, tool, args, ending, text, b.by)
			}
		}
		t.Logf("%-52s %v", b.kind, endings)
	}
	t.Logf("%d violations of %d kinds: %v", total, len(breaches), by)
	if by[done] > 0 || total < 300 {
		t.Errorf("of %d violations %d were done", total, by[done])
	}
	verify(t, d.o.Demo)
}
