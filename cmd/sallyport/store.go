package main

import (
	"github.com/spf13/cobra"

	"sallyport/internal/app"
)

func storeCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "store", Short: "Move the store from a file to PostgreSQL",
		Long: lines("What has been recorded and decided is kept in a file, or in a PostgreSQL database that",
			"store.postgres of sallyport.yaml leads to.")})
	var from string
	copying := prints(&cobra.Command{
		Use: "copy", Short: "Copy the file of a stopped server into an empty PostgreSQL database", Args: takes(0, 0),
		Long: lines("Copy the SQLite store of a stopped server into the empty PostgreSQL database that",
			"store.postgres of sallyport.yaml leads to: all records and everything beside them, in one",
			"transaction. The records there have to make the same tree with the same last checkpoint",
			"before anything is kept, and all of the copy is verified. The file stays as it is; do",
			"not start a server with it again.",
			"",
			"Stop the server, write store: {postgres: env:SALLYPORT_STORE} into sallyport.yaml in the",
			"place of the path, copy, and start it."),
		Example: examples("sallyport store copy", "sallyport store copy --from .sallyport/store/sallyport.db"),
		RunE: func(c *cobra.Command, _ []string) error {
			copied, err := app.CopyStore(c.Context(), dirOf(c), from)
			if err != nil {
				return err
			}
			return show(c, copied, func(p *paper) {
				p.line("%s copied and verified. Their root is %s.", app.Count(int(copied.Size), "record"), copied.Root)
			})
		},
	})
	copying.Flags().StringVar(&from, "from", "", "the SQLite `file` (default: .sallyport/store/sallyport.db of the project directory)")
	c.AddCommand(copying)
	return c
}
