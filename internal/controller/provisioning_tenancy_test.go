// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

// clusterServer returns the tenant's server for the whole cluster. Its
// credential lies in the operator's namespace.
func (w *tenant) clusterServer(allowed ...string) (*v1alpha1.ClusterAuthorizationServer, *corev1.Secret) {
	w.t.Helper()
	secret := w.management()
	secret.Name, secret.Namespace = "management-"+w.payments, operatorNamespace
	cluster := &v1alpha1.ClusterAuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "logto-" + w.payments},
		Spec:       v1alpha1.ClusterAuthorizationServerSpec{AuthorizationServerSpec: w.server().Spec},
	}
	cluster.Spec.Provisioning.Logto.CredentialsSecretRef.Name = v1alpha1.ObjectName(secret.Name)
	for _, ns := range allowed {
		cluster.Spec.AllowedNamespaces.Names = append(cluster.Spec.AllowedNamespaces.Names, v1alpha1.NamespaceName(ns))
	}
	w.t.Cleanup(func() {
		ctx := context.Background()
		if kube.Get(ctx, client.ObjectKeyFromObject(cluster), cluster) == nil {
			before := cluster.DeepCopy()
			cluster.Finalizers = nil
			_ = kube.Patch(ctx, cluster, client.MergeFrom(before))
			_ = kube.Delete(ctx, cluster)
		}
		_ = kube.Delete(ctx, secret)
	})
	return cluster, secret
}

// applicationsOf counts the applications at the server that carry a name.
func (w *tenant) applicationsOf(name string) int {
	n := 0
	for _, a := range w.logto.Snapshot().Applications {
		if strings.Contains(a.Name, name) {
			n++
		}
	}
	return n
}

// TestProvisioningAtAClusterServer registers at a server of the whole cluster,
// and only clients of namespaces that it allows: the API's namespace being
// allowed does not let others in.
func TestProvisioningAtAClusterServer(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	cluster, secret := w.clusterServer(w.payments)
	ref := v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cluster.Name)}
	api, cart := w.api(), w.cart()
	api.Spec.AuthorizationServerRef = ref
	create(t, secret, cluster, api, cart)
	provisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	provisionedIs(t, cart, metav1.ConditionUnknown, v1alpha1.ReasonAuthorizationServerNotAllowed)
	if n := w.applicationsOf(w.shop); n != 0 {
		t.Errorf("%d applications were registered for a namespace that the server does not allow", n)
	}

	change(t, cluster, func(c *v1alpha1.ClusterAuthorizationServer) {
		c.Spec.AllowedNamespaces.Names = append(c.Spec.AllowedNamespaces.Names, v1alpha1.NamespaceName(w.shop))
	})
	isReady(t, cart)
	for _, o := range []client.Object{cluster, cart, api} {
		remove(t, o)
	}
	for _, o := range []client.Object{cart, api, cluster} {
		isGone(t, o)
	}
	if n := w.applicationsOf(w.shop); n != 0 {
		t.Errorf("%d applications were left behind", n)
	}
}

// TestProvisionedClientHasOneServer names APIs of two servers: what does not
// belong to the first one is refused.
func TestProvisionedClientHasOneServer(t *testing.T) {
	w, other := newTenant(t), newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	foreign := other.api()
	foreign.Name = "other-api"
	foreign.Spec.Grants[0].Clients.Namespaces.Names = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.shop)}
	cart.Spec.Access = append(cart.Spec.Access, v1alpha1.Access{
		APIResourceRef: v1alpha1.APIResourceReference{Name: "other-api", Namespace: v1alpha1.NamespaceName(other.payments)},
		Scopes:         []v1alpha1.ScopeName{"payments:read"},
	})
	create(t, w.management(), as, api, other.management(), other.server(), foreign, cart)
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonServerMismatch)
	eventually(t, func() error {
		if tokenIn(t, w.shop, "cart-token", "payment-api") == "" {
			return fmt.Errorf("the access to the first API has no token")
		}
		return nil
	})
	if n := other.applicationsOf(w.shop); n != 0 {
		t.Errorf("%d applications were registered at the other server", n)
	}
	if tokenIn(t, w.shop, "cart-token", "other-api") != "" {
		t.Error("there is a token of the other server")
	}
}

// TestProvisioningNeedsConfiguration has a client without credentials at a
// server that is not provisioned, and at one whose credential is missing.
func TestProvisioningNeedsConfiguration(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.server(), w.api(), w.cart()
	provisioning := as.Spec.Provisioning
	as.Spec.Provisioning = v1alpha1.Provisioning{}
	create(t, as, api, cart)
	c := provisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonProvisioningNotConfigured)
	if !strings.Contains(c.Message, "spec.credentials") {
		t.Errorf("the condition does not say what to change: %s", c.Message)
	}
	hasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonProvisioningNotConfigured)

	change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning = provisioning })
	hasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	provisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)
	provisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)

	create(t, w.management())
	isReady(t, cart)
	isReady(t, as)
}

