// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// Stage is a story that runs by a stepped operator's clock. The authorization server
// uses the same clock.
type Stage struct {
	*World
	Op   *Operator
	API  *v1alpha1.APIResource
	Cart *v1alpha1.M2MClient
}

// NewStage creates a story and settles it.
func NewStage(t *testing.T, op *Operator, change ...func(*oidc.Options)) *Stage {
	t.Helper()
	byClock := func(o *oidc.Options) { o.Now = op.Clock.Now }
	s := &Stage{World: NewWorld(t, append([]func(*oidc.Options){byClock}, change...)...), Op: op}
	s.API, s.Cart = s.Story()
	s.Settle()
	IsReady(t, s.Cart)
	s.AS.ResetRequests()
	return s
}

// RotatedStage is a stage with a pod that verifies, at the time when the cart's token
// is due and the server has just begun to sign with another key.
func RotatedStage(t *testing.T, op *Operator, injected bool, change ...func(*oidc.Options)) (s *Stage, pod *corev1.Pod) {
	t.Helper()
	s = NewStage(t, op, change...)
	pod = PaymentPod(s, injected)
	s.Settle()
	s.Due()
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.AS.ResetRequests()
	op.Requests.Reset()
	s.Settle()
	return s, pod
}

// Lifetime sets the lifetime of a server's tokens.
func Lifetime(d time.Duration) func(*oidc.Options) {
	return func(o *oidc.Options) { o.TokenLifetime = d }
}

// Settle settles the stage.
func (s *Stage) Settle() { s.T.Helper(); s.Op.Settle(s.Payments, s.Shop) }

// Due moves the clock to the time when the cart's token is due.
func (s *Stage) Due() { s.Op.Clock.SetTime(s.Status().RefreshAt.Time) }

// Until lets the stage's objects live until a given time.
func (s *Stage) Until(at time.Time) {
	s.T.Helper()
	s.Op.live(s.T, at.Sub(s.Op.Clock.Now()), s.Payments, s.Shop)
}

// Renew returns a used stage to the state of a new one: everything works, and the cart
// has just got its token.
func (s *Stage) Renew() {
	s.T.Helper()
	s.AS.ClearFaults()
	s.Op.Requests.Reset()
	s.Due()
	s.Settle()
	IsReady(s.T, s.Cart)
	HasCondition(s.T, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
	s.AS.ResetRequests()
}

// Impatient limits how long the operator waits for the stage's server.
func (s *Stage) Impatient(d time.Duration) {
	s.T.Helper()
	for _, namespace := range []string{s.Payments, s.Shop} {
		server := s.Server(namespace)
		if err := Kube.Get(s.T.Context(), client.ObjectKeyFromObject(server), server); err != nil {
			s.T.Fatal(err)
		}
		hc, err := DefaultOptions().Egress.NewClient(nil)
		if err != nil {
			s.T.Fatal(err)
		}
		hc.Timeout = d
		s.Op.Shared.Connections.To.Get(server).HTTP = hc
	}
}

// SetServers changes the servers of the API and of the client.
func (s *Stage) SetServers(mutate func(*v1alpha1.AuthorizationServerSpec)) {
	s.T.Helper()
	for _, namespace := range []string{s.Payments, s.Shop} {
		s.SetServer(namespace, mutate)
	}
}

// SetServer changes the server in one namespace.
func (s *Stage) SetServer(namespace string, mutate func(*v1alpha1.AuthorizationServerSpec)) {
	s.T.Helper()
	server := s.Server(namespace)
	Change(s.T, server, func(a *v1alpha1.AuthorizationServer) { mutate(&a.Spec) })
	FromCache(s.T, s.Op, server)
}

// Rarely makes the operator poll the servers' keys so rarely that a test does not see
// it.
func (s *Stage) Rarely() {
	s.T.Helper()
	s.SetServers(func(a *v1alpha1.AuthorizationServerSpec) { a.JWKS.RefreshInterval = "24h" })
	s.Settle()
	s.AS.ResetRequests()
}

// Verifies creates a workload in the API's namespace that requests the bundle.
func (s *Stage) Verifies() {
	s.T.Helper()
	payment := VerifyWith(s.Payments, "payment", "payment-api")
	Create(s.T, payment)
	EventuallyCached(s.T, s.Op, payment)
	s.Settle()
	if s.Bundle() == nil {
		s.T.Fatal("there is no bundle")
	}
}

// Token returns the cart's token.
func (s *Stage) Token() string { return TokenIn(s.T, s.Shop, "cart-token", "payment-api") }

// SignedBy returns the ID of the key that signed the cart's token.
func (s *Stage) SignedBy() string { s.T.Helper(); return KeyOfToken(s.T, s.Token()) }

// Credential returns the cart's client secret.
func (s *Stage) Credential() string {
	s.T.Helper()
	return TokenIn(s.T, s.Shop, "cart-credentials", v1alpha1.ClientSecretKey)
}

// Status returns the cart's present token in its status.
func (s *Stage) Status() v1alpha1.TokenStatus {
	s.T.Helper()
	if err := Kube.Get(s.T.Context(), client.ObjectKeyFromObject(s.Cart), s.Cart); err != nil {
		s.T.Fatal(err)
	}
	if len(s.Cart.Status.Tokens) != 1 {
		s.T.Fatalf("the status has %d tokens", len(s.Cart.Status.Tokens))
	}
	return s.Cart.Status.Tokens[0]
}

// Bundle returns the bundle in the API's namespace, nil if there is none.
func (s *Stage) Bundle() *corev1.ConfigMap {
	s.T.Helper()
	return BundleIn(s.T, s.Payments, s.API)
}

// Waiting returns the Secret with the cart's waiting tokens, nil if there is none.
func (s *Stage) Waiting() *corev1.Secret {
	s.T.Helper()
	var secret corev1.Secret
	err := Kube.Get(s.T.Context(), tokensecret.WaitingName(s.Cart), &secret)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		s.T.Fatal(err)
	}
	return &secret
}

// Requested checks how many token requests reached the server.
func (s *Stage) Requested(want int) {
	s.T.Helper()
	if n := s.AS.Count(oidc.Token); n != want {
		s.T.Errorf("%d token requests, want %d", n, want)
	}
}

// IsHeld fails unless the old token is in the Secret and a new one waits.
func (s *Stage) IsHeld() {
	s.T.Helper()
	pending := s.Status().Pending
	switch {
	case s.SignedBy() == s.AS.KeyID():
		s.T.Fatal("the token with the new key was published at once")
	case pending.KeyID != s.AS.KeyID():
		s.T.Fatalf("the status says that a token with the key %q waits, not %q", pending.KeyID, s.AS.KeyID())
	case s.Waiting() == nil:
		s.T.Fatal("the token waits in memory only")
	}
	IsReady(s.T, s.Cart)
	HasCondition(s.T, s.Cart, v1alpha1.ConditionFresh, metav1.ConditionTrue, v1alpha1.ReasonTokensFresh)
}

// IsPublished fails unless one token request brought the token with the new key into
// the Secret, and nothing waits.
func (s *Stage) IsPublished() {
	s.T.Helper()
	if s.SignedBy() != s.AS.KeyID() {
		s.T.Error("the token with the new key is still held back")
	}
	if s.Status().Pending.Since != nil || s.Waiting() != nil {
		s.T.Errorf("a token waits: %+v", s.Status().Pending)
	}
	if n := s.AS.Count(oidc.Token); n != 1 {
		s.T.Errorf("%d token requests, want 1", n)
	}
}
