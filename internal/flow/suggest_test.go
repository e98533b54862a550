package flow_test

import (
	"strings"
	"testing"

	"sallyport"
	"sallyport/internal/flow"
)

func TestSuggest(t *testing.T) {
	defs := map[string]string{
		"send_email": `{"inputSchema":{"properties":{"to":{"type":"array","items":{"type":"string"}},"subject":{"type":"string"},"body":{"type":"string"},
			"attachment_path":{"type":"string"},"sendAt":{"type":"string","format":"date-time"},"zorp":{"type":"string"},"urgent":{"type":"boolean"}}}}`,
		"list_users": `{"inputSchema":{"properties":{"limit":{"type":"integer"}}},"outputSchema":{"properties":{"users":{"type":"array","items":{"properties":{
			"id":{"type":"integer"},"name":{"type":"string"},"email":{"type":"string"},"bio":{"type":"string"},"age":{"type":"integer"}}}}}}}`,
		"search_web":    `{"inputSchema":{"properties":{"query":{"type":"string"}}},"outputSchema":{"properties":{"hits":{"type":"array","items":{"properties":{"id":{"type":"string"},"url":{"type":"string"}}}}}}}`,
		"list_invoices": `{"outputSchema":{"properties":{"invoices":{"type":"array","items":{"properties":{"invoice_id":{"type":"string"},"payee":{"type":"string"},"total":{"type":["number","null"]}}}}}}}`,
		"frobnicate":    `{"inputSchema":{"properties":{"price":{"type":"number"},"weird":{"type":"number"},"mode":{"enum":["a","b"]}}}}`,
		"get_password":  `{}`,
	}
	var all []flow.Definition
	for name, raw := range defs {
		all = append(all, flow.Definition{Name: name, Raw: []byte(raw)})
	}
	got := make(map[string]*flow.Suggestion)
	for _, d := range all {
		s, err := flow.Suggest(d, all)
		if err != nil {
			t.Fatal(err)
		}
		got[d.Name] = s
	}
	for _, c := range []struct {
		tool, arg string
		want      sallyport.ArgKind
		sure      bool
	}{
		{"send_email", "to", sallyport.Authority, true}, {"send_email", "subject", sallyport.Content, true}, {"send_email", "body", sallyport.Content, true},
		{"send_email", "attachment_path", sallyport.Authority, true}, {"send_email", "sendAt", sallyport.Quantity, true},
		{"send_email", "zorp", sallyport.Authority, false}, {"send_email", "urgent", sallyport.Quantity, false},
		{"list_users", "limit", sallyport.Quantity, true}, {"search_web", "query", sallyport.Authority, true},
		{"frobnicate", "price", sallyport.Quantity, true}, {"frobnicate", "weird", sallyport.Quantity, false}, {"frobnicate", "mode", sallyport.Authority, false},
	} {
		found := false
		for _, a := range got[c.tool].Args {
			if a.Name == c.arg {
				found = true
				if a.Kind != c.want || a.Sure != c.sure || a.Why == "" {
					t.Errorf("%s %s: %+v, want %v, sure %v", c.tool, c.arg, a, c.want, c.sure)
				}
			}
		}
		if !found {
			t.Errorf("%s %s: nothing is suggested", c.tool, c.arg)
		}
	}
	for _, c := range []struct {
		tool, pointer string
		kind          flow.FieldKind
		integrity     sallyport.Integrity
		form          flow.Form
	}{
		{"list_users", "/users/*/id", flow.OpaqueID, sallyport.Endorsed, 0},
		{"list_users", "/users/*/name", flow.DirectoryIdentity, sallyport.Endorsed, 0},
		{"list_users", "/users/*/email", flow.DirectoryIdentity, sallyport.Endorsed, flow.Email},
		{"list_users", "/users/*/bio", flow.FreeText, sallyport.Untrusted, 0},
		{"list_users", "/users/*/age", flow.Number, sallyport.Untrusted, 0},
		{"search_web", "/hits/*/id", flow.FreeText, sallyport.Untrusted, 0},
		{"search_web", "/hits/*/url", flow.FreeText, sallyport.Untrusted, 0},
		{"list_invoices", "/invoices/*/payee", flow.FreeText, sallyport.Untrusted, 0},
		{"list_invoices", "/invoices/*/invoice_id", flow.OpaqueID, sallyport.Endorsed, 0},
		{"list_invoices", "/invoices/*/total", flow.Number, sallyport.Untrusted, 0},
	} {
		found := false
		for _, f := range got[c.tool].Fields {
			if f.Pointer == c.pointer {
				found = true
				if f.Kind != c.kind || f.Integrity != c.integrity || f.Form != c.form || f.Why == "" {
					t.Errorf("%s %s: %+v, want %v %v", c.tool, c.pointer, f, c.kind, c.integrity)
				}
			}
		}
		if !found {
			t.Errorf("%s %s: nothing is suggested", c.tool, c.pointer)
		}
	}
	for tool, want := range map[string]sallyport.Confidentiality{
		"get_password": sallyport.Restricted, "frobnicate": sallyport.Restricted, "list_invoices": sallyport.Confidential, "search_web": sallyport.Public,
	} {
		if got := got[tool].Class; got.Class != want || got.Why == "" {
			t.Errorf("%s: %+v, want %v", tool, got, want)
		}
	}
}

// What an agent can write through a peer is no directory.
func TestSuggestLooksAtPeers(t *testing.T) {
	list := flow.Definition{Name: "list_contacts", Raw: []byte(`{}`), Samples: [][]byte{[]byte(`{"contacts":[{"id":"c_1","email":"mia@example.com"}]}`)}}
	add := flow.Definition{Name: "add_contact", Raw: []byte(`{"inputSchema":{"properties":{"email":{"type":"string"}}}}`)}
	for _, c := range []struct {
		peers []flow.Definition
		want  flow.FieldKind
	}{{nil, flow.DirectoryIdentity}, {[]flow.Definition{add}, flow.FreeText}} {
		s, err := flow.Suggest(list, c.peers)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Fields {
			if strings.HasSuffix(f.Pointer, "email") && f.Kind != c.want {
				t.Errorf("%d peers: %+v, want %v", len(c.peers), f, c.want)
			}
		}
		if len(s.Fields) != 2 {
			t.Errorf("fields %+v", s.Fields)
		}
	}
}
