package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/app"
	"sallyport/internal/clients"
)

func importCommand() *cobra.Command {
	var agent, owner, stage string
	var reads []string
	var dryRun, unasked, yes bool
	var limit time.Duration
	c := prints(&cobra.Command{
		Use: "import FILE", Short: "Turn an MCP client's configuration into governed upstreams", Args: takes(1, 1),
		Long: lines("Turn the servers of an MCP client's configuration (Claude Code, Claude Desktop, Cursor,",
			"VS Code or Codex) into upstreams of a project directory, with an agent that may use them",
			"and a first policy. FILE is not changed, and no file is written over.",
			"",
			"Secrets in it are moved to files that only you can read. Each server is started or called",
			"once, as the client would, and pinned to the tools it offers. The policy permits only tools",
			"that you declare to read: with --read, or by answering. What was assumed is printed."),
		Example: examples("sallyport import .mcp.json --dir project --dry-run", "sallyport import ~/.cursor/mcp.json --dir project --agent helper",
			"sallyport import ~/.codex/config.toml --yes --read files/list_directory --read files/read_text_file"),
		RunE: func(c *cobra.Command, args []string) error {
			o := app.ImportOptions{Dir: dirOf(c), Agent: sallyport.AgentID(agent), Owner: owner, Environ: os.LookupEnv, Own: serverOf(c) + "/mcp"}
			if !sallyport.ValidName(agent) {
				return usageError{fmt.Errorf("--agent %q: use a-z, 0-9 and '-', at most 64 of them", agent)}
			}
			if err := among("--stage", stage, sallyport.Staging.String(), sallyport.Production.String()); err != nil {
				return err
			}
			if err := o.Stage.UnmarshalText([]byte(stage)); err != nil {
				return usageError{fmt.Errorf("--stage: %w", err)}
			}
			var err error
			if o.Text, err = readAtMost(args[0], clients.MaxFile); err != nil {
				return err
			}
			if o.WorkDir, err = workDirOf(args[0]); err != nil {
				return err
			}
			im, err := app.PlanImport(o)
			if im == nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err != nil {
				for _, s := range im.Servers {
					if s.Left != "" {
						say(c, "%s is left out: %s", s.Name, s.Left)
					}
				}
				return err
			}
			if !dryRun {
				if err := carryOut(c, im, reads, unasked, yes, limit); err != nil {
					return err
				}
			}
			if err := show(c, im, func(p *paper) { imported(p, im, dryRun) }); err != nil {
				return err
			}
			whatNext(c, im, dryRun)
			return nil
		},
	})
	c.Flags().StringVar(&agent, "agent", "assistant", "`name` of the agent that gets the tools")
	c.Flags().StringVar(&owner, "owner", "you@localhost", "`who` answers for the agent")
	c.Flags().StringVar(&stage, "stage", sallyport.Production.String(), "the `stage` that these servers are: staging or production")
	c.Flags().StringSliceVar(&reads, "read", nil, "declare `UPSTREAM/TOOL` to read only, as often as there are")
	c.Flags().BoolVar(&unasked, "no-contact", false, "start and call no server; pin them later")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing")
	c.Flags().BoolVar(&yes, "yes", false, "ask nothing; what is not declared is taken to change things")
	c.Flags().DurationVar(&limit, "timeout", 30*time.Second, "wait so `long` for each server")
	suggestValues(c, "stage", sallyport.Staging.String(), sallyport.Production.String())
	return c
}

// readAtMost reads a file of at most so many bytes.
func readAtMost(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return text, err
}

// workDirOf is the directory that the servers of a client's file run in: that of
// the project, where the file is one of a project, and the home directory.
func workDirOf(file string) (string, error) {
	at, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(at)
	switch filepath.Base(dir) {
	case ".cursor", ".vscode", ".codex":
		return filepath.Dir(dir), nil
	}
	if filepath.Base(at) == ".mcp.json" {
		return dir, nil
	}
	return os.UserHomeDir()
}

