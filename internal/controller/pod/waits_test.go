// SPDX-License-Identifier: Apache-2.0

package pod_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	podcontroller "github.com/m2m-operator/m2m-operator/internal/controller/pod"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestWhatPodsAreTold: a one-line event says what a pod waits for, and why.
func TestWhatPodsAreTold(t *testing.T) {
	cart := []string{v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token"}
	payment := []string{v1alpha1.VerifyAnnotation, "$PAYMENTS/payment-api"}
	const tokenFor = `TokenNotReady: Waiting for Secret "cart-token": `
	const bundleFor = `VerificationNotReady: Waiting for ConfigMap "m2m-verify.$PAYMENTS.payment-api": `
	for name, tc := range map[string]struct {
		set         func(*testing.T, *operator.World)
		watched     bool // only the pod's namespace is watched
		inPayments  bool // the pod is in the API's namespace
		annotations []string
		want        []string
	}{
		"there is no M2MClient": {
			annotations: cart,
			want:        []string{tokenFor + `there is no M2MClient "cart" in namespace "$SHOP"`},
		},
		"the M2MClient is not ready": {
			set: func(t *testing.T, w *operator.World) {
				operator.Create(t, w.Server(w.Shop), w.Server(w.Payments), w.API(), w.Cart())
			},
			annotations: cart,
			want:        []string{tokenFor + `M2MClient "cart" is not ready: Secret "cart-credentials" does not exist`},
		},
		"the M2MClient writes another Secret": {
			set: func(t *testing.T, w *operator.World) {
				_, cart := w.Story()
				operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Spec.Secret.Name = "tokens" })
			},
			annotations: cart,
			want:        []string{`TokenNotReady: This pod mounts Secret "cart-token", but M2MClient "cart" now writes Secret "tokens": recreate the pod`},
		},
		"everything is there": {
			set:         func(_ *testing.T, w *operator.World) { w.Story() },
			annotations: append([]string{v1alpha1.VerifyAnnotation, "$PAYMENTS/payment-api"}, cart...),
		},
		"a foreign Secret is mounted": {
			set: func(t *testing.T, w *operator.World) {
				operator.Create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}})
			},
			annotations: cart,
		},
		"nothing was injected for the M2MClient": {annotations: []string{v1alpha1.ClientAnnotation, "cart"}},
		"no annotation names the M2MClient":      {annotations: []string{v1alpha1.InjectedAnnotation, "secret/cart-token"}},
		"there is no APIResource": {
			annotations: payment,
			want:        []string{bundleFor + `there is no APIResource "payment-api" in namespace "$PAYMENTS"`},
		},
		"the APIResource of the pod's namespace is not accepted": {
			set:         func(t *testing.T, w *operator.World) { operator.Create(t, w.API()) },
			inPayments:  true,
			annotations: []string{v1alpha1.VerifyAnnotation, "payment-api", v1alpha1.InjectedAnnotation, "configmap/m2m-verify.$PAYMENTS.payment-api"},
			want:        []string{bundleFor + `APIResource "payment-api" is not accepted: AuthorizationServer "auth" does not exist in namespace "$PAYMENTS"`},
		},
		"the APIResource of another namespace is not accepted": {
			set:         func(t *testing.T, w *operator.World) { operator.Create(t, w.API()) },
			annotations: payment,
			want:        []string{bundleFor + `APIResource "payment-api" of namespace "$PAYMENTS" is not accepted (AuthorizationServerNotFound)`},
		},
		"no signing key is known": {
			set: func(t *testing.T, w *operator.World) {
				w.AS.SetFault(oidc.JWKS, &oidc.Fault{Status: http.StatusServiceUnavailable})
				operator.Create(t, w.Server(w.Payments), w.API())
			},
			inPayments:  true,
			annotations: payment,
			want:        []string{bundleFor + `APIResource "payment-api" is not distributed: No signing key of AuthorizationServer "auth" is known yet`},
		},
		"the server's tokens are opaque": {
			set: func(t *testing.T, w *operator.World) {
				as := w.Server(w.Payments)
				as.Spec.TokenFormat = v1alpha1.TokenFormatOpaque
				operator.Create(t, as, w.API())
			},
			annotations: payment,
			want:        []string{bundleFor + `APIResource "payment-api" of namespace "$PAYMENTS" is not distributed (OpaqueToken)`},
		},
		"the APIResource's namespace is not watched": {
			set:         func(_ *testing.T, w *operator.World) { w.Story() },
			watched:     true,
			annotations: payment,
			want:        []string{bundleFor + `the operator does not watch namespace "$PAYMENTS" (--watch-namespaces)`},
		},
		"impossible names": {
			annotations: []string{v1alpha1.VerifyAnnotation, "Payment, a/b/c,"},
			want:        []string{`VerificationNotReady: The annotation m2m-operator.io/verify names APIResources that cannot exist: ["Payment" "a/b/c"]`},
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
			w := operator.NewWorld(t)
			namespaces := strings.NewReplacer("$SHOP", w.Shop, "$PAYMENTS", w.Payments)
			if tc.set != nil {
				tc.set(t, w)
			}
			pod := operator.AnnotatedPod(w.Shop, "pod", tc.annotations...)
			if tc.inPayments {
				pod.Namespace = w.Payments
			}
			for k, v := range pod.Annotations {
				pod.Annotations[k] = namespaces.Replace(v)
			}
			operator.Create(t, pod)
			settled := []string{w.Shop, w.Payments}
			op := operator.StartStepped(t, func(o *controller.Options) {
				if tc.watched {
					settled = settled[:1]
					o.WatchNamespaces = settled
				}
			})
			notes := operator.NoteEvents(op)
			op.Settle(settled...)
			if early := notes.Take(); early != nil && op.Clock.Now().Before(pod.CreationTimestamp.Add(podcontroller.WaitGrace)) {
				t.Errorf("it got an event at once: %q", early)
			}
			op.Advance(podcontroller.WaitGrace)
			op.Settle(settled...)
			var want, recorded []string
			for _, n := range tc.want {
				want = append(want, "pod: "+namespaces.Replace(n))
				recorded = append(recorded, "Warning "+namespaces.Replace(n))
			}
			if diff := cmp.Diff(want, notes.Take()); diff != "" {
				t.Errorf("its events (-want +got):\n%s", diff)
			}
			op.Advance(time.Second)
			op.Settle(settled...)
			if again := notes.Take(); again != nil {
				t.Errorf("it got another event: %q", again)
			}
			operator.Eventually(t, func() error {
				if diff := cmp.Diff(recorded, operator.EventsOfPod(t, pod)); diff != "" {
					return fmt.Errorf("the events (-want +got):\n%s", diff)
				}
				return nil
			})
		})
	}
}

