// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

var cart = provision.Owner{Cluster: "east", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "6c9e1a52-8a5e-4c39-9e55-0c4ddc9b0d7e"}

// Objects at users' servers carry these marks, so the marks can never change.
func TestOwnerMarks(t *testing.T) {
	for got, want := range map[string]string{
		cart.ID():                       "6d4f2idcirdbwdz6",
		cart.Mark():                     "m2m-operator:6d4f2idcirdbwdz6/6c9e1a52-8a5e-4c39-9e55-0c4ddc9b0d7e",
		cart.DisplayName():              "shop/cart@east (m2m-operator:6d4f2idcirdbwdz6)",
		cart.CredentialPrefix():         "m2m-operator-6d4f2idcirdbwdz6-",
		cart.Annotate("Reads the cart"): "Reads the cart [m2m-operator:6d4f2idcirdbwdz6]",
		cart.Annotate(""):               "[m2m-operator:6d4f2idcirdbwdz6]",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestOwnerBounds(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for name, o := range map[string]provision.Owner{
		"the longest that Kubernetes allows": {Cluster: long(36), Kind: long(63), Namespace: long(63), Name: long(253), UID: long(36)},
		"a short cluster and a long name":    {Cluster: long(16), Kind: "APIResource", Namespace: long(63), Name: long(63), UID: long(36)},
		"nothing":                            {},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []string{o.DisplayName(), o.Mark(), o.CredentialPrefix() + "9223372036854775807"} {
				if len(s) > provision.MaxName {
					t.Errorf("%d bytes: %s", len(s), s)
				}
			}
			if !regexp.MustCompile(`^[a-z2-7]{16}$`).MatchString(o.ID()) {
				t.Errorf("ID %s", o.ID())
			}
			for _, s := range []string{o.DisplayName(), o.Mark(), o.Annotate("text")} {
				if !o.Owns(s) || provision.MarkIn(s) != o.ID() {
					t.Errorf("does not own %s", s)
				}
			}
		})
	}
}

// The identifier of a cluster is cut, and a name that somebody chose is not.
func TestOwnerNamesItsCluster(t *testing.T) {
	for cluster, want := range map[string]string{
		"production-eu-01":                     "production-eu-01",
		"production-eu-001":                    "producti",
		"12345678-1234-1234-1234-1234567890ab": "12345678",
	} {
		o := cart
		o.Cluster = cluster
		if got := o.DisplayName(); !strings.HasPrefix(got, "shop/cart@"+want+" (") {
			t.Errorf("%s is named %q, want %q", cluster, got, want)
		}
	}
}

// Every part of an owner's identity tells two owners apart, even if their joined names are equal. UIDs do not.
func TestOwnerIDUnique(t *testing.T) {
	long := strings.Repeat("a", 63)
	owners := []provision.Owner{
		{Cluster: "a", Kind: "b", Namespace: "c", Name: "d"},
		{Cluster: "ab", Kind: "", Namespace: "c", Name: "d"},
		{Cluster: "a", Kind: "bc", Namespace: "", Name: "d"},
		{Cluster: "a", Kind: "b", Namespace: "cd", Name: ""},
		{Cluster: "a", Kind: "b", Namespace: "d", Name: "c"},
		{Cluster: "a", Kind: "b", Namespace: long, Name: long + "b"},
		{Cluster: "a", Kind: "b", Namespace: long, Name: long + "c"},
		{Cluster: "12345678-1234-1234-1234-1234567890ab", Kind: "b", Namespace: "c", Name: "d"},
		{Cluster: "12345678-1234-1234-1234-1234567890ac", Kind: "b", Namespace: "c", Name: "d"},
	}
	ids, names, prefixes := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, o := range owners {
		ids[o.ID()], names[o.DisplayName()], prefixes[o.CredentialPrefix()] = true, true, true
		next := o
		next.UID = "another"
		if next.ID() != o.ID() || !next.Owns(o.Mark()) {
			t.Errorf("the next object named %s/%s is another owner", o.Namespace, o.Name)
		}
		if next.Mark() == o.Mark() {
			t.Errorf("the mark does not tell the objects named %s/%s apart", o.Namespace, o.Name)
		}
	}
	for what, got := range map[string]int{"IDs": len(ids), "display names": len(names), "credential prefixes": len(prefixes)} {
		if got != len(owners) {
			t.Errorf("%d different %s for %d owners", got, what, len(owners))
		}
	}
}

func TestMarkIn(t *testing.T) {
	other := cart
	other.Name = "other"
	for name, tc := range map[string]struct{ text, want string }{
		"no text":                         {"", ""},
		"no mark":                         {"Payments", ""},
		"only the word":                   {"m2m-operator", ""},
		"an ID that is too short":         {"m2m-operator:abc", ""},
		"an ID that is too long":          {"m2m-operator:" + cart.ID() + "a", ""},
		"an ID in capitals":               {"m2m-operator:" + strings.ToUpper(cart.ID()), ""},
		"a name":                          {cart.DisplayName(), cart.ID()},
		"amid a text":                     {"x " + cart.Mark() + " y", cart.ID()},
		"a text that somebody else wrote": {cart.Annotate("belongs to " + other.Mark()), cart.ID()},
		"the name of a credential":        {cart.CredentialPrefix() + "1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := provision.MarkIn(tc.text); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if got, want := cart.Owns(tc.text), tc.want == cart.ID(); got != want {
				t.Errorf("Owns %t", got)
			}
		})
	}
}

// No prefix of one owner begins the name of another owner's credential.
func TestCredentialPrefix(t *testing.T) {
	for i := range 100 {
		other := cart
		other.Name = fmt.Sprintf("cart-%d", i)
		if strings.HasPrefix(other.CredentialPrefix()+"1", cart.CredentialPrefix()) {
			t.Errorf("%s", other.CredentialPrefix())
		}
	}
}
