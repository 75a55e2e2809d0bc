// SPDX-License-Identifier: Apache-2.0

package authserver_test

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestAskedOnRequest annotates a server. The operator reads its metadata and its keys once
// for each value, also while it fails and would be asked later.
func TestAskedOnRequest(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Rarely()
	server := s.Server(s.Shop)
	request := func(value string) {
		t.Helper()
		operator.Change(t, server, func(a *v1alpha1.AuthorizationServer) {
			a.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: value}
		})
	}
	asked := func(when string, want int, handled string) {
		t.Helper()
		s.Settle()
		if m, k := s.AS.Count(oidc.Discovery), s.AS.Count(oidc.JWKS); m != want || k != want {
			t.Errorf("%s: the metadata was read %d times and the keys %d times, want %d", when, m, k, want)
		}
		s.AS.ResetRequests()
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(server), server); err != nil {
			t.Fatal(err)
		}
		if got := server.Status.LastHandledRefreshAt; got != handled {
			t.Errorf("%s: the status says that %q was handled, want %q", when, got, handled)
		}
	}
	asked("before", 0, "")
	request("1")
	asked("a request", 1, "1")
	op.Advance(time.Second)
	asked("a second later", 0, "1")
	request("2")
	asked("another, too soon", 0, "1")
	op.Advance(9 * time.Second)
	asked("ten seconds after the first", 1, "2")

	s.AS.SetFault(oidc.JWKS, operator.Answer(503, ""))
	op.Advance(time.Minute)
	request("3")
	asked("a request that fails", 1, "3")
	asked("the same", 0, "3")
	operator.Says(t, server, v1alpha1.ConditionKeysFresh, v1alpha1.ReasonBadStatus, "503")
	operator.IsReady(t, server)
}
