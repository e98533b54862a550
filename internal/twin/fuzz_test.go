package twin_test

import (
	"encoding/json"
	"errors"
	"testing"

	"sallyport"
	"sallyport/internal/twin"
)

// Whatever a definition says, it is read or refused, and read again the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(shopJSON(f)))
	f.Add([]byte(family))
	f.Add([]byte(`{"world":"x","tables":{"a":{"key":["b","c"]}},"tools":{"t":{"steps":[{"let":"x","be":"1 +"}]}}}`))
	f.Add([]byte(`{"world":"x","tools":{"t":{"return":{"a":["1",2,null,true,{"b":"c["}]}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		def, err := twin.Parse(raw)
		var problems twin.Problems
		if err != nil {
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("%v are no problems", err)
			}
			return
		}
		again, err := twin.Parse(def.Text())
		if err != nil || again.Digest() != def.Digest() {
			t.Fatalf("%s: not the same when it is read again: %v", def.Text(), err)
		}
		w, err := twin.Compile(def, shopData(), nil)
		if err != nil {
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("%v are no problems", err)
			}
			return
		}
		for name := range def.Tools {
			checkCall(t, w, name, []byte(`{"id":"cus_1","a":[1.5]}`))
		}
	})
}

// Whatever an agent passes is answered or refused, and what fails changes nothing.
func FuzzCall(f *testing.F) {
	w := compileShop(f)
	for _, c := range []string{
		`{"id":"cus_1"}`, `{"id":null,"limit":1.10}`, `{"name":"same","x":[1e400,-0,1E+2]}`, `{"email":"x","tags":[{"a":{}}],"since":"2026-01-01T00:00:00Z"}`,
		`{"order":1,"amount":0.1}`, `{"limit":-1}`, `{"cursor":"c2l13"}`, `{"id":[1]}`, `{"name":"put","value":"\ud800"}`, `[]`, `{"id":1e999999999}`,
	} {
		f.Add("get_customer", []byte(c))
		f.Add("add_customer", []byte(c))
		f.Add("set_customer", []byte(c))
		f.Add("list_customers", []byte(c))
		f.Add("add_order", []byte(c))
		f.Add("refund", []byte(c))
		f.Add("put_setting", []byte(c))
		f.Add("run", []byte(c))
	}
	f.Fuzz(func(t *testing.T, name string, args []byte) { checkCall(t, w, name, args) })
}

func checkCall(t *testing.T, w *twin.World, name string, args []byte) {
	t.Helper()
	run := w.NewRun(3)
	before := run.Hash()
	a, err := run.Call(tool(name), args, 0)
	if err != nil {
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) {
			t.Fatalf("%v is no refusal", err)
		}
	}
	if (err != nil || a.IsError || len(a.Changes) == 0) && run.Hash() != before {
		t.Fatalf("%s %s: the state has changed (%v, %v)", name, args, a, err)
	}
	if err != nil {
		return
	}
	if a.Structured != nil && !json.Valid(a.Structured) {
		t.Fatalf("%s %s: %s is not JSON", name, args, a.Structured)
	}
	other := w.NewRun(3)
	b, err := other.Call(tool(name), args, 0)
	if err != nil || b.Text != a.Text || other.Hash() != run.Hash() {
		t.Fatalf("%s %s: another time another answer", name, args)
	}
}
