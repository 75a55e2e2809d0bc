// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// TestDriftIsToldOnce makes a write of a client's status fail around the correction of
// a drift. The next pass finds no drift where one was put back, so the event comes
// before the last write, or it would be lost. If the driver cannot store its state,
// its work is not done and no event reports it: the next pass continues the work, and
// then reports it.
func TestDriftIsToldOnce(t *testing.T) {
	const told = `DriftCorrected: Put back at AuthorizationServer "auth": The role was missing`
	for name, tc := range map[string]struct {
		keeps bool // the driver has state to store
		fails int  // the number of the status write that fails; 0: none
		want  []string
	}{
		"no write fails":              {want: []string{told, "written"}},
		"the last write fails":        {fails: 1, want: []string{told, "refused", "pass", "written"}},
		"no write of two fails":       {keeps: true, want: []string{"written", told, "written"}},
		"the driver's own fails":      {keeps: true, fails: 1, want: []string{"refused", "pass", "written", told, "written"}},
		"the last write of two fails": {keeps: true, fails: 2, want: []string{"written", told, "refused", "pass", "written"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDriftWorld(t)
			w.pass(true)
			w.journal, w.fails = nil, tc.fails
			missing := true // until the driver has put it back and stored its state
			w.driver.sync = func(ctx context.Context, state *provision.ClientState, keep provision.Keep) ([]provision.Drift, error) {
				if !missing {
					return nil, nil
				}
				drift := []provision.Drift{"The role was missing"}
				if tc.keeps {
					state.GrantID = "another"
					if err := keep(ctx); err != nil {
						return drift, err
					}
				}
				missing = false
				return drift, nil
			}
			w.clock.SetTime(w.clock.Now().Add(defaultResyncInterval))
			w.pass(tc.fails == 0)
			if tc.fails != 0 {
				w.journal = append(w.journal, "pass")
				w.pass(true)
			}
			if diff := cmp.Diff(tc.want, w.journal); diff != "" {
				t.Errorf("events and writes (-want +got):\n%s", diff)
			}
			// The comparison is done: another pass does nothing.
			w.journal = nil
			if w.pass(true); len(w.journal) > 0 {
				t.Errorf("a pass after all is done: %q", w.journal)
			}
		})
	}
}

// driftWorld is a client that is provisioned at a server, and its reconciler.
type driftWorld struct {
	*testing.T
	recorder.EventRecorder
	reconciler *ClientReconciler
	clock      *clocktesting.FakePassiveClock
	driver     *syncDriver

	// journal records the events about the client and the writes of its status, in
	// order.
	journal []string
	fails   int // the number of the next writes that fails; 0: none
}

func newDriftWorld(t *testing.T) *driftWorld {
	t.Helper()
	w := &driftWorld{T: t, clock: clocktesting.NewFakePassiveClock(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)), driver: &syncDriver{}}
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	auth := &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "auth", UID: "auth"}}
	auth.Spec.Issuer = "https://auth.example.com"
	auth.Spec.Provisioning.DynamicRegistration.Endpoint = "https://auth.example.com/register"
	auth.Status.Endpoints.Token = "https://auth.example.com/token"
	api := &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "payment", UID: "payment"}}
	api.Spec.AuthorizationServerRef.Name, api.Spec.Identifier = "auth", "https://payment.example.com"
	api.Spec.Scopes = []v1alpha1.Scope{{Name: "read"}}
	api.Status.Provisioning.Server, api.Status.Provisioning.SyncedAt = record.ServerOf(rules.ServerOf(auth)), record.Time(w.clock.Now())
	api.Status.Provisioning.Scopes = []v1alpha1.ScopeName{"read"}
	cart := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "cart", Finalizers: []string{v1alpha1.ProvisioningFinalizer}}}
	cart.Spec.Access = []v1alpha1.Access{{Scopes: []v1alpha1.ScopeName{"read"}}}
	cart.Spec.Access[0].APIResourceRef.Name = "payment"

	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(auth, api, cart).WithStatusSubresource(auth, api, cart).
		WithIndex(api, rules.ByIdentifier, func(o client.Object) []string { return []string{string(o.(*v1alpha1.APIResource).Spec.Identifier)} }).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: w.writeStatus}).Build()
	servers := newAdministrationFixture(&foreign.Objects{})
	servers.Clock, servers.OperatorNamespace, servers.Cluster = w.clock, "operator", "c1"
	w.reconciler = NewClientReconciler(Config{
		Client: c, Live: c, Clock: w.clock, Events: w, Servers: servers,
		Access: rules.Resolver{Reader: c, Watches: func(string) bool { return true }},
	})
	// Use the fake driver in place of the one that the configuration makes.
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(auth), auth); err != nil {
		t.Fatal(err)
	}
	if _, _, unusable, err := servers.driver(t.Context(), auth); unusable != nil || err != nil {
		t.Fatal(unusable, err)
	}
	servers.of.Get(auth).driver = w.driver
	w.driver.sync = func(_ context.Context, state *provision.ClientState, _ provision.Keep) ([]provision.Drift, error) {
		state.ID, state.GrantID, state.Origin = "cart", "role", provision.Created
		state.Access = []provision.Access{{Resource: "https://payment.example.com", Scopes: []string{"read"}}}
		state.Credentials = []provision.Credential{{Name: "1", Stage: provision.Current, ClientID: "cart", Secret: "secret", IssuedAt: w.clock.Now()}}
		return nil, nil
	}
	return w
}

// pass reconciles the client once, and checks whether that succeeds.
func (w *driftWorld) pass(succeeds bool) {
	w.Helper()
	_, err := w.reconciler.Reconcile(w.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "shop", Name: "cart"}})
	if (err == nil) != succeeds {
		w.Fatalf("the pass ended with %v", err)
	}
}

func (w *driftWorld) writeStatus(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	if w.fails--; w.fails == 0 {
		w.journal = append(w.journal, "refused")
		return errors.New("the API server is down")
	}
	w.journal = append(w.journal, "written")
	return c.SubResource(sub).Patch(ctx, o, p, opts...)
}

// Eventf notes an event.
func (w *driftWorld) Eventf(_, _ runtime.Object, _, reason, _, note string, args ...any) {
	w.journal = append(w.journal, reason+": "+fmt.Sprintf(note, args...))
}

// syncDriver is a driver that only synchronizes clients.
type syncDriver struct {
	provision.Driver
	sync func(ctx context.Context, state *provision.ClientState, keep provision.Keep) ([]provision.Drift, error)
}

func (d *syncDriver) SyncClient(ctx context.Context, _ provision.Client, state *provision.ClientState, keep provision.Keep) ([]provision.Drift, error) {
	return d.sync(ctx, state, keep)
}
