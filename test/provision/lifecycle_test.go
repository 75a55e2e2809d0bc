// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

func testFromNothing(_ *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	w.start()
	w.measure("creation", func() {
		w.create(as, api, cart)
		w.isReady(cart)
	})
	w.isReady(api, as)
	w.hasCondition(as, v1alpha1.ConditionProvisioningReady, metav1.ConditionTrue, v1alpha1.ReasonProvisioningReady)
	w.hasCondition(cart, v1alpha1.ConditionProvisioned, metav1.ConditionTrue, v1alpha1.ReasonProvisioned)
	w.hasToken(cart, paymentAPI, w.write())
	w.atServer(w.storyAtServer())
	w.measure("deletion", func() {
		w.delete(cart, api)
		w.isGone(cart, api)
	})
	w.atServer(expected{})
	if s, _, err := w.credentials(cart); err != nil || s != nil {
		w.t.Errorf("the Secret with the client's credentials is still there: %v", err)
	}
}

func testScopeAdded(_ *testing.T, w *world) {
	_, api, cart := w.story()
	w.measure("addition", func() {
		change(w, api, func(a *v1alpha1.APIResource) {
			a.Spec = w.api(paymentAPI, w.read(), w.write(), w.refund()).Spec
		})
		change(w, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0] = w.access(paymentAPI, w.write(), w.refund()) })
		w.hasToken(cart, paymentAPI, w.write(), w.refund())
	})
	w.isReady(cart, api)
	w.atServer(expected{
		clients: map[string]grants{"cart": {w.identifier(paymentAPI): {w.write(), w.refund()}}},
		apis:    map[string][]string{w.identifier(paymentAPI): {w.read(), w.write(), w.refund()}},
	})
}

func testGrantWithdrawn(_ *testing.T, w *world) {
	_, api, cart := w.story()
	change(w, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0] = w.access(paymentAPI, w.read(), w.write()) })
	w.hasToken(cart, paymentAPI, w.read(), w.write())
	w.measure("withdrawal", func() {
		change(w, api, func(a *v1alpha1.APIResource) {
			a.Spec.Grants[0].Scopes = []v1alpha1.ScopeName{v1alpha1.ScopeName(w.read())}
		})
		w.hasToken(cart, paymentAPI, w.read())
	})
	c := w.hasCondition(cart, v1alpha1.ConditionGranted, metav1.ConditionFalse, v1alpha1.ReasonScopeNotGranted)
	if !strings.Contains(c.Message, w.write()) {
		w.t.Errorf("the condition does not name the scope: %s", c.Message)
	}
	want := w.storyAtServer()
	want.clients["cart"] = grants{w.identifier(paymentAPI): {w.read()}}
	w.atServer(want)

	change(w, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	w.hasCondition(cart, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonNotGranted)
	eventually(w.t, func() error {
		if token, err := w.token("cart", paymentAPI); err != nil || token != "" {
			return fmt.Errorf("the token is still there: %w", err)
		}
		return nil
	})
	want.clients["cart"] = grants{}
	if w.console == nil { // one without scopes might have all of them
		want.clients = nil
	}
	w.atServer(want)
}

func testManyClients(_ *testing.T, w *world) {
	as, payment, order := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.api(orderAPI, w.read(), w.write())
	reader, writer, both := w.calls("reader", paymentAPI, w.read()), w.calls("writer", paymentAPI, w.write()), w.calls("both", paymentAPI, w.write())
	both.Spec.Access = append(both.Spec.Access, w.access(orderAPI, w.read()))
	w.start()
	w.measure("creation", func() {
		w.create(as, payment, order, reader, writer, both)
		w.isReady(payment, order, reader, writer, both)
	})
	w.hasToken(reader, paymentAPI, w.read())
	w.hasToken(writer, paymentAPI, w.write())
	w.hasToken(both, paymentAPI, w.write())
	w.hasToken(both, orderAPI, w.read())
	w.atServer(expected{
		clients: map[string]grants{
			"reader": {w.identifier(paymentAPI): {w.read()}},
			"writer": {w.identifier(paymentAPI): {w.write()}},
			"both":   {w.identifier(paymentAPI): {w.write()}, w.identifier(orderAPI): {w.read()}},
		},
		apis: map[string][]string{w.identifier(paymentAPI): {w.read(), w.write()}, w.identifier(orderAPI): {w.read(), w.write()}},
	})
}

