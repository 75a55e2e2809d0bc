// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
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
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestProvisioningAtAClusterServer registers clients at a ClusterAuthorizationServer
// only if it allows their own namespaces. It is not sufficient that it allows the
// API's namespace.
func TestProvisioningAtAClusterServer(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	cluster, secret := w.ClusterServer(w.Payments)
	ref := v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cluster.Name)}
	api, cart := w.API(), w.Cart()
	api.Spec.AuthorizationServerRef = ref
	operator.Create(t, secret, cluster, api, cart)
	operator.ProvisionedIs(t, api, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	operator.ProvisionedIs(t, cart, metav1.ConditionUnknown, v1alpha1.ReasonAuthorizationServerNotAllowed)
	if n := w.ApplicationsOf(w.Shop); n != 0 {
		t.Errorf("%d applications were registered for a namespace that the server does not allow", n)
	}

	operator.Change(t, cluster, func(c *v1alpha1.ClusterAuthorizationServer) {
		c.Spec.AllowedNamespaces.Names = append(c.Spec.AllowedNamespaces.Names, v1alpha1.NamespaceName(w.Shop))
	})
	operator.IsReady(t, cart)
	for _, o := range []client.Object{cluster, cart, api} {
		operator.Remove(t, o)
	}
	for _, o := range []client.Object{cart, api, cluster} {
		operator.IsGone(t, o)
	}
	if n := w.ApplicationsOf(w.Shop); n != 0 {
		t.Errorf("%d applications were left behind", n)
	}
}

// TestProvisionedClientHasOneServer names APIs of two servers. Accesses to APIs of the
// second one are refused.
func TestProvisionedClientHasOneServer(t *testing.T) {
	w, other := operator.NewTenant(t), operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	foreign := other.API()
	foreign.Name = "other-api"
	foreign.Spec.Grants[0].Clients.Namespaces.Names = []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.Shop)}
	cart.Spec.Access = append(cart.Spec.Access, v1alpha1.Access{
		APIResourceRef: v1alpha1.APIResourceReference{Name: "other-api", Namespace: v1alpha1.NamespaceName(other.Payments)},
		Scopes:         []v1alpha1.ScopeName{"payments:read"},
	})
	operator.Create(t, w.Management(), as, api, other.Management(), other.Server(), foreign, cart)
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonServerMismatch)
	operator.Eventually(t, func() error {
		if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") == "" {
			return fmt.Errorf("the access to the first API has no token")
		}
		return nil
	})
	if n := other.ApplicationsOf(w.Shop); n != 0 {
		t.Errorf("%d applications were registered at the other server", n)
	}
	if operator.TokenIn(t, w.Shop, "cart-token", "other-api") != "" {
		t.Error("there is a token of the other server")
	}
}

// TestProvisioningNeedsConfiguration has a client without credentials at a server that
// is not provisioned, and at one whose credential is missing.
func TestProvisioningNeedsConfiguration(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Server(), w.API(), w.Cart()
	provisioning := as.Spec.Provisioning
	as.Spec.Provisioning = v1alpha1.Provisioning{}
	operator.Create(t, as, api, cart)
	c := operator.ProvisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonProvisioningNotConfigured)
	if !strings.Contains(c.Message, "spec.credentials") {
		t.Errorf("the condition does not say what to change: %s", c.Message)
	}
	operator.HasCondition(t, cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonProvisioningNotConfigured)

	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) { a.Spec.Provisioning = provisioning })
	operator.HasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotFound)
	operator.ProvisionedIs(t, cart, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)
	operator.ProvisionedIs(t, api, metav1.ConditionFalse, v1alpha1.ReasonAuthorizationServerNotReady)

	operator.Create(t, w.Management())
	operator.IsReady(t, cart)
	operator.IsReady(t, as)
}

// TestProvisionedClientTakesOwnCredentials gives a registered client its own
// credentials. Its registration ends.
func TestProvisionedClientTakesOwnCredentials(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	as, api, cart := w.Story()
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	theirs := w.Logto.CreateApplication("theirs", "")
	value, err := w.Logto.AddSecret(theirs, "mine", as.CreationTimestamp.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	role, err := w.Logto.CreateRole("theirs", "theirs")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{w.Logto.GrantScope(role, string(api.Spec.Identifier), "payments:write"), w.Logto.AssignRole(role, theirs)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	local := w.Server()
	local.Namespace, local.Spec.Provisioning = w.Shop, v1alpha1.Provisioning{}
	operator.Create(t, local, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: w.Shop},
		StringData: map[string]string{v1alpha1.ClientIDKey: theirs, v1alpha1.ClientSecretKey: value},
	})
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) {
		c.Spec.AuthorizationServerRef.Name = "logto"
		c.Spec.Credentials.ClientSecret.SecretRef.Name = "mine"
	})
	operator.Eventually(t, func() error {
		if w.ApplicationsOf(w.Shop) != 0 {
			return fmt.Errorf("application %s is still there", app.ID)
		}
		return nil
	})
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		if len(cart.Finalizers) > 0 || cart.Status.Provisioning.Server.Name != "" || cart.Status.ClientID != v1alpha1.ClientID(theirs) {
			return fmt.Errorf("finalizers %q, client ID %q, provisioning %+v", cart.Finalizers, cart.Status.ClientID, cart.Status.Provisioning)
		}
		return nil
	})
	operator.IsReady(t, cart)
	for _, c := range cart.Status.Conditions {
		if c.Type == v1alpha1.ConditionProvisioned {
			t.Error("it still has the condition Provisioned")
		}
	}
}

