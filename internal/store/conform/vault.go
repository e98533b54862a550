package conform

import (
	"bytes"
	"context"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/guard"
)

const stagedShop, liveShop = "staging/shop", "production/shop"

// gives is an outcome with which pseudonyms are given out.
func (r *rig) gives(run *sallyport.Run, domain string, until time.Time, masked ...guard.Masked) *gateway.Entry {
	e := r.entry(run, "outcome", sallyport.CallID(r.id("call")), sallyport.OutcomeOK)
	e.Record.Access = sallyport.Read
	e.Originals, e.Domain, e.Until = masked, domain, until
	return e
}

func (r *rig) originals(domain string, pseudonyms ...string) map[string]guard.Original {
	r.Helper()
	known, err := r.Originals(context.Background(), domain, pseudonyms)
	r.must(err)
	return known
}

func (r *rig) knows(domain string, want map[string]guard.Original, pseudonyms ...string) {
	r.Helper()
	if diff := cmp.Diff(want, r.originals(domain, pseudonyms...)); diff != "" {
		r.Errorf("in %s: %s", domain, diff)
	}
}

// vault: originals are had again in their own domain alone, after a restart and a
// crash, and nothing of them can be read from what is kept. A pseudonym of two originals
// is none.
func vault(r *rig) {
	ctx, run, until := context.Background(), r.started(), r.now().Add(time.Hour)
	mail := guard.Masked{Class: "email", Original: "Jane.Roe@corp.example", Pseudonym: "cradle.ch74sriuq7wstj2y@example.net"}
	phone := guard.Masked{Class: "phone", Original: "+44 7911 123456", Pseudonym: "+44 2920 180482"}
	jane, number := guard.Original{Class: "email", Text: mail.Original}, guard.Original{Class: "phone", Text: phone.Original}
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, until, mail, phone)))
	both := map[string]guard.Original{mail.Pseudonym: jane, phone.Pseudonym: number}
	r.knows(stagedShop, both, mail.Pseudonym, "nobody@example.net", phone.Pseudonym)
	r.knows(liveShop, map[string]guard.Original{}, mail.Pseudonym, phone.Pseudonym)
	r.reopen()
	r.knows(stagedShop, both, mail.Pseudonym, phone.Pseudonym)
	r.crash()
	r.knows(stagedShop, both, mail.Pseudonym, phone.Pseudonym)

	held, err := r.place.Bytes()
	r.must(err)
	for _, secret := range []string{mail.Original, mail.Pseudonym, phone.Original, phone.Pseudonym, "Jane", "7911"} {
		if bytes.Contains(held, []byte(secret)) {
			r.Errorf("what is kept shows %q", secret)
		}
	}

	// Letter case is no other original; the newest spelling counts.
	small := mail
	small.Original = "jane.roe@corp.example"
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, until, small)))
	r.knows(stagedShop, map[string]guard.Original{mail.Pseudonym: {Class: "email", Text: small.Original}}, mail.Pseudonym)
	// Another one is, and then nobody can say whose it is, whoever comes after.
	other := mail
	other.Original = "bob@corp.example"
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, until, other)))
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, until, mail)))
	r.knows(stagedShop, map[string]guard.Original{phone.Pseudonym: number}, mail.Pseudonym, phone.Pseudonym)
	// That is so in one domain alone.
	r.must(r.Conclude(ctx, r.gives(run, liveShop, until, other)))
	r.knows(liveShop, map[string]guard.Original{mail.Pseudonym: {Class: "email", Text: other.Original}}, mail.Pseudonym)
}

// vaultForgets: an original is gone when its time is over, or when the data of the run
// is erased that it was last seen in.
func vaultForgets(r *rig) {
	ctx, run, gone := context.Background(), r.started(), r.started()
	a := guard.Masked{Class: "id", Original: "C-1", Pseudonym: "D-1"}
	b := guard.Masked{Class: "id", Original: "C-2", Pseudonym: "D-2"}
	c := guard.Masked{Class: "id", Original: "C-3", Pseudonym: "D-3"}
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, r.now().Add(time.Hour), a)))
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, r.now().Add(3*time.Hour), b)))
	r.must(r.Conclude(ctx, r.gives(gone, stagedShop, r.now().Add(3*time.Hour), c)))
	r.pass(2 * time.Hour)
	two, three := guard.Original{Class: "id", Text: "C-2"}, guard.Original{Class: "id", Text: "C-3"}
	r.knows(stagedShop, map[string]guard.Original{"D-2": two, "D-3": three}, "D-1", "D-2", "D-3")
	r.must(r.SweepVault(ctx))
	r.knows(stagedShop, map[string]guard.Original{"D-2": two, "D-3": three}, "D-1", "D-2", "D-3")
	// What was swept can stand for another.
	again := guard.Masked{Class: "id", Original: "C-9", Pseudonym: "D-1"}
	r.must(r.Conclude(ctx, r.gives(run, stagedShop, r.now().Add(time.Hour), again)))
	r.knows(stagedShop, map[string]guard.Original{"D-1": {Class: "id", Text: "C-9"}}, "D-1")

	r.must(r.Close())
	r.must(r.place.Erase(gone.ID))
	r.open()
	r.knows(stagedShop, map[string]guard.Original{"D-2": two}, "D-2", "D-3")
}
