package app

import (
	"context"
	"strings"

	"sallyport"
	"sallyport/internal/notify"
	"sallyport/internal/store"
)

// notifier tells those that sallyport.yaml names of approvals.
func (a *App) notifier() *notify.Notifier {
	server := &a.Project.Server
	return notify.New(notify.Config{
		Outbox: a.Store, To: server.Notify, Page: a.pageOf, Now: a.Store.Now, Log: a.Log,
		Secret: func(ref string) (string, error) { return secret(a.Dir, server.Secrets, ref) },
	})
}

// targets looks at what is needed to tell people of approvals.
func (d *doctor) targets() {
	to := &d.server.Notify
	if len(to.Webhooks) == 0 && to.Email == nil {
		return
	}
	bad := notify.Check(to, func(ref string) (string, error) { return secret(d.dir, d.server.Secrets, ref) })
	for _, err := range bad {
		if d.running && strings.Contains(err.Error(), "environment variable is not set") {
			d.say(Warn, "notify", "set it here too, to have it checked", "%v in this terminal; the server has an environment of its own", err)
		} else {
			d.say(Fail, "notify", "put it there: until then nobody is told", "%v", err)
		}
	}
	if len(bad) == 0 {
		d.say(Fine, "notify", "", "messages about approvals go to %s and %s", Count(len(to.Webhooks), "webhook"), Count(len(to.Addresses()), "email target"))
	}
}

// notices looks at messages that have not arrived.
func (d *doctor) notices(ctx context.Context, s *store.Store) {
	if d.older { // the next start makes their table
		return
	}
	late, err := s.LateNotices(ctx)
	if err != nil {
		d.say(Fail, "notify", "restore the store from a backup", "what is to be told of approvals cannot be read: %v", err)
		return
	}
	type target struct {
		waiting, lost int
		last          sallyport.Notice
	}
	of, names := map[string]*target{}, []string{}
	for _, n := range late {
		t := of[n.Target]
		if t == nil {
			t = &target{last: n}
			of[n.Target], names = t, append(names, n.Target)
		}
		if n.Due.IsZero() {
			t.lost++
		} else {
			t.waiting++
		}
	}
	for _, name := range names {
		t := of[name]
		if t.lost > 0 {
			d.say(Warn, "notify", "see that it can be reached, and look at: sallyport approve", "%s: gave up on %s in the last week: %s", name, Count(t.lost, "message"), t.last.Error)
		}
		if t.waiting > 0 {
			d.say(Warn, "notify", "see that it can be reached; they are tried again by themselves", "%s: %s tried in vain: %s", name, Count(t.waiting, "message"), t.last.Error)
		}
	}
}
