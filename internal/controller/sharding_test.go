// SPDX-License-Identifier: Apache-2.0

package controller

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
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// ofShard has an operator be one of three instances: a shard, or with "" the one
// that has everything else.
func ofShard(name string) func(*Options) {
	return func(o *Options) { o.Shard, o.Shards = name, 3 }
}

// label hands a client over to a shard, "" for none.
func label(t *testing.T, c *v1alpha1.M2MClient, shard string) {
	t.Helper()
	change(t, c, func(c *v1alpha1.M2MClient) {
		c.Labels = nil
		if shard != "" {
			c.Labels = map[string]string{v1alpha1.ShardLabel: shard}
		}
	})
}

// servedBy waits until an operator's cache says that it serves a client, or does
// not.
func (op *operator) servedBy(mine watch.Shard, c *v1alpha1.M2MClient, want bool) {
	op.t.Helper()
	eventually(op.t, func() error {
		is, err := mine.StillServes(op.t.Context(), op.client, client.ObjectKeyFromObject(c))
		if err == nil && is != want {
			err = fmt.Errorf("shard %q serves %q: %t", mine, c.Name, is)
		}
		return err
	})
}

// statusesOf returns the names of the clients whose status an operator has
// written.
func (op *operator) statusesOf() []string {
	op.requests.mu.Lock()
	defer op.requests.mu.Unlock()
	names := map[string]bool{}
	for _, r := range op.requests.all {
		method, path, _ := strings.Cut(r, " ")
		path, _, _ = strings.Cut(path, "?")
		parts := strings.Split(path, "/")
		if i := slices.Index(parts, "m2mclients"); method == http.MethodPatch && i >= 0 {
			names[parts[i+1]] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// TestEachClientIsServedByExactlyOne runs three instances beside clients of
// theirs, and of a shard that nobody runs.
func TestEachClientIsServedByExactlyOne(t *testing.T) {
	w := newWorld(t)
	create(t, w.server(w.payments), w.server(w.shop), w.api())
	instances := map[string]*operator{"": nil, "a": nil, "b": nil}
	for name := range instances {
		instances[name] = startOperator(t, ofShard(name))
	}
	clients := map[string][]*v1alpha1.M2MClient{}
	for _, shard := range []string{"", "a", "b", "nobody"} {
		for i := range 4 {
			secret, name := newSecret(), fmt.Sprintf("of%s-%d", shard, i)
			w.setClient(name, secret)
			c := w.cart()
			c.Name, c.Labels = name, map[string]string{v1alpha1.ShardLabel: shard} // empty is none
			c.Spec.Credentials.ClientSecret.SecretRef.Name = v1alpha1.ObjectName(name)
			create(t, w.secret(name, name, secret), c)
			clients[shard] = append(clients[shard], c)
		}
	}
	for shard := range instances {
		for _, c := range clients[shard] {
			isReady(t, c)
		}
	}
	eventually(t, func() error { return idle(t, everyController...) })
	for shard, op := range instances {
		var want []string
		for _, c := range clients[shard] {
			want = append(want, c.Name)
			if n := w.requestsOf(c.Name); n != 1 {
				t.Errorf("%d token requests were sent for %q", n, c.Name)
			}
		}
		if diff := cmp.Diff(want, op.statusesOf()); diff != "" {
			t.Errorf("clients whose status shard %q has written (-want +got):\n%s", shard, diff)
		}
	}
	for _, c := range clients["nobody"] {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			t.Fatal(err)
		}
		seen := func(c metav1.Condition) bool { return c.Reason != v1alpha1.ReasonPending }
		if slices.ContainsFunc(c.Status.Conditions, seen) || w.requestsOf(c.Name) > 0 {
			t.Errorf("somebody serves %q", c.Name)
		}
	}
	for _, shard := range []string{"a", "b"} {
		op := instances[shard]
		if diff := cmp.Diff([]string{"PATCH m2mclients/status", "POST secrets"}, slices.Compact(slices.Sorted(slices.Values(op.requests.writes())))); diff != "" {
			t.Errorf("what shard %q writes (-want +got):\n%s", shard, diff)
		}
		var known v1alpha1.M2MClientList
		if err := op.client.List(t.Context(), &known); err != nil {
			t.Fatal(err)
		}
		if n := slices.IndexFunc(known.Items, func(c v1alpha1.M2MClient) bool { return c.Labels[v1alpha1.ShardLabel] != shard }); n >= 0 || len(known.Items) != 4 {
			t.Errorf("shard %q caches %d clients, and not only its own", shard, len(known.Items))
		}
		all := strings.Join(op.requests.filter(func(string, string) bool { return true }), " ")
		for _, kind := range []string{"deployments", "statefulsets", "daemonsets", "jobs", "cronjobs"} {
			if strings.Contains(all, kind) {
				t.Errorf("shard %q looks at %s, which it does not need", shard, kind)
			}
		}
	}
}

// TestAHandedOverClientGoesOn labels a client from one running instance to
// another: the new one restores a Secret that is deleted, and the old one does
// not.
func TestAHandedOverClientGoesOn(t *testing.T) {
	w := newWorld(t)
	_, cart := w.story()
	rest, a, b := startOperator(t, ofShard("")), startOperator(t, ofShard("a")), startOperator(t, ofShard("b"))
	isReady(t, cart)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-token"}}
	from := rest
	for i, to := range []struct {
		shard watch.Shard
		*operator
	}{{"a", a}, {"b", b}, {"", rest}, {"a", a}} {
		label(t, cart, string(to.shard))
		to.servedBy(to.shard, cart, true)
		for _, op := range []*operator{rest, a, b} {
			op.requests.reset()
		}
		w.as.ResetRequests()
		before := tokenIn(t, w.shop, secret.Name, "payment-api")
		remove(t, secret)
		eventually(t, func() error {
			if after := tokenIn(t, w.shop, secret.Name, "payment-api"); after == "" || after == before {
				return errors.New("the Secret is not back")
			}
			return idle(t, everyController...)
		})
		isReady(t, cart)
		if n := len(w.as.TokenRequests()); n != 1 {
			t.Errorf("step %d: %d token requests", i, n)
		}
		// Within the same second its status stays as it was.
		secrets := slices.DeleteFunc(to.requests.writes(), func(r string) bool { return r == "PATCH m2mclients/status" })
		if diff := cmp.Diff([]string{"POST secrets"}, secrets); diff != "" {
			t.Errorf("step %d: the new instance wrote (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff([]string{}, from.requests.writes()); diff != "" {
			t.Errorf("step %d: the old instance wrote (-want +got):\n%s", i, diff)
		}
		from = to.operator
	}
}

// startInstances runs the instance without a shard and shard a, stepped by one
// clock.
func startInstances(t *testing.T, cfg *rest.Config) (main, a *operator) {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
	both := func(o *Options) { o.Clock = clock }
	main, a = startSteppedOver(t, cfg, ofShard(""), both), startStepped(t, ofShard("a"), both)
	main.clock, a.clock = clock, clock
	return main, a
}

// instances are a stage with a second instance, shard a.
type instances struct {
	*stage
	main, a *operator
}

func newInstances(t *testing.T, cfg *rest.Config) *instances {
	t.Helper()
	main, a := startInstances(t, cfg)
	return &instances{stage: newStage(t, main), main: main, a: a}
}

// handOver labels the cart from the one to the other, and returns when both know.
func (s *instances) handOver(shard string) {
	s.t.Helper()
	label(s.t, s.cart, shard)
	s.main.servedBy("", s.cart, shard == "")
	s.a.servedBy("a", s.cart, shard == "a")
	s.a.follow(s.world)
}

// follow waits until a shard's cache has what the others have written.
func (op *operator) follow(w *world) {
	op.t.Helper()
	own := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	for _, ns := range []string{w.shop, w.payments} {
		op.agrees(op.client, &v1alpha1.AuthorizationServerList{}, client.InNamespace(ns))
		op.agrees(op.client, &v1alpha1.APIResourceList{}, client.InNamespace(ns))
		op.agrees(op.client, &corev1.SecretList{}, client.InNamespace(ns), own)
	}
}

// reconciles has an operator reconcile the cart.
func (s *instances) reconciles(op *operator) {
	s.t.Helper()
	if err := op.reconcileClient(s.cart); err != nil {
		s.t.Fatal(err)
	}
}

// quiet checks that nothing was written and no token asked for.
func (s *instances) quiet(what string) {
	s.t.Helper()
	for name, op := range map[string]*operator{"the main instance": s.main, "the shard": s.a} {
		if diff := cmp.Diff([]string{}, op.requests.writes()); diff != "" {
			s.t.Errorf("%s: %s wrote (-want +got):\n%s", what, name, diff)
		}
		op.requests.reset()
	}
	if n := len(s.as.TokenRequests()); n != 0 {
		s.t.Errorf("%s: %d token requests", what, n)
	}
	s.as.ResetRequests()
}

// TestAHandOverCostsNothing: no token and no write, forth and back; what is due
// afterwards the new instance refreshes, and the old one remembers nothing.
func TestAHandOverCostsNothing(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(restConfig))
	name := client.ObjectKeyFromObject(s.cart)
	series := func() int {
		_, n := metricOf(t, "m2m_token_expiry_timestamp_seconds", map[string]string{"namespace": s.shop, "name": "cart"})
		return n
	}
	instancesOf := map[string]*operator{"": s.main, "a": s.a}
	s.main.requests.reset()
	at := ""
	for _, to := range []string{"a", "", "a", ""} {
		if series() != 1 {
			t.Fatalf("there are %d series of the cart's token", series())
		}
		s.handOver(to)
		from := instancesOf[at]
		s.reconciles(from)
		if n := series(); n != 0 {
			t.Errorf("the instance that has lost the client publishes %d series of it", n)
		}
		if _, still := from.reconcilers.client.Written.Get(name, "payment-api"); still {
			t.Error("the instance that has lost the client remembers its token")
		}
		s.reconciles(instancesOf[to])
		if series() != 1 {
			t.Error("the instance that has got the client does not publish its token's expiry")
		}
		s.quiet(fmt.Sprintf("from %q to %q", at, to))

		// An hour's token is due after 40 minutes.
		before := s.token()
		s.main.advance(45 * time.Minute)
		s.reconciles(from)
		s.quiet("the old instance, when the token is due")
		s.reconciles(instancesOf[to])
		if diff := cmp.Diff([]string{"PUT secrets", "PATCH m2mclients/status"}, instancesOf[to].requests.writes()); diff != "" {
			t.Errorf("the new instance's refresh wrote (-want +got):\n%s", diff)
		}
		if n := len(s.as.TokenRequests()); n != 1 || s.token() == before {
			t.Errorf("the new instance's refresh took %d token requests, or did not replace the token", n)
		}
		isReady(t, s.cart)
		s.a.requests.reset()
		s.main.requests.reset()
		s.as.ResetRequests()
		at = to
	}
}

// TestOthersDoNotWakeAnInstance: what happens to the clients of one instance
// costs the others next to nothing.
func TestOthersDoNotWakeAnInstance(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(restConfig))
	s.handOver("a")
	var secret corev1.Secret
	if err := kube.Get(t.Context(), types.NamespacedName{Namespace: s.shop, Name: "cart-token"}, &secret); err != nil {
		t.Fatal(err)
	}
	orphan := secret.DeepCopy()
	orphan.OwnerReferences = nil
	after := s.cart.DeepCopy()
	after.Generation++
	unlabelled := after.DeepCopy()
	unlabelled.Labels = nil
	namesake := after.DeepCopy()
	namesake.UID = "another"
	always := predicate.Funcs{}
	for of, op := range map[watch.Shard]*operator{"": s.main, "a": s.a} {
		mine := of == "a"
		owned, events := of.OwnedBy(op.client), of.Of(predicate.GenerationChangedPredicate{})
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
			"its Secret is there":              {owned.Create(event.CreateEvent{Object: &secret}), mine},
			"its Secret changes":               {owned.Update(event.UpdateEvent{ObjectOld: &secret, ObjectNew: &secret}), mine},
			"its Secret loses its owner":       {owned.Update(event.UpdateEvent{ObjectOld: &secret, ObjectNew: orphan}), mine},
			"its Secret is deleted":            {owned.Delete(event.DeleteEvent{Object: &secret}), mine},
			"somebody else's Secret":           {owned.Update(event.UpdateEvent{ObjectOld: orphan, ObjectNew: orphan}), false},
			"the client is there":              {events.Create(event.CreateEvent{Object: s.cart}), mine},
			"its spec changes":                 {events.Update(event.UpdateEvent{ObjectOld: s.cart, ObjectNew: after}), mine},
			"nothing of it changes":            {events.Update(event.UpdateEvent{ObjectOld: s.cart, ObjectNew: s.cart}), false},
			"it is handed over":                {events.Update(event.UpdateEvent{ObjectOld: after, ObjectNew: unlabelled}), true},
			"it is deleted":                    {of.Of(always).Delete(event.DeleteEvent{Object: s.cart}), mine},
			"clients are listed, and it is it": {len(of.Clients(t.Context(), op.client, client.InNamespace(s.shop))) > 0, mine},
		} {
			if got[0] != got[1] {
				t.Errorf("shard %q: %s: %t, want %t", of, what, got[0], got[1])
			}
		}
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: s.cart, ObjectNew: after}, nil)
		left("another spec", false)
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: s.cart, ObjectNew: unlabelled}, nil)
		left("a label that goes", mine)
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: unlabelled, ObjectNew: s.cart}, nil)
		left("a label that comes", !mine)
		departures.Update(t.Context(), event.UpdateEvent{ObjectOld: s.cart, ObjectNew: namesake}, nil)
		left("another one of its name", mine)
		departures.Delete(t.Context(), event.DeleteEvent{Object: s.cart}, nil)
		left("its deletion", mine)
	}
}

