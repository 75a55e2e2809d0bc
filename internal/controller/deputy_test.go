// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func requireLabel(o *controller.Options) { o.RequireCredentialLabel = true }

// TestOnlyCredentialsThatOptInAreSent: an attacker may write M2MClients and
// AuthorizationServers, but may not read Secrets. He names a Secret of the namespace
// as the client secret for his own server.
func TestOnlyCredentialsThatOptInAreSent(t *testing.T) {
	op := operator.StartStepped(t, requireLabel)
	w := operator.NewWorld(t)
	value := operator.NewSecret()
	w.SetClient(operator.CartID, value)
	cart := w.Fixture(w.Cart().Spec.Credentials, map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.ClientSecretKey: value})
	refused := func() {
		t.Helper()
		c := operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotAllowed)
		want := `Secret "cart-credentials" may not be sent to authorization servers; if it holds credentials for them, allow it: ` +
			`kubectl label secret -n ` + w.Shop + ` cart-credentials m2m-operator.io/credentials=true`
		if diff := cmp.Diff(want, c.Message); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	op.Settle(w.Payments, w.Shop)
	refused()
	if n := len(w.AS.TokenRequests()); n != 0 {
		t.Fatalf("the Secret was sent %d times", n)
	}

	secret := w.Secret("cart-credentials", "", "")
	label := func(value string) {
		t.Helper()
		operator.Change(t, secret, func(s *corev1.Secret) { s.Labels = map[string]string{v1alpha1.CredentialsLabel: value} })
	}
	label("false")
	op.Settle(w.Payments, w.Shop)
	refused()

	label(v1alpha1.CredentialsOptIn)
	op.Until(w, func() bool {
		op.Advance(15 * time.Second)
		return len(w.AS.TokenRequests()) > 0
	})
	operator.IsReady(t, cart)

	// The token is due again after the label was removed.
	label("")
	sent := len(w.AS.TokenRequests())
	op.Advance(time.Hour)
	op.Settle(w.Payments, w.Shop)
	refused()
	if n := len(w.AS.TokenRequests()); n != sent {
		t.Errorf("the Secret was sent %d more times without its label", n-sent)
	}
}

// TestWhatWasReadWithoutTheLabelIsLookedAtAgain checks that the operator requires the
// label even for a Secret from which it has minted a token before.
func TestWhatWasReadWithoutTheLabelIsLookedAtAgain(t *testing.T) {
	w := operator.NewWorld(t)
	value := operator.NewSecret()
	w.SetClient(operator.CartID, value)
	cart := w.Fixture(w.Cart().Spec.Credentials, map[string]string{v1alpha1.ClientIDKey: operator.CartID, v1alpha1.ClientSecretKey: value})
	op := operator.StartStepped(t)
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	sent := len(w.AS.TokenRequests())

	op.Stop()
	op = operator.StartStepped(t, requireLabel)
	op.Advance(time.Hour) // until the token is due
	op.Settle(w.Payments, w.Shop)
	operator.HasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotAllowed)
	if n := len(w.AS.TokenRequests()); n != sent {
		t.Errorf("the Secret was sent %d more times", n-sent)
	}
}

// TestOnlyProvisioningCredentialsThatOptInAreSent does the same with the provisioning
// credential and the initial access token of an AuthorizationServer.
func TestOnlyProvisioningCredentialsThatOptInAreSent(t *testing.T) {
	w := operator.NewTenant(t)
	operator.Start(t, requireLabel)
	as, management := w.Server(), w.Management()
	operator.Create(t, as, management)
	operator.HasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotAllowed)
	operator.Change(t, management, func(s *corev1.Secret) {
		s.Labels = map[string]string{v1alpha1.CredentialsLabel: v1alpha1.CredentialsOptIn}
	})
	operator.IsReady(t, as)
}

// TestTheClustersAudienceIsNeverSent: a tenant requests a token for the API server itself
// and sends it to his own server, which could then act as the ServiceAccount.
func TestTheClustersAudienceIsNeverSent(t *testing.T) {
	op := operator.StartStepped(t)
	issuer, _ := operator.ClusterIssuer(t)
	w := operator.NewWorld(t)
	cart := w.Fixture(v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: "cart", Audience: issuer}}, nil)
	operator.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.Shop}}, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.Shop},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"cart"}, Verbs: []string{"create"},
		}},
	})
	op.Settle(w.Payments, w.Shop)
	operator.Says(t, cart, v1alpha1.ConditionReady, v1alpha1.ReasonCredentialsInvalid,
		`The Kubernetes API server itself would accept a token of ServiceAccount "cart" for audience "`+issuer+`"`, "spec.credentials.serviceAccount.audience")
	if n := w.AS.Count(oidc.Token); n != 0 {
		t.Errorf("the token was sent %d times", n)
	}
}
