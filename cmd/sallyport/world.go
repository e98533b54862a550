package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport"
	"sallyport/internal/api"
	"sallyport/internal/app"
	"sallyport/internal/control"
	"sallyport/internal/draft"
)

func worldCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "world", Short: "Record a system, draft a world of it, and hold it against the recording",
		Long: lines("A world is what a sandbox answers from. Record what a real system answers, draft a twin",
			"from the recording and the system's tools, and see tool by tool how well it agrees. What",
			"is written lies under worlds/ of the project directory; doc/worlds.md has an example."),
	}, worldRecordCommand(), worldSealCommand(), worldInitCommand(), worldVerifyCommand())
}

// reaching asks the server for leave to reach a real system, and whether it still holds.
func reaching(c *cobra.Command, r control.Reach) (begin func(context.Context) error, permitted func(context.Context, string) error, err error) {
	cl, err := newClient(c)
	if err != nil {
		return nil, nil, err
	}
	begin = func(ctx context.Context) error {
		var done api.Done
		err := cl.do(ctx, "POST", "/v1/reach", r, &done)
		var refused *sallyport.Refusal
		if err != nil && !errors.As(err, &refused) {
			return &advised{err, "who reaches a real system is recorded, which takes the running server: sallyport up"}
		}
		return err
	}
	permitted = func(ctx context.Context, tool string) error {
		var status api.Status
		if err := cl.do(ctx, "GET", "/v1/status", nil, &status); err != nil {
			return fmt.Errorf("whether something is halted cannot be asked: %w", err)
		}
		target := sallyport.Target{Stage: r.Stage, Upstream: r.Upstream, Tool: tool}
		for i := range status.Halts {
			if h := &status.Halts[i].Halt; h.Stops(&target) {
				return sallyport.Refuse(sallyport.Halted, fmt.Sprintf("halted: %s %s (%s)", h.Scope, h.Subject, h.Reason), "")
			}
		}
		return nil
	}
	return begin, permitted, nil
}

func worldRecordCommand() *cobra.Command {
	o := app.RecordOptions{}
	var from, stage, reason string
	var canaries []string
	c := requires(prints(&cobra.Command{
		Use: "record NAME --from UPSTREAM --stage STAGE --reason WHY", Short: "Record what an upstream answers to a client, scrubbed", Args: takes(1, 1),
		Long: lines("Stand in front of an upstream, with the credential it has in a stage, and pass what an",
			"unchanged client calls on to it. Each call is scrubbed of personal data and secrets and",
			"is on the disk before the client has its answer. Connect the client to the address that",
			"is printed, which is a credential: whoever knows it acts on the real system. With --stdio",
			"the client starts this command instead.",
			"",
			"It ends with Ctrl-C, when the client over stdio goes, or when sallyport world seal is",
			"told the file. Then the file is searched for every value that was replaced, and for what",
			"--canary names, and sealed if none is there. An unsealed recording is no evidence.",
			"",
			"Recording is a decision of a person's: the server puts it on record before anything is",
			"reached, and a halt stops it."),
		Example: examples("sallyport world record memory --from memory --stage staging --reason \"a twin for the sandbox\"",
			"sallyport world record crm --from crm --stage production --reason \"a twin\" --canary \"Ada Lovelace\""),
		RunE: func(c *cobra.Command, args []string) error {
			if !sallyport.ValidName(args[0]) {
				return usageError{fmt.Errorf("%q is no name of a recording: use a-z, 0-9 and '-'", args[0])}
			}
			if err := o.Stage.UnmarshalText([]byte(stage)); err != nil {
				return usageError{fmt.Errorf("--stage: %w", err)}
			}
			o.Dir, o.Upstream = dirOf(c), sallyport.UpstreamID(from)
			if o.Out == "" {
				o.Out = filepath.Join(o.Dir, "worlds", "cassettes", args[0]+".jsonl")
			}
			for _, text := range canaries {
				o.Canaries = append(o.Canaries, []byte(text))
			}
			var err error
			if o.Begin, o.Permitted, err = reaching(c, control.Reach{As: "record", Upstream: o.Upstream, Stage: o.Stage, File: o.Out, Reason: reason}); err != nil {
				return err
			}
			o.In, o.Stdout = c.InOrStdin(), c.OutOrStdout()
			o.Say = func(line string) { say(c, "%s", cleanLines(line)) }
			o.Ready = func(url string) {
				say(c, "recording %s of %s to %s", from, stage, o.Out)
				say(c, "connect the client to %s", url)
				say(c, "stop with Ctrl-C, or: sallyport world seal %s", o.Out)
			}
			done, err := app.Record(c.Context(), o)
			if o.Stdio {
				c.SetOut(c.ErrOrStderr()) // standard output was the client's
			}
			if err := showRecording(c, done, err); err != nil {
				return err
			}
			say(c, "draft a world from it: sallyport world init %s --from %s --cassette %s", args[0], from, filepath.Base(o.Out))
			return nil
		},
	}), "from", "stage", "reason")
	f := c.Flags()
	f.StringVar(&from, "from", "", "the `upstream` that is recorded")
	f.StringVar(&stage, "stage", "", "the `stage` in which it is reached: staging or production")
	f.StringVar(&reason, "reason", "", "`why`")
	f.StringVar(&o.Out, "out", "", "the `file` (default: worlds/cassettes/NAME.jsonl)")
	f.StringVar(&o.Domain, "domain", "default", "the data `domain` whose pseudonyms it gets")
	f.StringArrayVar(&canaries, "canary", nil, "a `value` that must not be in the file, of 8 bytes or more; may be repeated")
	f.BoolVar(&o.Stdio, "stdio", false, "serve the one client that starts this command")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:0", "the `address` for clients, of the loopback interface")
	suggestValues(c, "stage", "staging", "production")
	return c
}

