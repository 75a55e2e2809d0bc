// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// scopesOfToken returns the scopes of the token in a client's Secret.
func scopesOfToken(w *operator.Tenant) []string {
	token := operator.TokenIn(w.T, w.Shop, "cart-token", "payment-api")
	if token == "" {
		return nil
	}
	claims, err := jwks.Inspect(token)
	if err != nil {
		w.T.Fatal(err)
	}
	return claims.Scopes
}

func credentialSecretOf(c client.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: operator.Namespace, Name: record.CredentialSecretName(client.ObjectKeyFromObject(c))}
}

// TestProvisioningStory has an API and a client that are not registered. The client's
// Secret gets a verified token with the granted scope, its client secret is only in
// the operator's namespace, and objects that are deleted in Kubernetes are removed
// from the server.
func TestProvisioningStory(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Story()
	operator.IsReady(t, cart)
	operator.IsReady(t, api)
	operator.IsReady(t, as)
	operator.ProvisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	operator.ProvisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	operator.HasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionTrue, v1alpha1.ReasonProvisioningReady)
	operator.HasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	if diff := cmp.Diff([]string{"payments:write"}, scopesOfToken(w)); diff != "" {
		t.Errorf("the token's scopes (-want +got):\n%s", diff)
	}
	app, _ := w.Granted(api, "payments:write")
	if len(app.Secrets) != 1 || !strings.HasPrefix(app.Secrets[0], "m2m-operator-") {
		t.Errorf("the application has the secrets %q", app.Secrets)
	}
	if cart.Status.Provisioning.ClientID != v1alpha1.ClientID(app.ID) || cart.Status.ClientID != v1alpha1.ClientID(app.ID) {
		t.Errorf("the status names the client IDs %q and %q, not %q", cart.Status.Provisioning.ClientID, cart.Status.ClientID, app.ID)
	}
	secretValue := w.Logto.SecretValue(app.ID, app.Secrets[0])
	var secrets corev1.SecretList
	if err := operator.Kube.List(t.Context(), &secrets); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, s := range secrets.Items {
		for k, v := range s.Data {
			if strings.Contains(string(v), secretValue) {
				found++
				if client.ObjectKeyFromObject(&s) != credentialSecretOf(cart) {
					t.Errorf("key %q of Secret %s/%s holds the client secret", k, s.Namespace, s.Name)
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("the client secret is in %d Secrets", found)
	}

	for _, o := range []client.Object{cart, api, as} {
		operator.Remove(t, o)
	}
	for _, o := range []client.Object{cart, api, as} {
		operator.IsGone(t, o)
	}
	s := w.Logto.Snapshot()
	for _, a := range s.Applications {
		if a.ID == app.ID {
			t.Error("the application is still there")
		}
	}
	for _, r := range s.Roles {
		if strings.Contains(r.Name, w.Shop) {
			t.Error("the role is still there")
		}
	}
	for _, r := range s.Resources {
		if r.Indicator == string(api.Spec.Identifier) {
			t.Error("the API is still there")
		}
	}
	operator.IsGone(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: credentialSecretOf(cart).Name}})
}

// TestProvisioningInWatchedNamespaces works if the operator watches only a few
// namespaces, and its own is not one of them.
func TestProvisioningInWatchedNamespaces(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t, func(o *controller.Options) { o.WatchNamespaces = []string{w.Payments, w.Shop} })
	_, api, cart := w.Story()
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")

	// The operator notices there that the Secret with its credentials is gone.
	lost := w.Logto.SecretValue(app.ID, app.Secrets[0])
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: credentialSecretOf(cart).Name}})
	operator.Eventually(t, func() error {
		a, _ := w.Granted(api, "payments:write")
		if len(a.Secrets) != 1 || w.Logto.SecretValue(a.ID, a.Secrets[0]) == lost {
			return fmt.Errorf("the application still has the secret that was lost, of %q", a.Secrets)
		}
		var s corev1.Secret
		return operator.Kube.Get(t.Context(), credentialSecretOf(cart), &s)
	})
	operator.ProvisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	operator.IsReady(t, cart)
	operator.Remove(t, cart)
	operator.IsGone(t, cart)
	if n := w.ApplicationsOf(w.Shop); n != 0 {
		t.Errorf("%d applications were left behind", n)
	}
}

