// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Users writes who uses an API.
func Users(w io.Writer, u decision.Users, s Style) error {
	b := &strings.Builder{}
	if len(u.Users) == 0 {
		fmt.Fprintf(b, "No client that you may see uses APIResource %s.\n", text.Line(u.API))
	} else {
		t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "CLIENT\tSCOPES\tVERDICT\tTOKEN")
		for i := range u.Users {
			row(t, u.Users[i].Client, scopesOf(u.Users[i].Access), string(u.Users[i].Verdict), tokenOf(&u.Users[i], s))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(u.UnusedGrants) > 0 {
		fmt.Fprintln(b, "\nGrants that no client uses:")
		for _, g := range u.UnusedGrants {
			fmt.Fprintf(b, "  %s\n", grant(g))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// tokenOf says in a few words what token a client has.
func tokenOf(u *decision.User, s Style) string {
	d := &drawer{style: s}
	switch {
	case u.ExpiresAt == nil && u.NotReady == "":
		return "none"
	case u.ExpiresAt == nil:
		return "none: " + u.NotReady
	case !u.ExpiresAt.After(s.Now):
		return "expired " + d.at(u.ExpiresAt)
	case u.NotReady != "":
		return "until " + d.at(u.ExpiresAt) + ", " + u.NotReady
	}
	return "until " + d.at(u.ExpiresAt)
}
