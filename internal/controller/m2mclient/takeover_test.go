// SPDX-License-Identifier: Apache-2.0

package m2mclient_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// gate stops what the watches of Secrets report once it is shut, until it is opened.
type gate struct{ shut, open chan struct{} }

func (g gate) over(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil && req.URL.Query().Has("watch") && strings.HasSuffix(req.URL.Path, "/secrets") {
			resp.Body = gated{resp.Body, g, req}
		}
		return resp, err
	})
}

type gated struct {
	io.ReadCloser
	gate gate
	req  *http.Request
}

// Read implements io.Reader.
func (g gated) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	select {
	case <-g.gate.shut:
	default:
		return n, err
	}
	select {
	case <-g.gate.open:
		return n, err
	case <-g.req.Context().Done():
		return 0, g.req.Context().Err()
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestAReplicaThatIsBehindTakesOver: the leader replaces a token, and another replica takes over
// that has not seen it: its watch of Secrets is behind. It requests no token, and goes on once it
// has seen the Secret.
func TestAReplicaThatIsBehindTakesOver(t *testing.T) {
	leader := operator.StartStepped(t)
	s := operator.NewStage(t, leader)
	g := gate{make(chan struct{}), make(chan struct{})}
	cfg := rest.CopyConfig(operator.RESTConfig)
	cfg.Wrap(g.over)
	standby := operator.StartSteppedOver(t, cfg, func(o *controller.Options) { o.Clock = leader.Clock })
	standby.Clock = leader.Clock
	standby.CatchUp(s.Payments, s.Shop)
	close(g.shut)
	s.Due()
	s.Settle()
	s.Requested(1)
	token := s.Token()
	leader.Stop()

	standby.Lagging = map[string]bool{"secrets": true}
	standby.CatchUp(s.Payments, s.Shop)
	standby.SettleServers(s.World)
	if err := standby.ReconcileClient(s.Cart); err != nil {
		t.Fatal(err)
	}
	s.Requested(1)
	close(g.open)
	standby.Lagging = nil
	standby.CatchUp(s.Payments, s.Shop)
	standby.Settle(s.Payments, s.Shop)
	s.Requested(1)
	if s.Token() != token {
		t.Error("the Secret holds another token")
	}
	if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(s.Cart), s.Cart); err != nil {
		t.Fatal(err)
	}
	operator.IsReady(t, s.Cart)
	s.Due()
	standby.Settle(s.Payments, s.Shop)
	s.Requested(2)
}
