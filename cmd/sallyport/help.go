package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The groups of commands, as help lists them.
const (
	groupBegin   = "begin"
	groupRelease = "release"
	groupStop    = "stop"
	groupLook    = "look"
	groupProve   = "prove"
)

var groups = []*cobra.Group{
	{ID: groupBegin, Title: "Begin"},
	{ID: groupRelease, Title: "Change what agents may do"},
	{ID: groupStop, Title: "Stop"},
	{ID: groupLook, Title: "Look"},
	{ID: groupProve, Title: "Prove"},
}

// usageTemplate is the part of every help text below the description.
const usageTemplate = `Usage:
{{- if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND
{{- else}}
  {{.UseLine}}
{{- end}}
{{- if .HasExample}}

Examples:
{{.Example}}
{{- end}}
{{- if .HasAvailableSubCommands}}{{$all := .Commands}}
{{- if .Groups}}{{range $g := .Groups}}

{{$g.Title}}:{{range $all}}{{if and (eq .GroupID $g.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}
{{- else}}

Commands:{{range $all}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{- end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

More about one of them: {{.CommandPath}} COMMAND --help
{{- end}}
`

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}`

// group is a command that only holds others.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return unknownCommand(c, args[0])
	}
	c.AddCommand(commands...)
	return c
}

// unknownCommand is what is said of a word that is no command of c: the nearest
// one, or one of that name elsewhere.
func unknownCommand(c *cobra.Command, word string) error {
	said := fmt.Sprintf("%s has no command %q", c.CommandPath(), word)
	if near := c.SuggestionsFor(word); len(near) > 0 {
		return usageError{fmt.Errorf("%s; did you mean: %s %s", said, c.CommandPath(), near[0])}
	}
	var elsewhere []string
	walk(c.Root(), func(other *cobra.Command) {
		if other.Name() == word && other.IsAvailableCommand() {
			elsewhere = append(elsewhere, other.CommandPath())
		}
	})
	if len(elsewhere) > 0 {
		return usageError{fmt.Errorf("%s; did you mean: %s", said, strings.Join(elsewhere, " or "))}
	}
	return usageError{fmt.Errorf("%s; see them all with: %s --help", said, c.CommandPath())}
}

// walk visits a command and all below it.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// flagError says which flag was meant.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError{err}
	}
	// Flags are offered as commands are: by the same measure of nearness.
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
		}
	})
	name := unknown.GetSpecifiedName()
	if near := names.SuggestionsFor(name); len(near) > 0 && len(name) > 1 {
		return usageError{fmt.Errorf("%s has no flag --%s; did you mean: --%s", c.CommandPath(), name, near[0])}
	}
	return usageError{fmt.Errorf("%w; see them all with: %s --help", err, c.CommandPath())}
}

// takes checks how many arguments there are.
func takes(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError{fmt.Errorf("%s needs %s\nusage: %s", c.CommandPath(), placeholders(c)[len(args)], c.UseLine())}
		case len(args) > most:
			return usageError{fmt.Errorf("%q is one word too many (text with spaces needs quotes)\nusage: %s", args[most], c.UseLine())}
		}
		return nil
	}
}

// placeholders are the words of a usage line that stand for arguments.
func placeholders(c *cobra.Command) []string {
	var words []string
	for _, w := range strings.Fields(c.Use)[1:] {
		if strings.HasPrefix(w, "-") {
			break
		}
		words = append(words, strings.Trim(w, "[]."))
	}
	return words
}

// requires marks flags without which a command does nothing, and says all that
// are missing at once.
func requires(c *cobra.Command, names ...string) *cobra.Command {
	do := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		var missing []string
		for _, name := range names {
			f := c.Flags().Lookup(name)
			if text := strings.TrimSpace(f.Value.String()); text == "" || text == "[]" {
				_, usage := pflag.UnquoteUsage(f)
				missing = append(missing, fmt.Sprintf("--%s (%s)", name, usage))
			}
		}
		if len(missing) > 0 {
			return usageError{fmt.Errorf("%s needs %s\nusage: %s", c.CommandPath(), strings.Join(missing, " and "), c.UseLine())}
		}
		return do(c, args)
	}
	return c
}

// suggestValues completes a flag from a list.
func suggestValues(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// lines joins the lines of an example or a long description.
func lines(text ...string) string { return strings.Join(text, "\n") }

// examples are the lines of an example, indented.
func examples(text ...string) string { return "  " + strings.Join(text, "\n  ") }

func completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print what makes a shell complete these commands", Args: takes(1, 1), ValidArgs: shells,
		Long: lines("Print a script that makes a shell complete commands, flags and values:", "bash, zsh, fish or powershell."),
		Example: examples("sallyport completion bash > /etc/bash_completion.d/sallyport", "source <(sallyport completion zsh)",
			"sallyport completion fish > ~/.config/fish/completions/sallyport.fish"),
		RunE: func(c *cobra.Command, args []string) error {
			out, root := c.OutOrStdout(), c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			}
			return usageError{fmt.Errorf("shell %q: want one of %s", args[0], strings.Join(shells, ", "))}
		},
	}
}

// among reports whether a word is in a list, and if not, what to say of it.
func among(what, word string, valid ...string) error {
	if slices.Contains(valid, word) {
		return nil
	}
	return usageError{fmt.Errorf("%s %q: want one of %s", what, word, strings.Join(valid, ", "))}
}
