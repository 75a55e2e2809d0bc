// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestRefreshCommand has tokens replaced by an operator that runs by itself.
func TestRefreshCommand(t *testing.T) {
	w := operator.NewWorld(t)
	api, cart := w.Story()
	stock := w.Another("stock")
	op := operator.Start(t)
	operator.IsReady(t, cart)
	operator.IsReady(t, stock)
	old := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")

	a := run(t, time.Now(), "refresh", "-n", w.Shop, "cart")
	a.ends(t, 0)
	says(t, a.out, "M2MClient "+w.Shop+"/cart: requested\n", "a new token is in Secret cart-token until ", "no injected pod mounts it")
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == old {
		t.Error("the token is the old one")
	}
	a = run(t, time.Now(), "refresh", "-n", w.Shop, "server/auth", "--wait=false")
	a.ends(t, 0)
	a = run(t, time.Now(), "refresh", "-n", w.Payments, "as/auth")
	a.ends(t, 0)
	says(t, a.out, "AuthorizationServer "+w.Payments+"/auth: the server was asked")

	w.AS.SetFault(oidc.Token, operator.Answer(400, `{"error":"invalid_scope"}`))
	a = run(t, time.Now(), "refresh", w.Shop+"/stock")
	a.ends(t, 3)
	says(t, a.out, "TokenRequestRefused: ", "invalid_scope", "  → ")

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Clients.Names = []v1alpha1.ObjectName{"cart"} })
	operator.Says(t, stock, v1alpha1.ConditionGranted, v1alpha1.ReasonNotGranted)
	a = run(t, time.Now(), "refresh", w.Shop+"/stock")
	a.ends(t, 3)
	says(t, a.out, "  → Ask the API's team for a grant")
	if n := strings.Count(a.out, "NotGranted: "); n != 1 {
		t.Errorf("it says why %d times", n)
	}

	reader(t, "dora", w.Shop)
	a = run(t, time.Now(), "refresh", "-n", w.Shop, "cart", "--as", "dora")
	a.ends(t, 4)
	says(t, a.err, `You may not patch m2mclients.m2m-operator.io "cart" in namespace "`+w.Shop+`"`)

	op.Stop()
	a = run(t, time.Now(), "refresh", "-n", w.Shop, "--all", "--timeout", "1500ms")
	a.ends(t, 3)
	says(t, a.out, "/cart: gave up after 1.5s: ", "/stock: gave up after 1.5s: ", "the operator has not acted on it yet", "kubectl m2m check")
}

// TestRefreshManyClients: clients of a namespace are read together, one that is deleted does not end the wait for the
// others, and who gives up before the first look is told what that means. No operator runs.
func TestRefreshManyClients(t *testing.T) {
	w := operator.NewWorld(t)
	w.Story()
	stock := w.Another("stock")
	var lists, gets, patches atomic.Int32
	front := inFront(t, func(_ http.ResponseWriter, r *http.Request) bool {
		_, name, ok := strings.Cut(r.URL.Path, "/namespaces/"+w.Shop+"/m2mclients")
		switch {
		case !ok:
		case r.Method == http.MethodPatch:
			patches.Add(1)
		case name != "":
			gets.Add(1)
		case patches.Load() == 2:
			if lists.Add(1) == 1 {
				if err := operator.Kube.Delete(r.Context(), stock); err != nil {
					t.Error(err)
				}
			}
		}
		return false
	})
	a := run(t, time.Now(), "refresh", "-n", w.Shop, "--all", "--timeout", "5s", "--kubeconfig", front)
	a.ends(t, 3)
	says(t, a.out, "/stock: it was deleted", "/cart: gave up after 5s: the operator has not acted on it yet")
	if lists.Load() == 0 || gets.Load() != 0 {
		t.Errorf("the clients were listed %d times, and read one by one %d times", lists.Load(), gets.Load())
	}
	a = run(t, time.Now(), "refresh", "-n", w.Shop, "cart", "--timeout", "1ns")
	a.ends(t, 3)
	says(t, a.out, "/cart: gave up after 1ns: the operator has not acted on it yet", "kubectl m2m check")
}

// TestRefreshRefuses what makes no sense.
func TestRefreshRefuses(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	for _, tc := range []struct {
		code int
		want string
		args []string
	}{
		{2, "name what to refresh", []string{"refresh"}},
		{2, "not both", []string{"refresh", "cart", "--all"}},
		{2, "is not provisioned", []string{"refresh", "-n", s.Payments, "api/payment-api"}},
		{2, "has nothing to refresh", []string{"refresh", "pod/x"}},
		{1, `m2mclients.m2m-operator.io "nobody" does not exist in namespace "` + s.Shop, []string{"refresh", "-n", s.Shop, "nobody"}},
		{1, `does not exist in namespace "` + s.Shop, []string{"refresh", s.Shop + "/nobody"}},
		{1, "but there is APIResource " + s.Payments + "/payment-api: write api/payment-api, with -n " + s.Payments, []string{"refresh", "-n", s.Payments, "payment-api"}},
		{1, "write server/auth, with -n " + s.Shop, []string{"refresh", s.Shop + "/auth"}},
		{1, `apiresources.m2m-operator.io "auth" does not exist`, []string{"refresh", "-n", s.Shop, "api/auth"}},
		{1, "there is no M2MClient", []string{"refresh", "-n", s.Payments, "--all"}},
		{2, "credentials of its own", []string{"rotate", "-n", s.Shop, "cart"}},
		{2, "only M2MClients", []string{"rotate", "-n", s.Shop, "server/auth"}},
		{2, "name the M2MClient", []string{"rotate"}},
	} {
		a := run(t, op.Clock.Now(), tc.args...)
		a.ends(t, tc.code)
		says(t, a.message, tc.want)
	}
}

// TestRotateCommand replaces a registered client's secret.
func TestRotateCommand(t *testing.T) {
	w := operator.NewTenant(t)
	_, api, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	a := run(t, time.Now(), "rotate", "-n", w.Shop, "cart")
	a.ends(t, 0)
	says(t, a.out, "/cart: requested\n", "is in use; a new token is in Secret cart-token until ")
	if now, _ := w.Granted(api, "payments:write"); len(now.Secrets) != len(app.Secrets)+1 {
		t.Errorf("the application has %d secrets, and had %d", len(now.Secrets), len(app.Secrets))
	}
	a = run(t, time.Now(), "refresh", "-n", w.Payments, "api/payment-api")
	a.ends(t, 0)
	says(t, a.out, "it was compared with its server")
	a = run(t, time.Now(), "refresh", "-n", w.Shop, "m2mclient/cart")
	a.ends(t, 0)
}