// TestPodsAreToldOfAWithdrawnToken: the Secret stays when a grant is withdrawn, so pods neither wait
// for the token nor have it. Those that run and those that start later are told.
func TestPodsAreToldOfAWithdrawnToken(t *testing.T) {
	w := operator.NewWorld(t)
	api, _ := w.Story()
	running := operator.AnnotatedPod(w.Shop, "running", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, running)
	op := operator.StartStepped(t)
	notes := operator.NoteEvents(op)
	advance := func() {
		op.Settle(w.Shop, w.Payments)
		op.Advance(podcontroller.WaitGrace)
		op.Settle(w.Shop, w.Payments)
	}
	advance()
	if got := notes.Take(); got != nil {
		t.Fatalf("with its token, a pod was told %q", got)
	}
	operator.Change(t, api, func(a *v1alpha1.APIResource) { a.Spec.Grants = nil })
	advance()
	told := `: TokenNotReady: Secret "cart-token" has no token payment-api, and the pod runs without: M2MClient "cart" is not ready: ` +
		`APIResource "` + w.Payments + `/payment-api" grants nothing to M2MClient "cart" of namespace "` + w.Shop + `"; its owner can add a grant`
	if diff := cmp.Diff([]string{"running" + told}, notes.Take()); diff != "" {
		t.Errorf("the running pod (-want +got):\n%s", diff)
	}
	var secret corev1.Secret
	if err := operator.Kube.Get(t.Context(), client.ObjectKey{Namespace: w.Shop, Name: "cart-token"}, &secret); err != nil || len(secret.Data) != 0 {
		t.Errorf("the Secret has %d keys: %v", len(secret.Data), err)
	}
	operator.Create(t, operator.AnnotatedPod(w.Shop, "new", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token"))
	advance()
	if diff := cmp.Diff([]string{"new" + told}, notes.Take()); diff != "" {
		t.Errorf("the new pod (-want +got):\n%s", diff)
	}
}

// TestWhenPodsAreTold follows a waiting pod. It gets an event for each cause after it
// has waited for a moment, no other while the cause is the same, and another before
// the API server forgets the event.
func TestWhenPodsAreTold(t *testing.T) {
	w := operator.NewWorld(t)
	op := operator.StartStepped(t)
	notes := operator.NoteEvents(op)
	pod := operator.AnnotatedPod(w.Shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, pod)
	op.CatchUp(w.Shop, w.Payments)
	op.Clock.SetTime(pod.CreationTimestamp.Time)
	is := func(what string, wait time.Duration, want ...string) {
		t.Helper()
		op.Settle(w.Shop, w.Payments)
		for i := range want {
			want[i] = `pod: TokenNotReady: Waiting for Secret "cart-token": ` + want[i]
		}
		if diff := cmp.Diff(want, notes.Take()); diff != "" {
			t.Errorf("events after %s (-want +got):\n%s", what, diff)
		}
		after, err := op.ReconcilePod(pod)
		if err != nil {
			t.Fatal(err)
		}
		if after != wait {
			t.Errorf("after %s, it is reconciled again after %v, want %v", what, after, wait)
		}
	}
	none := fmt.Sprintf("there is no M2MClient %q in namespace %q", "cart", w.Shop)
	const notReady = `M2MClient "cart" is not ready: `
	noCredentials := notReady + `Secret "cart-credentials" does not exist`

	is("its creation", podcontroller.WaitGrace)
	op.Advance(podcontroller.WaitGrace - time.Second)
	is("4 seconds", time.Second)
	op.Advance(time.Second)
	is("5 seconds", podcontroller.TellEvery, none)
	op.Advance(podcontroller.TellEvery - time.Second)
	is("most of an hour", time.Second)
	op.Advance(time.Second)
	is("50 minutes", podcontroller.TellEvery, none)

	operator.Create(t, w.Server(w.Shop), w.Server(w.Payments), w.API(), w.Cart())
	op.Until(w, func() bool { return len(notes.Notes) > 0 })
	is("the client's creation", podcontroller.TellEvery, noCredentials)
	operator.Remove(t, w.Cart())
	is("the client's quick deletion", podcontroller.TellEvery) // it got an event a moment ago
	op.Advance(podcontroller.ForgetAfter)
	is("more of that", podcontroller.TellEvery-podcontroller.ForgetAfter)
	operator.Create(t, w.Cart())
	is("the client's return", podcontroller.TellEvery, noCredentials)

	secret := operator.NewSecret()
	w.SetClient(operator.CartID, secret)
	operator.Create(t, w.Secret("cart-credentials", operator.CartID, secret))
	op.Advance(time.Minute)
	is("the token's coming", 0)
	if n := len(op.Pods.Told.Pods); n != 0 {
		t.Errorf("%d pods are remembered", n)
	}

	operator.Remove(t, w.Cart())
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}})
	is("the client's end", podcontroller.TellEvery, none)
	if err := operator.Kube.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	pod = operator.AnnotatedPod(w.Shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, pod)
	is("the pod's successor came", podcontroller.TellEvery, none)
	operator.Change(t, pod, func(p *corev1.Pod) { p.Finalizers = []string{"example.com/wait"} })
	operator.Remove(t, pod)
	is("the pod's end", 0)
	if n := len(op.Pods.Told.Pods); n != 0 {
		t.Errorf("%d pods are remembered", n)
	}
	operator.Change(t, pod, func(p *corev1.Pod) { p.Finalizers = nil })
}

