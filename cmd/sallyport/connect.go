package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/clients"
	"sallyport/internal/control"
	"sallyport/internal/stdiobridge"
)

// agentKeyVariable is the environment variable that clients take an agent's
// credential from.
const agentKeyVariable = "SALLYPORT_AGENT_KEY"

// connecting is what was asked of connect.
type connecting struct {
	client *clients.Client
	of     clients.Connection
	scope  string
	file   string // of the client's configuration, "" for where it looks
	write  bool
	remove bool
	yes    bool
	newKey bool
	key    api.KeyRequest
	stage  string
}

func connectCommand() *cobra.Command {
	var in connecting
	c := prints(&cobra.Command{
		Use: "connect [CLIENT]", Short: "Print or write the configuration of an agent's client", Args: takes(0, 1), ValidArgs: clients.Names(),
		Long: lines("Print what an MCP client has to have in its configuration to reach this server, or write",
			"it there. Without a client, list those that are known and where their files are.",
			"",
			"The credential of the agent is never in it: it is read from an environment variable, asked",
			"for by the client, or lies in a file that only you can read. With a file the client starts",
			"sallyport bridge, which reads it. --new-key makes an agent key and puts it into that file.",
			"",
			"--write changes nothing but the one entry, shows first what will differ, asks, and keeps the",
			"file as it was beside it. --remove takes the entry out in the same way."),
		Example: examples("sallyport connect claude-code", "sallyport connect cursor --write --agent support --new-key",
			"sallyport connect claude-desktop --write --agent support --stage staging --new-key", "sallyport connect vscode --remove"),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listClients(c)
			}
			if err := among("client", args[0], clients.Names()...); err != nil {
				return err
			}
			in.client = clients.Find(args[0])
			return in.run(c)
		},
	})
	c.Flags().StringVar(&in.scope, "scope", "", "`whom` it is for: project or user (default: the client's usual one)")
	c.Flags().StringVar(&in.file, "file", "", "`path` of the client's configuration (default: where the client looks)")
	c.Flags().StringVar(&in.of.Name, "name", "sallyport", "`name` of the entry")
	c.Flags().StringVar(&in.of.Variable, "variable", agentKeyVariable, "environment `variable` that holds the agent's credential")
	c.Flags().StringVar(&in.of.File, "credential-file", "", "`path` of a file that holds it instead")
	c.Flags().BoolVar(&in.newKey, "new-key", false, "make a key for --agent and keep it in the file, unless one is there")
	c.Flags().StringVar((*string)(&in.key.Agent), "agent", "", "`agent` that the key is of")
	c.Flags().StringVar(&in.stage, "stage", "sandbox", "the highest `stage` the key may reach")
	c.Flags().IntVar(&in.key.Days, "days", 90, "for how many `days` the key is good")
	c.Flags().BoolVar(&in.write, "write", false, "write it into the client's configuration")
	c.Flags().BoolVar(&in.remove, "remove", false, "take it out of the client's configuration")
	c.Flags().BoolVar(&in.yes, "yes", false, "write without asking; what differs is shown all the same")
	suggestValues(c, "scope", string(clients.Project), string(clients.User))
	suggestValues(c, "stage", stageNames()...)
	return c
}

// machine is where the files of clients lie here.
func machine(dir string) (clients.Machine, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return clients.Machine{}, err
	}
	dir, err = filepath.Abs(dir)
	return clients.Machine{
		OS: runtime.GOOS, Home: home, Config: os.Getenv("XDG_CONFIG_HOME"), AppData: os.Getenv("APPDATA"), CodexHome: os.Getenv("CODEX_HOME"), Dir: dir,
	}, err
}

// clientFile is a client's configuration, and what belongs into it.
type clientFile struct {
	Client string        `json:"client"`
	Scope  clients.Scope `json:"scope"`
	File   string        `json:"file"`
	Text   string        `json:"text,omitempty"`
}

