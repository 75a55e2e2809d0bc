// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	podcontroller "github.com/m2m-operator/m2m-operator/internal/controller/pod"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// notedEvents notes events on their way to the API server.
type notedEvents struct {
	recorder.EventRecorder
	notes []string // "pod: reason: note"
}

func (n *notedEvents) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	n.notes = append(n.notes, regarding.(client.Object).GetName()+": "+reason+": "+fmt.Sprintf(note, args...))
	n.EventRecorder.Eventf(regarding, related, eventType, reason, action, note, args...)
}

// noteEvents has a stepped operator's events about pods noted.
func noteEvents(op *operator) *notedEvents {
	n := &notedEvents{EventRecorder: op.pod.Events}
	op.pod.Events = n
	return n
}

// take returns what was noted since the last time.
func (n *notedEvents) take() []string {
	notes := n.notes
	n.notes = nil
	slices.Sort(notes)
	return notes
}

// eventsOfPod returns the events about a pod that the API server has, as
// "type reason: note".
func eventsOfPod(t *testing.T, pod client.Object) []string {
	t.Helper()
	var list eventsv1.EventList
	if err := kube.List(t.Context(), &list, client.InNamespace(pod.GetNamespace())); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range list.Items {
		if e.Regarding.Kind == "Pod" && e.Regarding.APIVersion == "v1" && e.Regarding.UID == pod.GetUID() && e.Series == nil {
			found = append(found, e.Type+" "+e.Reason+": "+e.Note)
		}
	}
	slices.Sort(found)
	return found
}

