package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/app"
)

func dataCommand() *cobra.Command {
	return group(&cobra.Command{Use: "data", Short: "Take personal data out of files, and make data up"}, scrubCommand(), synthCommand())
}

func scrubCommand() *cobra.Command {
	var o app.ScrubOptions
	var report string
	c := requires(prints(&cobra.Command{
		Use: "scrub FILE...", Short: "Replace personal data and secrets in CSV, JSON and NDJSON files", Args: takes(1, 1000),
		Long: lines("Replace personal data and secrets in CSV, JSON and NDJSON files by pseudonyms. Everything",
			"else keeps its bytes. Equal values become equal in all files of one data domain, and what",
			"two domains make of a value cannot be linked. Files may be larger than memory.",
			"",
			"What is found by its look or its key: e-mail addresses, telephone numbers, IBANs, cards,",
			"national numbers, IP addresses, wallets, dates of birth, secrets. Names and addresses are",
			"found by their key alone. Declare what cannot be found, and what is to stay, in a file of",
			"classes: see doc/data.md.",
			"",
			"The key is that of the project, or --key-file. No file is written over, and none is left",
			"half written; scrub.json in the folder says what was scrubbed and how. With - for FILE",
			"standard input goes to standard output, and the report to standard error."),
		Example: examples("sallyport data scrub customers.csv orders.json --domain support --out masked",
			"sallyport data scrub customers.csv --domain support --dry-run",
			"sallyport data scrub export.ndjson --domain support --out masked --classes classes.yaml --subject customer_id",
			"zcat export.gz | sallyport data scrub - --format ndjson --domain support > masked.ndjson"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Dir, o.Files, o.Stdin, o.Stdout = dirOf(c), args, c.InOrStdin(), c.OutOrStdout()
			if o.Format != "" {
				if err := among("--format", o.Format, "csv", "json", "ndjson"); err != nil {
					return err
				}
			}
			if report != "" {
				if err := apart(report, args, o.Out); err != nil {
					return err
				}
				if _, err := os.Lstat(report); err == nil && !o.Force {
					return sallyport.Refuse(sallyport.Conflict, report+" is there already", "name another file with --report, or write over it with --force")
				}
			}
			bar := newProgress(c, "scrubbing")
			bar.unit = "MB"
			o.Progress = func(done, total int64) { bar.set(done>>20, total>>20) }
			done, err := app.Scrub(c.Context(), o)
			bar.end()
			if err != nil {
				if done != nil && len(done.Files) > 0 {
					say(c, "%s done before it failed", app.Count(len(done.Files), "file"))
				}
				return err
			}
			if report != "" {
				raw, err := encode("json", done)
				if err != nil {
					return err
				}
				if err := os.WriteFile(report, raw, 0o644); err != nil {
					return err
				}
			}
			if args[0] == "-" && !o.DryRun {
				c.SetOut(c.ErrOrStderr()) // standard output has the data
			}
			return show(c, done, func(p *paper) { scrubbed(p, done) })
		},
	}), "domain")
	f := c.Flags()
	f.StringVar(&o.Out, "out", "", "the `folder` for the scrubbed files")
	f.StringVar(&o.Domain, "domain", "", "the data `domain`, whose pseudonyms they get")
	f.StringVar(&o.Rules, "classes", "", "a `file` that declares classes of columns and members")
	f.StringVar(&o.Subject, "subject", "", "the `column` or pointer that says whose dates a record has")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be found, and write nothing")
	f.StringVar(&report, "report", "", "write the whole report to this `file`, as JSON")
	f.StringVar(&o.Format, "format", "", "`format` of the files: csv, json or ndjson (default: by their names)")
	f.BoolVar(&o.NoNames, "no-header", false, "the first line of a CSV file is data; its columns are called 1, 2, 3")
	f.StringVar(&o.KeyFile, "key-file", "", "take the key from this `file`, 32 bytes in base 64, instead of the project")
	f.BoolVar(&o.Force, "force", false, "write over files that are there")
	f.StringVar(&o.Analyzer, "analyzer", "", "also ask the Presidio analyzer at this `address`, which is sent the texts as they are")
	f.StringVar(&o.Language, "analyzer-language", "en", "`language` of the texts, for the analyzer")
	suggestValues(c, "format", "csv", "json", "ndjson")
	return c
}

