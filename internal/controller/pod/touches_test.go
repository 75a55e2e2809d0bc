// SPDX-License-Identifier: Apache-2.0

package pod_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestWhichPodsAreTouched varies a pod's creation and last touch, the time since when
// the pod must see what it mounts, and the clock.
func TestWhichPodsAreTouched(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewNamespace(t, "touch", nil)
	after := func(d time.Duration) func(time.Time) string {
		return func(created time.Time) string { return created.Add(d).Format(time.RFC3339Nano) }
	}
	always := func(s string) func(time.Time) string { return func(time.Time) string { return s } }
	secret, configMap := watch.Mount{Kind: watch.MountedSecret, Name: "token"}, watch.Mount{Kind: watch.MountedConfigMap, Name: "bundle"}
	for name, tc := range map[string]struct {
		injected string // InjectedAnnotation; default: the Secret
		since    func(created time.Time) string
		other    func(created time.Time) string // the same of the ConfigMap
		touched  func(created time.Time) string
		foreign  bool // the Secret is not the operator's
		ends     bool // the pod is being deleted
		now      time.Duration
		want     time.Duration // the present, after the creation, if the pod is touched; zero: it is not
	}{
		"the change came after the pod":                                     {since: after(4 * time.Second), now: 5 * time.Second, want: 5 * time.Second},
		"the change came in the second of the pod's creation":               {since: after(300 * time.Millisecond), now: time.Second, want: time.Second},
		"the change came at the full second of its creation":                {since: after(0), now: time.Second, want: time.Second},
		"the pod came at the time of the change, as far as clocks can tell": {since: after(-delivery.ClockSkew), now: time.Second, want: time.Second},
		"the pod came after the change":                                     {since: after(-delivery.ClockSkew - time.Millisecond), now: time.Second},
		"it was touched after the change":                                   {since: after(4 * time.Second), touched: after(5 * time.Second), now: 6 * time.Second},
		"it was touched at the same time":                                   {since: after(4 * time.Second), touched: after(4 * time.Second), now: 6 * time.Second},
		"it was touched before the change":                                  {since: after(4 * time.Second), touched: after(3999 * time.Millisecond), now: 6 * time.Second, want: 6 * time.Second},
		"the kubelet must have shown the change by now":                     {since: after(4 * time.Second), now: 4*time.Second + delivery.KubeletDelay},
		"the kubelet may not have shown the change yet":                     {since: after(4 * time.Second), now: 3*time.Second + delivery.KubeletDelay, want: 3*time.Second + delivery.KubeletDelay},
		"no change is urgent":                                               {now: time.Second},
		"the change has an unreadable time":                                 {since: always("yesterday"), now: time.Second},
		"the change has an empty time":                                      {since: always("2026-11-24"), now: time.Second},
		"the former leader's clock is a little ahead":                       {since: after(9 * time.Second), now: 5 * time.Second, want: 9 * time.Second},
		"the change lies far in the future":                                 {since: always("2999-01-01T00:00:00Z"), now: time.Second},
		"the last touch is unreadable":                                      {since: after(4 * time.Second), touched: always("often"), now: 5 * time.Second, want: 5 * time.Second},
		"the last touch lies far in the future":                             {since: after(4 * time.Second), touched: always("2999-01-01T00:00:00Z"), now: 5 * time.Second, want: 5 * time.Second},
		"the Secret is not the operator's":                                  {since: after(4 * time.Second), foreign: true, now: 5 * time.Second},
		"the pod is being deleted":                                          {since: after(4 * time.Second), ends: true, now: 5 * time.Second},
		"the pod mounts another Secret":                                     {injected: "secret/other", since: after(4 * time.Second), now: 5 * time.Second},
		"the pod mounts a ConfigMap of the Secret's name":                   {injected: "configmap/token", since: after(4 * time.Second), now: 5 * time.Second},
		"the annotation about mounts is unreadable":                         {injected: "secret, /token,token,volume/token,", since: after(4 * time.Second), now: 5 * time.Second},
		"of two objects, the ConfigMap changed":                             {injected: "secret/token,configmap/bundle", other: after(4 * time.Second), now: 5 * time.Second, want: 5 * time.Second},
		"both changed":                                                      {injected: "secret/token, configmap/bundle", since: after(3 * time.Second), other: after(4 * time.Second), now: 5 * time.Second, want: 5 * time.Second},
		"the pod has seen one of both changes":                              {injected: "configmap/bundle,secret/token", since: after(3 * time.Second), other: after(5 * time.Second), touched: after(4 * time.Second), now: 6 * time.Second, want: 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			injected := tc.injected
			if injected == "" {
				injected = secret.String()
			}
			pod := operator.AnnotatedPod(ns, "pod", v1alpha1.InjectedAnnotation, injected)
			if tc.ends {
				pod.Finalizers = []string{"example.com/wait"}
			}
			operator.Create(t, pod)
			created := pod.CreationTimestamp.Time
			if tc.touched != nil {
				operator.Change(t, pod, func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] = tc.touched(created) })
			}
			if tc.ends {
				operator.Remove(t, pod)
			}
			var objects []client.Object
			for m, since := range map[watch.Mount]func(time.Time) string{secret: tc.since, configMap: tc.other} {
				if since == nil {
					since = always("")
				}
				o := operator.PromptObject(ns, m, since(created))
				if tc.foreign {
					o.SetLabels(nil)
				}
				objects = append(objects, o)
			}
			operator.Create(t, objects...)
			defer func() {
				for _, o := range objects {
					operator.Remove(t, o)
				}
				if tc.ends {
					operator.Change(t, pod, func(p *corev1.Pod) { p.Finalizers = nil })
				}
				_ = operator.Kube.Delete(t.Context(), pod, client.GracePeriodSeconds(0))
			}()
			before := pod.DeepCopy()
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(pod), before); err != nil {
				t.Fatal(err)
			}

			op.CatchUp(ns)
			op.Clock.SetTime(created.Add(tc.now))
			for range 2 {
				if _, err := op.ReconcilePod(pod); err != nil {
					t.Fatal(err)
				}
			}
			if tc.want != 0 {
				before.Annotations[v1alpha1.TouchedAtAnnotation] = created.Add(tc.want).UTC().Format(time.RFC3339Nano)
			}
			operator.TouchedAt(t, pod)
			if diff := cmp.Diff(before, pod, cmpopts.IgnoreFields(metav1.ObjectMeta{}, "ManagedFields", "ResourceVersion")); diff != "" {
				t.Errorf("the pod (-want +got):\n%s", diff)
			}
		})
	}
}