// TestPodsAreNotToldOfWhatIsOnItsWay: a client that is ready, or waits for its turn,
// will write its Secret soon, and so will an APIResource its bundle.
func TestPodsAreNotToldOfWhatIsOnItsWay(t *testing.T) {
	w := operator.NewWorld(t)
	cart, api := w.Cart(), w.API()
	pod := operator.AnnotatedPod(w.Shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token",
		v1alpha1.VerifyAnnotation, w.Payments+"/payment-api")
	operator.Create(t, cart, api, pod)
	op := operator.StartStepped(t)
	notes := operator.NoteEvents(op)
	op.Advance(time.Minute)
	for name, tc := range map[string]struct {
		ready, distributed conditions.Condition
		want               int
	}{
		"they are not reconciled yet": {},
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
				if err := operator.Kube.Status().Update(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			op.CatchUp(w.Shop, w.Payments)
			if _, err := op.ReconcilePod(pod); err != nil {
				t.Fatal(err)
			}
			if told := notes.Take(); len(told) != tc.want {
				t.Errorf("it got the events %q", told)
			}
		})
	}
}

// TestANoteFitsIntoAnEvent: a long name in an annotation still causes an event.
func TestANoteFitsIntoAnEvent(t *testing.T) {
	w := operator.NewWorld(t)
	op := operator.StartStepped(t)
	pod := operator.AnnotatedPod(w.Shop, "pod", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, pod)
	op.Pods.Events.Eventf(pod, nil, corev1.EventTypeWarning, v1alpha1.ReasonTokenNotReady, "Deliver", "x%s", strings.Repeat("ü", 3000))
	operator.Eventually(t, func() error {
		events := operator.EventsOfPod(t, pod)
		if len(events) != 1 || !strings.HasSuffix(events[0], "…") || strings.ContainsRune(events[0], utf8.RuneError) {
			return fmt.Errorf("the events are %q", events)
		}
		return nil
	})
}

