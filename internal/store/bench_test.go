package store

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sallyport/internal/audit"
)

// BenchmarkRecords measures durable commits of a small record. Writers that
// wait at the same time share a transaction.
func BenchmarkRecords(b *testing.B) {
	records(b, 1, func(b *testing.B, c *Config) { c.Path = filepath.Join(b.TempDir(), "data", "store.db") })
}

// BenchmarkRecordsOnPostgres is the same on a server on this machine, over a socket, by
// one program and by four. It ends when all records have their places in the tree.
func BenchmarkRecordsOnPostgres(b *testing.B) {
	s := server(b)
	for _, replicas := range []int{1, 4} {
		b.Run(fmt.Sprintf("replicas=%d", replicas), func(b *testing.B) {
			records(b, replicas, func(b *testing.B, c *Config) { c.Postgres = s.URL(newDatabase(b, s).name) })
		})
	}
}

func records(b *testing.B, replicas int, place func(*testing.B, *Config)) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			skey, _, err := audit.NewSigner(origin)
			if err != nil {
				b.Fatal(err)
			}
			signer, err := note.NewSigner(skey)
			if err != nil {
				b.Fatal(err)
			}
			c := Config{
				Origin: origin, Signer: signer,
				SealingKey: make([]byte, 32), PseudonymKey: []byte("0123456789abcdef0123456789abcdef"),
				Now: time.Now, Log: slog.New(slog.DiscardHandler),
			}
			place(b, &c)
			stores := make([]*Store, replicas)
			for i := range stores {
				s, err := Open(context.Background(), c)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				stores[i] = s
			}
			s := stores[0]
			first := s.Size()
			var next atomic.Int64
			var failed atomic.Pointer[error]
			var wait sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for w := range writers * replicas {
				wait.Go(func() {
					s := stores[w%replicas]
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						if err := s.Commit(context.Background(), person(fmt.Sprintf("rec_%d", n))); err != nil {
							failed.Store(&err)
							return
						}
					}
				})
			}
			wait.Wait()
			written := b.Elapsed()
			if err := failed.Load(); err != nil {
				b.Fatal(*err)
			}
			if s.Size()-first != int64(b.N) {
				b.Fatalf("%d records for %d commits", s.Size()-first, b.N)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/written.Seconds(), "records/s")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placed/s")
		})
	}
}
