package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport"
)

// client speaks to the API with the credential of whoever signed in.
type client struct {
	server     string
	credential string
}

func newClient(c *cobra.Command) (*client, error) {
	server, _ := c.Flags().GetString("server")
	if server == "" {
		server = os.Getenv("SALLYPORT_SERVER")
	}
	if server == "" {
		server = "http://127.0.0.1:8484"
	}
	kept, err := readCredentials()
	if err != nil {
		return nil, err
	}
	cl := &client{server: strings.TrimRight(server, "/"), credential: os.Getenv("SALLYPORT_CREDENTIAL")}
	if cl.credential == "" {
		cl.credential = kept[cl.server]
	}
	return cl, nil
}

func (cl *client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, cl.server+path, body)
	if err != nil {
		return err
	}
	if cl.credential != "" {
		req.Header.Set("Authorization", "Bearer "+cl.credential)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w (is the server up? start it with: sallyport up; to halt without it: sallyport halt --local)", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var problem struct {
			Code          sallyport.Code
			Title, Detail string
		}
		if json.Unmarshal(raw, &problem) != nil || problem.Code == "" {
			return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(raw))
		}
		if problem.Code == sallyport.Unauthenticated && cl.credential == "" {
			problem.Detail = "sign in with the one-time link that up printed: sallyport login LINK"
		}
		return sallyport.Refuse(problem.Code, problem.Title, problem.Detail)
	}
	return json.Unmarshal(raw, out)
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
		return nil, fmt.Errorf("%s: %w", path, err)
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

// show prints data as JSON: what scripts read.
func show(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}
