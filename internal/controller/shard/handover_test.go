// SPDX-License-Identifier: Apache-2.0

package shard_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// statusesOf returns the names of the clients whose status an operator has written.
func statusesOf(op *operator.Operator) []string {
	names := map[string]bool{}
	for _, r := range op.Requests.Sent() {
		method, path, _ := strings.Cut(r, " ")
		path, _, _ = strings.Cut(path, "?")
		parts := strings.Split(path, "/")
		if i := slices.Index(parts, "m2mclients"); method == http.MethodPatch && i >= 0 {
			names[parts[i+1]] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// TestEachClientIsServedByExactlyOne runs three instances with clients of their
// shards, and with clients of a shard without an instance.
func TestEachClientIsServedByExactlyOne(t *testing.T) {
	w := operator.NewWorld(t)
	operator.Create(t, w.Server(w.Payments), w.Server(w.Shop), w.API())
	instances := map[string]*operator.Operator{"": nil, "a": nil, "b": nil}
	for name := range instances {
		instances[name] = operator.Start(t, operator.OfShard(name))
	}
	// A token that comes before its key is known waits in a Secret, which is a write more.
	for _, ns := range []string{w.Payments, w.Shop} {
		operator.IsReady(t, w.Server(ns))
		for _, op := range instances {
			op.Agrees(op.Client, &v1alpha1.AuthorizationServerList{}, client.InNamespace(ns))
		}
	}
	clients := map[string][]*v1alpha1.M2MClient{}
	for _, shard := range []string{"", "a", "b", "nobody"} {
		for i := range 4 {
			secret, name := operator.NewSecret(), fmt.Sprintf("of%s-%d", shard, i)
			w.SetClient(name, secret)
			c := w.Cart()
			c.Name, c.Labels = name, map[string]string{v1alpha1.ShardLabel: shard} // empty: no shard
			c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(name)
			operator.Create(t, w.Secret(name, name, secret), c)
			clients[shard] = append(clients[shard], c)
		}
	}
	for shard := range instances {
		for _, c := range clients[shard] {
			operator.IsReady(t, c)
		}
	}
	operator.Eventually(t, func() error { return operator.Idle(t, operator.EveryController...) })
	for shard, op := range instances {
		var want []string
		for _, c := range clients[shard] {
			want = append(want, c.Name)
			if n := w.RequestsOf(c.Name); n != 1 {
				t.Errorf("%d token requests were sent for %q", n, c.Name)
			}
		}
		if diff := cmp.Diff(want, statusesOf(op)); diff != "" {
			t.Errorf("clients whose status shard %q has written (-want +got):\n%s", shard, diff)
		}
	}
	for _, c := range clients["nobody"] {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			t.Fatal(err)
		}
		seen := func(c metav1.Condition) bool { return c.Reason != v1alpha1.ReasonPending }
		if slices.ContainsFunc(c.Status.Conditions, seen) || w.RequestsOf(c.Name) > 0 {
			t.Errorf("an instance serves %q", c.Name)
		}
	}
	for _, shard := range []string{"a", "b"} {
		op := instances[shard]
		if diff := cmp.Diff([]string{"PATCH m2mclients/status", "POST secrets"}, slices.Compact(slices.Sorted(slices.Values(op.Requests.Writes())))); diff != "" {
			t.Errorf("what shard %q writes (-want +got):\n%s", shard, diff)
		}
		var known v1alpha1.M2MClientList
		if err := op.Client.List(t.Context(), &known); err != nil {
			t.Fatal(err)
		}
		if n := slices.IndexFunc(known.Items, func(c v1alpha1.M2MClient) bool { return c.Labels[v1alpha1.ShardLabel] != shard }); n >= 0 || len(known.Items) != 4 {
			t.Errorf("shard %q caches %d clients, and not only its own", shard, len(known.Items))
		}
		all := strings.Join(op.Requests.Filter(func(string, string) bool { return true }), " ")
		for _, kind := range []string{"deployments", "statefulsets", "daemonsets", "jobs", "cronjobs"} {
			if strings.Contains(all, kind) {
				t.Errorf("shard %q reads %s, which it does not need", shard, kind)
			}
		}
	}
}

// TestAHandedOverClientGoesOn moves a client's label from one running instance to
// another. The new one restores a deleted Secret, and the old one does not.
func TestAHandedOverClientGoesOn(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	rest, a, b := operator.Start(t, operator.OfShard("")), operator.Start(t, operator.OfShard("a")), operator.Start(t, operator.OfShard("b"))
	operator.IsReady(t, cart)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}}
	from := rest
	for i, to := range []struct {
		shard watch.Shard
		*operator.Operator
	}{{"a", a}, {"b", b}, {"", rest}, {"a", a}} {
		operator.Label(t, cart, string(to.shard))
		to.ServedBy(to.shard, cart, true)
		for _, op := range []*operator.Operator{rest, a, b} {
			op.Requests.Reset()
		}
		w.AS.ResetRequests()
		before := operator.TokenIn(t, w.Shop, secret.Name, "payment-api")
		operator.Remove(t, secret)
		operator.Eventually(t, func() error {
			if after := operator.TokenIn(t, w.Shop, secret.Name, "payment-api"); after == "" || after == before {
				return errors.New("the Secret is not back")
			}
			return operator.Idle(t, operator.EveryController...)
		})
		operator.IsReady(t, cart)
		if n := len(w.AS.TokenRequests()); n != 1 {
			t.Errorf("step %d: %d token requests", i, n)
		}
		// Within the same second its status does not change.
		secrets := slices.DeleteFunc(to.Requests.Writes(), func(r string) bool { return r == "PATCH m2mclients/status" })
		if diff := cmp.Diff([]string{"POST secrets"}, secrets); diff != "" {
			t.Errorf("step %d: the new instance wrote (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff([]string{}, from.Requests.Writes()); diff != "" {
			t.Errorf("step %d: the old instance wrote (-want +got):\n%s", i, diff)
		}
		from = to.Operator
	}
}

// startInstances runs the main instance and shard a, stepped by one clock.
func startInstances(t *testing.T, cfg *rest.Config, gateways ...controller.Gateway) (main, a *operator.Operator) {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
	both := func(o *controller.Options) { o.Clock, o.Enforcement = clock, gateways }
	main, a = operator.StartSteppedOver(t, cfg, operator.OfShard(""), both), operator.StartStepped(t, operator.OfShard("a"), both)
	main.Clock, a.Clock = clock, clock
	return main, a
}

// instances is a stage with a second instance, shard a.
type instances struct {
	*operator.Stage
	main, a *operator.Operator
}

func newInstances(t *testing.T, cfg *rest.Config, gateways ...controller.Gateway) *instances {
	t.Helper()
	main, a := startInstances(t, cfg, gateways...)
	return &instances{Stage: operator.NewStage(t, main), main: main, a: a}
}

// handOver labels the cart from one instance to the other, and returns when both know.
func (s *instances) handOver(shard string) {
	s.T.Helper()
	operator.Label(s.T, s.Cart, shard)
	s.main.ServedBy("", s.Cart, shard == "")
	s.a.ServedBy("a", s.Cart, shard == "a")
	follow(s.a, s.World)
}

// follow waits until a shard's cache has the writes of the others.
func follow(op *operator.Operator, w *operator.World) {
	op.T.Helper()
	own := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	for _, ns := range []string{w.Shop, w.Payments} {
		op.Agrees(op.Client, &v1alpha1.AuthorizationServerList{}, client.InNamespace(ns))
		op.Agrees(op.Client, &v1alpha1.APIResourceList{}, client.InNamespace(ns))
		op.Agrees(op.Client, &corev1.SecretList{}, client.InNamespace(ns), own)
	}
}

// reconciles makes an operator reconcile the cart.
func (s *instances) reconciles(op *operator.Operator) {
	s.T.Helper()
	if err := op.ReconcileClient(s.Cart); err != nil {
		s.T.Fatal(err)
	}
}

// quiet checks that nothing was written and no token was requested.
func (s *instances) quiet(what string) {
	s.T.Helper()
	for name, op := range map[string]*operator.Operator{"the main instance": s.main, "the shard": s.a} {
		if diff := cmp.Diff([]string{}, op.Requests.Writes()); diff != "" {
			s.T.Errorf("%s: %s wrote (-want +got):\n%s", what, name, diff)
		}
		op.Requests.Reset()
	}
	if n := len(s.AS.TokenRequests()); n != 0 {
		s.T.Errorf("%s: %d token requests", what, n)
	}
	s.AS.ResetRequests()
}

// TestAHandOverCostsNothing: moving a client back and forth costs no token and no
// write. The new instance then refreshes the token when it is due, and the old one
// remembers nothing.
func TestAHandOverCostsNothing(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(operator.RESTConfig))
	series := func() int {
		_, n := operator.MetricOf(t, "m2m_token_expiry_timestamp_seconds", map[string]string{"namespace": s.Shop, "name": "cart"})
		return n
	}
	instancesOf := map[string]*operator.Operator{"": s.main, "a": s.a}
	s.main.Requests.Reset()
	at := ""
	for _, to := range []string{"a", "", "a", ""} {
		if series() != 1 {
			t.Fatalf("the cart's token has %d series", series())
		}
		s.handOver(to)
		from := instancesOf[at]
		s.reconciles(from)
		if n := series(); n != 0 {
			t.Errorf("the former instance publishes %d series of the client", n)
		}
		s.reconciles(instancesOf[to])
		if series() != 1 {
			t.Error("the new instance does not publish the expiry of the client's token")
		}
		s.quiet(fmt.Sprintf("from %q to %q", at, to))

		// A token for an hour is due after 40 minutes.
		before := s.Token()
		s.main.Advance(45 * time.Minute)
		s.reconciles(from)
		s.quiet("the old instance, when the token is due")
		s.reconciles(instancesOf[to])
		if diff := cmp.Diff([]string{"PUT secrets", "PATCH m2mclients/status"}, instancesOf[to].Requests.Writes()); diff != "" {
			t.Errorf("the new instance's refresh wrote (-want +got):\n%s", diff)
		}
		if n := len(s.AS.TokenRequests()); n != 1 || s.Token() == before {
			t.Errorf("the new instance's refresh took %d token requests, or did not replace the token", n)
		}
		operator.IsReady(t, s.Cart)
		s.a.Requests.Reset()
		s.main.Requests.Reset()
		s.AS.ResetRequests()
		at = to
	}
}