// TestPodsAreToldBySomebodysChange: a running operator reports to a pod that what it
// waits for was deleted, and creates no event for a pod whose objects arrive with it.
func TestPodsAreToldBySomebodysChange(t *testing.T) {
	w := operator.NewWorld(t)
	op := operator.Start(t)
	pod := operator.AnnotatedPod(w.Shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token",
		v1alpha1.VerifyAnnotation, w.Payments+"/payment-api")
	operator.Create(t, pod)
	api, cart := w.Story()
	operator.IsReady(t, cart)
	operator.IsReady(t, api)
	operator.Eventually(t, func() error {
		if w.BundleIn(w.Shop) == nil {
			return fmt.Errorf("there is no bundle")
		}
		if time.Now().Before(pod.CreationTimestamp.Add(podcontroller.WaitGrace + time.Second)) {
			return fmt.Errorf("the pod is too young for an event")
		}
		return operator.Idle(t, operator.EveryController...)
	})
	if events := operator.EventsOfPod(t, pod); events != nil {
		t.Errorf("a pod that waits for nothing got the events %q", events)
	}
	// The pod's annotations do not say that it mounts the bundle, which goes after its
	// APIResource. The last of these deletions must tell the pod.
	operator.Remove(t, cart)
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}}) // as the garbage collector does
	operator.Eventually(t, func() error {
		if len(operator.EventsOfPod(t, pod)) == 0 {
			return errors.New("the pod is not told of its token")
		}
		return operator.Idle(t, operator.EveryController...)
	})
	operator.Remove(t, api)
	want := []string{
		fmt.Sprintf(`Warning TokenNotReady: Waiting for Secret "cart-token": there is no M2MClient "cart" in namespace %q`, w.Shop),
		fmt.Sprintf(`Warning VerificationNotReady: Waiting for ConfigMap "m2m-verify.%s.payment-api": there is no APIResource "payment-api" in namespace %[1]q`, w.Payments),
	}
	// On a busy machine the pod may be told what holds between the deletions, too: the token
	// is taken out of the Secret, because the API is gone.
	between := func(event string) bool { return strings.Contains(event, "and the pod runs without") }
	operator.Eventually(t, func() error {
		if diff := cmp.Diff(want, slices.DeleteFunc(operator.EventsOfPod(t, pod), between)); diff != "" {
			return fmt.Errorf("the events (-want +got):\n%s", diff)
		}
		return operator.Idle(t, operator.EveryController...)
	})
	op.Stop()
}
