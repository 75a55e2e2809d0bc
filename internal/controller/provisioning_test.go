// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// tenant is what a test of provisioning plays in: a Logto, and the namespaces of
// an API and a client. Nothing exists at the server beforehand.
type tenant struct {
	t              *testing.T
	logto          *logtotest.Server
	shop, payments string
}

const operatorNamespace = "m2m-operator-system"

func newTenant(t *testing.T) *tenant {
	t.Helper()
	l, err := logtotest.Start(logtotest.WithHTTP(), logtotest.WithSecretPrefix(sentinel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	t.Cleanup(func() {
		if v := l.Violations(); len(v) > 0 {
			t.Errorf("Logto would not have understood:\n%s", strings.Join(v, "\n"))
		}
	})
	haveOperatorNamespace(t)
	w := &tenant{t: t, logto: l, shop: newNamespace(t, "shop", nil), payments: newNamespace(t, "payments", nil)}
	t.Cleanup(func() { letGo(t, w.shop, w.payments) })
	return w
}

func haveOperatorNamespace(t *testing.T) {
	t.Helper()
	system := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}}
	if err := kube.Create(t.Context(), system); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
}

// letGo takes the finalizers away that no operator is left to remove, and what it
// would keep of the credentials for a while.
func letGo(t *testing.T, namespaces ...string) {
	t.Helper()
	ctx := context.Background()
	var secrets corev1.SecretList
	if err := kube.List(ctx, &secrets, client.InNamespace(operatorNamespace)); err != nil {
		t.Error(err)
	}
	for i := range secrets.Items {
		of, _, _ := strings.Cut(secrets.Items[i].Annotations[v1alpha1.OwnerAnnotation], "/")
		if !slices.Contains(namespaces, of) {
			continue
		}
		if err := kube.Delete(ctx, &secrets.Items[i]); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	}
	for _, ns := range namespaces {
		for _, list := range []client.ObjectList{&v1alpha1.M2MClientList{}, &v1alpha1.APIResourceList{}, &v1alpha1.AuthorizationServerList{}} {
			if err := kube.List(ctx, list, client.InNamespace(ns)); err != nil {
				t.Error(err)
			}
			for _, o := range objectsOf(list) {
				before := o.DeepCopyObject().(client.Object)
				o.SetFinalizers(nil)
				if err := kube.Patch(ctx, o, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
					t.Error(err)
				}
			}
		}
	}
}

func objectsOf(list client.ObjectList) []client.Object {
	var all []client.Object
	switch l := list.(type) {
	case *v1alpha1.M2MClientList:
		for i := range l.Items {
			all = append(all, &l.Items[i])
		}
	case *v1alpha1.APIResourceList:
		for i := range l.Items {
			all = append(all, &l.Items[i])
		}
	case *v1alpha1.AuthorizationServerList:
		for i := range l.Items {
			all = append(all, &l.Items[i])
		}
	}
	return all
}

func (w *tenant) management() *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "logto-management", Namespace: w.payments},
		StringData: map[string]string{v1alpha1.ClientIDKey: w.logto.ManagementClientID(), v1alpha1.ClientSecretKey: w.logto.ManagementClientSecret()},
	}
}

func (w *tenant) server() *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "logto", Namespace: w.payments},
		Spec: v1alpha1.AuthorizationServerSpec{
			Issuer: w.logto.Issuer(),
			Provisioning: v1alpha1.Provisioning{
				ResyncInterval: "10s",
				Logto: v1alpha1.LogtoProvisioning{
					Endpoint: v1alpha1.EndpointURL(w.logto.Endpoint()), CredentialsSecretRef: v1alpha1.SecretReference{Name: "logto-management"},
				},
			},
		},
	}
}