// TestProvisioningSeesWhatTheServerDropped: the server claims that it granted a scope,
// but the token shows that it did not.
func TestProvisioningSeesWhatTheServerDropped(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	w.Logto.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/api/roles/") && strings.HasSuffix(r.URL.Path, "/scopes") {
			return logtotest.Fault{Status: http.StatusCreated}
		}
		return logtotest.Fault{}
	})
	_, _, cart := w.Story()
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
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
	if operator.TokenIn(t, w.Shop, "cart-token", "payment-api") != "" {
		t.Error("a token without the scope was published")
	}
	w.Logto.SetFault(nil)
	// The next attempt may come before the scope was put back, and the one after it
	// comes 16 to 24 s later.
	kubetest.Within(t, 90*time.Second, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		if ready := meta.FindStatusCondition(cart.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Status != metav1.ConditionTrue {
			return fmt.Errorf("it is not ready: %+v", ready)
		}
		return nil
	})
}

// TestAForcedDeletionLeavesNoSecret removes the finalizer of a client. At least its
// secret does not stay in the operator's namespace.
func TestAForcedDeletionLeavesNoSecret(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t)
	_, _, cart := w.Story()
	operator.IsReady(t, cart)
	w.Logto.SetDown(true)
	operator.Remove(t, cart)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Finalizers = nil })
	operator.IsGone(t, cart)
	operator.IsGone(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: credentialSecretOf(cart).Name}})
}

// TestProvisioningOfWhatIsOutOfSight has an operator that no longer watches the API's
// namespace. Nothing is withdrawn at the server because of that.
func TestProvisioningOfWhatIsOutOfSight(t *testing.T) {
	w := operator.NewTenant(t)
	first := operator.Start(t, operator.Watching(w.Payments, w.Shop))
	cluster, secret := w.ClusterServer(w.Payments, w.Shop)
	far, near, cart := w.API(), w.API(), w.Cart()
	near.Name, near.Namespace, near.Spec.Identifier = "near-api", w.Shop, near.Spec.Identifier+"/near"
	for _, api := range []*v1alpha1.APIResource{far, near} {
		api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{
			Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(cluster.Name),
		}
	}
	cart.Spec.Access = append(cart.Spec.Access, v1alpha1.Access{
		APIResourceRef: v1alpha1.APIResourceReference{Name: "near-api"}, Scopes: []v1alpha1.ScopeName{"payments:write"},
	})
	operator.Create(t, secret, cluster, far, near, cart)
	operator.IsReady(t, cart)
	first.Stop()

	operator.Start(t, operator.Watching(w.Shop))
	operator.HasCondition(t, cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonAPIResourceNotWatched)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[1].Scopes = []v1alpha1.ScopeName{"payments:read"} })
	operator.Eventually(t, func() error {
		for _, r := range w.Logto.Snapshot().Roles {
			want := map[string][]string{string(far.Spec.Identifier): {"payments:write"}, string(near.Spec.Identifier): {"payments:read"}}
			if diff := cmp.Diff(want, r.Scopes); diff != "" {
				return fmt.Errorf("the role's scopes (-want +got):\n%s", diff)
			}
		}
		return nil
	})
}

// TestProvisioningByAnotherDriver changes how a server is provisioned. The status
// lists what the former driver made as left behind, and the new driver does not take
// it for its own.
func TestProvisioningByAnotherDriver(t *testing.T) {
	w := operator.NewTenant(t)
	op := operator.Start(t, func(o *controller.Options) { o.DeletionTimeout = 2 * time.Second })
	as, api, cart := w.Story()
	operator.IsReady(t, cart)
	app, _ := w.Granted(api, "payments:write")
	w.Logto.SetDown(true)
	operator.Change(t, as, func(a *v1alpha1.AuthorizationServer) {
		a.Spec.Provisioning = v1alpha1.Provisioning{DynamicRegistration: v1alpha1.DynamicRegistrationProvisioning{
			Endpoint: v1alpha1.EndpointURL(w.Logto.Endpoint() + "/register"),
		}}
	})
	operator.Told(t, cart, v1alpha1.ReasonLeftBehind, app.ID)
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			return err
		}
		if st := cart.Status.Provisioning; st.ClientID == v1alpha1.ClientID(app.ID) || st.Server.Driver == v1alpha1.DriverLogto {
			return fmt.Errorf("the status still says %+v", st)
		}
		return nil
	})
	op.Stop()                  // it keeps trying
	w.Logto.ForgetViolations() // Logto has no dynamic registration
}
