// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
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

// measured holds the operator's metrics about one world, and the growth of the global
// ones.
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

// everywhere returns the metrics that carry no object's name.
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

// are compares the metrics with the wanted ones. Metrics that do not exist and global
// metrics that did not grow are left out.
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

// seriesOf returns the series of some metrics with these labels, each by the values of its
// other labels.
func seriesOf(t *testing.T, labels map[string]string, names ...string) map[string]float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		if !slices.Contains(names, f.GetName()) {
			continue
		}
		for _, m := range f.GetMetric() {
			key, matched := strings.TrimPrefix(f.GetName(), "m2m_"), 0
			for _, l := range m.GetLabel() {
				if v, ok := labels[l.GetName()]; !ok {
					key += " " + l.GetValue()
				} else if v == l.GetValue() {
					matched++
				}
			}
			if matched == len(labels) {
				found[key] = m.GetGauge().GetValue()
			}
		}
	}
	return found
}

// TestMetricsOfConditions follows the metrics of objects that fail, and of the traffic
// to their server.
func TestMetricsOfConditions(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	server := "AuthorizationServer/" + s.Shop + "/auth"
	is := func(what string, want map[string]float64) {
		t.Helper()
		got := seriesOf(t, map[string]string{"namespace": s.Shop, "name": "cart"}, "m2m_client_condition")
		maps.Copy(got, seriesOf(t, map[string]string{"namespace": s.Payments, "name": "payment-api"}, "m2m_api_condition", "m2m_verification_bundles_undelivered"))
		maps.Copy(got, seriesOf(t, map[string]string{"server": server}, "m2m_server_condition", "m2m_token_refresh_due_timestamp_seconds", "m2m_tokens_waiting",
			"m2m_server_budget_requests_per_second", "m2m_server_queued_requests", "m2m_server_breaker_open", "m2m_server_stopped_namespaces"))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("metrics after %s (-want +got):\n%s", what, diff)
		}
	}
	due := s.Status().RefreshAt
	// Labels are sorted by name: reason, status, type.
	want := map[string]float64{
		"client_condition Ready True Ready": 1, "api_condition Ready True Ready": 1, "server_condition Ready True Ready": 1,
		"verification_bundles_undelivered": 0, "token_refresh_due_timestamp_seconds": float64(due.Unix()), "tokens_waiting": 0,
		"server_budget_requests_per_second": 100, "server_queued_requests": 0, "server_breaker_open": 0, "server_stopped_namespaces": 0,
	}
	is("the story", want)

	s.Impatient(100 * time.Millisecond)
	s.AS.SetFault(oidc.Token, &oidc.Fault{Hang: true})
	s.AS.SetFault(oidc.JWKS, &oidc.Fault{Status: http.StatusServiceUnavailable})
	s.Due()
	s.Settle()
	want["client_condition TokenRequestFailed False Fresh"], want["server_condition BadStatus False KeysFresh"] = 1, 1
	is("a refresh that fails", want)

	s.Until(due.Add(5 * time.Minute))
	want["server_breaker_open"] = 1
	is("failures without any answer", want)

	s.Until(s.Status().ExpiresAt.Add(time.Second))
	delete(want, "client_condition Ready True Ready")
	want["client_condition TokenExpired False Ready"] = 1
	is("the token's end", want)

	s.AS.ClearFaults()
	s.Impatient(15 * time.Second)
	s.Until(op.Clock.Now().Add(2 * time.Minute))
	delete(want, "client_condition TokenExpired False Ready")
	delete(want, "client_condition TokenRequestFailed False Fresh")
	delete(want, "server_condition BadStatus False KeysFresh")
	want["client_condition Ready True Ready"], want["server_breaker_open"] = 1, 0
	want["token_refresh_due_timestamp_seconds"] = float64(s.Status().RefreshAt.Unix())
	is("recovery", want)

	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	s.Settle()
	delete(want, "client_condition Ready True Ready")
	delete(want, "token_refresh_due_timestamp_seconds")
	for _, c := range []string{"NotGranted False Ready", "NotGranted False Granted", "NotGranted False Fresh", "NoToken Unknown Verified"} {
		want["client_condition "+c] = 1
	}
	is("the withdrawal", want)

	own := s.Server(s.Shop)
	for _, o := range []client.Object{s.Cart, s.API, own} {
		operator.Remove(t, o)
	}
	op.CatchUp(s.Shop)
	op.CatchUp(s.Payments)
	if err := op.ReconcileClient(s.Cart); err != nil {
		t.Fatal(err)
	}
	if _, err := op.APIResources.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.API))); err != nil {
		t.Fatal(err)
	}
	if _, err := op.AuthorizationServers[0].Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(own))); err != nil {
		t.Fatal(err)
	}
	is("the end of all", map[string]float64{})
}

// TestMetricsOfInstances: an instance reports that it is active, and counts the
// clients of shards. No instance serves them here.
func TestMetricsOfInstances(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	if v, n := operator.MetricOf(t, "m2m_instance_active", map[string]string{"shard": ""}); v != 1 || n != 1 {
		t.Errorf("m2m_instance_active is %v in %d series", v, n)
	}
	if v, n := operator.MetricOf(t, "m2m_build_info", nil); v != 1 || n != 1 {
		t.Errorf("m2m_build_info is %v in %d series", v, n)
	}
	counted := func(shard string, want float64) {
		t.Helper()
		operator.Eventually(t, func() error {
			if v, n := operator.MetricOf(t, "m2m_shard_clients", map[string]string{"shard": shard}); v != want || n != int(min(1, want)) {
				return fmt.Errorf("m2m_shard_clients{shard=%q} is %v in %d series, want %v", shard, v, n, want)
			}
			return nil
		})
	}
	counted("nobody", 0)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Labels = map[string]string{v1alpha1.ShardLabel: "nobody"} })
	counted("nobody", 1)
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Labels[v1alpha1.ShardLabel] = "nobody-else" })
	counted("nobody", 0)
	counted("nobody-else", 1)
	operator.Remove(t, cart)
	counted("nobody-else", 0)
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

// TestEvents checks that each occurrence is reported by one event, when it happens.
func TestEvents(t *testing.T) {
	op := operator.StartStepped(t)
	w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
	api, _ := w.Story()
	d := verifier(w.Payments, "payment-api")
	operator.Create(t, d)
	defer operator.Remove(t, d)
	want := map[string]int{}
	// then settles and waits for the wanted events. Later comparisons show whether more
	// events follow.
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
	then("the token's end, and a reminder of what fails", "Warning M2MClient/cart: TokenExpired", "Warning M2MClient/cart: TokenRequestRefused")

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

// TestEventAboutManyKeys: the operator shortens a note that is too long for an event,
// and still records the event.
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
			return fmt.Errorf("%d events for %d rotations, seen by two servers", n, rotations)
		}
		return nil
	})
}