// TestOthersDoNotWakeAnInstance: changes of one instance's clients cost the others
// next to nothing.
func TestOthersDoNotWakeAnInstance(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(operator.RESTConfig))
	s.handOver("a")
	var secret corev1.Secret
	if err := operator.Kube.Get(t.Context(), types.NamespacedName{Namespace: s.Shop, Name: "cart-token"}, &secret); err != nil {
		t.Fatal(err)
	}
	orphan := secret.DeepCopy()
	orphan.OwnerReferences = nil
	after := s.Cart.DeepCopy()
	after.Generation++
	unlabelled := after.DeepCopy()
	unlabelled.Labels = nil
	namesake := after.DeepCopy()
	namesake.UID = "another"
	always := predicate.Funcs{}
	for of, op := range map[watch.Shard]*operator.Operator{"": s.main, "a": s.a} {
		mine := of == "a"
		owned, events := of.OwnedBy(op.Client), of.Of(predicate.GenerationChangedPredicate{})
		var gone []client.Object
		departures := of.Departures(func(o client.Object) { gone = append(gone, o) })
		left := func(what string, is bool) {
			t.Helper()
			if len(gone) > 0 != is {
				t.Errorf("shard %q: %s makes it forget a client: %t, want %t", of, what, len(gone) > 0, is)
			}
			gone = nil
		}
		for what, got := range map[string][2]bool{
			"its Secret is there":                       {owned.Create(event.CreateEvent{Object: &secret}), mine},
			"its Secret changes":                        {owned.Update(event.UpdateEvent{ObjectOld: &secret, ObjectNew: &secret}), mine},
			"its Secret loses its owner":                {owned.Update(event.UpdateEvent{ObjectOld: &secret, ObjectNew: orphan}), mine},
			"its Secret is deleted":                     {owned.Delete(event.DeleteEvent{Object: &secret}), mine},
			"a foreign Secret":                          {owned.Update(event.UpdateEvent{ObjectOld: orphan, ObjectNew: orphan}), false},
			"the client is there":                       {events.Create(event.CreateEvent{Object: s.Cart}), mine},
			"its spec changes":                          {events.Update(event.UpdateEvent{ObjectOld: s.Cart, ObjectNew: after}), mine},
			"nothing of it changes":                     {events.Update(event.UpdateEvent{ObjectOld: s.Cart, ObjectNew: s.Cart}), false},
			"it is handed over":                         {events.Update(event.UpdateEvent{ObjectOld: after, ObjectNew: unlabelled}), true},
			"it is deleted":                             {of.Of(always).Delete(event.DeleteEvent{Object: s.Cart}), mine},
			"clients are listed, and it is one of them": {len(of.Clients(t.Context(), op.Client, client.InNamespace(s.Shop))) > 0, mine},
		} {
			if got[0] != got[1] {
				t.Errorf("shard %q: %s: %t, want %t", of, what, got[0], got[1])
			}
		}
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: s.Cart, ObjectNew: after}, nil)
		left("another spec", false)
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: s.Cart, ObjectNew: unlabelled}, nil)
		left("a label that goes", mine)
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: unlabelled, ObjectNew: s.Cart}, nil)
		left("a label that comes", !mine)
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: s.Cart, ObjectNew: namesake}, nil)
		left("another one of its name", mine)
		departures.Delete(t.Context(), event.DeleteEvent{Object: s.Cart}, nil)
		left("its deletion", mine)
	}
}

