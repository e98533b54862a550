// Summary reads what go test -json writes and prints what a person wants to read
// of it: a line for each package as it ends, everything that a failed test said,
// every skipped test with its reason, and last the numbers.
//
// It exits with 1 if anything failed, and, where CI=true, if anything was skipped:
// what was not tested must not look as if it had been.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// event is one line of go test -json (go doc test2json) or go build -json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of what did not build
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

type test struct{ pkg, name string }

func main() {
	began := time.Now()
	s := summary{said: map[test]*strings.Builder{}}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "reading what go test wrote:", err)
		os.Exit(1)
	}
	strict := os.Getenv("CI") == "true"
	s.close(time.Since(began), strict)
	if s.bad > 0 || s.ok == 0 || strict && len(s.skipped) > 0 {
		os.Exit(1)
	}
}

type summary struct {
	said                    map[test]*strings.Builder
	skipped                 []string
	passed, failed, ok, bad int // tests, and packages
}

func (s *summary) read(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				os.Stdout.Write(line) // not an event: a word of the go command itself
			} else {
				s.take(&e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) take(e *event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "build-fail":
		fmt.Printf("FAIL     %s does not build\n", e.ImportPath)
	case "output":
		if s.said[t] == nil {
			s.said[t] = &strings.Builder{}
		}
		s.said[t].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e, t)
		}
		delete(s.said, t)
	}
}

func (s *summary) endTest(e *event, t test) {
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		fmt.Printf("--- FAIL %s %s\n%s", t.pkg, t.name, s.said[t])
	case "skip":
		why := ""
		for line := range strings.Lines(s.said[t].String()) {
			if l := strings.TrimSpace(line); !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") {
				why += " " + l
			}
		}
		s.skipped = append(s.skipped, fmt.Sprintf("%s %s:%s", t.pkg, t.name, why))
	}
}

func (s *summary) endPackage(e *event) {
	switch e.Action {
	case "skip":
		return // it has no tests
	case "pass":
		s.ok++
		fmt.Printf("ok       %-40s %7.2fs\n", e.Package, e.Elapsed)
		return
	}
	s.bad++
	fmt.Printf("FAIL     %-40s %7.2fs\n", e.Package, e.Elapsed)
	// What the package said itself, and the tests it did not get to the end of:
	// a panic or a deadline stands there.
	for _, t := range s.left(e.Package) {
		fmt.Print(s.said[t])
		delete(s.said, t)
	}
}

// left are the tests of a package that have not ended, the package itself first.
func (s *summary) left(pkg string) []test {
	var all []test
	for t := range s.said {
		if t.pkg == pkg {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b test) int { return strings.Compare(a.name, b.name) })
	return all
}

func (s *summary) close(took time.Duration, strict bool) {
	for _, one := range s.skipped {
		fmt.Println("SKIPPED ", one)
	}
	fmt.Printf("\n%d tests passed, %d failed, %d skipped; %d packages ok, %d failed; %s\n",
		s.passed, s.failed, len(s.skipped), s.ok, s.bad, took.Round(time.Second))
	switch {
	case s.bad > 0:
		fmt.Println("FAIL")
	case s.ok == 0:
		fmt.Println("FAIL: nothing was tested")
	case strict && len(s.skipped) > 0:
		fmt.Println("FAIL: with CI=true nothing may be skipped")
	default:
		fmt.Println("PASS")
	}
}