// carryOut writes the project and asks the servers, and a person.
func carryOut(c *cobra.Command, im *app.Import, reads []string, unasked, yes bool, limit time.Duration) error {
	if err := im.Write(); err != nil {
		return err
	}
	answers := bufio.NewReader(c.InOrStdin())
	declared := map[string]bool{}
	for _, s := range im.Servers {
		if s.Left != "" || unasked {
			continue
		}
		say(c, "asking %s what it offers: %s", s.Upstream, s.Reached)
		ctx, cancel := contextFor(c, limit)
		im.Ask(ctx, s)
		cancel()
		if errors.Is(c.Context().Err(), context.Canceled) {
			return c.Context().Err()
		}
		var hinted []string
		for i := range s.Tools {
			t := &s.Tools[i]
			name := string(s.Upstream) + "/" + t.Name
			if t.Read = slices.Contains(reads, name); t.Read {
				declared[name] = true
			} else if t.SaysRead {
				hinted = append(hinted, t.Name)
			}
		}
		if len(hinted) == 0 || yes {
			continue
		}
		say(c, "%s says that these only read: %s", s.Upstream, strings.Join(hinted, ", "))
		ok, err := agreed(c, answers, "Declare them reads? The first policy permits them then.")
		if err != nil {
			return err
		}
		for i := range s.Tools {
			if ok && s.Tools[i].SaysRead {
				s.Tools[i].Read = true
			}
		}
	}
	if err := im.Finish(); err != nil {
		return err
	}
	for _, name := range reads {
		if !declared[name] {
			im.Problems = append(im.Problems, fmt.Sprintf("--read %s: no server that was asked has this tool", name))
		}
	}
	return nil
}

// imported shows what became of a client's file.
func imported(p *paper, im *app.Import, dryRun bool) {
	t := columns("SERVER", "UPSTREAM", "TOOLS>", "READS>", "STATE")
	for _, s := range im.Servers {
		reads := 0
		for _, tool := range s.Tools {
			if tool.Read {
				reads++
			}
		}
		switch {
		case s.Left != "":
			t.row(s.Name, "-", "-", "-", "left out: "+s.Left)
		case dryRun:
			t.row(s.Name, string(s.Upstream), "-", "-", "would be asked: "+s.Reached)
		case s.Asked != "":
			t.row(s.Name, string(s.Upstream), "-", "-", "not pinned: "+s.Asked)
		default:
			t.row(s.Name, string(s.Upstream), fmt.Sprint(len(s.Tools)), fmt.Sprint(reads), "pinned")
		}
	}
	p.table(t)
	section := func(title string, lines []string) {
		if len(lines) == 0 {
			return
		}
		p.heading("%s", title)
		for _, l := range lines {
			p.line("  %s", l)
		}
	}
	var secrets, notes []string
	for _, s := range im.Servers {
		for _, m := range s.Secrets {
			state := "moved to " + m.File
			if m.Missing {
				state = "to be written: " + m.File
			}
			secrets = append(secrets, fmt.Sprintf("%s, %s: %s", s.Upstream, m.What, state))
		}
		for _, n := range s.Notes {
			notes = append(notes, string(s.Upstream)+": "+n)
		}
	}
	section("Secrets", secrets)
	section("Not as in the file", notes)
	section("Assumed", im.Assumed)
	section("Files", im.Files)
	section("To be corrected", im.Problems)
}

// whatNext says what a person does now.
func whatNext(c *cobra.Command, im *app.Import, dryRun bool) {
	if dryRun {
		say(c, "nothing was written, started or called; without --dry-run it is")
		return
	}
	dir := dirOf(c)
	for _, s := range im.Servers {
		if s.Left == "" && s.Asked != "" {
			say(c, "next: sallyport upstream pin %s --dir %s, then list it in agents/%s.yaml; or remove upstreams/%s.yaml: until then the project cannot be applied", s.Upstream, dir, im.Agent, s.Upstream)
		}
	}
	if slices.ContainsFunc(im.Servers, func(s *app.ImportedServer) bool {
		return slices.ContainsFunc(s.Secrets, func(m app.MovedSecret) bool { return !m.Missing })
	}) {
		say(c, "next: the client's file still holds the secrets: take its servers out once sallyport connect has put Sallyport in")
	}
	say(c, "next: sallyport up --dir %s, then in another terminal: sallyport login LINK, sallyport apply --dir %s, sallyport promote %s --to sandbox --reason \"...\", sallyport connect CLIENT --agent %s --new-key --write",
		dir, dir, im.Agent, im.Agent)
}