func listClients(c *cobra.Command) error {
	at, err := machine(dirOf(c))
	if err != nil {
		return err
	}
	var list []clientFile
	for _, client := range clients.Known {
		for _, scope := range client.Scopes {
			path, err := client.Path(scope, at)
			if err != nil {
				return err
			}
			list = append(list, clientFile{Client: client.Name, Scope: scope, File: path})
		}
	}
	return show(c, list, func(p *paper) {
		t := columns("CLIENT", "SCOPE", "FILE")
		for _, f := range list {
			t.row(f.Client, string(f.Scope), f.File)
		}
		p.table(t)
	})
}

func (in *connecting) run(c *cobra.Command) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	in.of.URL = cl.server + "/mcp"
	if in.of.Command, err = os.Executable(); err != nil {
		return err
	}
	at, err := machine(dirOf(c))
	if err != nil {
		return err
	}
	scope := clients.Scope(in.scope)
	if scope == "" {
		scope = in.client.Scopes[0]
	}
	if in.file == "" {
		if in.file, err = in.client.Path(scope, at); err != nil {
			return usageError{fmt.Errorf("--scope: %w", err)}
		}
	}
	if strings.TrimSpace(in.of.Name) == "" {
		return usageError{errors.New("--name is empty")}
	}
	if in.remove {
		return in.takeOut(c)
	}
	if err := in.place(at); err != nil {
		return err
	}
	if in.write {
		return in.put(c, cl)
	}
	if in.newKey {
		if err := in.makeKey(c, cl); err != nil {
			return err
		}
	}
	snippet, err := in.client.Snippet(&in.of)
	if err != nil {
		return err
	}
	out := clientFile{in.client.Name, scope, in.file, string(snippet)}
	if err := show(c, out, func(p *paper) { p.text(out.Text) }); err != nil {
		return err
	}
	say(c, "this belongs into %s; with --write it is put there", in.file)
	in.next(c)
	return nil
}

// place settles where the credential lies.
func (in *connecting) place(at clients.Machine) error {
	if in.newKey && in.key.Agent == "" {
		return usageError{errors.New("--new-key needs --agent (the agent that the key is of)")}
	}
	if err := in.key.Stage.UnmarshalText([]byte(in.stage)); err != nil {
		return usageError{fmt.Errorf("--stage: %w", err)}
	}
	if in.of.File == "" && (in.newKey || in.client.NeedsFile()) {
		dir, err := os.UserConfigDir()
		if err != nil {
			return err
		}
		name := "agent"
		if in.key.Agent != "" {
			if !sallyport.ValidName(string(in.key.Agent)) {
				return usageError{fmt.Errorf("--agent %q is no name of an agent", in.key.Agent)}
			}
			name = string(in.key.Agent) + "-" + in.key.Stage.String()
		}
		in.of.File = filepath.Join(dir, "sallyport", "agents", name+".key")
	}
	if in.of.File != "" && !filepath.IsAbs(in.of.File) {
		in.of.File = filepath.Join(at.Dir, in.of.File)
	}
	return nil
}

// makeKey asks the server for a key of the agent, and keeps it where only this
// user can read it.
func (in *connecting) makeKey(c *cobra.Command, cl *client) error {
	if _, err := os.Stat(in.of.File); err == nil {
		say(c, "%s holds a credential already, and keeps it; for another one, remove the file first", in.of.File)
		return nil
	}
	in.key.Kind, in.key.Note = sallyport.KeyAgent, "for "+in.client.Title
	var made control.KeyMade
	if err := cl.do(c.Context(), "POST", "/v1/keys", in.key, &made); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(in.of.File), 0o700); err != nil {
		return err
	}
	if err := writeNew(in.of.File, []byte(made.Secret+"\n"), 0o600); err != nil {
		return err
	}
	say(c, "key %s of agent %s is in %s; it is good up to %s until %s, and for this release alone", made.Key.ID, made.Key.Agent, in.of.File, made.Key.Ceiling, when(made.Key.Expires))
	return nil
}

