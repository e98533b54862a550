package twin_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/testkit"
	"sallyport/internal/twin"
)

// A small shop in which every kind of rule occurs.
const shop = `
world: shop
clock: {start: 2026-03-02T08:00:00Z, tick: [1s, 5s]}
script: shop.star
tables:
  customers:
    key: id
    id: {style: prefix, prefix: cus_, digits: 6}
    seed: customers.json
    unique: [email, [first, last]]
    fields:
      email: {type: string, required: true}
      status: {type: enum, values: [active, closed]}
      since: {type: time}
      limit: {type: number}
      visits: {type: int}
      vip: {type: bool}
      address: {type: object}
      tags: {type: array}
  orders:
    key: id
    id: {style: sequence}
    seed: orders.csv
    fields:
      id: {type: int}
      customer: {type: string, refs: customers, on_delete: restrict}
      gift_for: {type: string, refs: customers, on_delete: "null"}
      total: {type: number}
    ordered: [/log]
  notes:
    key: id
    id: {style: base32, prefix: n, length: 10}
    fields:
      order: {type: int, refs: orders, on_delete: cascade}
  places:
    key: [country, city]
    seed: places.ndjson
  settings:
    key: name
    key_outside: true
    seed: {file: nested.json, at: /shop/settings}
  visits:
    key: id
    id: {style: uuid}
tools:
  get_customer: {get: customers, key: args.id, missing: no such customer}
  show_customer: {get: customers, key: args.id, fields: [email, id]}
  name_customer: {get: customers, key: args.id, return: 'row.first + " " + row.last'}
  find_customers: {list: customers, match: {email: args.email}}
  list_customers:
    list: customers
    where: args.get("min") == None or row.get("limit", 0) >= args["min"]
    order: [-limit, id]
    limit: args.get("limit", 2)
    cursor: args.get("cursor")
    fields: [id, limit]
    return: {customers: rows, total: total, next: next}
  all_customers: {list: customers, limit: args.get("limit"), offset: args.get("offset")}
  add_customer: {create: customers, duplicate: that address is taken}
  set_customer: {patch: customers, key: args.id, missing: no such customer}
  close_customer: {patch: customers, key: args.id, set: {status: '"closed"', visits: 'row.get("visits", 0) + 1'}}
  drop_customer: {delete: customers, key: args.id, conflict: the customer has orders}
  add_order:
    create: orders
    set: {customer: args.customer, total: 'args.get("total", 0)', at: now()}
    conflict: no such customer
  get_order: {get: orders, key: args.id}
  drop_order: {delete: orders, key: args.id}
  set_order: {patch: orders, key: args.id}
  list_orders: {list: orders}
  add_note: {create: notes}
  list_notes: {list: notes}
  get_place: {get: places, key: "[args.country, args.city]"}
  get_setting: {get: settings, key: args.name}
  put_setting: {create: settings, key: args.name, set: {value: args.value}}
  add_visit: {create: visits}
  refund:
    result: structured
    steps:
      - {let: order, be: tables.orders.get(args.order)}
      - {require: order != None, else: no such order}
      - {require: args.amount <= order.total, else: refund not allowed}
      - {update: orders, key: order.id, set: {total: round2(row.total - args.amount), log: 'row.get("log", []) + ["refund"]'}, as: order}
      - {when: order.total == 0, delete: orders, key: order.id, as: gone}
      - {insert: notes, when: order.total != 0, as: note, set: {order: order.id, text: '"refunded %s" % args.amount'}}
      - {return: {left: order.total, gone: order.total == 0}}
  spoil:
    steps:
      - {insert: visits, set: {}, as: made}
      - {update: customers, key: '"cus_1"', set: {visits: 99}}
      - {require: args.get("ok"), else: spoiled}
      - {return: made.id}
  hello: {return: '"hello"', result: text}
  run: {call: run}
`