func worldSealCommand() *cobra.Command {
	var canaries []string
	c := prints(&cobra.Command{
		Use: "seal FILE", Short: "End a recording and seal it, or look into a sealed one", Args: takes(1, 1),
		Long: lines("Have the program that makes a recording end it, search it for every value that it",
			"replaced and for canaries, and seal it if none is there. Only that program knows the",
			"values: a recording whose recorder has gone without sealing it cannot be sealed.",
			"",
			"In a file that is sealed, canaries are looked for. Whoever planted them is told where",
			"they are, and the command ends with 7."),
		Example: examples("sallyport world seal worlds/cassettes/memory.jsonl", "sallyport world seal worlds/cassettes/crm.jsonl --canary \"Ada Lovelace\""),
		RunE: func(c *cobra.Command, args []string) error {
			var values [][]byte
			for _, text := range canaries {
				values = append(values, []byte(text))
			}
			done, err := app.SealRecording(c.Context(), args[0], values)
			return showRecording(c, done, err)
		},
	})
	c.Flags().StringArrayVar(&canaries, "canary", nil, "a `value` that must not be in the file, of 8 bytes or more; may be repeated")
	return c
}

// showRecording prints what became of a recording; a value that should be gone is a
// failure of its own.
func showRecording(c *cobra.Command, r *app.Recording, err error) error {
	var leaks *app.Leaks
	if err != nil && !errors.As(err, &leaks) {
		return err
	}
	shown := show(c, r, func(p *paper) {
		state := "sealed"
		if !r.Sealed {
			state = "NOT sealed"
		}
		p.fields("file", r.File, "state", state, "calls", fmt.Sprint(r.Calls), "searched for", app.Count(r.Searched, "value"))
		if len(r.Replaced) > 0 {
			t := columns("CLASS", "REPLACED>")
			for _, class := range slices.Sorted(maps.Keys(r.Replaced)) {
				t.row(class, fmt.Sprint(r.Replaced[class]))
			}
			p.table(t)
		}
		if len(r.Hits) > 0 {
			t := columns("LINE>", "PLACE", "BYTES>", "WRITTEN", "WHAT")
			for _, h := range r.Hits {
				what := "a replaced value"
				if h.Canary {
					what = "a canary"
				}
				t.row(fmt.Sprint(h.Line), h.Pointer, fmt.Sprint(h.Bytes), h.Written, what)
			}
			p.table(t)
		}
	})
	if shown != nil {
		return shown
	}
	if leaks != nil {
		return failure{err, exitUnproven}
	}
	return nil
}

