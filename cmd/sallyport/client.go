package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/api"
)

// client speaks to the API with the credential of whoever signed in.
type client struct {
	server     string
	credential string
	// pause is between two questions whether a request that was sent again is done.
	pause time.Duration
}

// patience bounds one request to the server.
const patience = 2 * time.Minute

func serverOf(c *cobra.Command) string {
	server, _ := c.Flags().GetString("server")
	if server == "" {
		server = os.Getenv("SALLYPORT_SERVER")
	}
	if server == "" {
		server = defaultServer
	}
	return strings.TrimRight(server, "/")
}

func newClient(c *cobra.Command) (*client, error) {
	cl := &client{server: serverOf(c), credential: os.Getenv("SALLYPORT_CREDENTIAL"), pause: time.Second}
	if u, err := url.Parse(cl.server); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError{fmt.Errorf("--server %q: want an address such as http://127.0.0.1:8484", cl.server)}
	}
	if cl.credential == "" {
		kept, err := readCredentials()
		if err != nil {
			return nil, err
		}
		cl.credential = kept[cl.server]
	}
	return cl, nil
}

// do asks once, and once more if the connection was lost before the answer was
// there. What changes something carries a fresh idempotency key, the same both times,
// so that it is done once; a sign-in link works once anyhow.
func (cl *client) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	key := ""
	if method != http.MethodGet && path != loginPath {
		key = rand.Text()
	}
	resp, raw, err := cl.ask(ctx, method, path, key, body)
	if lost(err) && path != loginPath {
		resp, raw, err = cl.ask(ctx, method, path, key, body)
		// The first may still be under way.
		for n := 0; n < mostWaits && err == nil && resp.StatusCode == http.StatusConflict && resp.Header.Get("Retry-After") != ""; n++ {
			select {
			case <-ctx.Done():
				return unreachable(cl.server, ctx.Err())
			case <-time.After(cl.pause):
			}
			resp, raw, err = cl.ask(ctx, method, path, key, body)
		}
	}
	if err != nil {
		return unreachable(cl.server, err)
	}
	if resp.StatusCode >= 300 {
		return cl.refused(resp, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the answer of %s to %s %s: %w", cl.server, method, path, err)
	}
	return nil
}

// mostWaits is how often a request that was sent again waits for the first.
const mostWaits = 30

// ask sends one request and reads the whole answer.
func (cl *client) ask(ctx context.Context, method, path, key string, body []byte) (*http.Response, []byte, error) {
	var send io.Reader
	if body != nil {
		send = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, cl.server+path, send)
	if err != nil {
		return nil, nil, err
	}
	if cl.credential != "" {
		req.Header.Set("Authorization", "Bearer "+cl.credential)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp, raw, err
}

// lost reports whether a connection ended that had been made: whoever is at its
// other end may have done what was asked.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func unreachable(server string, err error) error {
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err
	}
	if lost(err) {
		return &advised{fmt.Errorf("the connection to %s was lost before it had answered: %w", server, err),
			"what was asked may have been done all the same: look at sallyport status"}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = errors.New("connection refused")
	}
	return &advised{fmt.Errorf("no server answers at %s: %w", server, err),
		"start one with sallyport up, or name it with --server; to halt without it: sallyport halt global --local --reason \"...\""}
}

func (cl *client) refused(resp *http.Response, raw []byte) error {
	var problem api.Problem
	if json.Unmarshal(raw, &problem) != nil || problem.Code == "" {
		return &advised{fmt.Errorf("%s answered %s", cl.server, resp.Status), "is that a Sallyport of this version? name another with --server"}
	}
	if problem.Code == sallyport.Unauthenticated && (cl.credential == "" || problem.Hint == "") && resp.Request.URL.Path != loginPath {
		problem.Hint = "sign in with the one-time link that up printed: sallyport login LINK"
		if cl.server != defaultServer {
			problem.Hint += " --server " + cl.server
		}
	}
	return sallyport.Refuse(problem.Code, cmp.Or(problem.Detail, problem.Title), problem.Hint)
}

const (
	defaultServer = "http://127.0.0.1:8484"
	loginPath     = "/v1/login"
)

// list reads pages of a listing until there are limit items or no more; more says
// that there are.
func list[T any](ctx context.Context, cl *client, path string, query url.Values, limit int) (items []T, more bool, err error) {
	items = []T{}
	for {
		query.Set("limit", strconv.Itoa(min(max(limit-len(items), 1), 500)))
		var page api.Page[T]
		if err := cl.do(ctx, "GET", path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, false, err
		}
		items = append(items, page.Items...)
		if page.Next == "" || len(items) >= limit {
			return items, page.Next != "", nil
		}
		query.Set("cursor", page.Next)
	}
}

// get reads one thing and shows it.
func get[T any](c *cobra.Command, path string, text func(*paper, *T)) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	out := new(T)
	if err := cl.do(c.Context(), "GET", path, nil, out); err != nil {
		return err
	}
	return show(c, out, func(p *paper) { text(p, out) })
}

// post sends a command and shows what came of it.
func post[T any](c *cobra.Command, path string, in any, text func(*paper, *T)) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	return send(c, cl, path, in, text)
}

func send[T any](c *cobra.Command, cl *client, path string, in any, text func(*paper, *T)) error {
	out := new(T)
	if err := cl.do(c.Context(), "POST", path, in, out); err != nil {
		return err
	}
	return show(c, out, func(p *paper) { text(p, out) })
}

func credentialsPath() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "sallyport", "credentials.json"), err
}

// readCredentials returns credentials by server.
func readCredentials() (map[string]string, error) {
	path, err := credentialsPath()
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return nil, &advised{fmt.Errorf("%s: %w", path, err), "remove it and sign in again: sallyport login LINK"}
	}
	return kept, nil
}

func keepCredential(server, credential string) error {
	kept, err := readCredentials()
	if err != nil {
		return err
	}
	kept[server] = credential
	path, err := credentialsPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}
