package gateway

import (
	"sync"

	"sallyport"
)

// Run is an open run as this replica knows it. What it knows is joined, never
// replaced, and its calls are counted before they are made.
type Run struct {
	sallyport.Run // its Labels and Calls are those it was loaded with

	mu     sync.Mutex
	labels sallyport.Labels
	calls  int
}

// NewRun makes a run handle of a stored run.
func NewRun(r sallyport.Run) *Run {
	return &Run{Run: r, labels: r.Labels, calls: r.Calls}
}

// Labels are what the run knows now.
func (r *Run) Labels() sallyport.Labels {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.labels
}

// Calls is how many calls the run has reserved.
func (r *Run) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// reserve takes one call from the run's budget.
func (r *Run) reserve() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if most := r.Envelope.MaxCalls; most > 0 && r.calls >= most {
		return false
	}
	r.calls++
	return true
}

func (r *Run) learn(l sallyport.Labels) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.labels = r.labels.Join(l)
}
