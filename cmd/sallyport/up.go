package main

import (
	"fmt"
	"log/slog"
	"os/user"
	"path/filepath"

	"github.com/spf13/cobra"

	"sallyport/internal/app"
)

func upCommand() *cobra.Command {
	var listen string
	var demonstrate, once, verbose bool
	c := &cobra.Command{
		Use: "up", Short: "Serve the project in this directory, or the demo", Args: takes(0, 0),
		Long: lines("Serve the project directory: agents connect to /mcp, people and hosts use /v1. It prints a",
			"one-time link with which you sign in. Files of the project are read again by apply only;",
			"what has been applied is served, whatever the files say by now.",
			"",
			"With --demo it starts a company (CRM, payments, mail) and a scripted support agent, and",
			"shows calls that succeed and calls that are refused. It writes to .sallyport/ alone.",
			"",
			"The signal USR1 halts everything."),
		Example: examples("sallyport up --demo", "sallyport up --dir project --listen 127.0.0.1:8484"),
		RunE: func(c *cobra.Command, _ []string) error {
			out, ctx := c.OutOrStdout(), c.Context()
			dir := dirOf(c)
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelDebug
			}
			o := app.Options{Dir: dir, Listen: listen, Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: level}))}
			var a *app.App
			if demonstrate {
				o.Dir = filepath.Join(dir, ".sallyport", "demo")
				d, err := app.NewDemo(ctx, o)
				if err != nil {
					return err
				}
				a = d.App
				defer a.Close()
				if err := d.Play(ctx, out); err != nil {
					return err
				}
			} else {
				var err error
				if a, err = app.New(ctx, o); err != nil {
					return err
				}
				defer a.Close()
			}
			name := "admin"
			if u, err := user.Current(); err == nil {
				name = u.Username
			}
			link, err := a.Founder(ctx, name)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "\nSallyport is at %s and agents connect to %s/mcp\n\nTry next, in another terminal:\n"+
				"  sallyport login %s --server %s\n  sallyport status --server %s\n  sallyport keys agent support --stage sandbox   # a key for a client of your own\n"+
				"  sallyport audit export --dir %s > log.jsonl && sallyport audit verify log.jsonl\n", a.URL, a.URL, link, a.URL, a.URL, o.Dir)
			if once {
				return a.Close()
			}
			fmt.Fprintln(out, "\nStop with Ctrl-C.")
			<-ctx.Done()
			return a.Close()
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "`address` to listen on (default: that of sallyport.yaml)")
	c.Flags().BoolVar(&demonstrate, "demo", false, "start the demo company and a scripted agent")
	c.Flags().BoolVar(&once, "once", false, "end when the start has been shown")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "log what happens to standard error")
	return c
}
