// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// measured are the operator's metrics about one world, and the growth of those
// that are about all.
type measured struct {
	op     *operator.Operator
	w      *operator.World
	global map[string]float64 // at the start
}

func measure(op *operator.Operator, w *operator.World) *measured {
	m := &measured{op: op, w: w}
	m.global = m.everywhere()
	return m
}

// everywhere returns the metrics that carry no name of an object.
func (m *measured) everywhere() map[string]float64 {
	found := map[string]float64{}
	families, err := metrics.Registry.Gather()
	if err != nil {
		m.w.T.Fatal(err)
	}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			switch f.GetName() {
			case "m2m_token_refresh_lateness_seconds":
				found["refreshes"], found["lateness"] = float64(s.GetHistogram().GetSampleCount()), s.GetHistogram().GetSampleSum()
			case "m2m_verification_bundle_writes_total":
				found["bundles "+s.GetLabel()[0].GetValue()] = s.GetCounter().GetValue()
			}
		}
	}
	return found
}

// are compares the metrics with what they should be. Those that are not there
// are left out, and so are global ones that did not grow.
func (m *measured) are(what string, want map[string]float64) {
	m.w.T.Helper()
	server := "AuthorizationServer/" + m.w.Shop + "/auth"
	got := map[string]float64{}
	add := func(key, name string, labels map[string]string) {
		if v, n := operator.MetricOf(m.w.T, name, labels); n > 0 {
			got[key] = v
		}
	}
	for _, access := range []string{"payment-api", "renamed"} {
		add("expiry "+access, "m2m_token_expiry_timestamp_seconds", map[string]string{"namespace": m.w.Shop, "name": "cart", "access": access})
	}
	for _, result := range []string{"success", "retryable", "slowretry", "terminal"} {
		add("requests "+result, "m2m_token_requests_total", map[string]string{"server": server, "result": result})
	}
	add("fetched", "m2m_jwks_fetched_timestamp_seconds", map[string]string{"server": server})
	for _, state := range []string{"active", "retired"} {
		add("keys "+state, "m2m_jwks_keys", map[string]string{"server": server, "state": state})
	}
	for key, v := range m.everywhere() {
		if grown := v - m.global[key]; grown != 0 {
			got[key] = grown
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.w.T.Errorf("metrics after %s (-want +got):\n%s", what, diff)
	}
}

// TestMetrics follows every metric of the operator through a client's life.
func TestMetrics(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
	m := measure(op, w)
	api, cart := w.Story()
	settle := func() { t.Helper(); op.Settle(w.Payments, w.Shop) }
	expiry := func() float64 {
		t.Helper()
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(cart), cart); err != nil {
			t.Fatal(err)
		}
		return float64(cart.Status.ExpiresAt.Unix())
	}
	want := map[string]float64{}
	is := func(what string, changes map[string]float64) {
		t.Helper()
		maps.Copy(want, changes)
		maps.DeleteFunc(want, func(_ string, v float64) bool { return v < 0 }) // gone
		m.are(what, want)
	}
	const gone = -1

	settle()
	is("the story", map[string]float64{
		"expiry payment-api": float64(op.Clock.Now().Add(time.Hour).Unix()), "requests success": 1,
		"fetched": float64(op.Clock.Now().Unix()), "keys active": 1, "keys retired": 0,
	})

	d := verifier(w.Payments, "payment-api")
	operator.Create(t, d)
	settle()
	is("a workload that verifies", map[string]float64{"bundles created": 1})

	expiry()
	op.Clock.SetTime(cart.Status.Tokens[0].RefreshAt.Add(7 * time.Second))
	settle()
	is("a refresh that is seven seconds late", map[string]float64{
		"expiry payment-api": expiry(), "requests success": 2, "refreshes": 1, "lateness": 7, "fetched": float64(op.Clock.Now().Unix()),
	})

	if _, err := w.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	op.Advance(2 * time.Minute)
	settle()
	is("a rotation of the signing key", map[string]float64{
		"keys active": 2, "bundles updated": 1, "fetched": float64(op.Clock.Now().Unix()),
	})
	if err := w.AS.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	op.Advance(2 * time.Minute)
	settle()
	is("a rotation without overlap", map[string]float64{
		"keys active": 1, "keys retired": 2, "bundles updated": 2, "fetched": float64(op.Clock.Now().Unix()),
	})

	fetched := want["fetched"]
	for i, tc := range []struct {
		result string
		fault  oidc.Fault
	}{
		{"retryable", oidc.Fault{Status: http.StatusServiceUnavailable, Times: 1}},
		{"slowretry", oidc.Fault{Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`, Times: 1}},
		{"terminal", oidc.Fault{Status: http.StatusBadRequest, Body: `{"error":"unsupported_grant_type"}`, Times: 1}},
	} {
		w.AS.SetFault(oidc.Token, &tc.fault)
		w.AS.SetFault(oidc.JWKS, &oidc.Fault{Status: http.StatusServiceUnavailable})
		operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cart-token", Namespace: w.Shop}})
		settle()
		is("an answer that is "+tc.result, map[string]float64{
			"requests " + tc.result: 1, "expiry payment-api": gone, "fetched": fetched,
		})
		w.AS.ClearFaults()
		op.Advance(2 * time.Minute)
		settle()
		fetched = float64(op.Clock.Now().Unix())
		is("recovery from it", map[string]float64{
			"requests success": float64(3 + i), "expiry payment-api": expiry(), "fetched": fetched,
		})
	}

	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0].Key = "renamed" })
	settle()
	is("another key for the access", map[string]float64{
		"requests success": 6, "expiry payment-api": gone, "expiry renamed": expiry(),
	})

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	settle()
	is("the withdrawal", map[string]float64{"expiry renamed": gone})

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = w.API().Spec.Grants })
	operator.Remove(t, d)
	settle()
	is("a new grant, and the end of the workload", map[string]float64{
		"requests success": 7, "expiry renamed": expiry(), "bundles removed": 1,
	})

	server := w.Server(w.Shop)
	operator.Remove(t, cart)
	operator.Remove(t, server)
	op.CatchUp(w.Shop)
	if err := op.ReconcileClient(cart); err != nil {
		t.Fatal(err)
	}
	if _, err := op.AuthorizationServers[0].Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(server)}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"expiry renamed", "requests success", "requests retryable", "requests slowretry", "requests terminal", "fetched", "keys active", "keys retired"} {
		want[key] = gone
	}
	is("the end of client and server", nil)
}

// eventsAbout returns the events in a world's namespaces as "Kind reason", with
// how often each was recorded.
func eventsAbout(t *testing.T, w *operator.World) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, ns := range []string{w.Shop, w.Payments} {
		var list eventsv1.EventList
		if err := operator.Kube.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			n := 1
			if e.Series != nil {
				n = int(e.Series.Count)
			}
			found[fmt.Sprintf("%s %s/%s: %s", e.Type, e.Regarding.Kind, e.Regarding.Name, e.Reason)] += n
		}
	}
	return found
}

// TestEvents: what happened is told once, when it happened.
func TestEvents(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
	api, _ := w.Story()
	d := verifier(w.Payments, "payment-api")
	operator.Create(t, d)
	defer operator.Remove(t, d)
	want := map[string]int{}
	// then settles and waits for the events; that nothing more comes is seen by
	// the events that come after it.
	then := func(what string, events ...string) {
		t.Helper()
		op.Settle(w.Payments, w.Shop)
		for _, e := range events {
			want[e]++
		}
		var diff string
		check := func() error {
			if diff = cmp.Diff(want, eventsAbout(t, w)); diff != "" {
				return fmt.Errorf("events after %s (-want +got):\n%s", what, diff)
			}
			return nil
		}
		operator.Eventually(t, check)
	}
	then("the story",
		"Normal AuthorizationServer/auth: Ready", "Normal AuthorizationServer/auth: Ready",
		fmt.Sprintf("Normal ConfigMap/m2m-verify.%s.payment-api: BundleWritten", w.Payments), "Normal APIResource/payment-api: Ready",
		"Normal M2MClient/cart: TokenIssued", "Normal M2MClient/cart: Ready")

	op.Advance(45 * time.Minute)
	then("a refresh, which is daily business")

	w.AS.SetFault(oidc.Token, &oidc.Fault{Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`})
	op.Advance(45 * time.Minute)
	then("a refusal", "Warning M2MClient/cart: TokenRequestRefused")
	op.Advance(time.Minute)
	then("another one")

	op.Advance(2 * time.Hour)
	then("the token's end", "Warning M2MClient/cart: TokenExpired")

	w.AS.ClearFaults()
	op.Advance(10 * time.Minute)
	then("recovery", "Normal M2MClient/cart: Ready")

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	then("the withdrawal", "Warning M2MClient/cart: TokenWithdrawn", "Warning M2MClient/cart: NotGranted")

	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = w.API().Spec.Grants })
	then("a new grant", "Normal M2MClient/cart: TokenIssued", "Normal M2MClient/cart: Ready")

	if _, err := w.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	op.Advance(time.Minute)
	then("a rotation of the signing key", "Normal AuthorizationServer/auth: KeysChanged", "Normal AuthorizationServer/auth: KeysChanged")

	w.AS.SetFault(oidc.JWKS, &oidc.Fault{Status: http.StatusServiceUnavailable})
	op.Advance(time.Minute)
	then("an outage of the JWKS", "Warning AuthorizationServer/auth: BadStatus", "Warning AuthorizationServer/auth: BadStatus")
}

// TestEventAboutManyKeys: what an event cannot hold is left out, and the event is
// recorded all the same.
func TestEventAboutManyKeys(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
	w.Story()
	op.Settle(w.Payments, w.Shop)
	const rotations = 25
	for range rotations {
		if _, err := w.AS.RotateKey(); err != nil {
			t.Fatal(err)
		}
		op.Advance(time.Minute)
		op.Settle(w.Payments, w.Shop)
	}
	operator.Eventually(t, func() error {
		if n := eventsAbout(t, w)["Normal AuthorizationServer/auth: KeysChanged"]; n != 2*rotations {
			return fmt.Errorf("%d events of %d rotations, seen by two servers", n, rotations)
		}
		return nil
	})
}
