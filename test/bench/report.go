// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
)

// figure is one line of the report.
type figure struct {
	Scenario string   `json:"scenario"`
	Figure   string   `json:"figure"`
	Unit     string   `json:"unit"`
	Value    float64  `json:"value"`
	Floor    *float64 `json:"floor"` // the floor of the same run, null if there is none
	Ratio    *float64 `json:"ratio"` // value ÷ floor
	Aim      string   `json:"aim"`   // "" for a figure that only explains others
	Met      *bool    `json:"met"`   // null without an aim

	exact bool // the same in every run, on every machine
}

// report collects the figures and shows those of each scenario when it is done.
type report struct {
	out     io.Writer
	figures []figure
}

// aim judges a figure: its value, or its ratio if it has a floor.
type aim struct {
	text  string
	holds func(float64) bool
	exact bool
}

func atMost(limit float64) aim {
	return aim{text: "≤ " + number(limit), holds: func(v float64) bool { return v <= limit }}
}

func below(limit float64) aim {
	return aim{text: "< " + number(limit), holds: func(v float64) bool { return v < limit }}
}

// exactly is for counts that do not depend on the machine.
func exactly(want float64) aim {
	return aim{text: number(want), holds: func(v float64) bool { return v == want }, exact: true}
}

// none is for a figure that explains others.
var none = aim{}

// value adds a figure that is judged by its value.
func (r *report) value(scenario, name, unit string, v float64, a aim) {
	r.add(figure{Scenario: scenario, Figure: name, Unit: unit, Value: v}, v, a)
}

// ratio adds a figure that is judged by its ratio to a floor.
func (r *report) ratio(scenario, name, unit string, v, floor float64, a aim) {
	q := math.Inf(1)
	if floor > 0 {
		q = v / floor
	}
	if math.IsInf(q, 0) {
		q = math.MaxFloat64 // JSON has no infinity
	}
	r.add(figure{Scenario: scenario, Figure: name, Unit: unit, Value: v, Floor: &floor, Ratio: &q}, q, a)
}

func (r *report) add(f figure, judged float64, a aim) {
	if a.holds != nil {
		met := a.holds(judged)
		f.Aim, f.Met, f.exact = a.text, &met, a.exact
	}
	r.figures = append(r.figures, f)
}

// show prints the figures of a scenario as a table.
func (r *report) show(scenario string) {
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "  figure\tvalue\t\tfloor\tratio\taim\t\n")
	for _, f := range r.figures {
		if f.Scenario == scenario {
			_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Figure, number(f.Value), f.Unit, optional(f.Floor), optional(f.Ratio), f.Aim, f.verdict())
		}
	}
	_ = w.Flush()
}

// table writes all figures as a page of Markdown.
func (r *report) table(path, title string) error {
	var page strings.Builder
	_, _ = fmt.Fprintf(&page, "%s\n", title)
	for i, f := range r.figures {
		if i == 0 || r.figures[i-1].Scenario != f.Scenario {
			_, _ = fmt.Fprintf(&page, "\n**%s**\n\n| figure | value | floor | ratio | aim | |\n|---|---|---|---|---|---|\n", f.Scenario)
		}
		value := strings.TrimSpace(number(f.Value) + " " + f.Unit)
		_, _ = fmt.Fprintf(&page, "| %s | %s | %s | %s | %s | %s |\n", f.Figure, value, optional(f.Floor), optional(f.Ratio), f.Aim, f.verdict())
	}
	return os.WriteFile(path, []byte(page.String()), 0o644)
}

func (f *figure) verdict() string {
	switch {
	case f.Met == nil:
		return ""
	case *f.Met:
		return "met"
	}
	return "MISSED"
}

// save writes the figures as JSON.
func (r *report) save(path string) error {
	b, err := json.MarshalIndent(r.figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// wrong lists the exact figures that differ from what they must be.
func (r *report) wrong() (wrong []string) {
	for _, f := range r.figures {
		if f.exact && !*f.Met {
			wrong = append(wrong, fmt.Sprintf("%s: %s is %s %s, not %s", f.Scenario, f.Figure, number(f.Value), f.Unit, f.Aim))
		}
	}
	return wrong
}

func optional(v *float64) string {
	if v == nil {
		return ""
	}
	return number(*v)
}

// number shows three significant digits, and all digits before the point of large numbers.
func number(v float64) string {
	switch {
	case v == math.Trunc(v) && math.Abs(v) < 1e15:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