// next says what a person has to do so that the client finds the credential.
func (in *connecting) next(c *cobra.Command) {
	_, missing := os.Stat(in.of.File)
	switch {
	case in.of.File != "" && missing != nil:
		say(c, "next: put an agent key into %s, for you alone to read (chmod 600), or let --agent AGENT --new-key do it; then %s", in.of.File, in.client.After)
	case in.of.File != "":
		say(c, "next: %s", in.client.After)
	case in.client.Asks(&in.of):
		say(c, "next: %s; %s asks for the agent key once and keeps it: sallyport keys agent AGENT", in.client.After, in.client.Title)
	default:
		say(c, "next: set %s to an agent key (sallyport keys agent AGENT) in the environment that %s is started in; then %s", in.of.Variable, in.client.Title, in.client.After)
	}
}

func (in *connecting) put(c *cobra.Command, cl *client) error {
	text, mode, err := in.read()
	if err != nil {
		return err
	}
	after, err := in.client.Put(text, &in.of)
	if err != nil {
		return in.unchangeable(err)
	}
	written, err := in.replace(c, text, after, mode, "Write this?")
	if err != nil {
		return err
	}
	if in.newKey {
		if err := in.makeKey(c, cl); err != nil {
			return err
		}
	}
	if !written {
		say(c, "%s says so already", in.file)
	}
	in.next(c)
	return nil
}

func (in *connecting) takeOut(c *cobra.Command) error {
	text, mode, err := in.read()
	if err != nil {
		return err
	}
	after, found, err := in.client.Remove(text, in.of.Name)
	if err != nil {
		return in.unchangeable(err)
	}
	if !found {
		say(c, "%s has no entry %s", in.file, in.of.Name)
		return nil
	}
	if _, err := in.replace(c, text, after, mode, "Take this out?"); err != nil {
		return err
	}
	say(c, "the key is still good: see sallyport keys list, and sallyport keys revoke; a file that holds it was not touched")
	return nil
}

func (in *connecting) unchangeable(err error) error {
	return &advised{fmt.Errorf("%s: %w", in.file, err), "nothing was written; correct it, or put there by hand what the command prints without --write"}
}