func (w *tenant) api() *v1alpha1.APIResource {
	return &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: w.payments},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "logto"},
			Identifier:             v1alpha1.ResourceIdentifier("https://payment." + w.payments + ".example.com/api"),
			Scopes:                 []v1alpha1.Scope{{Name: "payments:read"}, {Name: "payments:write", Description: "Create and refund payments"}},
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.shop)}}},
				Scopes:  []v1alpha1.ScopeName{"payments:read", "payments:write"},
			}},
			DeletionPolicy: v1alpha1.DeletionDelete,
		},
	}
}

func (w *tenant) cart() *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.shop},
		Spec: v1alpha1.M2MClientSpec{Access: []v1alpha1.Access{{
			APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api", Namespace: v1alpha1.NamespaceName(w.payments)},
			Scopes:         []v1alpha1.ScopeName{"payments:write"},
		}}},
	}
}

// story creates the whole.
func (w *tenant) story() (*v1alpha1.AuthorizationServer, *v1alpha1.APIResource, *v1alpha1.M2MClient) {
	w.t.Helper()
	as, api, cart := w.server(), w.api(), w.cart()
	create(w.t, w.management(), as, api, cart)
	return as, api, cart
}

// scopesOfToken returns the scopes of the token in a client's Secret.
func (w *tenant) scopesOfToken() []string {
	token := tokenIn(w.t, w.shop, "cart-token", "payment-api")
	if token == "" {
		return nil
	}
	claims, err := jwks.Inspect(token)
	if err != nil {
		w.t.Fatal(err)
	}
	return claims.Scopes
}

// granted waits until Logto has exactly one application of the client's, with
// one role, with exactly these scopes.
func (w *tenant) granted(api *v1alpha1.APIResource, scopes ...string) (app logtotest.Application, role logtotest.Role) {
	w.t.Helper()
	eventually(w.t, func() error {
		s := w.logto.Snapshot()
		var apps []logtotest.Application
		for _, a := range s.Applications {
			if strings.Contains(a.Name, w.shop+"/cart") {
				apps = append(apps, a)
			}
		}
		if len(apps) != 1 || len(apps[0].Roles) != 1 {
			return fmt.Errorf("there are %d applications of cart's: %+v", len(apps), apps)
		}
		app = apps[0]
		i := slices.IndexFunc(s.Roles, func(r logtotest.Role) bool { return slices.Contains(r.Applications, app.ID) })
		if i < 0 {
			return fmt.Errorf("cart has no role")
		}
		role = s.Roles[i]
		want := map[string][]string{string(api.Spec.Identifier): scopes}
		if len(scopes) == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, role.Scopes); diff != "" {
			return fmt.Errorf("the role's scopes (-want +got):\n%s", diff)
		}
		return nil
	})
	return app, role
}

func provisionedIs(t *testing.T, obj client.Object, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	return hasCondition(t, obj, v1alpha1.ConditionProvisioned, status, reason)
}

// told waits until an event of an object has a reason and holds a text.
func told(t *testing.T, obj client.Object, reason, text string) {
	t.Helper()
	eventually(t, func() error {
		var events eventsv1.EventList
		if err := kube.List(t.Context(), &events, client.InNamespace(obj.GetNamespace())); err != nil {
			return err
		}
		var notes []string
		for _, e := range events.Items {
			if e.Regarding.UID == obj.GetUID() {
				notes = append(notes, e.Reason+": "+e.Note)
				if e.Reason == reason && strings.Contains(e.Note, text) {
					return nil
				}
			}
		}
		return fmt.Errorf("no event %s with %q among %q", reason, text, notes)
	})
}

// isGone waits until an object does not exist any more.
func isGone(t *testing.T, obj client.Object) {
	t.Helper()
	eventually(t, func() error {
		err := kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it still exists, with the finalizers %q: %w", obj.GetFinalizers(), err)
	})
}

func credentialSecretOf(c client.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: operatorNamespace, Name: record.CredentialSecretName(client.ObjectKeyFromObject(c))}
}

