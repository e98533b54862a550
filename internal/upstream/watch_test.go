package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// ear hears of a resource.
type ear struct {
	mu   sync.Mutex
	told []string
	lost atomic.Int64
	may  atomic.Bool
}

func (e *ear) watching() *gateway.Watching {
	e.may.Store(true)
	return &gateway.Watching{
		Updated: func(uri string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.told = append(e.told, uri)
		},
		May:  func(context.Context) bool { return e.may.Load() },
		Lost: func() { e.lost.Add(1) },
	}
}

func (e *ear) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.told)
}

// subscription asks for news of a resource: in a session, or by a client without.
func (e *ear) subscription(t *testing.T, s *gateway.Session, uri string) *gateway.Request {
	t.Helper()
	text := fmt.Sprintf(`{"jsonrpc":"2.0","id":"own","method":"resources/subscribe","params":{"uri":%q,"x":1.0}}`, uri)
	r := &gateway.Request{Era: wire.Sessions, Session: s, MaxResult: 1 << 20, Watching: e.watching()}
	if s == nil {
		text = fmt.Sprintf(`{"jsonrpc":"2.0","id":"own","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":[%q]},"_meta":{%q:%q,%q:{"roots":{}}}}}`,
			uri, wire.MetaProtocolVersion, wire.Version20260728, wire.MetaClientCapabilities)
		r.Era, r.Owner = wire.Stateless, "key/run"
	}
	r.Message = scan(t, text)
	r.Message.Name, r.Method = uri, r.Message.Method
	return r
}

func (e *ear) listens(t *testing.T, b gateway.Backend, s *gateway.Session, uri string) gateway.Watch {
	t.Helper()
	res, err := b.Do(within(t), e.subscription(t, s, uri))
	if err != nil || res.Watch == nil || string(res.Message.Raw) != `{"jsonrpc":"2.0","id":"own","result":{}}` {
		t.Fatalf("%+v, %v", res, err)
	}
	return res.Watch
}

// tower is a server without sessions that tells of resources.
type tower struct {
	*site
	opened, closed atomic.Int64
	mu             sync.Mutex
	say            []chan string // on each open stream; "" ends it
}

func newTower(t *testing.T) *tower {
	w := &tower{}
	w.site = newSite(t, func(out http.ResponseWriter, r received) {
		if r.message.Method != wire.MethodSubscriptionsListen {
			echo(out, r)
			return
		}
		say := make(chan string)
		w.mu.Lock()
		w.say = append(w.say, say)
		w.mu.Unlock()
		w.opened.Add(1)
		defer w.closed.Add(1)
		agreed, _, err := wire.Field(r.message.Params.Of(r.message.Raw), "notifications")
		if err != nil {
			t.Error(err)
		}
		if string(agreed) == `{"resourceSubscriptions":["a:none"]}` {
			agreed = []byte("{}")
		}
		sayEvent(out, `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":%s,"_meta":{%q:%s}}}`, agreed, wire.MetaSubscriptionID, r.id())
		for {
			select {
			case uri := <-say:
				if uri == "" {
					return
				}
				sayEvent(out, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":%q}}`, uri)
			case <-r.gone:
				return
			}
		}
	})
	return w
}

// last is the youngest stream.
func (w *tower) last() chan<- string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.say[len(w.say)-1]
}

// TestWatchStateless: clients of both eras share what they ask of a server without
// sessions; when its stream is lost it is asked again for those who still may hear.
func TestWatchStateless(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	stage := newStage(t, sallyport.Production)
	b := backend(t, stage, at(w.site))
	var one, two, late ear
	ends := one.listens(t, b, clientSession("s"), "a:b")
	two.listens(t, b, nil, "a:b")
	if n := w.opened.Load(); n != 1 {
		t.Fatalf("it is asked %d times", n)
	}
	w.last() <- "a:b/c"
	eventually(t, "news", func() bool { return len(one.heard()) == 1 && len(two.heard()) == 1 })

	two.may.Store(false)
	w.last() <- "" // the stream is lost
	eventually(t, "another stream", func() bool { return w.opened.Load() == 2 })
	eventually(t, "the hint that news may have been missed", func() bool { return slices.Equal(one.heard(), []string{"a:b/c", "a:b"}) })
	late.listens(t, b, clientSession("late"), "a:b")
	w.last() <- "a:b"
	eventually(t, "news", func() bool { return len(late.heard()) == 1 && len(one.heard()) == 3 })
	if got := two.heard(); len(got) != 1 {
		t.Errorf("who may not hear any more heard %q", got)
	}

	ends.End()
	if n := w.closed.Load(); n != 1 {
		t.Errorf("%d streams have ended while somebody hears", n)
	}
	// It is reached otherwise from now on.
	transport := at(w.site)
	transport.Headers = map[string]string{"X-New": "1"}
	backend(t, stage, transport)
	eventually(t, "the end", func() bool { return late.lost.Load() == 1 && w.closed.Load() == 2 })
	if one.lost.Load() != 0 {
		t.Error("who ended it is told that it is lost")
	}

	var none ear
	_, err := b.Do(within(t), none.subscription(t, nil, "a:b"))
	refused(t, err, sallyport.UpstreamUnavailable, false)
	_, err = backend(t, stage, transport).Do(within(t), none.subscription(t, nil, "a:none"))
	if refused(t, err, sallyport.NotFound, false); none.lost.Load() > 1 {
		t.Error("lost more than once")
	}
}