// TestATouchForEachPromptChange: each change that pods must see at once touches every
// pod that mounts the object once, and other changes touch no pod.
func TestATouchForEachPromptChange(t *testing.T) {
	op := operator.StartStepped(t)
	ns, elsewhere := operator.NewNamespace(t, "touch", nil), operator.NewNamespace(t, "touch", nil)
	secret := watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}
	one, two := operator.AnnotatedPod(ns, "one", v1alpha1.InjectedAnnotation, "secret/cart-token"), operator.AnnotatedPod(ns, "two", v1alpha1.InjectedAnnotation, "configmap/b,secret/cart-token")
	pods := []*corev1.Pod{
		one, two,
		operator.AnnotatedPod(ns, "not-injected", v1alpha1.ClientAnnotation, "cart"),
		operator.AnnotatedPod(ns, "foreign"),
		operator.AnnotatedPod(ns, "other-secret", v1alpha1.InjectedAnnotation, "secret/cart-token-2"),
		operator.AnnotatedPod(elsewhere, "other-namespace", v1alpha1.InjectedAnnotation, "secret/cart-token"),
	}
	for _, p := range pods {
		operator.Create(t, p)
	}
	o := operator.PromptObject(ns, secret, "").(*corev1.Secret)
	operator.Create(t, o, operator.PromptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token-2"}, ""), operator.PromptObject(elsewhere, secret, ""))
	var count int
	then := func(what string, want ...*corev1.Pod) {
		t.Helper()
		op.Settle(ns, elsewhere)
		var touched []string
		for _, p := range pods {
			if operator.TouchedAt(t, p) == delivery.Moment(op.Clock.Now()) {
				touched = append(touched, p.Name)
			}
		}
		var names []string
		for _, p := range want {
			names = append(names, p.Name)
		}
		if diff := cmp.Diff(names, touched); diff != "" {
			t.Errorf("%s: pods touched (-want +got):\n%s", what, diff)
		}
		if n := op.Touches() - count; n != len(want) {
			t.Errorf("%s: pods were patched %d times, not %d", what, n, len(want))
		}
		count = op.Touches()
		op.Advance(5 * time.Second)
	}
	op.Advance(5 * time.Second)
	prompt := func() {
		operator.Change(t, o, func(s *corev1.Secret) {
			s.Annotations = map[string]string{v1alpha1.PromptSinceAnnotation: delivery.Moment(op.Clock.Now())}
		})
	}

	then("the beginning")
	prompt()
	then("a change that must be seen", one, two)
	then("nothing")
	operator.Change(t, o, func(s *corev1.Secret) { s.Data = map[string][]byte{"payment-api": []byte("next")} })
	then("a routine refresh")
	prompt()
	then("another change that must be seen", one, two)
	prompt()
	op.Advance(delivery.KubeletDelay)
	then("a change that the kubelet has shown")
	prompt()
	operator.Change(t, one, func(p *corev1.Pod) { delete(p.Annotations, v1alpha1.InjectedAnnotation) })
	then("a change after one pod lost its annotation", two)
}