// TestProvisioningStory has an API and a client that nobody registered: a
// verified token with the granted scope is in the client's Secret, its client
// secret lies in the operator's namespace only, and what is deleted in
// Kubernetes leaves the server.
func TestProvisioningStory(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.story()
	isReady(t, cart)
	isReady(t, api)
	isReady(t, as)
	provisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	provisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	hasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionTrue, v1alpha1.ReasonProvisioningReady)
	hasCondition(t, cart, v1alpha1.ConditionVerified, metav1.ConditionTrue, v1alpha1.ReasonTokensVerified)
	if diff := cmp.Diff([]string{"payments:write"}, w.scopesOfToken()); diff != "" {
		t.Errorf("the token's scopes (-want +got):\n%s", diff)
	}
	app, _ := w.granted(api, "payments:write")
	if len(app.Secrets) != 1 || !strings.HasPrefix(app.Secrets[0], "m2m-operator-") {
		t.Errorf("the application has the secrets %q", app.Secrets)
	}
	if cart.Status.Provisioning.ClientID != v1alpha1.ClientID(app.ID) || cart.Status.ClientID != v1alpha1.ClientID(app.ID) {
		t.Errorf("the status names the client IDs %q and %q, not %q", cart.Status.Provisioning.ClientID, cart.Status.ClientID, app.ID)
	}
	secretValue := w.logto.SecretValue(app.ID, app.Secrets[0])
	var secrets corev1.SecretList
	if err := kube.List(t.Context(), &secrets); err != nil {
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
		t.Errorf("the client secret lies in %d Secrets", found)
	}

	for _, o := range []client.Object{cart, api, as} {
		remove(t, o)
	}
	for _, o := range []client.Object{cart, api, as} {
		isGone(t, o)
	}
	s := w.logto.Snapshot()
	for _, a := range s.Applications {
		if a.ID == app.ID {
			t.Error("the application is still there")
		}
	}
	for _, r := range s.Roles {
		if strings.Contains(r.Name, w.shop) {
			t.Error("the role is still there")
		}
	}
	for _, r := range s.Resources {
		if r.Indicator == string(api.Spec.Identifier) {
			t.Error("the API is still there")
		}
	}
	isGone(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: credentialSecretOf(cart).Name}})
}

// TestProvisioningInWatchedNamespaces works where the operator sees a few
// namespaces only, its own not being one of them.
func TestProvisioningInWatchedNamespaces(t *testing.T) {
	w := newTenant(t)
	startOperator(t, func(o *Options) { o.WatchNamespaces = []string{w.payments, w.shop} })
	_, api, cart := w.story()
	isReady(t, cart)
	app, _ := w.granted(api, "payments:write")

	// The Secret with its credentials is noticed there when it goes.
	lost := w.logto.SecretValue(app.ID, app.Secrets[0])
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: credentialSecretOf(cart).Name}})
	eventually(t, func() error {
		a, _ := w.granted(api, "payments:write")
		if len(a.Secrets) != 1 || w.logto.SecretValue(a.ID, a.Secrets[0]) == lost {
			return fmt.Errorf("the application still has the secret that was lost, of %q", a.Secrets)
		}
		var s corev1.Secret
		return kube.Get(t.Context(), credentialSecretOf(cart), &s)
	})
	provisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	isReady(t, cart)
	remove(t, cart)
	isGone(t, cart)
	if n := w.applicationsOf(w.shop); n != 0 {
		t.Errorf("%d applications were left behind", n)
	}
}

// TestProvisionedGrantIsWithdrawn takes a scope, and then everything, out of the
// API's grants: it leaves the server, the token, and then there is no token.
func TestProvisionedGrantIsWithdrawn(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	cart.Spec.Access[0].Scopes = []v1alpha1.ScopeName{"payments:read", "payments:write"}
	create(t, w.management(), as, api, cart)
	isReady(t, cart)
	w.granted(api, "payments:read", "payments:write")

	change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{"payments:read"} })
	c := hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonScopeNotGranted)
	if !strings.Contains(c.Message, "payments:write") {
		t.Errorf("the condition does not name the missing scope: %s", c.Message)
	}
	w.granted(api, "payments:read")
	eventually(t, func() error {
		if diff := cmp.Diff([]string{"payments:read"}, w.scopesOfToken()); diff != "" {
			return fmt.Errorf("the token's scopes (-want +got):\n%s", diff)
		}
		return nil
	})
	isReady(t, cart)

	change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
	w.granted(api)
	eventually(t, func() error {
		if tokenIn(t, w.shop, "cart-token", "payment-api") != "" {
			return fmt.Errorf("the token is still there")
		}
		return nil
	})
}

