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

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/app"
	"sallyport/internal/config"
)

func dirOf(c *cobra.Command) string {
	dir, _ := c.Flags().GetString("dir")
	return dir
}

func initCommand() *cobra.Command {
	var template string
	c := prints(&cobra.Command{
		Use: "init", Short: "Write a working project directory", Args: takes(0, 0),
		Long: lines("Write a project directory that can be served as it is. Nothing is written over.",
			"",
			"  minimal   one agent, one upstream with one tool, answered by a world",
			"  support   a support agent with a CRM, payments and mail, policies and their tests"),
		Example: examples("sallyport init", "sallyport init --template support --dir project"),
		RunE: func(c *cobra.Command, _ []string) error {
			dir := dirOf(c)
			if err := among("--template", template, "minimal", "support"); err != nil {
				return err
			}
			files, err := app.Template(template)
			if err != nil {
				return err
			}
			var paths []string
			for _, name := range slices.Sorted(maps.Keys(files)) {
				path := filepath.Join(dir, filepath.FromSlash(name))
				if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
					return sallyport.Refuse(sallyport.Conflict, path+" exists; nothing was written", "choose an empty directory with --dir")
				}
				paths = append(paths, path)
			}
			for i, name := range slices.Sorted(maps.Keys(files)) {
				if err := os.MkdirAll(filepath.Dir(paths[i]), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(paths[i], []byte(files[name]), 0o644); err != nil {
					return err
				}
			}
			defer say(c, "next: sallyport up --dir %s, then in another terminal: sallyport login LINK, sallyport diff, sallyport apply --reason \"...\"", dir)
			return show(c, paths, func(p *paper) {
				for _, path := range paths {
					p.line("%s", path)
				}
			})
		},
	})
	c.Flags().StringVar(&template, "template", "minimal", "`which`: minimal or support")
	suggestValues(c, "template", "minimal", "support")
	return c
}

func schemaCommand() *cobra.Command {
	return group(&cobra.Command{Use: "schema", Short: "JSON Schemas of the project's files"}, &cobra.Command{
		Use: "print KIND", Short: "Print the JSON Schema of one kind of file", Args: takes(1, 1), ValidArgs: config.Kinds(),
		Long: lines("Print the JSON Schema of one kind of file of a project directory, for editors:",
			strings.Join(config.Kinds(), ", ")+"."),
		Example: examples("sallyport schema print upstream > upstream.schema.json"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := among("kind", args[0], config.Kinds()...); err != nil {
				return err
			}
			raw, err := config.JSONSchema(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s\n", raw)
			return err
		},
	})
}