// TestARestartBeforeAllPodsAreTouched: the next process touches the remaining pods.
func TestARestartBeforeAllPodsAreTouched(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewNamespace(t, "touch", nil)
	var pods []*corev1.Pod
	for i := range 6 {
		pods = append(pods, operator.AnnotatedPod(ns, fmt.Sprintf("pod-%d", i), v1alpha1.InjectedAnnotation, "secret/cart-token"))
		operator.Create(t, pods[i])
	}
	since := pods[5].CreationTimestamp.Add(time.Second)
	operator.Create(t, operator.PromptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}, delivery.Moment(since)))
	op.CatchUp(ns)
	first := since.Add(30 * time.Second)
	op.Clock.SetTime(first)
	for _, p := range pods[:3] {
		if _, err := op.ReconcilePod(p); err != nil {
			t.Fatal(err)
		}
	}
	op.Stop()

	op = operator.Start(t)
	operator.Eventually(t, func() error {
		for _, p := range pods {
			if operator.TouchedAt(t, p) == "" {
				return fmt.Errorf("pod %q is not touched", p.Name)
			}
		}
		return operator.Idle(t, operator.EveryController...)
	})
	op.Stop()
	if n := op.Touches(); n != 3 {
		t.Errorf("the next process patched pods %d times, not 3", n)
	}
	for i, p := range pods {
		if before := operator.TouchedAt(t, p) == delivery.Moment(first); before != (i < 3) {
			t.Errorf("pod %q was touched at %s", p.Name, operator.TouchedAt(t, p))
		}
	}
}

