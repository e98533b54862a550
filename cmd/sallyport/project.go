package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/app"
	"sallyport/internal/config"
)

func initCommand() *cobra.Command {
	var template string
	c := &cobra.Command{
		Use: "init", Short: "Write a working project directory", Args: cobra.NoArgs,
		Example: "  sallyport init --template support --dir ./project",
		RunE: func(c *cobra.Command, _ []string) error {
			dir, _ := c.Flags().GetString("dir")
			files, err := app.Template(template)
			if err != nil {
				return usageError{err}
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				path := filepath.Join(dir, filepath.FromSlash(name))
				if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
					return sallyport.Refuse(sallyport.Conflict, path+" exists; nothing was written over", "choose an empty directory with --dir")
				}
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				path := filepath.Join(dir, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			fmt.Fprintf(c.ErrOrStderr(), "next: sallyport up --dir %s, then in another terminal: sallyport login LINK, sallyport apply\n", dir)
			return nil
		},
	}
	c.Flags().StringVar(&template, "template", "minimal", "minimal or support")
	return c
}

func schemaCommand() *cobra.Command {
	c := &cobra.Command{Use: "schema", Short: "JSON Schemas of the project's files"}
	c.AddCommand(&cobra.Command{
		Use: "print KIND", Short: "Print the JSON Schema of one kind of file", Args: exactly(1), ValidArgs: config.Kinds(),
		Example: "  sallyport schema print upstream   # kinds: " + strings.Join(config.Kinds(), ", "),
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := config.JSONSchema(args[0])
			if err != nil {
				return usageError{err}
			}
			_, err = c.OutOrStdout().Write(append(raw, '\n'))
			return err
		},
	})
	return c
}

func diffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "diff", Short: "What apply would change, and whether it tightens or loosens", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := newClient(c)
			if err != nil {
				return err
			}
			var out struct {
				Digest  sallyport.Digest
				Changes []struct{ Where, What, From, To, Direction, Why string }
			}
			if err := cl.do(c.Context(), "GET", "/v1/diff", nil, &out); err != nil {
				return err
			}
			if len(out.Changes) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "nothing would change")
				return nil
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "DIRECTION\tWHERE\tWHAT\tFROM\tTO\tWHY")
			for _, ch := range out.Changes {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", ch.Direction, ch.Where, ch.What, brief(ch.From), brief(ch.To), ch.Why)
			}
			return w.Flush()
		},
	}
}

func brief(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 40 {
		return s[:37] + "..."
	}
	return s
}
