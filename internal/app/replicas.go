package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"sallyport"
)

// replicas are the servers that share this one's store, as those need them who serve
// clients: see [agentside.Replicas].
type replicas struct {
	a     *App
	proxy *httputil.ReverseProxy

	mu    sync.Mutex
	known map[int64]place
}

// place is where a replica was a moment ago.
type place struct {
	address *url.URL // nil: it is gone, or cannot be reached
	until   time.Time
}

// passed marks what another replica passed on: it is passed on no further.
const passed = "Sallyport-Passed-On"

type destination struct{}

func (a *App) newReplicas() *replicas {
	r := &replicas{a: a, known: map[int64]place{}}
	r.proxy = &httputil.ReverseProxy{
		FlushInterval: -1, // events as they come
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		Rewrite: func(p *httputil.ProxyRequest) {
			to := p.In.Context().Value(destination{}).(*url.URL)
			p.Out.URL.Scheme, p.Out.URL.Host = to.Scheme, to.Host
			p.Out.Host = p.In.Host // it is checked there as here
			p.Out.Header.Set(passed, "1")
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil { // the client has gone
				return
			}
			// Whether it arrived is not known: the client repeats it or not, as after any
			// connection that broke.
			a.Log.Warn("a request could not be passed on to the server that has its session", "err", err)
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	a.onStop(func() error { r.proxy.Transport.(*http.Transport).CloseIdleConnections(); return nil })
	return r
}

// reachedAt is where a listener is reached from elsewhere, empty if its address does not
// say so.
func reachedAt(listener net.Addr) string {
	tcp, ok := listener.(*net.TCPAddr)
	if !ok || tcp.IP.IsUnspecified() || tcp.IP.IsLoopback() { // which is another place on another machine
		return ""
	}
	return "http://" + tcp.String()
}

// Self implements [agentside.Replicas].
func (r *replicas) Self() int64 { return r.a.Store.Start() }

// Pass implements [agentside.Replicas].
func (r *replicas) Pass(w http.ResponseWriter, req *http.Request, to int64) bool {
	if req.Header.Get(passed) != "" {
		return false
	}
	address, err := r.find(req.Context(), to)
	if err != nil {
		// Nobody says that the session is gone, and a client would give it up.
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the server that has the session cannot be found at the moment", http.StatusServiceUnavailable)
		return true
	}
	if address == nil {
		return false
	}
	// A stream lasts as long as the client stays.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	r.proxy.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), destination{}, address)))
	return true
}

// find looks a replica up, at most once a second; nil: it is gone, or says no address.
// While the store cannot be read it is taken to be where it was.
func (r *replicas) find(ctx context.Context, start int64) (*url.URL, error) {
	r.mu.Lock()
	p, known := r.known[start]
	r.mu.Unlock()
	if known && time.Now().Before(p.until) {
		return p.address, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	text, err := r.a.Store.Address(ctx, start)
	var gone *sallyport.Refusal
	switch {
	case err == nil:
		if p.address, err = url.Parse(text); err != nil || p.address.Host == "" {
			p.address = nil
		}
	case errors.As(err, &gone) && gone.Code == sallyport.NotFound:
		p.address = nil
	case !known || p.address == nil:
		return nil, err
	}
	p.until = time.Now().Add(time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) > 1000 { // numbers that clients made up
		clear(r.known)
	}
	r.known[start] = p
	return p.address, nil
}