// TestAFloodOfPods: two hundred replicas are touched once each, soon after the
// change, and their neighbours are not.
func TestAFloodOfPods(t *testing.T) {
	const replicas = 200
	ns := operator.NewNamespace(t, "touch", nil)
	pods := make([]*corev1.Pod, replicas)
	inParallel := func(fn func(i int) error) {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(16)
		for i := range replicas {
			g.Go(func() error { return fn(i) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	inParallel(func(i int) error {
		pods[i] = operator.AnnotatedPod(ns, fmt.Sprintf("pod-%03d", i), v1alpha1.InjectedAnnotation, "secret/cart-token")
		return errors.Join(operator.Kube.Create(t.Context(), pods[i]), operator.Kube.Create(t.Context(), operator.AnnotatedPod(ns, fmt.Sprintf("foreign-%03d", i))))
	})
	secret := operator.PromptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}, "").(*corev1.Secret)
	operator.Create(t, secret)
	op := operator.Start(t)
	seen := operator.Reconciled(t, "pod")
	operator.Eventually(t, func() error {
		if n := operator.Reconciled(t, "pod") - seen; n < replicas {
			return fmt.Errorf("%d pods were reconciled", n)
		}
		return operator.Idle(t, operator.EveryController...)
	})
	since := time.Now()
	operator.Change(t, secret, func(s *corev1.Secret) {
		s.Annotations = map[string]string{v1alpha1.PromptSinceAnnotation: delivery.Moment(since)}
	})
	var delays []time.Duration
	operator.Eventually(t, func() error {
		var list corev1.PodList
		if err := operator.Kube.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			return err
		}
		delays = nil
		for i := range list.Items {
			if at := watch.MomentIn(&list.Items[i], v1alpha1.TouchedAtAnnotation); !at.IsZero() {
				delays = append(delays, at.Sub(since))
				if strings.HasPrefix(list.Items[i].Name, "foreign") {
					t.Fatalf("pod %q was touched", list.Items[i].Name)
				}
			}
		}
		if len(delays) < replicas {
			return fmt.Errorf("%d pods were touched", len(delays))
		}
		return operator.Idle(t, operator.EveryController...)
	})
	slices.Sort(delays)
	t.Logf("of %d pods the first was touched after %v, half of them after %v, all after %v", replicas, delays[0], delays[replicas/2], delays[replicas-1])
	if n := op.Touches(); n != replicas {
		t.Errorf("pods were patched %d times, not %d", n, replicas)
	}
}

// TestAChangeOfAnObjectTouchesItsPods: in a running operator, the event of the object
// itself causes the touches, also when the object is created.
func TestAChangeOfAnObjectTouchesItsPods(t *testing.T) {
	operator.Start(t)
	for _, kind := range []string{watch.MountedSecret, watch.MountedConfigMap} {
		t.Run(kind, func(t *testing.T) {
			ns := operator.NewNamespace(t, "touch", nil)
			m := watch.Mount{Kind: kind, Name: "mounted"}
			pod := operator.AnnotatedPod(ns, "pod", v1alpha1.InjectedAnnotation, m.String())
			operator.Create(t, pod)
			operator.Eventually(t, func() error { return operator.Idle(t, operator.EveryController...) })
			created := pod.CreationTimestamp
			touched := func(since time.Time) {
				t.Helper()
				operator.Eventually(t, func() error {
					if operator.TouchedAt(t, pod); watch.MomentIn(pod, v1alpha1.TouchedAtAnnotation).Before(since) {
						return errors.New("the pod is not touched")
					}
					return nil
				})
			}
			o := operator.PromptObject(ns, m, delivery.Moment(created.Add(time.Second)))
			operator.Create(t, o)
			touched(created.Add(time.Second))
			later := created.Add(30 * time.Second) // the operator's clock need not be the test's
			operator.Change(t, o, func(o client.Object) {
				o.SetAnnotations(map[string]string{v1alpha1.PromptSinceAnnotation: delivery.Moment(later)})
			})
			touched(later)
		})
	}
}

// TestWhatPodsAreNotLookedAtFor: status updates of kubelets, foreign pods, and routine
// refreshes of mounted objects cause no work.
func TestWhatPodsAreNotLookedAtFor(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	pod := operator.AnnotatedPod(w.Shop, "pod", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token",
		v1alpha1.VerifyAnnotation, w.Payments+"/payment-api")
	operator.Create(t, pod)
	operator.Start(t)
	operator.IsReady(t, cart)
	operator.Eventually(t, func() error {
		if w.BundleIn(w.Shop) == nil {
			return errors.New("there is no bundle")
		}
		return operator.Idle(t, operator.EveryController...)
	})
	before := operator.Reconciled(t, "pod")
	pod.Status.Phase = corev1.PodRunning
	if err := operator.Kube.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	operator.Change(t, pod, func(p *corev1.Pod) { p.Labels["app"] = "next" })
	operator.Create(t, operator.AnnotatedPod(w.Shop, "foreign"))
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}}
	operator.Change(t, secret, func(s *corev1.Secret) { s.Labels["team"] = "shop" })
	operator.Change(t, cart, func(c *v1alpha1.M2MClient) { c.Labels = map[string]string{"team": "shop"} })
	// A later change of interest does cause work.
	operator.Change(t, pod, func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] = "now" })
	operator.Eventually(t, func() error {
		if n := operator.Reconciled(t, "pod") - before; n < 1 {
			return fmt.Errorf("the pod was not reconciled")
		}
		return operator.Idle(t, operator.EveryController...)
	})
	if n := operator.Reconciled(t, "pod") - before; n != 1 {
		t.Errorf("pods were reconciled %d times, not once", n)
	}
}

// TestPromptDeliveryCanBeSwitchedOff: without the flag and without the permission no
// pod is touched, and everything else works.
func TestPromptDeliveryCanBeSwitchedOff(t *testing.T) {
	w := operator.NewWorld(t)
	_, cart := w.Story()
	pod := operator.AnnotatedPod(w.Shop, "cart", v1alpha1.InjectedAnnotation, "secret/prompt")
	operator.Create(t, pod)
	operator.Create(t, operator.PromptObject(w.Shop, watch.Mount{Kind: watch.MountedSecret, Name: "prompt"}, delivery.Moment(pod.CreationTimestamp.Add(time.Second))))
	seen := operator.Reconciled(t, "pod")
	op := operator.StartOver(t, operator.Restricted(t), func(o *controller.Options) { o.PromptDelivery = false })
	operator.IsReady(t, cart)
	operator.Eventually(t, func() error {
		if operator.Reconciled(t, "pod") == seen {
			return errors.New("the pod was not reconciled")
		}
		return operator.Idle(t, operator.EveryController...)
	})
	op.Stop()
	if n := op.Touches(); n != 0 || operator.TouchedAt(t, pod) != "" {
		t.Errorf("pods were patched %d times", n)
	}
}