// TestAHandOverInTheMiddleOfARefresh: the old instance has a token and is about
// to write it when the new one takes over. That costs the one token, no more, and
// what the new one has written stays.
func TestAHandOverInTheMiddleOfARefresh(t *testing.T) {
	release := make(chan struct{})
	cfg, fault := broken(http.MethodPut, "/secrets/cart-token", 0, func(req *http.Request, next http.RoundTripper) (*http.Response, error) {
		<-release
		return next.RoundTrip(req)
	})
	s := newInstances(t, cfg)
	s.main.advance(45 * time.Minute)
	fault.armed.Store(1)
	late := make(chan error, 1)
	go func() { late <- s.main.reconcileClient(s.cart) }()
	<-fault.met
	s.handOver("a")
	s.reconciles(s.a)
	isReady(t, s.cart)
	published := s.token()
	close(release)
	if err := <-late; err == nil {
		t.Error("the late write of the Secret is no error")
	}
	s.reconciles(s.main) // as the queue does after an error
	s.reconciles(s.a)
	if s.token() != published {
		t.Error("the old instance has replaced the new one's token")
	}
	if n := len(s.as.TokenRequests()); n != 2 {
		t.Errorf("%d token requests for a refresh in the middle of a hand-over, want the old instance's and the new one's", n)
	}
	if expires := s.status().ExpiresAt; !expires.Time.Equal(s.main.clock.Now().Add(time.Hour)) {
		t.Errorf("the status says that the token expires at %v", expires)
	}
	if diff := cmp.Diff([]string{"PUT secrets", "PATCH m2mclients/status"}, s.a.requests.writes()); diff != "" {
		t.Errorf("the new instance wrote (-want +got):\n%s", diff)
	}
}

