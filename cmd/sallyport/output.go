package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
	"golang.org/x/text/width"
)

// formats are how data is printed. What a program reads has the same members in
// all but table.
var formats = []string{"table", "json", "jsonl", "yaml"}

// prints gives a command the flag -o.
func prints(c *cobra.Command) *cobra.Command {
	c.Flags().StringP("output", "o", formats[0], "`format` of what is printed: table, json, jsonl or yaml")
	c.Flags().Bool("json", false, "same as -o json")
	if err := c.Flags().MarkHidden("json"); err != nil {
		panic(err)
	}
	suggestValues(c, "output", formats...)
	// Before anything happens: what comes of it has to be printable.
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		_, err := formatOf(c)
		return err
	}
	return c
}

// formatOf is the format that was asked for.
func formatOf(c *cobra.Command) (string, error) {
	if asJSON, _ := c.Flags().GetBool("json"); asJSON {
		return "json", nil
	}
	name, _ := c.Flags().GetString("output")
	for _, f := range formats {
		if name == f {
			return f, nil
		}
	}
	return "", usageError{fmt.Errorf("-o %q: want one of %s", name, strings.Join(formats, ", "))}
}

// show prints data to standard output: as a table, which text writes, or in a
// form for programs. A list is one line an element in jsonl.
func show(c *cobra.Command, data any, text func(p *paper)) error {
	format, err := formatOf(c)
	if err != nil {
		return err
	}
	if format == "table" {
		p := newPaper(c.OutOrStdout())
		text(p)
		return p.flush()
	}
	raw, err := encode(format, data)
	if err != nil {
		return err
	}
	_, err = c.OutOrStdout().Write(raw)
	return err
}

func encode(format string, data any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	switch format {
	case "json":
		e.SetIndent("", "  ")
		err := e.Encode(present(data))
		return b.Bytes(), err
	case "jsonl":
		v := reflect.ValueOf(data)
		if _, whole := data.(json.Marshaler); whole || v.Kind() != reflect.Slice {
			err := e.Encode(data)
			return b.Bytes(), err
		}
		for i := range v.Len() {
			if err := e.Encode(v.Index(i).Interface()); err != nil {
				return nil, err
			}
		}
		return b.Bytes(), nil
	default:
		if err := e.Encode(present(data)); err != nil {
			return nil, err
		}
		return toYAML(b.Bytes())
	}
}

// present is an empty list instead of none: "null" would be a third thing to
// expect.
func present(data any) any {
	if v := reflect.ValueOf(data); v.Kind() == reflect.Slice && v.IsNil() {
		return reflect.MakeSlice(v.Type(), 0, 0).Interface()
	}
	return data
}

// toYAML is JSON as YAML: members in the same order, numbers digit for digit.
func toYAML(raw []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	node, err := yamlNode(d)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(node); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		if t == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for d.More() {
			// The names of members are tokens like any other text.
			kid, err := yamlNode(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, kid)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err := d.Token()
		return n, err
	case string:
		n := &yaml.Node{}
		n.SetString(t)
		return n, nil
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: t.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(t)}, nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
}

// paper is where text for people is written: as wide as the terminal and in
// colours where there is one, plain everywhere else.
type paper struct {
	out    io.Writer
	b      bytes.Buffer
	width  int // of the terminal in columns, 0 if there is none
	colour bool
}

func newPaper(out io.Writer) *paper {
	p := &paper{out: out}
	if p.width = terminalWidth(out); p.width > 0 {
		p.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return p
}

// terminalWidth is the number of columns of a terminal, 0 for anything else.
func terminalWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80
	}
	return int(size.Col)
}

func (p *paper) flush() error {
	_, err := p.out.Write(p.b.Bytes())
	p.b.Reset()
	return err
}

// line writes one line. What it shows may come from outside: see clean.
func (p *paper) line(format string, args ...any) {
	p.b.WriteString(clean(fmt.Sprintf(format, args...)))
	p.b.WriteByte('\n')
}

// text writes lines as they are.
func (p *paper) text(s string) {
	for line := range strings.Lines(s) {
		p.line("%s", strings.TrimSuffix(line, "\n"))
	}
}

// heading writes what the lines below it are about.
func (p *paper) heading(format string, args ...any) {
	if p.b.Len() > 0 {
		p.b.WriteByte('\n')
	}
	p.b.WriteString(p.paint(bold, clean(fmt.Sprintf(format, args...))))
	p.b.WriteByte('\n')
}

// note writes a line that is less than what is above it.
func (p *paper) note(format string, args ...any) {
	p.b.WriteString(p.paint(dim, clean(fmt.Sprintf(format, args...))))
	p.b.WriteByte('\n')
}

// warn writes a line that nobody should read past.
func (p *paper) warn(format string, args ...any) {
	p.b.WriteString(p.paint(yellow, "warning: "+clean(fmt.Sprintf(format, args...))))
	p.b.WriteByte('\n')
}

const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p *paper) paint(code, s string) string {
	if !p.colour || code == "" || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// tints are the words that a table shows in a colour, where one of them is all a
// cell says.
var tints = map[string]string{
	"ok": green, "allow": green, "success": green, "tightens": green, "yes": green, "same": dim, "off": dim, "closed": dim, "revoked": dim, "expired": dim,
	"warn": yellow, "refused": yellow, "deny": yellow, "loosens": yellow, "changed": yellow, "abandoned": yellow, "in flight": yellow,
	"fail": red, "error": red, "unknown": red, "halted": red, "removed": red, "failure": red,
	"added": green, "free": green, "-": dim,
}

// table is rows under a head. Rows may be shorter than the head.
type table struct {
	head  []string
	rows  [][]string
	right map[int]bool // columns of numbers
}

func columns(head ...string) *table {
	t := &table{right: map[int]bool{}}
	for i, h := range head {
		name, numbers := strings.CutSuffix(h, ">")
		t.head, t.right[i] = append(t.head, name), numbers
	}
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = clean(c)
	}
	t.rows = append(t.rows, cells)
}