func worldInitCommand() *cobra.Command {
	var o app.DraftOptions
	var from string
	c := requires(prints(&cobra.Command{
		Use: "init NAME --from UPSTREAM", Short: "Draft a world from an upstream's tools and recordings of it", Args: takes(1, 1),
		Long: lines("Write worlds/NAME.yaml and its data: tables, their keys and seeds, and a rule for each tool",
			"that can be guessed from its definition and from recordings. Each guess has a confidence",
			"and its reasons beside it. What has less than --threshold is commented out. Where several",
			"rules are possible, the one that answers most of the recorded calls as they were answered",
			"is taken. Without recordings little is sure enough to be written live.",
			"",
			"A draft is a beginning. Read it, correct it, and hold it against recordings that it was",
			"not drafted from: sallyport world verify NAME."),
		Example: examples("sallyport world init memory --from memory --cassette memory.jsonl", "sallyport world init crm --from crm --threshold 0.7"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Dir, o.Name, o.From = dirOf(c), args[0], sallyport.UpstreamID(from)
			if o.Threshold <= 0 || o.Threshold > 1 {
				return usageError{fmt.Errorf("--threshold %v: want a number above 0, and 1 at most", o.Threshold)}
			}
			d, err := app.DraftWorld(c.Context(), o)
			if err != nil {
				return err
			}
			if err := show(c, d, func(p *paper) { drafted(p, d) }); err != nil {
				return err
			}
			for _, problem := range d.Problems {
				say(c, "%s", cleanLines(problem))
			}
			say(c, "read worlds/%s.yaml, then name it in upstreams/%s.yaml: stages: {sandbox: {binding: simulate, world: %s}}", o.Name, from, o.Name)
			if len(d.Cassettes) > 0 {
				say(c, "see how well it answers: sallyport world verify %s", o.Name)
			} else {
				say(c, "a recording makes more of it sure: sallyport world record %s --from %s --stage staging --reason \"...\"", o.Name, from)
			}
			return nil
		},
	}), "from")
	f := c.Flags()
	f.StringVar(&from, "from", "", "the `upstream` whose tools it answers")
	f.StringArrayVar(&o.Cassettes, "cassette", nil, "a recording: a `file`, or its name in worlds/cassettes; may be repeated")
	f.Float64Var(&o.Threshold, "threshold", draft.Threshold, "comment out what has less `confidence`, from 0 to 1")
	f.BoolVar(&o.Force, "force", false, "write over files that are there")
	return c
}

func drafted(p *paper, d *app.DraftedWorld) {
	p.fields("world", d.World, "drafted from", string(d.Upstream), "written", strings.Join(d.Files, ", "))
	t := columns("SURE>", "", "WHAT", "", "AGREED>", "WHY")
	for _, f := range d.Findings {
		state := "live"
		if !f.Kept {
			state = "commented out"
		}
		agreed := "-"
		if f.Kind == "tool" && f.Calls > 0 {
			agreed = fmt.Sprintf("%d/%d", f.Agreed, f.Calls)
		}
		// Everything stands in the file, and with -o json.
		why := f.Reasons
		if f.Kept && len(why) > 1 {
			why = why[len(why)-1:]
		}
		t.row(fmt.Sprintf("%.2f", f.Confidence), state, f.Kind+" "+f.Subject, f.Says, agreed, strings.Join(why, "; "))
	}
	p.table(t)
}

