package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"sallyport"
	"sallyport/internal/audit"
	"sallyport/internal/control"
	"sallyport/internal/gateway"
	"sallyport/internal/testkit/pgserver"
)

// second opens another replica of a rig's store.
func (r *rig) second() *Store {
	r.t.Helper()
	s, err := Open(context.Background(), r.Config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	return s
}

func replicaOf(s *Store) *postgres { return s.db.(*postgres) }

// following has a store told of decisions, and returns how many times it was.
func following(s *Store) *atomic.Int64 {
	var times atomic.Int64
	s.Follow(context.Background(), func(context.Context) ([]sallyport.CallID, error) { times.Add(1); return nil, nil })
	return &times
}

func halt(subject string) control.Change {
	return control.AddHalt{Halt: sallyport.Halt{Scope: sallyport.HaltRun, Subject: subject, Reason: "test", By: "ana@example.com"}}
}

// TestFenceBehindSlowCommits: where every commit takes longer than the fence is waited
// for at a time, and others begin before it ends, the fence is had all the same.
func TestFenceBehindSlowCommits(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	e := replicaOf(r.Store)
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			_ = d.server.Use(d.name, func(_ context.Context, c *pgx.Conn) error {
				for ctx.Err() == nil {
					_, err := c.Exec(context.Background(), fmt.Sprintf(`BEGIN; SELECT pg_advisory_xact_lock_shared(%d); SELECT pg_sleep(0.1 + random() * 0.3); COMMIT`, e.fenceKey()))
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	defer wait.Wait()
	defer cancel()
	bounded, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	conn, err := r.writer.Conn(bounded)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if err := e.stand(bounded, conn); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGivenUpIsWaitedFor: a replica that the others have given up may go on by what was
// decided before until its lease ends, and a halt is not confirmed before that.
func TestGivenUpIsWaitedFor(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	other := r.second()
	var deaf atomic.Bool
	stuck, held := make(chan struct{}, 1), make(chan struct{})
	other.Follow(t.Context(), func(ctx context.Context) ([]sallyport.CallID, error) {
		if deaf.Load() { // it does not get to hear what was decided
			stuck <- struct{}{}
			select {
			case <-held:
			case <-ctx.Done():
			}
		}
		return nil, nil
	})
	defer close(held)
	following(r.Store)
	eventually(t, "it has a lease", func() bool { return other.Lease() == nil })
	deaf.Store(true)
	if err := r.Commit(t.Context(), person("rec_halt"), halt("run_x")); err != nil {
		t.Fatal(err)
	}
	<-stuck
	// As others do who find that its session is gone.
	if err := d.server.Exec(d.name, `UPDATE replicas SET ended = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint WHERE start = $1`, other.Start()); err != nil {
		t.Fatal(err)
	}
	if other.Lease() != nil {
		t.Fatal("too slow to show anything")
	}
	said, err := r.Confirm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if other.Lease() == nil {
		t.Errorf("confirmed (%+v) while a replica that knows nothing of it may make calls", said)
	}
}

// TestStoppedIsNotWaitedFor: a replica that has been closed keeps no halt from being
// confirmed at once.
func TestStoppedIsNotWaitedFor(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	other := r.second()
	following(r.Store)
	following(other)
	eventually(t, "it has a lease", func() bool { return other.Lease() == nil })
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(t.Context(), person("rec_halt"), halt("run_x")); err != nil {
		t.Fatal(err)
	}
	if said, err := r.Confirm(t.Context()); err != nil || said.Replicas != 0 || len(said.Silent) != 0 {
		t.Errorf("%+v %v", said, err)
	}
}

// TestEndIsMissingThoughGivenUp: that acknowledged records are gone is found also by a
// replica that the others have given up meanwhile.
func TestEndIsMissingThoughGivenUp(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	for i := range 3 {
		if err := r.Commit(t.Context(), person(fmt.Sprint("rec_", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.server.Exec(d.name, `DELETE FROM arrivals WHERE n = 2; DELETE FROM places WHERE seq = 2; UPDATE replicas SET ended = 1`); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Sever(d.name, "sallyport "); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store says that something is wrong", func() bool {
		if err := r.Commit(t.Context(), person("rec_more")); err == nil {
			t.Fatal("written though the end of what was acknowledged is missing")
		}
		return r.Ready() != nil
	})
}

// TestForgotten: a replica that the database knows nothing of, since a backup was
// restored, writes nothing, and does not ask all the time.
func TestForgotten(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	other := r.second()
	following(r.Store)
	following(other)
	eventually(t, "it has a lease", func() bool { return r.Lease() == nil })
	if err := d.server.Exec(d.name, `DELETE FROM replicas WHERE start = $1`, r.Start()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store says that something is wrong", func() bool { return r.Ready() != nil })
	if err := r.Commit(t.Context(), person("rec_more")); err == nil {
		t.Error("written by nobody")
	}
	var looks, beats atomic.Int64
	count := func(at string) error {
		if at == "reload" {
			looks.Add(1)
		}
		return nil
	}
	r.fault.Store(&count)
	last := int64(-1)
	eventually(t, "another one beats", func() bool {
		var beat int64
		if err := other.readers.QueryRow(`SELECT beat FROM replicas WHERE start = $1`, other.Start()).Scan(&beat); err != nil {
			t.Fatal(err)
		}
		if beat != last {
			last = beat
			beats.Add(1)
		}
		return beats.Load() > 4
	})
	if n := looks.Load(); n > 40 {
		t.Errorf("a replica that can do nothing looked %d times while another beat four times", n)
	}
}

// TestDecisionsForgotten: with a database that has forgotten decisions which were put into
// effect here (a standby that lagged was promoted) nothing is done: what is decided next
// would have their numbers, and be taken for known.
func TestDecisionsForgotten(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	other := r.second()
	following(other)
	following(r.Store)
	for i := range 3 {
		if err := r.Commit(t.Context(), person(fmt.Sprint("rec_", i)), halt(fmt.Sprint("run_", i))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it has heard of it", func() bool { return other.Epoch() == r.Epoch() && other.Lease() == nil })
	if err := d.server.Exec(d.name, `UPDATE control SET epoch = epoch - 2; DELETE FROM halts`); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Sever(d.name, "sallyport "); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both stores say that something is wrong", func() bool {
		return other.Ready() != nil && strings.Contains(other.Ready().Reason, "missing") && r.Ready() != nil && strings.Contains(r.Ready().Reason, "missing")
	})
	if other.Lease() == nil {
		t.Error("it may make calls")
	}
	if err := other.Commit(t.Context(), person("rec_other")); err == nil {
		t.Error("written where something is missing")
	}
}

// TestHalfABatch: a replica that is paused in the middle of sending a batch holds the
// fence for no longer than a moment.
func TestHalfABatch(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	e := replicaOf(r.Store)
	url := d.server.URL(d.name)
	c, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range working {
		c.RuntimeParams[k] = v
	}
	c.RuntimeParams["application_name"] = "sallyport paused"
	paused, err := pgconn.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer paused.Close(context.Background())
	// The statement that takes the fence has arrived, the rest of the batch has not.
	front := paused.Frontend()
	front.SendParse(&pgproto3.Parse{Query: fmt.Sprintf(`SELECT pg_advisory_xact_lock_shared(%d)`, e.fenceKey())})
	front.SendBind(&pgproto3.Bind{})
	front.SendExecute(&pgproto3.Execute{})
	front.Send(&pgproto3.Flush{})
	if err := front.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has the fence", func() bool {
		var held bool
		key := e.fenceKey()
		err := r.readers.QueryRow(`SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock' AND classid::bigint = $1 AND objid::bigint = $2)`,
			int64(uint64(key)>>32), int64(uint32(key))).Scan(&held)
		return err == nil && held
	})
	bounded, end := context.WithTimeout(t.Context(), 8*time.Second)
	defer end()
	if err := r.Commit(t.Context(), person("rec_halt"), halt("run_x")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Confirm(bounded); err != nil {
		t.Errorf("a halt could not be confirmed: %v", err)
	}
}

// TestChangesInEachOthersWay: two transactions of which each waits for the other are no
// reason to refuse what somebody has decided.
func TestChangesInEachOthersWay(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	r.openRun("run_a")
	r.openRun("run_b")
	inWay := make(chan error, 1)
	locked := make(chan struct{})
	go func() {
		inWay <- d.server.Use(d.name, func(ctx context.Context, c *pgx.Conn) error {
			tx, err := c.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE runs SET calls = calls WHERE id = 'run_b'`); err != nil {
				return err
			}
			close(locked)
			for waits := false; !waits; {
				err := r.readers.QueryRow(`SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock')`, "sallyport "+r.boot).Scan(&waits)
				if err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, `UPDATE runs SET calls = calls WHERE id = 'run_a'`); err != nil {
				return err
			}
			return tx.Commit(ctx)
		})
	}()
	<-locked
	err := r.Commit(t.Context(), person("rec_close"), control.EndRun{ID: "run_a", At: r.Now()}, control.EndRun{ID: "run_b", At: r.Now()})
	other := <-inWay
	if err != nil {
		t.Errorf("%v (the other: %v)", err, other)
	}
}

// TestNothingLearned: what a run learns is written with the record that says so, or not
// at all.
func TestNothingLearned(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	r.openRun(runA)
	if err := d.server.Exec(d.name, `UPDATE control SET epoch = epoch + 1`); err != nil {
		t.Fatal(err)
	}
	e := replicaOf(r.Store)
	learned := entry(audit.Outcome, "call_1", sallyport.OutcomeOK)
	labels := sallyport.Labels{Integrity: sallyport.Untrusted, Confidentiality: sallyport.Restricted}
	learned.Record.Labels, learned.Record.Run = &labels, runA
	made, err := r.seal(learned.Record, &learned.Payload)
	if err != nil {
		t.Fatal(err)
	}
	made.raises = true
	var written bool
	var insert error
	if err := r.aside(func() { written, insert = e.insert(context.Background(), r.Store, []*sealed{&made}) }); err != nil || insert != nil {
		t.Fatal(err, insert)
	}
	if written {
		t.Fatal("written, judged by old decisions")
	}
	var integrity int64
	if err := r.readers.QueryRow(`SELECT integrity FROM runs WHERE id = $1`, string(runA)).Scan(&integrity); err != nil {
		t.Fatal(err)
	}
	if integrity != int64(sallyport.NewLabels().Integrity) {
		t.Errorf("the run has learned something from a record that is not there")
	}
}

// TestNumbersOfCalls: which number a call has does not depend on how fast others have
// been written down that were refused before they had one.
func TestNumbersOfCalls(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	run := sallyport.Run{ID: runA, Stage: sallyport.Sandbox}
	err := r.Commit(t.Context(), person("rec_open"), control.PutRun{Run: sallyport.Run{
		ID: runA, Agent: "support", Release: releaseA, Stage: sallyport.Sandbox, State: sallyport.RunOpen,
		OpenedBy: "key_1", Opened: r.Now(), Labels: sallyport.NewLabels(), Envelope: sallyport.Envelope{Expires: r.Now().Add(time.Hour)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		first, n, err := r.share(t.Context(), &run)
		if err != nil || n != 1 || first != i {
			t.Errorf("call %d has the number %d (%d, %v)", i, first, n, err)
		}
		for j := range 2 { // refused, as by policy
			if err := r.Conclude(t.Context(), entry(audit.Outcome, fmt.Sprintf("call_%d_%d", i, j), sallyport.OutcomeRefused)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Checkpoint(); err != nil { // and written down
			t.Fatal(err)
		}
	}
}

// TestBigBatch: many large records that come at once are not sent as one statement, which
// would hold the fence for as long as they take.
func TestBigBatch(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	r.openRun(runA)
	batch := make([]*op, 16)
	results := make([]error, len(batch))
	for i := range batch {
		e := entry(audit.Outcome, fmt.Sprint("call_", i), sallyport.OutcomeOK)
		e.Payload = gateway.Payload{Salt: make([]byte, 32), Result: make([]byte, 4<<20)}
		made, err := r.seal(e.Record, &e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		batch[i] = &op{records: []sealed{made}, result: make(chan error, 1)}
	}
	var sent atomic.Int64
	count := func(at string) error {
		if at == "commit" {
			sent.Add(1)
		}
		return nil
	}
	r.fault.Store(&count)
	var err error
	if aside := r.aside(func() {
		ctx, cancel := r.patient()
		defer cancel()
		err = r.db.commit(ctx, r.Store, batch, results)
	}); aside != nil || err != nil {
		t.Fatal(aside, err)
	}
	if n := sent.Load(); n < int64(len(batch))/4 {
		t.Errorf("%d MiB in %d statements", 4*len(batch), n)
	}
	r.fault.Store(nil)
	for call, n := range r.ids() {
		if n != 1 {
			t.Errorf("%s is there %d times", call, n)
		}
	}
	if len(r.ids()) != len(batch)+1 {
		t.Errorf("%d records", len(r.ids()))
	}
}

// TestAddressOfWhoJoinedAgain: a session is found where it was opened also when the
// replica there has got another number meanwhile.
func TestAddressOfWhoJoinedAgain(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	other := r.second()
	if err := other.Reached(t.Context(), "http://10.0.0.2:8484"); err != nil {
		t.Fatal(err)
	}
	was := other.Start()
	if err := d.server.Exec(d.name, `UPDATE replicas SET ended = 1 WHERE start = $1`, was); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it joins again", func() bool { return other.Start() != was })
	if address, err := r.Address(t.Context(), was); err != nil || address != "http://10.0.0.2:8484" {
		t.Errorf("%q %v", address, err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	var refusal *sallyport.Refusal
	if _, err := r.Address(t.Context(), was); !errors.As(err, &refusal) || refusal.Code != sallyport.NotFound {
		t.Errorf("%v", err)
	}
}

// TestLeaseWithoutStandby: a server that waits in vain for its standby (it may be cut off,
// and the standby be the server of the others now) renews no lease.
func TestLeaseWithoutStandby(t *testing.T) {
	s, err := pgserver.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r, _ := newPostgresRig(t, s)
	following(r.Store)
	eventually(t, "it has a lease", func() bool { return r.Lease() == nil })
	for _, one := range []string{`ALTER SYSTEM SET synchronous_standby_names = 'lost'`, `SELECT pg_reload_conf()`} {
		if err := s.Exec("postgres", one); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "its lease ends", func() bool { return r.Lease() != nil })
	for _, one := range []string{`ALTER SYSTEM RESET synchronous_standby_names`, `SELECT pg_reload_conf()`} {
		if err := s.Exec("postgres", one); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it has a lease", func() bool { return r.Lease() == nil })
}

// TestReadAfterClose: whoever asks for a run after the store has been closed is answered.
func TestReadAfterClose(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	r.openRun(runA)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { _, err := replicaOf(r.Store).readRun(context.Background(), runA); answered <- err }()
	select {
	case err := <-answered:
		if err == nil {
			t.Error("read from a store that is closed")
		}
	case <-time.After(5 * time.Second):
		t.Error("no answer")
	}
}

// TestReadersBusy: readers of the log who take their time keep no call from being judged, and
// no decision from being heard.
func TestReadersBusy(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	r.openRun(runA)
	other := r.second()
	times := following(other)
	following(r.Store)
	eventually(t, "it has a lease", func() bool { return other.Lease() == nil })
	release := make(chan struct{})
	var reading atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			err := other.Records(context.Background(), 0, 1, func(int64, []byte) error { reading.Add(1); <-release; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	defer wait.Wait()
	defer close(release)
	eventually(t, "as many read as can", func() bool { return int(reading.Load()) == other.readers.Stats().MaxOpenConnections })
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := other.Open(ctx, runA, r.Now()); err != nil {
		t.Errorf("a call cannot be judged: %v", err)
	}
	before := times.Load()
	if err := r.Commit(t.Context(), person("rec_halt"), halt("run_x")); err != nil {
		t.Fatal(err)
	}
	if said, err := r.Confirm(ctx); err != nil || len(said.Silent) > 0 || times.Load() == before {
		t.Errorf("%+v %v", said, err)
	}
}

// TestDoneOnlyBehindTheFence: who was given up, and whose last batch may be on its way still,
// is not taken off the list of those whose records get places.
func TestDoneOnlyBehindTheFence(t *testing.T) {
	r, d := newPostgresRig(t, server(t))
	e := replicaOf(r.Store)
	eventually(t, "it leads", e.leads.Load)
	err := d.server.Use(d.name, func(ctx context.Context, c *pgx.Conn) error {
		tx, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		for _, one := range []string{
			fmt.Sprintf(`SELECT pg_advisory_xact_lock_shared(%d)`, e.fenceKey()),
			`INSERT INTO placed (start, n) VALUES (900, 0)`, // seen by nobody yet
		} {
			if _, err := tx.Exec(ctx, one); err != nil {
				return err
			}
		}
		return tx.Commit(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := person("rec_late").AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	err = d.server.Use(d.name, func(ctx context.Context, c *pgx.Conn) error {
		if _, err := c.Exec(ctx, `INSERT INTO replicas (start, boot, address, began, beat, epoch, flying, ended, done) VALUES (900, 'other', '', 0, 0, 0, '', 1, false)`); err != nil {
			return err
		}
		tx, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SELECT pg_advisory_xact_lock_shared(%d)`, e.fenceKey())); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO arrivals (start, n, epoch, at, run, body) VALUES (900, 0, 1, 1, '', $1)`, body); err != nil {
			return err
		}
		for until := time.Now().Add(4 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			var done bool
			if err := r.readers.QueryRow(`SELECT done FROM replicas WHERE start = 900`).Scan(&done); err != nil {
				return err
			}
			if done {
				t.Error("it is off the list, and has not ended")
				break
			}
		}
		return tx.Commit(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "what it wrote has its place", func() bool { return slices.Contains(keysOf(r.ids()), "rec_late") })
}

// beginning is an engine in which another replica begins right after it was asked who is
// gone.
type beginning struct {
	engine
	then func()
}

func (b *beginning) gone(ctx context.Context, s *Store) (func(string) bool, error) {
	gone, err := b.engine.gone(ctx, s)
	b.then()
	return gone, err
}

// TestJustBegun: the calls of a replica that begins while others look for those of replicas
// that are gone are not marked.
func TestJustBegun(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	r.openRun(runA)
	if err := r.Intend(t.Context(), entry(audit.Intent, "before", 0)); err != nil {
		t.Fatal(err)
	}
	looks := &Store{Config: r.Config, boot: r.boot, writer: r.writer, readers: r.readers, prompt: r.prompt}
	looks.db = &beginning{r.db, func() {
		other := r.second()
		if err := other.Intend(t.Context(), entry(audit.Intent, "now", 0)); err != nil {
			t.Error(err)
		}
		if err := other.Checkpoint(); err != nil {
			t.Error(err)
		}
	}}
	marked, err := looks.markUnknown(t.Context())
	if err != nil || len(marked) > 0 {
		t.Errorf("%+v %v", marked, err)
	}
}

// TestOtherKeys: a server with keys of its own does not join those that share others.
func TestOtherKeys(t *testing.T) {
	r, _ := newPostgresRig(t, server(t))
	if err := r.Commit(t.Context(), person("rec_1")); err != nil {
		t.Fatal(err)
	}
	if err := r.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	refused := func(c Config) {
		t.Helper()
		s, err := Open(t.Context(), c)
		var refusal *sallyport.Refusal
		if !errors.As(err, &refusal) || refusal.Code != sallyport.BadConfig || !strings.Contains(refusal.Reason, "other keys") {
			t.Errorf("%v", err)
		}
		if err == nil {
			s.Close()
		}
	}
	other := r.Config
	other.Signer = unopened(t).Signer
	refused(other)
	r.openRun(runA)
	other = r.Config
	other.SealingKey = make([]byte, 32)
	other.SealingKey[0] = 1
	refused(other)
	r.second()
}

func keysOf(m map[string]int) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}