// TestProvisionedGrantIsWithdrawn removes a scope from the API's grants, and then
// everything. The server and the token lose the scope, and then there is no token.
func TestProvisionedGrantIsWithdrawn(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	cart.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
	operator.Create(t, w.Management(), as, api, cart)
	operator.IsReady(t, cart)
	w.Granted(api, "payments:read", "payments:write")

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
	c := operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonScopeNotGranted)
	if !strings.Contains(c.Message, "payments:write") {
		t.Errorf("the condition does not name the missing scope: %s", c.Message)
	}
	w.Granted(api, "payments:read")
	operator.Eventually(t, func() error {
		if diff := cmp.Diff([]string{"payments:read"}, scopesOfToken(w)); diff != "" {
			return fmt.Errorf("the token's scopes (-want +got):\n%s", diff)
		}
		return nil
	})
	operator.IsReady(t, cart)

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
	w.Granted(api)
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != "" {
			return fmt.Errorf("the token is still there")
		}
		return nil
	})
}

// TestProvisioningDrift changes objects in the console. The operator puts them back
// and reports it.
func TestProvisioningDrift(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	_, api, cart := w.Story()
	operator.IsReady(t, cart)
	app, role := w.Granted(api, "payments:write")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(w.Logto.UnassignRole(role.ID, app.ID))
	do(w.Logto.RenameApplication(app.ID, "something else"))
	do(w.Logto.DeleteSecret(app.ID, app.Secrets[0]))
	do(w.Logto.RemoveScope(string(api.Spec.Identifier), "payments:write"))
	operator.Told(t, api, v1alpha1.ReasonDriftCorrected, "payments:write")
	operator.Told(t, cart, v1alpha1.ReasonDriftCorrected, "renamed")
	again, _ := w.Granted(api, "payments:write")
	if again.ID != app.ID {
		t.Error("there is another application now")
	}
	operator.Eventually(t, func() error {
		a, _ := w.Granted(api, "payments:write")
		if len(a.Secrets) != 1 || a.Secrets[0] == app.Secrets[0] {
			return fmt.Errorf("the application has the secrets %q", a.Secrets)
		}
		return nil
	})
	operator.IsReady(t, cart)
	operator.ProvisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
}

// TestProvisioningRotation requests a new client secret by the annotation. The
// operator tries it and takes it into use; without an overlap, the old one is removed
// at once.
func TestProvisioningRotation(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	cart.Spec.CredentialRotation.Overlap = "0s"
	operator.Create(t, w.Management(), as, api, cart)
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	first := operator.TokenIn(t, w.Shop, "cart-token", "payment-api")

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "2026-11-27"}
	})
	operator.Told(t, cart, v1alpha1.ReasonCredentialRotated, "new client secret")
	operator.Eventually(t, func() error {
		a, _ := w.Granted(api, "payments:write")
		if len(a.Secrets) != 1 || a.Secrets[0] == app.Secrets[0] {
			return fmt.Errorf("the application has the secrets %q", a.Secrets)
		}
		if token := operator.TokenIn(t, w.Shop, "cart-token", "payment-api"); token == first || token == "" {
			return fmt.Errorf("the token was not requested with the new secret")
		}
		return nil
	})
}

// TestProvisioningAdoption meets an API that exists already. It is refused until the
// server's owner lists it, and keeps what the APIResource does not declare.
func TestProvisioningAdoption(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	if _, err := w.Logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write", "payments:admin"); err != nil {
		t.Fatal(err)
	}
	operator.Create(t, w.Management(), as, api, cart)
	c := operator.ProvisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	if !strings.Contains(c.Message, "adoption") {
		t.Errorf("the condition does not say who can allow it: %s", c.Message)
	}
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	for _, r := range w.Logto.Snapshot().Roles {
		if len(r.Scopes[string(api.Spec.Identifier)]) > 0 {
			t.Errorf("role %q has scopes of an API that is not the APIResource's", r.Name)
		}
	}

	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.Payments)}}
	})
	operator.ProvisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	operator.IsReady(t, cart)
	operator.Remove(t, cart)
	operator.IsGone(t, cart)
	operator.Remove(t, api)
	operator.IsGone(t, api)
	for _, r := range w.Logto.Snapshot().Resources {
		if r.Indicator == string(api.Spec.Identifier) {
			var names []string
			for _, s := range r.Scopes {
				names = append(names, s.Name)
			}
			if diff := cmp.Diff([]string{"payments:admin", "payments:write"}, names); diff != "" || r.Name != "Payments" {
				t.Errorf("the adopted API %q was changed (-want +got):\n%s", r.Name, diff)
			}
			return
		}
	}
	t.Error("the adopted API was deleted")
}

