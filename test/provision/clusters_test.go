// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
)

// neighbour is another cluster at the same server, with namespaces of the same names, and an operator of its own.
func (w *world) neighbour() *world {
	w.t.Helper()
	environment := &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
	}
	w.t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			w.t.Errorf("stop the second control plane: %v", err)
		}
	})
	config, err := environment.Start()
	if err != nil {
		w.t.Fatal(err)
	}
	n := *w
	n.config, n.running, n.figures = config, nil, map[string]float64{}
	cluster, err := client.NewWithWatch(config, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		w.t.Fatal(err)
	}
	n.kube = cluster
	watching, stop := context.WithCancel(context.Background())
	w.t.Cleanup(stop)
	if err := theSecrets.watch(watching, cluster); err != nil {
		w.t.Fatal(err)
	}
	n.options.ClusterID = "neighbour-" + runID
	w.t.Cleanup(n.end)
	n.furnish()
	return &n
}

// testTwoClusters has two clusters declare the same names at one server. Of an API with one identifier, the one that came
// first keeps it; each has its own client of the same name, and neither touches the other's.
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

	// Both look at the server again, and find nothing to change.
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

	// What the one deletes, the other keeps.
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

// hasClient returns the identifier of a client, whose token works.
func (w *world) hasClient(c *v1alpha1.M2MClient) string {
	w.t.Helper()
	w.isReady(c)
	return string(c.Status.Provisioning.ClientID)
}
