// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestTermsWhoseStatusIsNotWritten: a client's first token is in its Secret, and the
// write of the status fails. The next pass still says under which terms the token was
// judged, because the API's bundles wait for that.
func TestTermsWhoseStatusIsNotWritten(t *testing.T) {
	cfg, fault := operator.Broken(http.MethodPatch, "/m2mclients/cart/status", 0, func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return nil, errors.New("the connection broke")
	})
	op := operator.StartSteppedOver(t, cfg)
	w := operator.NewWorld(t)
	_, cart := w.Story()
	op.CatchUp(w.Payments, w.Shop)
	op.SettleServers(w)
	fault.Armed.Store(1)
	if op.ReconcileClient(cart) == nil {
		t.Fatal("the failed write of the status caused no error")
	}
	op.Settle(w.Payments, w.Shop)
	operator.IsReady(t, cart)
	w.TheRequest()
	if tokens := cart.Status.Tokens; len(tokens) != 1 || tokens[0].Terms == "" {
		t.Errorf("the status does not say which terms the token meets: %+v", tokens)
	}
}

// TestALostAnswerIsNoForgery: a token was written to the Secret, and the API server's
// answer was lost. The next pass recognizes the token: it writes only the status, and
// no pod has to be touched.
func TestALostAnswerIsNoForgery(t *testing.T) {
	cfg, fault := operator.Broken(http.MethodPut, "/secrets/cart-token", 0, func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		return nil, errors.Join(errors.New("the connection broke"), resp.Body.Close())
	})
	s := operator.NewStage(t, operator.StartSteppedOver(t, cfg))
	s.Due()
	fault.Armed.Store(1)
	if s.Op.ReconcileClient(s.Cart) == nil {
		t.Fatal("the lost answer caused no error")
	}
	s.Op.Requests.Reset()
	s.Settle()
	s.Requested(1)
	if diff := cmp.Diff([]string{"PATCH m2mclients/status"}, s.Op.Requests.Writes()); diff != "" {
		t.Errorf("writes after the lost answer (-want +got):\n%s", diff)
	}
	if since := operator.TokensOf(t, s.Cart).Annotations[v1alpha1.PromptSinceAnnotation]; since != "" {
		t.Errorf("pods must see the token at once, since %s", since)
	}
}