// TestProvisioningObserve changes nothing, and reports differences.
func TestProvisioningObserve(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api := w.Server(), w.API()
	api.Spec.ManagementPolicy, api.Spec.AccessTokenLifetime = v1alpha1.ManagementObserve, "20m"
	as.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.Payments)}}
	operator.Create(t, w.Management(), as, api)
	operator.ProvisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonAdoptedNotFound)
	if _, err := w.Logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write"); err != nil {
		t.Fatal(err)
	}
	before := w.Logto.Snapshot()
	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning.ResyncInterval = "11s" })
	c := operator.ProvisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonDrifted)
	if !strings.Contains(c.Message, "payments:read") {
		t.Errorf("the condition does not say what differs: %s", c.Message)
	}
	operator.IsReady(t, api)
	if diff := cmp.Diff(before, w.Logto.Snapshot()); diff != "" {
		t.Errorf("something was changed (-before +after):\n%s", diff)
	}
}

// TestProvisioningLetsGo deletes an object that cannot be removed from the server. The
// operator waits for a bounded time, and then reports what it left behind.
func TestProvisioningLetsGo(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t, func(o *controller.Options) { o.DeletionTimeout = 3 * time.Second })
	as, api, cart := w.Story()
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	left, _ := operator.MetricOf(t, "m2m_provisioning_left_behind_total", nil)
	w.Logto.SetDown(true)
	operator.Remove(t, cart)
	operator.IsGone(t, cart)
	operator.Told(t, cart, v1alpha1.ReasonLeftBehind, app.ID)
	if now, _ := operator.MetricOf(t, "m2m_provisioning_left_behind_total", nil); now != left+1 {
		t.Errorf("the metric counts %v more", now-left)
	}
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(as), as); err != nil {
			return err
		}
		if l := as.Status.LeftBehind; len(l) != 1 || l[0].Kind != "M2MClient" || l[0].Name != "cart" || !strings.Contains(l[0].What, app.ID) {
			return fmt.Errorf("the server lists as left behind %+v", l)
		}
		return nil
	})
	operator.IsGone(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: credentialSecretOf(cart).Name}})

	// A new client of the same name takes over the application that the old one left
	// behind.
	w.Logto.SetDown(false)
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}}) // as garbage collection does
	again := w.Cart()
	operator.Create(t, again)
	operator.IsReady(t, again)
	if a, _ := w.Granted(api, "payments:write"); a.ID != app.ID {
		t.Error("there is another application now")
	}
}

// TestProvisioningSurvivesItsCredential deletes everything after the Secret with the
// server's credential. The credential in memory is sufficient to clean up.
func TestProvisioningSurvivesItsCredential(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Story()
	operator.IsReady(t, cart)
	w.Granted(api, "payments:write")
	operator.Remove(t, w.Management())
	operator.HasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	for _, o := range []client.Object{as, api, cart} { // the server first
		operator.Remove(t, o)
	}
	for _, o := range []client.Object{cart, api, as} {
		operator.IsGone(t, o)
	}
	s := w.Logto.Snapshot()
	if n := len(slices.DeleteFunc(s.Applications, func(a logtotest.Application) bool { return !strings.Contains(a.Name, w.Shop) })); n != 0 {
		t.Errorf("%d applications were left behind", n)
	}
}

// TestProvisioningWithoutAPlaceForSecrets: the operator's namespace accepts no Secret.
// The condition tells the client's owner that the operator is at fault.
func TestProvisioningWithoutAPlaceForSecrets(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t, func(o *controller.Options) { o.OperatorNamespace = "does-not-exist" })
	_, api, cart := w.Story()
	c := operator.ProvisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
	if !strings.Contains(c.Message, "could not store") || strings.Contains(c.Message, "does-not-exist") {
		t.Errorf("the condition says: %s", c.Message)
	}
	if app, _ := w.Granted(api, "payments:write"); slices.ContainsFunc(app.Secrets, func(s string) bool { return strings.HasPrefix(s, "m2m-") }) {
		t.Errorf("a secret was created that could not be stored: %q", app.Secrets)
	}
}
