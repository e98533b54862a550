// Sallyport stands between AI agents and the tools they act on.
//
//	sallyport up --demo                      see it work
//	sallyport up                             serve the project in this directory
//	sallyport init --template support        write a project directory
//	sallyport login LINK                     sign in with the link that up printed
//	sallyport apply                          register what the project directory says
//	sallyport promote AGENT --to STAGE --reason WHY
//	sallyport halt SCOPE [SUBJECT] --reason WHY
//	sallyport status
//	sallyport audit export | verify | checkpoint | trace
//
// Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 not permitted, 5 a gate,
// policy test or evaluation failed, 6 held for approval, 7 verification failed,
// 8 timed out, 9 inconclusive.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/app"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "sallyport", Short: "Stands between AI agents and the tools they act on",
		SilenceErrors: true, SilenceUsage: true, Version: app.Version,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("dir", ".", "project directory")
	root.PersistentFlags().String("server", "", "address of the server (default: SALLYPORT_SERVER, or http://127.0.0.1:8484)")
	root.AddCommand(upCommand(), initCommand(), schemaCommand(), diffCommand(), loginCommand(), statusCommand(), applyCommand(), promoteCommand(),
		haltCommand(), resumeCommand(), settleCommand(), keysCommand(), policyCommand(), auditCommand(), versionCommand())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var r *sallyport.Refusal
	if errors.As(err, &r) {
		fmt.Fprintf(stderr, "sallyport: %s: %s\n", r.Code, r.Reason)
		if r.Hint != "" {
			fmt.Fprintf(stderr, "sallyport: hint: %s\n", r.Hint)
		}
	} else {
		fmt.Fprintf(stderr, "sallyport: %v\n", err)
	}
	return exitCode(err)
}

type usageError struct{ error }

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func exitCode(err error) int {
	var r *sallyport.Refusal
	var usage usageError
	var exit exitError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		return 2
	case !errors.As(err, &r):
		return 1
	}
	switch r.Code {
	case sallyport.BadRequest:
		return 2
	case sallyport.NotFound, sallyport.NoRun, sallyport.NoRelease, sallyport.UnknownTool:
		return 3
	case sallyport.NotPermitted, sallyport.Unauthenticated, sallyport.Denied:
		return 4
	case sallyport.ApprovalRequired:
		return 6
	case sallyport.DeadlineExceeded:
		return 8
	default:
		return 1
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(c *cobra.Command, _ []string) {
		fmt.Fprintln(c.OutOrStdout(), app.Version)
	}}
}