// rotate requests another secret. It returns the secret that was in use, which worked, once the new one is in use.
func (w *world) rotate(as *v1alpha1.AuthorizationServer, cart *v1alpha1.M2MClient) (old credential) {
	w.t.Helper()
	w.atServer(w.storyAtServer())
	_, all, err := w.credentials(cart)
	if err != nil || len(all) != 1 {
		w.t.Fatalf("cart has %d credentials, want 1: %v", len(all), err)
	}
	w.takes(as, all[0], true)
	before, _ := w.hasToken(cart, paymentAPI, w.write())
	w.measure("rotation", func() {
		change(w, cart, func(c *v1alpha1.M2MClient) {
			c.Annotations = map[string]string{v1alpha1.RotateCredentialAnnotation: "now, please"}
		})
		eventually(w.t, func() error {
			if token, err := w.token("cart", paymentAPI); err != nil || token == before || token == "" {
				return fmt.Errorf("the token was not requested with the new secret: %w", err)
			}
			return nil
		})
	})
	w.told(cart, v1alpha1.ReasonCredentialRotated, "new client secret")
	return all[0]
}

// takes waits until the server accepts a secret, or no longer does.
func (w *world) takes(as *v1alpha1.AuthorizationServer, c credential, want bool) {
	w.t.Helper()
	eventually(w.t, func() error {
		got, err := w.accepted(as, c.ClientID, c.Secret, paymentAPI, w.write())
		if err == nil && got != want {
			err = fmt.Errorf("the server accepts the secret %s: %t, want %t", c.Name, got, want)
		}
		return err
	})
}

func testRotationAtOnce(_ *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	cart.Spec.CredentialRotation.Overlap = "0s"
	w.start()
	w.create(as, api, cart)
	w.isReady(cart, api, as)
	old := w.rotate(as, cart)
	w.takes(as, old, false)
	w.atServer(w.storyAtServer()) // one secret
	w.isReady(cart)
	w.hasToken(cart, paymentAPI, w.write())
}

func testRotationWithOverlap(_ *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	cart.Spec.CredentialRotation.Overlap = "12s"
	w.start()
	w.create(as, api, cart)
	w.isReady(cart, api, as)
	old := w.rotate(as, cart)
	if good, err := w.accepted(as, old.ClientID, old.Secret, paymentAPI, w.write()); err != nil || !good {
		w.t.Errorf("the server accepts the replaced secret: %t (%v), want so for 12 s", good, err)
	}
	w.takes(as, old, false)
	w.atServer(w.storyAtServer())
	w.isReady(cart)
	w.hasToken(cart, paymentAPI, w.write())
}

// testRestart stops the operator before it sees the client, and again before it sees a change
// of it.
func testRestart(_ *testing.T, w *world) {
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	w.start()
	w.create(as, api)
	w.isReady(as, api)
	w.kill()
	w.create(cart)
	w.start()
	w.isReady(cart)
	w.kill()
	change(w, cart, func(c *v1alpha1.M2MClient) { c.Spec.Access[0] = w.access(paymentAPI, w.read(), w.write()) })
	w.start()
	w.hasToken(cart, paymentAPI, w.read(), w.write())
	w.isReady(cart)
	want := w.storyAtServer()
	want.clients["cart"] = grants{w.identifier(paymentAPI): {w.read(), w.write()}}
	w.atServer(want)

	// A restart with nothing to do changes nothing and mints nothing.
	w.isReady(cart, api)
	before, _ := w.token("cart", paymentAPI)
	w.kill()
	w.start()
	eventually(w.t, func() error { return w.comparedAgain(cart, api) })
	if after, _ := w.token("cart", paymentAPI); after != before {
		w.t.Error("the restarted operator requested another token")
	}
	w.atServer(want)
	for _, o := range []client.Object{cart, api} {
		if notes, err := w.events(o, v1alpha1.ReasonDriftCorrected); err != nil || len(notes) > 0 {
			w.t.Errorf("the operator says that it put back %q: %v", notes, err)
		}
	}
}

// comparedAgain returns an error until objects have been compared with the server again.
func (w *world) comparedAgain(cart *v1alpha1.M2MClient, api *v1alpha1.APIResource) error {
	for _, o := range []client.Object{cart, api} {
		now := o.DeepCopyObject().(client.Object)
		if err := w.kube.Get(w.t.Context(), client.ObjectKeyFromObject(o), now); err != nil {
			return err
		}
		if before, after := syncedAt(o), syncedAt(now); after == nil || before != nil && !before.Before(after) {
			return fmt.Errorf("%s was not compared again", o.GetName())
		}
	}
	return nil
}

