package control_test

import (
	"context"
	"testing"
	"testing/synctest"

	"sallyport"
)

// TestHaltDoesNotWaitForAStoreThatHangs: a disk that neither works nor fails holds
// up the record of a halt, not the word that it works; nor the next halt, nor one
// that waits in the file to be recorded.
func TestHaltDoesNotWaitForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		free := make(chan struct{})
		o.committing = func() { <-free }
		operator := &sallyport.Person{ID: "ana", Roles: []sallyport.Role{sallyport.Operator}}
		for _, subject := range []string{"crm", "mail"} {
			halted := make(chan struct{})
			go func() {
				defer close(halted)
				s, err := o.Control.Halt(context.Background(), operator, sallyport.HaltUpstream, subject, "wrong")
				if err != nil || s.Recorded || s.Problem == "" || s.Applied.IsZero() {
					t.Errorf("%+v, %v", s, err)
				}
			}()
			go o.Recover(context.Background()) // as happens every few seconds
			<-halted
		}
		if kept, _ := o.Kept(); len(kept) != 2 {
			t.Errorf("a restart would know of %v", kept)
		}
		close(free)
		synctest.Wait()
		if err := o.Recover(context.Background()); err != nil {
			t.Error(err)
		}
		if kept, _ := o.Kept(); len(kept) != 0 || len(o.past.Halts) < 2 {
			t.Errorf("kept %v, recorded %v", kept, o.past.Halts)
		}
	})
}