// TestProvisioningDrift changes things in the console: they are put back and
// told.
func TestProvisioningDrift(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	_, api, cart := w.story()
	isReady(t, cart)
	app, role := w.granted(api, "payments:write")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(w.logto.UnassignRole(role.ID, app.ID))
	do(w.logto.RenameApplication(app.ID, "something else"))
	do(w.logto.DeleteSecret(app.ID, app.Secrets[0]))
	do(w.logto.RemoveScope(string(api.Spec.Identifier), "payments:write"))
	told(t, api, v1alpha1.ReasonDriftCorrected, "payments:write")
	told(t, cart, v1alpha1.ReasonDriftCorrected, "renamed")
	again, _ := w.granted(api, "payments:write")
	if again.ID != app.ID {
		t.Error("there is another application now")
	}
	eventually(t, func() error {
		a, _ := w.granted(api, "payments:write")
		if len(a.Secrets) != 1 || a.Secrets[0] == app.Secrets[0] {
			return fmt.Errorf("the application has the secrets %q", a.Secrets)
		}
		return nil
	})
	isReady(t, cart)
	provisionedIs(t, cart, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
}

// TestProvisioningRotation asks for a new client secret by the annotation: it
// is tried and taken into use, and with no overlap the old one is gone at once.
func TestProvisioningRotation(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	cart.Spec.CredentialRotation.Overlap = "0s"
	create(t, w.management(), as, api, cart)
	isReady(t, cart)
	app, _ := w.granted(api, "payments:write")
	first := tokenIn(t, w.shop, "cart-token", "payment-api")

	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "2026-11-27"}
	})
	told(t, cart, v1alpha1.ReasonCredentialRotated, "new client secret")
	eventually(t, func() error {
		a, _ := w.granted(api, "payments:write")
		if len(a.Secrets) != 1 || a.Secrets[0] == app.Secrets[0] {
			return fmt.Errorf("the application has the secrets %q", a.Secrets)
		}
		if token := tokenIn(t, w.shop, "cart-token", "payment-api"); token == first || token == "" {
			return fmt.Errorf("the token was not asked for with the new secret")
		}
		return nil
	})
}

// TestProvisioningAdoption meets an API that exists: it is refused until the
// server's owner lists it, and then keeps what was not declared.
func TestProvisioningAdoption(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	if _, err := w.logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write", "payments:admin"); err != nil {
		t.Fatal(err)
	}
	create(t, w.management(), as, api, cart)
	c := provisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	if !strings.Contains(c.Message, "adoption") {
		t.Errorf("the condition does not say who can allow it: %s", c.Message)
	}
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	for _, r := range w.logto.Snapshot().Roles {
		if len(r.Scopes[string(api.Spec.Identifier)]) > 0 {
			t.Errorf("role %q has scopes of an API that is not the APIResource's", r.Name)
		}
	}

	change(t, as, func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.payments)}}
	})
	provisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	isReady(t, cart)
	remove(t, cart)
	isGone(t, cart)
	remove(t, api)
	isGone(t, api)
	for _, r := range w.logto.Snapshot().Resources {
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

// TestProvisioningObserve changes nothing, and says what differs.
func TestProvisioningObserve(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api := w.server(), w.api()
	api.Spec.ManagementPolicy, api.Spec.AccessTokenLifetime = v1alpha1.ManagementObserve, "20m"
	as.Spec.Provisioning.Adoption.APIResources = []v1alpha1.AdoptedAPIResource{{Identifier: api.Spec.Identifier, Namespace: v1alpha1.NamespaceName(w.payments)}}
	create(t, w.management(), as, api)
	provisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonAdoptedNotFound)
	if _, err := w.logto.CreateResource("Payments", string(api.Spec.Identifier), 900, "payments:write"); err != nil {
		t.Fatal(err)
	}
	before := w.logto.Snapshot()
	change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning.ResyncInterval = "11s" })
	c := provisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonDrifted)
	if !strings.Contains(c.Message, "payments:read") {
		t.Errorf("the condition does not say what differs: %s", c.Message)
	}
	isReady(t, api)
	if diff := cmp.Diff(before, w.logto.Snapshot()); diff != "" {
		t.Errorf("something was changed (-before +after):\n%s", diff)
	}
}

