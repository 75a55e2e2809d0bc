// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestToken looks at a token, and verifies it as the API would.
func TestToken(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	ask := func(args ...string) answer { t.Helper(); return run(t, op.Clock.Now(), args...) }

	a := ask("token", s.Shop+"/cart")
	a.ends(t, 0)
	says(t, a.out, "not checked: namespace", "has no bundle of APIResource")

	s.Verifies()
	a = ask("token", s.Shop+"/cart", "payment-api")
	a.ends(t, 0)
	golden(t, "token.txt", normal(a.out, s.World))
	says(t, ask("token", s.Shop+"/cart", "-o", "json").out, `"accepted": true`)

	raw := runRaw(t.Context(), silent{t}, op.Clock.Now(), "", "token", s.Shop+"/cart", "--raw")
	raw.ends(t, 0)
	if raw.out != s.Token() {
		t.Error("--raw does not write the token and nothing else")
	}
	verify := func(token string, args ...string) answer {
		t.Helper()
		a := runRaw(t.Context(), t, op.Clock.Now(), token, append([]string{"verify", s.Payments + "/payment-api"}, args...)...)
		hidesSecrets(t, a)
		return a
	}
	a = verify("Bearer "+raw.out+"\n", "--scope", "payments:write")
	a.ends(t, 0)
	golden(t, "verify.txt", normal(a.out, s.World))
	a = verify(raw.out, "--scope", "payments:read")
	a.ends(t, 3)
	golden(t, "verify-refused.txt", normal(a.out, s.World))
	verify(raw.out[:len(raw.out)-8]+"AAAAAAAA", "-o", "json").ends(t, 3)
	a = verify(raw.out, "--in", s.Shop)
	a.ends(t, 4)
	says(t, a.err, "has no bundle")
	verify("").ends(t, 1)
	verify(strings.Repeat("x", 1<<17)).ends(t, 1)

	t.Run("no such client", func(t *testing.T) {
		a := ask("token", "-n", s.Shop, "card")
		a.ends(t, 1)
		says(t, a.message, `m2mclients.m2m-operator.io "card" does not exist in namespace`)
	})
	t.Run("no such access", func(t *testing.T) {
		a := ask("token", s.Shop+"/cart", "stock-api")
		a.ends(t, 1)
		says(t, a.message, "its keys are payment-api")
	})
	t.Run("a client that nothing is granted", func(t *testing.T) {
		s.Another("stock")
		operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"cart"} })
		s.Settle()
		a := ask("token", s.Shop+"/stock")
		a.ends(t, 3)
		says(t, a.out, "none: NotGranted: APIResource", "→ Ask the API's team for a grant")
		a = ask("token", s.Shop+"/stock", "--raw")
		a.ends(t, 3)
		says(t, a.err, `There is no token "payment-api": NotGranted: `, "→ Ask the API's team for a grant")
		if a.out != "" || a.message != "" {
			t.Errorf("with --raw, it writes %q and %q", a.out, a.message)
		}
	})
	t.Run("without rights", func(t *testing.T) {
		reader(t, "dora", s.Payments)
		a := ask("token", s.Shop+"/cart", "--as", "dora")
		a.ends(t, 1)
		says(t, a.message, "you may not get m2mclients.m2m-operator.io")
		reader(t, "dan", s.Shop)
		a = ask("token", s.Shop+"/cart", "--as", "dan")
		a.ends(t, 0)
		says(t, a.out, "not checked: you may not get configmaps")
	})
	t.Run("somebody else's Secret", func(t *testing.T) {
		secret := operator.TokensOf(t, s.Cart)
		operator.Change(t, secret, func(o *corev1.Secret) { delete(o.Labels, v1alpha1.ManagedByLabel) })
		a := ask("token", s.Shop+"/cart", "--raw")
		a.ends(t, 1)
		says(t, a.message, "is not the operator's")
	})
}