const shopScript = `
def run(args):
    return programs[args.name](args)

def drawn(args):
    return [rand(), rand(), rand_int(1, 6), new_id("visits"), new_id("customers"), now(), now_unix()]

def half(args):
    tables.customers.update("cus_1", {"visits": 7})
    fail("half way")

def wrong(args):
    tables.customers.update("cus_1", {"visits": 7})
    return 1 // 0

def untyped(args):
    tables.customers.update("cus_1", {"visits": "many"})

def same(args):
    return args

def values(args):
    return [0.1 + 0.2, 5.0, 1e16, 1e-5, 123456789012345680.0, 2.5 * 2, 10 // 3, 1819.92, -0.0, 1e22, 7 * 12345678901234567890]

def helpers(args):
    return [round2(2.675), round2(1.005), round(2.5), round(0.125, 2), sum([0.1, 0.2, 0.3]), str(1e16), json({"a": [1, "é", 2.0]}, "python"),
            json([1, "é"]), calculate("(1 + 2) * 3"), calculate("7 / 2"), calculate("1 +"), calculate("2 ** 3"), calculate("__import__"),
            parse_json("[1.0]"), parse_json("]"), unix("1970-01-01T00:01:00Z"), rfc3339(60), unix("noon")]

def change(args):
    order = tables.orders[1]
    order.log = ["a", "b"]
    order["total"] += 1
    order.new = {"deep": [1]}
    order.new.deep[0] += 4
    order.new.deep += [6]
    tables.orders.put(order)
    return tables.orders.get(1)

def finds(args):
    c = tables.customers
    return [
        [r.id for r in c.find(status="active")], c.first(email="bo@example.com").id, c.first(email="nobody"),
        len(c), "cus_1" in c, "cus_9" in c, c.keys(), [k for k, _ in tables.settings.items()],
        [r.id for r in c.where(lambda r: r.get("vip"))], tables.places[["DE", "Bonn"]].mayor,
    ]

def outside(args):
    tables.settings.put("currency", {"value": "USD"})
    tables.settings.insert("colour", {"value": "red"})
    tables.settings.delete("language")
    return tables.settings.items()

programs = {f: g for f, g in [
    ("drawn", drawn), ("half", half), ("wrong", wrong), ("untyped", untyped), ("same", same), ("values", values),
    ("helpers", helpers), ("change", change), ("finds", finds), ("outside", outside),
]}
`

func shopData() map[string][]byte {
	return map[string][]byte{
		"shop.star": []byte(shopScript),
		"customers.json": []byte(`[
			{"id": "cus_1", "email": "ann@example.com", "first": "Ann", "last": "Lee", "status": "active", "limit": 342.81, "extra": 12345678901234567890},
			{"id": "cus_2", "email": "bo@example.com", "first": "Bo", "last": "Lee", "status": "active", "limit": 1.10, "vip": true},
			{"id": "cus_3", "email": "cy@example.com", "first": "Cy", "last": "Roe", "status": "closed", "limit": 1e3, "since": "2026-01-01T00:00:00Z", "visits": null}]`),
		"orders.csv":    []byte("id,customer,gift_for,total\n1,cus_1,cus_3,10.50\n2,cus_2,,3\n"),
		"places.ndjson": []byte("{\"country\":\"DE\",\"city\":\"Bonn\",\"mayor\":\"A\"}\n\n{\"country\":\"FR\",\"city\":\"Lyon\",\"mayor\":\"B\"}\n"),
		"nested.json":   []byte(`{"shop": {"settings": {"currency": {"value": "EUR"}, "language": {"value": "de"}}}}`),
	}
}