func syncedAt(o client.Object) *metav1.Time {
	if c, ok := o.(*v1alpha1.M2MClient); ok {
		return c.Status.Provisioning.SyncedAt
	}
	return o.(*v1alpha1.APIResource).Status.Provisioning.SyncedAt
}

// testKilled kills operators while they create some clients, each after a few more
// requests.
func testKilled(t *testing.T, w *world) {
	const kills = 6
	clients, span := 5, 12 // requests that a client takes, roughly
	if w.console == nil {
		clients, span = 10, 2
	}
	random := rand.New(rand.NewPCG(seed, 1))
	as, api := w.authServer(), w.api(paymentAPI, w.read(), w.write())
	w.create(as, api)
	want := expected{clients: map[string]grants{}, apis: w.storyAtServer().apis}
	var all []client.Object
	for i := range clients {
		c := w.calls(fmt.Sprintf("cart-%d", i), paymentAPI, w.write())
		w.create(c)
		all = append(all, c)
		want.clients[c.Name] = grants{w.identifier(paymentAPI): {w.write()}}
	}
	killed := 0
	for range kills {
		until := w.requests() + 1 + random.IntN(span)
		w.start()
		looks := 0
		// Do not kill by the clock: the request after the last counted one is probably in
		// flight.
		kubetest.Every(t, 2*time.Millisecond, time.Minute, func() error {
			if looks++; w.requests() >= until || looks%100 == 0 && w.allReady(all) {
				return nil
			}
			return fmt.Errorf("it has made %d requests, want %d", w.requests(), until)
		})
		w.kill()
		if !w.allReady(all) {
			killed++
		}
	}
	w.figures["killed_before_the_end"] = float64(killed)
	if killed < 2 {
		t.Errorf("the operator was killed only %d times before it finished, too few to prove anything", killed)
	}
	w.start()
	w.isReady(all...)
	w.atServer(want)
	for _, c := range all {
		w.hasToken(c.(*v1alpha1.M2MClient), paymentAPI, w.write())
	}
	lost, err := w.toldAsLost()
	if err != nil {
		t.Fatal(err)
	}
	w.figures["registrations_lost_and_told"] = float64(len(lost))
	if w.console != nil && len(lost) > 0 {
		t.Errorf("a Logto lets the operator find everything again, but it reports as lost: %q", lost)
	}
}

func (w *world) allReady(objects []client.Object) bool {
	for _, o := range objects {
		if err := w.kube.Get(w.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			w.t.Fatal(err)
		}
		if !meta.IsStatusConditionTrue(conditionsOf(o), v1alpha1.ConditionReady) {
			return false
		}
	}
	return true
}

// testWrongCredential begins with a credential that the server does not accept.
func testWrongCredential(t *testing.T, w *world) {
	secret := w.credential()
	if secret == nil {
		w.figures["registration_is_open"] = 1
		return
	}
	key := v1alpha1.ClientSecretKey
	if w.console == nil {
		key = v1alpha1.InitialAccessTokenKey
	}
	change(w, secret, func(s *corev1.Secret) { s.Data[key] = []byte("not-the-one") })
	as, api, cart := w.authServer(), w.api(paymentAPI, w.read(), w.write()), w.calls("cart", paymentAPI, w.write())
	w.start()
	w.create(as, api, cart)
	if w.console != nil {
		c := w.hasCondition(as, v1alpha1.ConditionProvisioningReady, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
		w.hasCondition(api, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
		t.Logf("the condition says: %s", c.Message)
	} else {
		c := w.hasCondition(cart, v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.ReasonProvisioningRefused)
		t.Logf("the condition says: %s", c.Message)
	}
	w.atServer(expected{})
	right := w.credential()
	w.measure("healing", func() {
		change(w, secret, func(s *corev1.Secret) { s.Data[key] = []byte(right.StringData[key]) })
		w.isReady(cart, api, as)
	})
	w.atServer(w.storyAtServer())
	if slices.ContainsFunc(as.Status.Conditions, func(c metav1.Condition) bool { return c.Reason == v1alpha1.ReasonProvisioningRefused }) {
		t.Errorf("the AuthorizationServer still says that it is refused: %+v", as.Status.Conditions)
	}
}
