package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/app"
	"sallyport/internal/control"
)

func loginCommand() *cobra.Command {
	return &cobra.Command{
		Use: "login LINK", Short: "Sign in with a one-time link", Args: exactly(1),
		Example: "  sallyport login sp_link_...",
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := newClient(c)
			if err != nil {
				return err
			}
			var made control.KeyMade
			if err := cl.do(c.Context(), "POST", "/v1/login", map[string]string{"link": args[0], "note": "command line"}, &made); err != nil {
				return err
			}
			if err := keepCredential(cl.server, made.Secret); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "signed in to %s as %s until %s\n", cl.server, made.Key.Person, made.Key.Expires.Format(time.DateOnly))
			return nil
		},
	}
}

func statusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "What runs where, what is halted, which outcomes are unknown", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := newClient(c)
			if err != nil {
				return err
			}
			var s api.Status
			if err := cl.do(c.Context(), "GET", "/v1/status", nil, &s); err != nil {
				return err
			}
			if asJSON {
				return show(c, s)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "AGENT\tSTAGE\tRELEASE\tSINCE\tBY\tREASON")
			for _, p := range s.Pointers {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Agent, p.Stage, p.Release.Short(), p.At.Format(time.DateTime), p.By, p.Reason)
			}
			if len(s.Pointers) == 0 {
				fmt.Fprintln(w, "no agent has been promoted: sallyport apply, then sallyport promote AGENT --to sandbox --reason ...")
			}
			for _, h := range s.Halts {
				fmt.Fprintf(w, "HALTED\t%s %s\tby %s\t%s\t%s\t\n", h.Scope, h.Subject, h.By, h.At.Format(time.DateTime), h.Reason)
			}
			for _, u := range s.Unknown {
				fmt.Fprintf(w, "UNKNOWN\t%s\t%s/%s\t%s\tsettle it: sallyport settle %s --as happened|did-not-happen --reason ...\t\n", u.Stage, u.Upstream, u.Tool, u.At.Format(time.DateTime), u.Call)
			}
			fmt.Fprintf(w, "%d records\n", s.Records)
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func applyCommand() *cobra.Command {
	var in api.ApplyRequest
	c := &cobra.Command{
		Use: "apply", Short: "Register what the server's project directory says", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return post(c, "/v1/apply", in, &control.Applied{}) },
	}
	c.Flags().StringVar(&in.Reason, "reason", "", "why (needed when staging or production change)")
	return c
}

func promoteCommand() *cobra.Command {
	var in api.PromoteRequest
	var to, release string
	c := &cobra.Command{
		Use: "promote AGENT --to STAGE --reason WHY", Short: "Make a stage run a release", Args: exactly(1),
		Example: "  sallyport promote support --to sandbox --reason \"first try\"",
		RunE: func(c *cobra.Command, args []string) error {
			if err := in.Stage.UnmarshalText([]byte(to)); err != nil {
				return usageError{err}
			}
			in.Agent, in.Release = sallyport.AgentID(args[0]), sallyport.ReleaseID(release)
			return post(c, "/v1/promote", in, &control.Promotion{})
		},
	}
	c.Flags().StringVar(&to, "to", "", "sandbox, staging or production")
	c.Flags().StringVar(&release, "release", "", "digest of the release (default: the one applied last)")
	c.Flags().StringVar(&in.Reason, "reason", "", "why")
	return c
}