// TestARefusedTouchIsNotRepeated: if the permission is missing, pods see the change
// when their kubelets look again. The log says so once.
func TestARefusedTouchIsNotRepeated(t *testing.T) {
	ns := operator.NewNamespace(t, "touch", nil)
	for i := range 5 {
		operator.Create(t, operator.AnnotatedPod(ns, fmt.Sprintf("pod-%d", i), v1alpha1.InjectedAnnotation, "secret/cart-token"))
	}
	before, _ := operator.MetricOf(t, "m2m_pod_touches_total", map[string]string{"result": "refused"})
	logged := strings.Count(operator.Logs.String(), "Failed to touch a pod")
	op := operator.StartOver(t, operator.Restricted(t))
	operator.Create(t, operator.PromptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}, delivery.Moment(time.Now())))
	refusals := func() int {
		n, _ := operator.MetricOf(t, "m2m_pod_touches_total", map[string]string{"result": "refused"})
		return int(n - before)
	}
	operator.Eventually(t, func() error {
		if n := refusals(); n < 5 {
			return fmt.Errorf("%d touches were refused", n)
		}
		return operator.Idle(t, operator.EveryController...)
	})
	op.Stop()
	if refusals() != 5 || op.Touches() != 5 {
		t.Errorf("of %d touches %d were refused; each of 5 pods should be tried once", op.Touches(), refusals())
	}
	if n := strings.Count(operator.Logs.String(), "Failed to touch a pod") - logged; n != 1 {
		t.Errorf("it was logged %d times", n)
	}
}

// TestWhatIsKeptOfPods: the cache keeps little more than the name of pods without our
// annotations, and nothing of finished pods.
func TestWhatIsKeptOfPods(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewNamespace(t, "kept", nil)
	owner := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart", UID: "1"}}
	foreign := operator.AnnotatedPod(ns, "foreign", "kubectl.kubernetes.io/last-applied-configuration", strings.Repeat("x", 10_000))
	own := operator.AnnotatedPod(ns, "own", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token",
		v1alpha1.VerifyAnnotation, "payment-api", v1alpha1.TouchedAtAnnotation, "never", v1alpha1.ContainersAnnotation, "main")
	finished := operator.AnnotatedPod(ns, "finished", v1alpha1.InjectedAnnotation, "secret/cart-token")
	foreign.OwnerReferences, own.OwnerReferences = owner, owner
	operator.Create(t, foreign, own, finished)
	finished.Status.Phase = corev1.PodSucceeded
	if err := operator.Kube.Status().Update(t.Context(), finished); err != nil {
		t.Fatal(err)
	}
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	got := map[string]metav1.ObjectMeta{}
	operator.Eventually(t, func() error {
		clear(got)
		if err := op.Client.List(t.Context(), pods, client.InNamespace(ns)); err != nil {
			return err
		}
		for _, p := range pods.Items {
			got[p.Name] = p.ObjectMeta
		}
		if _, ok := got["finished"]; ok || len(got) < 2 {
			return fmt.Errorf("the cache has %d pods, with the finished one %v", len(got), ok)
		}
		return nil
	})
	want := map[string]metav1.ObjectMeta{
		"foreign": {Name: "foreign", Namespace: ns, ResourceVersion: foreign.ResourceVersion},
		"own": {
			Name: "own", Namespace: ns, ResourceVersion: own.ResourceVersion, UID: own.UID, CreationTimestamp: own.CreationTimestamp,
			Annotations: map[string]string{
				v1alpha1.ClientAnnotation: "cart", v1alpha1.InjectedAnnotation: "secret/cart-token",
				v1alpha1.VerifyAnnotation: "payment-api", v1alpha1.TouchedAtAnnotation: "never",
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the cache (-want +got):\n%s", diff)
	}
}
