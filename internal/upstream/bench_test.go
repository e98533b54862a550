package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport"
	"sallyport/internal/gateway"
	"sallyport/internal/wire"
)

// fast is an upstream that costs next to nothing: it finds the end of a request
// and writes the same response to each.
func fast(b *testing.B, response string) sallyport.Transport {
	return plain(b, func(_ int, c net.Conn) {
		in := bufio.NewReaderSize(c, 64<<10)
		out := []byte(response)
		for {
			length := 0
			for {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
					length, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := in.Discard(length); err != nil {
				return
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
}

func resultOf(size int) string {
	return `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + strings.Repeat("x", size) + `"}]}}`
}

func inJSON(size int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s",
		len(resultOf(size)), resultOf(size))
}

func inEvents(size int) string {
	event := wire.AppendEvent(nil, "", []byte(resultOf(size)))
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(event), event)
}

func BenchmarkDo(b *testing.B) {
	for _, size := range []int{300, 32 << 10} {
		for name, response := range map[string]string{"json": inJSON(size), "events": inEvents(size)} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				to := backend(b, newStage(b, sallyport.Production), fast(b, response))
				benchmarkDo(b, to)
			})
		}
	}
}

// benchmarkDo gives each call a context as the gateway does.
func benchmarkDo(b *testing.B, to gateway.Backend) {
	r := stateless(b, "1", "lookup", `{"customer":"c-1234567890","fields":["name","address","orders"]}`)
	r.BeforeWrite = func() error { return nil }
	r.AfterWrite = func() {}
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if _, err := to.Do(ctx, r); err != nil {
			b.Fatal(err)
		}
		cancel()
	}
}

// BenchmarkNetHTTP does the same by way of net/http.
func BenchmarkNetHTTP(b *testing.B) {
	for _, size := range []int{300, 32 << 10} {
		to := fast(b, inJSON(size))
		transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
		for name, send := range map[string]func(*http.Request) (*http.Response, error){
			"client": (&http.Client{Transport: transport}).Do, "roundtrip": transport.RoundTrip,
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				m := stateless(b, "1", "lookup", `{"customer":"c-1234567890","fields":["name","address","orders"]}`).Message
				b.ReportAllocs()
				for b.Loop() {
					ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
					r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader(m.Raw))
					if err != nil {
						b.Fatal(err)
					}
					r.Header.Set("Content-Type", "application/json")
					r.Header.Set("Accept", "application/json, text/event-stream")
					wire.SetHeaders(r.Header, &m, wire.Version20260728)
					res, err := send(r)
					if err != nil {
						b.Fatal(err)
					}
					raw := make([]byte, res.ContentLength)
					if _, err := io.ReadFull(res.Body, raw); err != nil {
						b.Fatal(err)
					}
					res.Body.Close()
					if _, err := wire.Scan(raw, wire.Limits{}); err != nil {
						b.Fatal(err)
					}
					cancel()
				}
			})
		}
		b.Cleanup(transport.CloseIdleConnections)
	}
}

func BenchmarkDoStdio(b *testing.B) {
	to := backend(b, newStage(b, sallyport.Production), program(b, wire.Version20260728))
	r := stateless(b, "1", "echo", `{}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := to.Do(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