func haltCommand() *cobra.Command {
	var reason string
	var local bool
	c := &cobra.Command{
		Use: "halt global | stage S | agent A | release D | upstream U | tool U/T | run R", Short: "Stop it now", Args: cobra.RangeArgs(1, 2),
		Example: "  sallyport halt global --reason \"agents send nonsense\"\n  sallyport halt tool payments/refund --reason \"wrong amounts\"\n  sallyport halt global --local --reason \"the server does not answer\"",
		RunE: func(c *cobra.Command, args []string) error {
			in, err := haltRequest(args, reason)
			if err != nil {
				return err
			}
			if local {
				if reason == "" {
					return usageError{fmt.Errorf("a reason is required: add --reason \"...\"")}
				}
				dir, _ := c.Flags().GetString("dir")
				err := app.HaltFile(dir, sallyport.Halt{Scope: in.Scope, Subject: in.Subject, Reason: reason, By: "file", At: time.Now().UTC()})
				if err == nil {
					fmt.Fprintln(c.ErrOrStderr(), "written: a running server takes it within a quarter of a second, a stopped one when it starts")
				}
				return err
			}
			var out control.Stopped
			if err := post(c, "/v1/halt", in, &out); err != nil {
				return err
			}
			switch {
			case out.Confirmed.IsZero():
				fmt.Fprintln(c.ErrOrStderr(), "applied, but not every call in flight could be confirmed in time")
			default:
				fmt.Fprintf(c.ErrOrStderr(), "confirmed in %.1f ms; %d calls in flight were cancelled, what they did is unknown; %d were stopped before they were sent\n",
					float64(out.ConfirmedMicros)/1000, len(out.InFlight), out.Unsent)
			}
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why")
	c.Flags().BoolVar(&local, "local", false, "write the halt to a file of the project directory: needs neither server nor store")
	return c
}

func resumeCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "resume SCOPE [SUBJECT] --reason WHY", Short: "Take a halt back", Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			in, err := haltRequest(args, reason)
			if err != nil {
				return err
			}
			return post(c, "/v1/resume", in, &struct{}{})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why")
	return c
}

func haltRequest(args []string, reason string) (api.HaltRequest, error) {
	in := api.HaltRequest{Reason: reason}
	if err := in.Scope.UnmarshalText([]byte(args[0])); err != nil {
		return in, usageError{err}
	}
	if len(args) == 2 {
		in.Subject = args[1]
	}
	return in, nil
}

func settleCommand() *cobra.Command {
	var in api.SettleRequest
	c := &cobra.Command{
		Use: "settle CALL --as happened|did-not-happen --reason WHY", Short: "Say what an unknown outcome was", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			in.Call = sallyport.CallID(args[0])
			return post(c, "/v1/settle", in, &struct{}{})
		},
	}
	c.Flags().StringVar(&in.As, "as", "", "happened or did-not-happen")
	c.Flags().StringVar(&in.Reason, "reason", "", "how you know")
	return c
}

func keysCommand() *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "Make, list and revoke credentials"}
	for _, kind := range []sallyport.KeyKind{sallyport.KeyHost, sallyport.KeyAgent} {
		in := api.KeyRequest{Kind: kind}
		var stage, release string
		what := "opens runs of an agent"
		if kind == sallyport.KeyAgent {
			what = "makes calls of one release of an agent"
		}
		c := &cobra.Command{
			Use: kind.String() + " AGENT --stage STAGE", Short: "Make a key that " + what, Args: exactly(1),
			RunE: func(c *cobra.Command, args []string) error {
				if err := in.Stage.UnmarshalText([]byte(stage)); err != nil {
					return usageError{err}
				}
				in.Agent, in.Release = sallyport.AgentID(args[0]), sallyport.ReleaseID(release)
				return post(c, "/v1/keys", in, &control.KeyMade{})
			},
		}
		c.Flags().StringVar(&stage, "stage", "sandbox", "the highest stage it may reach")
		if kind == sallyport.KeyAgent {
			c.Flags().StringVar(&release, "release", "", "digest of the release (default: the one applied last)")
		}
		c.Flags().IntVar(&in.Days, "days", 90, "how long it is good for")
		c.Flags().StringVar(&in.Note, "note", "", "what it is for")
		keys.AddCommand(c)
	}
	keys.AddCommand(&cobra.Command{Use: "list", Short: "List keys", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		cl, err := newClient(c)
		if err != nil {
			return err
		}
		var out []control.Key
		if err := cl.do(c.Context(), "GET", "/v1/keys", nil, &out); err != nil {
			return err
		}
		return show(c, out)
	}})
	var reason string
	revoke := &cobra.Command{Use: "revoke KEY --reason WHY", Short: "End a key", Args: exactly(1), RunE: func(c *cobra.Command, args []string) error {
		return post(c, "/v1/keys/"+args[0]+"/revoke", map[string]string{"reason": reason}, &struct{}{})
	}}
	revoke.Flags().StringVar(&reason, "reason", "", "why")
	var roles []string
	person := &cobra.Command{Use: "person NAME --role ROLE", Short: "Add a person, or replace their roles, and print a sign-in link", Args: exactly(1), RunE: func(c *cobra.Command, args []string) error {
		p := sallyport.Person{ID: sallyport.PersonID(args[0])}
		for _, name := range roles {
			var r sallyport.Role
			if err := r.UnmarshalText([]byte(name)); err != nil {
				return usageError{err}
			}
			p.Roles = append(p.Roles, r)
		}
		return post(c, "/v1/persons", p, &map[string]string{})
	}}
	person.Flags().StringSliceVar(&roles, "role", nil, "viewer, developer, reviewer, approver, operator, auditor or admin")
	keys.AddCommand(revoke, person)
	return keys
}

// post sends a command and prints what came of it.
func post(c *cobra.Command, path string, in, out any) error {
	cl, err := newClient(c)
	if err != nil {
		return err
	}
	if err := cl.do(c.Context(), "POST", path, in, out); err != nil {
		return err
	}
	return show(c, out)
}

func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(c, args); err != nil {
			return usageError{fmt.Errorf("%w: %s", err, c.UseLine())}
		}
		return nil
	}
}
