package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport"
	"sallyport/internal/wire"
)

func (w *wide) toolNames() []string {
	w.t.Helper()
	list, err := w.Tools(context.Background(), "token")
	if err != nil {
		w.t.Fatal(err)
	}
	names := []string{}
	for _, d := range list.Definitions {
		var def struct{ Name string }
		if err := json.Unmarshal(d, &def); err != nil {
			w.t.Fatal(err)
		}
		names = append(names, def.Name)
	}
	return names
}

func TestToolsAreThoseThatCouldBeCalled(t *testing.T) {
	const policies = `
permit (principal, action in Action::"read", resource);
permit (principal, action == Action::"mail/write", resource) when { context.args.id == "never the one that is asked" };
permit (principal, action == Action::"pay/write", resource) when { context.run.task == "pay" };
forbid (principal, action == Action::"pay/look", resource);
forbid (principal, action == Action::"crm/look", resource) when { context.run.confidentiality_level > 1 };`
	w := newWide(t, policies, func(_ *sallyport.Release, c *sallyport.StageConfig) {
		off := c.Upstreams["off"]
		off.Binding = sallyport.Off
		c.Upstreams["off"] = off
		delete(c.Upstreams, "gone")
	}, "crm", "mail", "pay", "off", "gone")
	// mail/write could be permitted with other arguments, pay/write not in this run.
	if diff := cmp.Diff([]string{"look", "mail__look", "mail__write"}, w.toolNames()); diff != "" {
		t.Errorf("tools:\n%s", diff)
	}
	// Another run, before the first list is out of date.
	first := w.run
	w.run = NewRun(sallyport.Run{ID: "run_2", Agent: "support", Release: release, Stage: sallyport.Production, State: sallyport.RunOpen,
		Labels: sallyport.NewLabels(), Envelope: sallyport.Envelope{Task: "pay", Tools: []string{"pay__write", "mail__look"}}}, nil)
	if diff := cmp.Diff([]string{"mail__look", "pay__write"}, w.toolNames()); diff != "" {
		t.Errorf("tools of another run:\n%s", diff)
	}
	w.run = first
	succeeded(t, w.tool(t.Context(), "look")) // and now the run knows something confidential
	if diff := cmp.Diff([]string{"mail__look", "mail__write"}, w.toolNames()); diff != "" {
		t.Errorf("tools of a run that knows more:\n%s", diff)
	}
	refused(t, w.tool(t.Context(), "look"), sallyport.Denied)
	refused(t, w.tool(t.Context(), "off__look"), sallyport.BindingOff)
	refused(t, w.tool(t.Context(), "gone__look"), sallyport.BindingOff)
}

// TestToolsAreAdvertisedByteForByte: a tool that has a prefix differs in its name
// alone, and is called by its own name.
func TestToolsAreAdvertisedByteForByte(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm", "mail")
	list, err := w.Tools(t.Context(), "token")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{ "x-odd": [1.0,"name"] ,"name" :"look", "inputSchema":` + schemaText + `}`,
		`{ "x-odd": [1.0,"name"] ,"name" :"mail__look", "inputSchema":` + schemaText + `}`,
		`{ "x-odd": [1.0,"name"] ,"name" :"mail__write", "inputSchema":` + schemaText + `}`,
		`{ "x-odd": [1.0,"name"] ,"name" :"write", "inputSchema":` + schemaText + `}`,
	}
	var got []string
	for _, d := range list.Definitions {
		got = append(got, string(d))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	w.on("mail", func(_ context.Context, q *Request) (*Response, error) {
		if want := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"look","arguments":{"id":"1"}}}`; string(q.Message.Raw) != want {
			t.Errorf("sent %s", q.Message.Raw)
		}
		return respond(t), nil
	})
	succeeded(t, w.tool(t.Context(), "mail__look"))
	refused(t, w.tool(t.Context(), "crm__look"), sallyport.UnknownTool) // no prefix without a collision
	if w.requests("mail") != 1 || w.requests("crm") != 0 {
		t.Errorf("crm was asked %d times, mail %d times", w.requests("crm"), w.requests("mail"))
	}
}

func TestToolsAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWide(t, `permit (principal, action, resource) when { context.now.hour < 13 };`, nil, "crm")
		before := time.Now()
		w.Now = func() time.Time { return time.Date(2026, 7, 1, 12, 59, 58, 0, time.UTC).Add(time.Since(before)) }
		first, err := w.Tools(t.Context(), "token")
		if err != nil || len(first.Definitions) != 2 {
			t.Fatalf("%+v %v", first, err)
		}
		time.Sleep(toolListTTL - time.Nanosecond)
		if again, err := w.Tools(t.Context(), "token"); err != nil || again != first {
			t.Errorf("the list was made again: %v", err)
		}
		time.Sleep(time.Nanosecond)
		after, err := w.Tools(t.Context(), "token")
		if err != nil || len(after.Definitions) != 0 || after.Etag == first.Etag {
			t.Errorf("a list that is out of date was given out: %+v %v", after, err)
		}
		// A plan that was replaced is not listed any more, however young the list.
		plan := *w.plan
		w.plan = &plan
		if list, err := w.Tools(t.Context(), "token"); err != nil || list == after {
			t.Errorf("the list is that of another plan: %v", err)
		}
	})
}

func TestToolListsAreBounded(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	for i := range 5 * mostToolLists {
		w.run = NewRun(sallyport.Run{ID: sallyport.RunID(fmt.Sprint("run_", i)), Agent: "support", Release: release, Stage: sallyport.Production, Labels: sallyport.NewLabels()}, nil)
		if _, err := w.Tools(t.Context(), "token"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.lists.tool); n > mostToolLists {
		t.Errorf("%d lists are kept", n)
	}
}

func TestHaltStopsLists(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	w.on("crm", resources(w, "file:///a"))
	list := w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil)
	succeeded(t, w.List(t.Context(), list)) // it is kept now
	w.Halt(t.Context(), sallyport.Halt{Scope: sallyport.HaltAgent, Subject: "support", Reason: "wrong"})
	refused(t, w.List(t.Context(), list), sallyport.Halted)
	if _, err := w.Tools(t.Context(), "token"); err == nil {
		t.Error("tools are listed for an agent that was halted")
	}
}

// resources lists resources in pages of two, whatever the method.
func resources(w *wide, uris ...string) func(context.Context, *Request) (*Response, error) {
	return func(_ context.Context, q *Request) (*Response, error) {
		from := 0
		if q.Message.Cursor != "" {
			fmt.Sscan(q.Message.Cursor, &from)
		}
		var items []string
		for _, uri := range uris[from:min(from+2, len(uris))] {
			switch q.Method {
			case wire.MethodPromptsList:
				items = append(items, fmt.Sprintf(`{"name":%q, "x":12345678901234567890}`, uri))
			case wire.MethodResourcesTemplatesList:
				items = append(items, fmt.Sprintf(`{"uriTemplate":%q, "x":12345678901234567890}`, uri))
			default:
				items = append(items, fmt.Sprintf(`{"uri":%q, "x":12345678901234567890}`, uri))
			}
		}
		next := ""
		if from+2 < len(uris) {
			next = fmt.Sprintf(`,"nextCursor":"%d"`, from+2)
		}
		key := strings.TrimSuffix(q.Method, "/list")
		if q.Method == wire.MethodResourcesTemplatesList {
			key = "resourceTemplates"
		}
		return w.says(fmt.Sprintf(`{%q:[%s]%s}`, key, strings.Join(items, ","), next)), nil
	}
}