func compileShop(t testing.TB) *twin.World {
	t.Helper()
	def, err := twin.Parse(testkit.FromYAML(t, []byte(shop)))
	if err != nil {
		t.Fatal(err)
	}
	w, err := twin.Compile(def, shopData(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func tool(name string) *sallyport.Tool { return &sallyport.Tool{Name: name, UpstreamName: name} }

// told is an answer in one line: the text, behind "error: " if it is one, or what was
// refused.
func told(run *twin.Run, name, args string, number int) string {
	a, err := run.Call(tool(name), []byte(args), number)
	switch {
	case err != nil:
		return err.Error()
	case a.IsError:
		return "error: " + a.Text
	case a.HasText:
		return a.Text
	default:
		return string(a.Structured)
	}
}

func TestTools(t *testing.T) {
	w := compileShop(t)
	for _, test := range []struct {
		name  string
		calls [][2]string
		want  []string
	}{
		{"get", [][2]string{
			{"get_customer", `{"id":"cus_1"}`}, {"get_customer", `{"id":"cus_9"}`}, {"show_customer", `{"id":"cus_2"}`},
			{"name_customer", `{"id":"cus_2"}`}, {"get_place", `{"country":"FR","city":"Lyon"}`}, {"get_setting", `{"name":"currency"}`},
			{"get_order", `{"id":1}`}, {"get_order", `{"id":1.0}`}, {"get_order", `{"id":"1"}`}, {"hello", ``},
		}, []string{
			`{"id":"cus_1","email":"ann@example.com","first":"Ann","last":"Lee","status":"active","limit":342.81,"extra":12345678901234567890}`,
			"error: no such customer", `{"email":"bo@example.com","id":"cus_2"}`,
			"Bo Lee", `{"country":"FR","city":"Lyon","mayor":"B"}`, `{"value":"EUR"}`,
			`{"id":1,"customer":"cus_1","gift_for":"cus_3","total":10.50}`, `{"id":1,"customer":"cus_1","gift_for":"cus_3","total":10.50}`,
			`error: "1" not found`, "hello",
		}},
		{"list", [][2]string{
			{"list_customers", `{}`}, {"list_customers", `{"cursor":"c2l13"}`}, {"list_customers", `{"min":300}`}, {"list_customers", `{"cursor":"x"}`},
			{"list_customers", `{"limit":"two"}`}, {"find_customers", `{"email":"cy@example.com"}`}, {"find_customers", `{"email":"dee"}`},
			{"all_customers", `{"limit":0}`}, {"all_customers", `{"limit":1,"offset":1}`}, {"all_customers", `{"offset":9}`},
		}, []string{
			`{"customers":[{"id":"cus_3","limit":1e3},{"id":"cus_1","limit":342.81}],"total":3,"next":"c2l13"}`,
			`{"customers":[{"id":"cus_2","limit":1.10}],"total":3,"next":null}`, `{"customers":[{"id":"cus_3","limit":1e3},{"id":"cus_1","limit":342.81}],"total":2,"next":null}`,
			"error: the cursor is not valid", "error: limit must be a whole number from 0",
			`[{"id":"cus_3","email":"cy@example.com","first":"Cy","last":"Roe","status":"closed","limit":1e3,"since":"2026-01-01T00:00:00Z","visits":null}]`,
			`[]`, `[]`, `[{"id":"cus_2","email":"bo@example.com","first":"Bo","last":"Lee","status":"active","limit":1.10,"vip":true}]`, `[]`,
		}},
		{"create, patch and delete", [][2]string{
			{"add_customer", `{ "email": "di@example.com", "limit": 2.50 }`}, {"find_customers", `{"email":"di@example.com"}`},
			{"add_customer", `{"email":"di@example.com"}`}, {"add_customer", `{"email":7}`}, {"add_customer", `{}`},
			{"add_customer", `{"id":"cus_1","email":"x"}`},
			{"set_customer", `{"id":"cus_2","limit":7.00,"note":"é"}`}, {"set_customer", `{"id":"cus_7"}`}, {"set_customer", `{"id":"cus_2","status":"odd"}`},
			{"set_customer", `{"id":"cus_2","email":"ann@example.com"}`}, {"close_customer", `{"id":"cus_2"}`},
			{"drop_customer", `{"id":"cus_1"}`}, {"drop_customer", `{"id":"cus_3"}`}, {"get_order", `{"id":1}`},
			{"add_order", `{"customer":"cus_3"}`}, {"add_order", `{"customer":"cus_2","total":1}`}, {"add_note", `{"order":3}`},
			{"add_order", `{"customer":"cus_2","total":"x"}`},
			{"drop_order", `{"id":3}`}, {"list_notes", `{}`}, {"put_setting", `{"name":"size","value":[1.0]}`}, {"get_setting", `{"name":"size"}`},
		}, []string{
			`{"id":"cus_670394","email":"di@example.com","limit":2.50}`, `[{"id":"cus_670394","email":"di@example.com","limit":2.50}]`,
			"error: that address is taken", "error: email cannot be 7", "error: email is missing",
			"error: that address is taken",
			`{"id":"cus_2","email":"bo@example.com","first":"Bo","last":"Lee","status":"active","limit":7.00,"vip":true,"note":"é"}`,
			"error: no such customer", `error: status cannot be "odd"`,
			`error: email "ann@example.com" already exists`,
			`{"id":"cus_2","email":"bo@example.com","first":"Bo","last":"Lee","status":"closed","limit":7.00,"vip":true,"note":"é","visits":1}`,
			"error: the customer has orders",
			`{"id":"cus_3","email":"cy@example.com","first":"Cy","last":"Roe","status":"closed","limit":1e3,"since":"2026-01-01T00:00:00Z","visits":null}`,
			`{"id":1,"customer":"cus_1","gift_for":null,"total":10.50}`,
			"error: no such customer", `{"id":3,"customer":"cus_2","total":1,"at":"2026-03-02T08:00:41.302Z"}`, `{"id":"nsw6j32cnh5","order":3}`, `error: total cannot be "x"`,
			`{"id":3,"customer":"cus_2","total":1,"at":"2026-03-02T08:00:41.302Z"}`, `[]`, `{"value":[1.0]}`, `{"value":[1.0]}`,
		}},
		{"steps", [][2]string{
			{"refund", `{"order":9,"amount":1}`}, {"refund", `{"order":1,"amount":11}`}, {"refund", `{"order":1,"amount":0.6}`},
			{"get_order", `{"id":1}`}, {"refund", `{"order":1,"amount":9.90}`}, {"get_order", `{"id":1}`}, {"list_notes", `{}`},
			{"spoil", `{}`}, {"get_customer", `{"id":"cus_1"}`},
		}, []string{
			"error: no such order", "error: refund not allowed", `{"left":9.9,"gone":false}`,
			`{"id":1,"customer":"cus_1","gift_for":"cus_3","total":9.9,"log":["refund"]}`, `{"left":0.0,"gone":true}`, "error: 1 not found", `[]`,
			"error: spoiled", `{"id":"cus_1","email":"ann@example.com","first":"Ann","last":"Lee","status":"active","limit":342.81,"extra":12345678901234567890}`,
		}},
		{"scripts", [][2]string{
			{"run", `{"name":"same","n":[1.10,-0,1E5,100,{"a":0.10}],"s":"\u00e9"}`}, {"run", `{"name":"values"}`}, {"run", `{"name":"helpers"}`},
			{"run", `{"name":"change"}`}, {"run", `{"name":"finds"}`}, {"run", `{"name":"outside"}`}, {"run", `{"name":"half"}`},
			{"get_customer", `{"id":"cus_1"}`},
		}, []string{
			`{"name":"same","n":[1.10,-0,1E5,100,{"a":0.10}],"s":"é"}`,
			`[0.30000000000000004,5.0,1e+16,1e-05,1.2345678901234568e+17,5.0,3,1819.92,-0.0,1e+22,86419752308641975230]`,
			`[2.67,1.0,2,0.12,0.6000000000000001,"1e+16","{\"a\": [1, \"\\u00e9\", 2.0]}","[1,\"é\"]",9,3.5,null,null,null,[1.0],null,60,"1970-01-01T00:01:00Z",null]`,
			`{"id":1,"customer":"cus_1","gift_for":"cus_3","total":11.5,"log":["a","b"],"new":{"deep":[5,6]}}`,
			`[["cus_1","cus_2"],"cus_2",null,3,true,false,["cus_1","cus_2","cus_3"],["currency","language"],["cus_2"],"A"]`,
			`[["currency",{"value":"USD"}],["colour",{"value":"red"}]]`, "error: half way",
			`{"id":"cus_1","email":"ann@example.com","first":"Ann","last":"Lee","status":"active","limit":342.81,"extra":12345678901234567890}`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := w.NewRun(7)
			var got []string
			for n, c := range test.calls {
				got = append(got, told(run, c[0], c[1], n))
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	w := compileShop(t)
	run := w.NewRun(1)
	definition := `{"name":"update_order","inputSchema":{"type":"object","required":["order_id"]}}`
	for _, test := range []struct {
		tool *sallyport.Tool
		args string
		code sallyport.Code
		text string
	}{
		{&sallyport.Tool{UpstreamName: "update_order", Definition: sallyport.Text(definition)}, `{}`, sallyport.WorldGap, "tools:\n  update_order: {patch: orders, key: args.order_id}\n"},
		{tool("get_customer"), `[]`, sallyport.InvalidArguments, "not an object"},
		{tool("get_customer"), `{"id":1,"id":2}`, sallyport.InvalidArguments, "same name"},
		{tool("get_customer"), `{"id":"cus_1"} {}`, sallyport.InvalidArguments, "text after"},
		{tool("get_customer"), `{"id":1` + strings.Repeat("0", 5000) + `}`, sallyport.InvalidArguments, "characters"},
		{tool("get_customer"), strings.Repeat(`{"id":`, 100) + "1" + strings.Repeat("}", 100), sallyport.InvalidArguments, "nested"},
		{tool("get_customer"), `{}`, sallyport.WorldGap, `/tools/get_customer/key:1:5: there is no member "id"`},
		{tool("run"), `{"name":"wrong"}`, sallyport.WorldGap, "shop.star:14:14: floored division by zero"},
		{tool("run"), `{"name":"untyped"}`, sallyport.WorldGap, `shop.star:17:28: visits cannot be "many"`},
	} {
		before, at := run.Hash(), run.Clock()
		_, err := run.Call(test.tool, []byte(test.args), 0)
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) || refusal.Code != test.code || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s %.60s: %v, want %s with %q", test.tool.UpstreamName, test.args, err, test.code, test.text)
		}
		if run.Hash() != before || run.Clock() != at {
			t.Errorf("%s %.60s: the state has changed", test.tool.UpstreamName, test.args)
		}
	}
}

func TestChanges(t *testing.T) {
	run := compileShop(t).NewRun(7)
	show := func(a twin.Answer, err error) []string {
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, c := range a.Changes {
			line := c.Table + " " + c.Key + ":"
			for _, f := range c.Fields {
				line += fmt.Sprintf(" %s %s>%s", f.Name, f.Before, f.After)
			}
			lines = append(lines, line)
		}
		return lines
	}
	got := show(run.Call(tool("drop_customer"), []byte(`{"id":"cus_3"}`), 0))
	got = append(got, show(run.Call(tool("refund"), []byte(`{"order":1,"amount":1}`), 1))...)
	got = append(got, show(run.Call(tool("spoil"), []byte(`{}`), 2))...)
	got = append(got, show(run.Call(tool("set_order"), []byte(`{"id":1,"total":9.5}`), 3))...)
	want := []string{
		`customers "cus_3": id "cus_3"> email "cy@example.com"> first "Cy"> last "Roe"> status "closed"> limit 1e3> since "2026-01-01T00:00:00Z"> visits null>`,
		`orders 1: gift_for "cus_3">null`,
		`notes "nsw6j32cnh5": id >"nsw6j32cnh5" order >1 text >"refunded 1"`,
		`orders 1: total 10.50>9.5 log >["refund"]`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name, yaml string
		want       []string
	}{
		{"unknown key", "world: x\ntables: {a: {key: id, sed: x}}", []string{`/tables/a/sed: "sed" is not known here`}},
		{"wrong kind", "world: x\ntables: {a: {key: 5}}", []string{`/tables/a/key: a number cannot stand here`}},
		{"all at once", `
world: x
clock: {start: noon, tick: "5"}
limits: {steps: 60000000}
script: none.star
tables:
  Orders: {key: []}
  a: {key: id, seed: a.json, fields: {b: {type: strin, refs: bs}, c: {type: enum}}}
tools:
  one: {list: as, get: a}
  two: {get: a, result: loud}
  three: {call: f}
  four: {get: a, key: 'args.id + ', limit: 3}
  five: {list: a, where: 'nothing > 1 or nobody'}
  six: {steps: [{require: 'True'}, {insert: a}, {let: args, be: 1}]}
  seven: {}
`, []string{
			`/clock/start: "noon" is no time; write it as 2026-03-02T08:00:00Z`,
			`/clock/tick: "5" is no duration between 0s and 1000h`,
			`/clock/tick: "5" is no duration between 0s and 1000h`,
			`/limits/steps: at most 50000000 steps`,
			`/tables/Orders: the name of a table is of a-z, 0-9 and _, and begins with a letter`,
			`/tables/Orders/key: a table has a key: the name of a field, or of several`,
			`/tables/a/fields/b/type: there is no type "strin", only array, bool, enum, int, json, number, object, string, time`,
			`/tables/a/fields/c/values: values belong to an enum, and an enum has some`,
			`/tables/a/fields/b/refs: there is no table "bs"`,
			`/script: there is no file "none.star" among the data of the world`,
			`/tools/five/where: 1:1: undefined: nothing`,
			`/tools/five/where: 1:16: undefined: nobody`,
			`/tools/four/limit: get has no limit`,
			`/tools/four/key: 1:11: got end of file, want primary expression`,
			`/tools/one: a tool is one of list, get, create, patch, delete, steps, call, or a return alone; this one is get and list`,
			`/tools/seven: a tool is one of list, get, create, patch, delete, steps, call, or a return alone; this one is none`,
			`/tools/six/steps/0: require needs else, the text of the error`,
			`/tools/six/steps/1: insert needs set`,
			`/tools/six/steps/2: "args" cannot be a name here`,
			`/tools/two/result: there is no result "loud", only both, structured, text`,
			`/tools/two: get needs the key of the row, as in key: args.id`,
		}},
		{"seeds", `
world: x
tables:
  a: {key: id, seed: a.json, unique: [u], fields: {n: {type: int}, b: {refs: b}}}
  b: {key: id, seed: b.csv}
  c: {key: id, seed: c.ndjson}
  d: {key: id, seed: none.json}
`, []string{
			`/tables/a/seed: a.json: row 2: n cannot be "x"`,
			`/tables/a/seed: a.json: row 3: id is missing`,
			`/tables/a/seed: the key 1 is there twice`,
			`/tables/a/seed: u of 5 is there twice, though it is unique`,
			`/tables/c/seed: c.ndjson:2: want a member name in quotes at byte 1`,
			`/tables/d/seed: there is no file "none.json" among the data of the world`,
			`/tables/a/fields/b/refs: b of 4 is "z", which is not in b`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			def, err := twin.Parse(testkit.FromYAML(t, []byte(test.yaml)))
			if err == nil {
				_, err = twin.Compile(def, map[string][]byte{
					"a.json": []byte(`[{"id":1,"n":1},{"id":2,"n":"x"},{"n":1},{"id":1},{"id":4,"b":"z","u":1},{"id":5,"b":"y","u":1}]`),
					"b.csv":  []byte("id\ny\n"), "c.ndjson": []byte("{\"id\":1}\n{x\n"),
				}, nil)
			}
			var problems twin.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("%v, want problems", err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Error())
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	def, err := twin.Parse(testkit.FromYAML(t, []byte("world: x\ntools: {get_ordr: {return: 1}}")))
	if err != nil {
		t.Fatal(err)
	}
	tools := []sallyport.Tool{{Upstream: "shop", Name: "get_order"}, {Upstream: "shop", Name: "pay"}, {Upstream: "mail", Name: "send"}}
	for n, want := range map[int]string{
		2: `/tools/get_ordr: upstream shop of this world has no tool "get_ordr"; is it get_order?`,
		3: `/tools/get_ordr: none of the upstreams of this world, mail, shop, has a tool "get_ordr"; is it get_order?`,
	} {
		if _, err = twin.Compile(def, nil, tools[:n]); err == nil || err.Error() != want {
			t.Errorf("a tool that no upstream has: %v", err)
		}
	}
}

// What a script does not come away with, however it tries.
func TestScriptLimits(t *testing.T) {
	for _, test := range []struct{ script, want string }{
		{"def f(args):\n  while True: pass", "too many steps"},
		{"def f(args):\n  for i in range(1 << 60): pass", "too many steps"},
		{"def f(args):\n  s = 'a'\n  while True: s += s", "too much memory"},
		{"def f(args):\n  s = ['a']\n  while True: s[0] += s[0]", "too much memory"},
		{"def f(args):\n  s = {'a': 'a'}\n  while True: s.a += s.a", "too much memory"},
		{"def f(args):\n  s = 'a'\n  while True: s = s + s", "too much memory"},
		{"def f(args): return 'a' * (1 << 40)", "too much memory"},
		{"def f(args): return (1 << 29) * 'abc'", "too much memory"},
		{"def f(args): return [0] * (1 << 30)", "too much memory"},
		{"def f(args):\n  l = [1]\n  while True: l += l", "too much memory"},
		{"def f(args):\n  l = [1]\n  while True: l.extend(l)", "too much memory"},
		{"def f(args):\n  l = [1]\n  while True: l = l[:] + l", "too much memory"},
		{"def f(args):\n  n = 3\n  while True: n *= n", "more than 65536 bits"},
		{"def f(args): return int('9' * 5000)", "more than 4096 characters"},
		{"def f(args): return list(range(1 << 40))", "too much memory"},
		{"def f(args): return max(range(1 << 40))", "too much memory"},
		{"def f(args): return sum(range(1 << 40))", "too much memory"},
		{"def f(args): return sorted(range(1 << 28))", "too much memory"},
		{"def f(args): return 'a'.join(['b' * 1000000] * 1000)", "too much memory"},
		{"def f(args): return ('a' * 100000).replace('a', 'b' * 100000)", "too much memory"},
		{"def f(args): return '{0}{0}{0}{0}{0}{0}{0}{0}{0}'.format('b' * 10000000)", "too much memory"},
		{"def f(args):\n  x = []\n  for i in range(40): x = [x, x]\n  return str(x)", "too much memory"},
		{"def f(args):\n  x = []\n  for i in range(40): x = [x, x]\n  return '%s' % x", "too much memory"},
		{"def f(args):\n  x = []\n  for i in range(40): x = [x, x]\n  return x", "more than 67108864 bytes of JSON"},
		{"def f(args):\n  x = []\n  for i in range(50000): x = [x]\n  return str(x)", "nested deeper"},
		{"def f(args):\n  x = []\n  for i in range(50000): x = [x]\n  return x", "nested deeper"},
		{"def f(args):\n  x = {}\n  x.a = x\n  return x", "nested deeper"},
		{"def f(args): return g(args)\ndef g(args): return f(args)", "called recursively"},
		{"def f(args): return 1.0 / 0.0", "division by zero"},
		{"def f(args): return float('inf')", "no number in JSON"},
		{"def f(args): return {1: 2}", "named by a string"},
		{"def f(args): return tables", "cannot be written"},
		{"def f(args): return tables.none", `there is no table "none"`},
		{"def f(args): return tables.t[5]", "key 5 not in table"},
		{"def f(args): return tables.t.insert({})", "makes no ids"},
		{"l = []\ndef f(args): l.append(1)", "frozen list"},
		{"def f(args): fail(1)", "want string"},
		{"def f(args): return args.append(1)", `there is no member "append"`},
	} {
		def, err := twin.Parse([]byte(`{"world":"x","script":"s.star","tables":{"t":{"key":"id"}},"tools":{"f":{"call":"f"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		w, err := twin.Compile(def, map[string][]byte{"s.star": []byte(test.script)}, nil)
		if err != nil {
			t.Errorf("%s: %v", test.script, err)
			continue
		}
		_, err = w.NewRun(1).Call(tool("f"), nil, 0)
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) || refusal.Code != sallyport.WorldGap || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.script, err, test.want)
		}
	}
	for _, test := range []struct{ script, want string }{
		{`load("other.star", "x")`, "there is no load"},
		{"x = tables.t", "there are no tables outside of a call"},
		{"x = now()", "only during a call"},
		{"x = rand()", "only during a call"},
		{"x = 'a' * (1 << 40)", "too much memory"},
		{"def f(args):\n  args.items = 1", `write ["items"]`},
		{"x = open('/etc/passwd')", "undefined: open"},
		{strings.Repeat("-", 200_000) + "1", "excessive nesting"},
		{strings.Repeat("(", 200_000), "excessive nesting"},
		{strings.Repeat("x", 300_000), "more than 262144 bytes"},
	} {
		def, err := twin.Parse([]byte(`{"world":"x","script":"s.star"}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = twin.Compile(def, map[string][]byte{"s.star": []byte(test.script)}, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.40s: %.200v, want %q", test.script, err, test.want)
		}
	}
}

func TestSnapshots(t *testing.T) {
	run := compileShop(t).NewRun(3)
	type state struct {
		hash [32]byte
		at   time.Time
	}
	now := func() state { return state{run.Hash(), run.Clock()} }
	begin, first := run.Snapshot(), now()
	told(run, "add_customer", `{"email":"x"}`, 0)
	middle, second := run.Snapshot(), now()
	made := told(run, "add_customer", `{"email":"y"}`, 1)
	told(run, "drop_customer", `{"id":"cus_3"}`, 2)
	third := run.Snapshot()
	if err := run.Reset(middle); err != nil || now() != second {
		t.Errorf("going back: %v", err)
	}
	if again := told(run, "add_customer", `{"email":"y"}`, 1); again != made {
		t.Errorf("after going back the same call answers %s, before %s", again, made)
	}
	told(run, "drop_customer", `{"id":"cus_3"}`, 2)
	if err := run.Reset(third); err == nil {
		t.Error("a snapshot of a state that is no more was taken")
	}
	if err := run.Reset(begin); err != nil || now() != first {
		t.Errorf("going back to the begin: %v", err)
	}
	if err := run.Reset(compileShop(t).NewRun(3).Snapshot()); err == nil {
		t.Error("a snapshot of another run was taken")
	}
}

func TestHash(t *testing.T) {
	w := compileShop(t)
	hash := func(calls ...[2]string) [32]byte {
		run := w.NewRun(1)
		for n, c := range calls {
			if got := told(run, c[0], c[1], n); strings.HasPrefix(got, "error") {
				t.Fatal(got)
			}
		}
		return run.Hash()
	}
	base := hash([2]string{"set_customer", `{"id":"cus_1","tags":["a","b"],"address":{"x":1,"y":[1,2]}}`})
	for name, other := range map[string][32]byte{
		"order of a list":     hash([2]string{"set_customer", `{"id":"cus_1","tags":["b","a"],"address":{"x":1,"y":[2,1]}}`}),
		"order of members":    hash([2]string{"set_customer", `{"id":"cus_1","address":{"y":[1,2],"x":1},"tags":["a","b"]}`}),
		"spelling":            hash([2]string{"set_customer", `{"id":"cus_1","tags":["a","b"],"address":{"x":1.0,"y":[10e-1,2]}}`}),
		"unequal way there":   hash([2]string{"set_customer", `{"id":"cus_1","tags":[]}`}, [2]string{"set_customer", `{"id":"cus_1","tags":["a","b"],"address":{"x":1,"y":[1,2]}}`}),
		"a row came and went": hash([2]string{"add_order", `{"customer":"cus_1"}`}, [2]string{"drop_order", `{"id":3}`}, [2]string{"set_customer", `{"id":"cus_1","tags":["a","b"],"address":{"x":1,"y":[1,2]}}`}),
	} {
		if other != base {
			t.Errorf("%s: another hash", name)
		}
	}
	for name, other := range map[string][32]byte{
		"another element":  hash([2]string{"set_customer", `{"id":"cus_1","tags":["a","c"],"address":{"x":1,"y":[1,2]}}`}),
		"twice an element": hash([2]string{"set_customer", `{"id":"cus_1","tags":["a","a","b"],"address":{"x":1,"y":[1,2]}}`}),
		"a string":         hash([2]string{"set_customer", `{"id":"cus_1","tags":["a","b"],"address":{"x":"1","y":[1,2]}}`}),
		"nothing":          hash(),
	} {
		if other == base {
			t.Errorf("%s: the same hash", name)
		}
	}
	if a, b := hash([2]string{"set_order", `{"id":1,"log":[1,2]}`}), hash([2]string{"set_order", `{"id":1,"log":[2,1]}`}); a == b {
		t.Error("a list whose order counts has one hash in two orders")
	}
}

// Everything that a run says, 100 times, at once and one after another, from worlds
// that are compiled anew.
func TestDeterminism(t *testing.T) {
	calls := [][2]string{
		{"add_customer", `{"email":"x","limit":5}`}, {"run", `{"name":"drawn"}`}, {"list_customers", `{}`}, {"add_visit", `{}`},
		{"add_order", `{"customer":"cus_1","total":2}`}, {"add_note", `{"order":3}`}, {"refund", `{"order":3,"amount":0.1}`},
		{"run", `{"name":"finds"}`}, {"drop_order", `{"id":3}`}, {"run", `{"name":"drawn"}`}, {"run", `{"name":"half"}`}, {"run", `{"name":"wrong"}`},
		{"list_notes", `{}`}, {"drop_customer", `{"id":"cus_3"}`}, {"list_orders", `{}`},
	}
	transcript := func(w *twin.World, seed uint64) string {
		run := w.NewRun(seed)
		var b strings.Builder
		for n, c := range calls {
			a, err := run.Call(tool(c[0]), []byte(c[1]), n)
			fmt.Fprintf(&b, "%s %s %v %v %s\n", a.Text, a.Structured, a.Changes, err, run.Clock())
		}
		fmt.Fprintf(&b, "%x", run.Hash())
		return b.String()
	}
	worlds := []*twin.World{compileShop(t), compileShop(t)}
	want := transcript(compileShop(t), 5)
	if strings.Count(want, "\n") != len(calls) || transcript(worlds[0], 6) == want {
		t.Fatal("another seed says the same")
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if got := transcript(worlds[i%2], 5); got != want {
				t.Errorf("run %d:\n%s", i, cmp.Diff(want, got))
			}
		})
	}
	wg.Wait()
}

func TestDigest(t *testing.T) {
	parse := func(text string) *twin.Definition {
		d, err := twin.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b := parse(`{"world": "x", "tools": {"t": {"return": {"a": 1, "b": 2}}}}`), parse(`{"world":"x","tools":{"t":{"return":{"a":1,"b":2}}}}`)
	if a.Digest() != b.Digest() {
		t.Error("white space changes the digest")
	}
	if c := parse(`{"world":"x","tools":{"t":{"return":{"b":2,"a":1}}}}`); c.Digest() == a.Digest() {
		t.Error("the order of an answer's members does not change the digest")
	}
	digest := func(data string) sallyport.Digest {
		w, err := twin.Compile(parse(`{"world":"x","tables":{"t":{"key":"id","seed":"f.json"}}}`), map[string][]byte{"f.json": []byte(data), "other": []byte(data)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.Digest()
	}
	empty, again := digest(`[]`), digest(`[]`)
	if empty != again || empty == digest(`[{"id":1}]`) {
		t.Error("the digest of a world is not that of its data")
	}
	if got := parse(shopJSON(t)).Files(); !cmp.Equal(got, []string{"customers.json", "nested.json", "orders.csv", "places.ndjson", "shop.star"}) {
		t.Errorf("files %v", got)
	}
}

func shopJSON(t testing.TB) string { return string(testkit.FromYAML(t, []byte(shop))) }
