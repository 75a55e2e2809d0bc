// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// notSet stands for the value of a field that is not set.
const notSet = "(not set)"

var verdictColours = map[decision.Verdict]string{
	decision.Allowed: "32", decision.Partly: "33", decision.Denied: "31", decision.Unknown: "36",
}

// AccessTable writes who may call what, with which scopes, and by which lines.
func AccessTable(w io.Writer, all []decision.Access, unused []decision.Grant) error {
	b := &strings.Builder{}
	if len(all) > 0 {
		t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "CLIENT\tAPI\tSCOPES\tVERDICT\tBY")
		for _, a := range all {
			row(t, a.Client, apiOf(a), scopesOf(a), string(a.Verdict), a.By())
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(unused) > 0 {
		if len(all) > 0 {
			fmt.Fprintln(b)
		}
		fmt.Fprintln(b, "Grants that no client uses:")
		for _, g := range unused {
			fmt.Fprintf(b, "  %s\n", grant(g))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// row writes a row of a table.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = text.Line(c)
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

func grant(g decision.Grant) string {
	return text.Line(fmt.Sprintf("APIResource %s %s: %s may request %s", g.API, g.Lines[0].Path, g.Who, scopes(g.Scopes)))
}

func apiOf(a decision.Access) string { return cmp.Or(a.API, a.Resource) }

func scopesOf(a decision.Access) string {
	list := a.Scopes
	if a.Verdict == decision.Denied || a.Verdict == decision.Unknown {
		list = a.Requested
	}
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, " ") // a scope may have a comma, and no space
}

func scopes(list []string) string {
	if len(list) == 0 {
		return "a token without scopes"
	}
	return strings.Join(list, ", ")
}

// Why writes an answer with the lines that decide.
func Why(w io.Writer, a decision.Answer, s Style) error {
	b := &strings.Builder{}
	colour := verdictColours[a.Verdict]
	what := text.Line(fmt.Sprintf("M2MClient %s may call APIResource %s with %s", a.Client, a.API, scopes(a.Scopes)))
	because := text.Line(a.Reason + ": " + a.Message)
	switch {
	case a.Verdict == decision.Allowed && !a.Asked:
		fmt.Fprintf(b, "%s: but if it did, %s\n", s.colour("33", "Not requested"), what)
	case a.Verdict == decision.Allowed:
		fmt.Fprintf(b, "%s: %s\n", s.colour(colour, "Allowed"), what)
	case a.Verdict == decision.Partly:
		fmt.Fprintf(b, "%s: %s only\n%s\n", s.colour(colour, "Partly allowed"), what, because)
	case a.Verdict == decision.Denied:
		fmt.Fprintf(b, "%s: %s\n", s.colour(colour, "Not allowed"), because)
	case a.Reason != "":
		fmt.Fprintf(b, "%s: %s\n", s.colour(colour, "Not known"), because)
	default:
		fmt.Fprintf(b, "%s: %s\n", s.colour(colour, "Not known"), text.Line(a.Message))
	}
	for _, n := range a.Notes {
		fmt.Fprintln(b, text.Line(n))
	}
	writeLines(b, a.Lines, "")
	if advice := tree.Advice(a.Reason); advice != "" {
		fmt.Fprintf(b, "\n→ %s\n", strings.TrimSuffix(advice, "; kubectl m2m why shows the line that decides"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeLines writes lines of YAML, each object's together.
func writeLines(b *strings.Builder, lines []decision.Line, indent string) {
	object := ""
	for _, l := range lines {
		if o := l.Object(); o != object {
			object = o
			fmt.Fprintf(b, "\n%s%s\n", indent, text.Line(o))
		}
		fmt.Fprintf(b, "%s  %s\n", indent, text.Line(l.Path+": "+cmp.Or(l.Value, notSet)))
	}
}

// Uncertain writes the rights without which answers may be others.
func Uncertain(w io.Writer, missing []inventory.Right) error {
	if len(missing) == 0 {
		return nil
	}
	b := &strings.Builder{}
	b.WriteString("The answer may be another, because you may not:\n")
	for _, r := range missing {
		fmt.Fprintf(b, "  %s\n", r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Diff writes what files would change: what clients gain after +, what they lose after -.
func Diff(w io.Writer, d decision.Diff, s Style) error {
	b := &strings.Builder{}
	if d.Empty() {
		b.WriteString("No access would change.\n")
	}
	for _, c := range d.Changes {
		mark, colour := "~", "33"
		switch {
		case works(c.After) && !works(c.Before):
			mark, colour = "+", "32"
		case works(c.Before) && !works(c.After):
			mark, colour = "-", "31"
		}
		a := c.After
		if a == nil {
			a = c.Before
		}
		fmt.Fprintf(b, "%s %s → %s: %s\n", s.colour(colour, mark), text.Line(c.Client), text.Line(apiOf(*a)), text.Line(changed(c)))
		if c.After != nil {
			for _, l := range c.After.Lines {
				fmt.Fprintf(b, "    %s\n", text.Line(fmt.Sprintf("%s %s: %s", l.Object(), l.Path, cmp.Or(l.Value, notSet))))
			}
		}
	}
	for _, g := range d.NewGrants {
		fmt.Fprintf(b, "%s %s; no client uses it yet\n", s.colour("32", "+"), grant(g))
	}
	for _, g := range d.FormerGrants {
		fmt.Fprintf(b, "%s %s; no client uses it\n", s.colour("31", "-"), grant(g))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func works(a *decision.Access) bool {
	return a != nil && (a.Verdict == decision.Allowed || a.Verdict == decision.Partly)
}

// changed says what changes about an access, in words.
func changed(c decision.Change) string {
	say := func(a *decision.Access) string {
		switch {
		case a == nil:
			return "no access"
		case works(a):
			return strings.ToLower(string(a.Verdict)) + " " + scopes(a.Scopes)
		case a.Reason == "":
			return "not known"
		}
		return strings.ToLower(string(a.Verdict)) + " (" + a.Reason + ")"
	}
	change := say(c.Before) + " → " + say(c.After)
	if works(c.Before) && works(c.After) {
		for _, g := range c.Gained {
			change += ", +" + g
		}
		for _, l := range c.Lost {
			change += ", -" + l
		}
	}
	return change
}

// Mermaid writes who may call what as a flowchart.
func Mermaid(w io.Writer, all []decision.Access) error {
	b := &strings.Builder{}
	b.WriteString("flowchart LR\n")
	d := newDiagram(all)
	for _, ns := range d.namespaces {
		fmt.Fprintf(b, "  subgraph %s[\"%s\"]\n", d.id("namespace", ns), mermaidText(cmp.Or(ns, "elsewhere")))
		for _, n := range d.nodes {
			if n.namespace == ns {
				open, closing := "[", "]"
				if n.kind == "client" {
					open, closing = "([", "])"
				}
				fmt.Fprintf(b, "    %s%s\"%s\"%s\n", n.id, open, mermaidText(n.name), closing)
			}
		}
		b.WriteString("  end\n")
	}
	for _, a := range all {
		arrow := "-->"
		if !works(&a) {
			arrow = "-.->"
		}
		fmt.Fprintf(b, "  %s %s|\"%s\"| %s\n", d.id("client", a.Client), arrow, mermaidText(label(a)), d.id("api", apiOf(a)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Dot writes who may call what for Graphviz.
func Dot(w io.Writer, all []decision.Access) error {
	b := &strings.Builder{}
	b.WriteString("digraph access {\n  rankdir=LR;\n  node [shape=box];\n")
	d := newDiagram(all)
	for _, ns := range d.namespaces {
		fmt.Fprintf(b, "  subgraph %q {\n    label=%q;\n", "cluster_"+d.id("namespace", ns), cmp.Or(ns, "elsewhere"))
		for _, n := range d.nodes {
			if n.namespace == ns {
				shape := ""
				if n.kind == "client" {
					shape = ", shape=ellipse"
				}
				fmt.Fprintf(b, "    %s [label=%q%s];\n", n.id, n.name, shape)
			}
		}
		b.WriteString("  }\n")
	}
	for _, a := range all {
		style := ""
		if !works(&a) {
			style = ", style=dashed, color=red"
		}
		fmt.Fprintf(b, "  %s -> %s [label=%q%s];\n", d.id("client", a.Client), d.id("api", apiOf(a)), label(a), style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func label(a decision.Access) string {
	if works(&a) {
		return scopesOf(a)
	}
	return scopesOf(a) + ": " + cmp.Or(a.Reason, string(a.Verdict))
}

// mermaidText escapes what ends a text of Mermaid, and what begins a character or Markdown in it.
func mermaidText(s string) string {
	return strings.NewReplacer(`"`, "#quot;", "<", "#lt;", ">", "#gt;", "#", "#35;", "`", "#96;").Replace(text.Line(s))
}

// diagram gives the nodes of a diagram short names, which no name of an object can break.
type diagram struct {
	namespaces []string
	nodes      []diagramNode
	ids        map[string]string
}

type diagramNode struct{ kind, namespace, name, id string }

func newDiagram(all []decision.Access) *diagram {
	d := &diagram{ids: map[string]string{}}
	for _, a := range all {
		d.add("client", a.Client, false)
		d.add("api", apiOf(a), a.API == "")
	}
	slices.Sort(d.namespaces)
	return d
}

func (d *diagram) add(kind, name string, plain bool) {
	if _, ok := d.ids[kind+" "+name]; ok {
		return
	}
	namespace, short, _ := strings.Cut(name, "/")
	if plain {
		namespace, short = "", name
	}
	if !slices.Contains(d.namespaces, namespace) {
		d.namespaces = append(d.namespaces, namespace)
		d.ids["namespace "+namespace] = fmt.Sprintf("n%d", len(d.namespaces))
	}
	id := fmt.Sprintf("%s%d", kind, len(d.nodes)+1)
	d.ids[kind+" "+name] = id
	d.nodes = append(d.nodes, diagramNode{kind, namespace, short, id})
}

func (d *diagram) id(kind, name string) string { return d.ids[kind+" "+name] }