// TestProvisionedClientTakesOwnCredentials gives a registered client credentials
// of its own: its registration ends.
func TestProvisionedClientTakesOwnCredentials(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	as, api, cart := w.story()
	isReady(t, cart)
	app, _ := w.granted(api, "payments:write")
	theirs := w.logto.CreateApplication("theirs", "")
	value, err := w.logto.AddSecret(theirs, "mine", as.CreationTimestamp.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	role, err := w.logto.CreateRole("theirs", "theirs")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{w.logto.GrantScope(role, string(api.Spec.Identifier), "payments:write"), w.logto.AssignRole(role, theirs)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	local := w.server()
	local.Namespace, local.Spec.Provisioning = w.shop, v1alpha1.Provisioning{}
	create(t, local, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: w.shop},
		StringData: map[string]string{v1alpha1.ClientIDKey: theirs, v1alpha1.ClientSecretKey: value},
	})
	change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.AuthorizationServerRef.Name = "logto"
		c.Spec.Credentials.ClientSecret.SecretRef.Name = "mine"
	})
	eventually(t, func() error {
		if w.applicationsOf(w.shop) != 0 {
			return fmt.Errorf("application %s is still there", app.ID)
		}
		return nil
	})
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		if len(cart.Finalizers) > 0 || cart.Status.Provisioning.Server.Name != "" || cart.Status.ClientID != v1alpha1.ClientID(theirs) {
			return fmt.Errorf("finalizers %q, client ID %q, provisioning %+v", cart.Finalizers, cart.Status.ClientID, cart.Status.Provisioning)
		}
		return nil
	})
	isReady(t, cart)
	for _, c := range cart.Status.Conditions {
		if c.Type == v1alpha1.ConditionProvisioned {
			t.Error("it still has the condition Provisioned")
		}
	}
}

// TestProvisioningSeesWhatTheServerDropped has a server that says that it
// granted a scope and did not: the token shows it.
func TestProvisioningSeesWhatTheServerDropped(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	w.logto.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/api/roles/") && strings.HasSuffix(r.URL.Path, "/scopes") {
			return logtotest.Fault{Status: http.StatusCreated}
		}
		return logtotest.Fault{}
	})
	_, _, cart := w.story()
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		for _, c := range cart.Status.Conditions {
			dropped := c.Type == v1alpha1.ConditionVerified && c.Reason == jwks.ReasonMissingScopes ||
				c.Type == v1alpha1.ConditionProvisioned && c.Reason == v1alpha1.ReasonScopeNotProvisioned
			if dropped && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "payments:write") {
				return nil
			}
		}
		return fmt.Errorf("no condition names the missing scope: %+v", cart.Status.Conditions)
	})
	if tokenIn(t, w.shop, "cart-token", "payment-api") != "" {
		t.Error("a token without the scope was published")
	}
	w.logto.SetFault(nil)
	// The first attempt after that may come before the scope was put back, and the
	// one after it comes 16 to 24 s later.
	kubetest.Within(t, 90*time.Second, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		if ready := meta.FindStatusCondition(cart.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Status != metav1.ConditionTrue {
			return fmt.Errorf("it is not ready: %+v", ready)
		}
		return nil
	})
}

// TestAForcedDeletionLeavesNoSecret takes the finalizer of a client away: at
// least its secret does not stay in the operator's namespace.
func TestAForcedDeletionLeavesNoSecret(t *testing.T) {
	w := newTenant(t)
	startOperator(t)
	_, _, cart := w.story()
	isReady(t, cart)
	w.logto.SetDown(true)
	remove(t, cart)
	change(t, cart, func(c *v1alpha1.M2MClient) { c.Finalizers = nil })
	isGone(t, cart)
	isGone(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: credentialSecretOf(cart).Name}})
}

// TestProvisioningOfWhatIsOutOfSight has an operator that no longer watches the
// API's namespace: nothing is taken away at the server for that.
func TestProvisioningOfWhatIsOutOfSight(t *testing.T) {
	w := newTenant(t)
	first := startOperator(t, watching(w.payments, w.shop))
	cluster, secret := w.clusterServer(w.payments, w.shop)
	far, near, cart := w.api(), w.api(), w.cart()
	near.Name, near.Namespace, near.Spec.Identifier = "near-api", w.shop, near.Spec.Identifier+"/near"
	for _, api := range []*v1alpha1.APIResource{far, near} {
		api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
			Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cluster.Name),
		}
	}
	cart.Spec.Access = append(cart.Spec.Access, v1alpha1.Access{
		APIResourceRef: v1alpha1.APIResourceReference{Name: "near-api"}, Scopes: []v1alpha1.ScopeName{"payments:write"},
	})
	create(t, secret, cluster, far, near, cart)
	isReady(t, cart)
	first.stop()

	startOperator(t, watching(w.shop))
	hasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotWatched)
	change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[1].Scopes = []v1alpha1.ScopeName{"payments:read"} })
	eventually(t, func() error {
		for _, r := range w.logto.Snapshot().Roles {
			want := map[string][]string{string(far.Spec.Identifier): {"payments:write"}, string(near.Spec.Identifier): {"payments:read"}}
			if diff := cmp.Diff(want, r.Scopes); diff != "" {
				return fmt.Errorf("the role's scopes (-want +got):\n%s", diff)
			}
		}
		return nil
	})
}

// TestProvisioningByAnotherDriver changes how a server is provisioned: what the
// former driver made is listed as left behind, and not taken for the new one's.
func TestProvisioningByAnotherDriver(t *testing.T) {
	w := newTenant(t)
	op := startOperator(t, func(o *Options) { o.DeletionTimeout = 2 * time.Second })
	as, api, cart := w.story()
	isReady(t, cart)
	app, _ := w.granted(api, "payments:write")
	w.logto.SetDown(true)
	change(t, as, func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Provisioning = v1alpha1.Provisioning{DynamicRegistration: v1alpha1.DynamicRegistrationProvisioning{
			Endpoint: v1alpha1.EndpointURL(w.logto.Endpoint() + "/register"),
		}}
	})
	told(t, cart, v1alpha1.ReasonLeftBehind, app.ID)
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		if st := cart.Status.Provisioning; st.ClientID == v1alpha1.ClientID(app.ID) || st.Server.Driver == v1alpha1.DriverLogto {
			return fmt.Errorf("the status still says %+v", st)
		}
		return nil
	})
	op.stop()                  // it tries on
	w.logto.ForgetViolations() // Logto has no dynamic registration
}
