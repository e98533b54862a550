package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/internal/app"
)

func policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Test policies"}
	c.AddCommand(&cobra.Command{
		Use: "test", Short: "Run policies/*.test.yaml against the project directory; needs no server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, _ := c.Flags().GetString("dir")
			passed, failed, err := app.PolicyTests(dir, func(text string) { fmt.Fprintln(c.OutOrStdout(), text) })
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%d passed, %d failed\n", passed, failed)
			if failed > 0 {
				return exitError{errors.New("policy tests failed"), 5}
			}
			return nil
		},
	})
	return c
}