// listed asks for a list and returns the names in it, and the upstreams that are
// missing.
func (w *wide) listed(x *Exchange) (names, missing []string, next string) {
	w.t.Helper()
	r := w.List(context.Background(), x)
	if r.Refusal != nil {
		w.t.Fatal(r.Refusal)
	}
	var result struct {
		Resources, Prompts, ResourceTemplates []json.RawMessage
		NextCursor                            string
		ResultType                            string
		Meta                                  struct {
			Unavailable []string `json:"sallyport/unavailable"`
		} `json:"_meta"`
	}
	if err := json.Unmarshal(r.Result, &result); err != nil {
		w.t.Fatalf("%s: %v", r.Result, err)
	}
	if (result.ResultType == "complete") != (x.Era == wire.Stateless) {
		w.t.Errorf("in era %v the list is %s", x.Era, r.Result)
	}
	names = []string{}
	for _, item := range slices.Concat(result.Resources, result.Prompts, result.ResourceTemplates) {
		if !strings.Contains(string(item), `, "x":12345678901234567890}`) {
			w.t.Errorf("an item is not the upstream's: %s", item)
		}
		names = append(names, itemName(item))
	}
	return names, result.Meta.Unavailable, result.NextCursor
}

func TestListsAreMerged(t *testing.T) {
	const policies = `
permit (principal, action, resource);
forbid (principal, action == Action::"resources/read", resource == Upstream::"mail") when { context.uri like "*secret*" };
forbid (principal, action == Action::"prompts/get", resource) when { context.prompt == "boast" };`
	w := newWide(t, policies, func(r *sallyport.Release, c *sallyport.StageConfig) {
		r.Servers["bare"] = sallyport.PinnedServer{Capabilities: json.RawMessage(`{"tools":{}}`)}
		simulated := c.Upstreams["off"]
		simulated.Binding = sallyport.Off
		c.Upstreams["off"] = simulated
	}, "crm", "mail", "off", "bare")
	w.on("crm", resources(w, "file:///c1", "file:///c2", "file:///c3", "file:///secret"))
	w.on("mail", resources(w, "mail:1", "mail:secret", "mail:3", "boast"))
	for method, want := range map[string][]string{
		wire.MethodResourcesList:          {"file:///c1", "file:///c2", "file:///c3", "file:///secret", "mail:1", "mail:3", "boast"},
		wire.MethodResourcesTemplatesList: {"file:///c1", "file:///c2", "file:///c3", "file:///secret", "mail:1", "mail:3", "boast"},
		wire.MethodPromptsList:            {"file:///c1", "file:///c2", "file:///c3", "file:///secret", "mail:1", "mail:secret", "mail:3"},
	} {
		names, missing, next := w.listed(w.request(sallyport.KindResource, method, `{}`, nil))
		if diff := cmp.Diff(want, names); diff != "" || missing != nil || next != "" {
			t.Errorf("%s: missing %v, next %q\n%s", method, missing, next, diff)
		}
	}
	if w.requests("off") > 0 || w.requests("bare") > 0 {
		t.Error("an upstream was asked that is off, or offers nothing of the kind")
	}
	// Reading is the same decision, and goes to the upstream that lists it.
	read := func(uri string) Reply {
		return w.Call(t.Context(), w.request(sallyport.KindResource, wire.MethodResourcesRead, fmt.Sprintf(`{"uri":%q}`, uri), nil))
	}
	for id := range w.asked {
		w.on(id, nil)
	}
	for _, uri := range []string{"file:///c1", "mail:1", "file:///secret"} {
		succeeded(t, read(uri))
	}
	refused(t, read("mail:secret"), sallyport.Denied)
	refused(t, read("file:///nobody"), sallyport.NotFound)
}