const gap = 2

// table writes t in aligned columns. On a terminal columns that say nothing are
// left out, and the last one is cut where it would not fit, or written below its
// row where there is hardly any room for it.
func (p *paper) table(t *table) {
	if p.width > 0 {
		t = t.telling()
	}
	if len(t.head) == 0 {
		return
	}
	widths := make([]int, len(t.head))
	for i, h := range t.head {
		widths[i] = cells(h)
	}
	for _, r := range t.rows {
		for i, c := range r {
			widths[i] = max(widths[i], cells(c))
		}
	}
	p.rows(t, widths, true)
}

// telling is t without the columns that hold nothing in any row.
func (t *table) telling() *table {
	out := columns()
	out.rows = make([][]string, len(t.rows))
	for i, h := range t.head {
		if !slices.ContainsFunc(t.rows, func(r []string) bool { return i < len(r) && r[i] != "-" && r[i] != "" }) {
			continue
		}
		out.right[len(out.head)] = t.right[i]
		out.head = append(out.head, h)
		for n, r := range t.rows {
			if i < len(r) {
				out.rows[n] = append(out.rows[n], r[i])
			}
		}
	}
	return out
}

// roomToRead is how many columns a text of the last column should have.
const roomToRead = 24

func (p *paper) rows(t *table, widths []int, head bool) {
	taken := 0
	for _, w := range widths[:len(widths)-1] {
		taken += w + gap
	}
	last := len(t.head) - 1
	fold := p.width > 0 && taken+min(widths[last], roomToRead) > p.width && last > 0
	if head {
		names := t.head
		if fold {
			names = names[:last]
		}
		p.row(t, names, widths, func(string) string { return bold })
	}
	for _, r := range t.rows {
		below := ""
		if fold && len(r) > last {
			r, below = r[:last], r[last]
		}
		p.row(t, r, widths, func(cell string) string { return tints[cell] })
		if below != "" && below != "-" {
			p.b.WriteString("    " + p.paint(dim, cut(below, max(p.width-4, roomToRead))) + "\n")
		}
	}
}

func (p *paper) row(t *table, row []string, widths []int, tint func(string) string) {
	column := 0
	for i, c := range row {
		last := i == len(row)-1
		if room := p.width - column; last && p.width > 0 && room >= roomToRead {
			c = cut(c, room)
		}
		pad := strings.Repeat(" ", max(0, widths[i]-cells(c)))
		switch {
		case t.right[i]:
			p.b.WriteString(pad + p.paint(tint(c), c))
		case last:
			p.b.WriteString(p.paint(tint(c), c))
		default:
			p.b.WriteString(p.paint(tint(c), c) + pad)
		}
		if !last {
			p.b.WriteString(strings.Repeat(" ", gap))
		}
		column += widths[i] + gap
	}
	p.b.WriteByte('\n')
}

// fields writes names and values in two columns, leaving out what is empty.
func (p *paper) fields(pairs ...string) {
	widest := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			widest = max(widest, cells(pairs[i]))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if name, value := pairs[i], clean(pairs[i+1]); value != "" {
			p.b.WriteString(p.paint(dim, name) + strings.Repeat(" ", widest-cells(name)+gap) + p.paint(tints[value], value) + "\n")
		}
	}
}

// clean is text that may come from outside, as a terminal may be given it: one
// line, no control characters and nothing that changes the direction of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), r == '\u2028', r == '\u2029', r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069', r == unicode.ReplacementChar:
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// cleanLines is clean for text of several lines.
func cleanLines(s string) string {
	all := strings.Split(s, "\n")
	for i := range all {
		all[i] = clean(all[i])
	}
	return strings.Join(all, "\n")
}

// cells is how many columns of a terminal text takes.
func cells(s string) int {
	n := 0
	for _, r := range s {
		n += runeCells(r)
	}
	return n
}

func runeCells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cut is text of at most so many columns.
func cut(s string, most int) string {
	if cells(s) <= most {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeCells(r); n > most-1 {
			return strings.TrimRight(s[:i], " ") + "…"
		}
	}
	return s
}

// brief is text that a table shows in one cell of at most so many columns.
func brief(s string, most int) string {
	return cut(strings.Join(strings.Fields(s), " "), most)
}

// when is a moment as tables show it, in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// clock is a moment as lists show it, in UTC: the day only if it was another one.
func clock(t time.Time) string {
	if t = t.UTC(); t.IsZero() || t.Format(time.DateOnly) != time.Now().UTC().Format(time.DateOnly) {
		return when(t)
	}
	return t.Format("15:04:05Z")
}

// took is a time that something took, in microseconds.
func took(micros int64) string {
	switch d := time.Duration(micros) * time.Microsecond; {
	case micros == 0:
		return "-"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(micros)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// say tells people something on standard error.
func say(c *cobra.Command, format string, args ...any) {
	fmt.Fprintln(c.ErrOrStderr(), clean(fmt.Sprintf(format, args...)))
}