// TestAHandOverInTheMiddleOfARefresh: the old instance has a token and is about to
// write it when the new one takes over. That costs one token, no more, and what the
// new one has written stays.
func TestAHandOverInTheMiddleOfARefresh(t *testing.T) {
	release := make(chan struct{})
	cfg, fault := operator.Broken(http.MethodPut, "/secrets/cart-token", 0, func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		<-release
		return next.RoundTrip(req)
	})
	s := newInstances(t, cfg)
	s.main.Advance(45 * time.Minute)
	fault.Armed.Store(1)
	late := make(chan error, 1)
	go func() { late <- s.main.ReconcileClient(s.Cart) }()
	<-fault.Met
	s.handOver("a")
	s.reconciles(s.a)
	operator.IsReady(t, s.Cart)
	published := s.Token()
	close(release)
	if err := <-late; err == nil {
		t.Error("the late write of the Secret caused no error")
	}
	s.reconciles(s.main) // as the queue does after an error
	s.reconciles(s.a)
	if s.Token() != published {
		t.Error("the old instance has replaced the new one's token")
	}
	if n := len(s.AS.TokenRequests()); n != 2 {
		t.Errorf("%d token requests for a refresh in the middle of a hand-over, want the old instance's and the new one's", n)
	}
	if expires := s.Status().ExpiresAt; !expires.Time.Equal(s.main.Clock.Now().Add(time.Hour)) {
		t.Errorf("the status says that the token expires at %v", expires)
	}
	if diff := cmp.Diff([]string{"PUT secrets", "PATCH m2mclients/status"}, s.a.Requests.Writes()); diff != "" {
		t.Errorf("the new instance wrote (-want +got):\n%s", diff)
	}
}

