// SPDX-License-Identifier: Apache-2.0

// Command testreport reads `go test -json` on standard input and prints what a
// person wants to see of it: one line for each package as it ends, the output of
// what failed, and last the counts. It fails when a test or a package failed.
//
// With -o the counts are also written to a file, so that a script that runs several
// suites can add them up, and the beginning of what each failed test said to a file
// beside it, NAME.failed, so that it can be repeated where it is not overlooked.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package, for the output of a build
	Test       string
	Elapsed    float64
	Output     string
}

// counts are the tests and subtests of one or all packages. A package that failed
// although none of its tests did (it did not build, it panicked) counts as one failure.
type counts struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

func main() {
	out := flag.String("o", "", "also write the counts to this `file`, as JSON")
	flag.Parse()
	var failures strings.Builder
	total, err := report(os.Stdin, os.Stdout, &failures)
	if err == nil && *out != "" {
		err = save(*out, total, failures.String())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.Passed, total.Failed, total.Skipped)
	if total.Failed > 0 {
		os.Exit(1)
	}
}

// excerpt is how many lines of a failed test are repeated, and of which length.
const excerptLines, excerptWidth = 12, 500

// report follows the events to their end. What failed goes to failures again, in short.
func report(in io.Reader, w, failures io.Writer) (counts, error) {
	var total counts
	packages := map[string]*counts{}
	output := map[string][]string{} // by package and test, until it is known to have passed
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text()) // what is not JSON was said by the go command itself
			continue
		}
		key := e.Package + " " + e.Test
		pkg := packages[e.Package]
		if pkg == nil {
			pkg = &counts{}
			packages[e.Package] = pkg
		}
		switch e.Action {
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "output":
			output[key] = append(output[key], e.Output)
		case "pass", "fail", "skip":
			if e.Test == "" {
				finish(w, e, pkg, output[key])
				total = counts{total.Passed + pkg.Passed, total.Failed + pkg.Failed, total.Skipped + pkg.Skipped}
			} else {
				tally(pkg, e.Action)
				if e.Action == "fail" {
					fmt.Fprint(w, strings.Join(output[key], ""))
					repeat(failures, output[key])
				}
			}
			delete(output, key)
		}
	}
	// A suite that was killed leaves packages without an end: they are no success.
	left := make([]string, 0, len(output))
	for key := range output {
		left = append(left, key)
	}
	slices.Sort(left)
	for _, key := range left {
		total.Failed++
		fmt.Fprintf(w, "never ended: %s\n%s", key, strings.Join(output[key], ""))
	}
	return total, lines.Err()
}

// repeat prints the beginning of a failed test's output.
func repeat(w io.Writer, output []string) {
	for i, line := range output {
		if i == excerptLines {
			fmt.Fprintf(w, "    … %d more lines\n", len(output)-i)
			return
		}
		if line = strings.TrimSuffix(line, "\n"); len(line) > excerptWidth {
			line = strings.ToValidUTF8(line[:excerptWidth], "") + "…"
		}
		fmt.Fprintln(w, line)
	}
}

func tally(c *counts, action string) {
	switch action {
	case "pass":
		c.Passed++
	case "fail":
		c.Failed++
	case "skip":
		c.Skipped++
	}
}

// finish prints a package's line; packages without tests get none.
func finish(w io.Writer, e event, pkg *counts, output []string) {
	switch {
	case e.Action == "fail":
		if pkg.Failed == 0 {
			pkg.Failed = 1
		}
		fmt.Fprint(w, strings.Join(output, ""))
	case e.Action == "pass" && *pkg != counts{}:
		coverage := ""
		for _, line := range output {
			if rest, ok := strings.CutPrefix(line, "coverage: "); ok {
				coverage = ", coverage " + strings.TrimSpace(rest)
			}
		}
		fmt.Fprintf(w, "ok   %-62s %6.1f s  %4d tests%s\n", e.Package, e.Elapsed, pkg.Passed+pkg.Skipped, coverage)
	}
}

func save(path string, total counts, failures string) error {
	data, err := json.Marshal(total)
	if err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return err
	}
	failed := strings.TrimSuffix(path, filepath.Ext(path)) + ".failed"
	if failures == "" {
		err := os.Remove(failed)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	return os.WriteFile(failed, []byte(failures), 0o644)
}
