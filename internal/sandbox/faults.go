package sandbox

import (
	"context"
	"encoding/json"
	"errors"

	"sallyport"
)

// faults are what goes wrong in a world on purpose.
type faults struct{}

func parseFaults(raw json.RawMessage) (*faults, error) {
	if len(raw) > 0 {
		return nil, errors.New("this version knows none")
	}
	return nil, nil
}

// answer answers a call by do, unless the call is to go wrong.
func (f *faults) answer(_ context.Context, _ *sallyport.Simulated, _ bool, _ *run, do func() (*sallyport.Simulation, error)) (*sallyport.Simulation, error) {
	return do()
}