func TestListIsCutIntoPages(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.SampledFrom([]int{0, 1, listPage - 1, listPage, listPage + 1, 2 * listPage, 2*listPage + 7}).Draw(rt, "n")
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(`{"uri":"file:///%d", "x":12345678901234567890}`, i)
		}
		w.on("crm", func(context.Context, *Request) (*Response, error) {
			return w.says(`{"resources":[` + strings.Join(items, ",") + `]}`), nil
		})
		w.lists = listCache{}
		var got []string
		cursor, pages := "", 0
		for {
			names, _, next := w.listed(w.request(sallyport.KindResource, wire.MethodResourcesList, fmt.Sprintf(`{"cursor":%q}`, cursor), nil))
			got = append(got, names...)
			if pages++; next == "" {
				break
			}
			cursor = next
		}
		if len(got) != n || pages != max(1, (n+listPage-1)/listPage) {
			rt.Fatalf("%d items in %d pages, want %d", len(got), pages, n)
		}
		for i, name := range got {
			if name != fmt.Sprint("file:///", i) {
				rt.Fatalf("item %d is %s", i, name)
			}
		}
	})
	for _, cursor := range []string{"x", "MTA", "LTE", "%"} { // not base 64, beyond the end, negative, nothing
		x := w.request(sallyport.KindResource, wire.MethodResourcesList, fmt.Sprintf(`{"cursor":%q}`, cursor), nil)
		w.on("crm", resources(w, "file:///1"))
		w.lists = listCache{}
		refused(t, w.List(t.Context(), x), sallyport.BadRequest)
	}
}

