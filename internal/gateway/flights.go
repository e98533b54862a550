package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"sallyport"
)

// flight is one call that may be about to reach an upstream, as a halt sees it.
type flight struct {
	call   sallyport.CallID
	target sallyport.Target
	cancel context.CancelFunc
	shard  *flightShard
	// phase only grows. A call goes from admitted to writing immediately before
	// its first byte; whether it may is decided after the mark is set, so that a
	// halt, which reads the mark after it has changed the state, and the call
	// cannot both miss each other.
	phase atomic.Int32
	// settled is closed when the call has been written, or has ended, or can no
	// longer be written: what a halt waits for.
	settled     chan struct{}
	settledOnce sync.Once
	// heard: a notification of the upstream has been passed on to the client.
	heard atomic.Bool
	// held is the call when it has been answered with a question and goes on.
	held atomic.Pointer[Held]
}

// stop cancels the call.
func (f *flight) stop() {
	f.cancel()
	if h := f.held.Load(); h != nil {
		(*h).Drop()
	}
}

const (
	admitted int32 = iota
	writing
	written
)

func (f *flight) sent() bool { return f.phase.Load() >= writing }

func (f *flight) settle() { f.settledOnce.Do(func() { close(f.settled) }) }

// flights are the calls in flight, in shards so that calls do not queue for one
// lock.
type flights struct {
	shards [32]flightShard
	next   atomic.Uint32
	also   func(*State) // ends what is no call and goes on; nil for nothing
}

type flightShard struct {
	mu  sync.Mutex
	set map[*flight]struct{}
}

func (fs *flights) init() {
	for i := range fs.shards {
		fs.shards[i].set = map[*flight]struct{}{}
	}
}

func (fs *flights) enter(f *flight) {
	f.settled = make(chan struct{})
	f.shard = &fs.shards[fs.next.Add(1)%uint32(len(fs.shards))]
	f.shard.mu.Lock()
	f.shard.set[f] = struct{}{}
	f.shard.mu.Unlock()
}

func (fs *flights) leave(f *flight) {
	if f.shard != nil {
		f.shard.mu.Lock()
		delete(f.shard.set, f)
		f.shard.mu.Unlock()
		f.settle()
	}
	f.cancel()
}

// stop cancels every flight that s halts and returns them.
func (fs *flights) stop(s *State) Stopping {
	var matched Stopping
	for i := range fs.shards {
		shard := &fs.shards[i]
		shard.mu.Lock()
		for f := range shard.set {
			if s.Halted(&f.target) != nil {
				matched = append(matched, f)
			}
		}
		shard.mu.Unlock()
	}
	for _, f := range matched {
		f.stop()
	}
	if fs.also != nil {
		fs.also(s)
	}
	return matched
}

// InFlight counts the calls between resolve and their end.
func (g *Gateway) InFlight() int {
	n := 0
	for i := range g.flights.shards {
		shard := &g.flights.shards[i]
		shard.mu.Lock()
		n += len(shard.set)
		shard.mu.Unlock()
	}
	return n
}

// beforeWrite is the last look before the first byte: the halt may have come,
// or the intent grown too old, while the call waited for a connection.
func (g *Gateway) beforeWrite(x *Exchange) error {
	if err := x.onlyReads(); err != nil {
		return err
	}
	f := x.flight
	before := f.phase.Swap(writing) // not the first look, if there are several requests
	if h := g.state.Load().Halted(&x.Target); h != nil {
		f.phase.Store(before)
		f.settle()
		return haltedRefusal(h)
	}
	if err := g.current(x); err != nil {
		f.phase.Store(before)
		f.settle()
		return err
	}
	if x.Intended && g.Now().After(x.DispatchBy) {
		f.phase.Store(before)
		f.settle()
		return sallyport.Refuse(sallyport.DeadlineExceeded,
			"the call could not be sent in time after it was recorded, so it was not sent", "call again")
	}
	return nil
}

func (g *Gateway) afterWrite(x *Exchange) {
	x.flight.phase.Store(written)
	x.flight.settle()
}

// dispatchBy keeps the reading of the monotonic clock, which rounding would strip: a
// clock that is set back must not make an intent young again.
func (g *Gateway) dispatchBy() time.Time { return g.Now().Add(g.DispatchWithin) }
