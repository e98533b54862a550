package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/app"
	"sallyport/internal/audit"
)

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Export, verify and read the log"}
	c.AddCommand(auditVerify(), auditExport(), auditCheckpoint(), auditTrace())
	return c
}

func auditVerify() *cobra.Command {
	var against, keys []string
	c := &cobra.Command{
		Use: "verify [FILE]", Short: "Check an export, or without a file the project's own store; needs no server", Args: cobra.MaximumNArgs(1),
		Example: "  sallyport audit verify log.jsonl --against checkpoint.txt --key \"$(cat .sallyport/keys/checkpoint.pub)\"",
		RunE: func(c *cobra.Command, args []string) error {
			o := audit.VerifyOptions{Keys: keys}
			for _, path := range against {
				raw, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				o.Against = append(o.Against, raw)
			}
			var report *audit.Report
			var err error
			if len(args) == 1 {
				report, err = app.VerifyExport(args[0], o)
			} else {
				dir, _ := c.Flags().GetString("dir")
				log, ring, openErr := app.OpenLog(c.Context(), dir, slog.New(slog.DiscardHandler))
				if openErr != nil {
					return openErr
				}
				defer log.Close()
				if len(o.Keys) == 0 {
					o.Keys = []string{ring.Verifier}
				}
				report, err = audit.VerifySource(c.Context(), log, o)
			}
			if err != nil {
				return err
			}
			if err := report.WriteText(c.OutOrStdout()); err != nil {
				return err
			}
			if !report.OK {
				return exitError{errors.New("the log does not verify"), 7}
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&against, "against", nil, "a signed checkpoint that was kept elsewhere: finds a cut tail and a replaced log")
	c.Flags().StringArrayVar(&keys, "key", nil, "the log's public key (checkpoint.pub)")
	return c
}

func auditExport() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Write the whole log as JSON lines", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, _ := c.Flags().GetString("dir")
			log, ring, err := app.OpenLog(c.Context(), dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer log.Close()
			// The log is exported up to its last checkpoint.
			note, err := log.LastCheckpoint(c.Context())
			if err != nil {
				return err
			}
			known, err := audit.Verifiers(ring.Verifier)
			if err != nil {
				return err
			}
			last, err := audit.OpenCheckpoint(note, known)
			if err != nil {
				return err
			}
			return audit.Export(c.Context(), c.OutOrStdout(), log, audit.ExportOptions{Key: ring.Verifier, Size: last.Size})
		},
	}
}

func auditCheckpoint() *cobra.Command {
	return &cobra.Command{
		Use: "checkpoint", Short: "Print the last signed checkpoint: keep it elsewhere", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, _ := c.Flags().GetString("dir")
			log, _, err := app.OpenLog(c.Context(), dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer log.Close()
			note, err := log.LastCheckpoint(c.Context())
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(note)
			return err
		},
	}
}

func auditTrace() *cobra.Command {
	return &cobra.Command{
		Use: "trace RUN|CALL", Short: "Print the records of a run or a call, in order", Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, _ := c.Flags().GetString("dir")
			log, _, err := app.OpenLog(c.Context(), dir, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer log.Close()
			run, call := sallyport.RunID(args[0]), sallyport.CallID("")
			if len(args[0]) > 5 && args[0][:5] == "call_" {
				call = sallyport.CallID(args[0])
				if run, err = log.FindCall(c.Context(), call); err != nil {
					return err
				}
			}
			lines, err := log.Trace(c.Context(), run, call, false)
			if err != nil {
				return err
			}
			if len(lines) == 0 {
				return sallyport.Refuse(sallyport.NotFound, "no records of "+args[0], "status and export show what there is")
			}
			for _, l := range lines {
				if _, err := io.WriteString(c.OutOrStdout(), fmt.Sprintf("{\"sequence\":%d,%s\n", l.Sequence, l.Body[1:])); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
