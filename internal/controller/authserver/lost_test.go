// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"errors"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestKeysWhoseStatusIsNotWritten: the server's keys are fetched, and the write of the
// status that should hold them fails. The next pass fetches them again, although the
// server would say that they have not changed since.
func TestKeysWhoseStatusIsNotWritten(t *testing.T) {
	cfg, fault := operator.Broken(http.MethodPatch, "/authorizationservers/auth/status", 0, func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return nil, errors.New("the connection broke")
	})
	op := operator.StartSteppedOver(t, cfg)
	w := operator.NewWorld(t)
	server := w.Server(w.Payments)
	operator.Create(t, server)
	operator.EventuallyCached(t, op, server)
	pass := func() error {
		_, err := op.AuthorizationServers[0].Reconcile(t.Context(), operator.RequestOf(types.NamespacedName{Namespace: w.Payments, Name: "auth"}))
		return err
	}
	knows := func(n int) {
		t.Helper()
		fault.Armed.Store(1)
		if pass() == nil {
			t.Fatal("the failed write of the status caused no error")
		}
		if err := pass(); err != nil {
			t.Fatal(err)
		}
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(server), server); err != nil {
			t.Fatal(err)
		}
		if len(server.Status.Keys) != n || !operator.ConditionIs(server, v1alpha1.ConditionReady, "True") {
			t.Errorf("the status has %d keys and the conditions %+v, want %d keys", len(server.Status.Keys), server.Status.Conditions, n)
		}
		operator.FromCache(t, op, server)
	}
	knows(1)
	if _, err := w.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	op.Agrees(op.Client, &v1alpha1.AuthorizationServerList{}, client.InNamespace(w.Payments))
	op.Advance(2 * authserver.DefaultKeyRefreshInterval)
	knows(2)
	if n := w.AS.Count(oidc.JWKS); n != 4 {
		t.Errorf("%d requests for the keys, want one for each pass", n)
	}
}
