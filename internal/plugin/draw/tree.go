// SPDX-License-Identifier: Apache-2.0

// Package draw writes what the plugin found for people: trees, tables and diagrams. It is
// pure: values go in, text comes out. What a tenant, a server or a token says stays on its line
// and colours nothing.
package draw

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Style says how text is written.
type Style struct {
	Colour bool // only for terminals
	Now    time.Time
}

// more is how many siblings of the same kind and state are drawn one by one.
const more = 5

// Tree writes a tree.
func Tree(w io.Writer, t tree.Tree, s Style) error {
	d := &drawer{style: s}
	for i, n := range t.Issuers {
		if i > 0 {
			d.line("", "")
		}
		d.node(n, "", "")
	}
	_, err := io.WriteString(w, d.b.String())
	return err
}

// Missing writes which rights are missing.
func Missing(w io.Writer, missing []inventory.Right) error {
	if len(missing) == 0 {
		return nil
	}
	b := &strings.Builder{}
	b.WriteString("Not shown, because you may not:\n")
	for _, r := range missing {
		fmt.Fprintf(b, "  %s\n", r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type drawer struct {
	style Style
	b     strings.Builder
}

// line writes a line, whatever its parts quote.
func (d *drawer) line(prefix, s string) { d.coloured(prefix, text.Line(s)) }

// coloured writes a line whose colours are the drawer's own. Its other parts went through text.Line.
func (d *drawer) coloured(prefix, s string) {
	d.b.WriteString(strings.TrimRight(prefix+s, " ") + "\n")
}

// node writes a node after a prefix for its first line, and another for all that follows.
func (d *drawer) node(n *tree.Node, first, rest string) {
	title := n.Kind + " "
	switch {
	case n.Namespace != "":
		title += n.Namespace + "/" + n.Name
	case n.Kind == tree.KindIssuer && n.Name == "":
		title += "not known"
	default:
		title += n.Name
	}
	title = text.Line(title)
	if n.Kind != tree.KindIssuer {
		title += "  " + d.state(n.State)
		if n.Summary != "" {
			title += "  " + text.Line(n.Summary)
		}
	}
	d.coloured(first, title)
	inside := rest
	if len(n.Children) > 0 {
		inside += "│  "
	} else {
		inside += "   "
	}
	d.details(n, inside)
	children := groups(n.Children)
	for i, c := range children {
		branch, below := "├─ ", "│  "
		if i == len(children)-1 {
			branch, below = "└─ ", "   "
		}
		if c.node == nil {
			d.line(rest+branch, c.text)
			continue
		}
		d.node(c.node, rest+branch, rest+below)
	}
}

func (d *drawer) details(n *tree.Node, prefix string) {
	for _, t := range n.Tokens {
		d.line(prefix, d.token(t))
		if t.WaitsForKey != "" {
			d.line(prefix, fmt.Sprintf("  a newer token waits until the API's pods have the key %q, at the latest until %s", t.WaitsForKey, d.at(t.WaitsUntil)))
		}
	}
	for _, m := range n.Mounts {
		line := fmt.Sprintf("%s at %s", m.From, m.Path)
		if len(m.Files) > 0 {
			line += ": " + strings.Join(m.Files, ", ")
		}
		if len(m.Containers) > 0 {
			line += " (in " + strings.Join(m.Containers, ", ") + ")"
		}
		d.line(prefix, line)
	}
	for _, k := range n.Keys {
		d.line(prefix, d.key(k))
	}
	for _, p := range n.Problems {
		line := p.Message
		if p.Reason != "" {
			line = p.Reason + ": " + line
		}
		if p.Condition != "" {
			line = p.Condition + ": " + line
		}
		d.line(prefix, "! "+line)
		if p.Advice != "" {
			d.line(prefix, "  → "+p.Advice)
		}
	}
}

func (d *drawer) token(t tree.Token) string {
	scopes := "no scopes"
	if len(t.Scopes) > 0 {
		scopes = strings.Join(t.Scopes, " ")
	}
	line := fmt.Sprintf("token %s (%s): ", t.Key, scopes)
	switch {
	case !t.ExpiresAt.After(d.style.Now):
		line += "expired " + d.at(t.ExpiresAt)
	case t.RefreshAt != nil && !t.RefreshAt.After(d.style.Now):
		line += "until " + d.at(t.ExpiresAt) + ", due since " + d.at(t.RefreshAt)
	case t.RefreshAt != nil:
		line += "until " + d.at(t.ExpiresAt) + ", next " + d.at(t.RefreshAt)
	default:
		line += "until " + d.at(t.ExpiresAt)
	}
	if t.KeyID != "" {
		line += fmt.Sprintf(", key %q", t.KeyID)
		switch {
		case t.Verifiers == nil:
		case *t.Verifiers == 0:
			line += ", no pod verifies it"
		default:
			line += fmt.Sprintf(", which %d of %d pods of the API have", *t.HaveKey, *t.Verifiers)
		}
	}
	return line
}

func (d *drawer) key(k tree.Key) string {
	of := fmt.Sprintf("key %q of %s", k.KeyID, text.List(k.Clients, ", ", more))
	switch k.Has {
	case tree.Yes:
		return "has the " + of
	case tree.No:
		return "lacks the " + of
	case tree.Soon:
		return "gets the " + of + " by " + d.at(k.At)
	}
	return "may have the " + of + ": you may not read the ConfigMap"
}

// at writes a moment with its distance from now.
func (d *drawer) at(t *metav1.Time) string {
	if t == nil {
		return "?"
	}
	layout := "15:04:05Z"
	if t.Sub(d.style.Now).Abs() > 12*time.Hour {
		layout = "2006-01-02 15:04Z"
	}
	line := t.UTC().Format(layout)
	left := t.Sub(d.style.Now)
	if left <= 0 {
		return line + " (" + duration.HumanDuration(-left) + " ago)"
	}
	return line + " (in " + duration.HumanDuration(left) + ")"
}

var colours = map[tree.State]string{tree.Ready: "32", tree.Waiting: "36", tree.Hidden: "90", tree.Warning: "33", tree.Failing: "31"}

func (d *drawer) state(s tree.State) string { return d.style.colour(colours[s], string(s)) }

func (s Style) colour(code, what string) string {
	if !s.Colour {
		return what
	}
	return "\x1b[" + code + "m" + what + "\x1b[0m"
}

// group is a node, or a line for several that look alike.
type group struct {
	node *tree.Node
	text string
}

// groups leaves out pods beyond the first few that look alike.
func groups(nodes []*tree.Node) []group {
	type look struct {
		kind, summary string
		state         tree.State
	}
	count := map[look]int{}
	lookOf := func(n *tree.Node) look { return look{n.Kind, n.Summary, n.State} }
	var all []group
	flush := func(l look) {
		if left := count[l] - more; left > 0 {
			all = append(all, group{text: fmt.Sprintf("%d more pods that are %s", left, l.state)})
		}
		delete(count, l)
	}
	var looks []look
	for i, n := range nodes {
		if n.Kind != tree.KindPod {
			all = append(all, group{node: n})
			continue
		}
		l := lookOf(n)
		if count[l]++; count[l] <= more {
			all = append(all, group{node: n})
		}
		if !slices.Contains(looks, l) {
			looks = append(looks, l)
		}
		if i == len(nodes)-1 || nodes[i+1].Kind != tree.KindPod {
			for _, l := range looks {
				flush(l)
			}
			looks = nil
		}
	}
	return all
}