// TestWhatPodsAreTold: one line says what a pod waits for and why.
func TestWhatPodsAreTold(t *testing.T) {
	cart := []string{v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token"}
	payment := []string{v1alpha1.VerifyAnnotation, "$PAYMENTS/payment-api"}
	const tokenFor = `TokenNotReady: Waiting for Secret "cart-token": `
	const bundleFor = `VerificationNotReady: Waiting for ConfigMap "m2m-verify.$PAYMENTS.payment-api": `
	for name, tc := range map[string]struct {
		set         func(*testing.T, *world)
		watched     bool // only the pod's namespace is
		inPayments  bool // the pod is in the API's namespace
		annotations []string
		want        []string
	}{
		"there is no M2MClient": {
			annotations: cart,
			want:        []string{tokenFor + `there is no M2MClient "cart" in namespace "$SHOP"`},
		},
		"the M2MClient is not ready": {
			set:         func(t *testing.T, w *world) { create(t, w.server(w.shop), w.server(w.payments), w.api(), w.cart()) },
			annotations: cart,
			want:        []string{tokenFor + `M2MClient "cart" is not ready: Secret "cart-credentials" does not exist`},
		},
		"the M2MClient writes another Secret": {
			set: func(t *testing.T, w *world) {
				_, cart := w.story()
				change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "tokens" })
			},
			annotations: cart,
			want:        []string{`TokenNotReady: This pod mounts Secret "cart-token", but M2MClient "cart" now writes Secret "tokens": recreate the pod`},
		},
		"everything is there": {
			set:         func(_ *testing.T, w *world) { w.story() },
			annotations: append([]string{v1alpha1.VerifyAnnotation, "$PAYMENTS/payment-api"}, cart...),
		},
		"another's Secret is mounted": {
			set: func(t *testing.T, w *world) {
				create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-token"}})
			},
			annotations: cart,
		},
		"nothing was injected for the M2MClient": {annotations: []string{v1alpha1.ClientAnnotation, "cart"}},
		"nobody says which M2MClient it was":     {annotations: []string{v1alpha1.InjectedAnnotation, "secret/cart-token"}},
		"there is no APIResource": {
			annotations: payment,
			want:        []string{bundleFor + `there is no APIResource "payment-api" in namespace "$PAYMENTS"`},
		},
		"the APIResource of the pod's namespace is not accepted": {
			set:         func(t *testing.T, w *world) { create(t, w.api()) },
			inPayments:  true,
			annotations: []string{v1alpha1.VerifyAnnotation, "payment-api", v1alpha1.InjectedAnnotation, "configmap/m2m-verify.$PAYMENTS.payment-api"},
			want:        []string{bundleFor + `APIResource "payment-api" is not accepted: AuthorizationServer "auth" does not exist in namespace "$PAYMENTS"`},
		},
		"the APIResource of another namespace is not accepted": {
			set:         func(t *testing.T, w *world) { create(t, w.api()) },
			annotations: payment,
			want:        []string{bundleFor + `APIResource "payment-api" of namespace "$PAYMENTS" is not accepted (AuthorizationServerNotFound)`},
		},
		"no signing key is known": {
			set: func(t *testing.T, w *world) {
				w.as.SetFault(oidc.JWKS, &oidc.Fault{Status: http.StatusServiceUnavailable})
				create(t, w.server(w.payments), w.api())
			},
			inPayments:  true,
			annotations: payment,
			want:        []string{bundleFor + `APIResource "payment-api" is not distributed: No signing key of AuthorizationServer "auth" is known yet`},
		},
		"the server's tokens are opaque": {
			set: func(t *testing.T, w *world) {
				as := w.server(w.payments)
				as.Spec.TokenFormat = v1alpha1.TokenFormatOpaque
				create(t, as, w.api())
			},
			annotations: payment,
			want:        []string{bundleFor + `APIResource "payment-api" of namespace "$PAYMENTS" is not distributed (OpaqueToken)`},
		},
		"the APIResource's namespace is not watched": {
			set:         func(_ *testing.T, w *world) { w.story() },
			watched:     true,
			annotations: payment,
			want:        []string{bundleFor + `the operator does not watch namespace "$PAYMENTS" (--watch-namespaces)`},
		},
		"names that cannot be": {
			annotations: []string{v1alpha1.VerifyAnnotation, "Payment, a/b/c,"},
			want:        []string{`VerificationNotReady: The annotation m2m-operator.io/verify names what cannot be an APIResource: ["Payment" "a/b/c"]`},
		},
		"several things": {
			annotations: append([]string{v1alpha1.VerifyAnnotation, "one,two"}, cart...),
			want: []string{
				tokenFor + `there is no M2MClient "cart" in namespace "$SHOP"`,
				`VerificationNotReady: Waiting for ConfigMap "m2m-verify.$SHOP.one": there is no APIResource "one" in namespace "$SHOP"`,
				`VerificationNotReady: Waiting for ConfigMap "m2m-verify.$SHOP.two": there is no APIResource "two" in namespace "$SHOP"`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			namespaces := strings.NewReplacer("$SHOP", w.shop, "$PAYMENTS", w.payments)
			if tc.set != nil {
				tc.set(t, w)
			}
			pod := annotatedPod(w.shop, "pod", tc.annotations...)
			if tc.inPayments {
				pod.Namespace = w.payments
			}
			for k, v := range pod.Annotations {
				pod.Annotations[k] = namespaces.Replace(v)
			}
			create(t, pod)
			settled := []string{w.shop, w.payments}
			op := startStepped(t, func(o *Options) {
				if tc.watched {
					settled = settled[:1]
					o.WatchNamespaces = settled
				}
			})
			notes := noteEvents(op)
			op.settle(settled...)
			if early := notes.take(); early != nil && op.clock.Now().Before(pod.CreationTimestamp.Add(podcontroller.WaitGrace)) {
				t.Errorf("it was told at once: %q", early)
			}
			op.advance(podcontroller.WaitGrace)
			op.settle(settled...)
			var want, recorded []string
			for _, n := range tc.want {
				want = append(want, "pod: "+namespaces.Replace(n))
				recorded = append(recorded, "Warning "+namespaces.Replace(n))
			}
			if diff := cmp.Diff(want, notes.take()); diff != "" {
				t.Errorf("it was told (-want +got):\n%s", diff)
			}
			op.advance(time.Second)
			op.settle(settled...)
			if again := notes.take(); again != nil {
				t.Errorf("it was told again: %q", again)
			}
			eventually(t, func() error {
				if diff := cmp.Diff(recorded, eventsOfPod(t, pod)); diff != "" {
					return fmt.Errorf("the events (-want +got):\n%s", diff)
				}
				return nil
			})
		})
	}
}