// TestWatchVeto: nothing is written if the last look before the first byte says no.
func TestWatchVeto(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	b := backend(t, newStage(t, sallyport.Production), at(w.site))
	var e ear
	r := e.subscription(t, clientSession("s"), "a:b")
	r.BeforeWrite = func() error { return sallyport.Refuse(sallyport.Halted, "stopped", "") }
	_, err := b.Do(within(t), r)
	if r := (*sallyport.Refusal)(nil); !errors.As(err, &r) || r.Code != sallyport.Halted || w.opened.Load() != 0 {
		t.Errorf("%v, asked %d times", err, w.opened.Load())
	}
	e.listens(t, b, clientSession("s"), "a:b") // it was not its fault
}

// TestWatchSessions: what a session was asked for is asked for again in the one that
// takes its place.
func TestWatchSessions(t *testing.T) {
	t.Parallel()
	var asked, ended atomic.Int64
	o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) {
		switch r.message.Method {
		case wire.MethodResourcesSubscribe:
			asked.Add(1)
			sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, r.id())
		case wire.MethodResourcesUnsubscribe:
			ended.Add(1)
			sayJSON(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, r.id())
		default: // a call, during which it tells
			sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b/c"}}`)
			sayEvent(w, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:z"}}`)
			replyEvent(w, r, `{"content":[]}`)
		}
	})
	for name, s := range map[string]*gateway.Session{"sessions": clientSession("s"), "stateless": nil} {
		asked.Store(0)
		ended.Store(0)
		b := backend(t, newStage(t, sallyport.Production), atSessions(o.site))
		var one, two ear
		first, second := one.listens(t, b, s, "a:b"), two.listens(t, b, s, "a:b")
		if n := asked.Load(); n != 1 {
			t.Fatalf("%s: it is asked %d times", name, n)
		}
		call := stateless(t, "1", "x", `{}`)
		call.Owner = "key/run"
		call.Message = scan(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{%q:%q,%q:{"roots":{}}}}}`,
			wire.MetaProtocolVersion, wire.Version20260728, wire.MetaClientCapabilities))
		if s != nil {
			call = sessions(t, s, "1", "x", `{}`)
		}
		do(t, b, call)
		if got := one.heard(); !slices.Equal(got, []string{"a:b/c"}) {
			t.Errorf("%s: heard %q", name, got)
		}
		o.known.Clear() // the server has forgotten its sessions
		if _, err := b.Do(within(t), call); err == nil {
			t.Errorf("%s: a call in a lost session worked", name)
		}
		eventually(t, "the subscription in another session", func() bool { return asked.Load() == 2 && slices.Contains(two.heard(), "a:b") })
		first.End()
		if n := ended.Load(); n != 0 {
			t.Errorf("%s: it was ended %d times while somebody hears", name, n)
		}
		second.End()
		eventually(t, "the end", func() bool { return ended.Load() == 1 })
		if one.lost.Load()+two.lost.Load() > 0 {
			t.Errorf("%s: lost", name)
		}
	}
}

// TestWatchDeclined: an error of the upstream is the client's answer, and nothing
// goes on.
func TestWatchDeclined(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(_ *office, w http.ResponseWriter, r received) {
		sayJSON(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no" ,"data":1.0}}`, r.id())
	})
	b := backend(t, newStage(t, sallyport.Production), atSessions(o.site))
	for _, s := range []*gateway.Session{clientSession("s"), nil} {
		var e ear
		res, err := b.Do(within(t), e.subscription(t, s, "a:b"))
		if err != nil || res.Watch != nil || string(res.Message.Raw) != `{"jsonrpc":"2.0","id":"own","error":{"code":-32601,"message":"no" ,"data":1.0}}` {
			t.Errorf("%+v, %v", res, err)
		}
	}
}
