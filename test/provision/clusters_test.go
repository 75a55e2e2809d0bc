// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
)

// secondCluster is a second control plane, for tests that need two.
type secondCluster struct {
	once        sync.Once
	environment *envtest.Environment
	kube        client.WithWatch
	err         error
	stopWatch   context.CancelFunc
}

var second secondCluster

func (s *secondCluster) start() error {
	s.once.Do(func() {
		s.environment = &envtest.Environment{
			CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
			ControlPlaneStartTimeout: 2 * time.Minute,
		}
		config, err := s.environment.Start()
		if err != nil {
			s.err = err
			return
		}
		if s.kube, s.err = client.NewWithWatch(config, client.Options{Scheme: controller.Scheme()}); s.err != nil {
			return
		}
		var ctx context.Context
		ctx, s.stopWatch = context.WithCancel(context.Background())
		s.err = theSecrets.watch(ctx, s.kube)
	})
	return s.err
}

func (s *secondCluster) stop() error {
	if s.environment == nil {
		return nil
	}
	if s.stopWatch != nil {
		s.stopWatch()
	}
	return s.environment.Stop()
}

// neighbour is another cluster at the same server, with namespaces of the same names,
// and its own operator.
func (w *world) neighbour() *world {
	w.t.Helper()
	if err := second.start(); err != nil {
		w.t.Fatal(err)
	}
	n := *w
	n.kube, n.config, n.running, n.figures = second.kube, second.environment.Config, nil, map[string]float64{}
	n.options.ClusterID = "neighbour-" + runID
	w.t.Cleanup(n.end)
	n.furnish()
	return &n
}

// testTwoClusters makes two clusters declare the same names at one server. The first
// one keeps an API with the same identifier. Each has its own client of the same name,
// and does not change the other's.
func testTwoClusters(t *testing.T, w *world) {
	other := w.neighbour()
	_, api, cart := w.story()
	shared := other.api(paymentAPI, w.read(), w.write())
	own := other.api(orderAPI, w.read(), w.write())
	theirs := other.calls("cart", orderAPI, w.write())
	other.start()
	other.create(other.authServer(), shared, own, theirs)
	other.isReady(theirs, own)
	if w.console != nil {
		other.hasCondition(shared, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonExistsAtServer)
	}
	ours, others := w.hasClient(cart), other.hasClient(theirs)
	if ours == others || ours == "" {
		t.Fatalf("both clusters have the client %s", ours)
	}

	// Both compare with the server again, and find nothing to change.
	for _, at := range []struct {
		w    *world
		cart *v1alpha1.M2MClient
		api  *v1alpha1.APIResource
	}{{w, cart, api}, {other, theirs, own}} {
		for range 2 {
			at.w.isReady(at.cart, at.api)
			eventually(t, func() error { return at.w.comparedAgain(at.cart, at.api) })
		}
		for _, o := range []client.Object{at.cart, at.api} {
			if notes, err := at.w.events(o, v1alpha1.ReasonDriftCorrected); err != nil || len(notes) > 0 {
				t.Errorf("the clusters fight: %q %v", notes, err)
			}
		}
	}
	w.hasToken(cart, paymentAPI, w.write())
	other.hasToken(theirs, orderAPI, w.write())

	// One cluster deletes its objects; the other keeps its own.
	other.delete(theirs, own, shared)
	other.isGone(theirs, own, shared)
	w.takesAnew(cart)
	if w.console == nil {
		if _, _, err := w.registrationOf("cart"); err != nil {
			t.Errorf("the other's registration: %v", err)
		}
		return
	}
	w.atServer(w.storyAtServer())
}

// hasClient returns the identifier of a client whose token works.
func (w *world) hasClient(c *v1alpha1.M2MClient) string {
	w.t.Helper()
	w.isReady(c)
	return string(c.Status.Provisioning.ClientID)
}