func synthCommand() *cobra.Command {
	var o app.SynthOptions
	rows := map[string]int64{}
	c := prints(&cobra.Command{
		Use: "synth WORLD", Short: "Make up the rows of a world's tables", Args: takes(1, 1),
		Long: lines("Make up rows for the tables of a world: files that can be its seeds. Keys, references,",
			"uniqueness and types are as worlds/WORLD.yaml declares them. What a field holds follows",
			"from its type, its name and, with --learn, from how masked data is shaped: how long values",
			"are, how often they repeat or are missing, how they are spread. Names, e-mail addresses,",
			"telephone numbers and the like are nobody's.",
			"",
			"--learn reads CSV, JSON or NDJSON, one pass for each file. --shapes keeps what was learned,",
			"so that the data need not stay; without --learn it is taken from there. No value of the",
			"data is in it, but of enums and of what --keep names.",
			"",
			"The same command makes the same bytes on every machine. No file is written over, and none",
			"is left half written."),
		Example: examples("sallyport data synth shop --rows customers=1000,orders=5000 --out made",
			"sallyport data synth shop --learn masked/customers.csv --learn orders=masked/export.ndjson --shapes shop.json",
			"sallyport data synth shop --rows customers=200000,orders=1000000 --shapes shop.json --seed 7 --out made"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Dir, o.World, o.Rows = dirOf(c), args[0], rows
			for table, n := range rows {
				if n < 0 {
					return usageError{fmt.Errorf("--rows: %s cannot have %d rows", table, n)}
				}
			}
			bar := newProgress(c, "making up")
			bar.unit = "rows"
			o.Progress = bar.set
			done, err := app.Synth(c.Context(), o)
			bar.end()
			if err != nil {
				return err
			}
			return show(c, done, func(p *paper) { synthesised(p, done) })
		},
	})
	f := c.Flags()
	f.StringToInt64Var(&rows, "rows", nil, "how many rows each `table=number` gets")
	f.StringArrayVar(&o.Learn, "learn", nil, "learn from this `file` of masked rows, called as its table is or table=file")
	f.StringVar(&o.Shapes, "shapes", "", "the `file` that what is learned is written to, or taken from without --learn")
	f.StringSliceVar(&o.Keep, "keep", nil, "a `table.field` whose values may be learned: they are public")
	f.Uint64Var(&o.Seed, "seed", 1, "`number` that everything follows from")
	f.StringVar(&o.Out, "out", "", "the `folder` for the files")
	f.BoolVar(&o.Force, "force", false, "write over files that are there")
	return c
}

func synthesised(p *paper, r *app.SynthReport) {
	t := columns("TABLE", "LEARNED>", "ROWS>", "BYTES>", "FILE")
	for _, made := range r.Tables {
		t.row(made.Table, fmt.Sprint(made.Learned), fmt.Sprint(made.Rows), fmt.Sprint(made.Bytes), cmp.Or(made.File, "-"))
	}
	p.table(t)
	if r.Shapes != "" {
		p.note("What was learned is in %s.", r.Shapes)
	}
}

// apart sees to it that a report takes the place of no data.
func apart(report string, inputs []string, out string) error {
	info, err := os.Stat(report)
	for _, name := range inputs {
		if of, statErr := os.Stat(name); err == nil && statErr == nil && os.SameFile(info, of) ||
			out != "" && filepath.Clean(report) == filepath.Join(out, filepath.Base(name)) {
			return usageError{fmt.Errorf("--report %s is where data is: name another file", report)}
		}
	}
	if out != "" && filepath.Clean(report) == filepath.Join(out, "scrub.json") {
		return usageError{errors.New("--report would take the place of scrub.json: name another file")}
	}
	return nil
}

func scrubbed(p *paper, r *app.ScrubReport) {
	t := columns("STATUS", "RECORDS>", "BYTES>", "FILE", "OUTPUT")
	for _, f := range r.Files {
		t.row(f.Status, fmt.Sprint(f.Records), fmt.Sprint(f.Bytes), f.Input, cmp.Or(f.Output, "-"))
	}
	p.table(t)
	if len(r.Classes) > 0 {
		p.heading("Classes")
		t = columns("  CLASS", "DONE", "VALUES>")
		for _, c := range r.Classes {
			t.row("  "+c.Class, done(c.Done), fmt.Sprint(c.Count))
		}
		p.table(t)
	}
	for _, f := range r.Files {
		if len(f.Found) > 0 {
			p.heading("%s", f.Input)
			t = columns("  PLACE", "CLASS", "DONE", "VALUES>")
			rows := slices.Clone(f.Found)
			slices.SortStableFunc(rows, func(a, b app.FoundPlace) int { return int(b.Count - a.Count) })
			for _, c := range rows[:min(len(rows), mostRows)] {
				t.row("  "+c.Place, c.Class, done(c.Done), fmt.Sprint(c.Count))
			}
			p.table(t)
			if len(rows) > mostRows {
				p.note("  and %d more: see them all with -o json or --report", len(rows)-mostRows)
			}
		}
		if len(f.Untouched) > 0 {
			p.note("%s: nothing found or declared in: %s", f.Input, strings.Join(f.Untouched, ", "))
		}
		if f.Quoted > 0 {
			p.warn("%s: %s became text, since a number cannot hold what they became", f.Input, app.Count(int(f.Quoted), "number"))
		}
		if f.Renamed > 0 {
			p.warn("%s: %s of members got a number behind to stay apart", f.Input, app.Count(int(f.Renamed), "name"))
		}
	}
	p.b.WriteByte('\n')
	p.line("Domain %s, key %s, rules %s.", r.Domain, r.Key, r.Rules)
}

// mostRows is how many places of one file a table shows.
const mostRows = 40

var doneWords = map[string]string{
	"pseudonymise": "pseudonymised", "redact": "redacted", "drop": "dropped", "keep": "kept", "already": "was a pseudonym",
}

func done(word string) string { return doneWords[word] }