// read is the client's configuration, empty if there is none yet.
func (in *connecting) read() (text []byte, mode fs.FileMode, err error) {
	info, err := os.Stat(in.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o600, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if info.Size() > clients.MaxFile {
		return nil, 0, fmt.Errorf("%s has more than %d bytes", in.file, clients.MaxFile)
	}
	text, err = os.ReadFile(in.file)
	return text, info.Mode().Perm(), err
}

// replace shows what will differ, asks, keeps the file as it was, and writes. It
// is false if nothing differs.
func (in *connecting) replace(c *cobra.Command, before, after []byte, mode fs.FileMode, question string) (bool, error) {
	if bytes.Equal(before, after) {
		return false, nil
	}
	p := newPaper(c.ErrOrStderr())
	p.heading("%s", in.file)
	p.diff("", split(before), split(after))
	if err := p.flush(); err != nil {
		return false, err
	}
	if !in.yes {
		if ok, err := agreed(c, bufio.NewReader(c.InOrStdin()), question); err != nil {
			return false, err
		} else if !ok {
			return false, &advised{fmt.Errorf("%s was not changed", in.file), "look at what differs, then answer y or pass --yes"}
		}
	}
	// A link stays one: what it leads to is written.
	path := in.file
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	now, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if !bytes.Equal(now, before) {
		return false, sallyport.Refuse(sallyport.Conflict, in.file+" was changed by somebody else meanwhile; nothing was written", "close the client and run the command again")
	}
	if err == nil {
		backup, err := backUp(path, before, mode)
		if err != nil {
			return false, err
		}
		say(c, "as it was: %s", backup)
	}
	next := path + ".sallyport-new"
	if err := writeNew(next, after, mode); err != nil {
		return false, err
	}
	if err := os.Rename(next, path); err != nil {
		return false, errors.Join(err, os.Remove(next))
	}
	say(c, "written: %s", path)
	return true, nil
}

// split is text as lines without their ends.
func split(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// backUp keeps a file beside itself, over no other.
func backUp(path string, text []byte, mode fs.FileMode) (string, error) {
	for n := 1; ; n++ {
		backup := path + ".backup"
		if n > 1 {
			backup += "-" + strconv.Itoa(n)
		}
		if err := writeNew(backup, text, mode); !errors.Is(err, fs.ErrExist) {
			return backup, err
		}
	}
}

// agreed asks a person.
func agreed(c *cobra.Command, answers *bufio.Reader, question string) (bool, error) {
	fmt.Fprintf(c.ErrOrStderr(), "\n%s [y/N] ", question)
	line, err := answers.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer == "y" || answer == "yes" {
		return true, nil
	}
	fmt.Fprintln(c.ErrOrStderr())
	return false, nil
}

// maxCredential bounds what is read of a file that holds one, in bytes.
const maxCredential = 64 << 10

func bridgeCommand() *cobra.Command {
	var endpoint, file, variable string
	c := &cobra.Command{
		Use: "bridge", Short: "Connect a client that speaks only stdio", Args: takes(0, 0),
		Long: lines("Be an MCP server over standard input and output, for clients that can only start",
			"programs, and pass every message on to this server and back as it is. The credential of",
			"the agent is read from a file, or from an environment variable, with every request.",
			"",
			"A request that may have reached the server and got no answer is never sent again: the",
			"client is told. It ends when its standard input does. sallyport connect writes the",
			"configuration that starts it."),
		Example: examples("sallyport bridge --credential-file ~/.config/sallyport/agents/support-sandbox.key",
			agentKeyVariable+"=sp_agent_... sallyport bridge --server http://10.0.0.7:8484"),
		RunE: func(c *cobra.Command, _ []string) error {
			if endpoint == "" {
				endpoint = serverOf(c) + "/mcp"
			}
			at, err := url.Parse(endpoint)
			if err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https" || at.User != nil || at.RawQuery != "" {
				return usageError{fmt.Errorf("--url %q: want an address such as http://127.0.0.1:8484/mcp", endpoint)}
			}
			if at.Scheme == "http" && !loopback(at.Hostname()) {
				say(c, "sallyport bridge: plain http to another machine: the credential and all data can be read on the way")
			}
			if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
				say(c, "sallyport bridge: others can read the credential: chmod 600 %s", file)
			}
			credential := credentialIn(file, variable)
			if _, err := credential(); err != nil {
				return &advised{err, "make one with: sallyport keys agent AGENT, or sallyport connect CLIENT --agent AGENT --new-key"}
			}
			// A client that is gone is an error like another, not the end of this program
			// before it has said goodbye to the server.
			signal.Ignore(syscall.SIGPIPE)
			err = stdiobridge.Run(c.Context(), stdiobridge.Config{
				URL: endpoint, Credential: credential, In: c.InOrStdin(), Out: c.OutOrStdout(), Say: func(line string) { say(c, "sallyport bridge: %s", line) },
			})
			if errors.Is(err, context.Canceled) {
				return nil // as it was told
			}
			return err
		},
	}
	c.Flags().StringVar(&endpoint, "url", "", "`address` of the endpoint (default: /mcp of --server)")
	c.Flags().StringVar(&file, "credential-file", "", "`path` of the file that holds the agent's credential")
	c.Flags().StringVar(&variable, "credential-env", agentKeyVariable, "environment `variable` that holds it, if no file does")
	return c
}

// loopback reports whether a host is this machine.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || strings.EqualFold(host, "localhost")
}

// credentialIn reads a credential from a file, or from a variable.
func credentialIn(file, variable string) func() (string, error) {
	return func() (string, error) {
		secret, where := os.Getenv(variable), "the environment variable "+variable
		if file != "" {
			f, err := os.Open(file)
			if err != nil {
				return "", err
			}
			defer f.Close()
			text, err := io.ReadAll(io.LimitReader(f, maxCredential))
			if err != nil {
				return "", err
			}
			secret, where = string(text), file
		}
		secret = strings.TrimRight(secret, " \t\r\n")
		switch {
		case secret == "":
			return "", fmt.Errorf("%s holds no credential", where)
		case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
			return "", fmt.Errorf("%s holds something other than a credential", where)
		}
		return secret, nil
	}
}