// TestWhenPodsAreTold follows a pod that waits: it is told of each cause when it
// has waited for a moment, not again while that is the same, and again before
// the API server forgets it.
func TestWhenPodsAreTold(t *testing.T) {
	w := newWorld(t)
	op := startStepped(t)
	notes := noteEvents(op)
	pod := annotatedPod(w.shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	create(t, pod)
	op.catchUp(w.shop, w.payments)
	op.clock.SetTime(pod.CreationTimestamp.Time)
	is := func(what string, wait time.Duration, want ...string) {
		t.Helper()
		op.settle(w.shop, w.payments)
		for i := range want {
			want[i] = `pod: TokenNotReady: Waiting for Secret "cart-token": ` + want[i]
		}
		if diff := cmp.Diff(want, notes.take()); diff != "" {
			t.Errorf("after %s it was told (-want +got):\n%s", what, diff)
		}
		after, err := op.reconcilePod(pod)
		if err != nil {
			t.Fatal(err)
		}
		if after != wait {
			t.Errorf("after %s it is looked at again after %v, want %v", what, after, wait)
		}
	}
	none := fmt.Sprintf("there is no M2MClient %q in namespace %q", "cart", w.shop)
	const notReady = `M2MClient "cart" is not ready: `
	noCredentials := notReady + `Secret "cart-credentials" does not exist`

	is("its creation", podcontroller.WaitGrace)
	op.advance(podcontroller.WaitGrace - time.Second)
	is("4 seconds", time.Second)
	op.advance(time.Second)
	is("5 seconds", podcontroller.TellEvery, none)
	op.advance(podcontroller.TellEvery - time.Second)
	is("most of an hour", time.Second)
	op.advance(time.Second)
	is("50 minutes", podcontroller.TellEvery, none)

	create(t, w.server(w.shop), w.server(w.payments), w.api(), w.cart())
	op.until(w, func() bool { return len(notes.notes) > 0 })
	is("the client's creation", podcontroller.TellEvery, noCredentials)
	remove(t, w.cart())
	is("the client's quick deletion", podcontroller.TellEvery) // it was told a moment ago
	op.advance(podcontroller.ForgetAfter)
	is("more of that", podcontroller.TellEvery-podcontroller.ForgetAfter)
	create(t, w.cart())
	is("the client's return", podcontroller.TellEvery, noCredentials)

	secret := newSecret()
	w.setClient(cartID, secret)
	create(t, w.secret("cart-credentials", cartID, secret))
	op.advance(time.Minute)
	is("the token's coming", 0)
	if n := len(op.pod.Told.Pods); n != 0 {
		t.Errorf("%d pods are remembered", n)
	}

	remove(t, w.cart())
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-token"}})
	is("the client's end", podcontroller.TellEvery, none)
	if err := kube.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	pod = annotatedPod(w.shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	create(t, pod)
	is("the pod's successor came", podcontroller.TellEvery, none)
	change(t, pod, func(p *corev1.Pod) { p.Finalizers = []string{"example.com/wait"} })
	remove(t, pod)
	is("the pod's end", 0)
	if n := len(op.pod.Told.Pods); n != 0 {
		t.Errorf("%d pods are remembered", n)
	}
	change(t, pod, func(p *corev1.Pod) { p.Finalizers = nil })
}

// TestPodsAreNotToldOfWhatIsOnItsWay: a client that is ready or waits for its
// turn is about to write its Secret, and a bundle is being distributed.
func TestPodsAreNotToldOfWhatIsOnItsWay(t *testing.T) {
	w := newWorld(t)
	cart, api := w.cart(), w.api()
	pod := annotatedPod(w.shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token",
		v1alpha1.VerifyAnnotation, w.payments+"/payment-api")
	create(t, cart, api, pod)
	op := startStepped(t)
	notes := noteEvents(op)
	op.advance(time.Minute)
	for name, tc := range map[string]struct {
		ready, distributed conditions.Condition
		want               int
	}{
		"nobody has looked at them": {},
		"they are ready": {
			ready:       conditions.True(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "Ready"),
			distributed: conditions.True(v1alpha1.ConditionDistributed, v1alpha1.ReasonDistributed, "Distributed"),
		},
		"they wait": {
			ready:       conditions.Of(v1alpha1.ConditionReady, &rules.Problem{Reason: v1alpha1.ReasonWaitingForBudget, Message: "Waits", Unknown: true}),
			distributed: conditions.False(v1alpha1.ConditionDistributed, v1alpha1.ReasonDistributing, "On its way"),
		},
		"they fail": {
			ready:       conditions.False(v1alpha1.ConditionReady, v1alpha1.ReasonTokenRequestFailed, "Failed"),
			distributed: conditions.False(v1alpha1.ConditionDistributed, v1alpha1.ReasonNoKeys, "No keys"),
			want:        2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cart.Status.Conditions, api.Status.Conditions = nil, nil
			if tc.ready.Type != "" {
				conditions.Set(&cart.Status.Conditions, 1, tc.ready)
				conditions.Set(&api.Status.Conditions, 1, tc.distributed)
			}
			for _, o := range []client.Object{cart, api} {
				if err := kube.Status().Update(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			op.catchUp(w.shop, w.payments)
			if _, err := op.reconcilePod(pod); err != nil {
				t.Fatal(err)
			}
			if told := notes.take(); len(told) != tc.want {
				t.Errorf("it was told %q", told)
			}
		})
	}
}

// TestANoteFitsIntoAnEvent: whoever writes a long name into an annotation is
// told of it as well.
func TestANoteFitsIntoAnEvent(t *testing.T) {
	w := newWorld(t)
	op := startStepped(t)
	pod := annotatedPod(w.shop, "pod", v1alpha1.InjectedAnnotation, "secret/cart-token")
	create(t, pod)
	op.pod.Events.Eventf(pod, nil, corev1.EventTypeWarning, v1alpha1.ReasonTokenNotReady, "Deliver", "x%s", strings.Repeat("ü", 3000))
	eventually(t, func() error {
		events := eventsOfPod(t, pod)
		if len(events) != 1 || !strings.HasSuffix(events[0], "…") || strings.ContainsRune(events[0], utf8.RuneError) {
			return fmt.Errorf("the events are %q", events)
		}
		return nil
	})
}

// TestPodsAreToldBySomebodysChange: a running operator tells a pod when what it
// waits for goes, and is quiet about one whose objects come with it.
func TestPodsAreToldBySomebodysChange(t *testing.T) {
	w := newWorld(t)
	op := startOperator(t)
	pod := annotatedPod(w.shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token",
		v1alpha1.VerifyAnnotation, w.payments+"/payment-api")
	create(t, pod)
	api, cart := w.story()
	isReady(t, cart)
	isReady(t, api)
	eventually(t, func() error {
		if w.bundleIn(w.shop) == nil {
			return fmt.Errorf("there is no bundle")
		}
		if time.Now().Before(pod.CreationTimestamp.Add(podcontroller.WaitGrace + time.Second)) {
			return fmt.Errorf("the pod is too young to be told anything")
		}
		return idle(t, everyController...)
	})
	if events := eventsOfPod(t, pod); events != nil {
		t.Errorf("a pod that waits for nothing was told %q", events)
	}
	remove(t, api)
	remove(t, cart)
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "cart-token"}}) // as the garbage collector does
	want := []string{
		fmt.Sprintf(`Warning TokenNotReady: Waiting for Secret "cart-token": there is no M2MClient "cart" in namespace %q`, w.shop),
		fmt.Sprintf(`Warning VerificationNotReady: Waiting for ConfigMap "m2m-verify.%s.payment-api": there is no APIResource "payment-api" in namespace %[1]q`, w.payments),
	}
	eventually(t, func() error {
		if diff := cmp.Diff(want, eventsOfPod(t, pod)); diff != "" {
			return fmt.Errorf("the events (-want +got):\n%s", diff)
		}
		return idle(t, everyController...)
	})
	op.stop()
}