// TestProvisioningLetsGo deletes what cannot be removed: it waits for a bounded
// time, and then says what was left behind.
func TestProvisioningLetsGo(t *testing.T) {
	w := newTenant(t)
	startOperator(t, func(o *Options) { o.DeletionTimeout = 3 * time.Second })
	as, api, cart := w.story()
	isReady(t, cart)
	app, _ := w.granted(api, "payments:write")
	left, _ := metricOf(t, "m2m_provisioning_left_behind_total", nil)
	w.logto.SetDown(true)
	remove(t, cart)
	isGone(t, cart)
	told(t, cart, v1alpha1.ReasonLeftBehind, app.ID)
	if now, _ := metricOf(t, "m2m_provisioning_left_behind_total", nil); now != left+1 {
		t.Errorf("the metric counts %v more", now-left)
	}
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(as), as); err != nil {
			return err
		}
		if l := as.Status.LeftBehind; len(l) != 1 || l[0].Kind != "M2MClient" || l[0].Name != "cart" || !strings.Contains(l[0].What, app.ID) {
			return fmt.Errorf("the server lists as left behind %+v", l)
		}
		return nil
	})
	isGone(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: credentialSecretOf(cart).Name}})

	// A new client of the same name takes over what the old one left.
	w.logto.SetDown(false)
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-token"}}) // as garbage collection does
	again := w.cart()
	create(t, again)
	isReady(t, again)
	if a, _ := w.granted(api, "payments:write"); a.ID != app.ID {
		t.Error("there is another application now")
	}
}

// TestProvisioningSurvivesItsCredential deletes everything after the Secret with
// the server's credential: what is in memory suffices to clean up.
func TestProvisioningSurvivesItsCredential(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.story()
	isReady(t, cart)
	w.granted(api, "payments:write")
	remove(t, w.management())
	hasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	for _, o := range []client.Object{as, api, cart} { // the server first
		remove(t, o)
	}
	for _, o := range []client.Object{cart, api, as} {
		isGone(t, o)
	}
	s := w.logto.Snapshot()
	if n := len(slices.DeleteFunc(s.Applications, func(a logtotest.Application) bool { return !strings.Contains(a.Name, w.shop) })); n != 0 {
		t.Errorf("%d applications were left behind", n)
	}
}

// TestProvisioningWithoutAPlaceForSecrets has an operator whose namespace takes
// no Secret: the client's owner learns that it is not their fault.
func TestProvisioningWithoutAPlaceForSecrets(t *testing.T) {
	w := newTenant(t)
	startOperator(t, func(o *Options) { o.OperatorNamespace = "does-not-exist" })
	_, api, cart := w.story()
	c := provisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
	if !strings.Contains(c.Message, "could not store") || strings.Contains(c.Message, "does-not-exist") {
		t.Errorf("the condition says: %s", c.Message)
	}
	if app, _ := w.granted(api, "payments:write"); slices.ContainsFunc(app.Secrets, func(s string) bool { return strings.HasPrefix(s, "m2m-") }) {
		t.Errorf("a secret was made that could not be stored: %q", app.Secrets)
	}
}
