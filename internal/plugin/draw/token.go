// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"fmt"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/plugin/judge"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Token is what there is to know of a token. It never holds the token itself.
type Token struct {
	Key       string           `json:"key"`
	Client    string           `json:"client"`
	Secret    string           `json:"secret"`
	API       string           `json:"api,omitempty"`
	Missing   bool             `json:"missing,omitempty"` // there is no token
	Claims    *judge.Claims    `json:"claims,omitempty"`
	IssuedAt  *metav1.Time     `json:"issuedAt,omitempty"`
	ExpiresAt *metav1.Time     `json:"expiresAt,omitempty"`
	RefreshAt *metav1.Time     `json:"refreshAt,omitempty"`
	Judgement *judge.Judgement `json:"judgement,omitempty"` // nil if it was not judged
	NotJudged string           `json:"notJudged,omitempty"` // why not
	Advice    string           `json:"advice,omitempty"`    // what to do about a token that is missing
}

// Tokens writes what there is to know of tokens.
func Tokens(w io.Writer, all []Token, s Style) error {
	d := &drawer{style: s}
	for i, t := range all {
		if i > 0 {
			d.line("", "")
		}
		d.line("", fmt.Sprintf("Token %s of M2MClient %s, in Secret %s", t.Key, t.Client, t.Secret))
		coloured := func(name, value string) { d.coloured("  ", fmt.Sprintf("%-10s %s", name, value)) }
		row := func(name, value string) {
			if value != "" {
				coloured(name, text.Line(value))
			}
		}
		if c := t.Claims; c != nil {
			row("issuer", c.Issuer)
			row("subject", c.Subject)
			row("client", c.ClientID)
			row("audience", strings.Join(c.Audience, ", "))
			row("scopes", strings.Join(c.Scopes, " "))
			row("signed", fmt.Sprintf("%s, key %q", c.Algorithm, c.KeyID))
		}
		if !t.Missing {
			for _, m := range []struct {
				name string
				at   *metav1.Time
			}{{"issued", t.IssuedAt}, {"expires", t.ExpiresAt}, {"next", t.RefreshAt}} {
				if m.at != nil {
					row(m.name, d.at(m.at))
				}
			}
		}
		switch {
		case t.Missing:
			coloured("token", s.colour(colours[tree.Failing], "none")+": "+text.Line(t.NotJudged))
			row("", "→ "+t.Advice)
		case t.Judgement == nil:
			coloured("verified", s.colour(colours[tree.Waiting], "not checked")+": "+text.Line(t.NotJudged))
		case t.Judgement.Accepted:
			coloured("verified", s.colour(colours[tree.Ready], "yes")+", with the bundle of APIResource "+text.Line(t.API))
		default:
			coloured("verified", s.colour(colours[tree.Failing], "no")+": "+text.Line(t.Judgement.Reason+": "+failure(*t.Judgement)))
			row("", "→ "+tree.Advice(t.Judgement.Reason))
		}
	}
	_, err := io.WriteString(w, d.b.String())
	return err
}

// failure returns what the step that failed says.
func failure(j judge.Judgement) string {
	for _, step := range j.Steps {
		if step.Result == judge.Failed {
			return step.Detail
		}
	}
	return ""
}

// Judgement writes what an API would say to a token, step by step.
func Judgement(w io.Writer, j judge.Judgement, s Style) error {
	b := &strings.Builder{}
	marks := map[judge.Result]string{judge.OK: "ok", judge.Failed: "FAILED", judge.NotChecked: "-"}
	codes := map[judge.Result]string{judge.OK: "32", judge.Failed: "31", judge.NotChecked: "90"}
	for _, step := range j.Steps {
		detail := step.Detail
		if step.Result == judge.NotChecked {
			detail = ""
		}
		line := fmt.Sprintf("%-10s %s  %s", text.Line(step.Name), s.colour(codes[step.Result], fmt.Sprintf("%-6s", marks[step.Result])), text.Line(detail))
		fmt.Fprintln(b, strings.TrimRight(line, " "))
	}
	if j.Accepted {
		fmt.Fprintf(b, "%s: the API would accept the token\n", s.colour("32", "Accepted"))
	} else {
		fmt.Fprintf(b, "%s: %s: %s\n→ %s\n", s.colour("31", "Refused"), text.Line(j.Reason), text.Line(failure(j)), tree.Advice(j.Reason))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