func worldVerifyCommand() *cobra.Command {
	var o app.VerifyWorldOptions
	var against, stage, report, reason string
	var least struct{ status, shape, value, effect float64 }
	c := prints(&cobra.Command{
		Use: "verify NAME", Short: "Replay recordings through a world's twin and say how well it agrees", Args: takes(1, 1),
		Long: lines("Replay what was recorded, call by call, through the rules of a world, and say tool by tool",
			"in how many calls it succeeds or fails alike (status), answers with the same members",
			"(shape), which share of the values is the same (value), and after how many changes all that",
			"was read was read alike (effect). Ids that the world makes itself stand for the recorded",
			"ones. Calls that no rule answers agree in nothing. With --min-... a share below it ends the",
			"command with 7.",
			"",
			"With --against the real system is asked in staging, with the credential it has there: only",
			"tools that the upstream's file declares to be reads, with recorded arguments. This is put",
			"on record by the server, and takes a --reason."),
		Example: examples("sallyport world verify memory", "sallyport world verify memory --cassette other.jsonl --min-effect 0.98 --report card.json",
			"sallyport world verify memory --against memory --stage staging --reason \"still true?\""),
		RunE: func(c *cobra.Command, args []string) error {
			o.Dir, o.Name, o.Now = dirOf(c), args[0], time.Now()
			for _, m := range []struct {
				flag  string
				value float64
			}{{"--min-status", least.status}, {"--min-shape", least.shape}, {"--min-value", least.value}, {"--min-effect", least.effect}} {
				if m.value < 0 || m.value > 1 {
					return usageError{fmt.Errorf("%s %v: want a share from 0 to 1", m.flag, m.value)}
				}
			}
			if against != "" {
				if stage != "staging" {
					return usageError{errors.New("--against asks the real system in staging and nowhere else: say --stage staging")}
				}
				if strings.TrimSpace(reason) == "" {
					return usageError{errors.New("--against reaches a real system: say why with --reason")}
				}
				begin, permitted, err := reaching(c, control.Reach{As: "compare", Upstream: sallyport.UpstreamID(against), Stage: sallyport.Staging, Reason: reason})
				if err != nil {
					return err
				}
				o.Live = &app.Rival{Upstream: sallyport.UpstreamID(against), Begin: begin, Permitted: permitted}
			}
			card, err := app.VerifyWorld(c.Context(), o)
			if err != nil {
				return err
			}
			if report != "" {
				raw, err := encode("json", card)
				if err != nil {
					return err
				}
				if err := os.WriteFile(report, raw, 0o644); err != nil {
					return err
				}
			}
			if err := show(c, card, func(p *paper) { fidelity(p, card) }); err != nil {
				return err
			}
			var below []string
			for _, t := range append(slices.Clone(card.Tools), card.Against...) {
				for _, m := range []struct {
					name       string
					got, least float64
				}{{"status", t.Status, least.status}, {"shape", t.Shape, least.shape}, {"value", t.Value, least.value}, {"effect", t.Effect, least.effect}} {
					if m.got < m.least && (m.name != "effect" || t.Observed > 0) {
						below = append(below, fmt.Sprintf("%s: %s %.4g is below %.4g", t.Tool, m.name, m.got, m.least))
					}
				}
			}
			if len(below) > 0 {
				return failure{fmt.Errorf("world %s is not as faithful as was asked for: %s", o.Name, strings.Join(below, "; ")), exitUnproven}
			}
			return nil
		},
	})
	f := c.Flags()
	f.StringArrayVar(&o.Cassettes, "cassette", nil, "a recording: a `file`, or its name in worlds/cassettes (default: those the world names); may be repeated")
	f.StringVar(&against, "against", "", "also ask this `upstream`, in staging")
	f.StringVar(&stage, "stage", "", "the `stage` of --against: staging")
	f.StringVar(&reason, "reason", "", "`why` the real system is asked")
	f.Float64Var(&least.status, "min-status", 0, "the least `share` of calls, of each tool, that succeed or fail alike")
	f.Float64Var(&least.shape, "min-shape", 0, "the least `share` of calls with the same members")
	f.Float64Var(&least.value, "min-value", 0, "the least `share` of values that are the same")
	f.Float64Var(&least.effect, "min-effect", 0, "the least `share` of changes whose effect is the same")
	f.Uint64Var(&o.Seed, "seed", 1, "the `seed` of the runs")
	f.StringVar(&report, "report", "", "write the whole card to this `file`, as JSON")
	suggestValues(c, "stage", "staging")
	return c
}

func fidelity(p *paper, card *app.Fidelity) {
	for _, r := range card.Recordings {
		var notes []string
		if !r.Sealed {
			notes = append(notes, "not sealed: no evidence")
		}
		if r.Drift {
			notes = append(notes, "the upstream has other tools now")
		}
		p.fields("recording", r.File, "calls", fmt.Sprint(r.Calls), "checked", fmt.Sprintf("%d of %d values", r.Live, r.Leaves), "age", fmt.Sprintf("%.1f days", r.Age), "but", strings.Join(notes, "; "))
	}
	table := func(tools []app.ToolFidelity) {
		t := columns("TOOL", "CALLS>", "ANSWERED>", "SAME>", "STATUS>", "SHAPE>", "VALUE>", "EFFECT>", "FIRST DIFFERENCE")
		for _, f := range tools {
			effect := "-"
			if f.Observed > 0 {
				effect = fmt.Sprintf("%s of %d", percent(f.Effect), f.Observed)
			}
			first := "-"
			if d := f.First; d != nil && f.Tool != "total" {
				first = fmt.Sprintf("call %d %s: %s", d.Call, d.Pointer, d.Kind)
				if f.Answered == 0 {
					first = d.Kind
				} else if d.Recorded != "" || d.Got != "" {
					first += fmt.Sprintf(", recorded %s, got %s", d.Recorded, d.Got)
				}
			}
			t.row(f.Tool, fmt.Sprint(f.Calls), fmt.Sprint(f.Answered), fmt.Sprint(f.Same), percent(f.Status), percent(f.Shape), percent(f.Value), effect, first)
		}
		p.table(t)
	}
	table(append(slices.Clone(card.Tools), card.Total))
	if len(card.Against) > 0 {
		p.heading("Against the real system in staging")
		table(card.Against)
	}
}

func percent(share float64) string { return fmt.Sprintf("%.4g%%", share*100) }