// TestALatePassWritesNoStatus: a token request of the old instance fails after the
// client was handed over. The old instance no longer reports it.
func TestALatePassWritesNoStatus(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(operator.RESTConfig))
	s.main.Advance(45 * time.Minute)
	s.main.Requests.Reset()
	s.AS.SetFault(oidc.Token, &oidc.Fault{Status: http.StatusServiceUnavailable, Times: 1, Match: func(*http.Request) bool {
		if s.Cart.Labels == nil {
			s.handOver("a")
		}
		return true
	}})
	s.reconciles(s.main)
	if diff := cmp.Diff([]string{}, s.main.Requests.Writes()); diff != "" {
		t.Errorf("the old instance wrote (-want +got):\n%s", diff)
	}
	if _, series := operator.MetricOf(t, "m2m_token_expiry_timestamp_seconds", map[string]string{"namespace": s.Shop, "name": "cart"}); series != 1 {
		t.Errorf("the old instance has changed what it published before: %d series", series)
	}
	s.reconciles(s.a)
	operator.IsReady(t, s.Cart)
	if n := len(s.AS.TokenRequests()); n != 2 {
		t.Errorf("%d token requests, want the one that failed and the new instance's", n)
	}
}

// TestATokenThatWaitsIsHandedOver: the token is in its own Secret, and the new
// instance requests no other.
func TestATokenThatWaitsIsHandedOver(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(operator.RESTConfig))
	s.Rarely()
	s.handOver("a")
	s.reconciles(s.a)
	kid, err := s.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.Due()
	s.AS.ResetRequests()
	s.reconciles(s.a)
	if s.Status().Pending.Since == nil {
		t.Fatal("the token does not wait")
	}
	s.handOver("")
	s.reconciles(s.a)
	s.Settle()
	s.main.Advance(time.Minute)
	s.Settle()
	if got := operator.KeyOfToken(t, s.Token()); got != kid {
		t.Errorf("the token is signed by %s, want the new key %s", got, kid)
	}
	if n := len(s.AS.TokenRequests()); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}