// TestListWithoutWhoeverFails: what one upstream does wrong is said, and costs the
// others nothing.
func TestListWithoutWhoeverFails(t *testing.T) {
	wrong := map[string]func(w *wide) func(context.Context, *Request) (*Response, error){
		"unavailable": func(*wide) func(context.Context, *Request) (*Response, error) {
			return fails(sallyport.UpstreamUnavailable)
		},
		"hangs": func(*wide) func(context.Context, *Request) (*Response, error) {
			return func(ctx context.Context, _ *Request) (*Response, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		"panics": func(*wide) func(context.Context, *Request) (*Response, error) {
			return func(context.Context, *Request) (*Response, error) { panic("no") }
		},
		"an error": func(w *wide) func(context.Context, *Request) (*Response, error) {
			return func(context.Context, *Request) (*Response, error) {
				m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}`), wire.Limits{})
				return &Response{Message: m}, err
			}
		},
		"no list": func(w *wide) func(context.Context, *Request) (*Response, error) {
			return func(context.Context, *Request) (*Response, error) { return w.says(`{"tools":[]}`), nil }
		},
		"too large": func(w *wide) func(context.Context, *Request) (*Response, error) {
			page := fmt.Sprintf(`{"resources":[{"uri":"mail:1","text":%q}],"nextCursor":"x"}`, strings.Repeat("x", 1<<20))
			return func(context.Context, *Request) (*Response, error) { return w.says(page), nil }
		},
	}
	for name, f := range wrong {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWide(t, permitAll, nil, "crm", "mail")
				w.on("crm", resources(w, "file:///c1"))
				w.on("mail", f(w))
				x := w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil)
				names, missing, _ := w.listed(x)
				if diff := cmp.Diff([]string{"file:///c1"}, names); diff != "" || !slices.Equal(missing, []string{"mail"}) {
					t.Errorf("missing %v\n%s", missing, diff)
				}
				// It is not kept that there was nothing: the next list asks again.
				w.on("mail", resources(w, "mail:1"))
				if names, missing, _ := w.listed(x); len(names) != 2 || missing != nil {
					t.Errorf("afterwards %v without %v", names, missing)
				}
			})
		})
	}
	t.Run("nobody is asked", func(t *testing.T) { // what may not be listed is not missing
		w := newWide(t, `permit (principal, action == Action::"resources/read", resource == Upstream::"crm");`, nil, "crm", "mail")
		w.on("crm", resources(w, "file:///c1"))
		names, missing, _ := w.listed(w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil))
		if len(names) != 1 || missing != nil || w.requests("mail") > 0 {
			t.Errorf("%v without %v, mail was asked %d times", names, missing, w.requests("mail"))
		}
	})
}

func TestListsAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWide(t, permitAll, nil, "crm")
		w.on("crm", resources(w, "file:///1", "file:///2", "file:///3"))
		x := w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil)
		ask := func(x *Exchange, want int) {
			t.Helper()
			if names, _, _ := w.listed(x); len(names) != 3 {
				t.Errorf("listed %v", names)
			}
			if n := w.requests("crm"); n != want {
				t.Errorf("%d requests, want %d", n, want)
			}
		}
		ask(x, 2) // two pages
		time.Sleep(listTTL - time.Nanosecond)
		ask(x, 2)
		time.Sleep(time.Nanosecond)
		ask(x, 4)

		// A session has lists of its own: what it sees may be its alone.
		session := func(id string) (*Session, *Exchange) {
			s := &Session{ID: id, Key: "key_1", Deliver: func([]byte) {}}
			return s, w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, s)
		}
		s, mine := session("s1")
		ask(mine, 6)
		ask(mine, 6)
		_, other := session("s2")
		ask(other, 8)
		// An upstream says to the session that a list has changed.
		s.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}`))
		synctest.Wait() // it is read again, to see whether the client has to know
		ask(mine, 10)
		ask(mine, 10)
		ask(other, 10)
		s.Deliver([]byte(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}`))
		ask(mine, 10)
		// When it ends, so does what was kept for it, and nothing else.
		w.CloseSession(s)
		if n := len(w.lists.kept); n != 2 || len(w.told) != 1 || w.told[0] != s {
			t.Errorf("%d lists are kept, the backends forgot %d sessions", n, len(w.told))
		}
		ask(other, 10)
		time.Sleep(listTTL)
		ask(x, 12)
		if n := len(w.lists.kept); n != 1 || w.lists.size == 0 {
			t.Errorf("%d lists of %d bytes are kept", n, w.lists.size)
		}
	})
}

// TestSeenListLabels: a run that was shown a kept list knows what it says, like
// the one that asked for it.
func TestSeenListLabels(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	w.on("crm", resources(w, "file:///1"))
	x := w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, nil)
	for i := range 2 {
		w.run = NewRun(sallyport.Run{ID: sallyport.RunID(fmt.Sprint("run_", i)), Agent: "support", Release: release, Stage: sallyport.Production, Labels: sallyport.NewLabels()}, nil)
		w.listed(x)
		if got := w.run.Labels(); got.Integrity != sallyport.Untrusted || got.Confidentiality != sallyport.Restricted {
			t.Errorf("run %d has read what an upstream wrote and knows %+v", i, got)
		}
	}
	if w.requests("crm") != 1 {
		t.Error("the list was not kept")
	}
}

func TestKeptListsAreBounded(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm")
	page := fmt.Sprintf(`{"resources":[{"uri":"mail:1", "x":12345678901234567890}],"text":%q}`, strings.Repeat("x", 3<<20))
	w.on("crm", func(context.Context, *Request) (*Response, error) { return w.says(page), nil })
	for i := range 40 {
		s := &Session{ID: fmt.Sprint("s", i), Key: "key_1"}
		w.listed(w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, s))
		sum := 0
		for _, e := range w.lists.kept {
			sum += e.size
		}
		if sum > mostListed || sum != w.lists.size {
			t.Fatalf("%d bytes are kept, and %d counted", sum, w.lists.size)
		}
	}
}

// TestListsFromManySides is for the race detector.
func TestListsFromManySides(t *testing.T) {
	w := newWide(t, permitAll, nil, "crm", "mail")
	w.on("crm", resources(w, "file:///1"))
	w.on("mail", resources(w, "mail:1"))
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			s := &Session{ID: fmt.Sprint("s", i), Key: "key_1", Deliver: func([]byte) {}}
			for range 10 {
				for _, session := range []*Session{nil, s} {
					if names, _, _ := w.listed(w.request(sallyport.KindResource, wire.MethodResourcesList, `{}`, session)); len(names) != 2 {
						t.Errorf("listed %v", names)
					}
				}
				if _, err := w.Tools(context.Background(), "token"); err != nil {
					t.Error(err)
				}
				s.Deliver([]byte(`{"method":"notifications/resources/list_changed"}`))
			}
			w.CloseSession(s)
		})
	}
	wait.Wait()
}