// TestALatePassWritesNoStatus: a token request of the old instance fails after
// the client was handed over. That is no news about the client any more.
func TestALatePassWritesNoStatus(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(restConfig))
	s.main.advance(45 * time.Minute)
	s.main.requests.reset()
	s.as.SetFault(oidc.Token, &oidc.Fault{Status: http.StatusServiceUnavailable, Times: 1, Match: func(*http.Request) bool {
		if s.cart.Labels == nil {
			s.handOver("a")
		}
		return true
	}})
	s.reconciles(s.main)
	if diff := cmp.Diff([]string{}, s.main.requests.writes()); diff != "" {
		t.Errorf("the old instance wrote (-want +got):\n%s", diff)
	}
	if _, series := metricOf(t, "m2m_token_expiry_timestamp_seconds", map[string]string{"namespace": s.shop, "name": "cart"}); series != 1 {
		t.Errorf("the old instance has changed what it published before: %d series", series)
	}
	s.reconciles(s.a)
	isReady(t, s.cart)
	if n := len(s.as.TokenRequests()); n != 2 {
		t.Errorf("%d token requests, want the one that failed and the new instance's", n)
	}
}

// TestATokenThatWaitsIsHandedOver: it is in a Secret of its own, and the new
// instance asks for no other.
func TestATokenThatWaitsIsHandedOver(t *testing.T) {
	s := newInstances(t, rest.CopyConfig(restConfig))
	s.rarely()
	s.handOver("a")
	s.reconciles(s.a)
	kid, err := s.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.due()
	s.as.ResetRequests()
	s.reconciles(s.a)
	if s.status().Pending.Since == nil {
		t.Fatal("the token does not wait")
	}
	s.handOver("")
	s.reconciles(s.a)
	s.settle()
	s.main.advance(time.Minute)
	s.settle()
	if got := keyOfToken(t, s.token()); got != kid {
		t.Errorf("the token is signed by %s, want the new key %s", got, kid)
	}
	if n := len(s.as.TokenRequests()); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}
