// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

func requireLabel(o *Options) { o.RequireCredentialLabel = true }

// TestOnlyCredentialsThatOptInAreSent: whoever may write M2MClients and
// AuthorizationServers, and not read Secrets, names one of those in the namespace
// as the client secret for a server of his own.
func TestOnlyCredentialsThatOptInAreSent(t *testing.T) {
	op := startStepped(t, requireLabel)
	w := newWorld(t)
	value := newSecret()
	w.setClient(cartID, value)
	cart := w.fixture(w.cart().Spec.Credentials, map[string]string{v1alpha1.ClientIDKey: cartID, v1alpha1.ClientSecretKey: value})
	refused := func() {
		t.Helper()
		c := hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotAllowed)
		want := `Secret "cart-credentials" may not be sent to authorization servers; if it holds credentials for them: ` +
			`kubectl label secret -n ` + w.shop + ` cart-credentials m2m-operator.io/credentials=true`
		if diff := cmp.Diff(want, c.Message); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	op.settle(w.payments, w.shop)
	refused()
	if n := len(w.as.TokenRequests()); n != 0 {
		t.Fatalf("the Secret was sent %d times", n)
	}

	secret := w.secret("cart-credentials", "", "")
	label := func(value string) {
		t.Helper()
		change(t, secret, func(s *corev1.Secret) { s.Labels = map[string]string{v1alpha1.CredentialsLabel: value} })
	}
	label("false")
	op.settle(w.payments, w.shop)
	refused()

	label(v1alpha1.CredentialsOptIn)
	op.until(w, func() bool {
		op.advance(15 * time.Second)
		return len(w.as.TokenRequests()) > 0
	})
	isReady(t, cart)

	// The token is due again after the label is gone.
	label("")
	sent := len(w.as.TokenRequests())
	op.advance(time.Hour)
	op.settle(w.payments, w.shop)
	refused()
	if n := len(w.as.TokenRequests()); n != sent {
		t.Errorf("without its label the Secret was sent %d times more", n-sent)
	}
}

// TestWhatWasReadWithoutTheLabelIsLookedAtAgain: the operator remembers of which
// Secret a token was minted. That it did so does not stand in for the label.
func TestWhatWasReadWithoutTheLabelIsLookedAtAgain(t *testing.T) {
	w := newWorld(t)
	value := newSecret()
	w.setClient(cartID, value)
	cart := w.fixture(w.cart().Spec.Credentials, map[string]string{v1alpha1.ClientIDKey: cartID, v1alpha1.ClientSecretKey: value})
	op := startStepped(t)
	op.settle(w.payments, w.shop)
	isReady(t, cart)
	sent := len(w.as.TokenRequests())

	op.stop()
	op = startStepped(t, requireLabel)
	op.advance(time.Hour) // until the token is due
	op.settle(w.payments, w.shop)
	hasCondition(t, cart, v1alpha1.ConditionFresh, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotAllowed)
	if n := len(w.as.TokenRequests()); n != sent {
		t.Errorf("the Secret was sent %d times more", n-sent)
	}
}

// TestOnlyProvisioningCredentialsThatOptInAreSent is the same for what an
// AuthorizationServer names, and for its initial access token.
func TestOnlyProvisioningCredentialsThatOptInAreSent(t *testing.T) {
	w := newTenant(t)
	startOperator(t, requireLabel)
	as, management := w.server(), w.management()
	create(t, as, management)
	hasCondition(t, as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonCredentialsNotAllowed)
	change(t, management, func(s *corev1.Secret) {
		s.Labels = map[string]string{v1alpha1.CredentialsLabel: v1alpha1.CredentialsOptIn}
	})
	isReady(t, as)
}

// TestTheClustersAudienceIsNeverSent: a tenant has a token requested for the API
// server itself and sent to a server of his own, which could then act as the
// ServiceAccount.
func TestTheClustersAudienceIsNeverSent(t *testing.T) {
	op := startStepped(t)
	issuer, _ := clusterIssuer(t)
	w := newWorld(t)
	cart := w.fixture(v1alpha1.ClientCredentials{ServiceAccount: v1alpha1.ServiceAccountCredentials{Name: "cart", Audience: issuer}}, nil)
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.shop}}, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.shop},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"cart"}, Verbs: []string{"create"},
		}},
	})
	op.settle(w.payments, w.shop)
	says(t, cart, v1alpha1.ConditionReady, v1alpha1.ReasonCredentialsInvalid,
		`A token of ServiceAccount "cart" for "`+issuer+`" would be good for the Kubernetes API server itself`, "spec.credentials.serviceAccount.audience")
	if n := w.as.Count(oidc.Token); n != 0 {
		t.Errorf("the token was sent %d times", n)
	}
}
