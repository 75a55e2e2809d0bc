// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

const (
	// WaitGrace is how old a pod must be before it is told what it waits for: objects
	// that belong together are often applied together.
	WaitGrace = 5 * time.Second

	// TellEvery is how often a pod is told that it still waits. The API server drops
	// events after an hour.
	TellEvery = 50 * time.Minute

	// ForgetAfter is how long a wait still counts as told after it has ended. So a
	// condition that flips back and forth does not cause an event each time.
	ForgetAfter = 5 * time.Minute
)

// wait is something that a pod waits for in vain.
type wait struct {
	reason  string
	message string
	about   client.Object // the object to fix; another one makes another event
	cause   string        // tells waits for the same object apart
}

func (w *wait) key() string {
	o := w.about
	return strings.Join([]string{w.reason, w.cause, fmt.Sprintf("%T", o), o.GetNamespace(), o.GetName()}, " ")
}

// waitsOf returns everything that a pod waits for.
func (r *Reconciler) waitsOf(ctx context.Context, pod client.Object) ([]wait, error) {
	w, err := r.tokenWait(ctx, pod)
	if err != nil {
		return nil, err
	}
	var waits []wait
	if w != nil {
		waits = append(waits, *w)
	}
	waits = append(waits, misplacedWait(pod, "write an annotation on the pod template")...)
	if missing := pod.GetAnnotations()[v1alpha1.MissingContainersAnnotation]; missing != "" {
		waits = append(waits, wait{
			reason: v1alpha1.ReasonContainersNotFound, about: pod, cause: missing,
			message: fmt.Sprintf("The annotation %s names containers that the pod did not have when it was created, so nothing was injected into them: %q",
				v1alpha1.ContainersAnnotation, strings.Split(missing, ",")),
		})
	}
	refs, invalid := v1alpha1.ParseVerify(pod.GetAnnotations()[v1alpha1.VerifyAnnotation], pod.GetNamespace())
	if len(invalid) > 0 {
		waits = append(waits, wait{
			reason: v1alpha1.ReasonVerificationNotReady, about: pod, cause: strings.Join(invalid, ","),
			message: fmt.Sprintf("The annotation %s names APIResources that cannot exist: %q", v1alpha1.VerifyAnnotation, invalid),
		})
	}
	for _, ref := range refs {
		w, err := r.verificationWait(ctx, pod.GetNamespace(), ref)
		if err != nil {
			return nil, err
		}
		if w != nil {
			waits = append(waits, *w)
		}
	}
	return waits, nil
}

// tokenWait returns what keeps a pod from its injected token Secret, nil if nothing does.
func (r *Reconciler) tokenWait(ctx context.Context, pod client.Object) (*wait, error) {
	mounts := watch.MountsOf(pod)
	i := slices.IndexFunc(mounts, func(m watch.Mount) bool { return m.Kind == watch.MountedSecret })
	name, ok := pod.GetAnnotations()[v1alpha1.ClientAnnotation]
	if i < 0 || !ok {
		return nil, nil
	}
	secret := types.NamespacedName{Namespace: pod.GetNamespace(), Name: mounts[i].Name}
	var c v1alpha1.M2MClient
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: pod.GetNamespace(), Name: name}, &c)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("get M2MClient %q: %w", name, err)
	}
	w := &wait{reason: v1alpha1.ReasonTokenNotReady, about: &c}
	if err == nil && c.SecretName() != secret.Name {
		w.cause = "moved"
		w.message = fmt.Sprintf("This pod mounts Secret %q, but M2MClient %q now writes Secret %q: recreate the pod", secret.Name, name, c.SecretName())
		return w, nil
	}
	there, existsErr := r.exists(ctx, "Secret", &corev1.Secret{}, secret)
	switch {
	case existsErr != nil:
		return nil, existsErr
	case there && err == nil:
		return withoutToken(&c), nil
	case there:
		return nil, nil
	}
	if apierrors.IsNotFound(err) {
		c.Namespace, c.Name = pod.GetNamespace(), name
		w.cause = "missing"
		w.message = fmt.Sprintf("Waiting for Secret %q: there is no M2MClient %q in namespace %q", secret.Name, name, c.Namespace)
		return w, nil
	}
	ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionFalse {
		return nil, nil // it is on its way
	}
	w.cause = ready.Reason
	w.message = fmt.Sprintf("Waiting for Secret %q: M2MClient %q is not ready: %s", secret.Name, name, ready.Message)
	return w, nil
}

// withoutToken returns what keeps tokens out of a client's Secret, nil if nothing does. The Secret
// stays when a token is withdrawn, because pods keep the files of a Secret that is deleted. So a
// pod starts without the file instead of waiting for it.
func withoutToken(c *v1alpha1.M2MClient) *wait {
	var missing []string
	for _, a := range c.Spec.Access {
		key := cmp.Or(string(a.Key), string(a.APIResourceRef.Name))
		if !slices.ContainsFunc(c.Status.Tokens, func(t v1alpha1.TokenStatus) bool { return string(t.Key) == key && t.IssuedAt != nil }) {
			missing = append(missing, key)
		}
	}
	ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
	if len(missing) == 0 || ready == nil || ready.Status != metav1.ConditionFalse || ready.ObservedGeneration != c.Generation {
		return nil
	}
	return &wait{
		reason: v1alpha1.ReasonTokenNotReady, about: c, cause: "without " + ready.Reason,
		message: fmt.Sprintf("Secret %q has no token %s, and the pod runs without: M2MClient %q is not ready: %s",
			c.SecretName(), strings.Join(missing, ", "), c.Name, ready.Message),
	}
}

// verificationWait returns what keeps a namespace from the bundle of an APIResource, nil if
// nothing does.
func (r *Reconciler) verificationWait(ctx context.Context, namespace string, ref types.NamespacedName) (*wait, error) {
	bundle := types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(ref.Namespace, ref.Name)}
	api := v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name}}
	w := &wait{reason: v1alpha1.ReasonVerificationNotReady, about: &api}
	there, err := r.exists(ctx, "ConfigMap", &corev1.ConfigMap{}, bundle)
	if err != nil {
		return nil, err
	}
	said, _ := r.Refusals.Of(verification.Request{Namespace: namespace, API: ref})
	if there {
		anothers, err := r.Foreign.ExistsForeign(ctx, "ConfigMap", bundle)
		switch {
		case err != nil:
			return nil, err
		case anothers:
			w.cause = v1alpha1.ReasonConfigMapNotOwned
			w.message = fmt.Sprintf("ConfigMap %q exists and is not the operator's, so this pod has no verification bundle; delete or rename it", bundle.Name)
			return w, nil
		case said != "":
			w.cause = v1alpha1.ReasonBundleRefused
			w.message = fmt.Sprintf("ConfigMap %q is not up to date: the API server refuses it in namespace %q: %s", bundle.Name, namespace, said)
			return w, nil
		}
		return nil, nil
	}
	because := func(cause, format string, args ...any) (*wait, error) {
		w.cause, w.message = cause, fmt.Sprintf("Waiting for ConfigMap %q: ", bundle.Name)+fmt.Sprintf(format, args...)
		return w, nil
	}
	if !r.Watched.Watches(ref.Namespace) {
		return because("unwatched", "the operator does not watch namespace %q (--watch-namespaces)", ref.Namespace)
	}
	err = r.Client.Get(ctx, ref, &api)
	if apierrors.IsNotFound(err) {
		api.Namespace, api.Name = ref.Namespace, ref.Name
		return because("missing", "there is no APIResource %q in namespace %q", ref.Name, ref.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("get APIResource %q: %w", ref, err)
	}
	for _, judged := range []struct{ condition, text string }{
		{v1alpha1.ConditionAccepted, "is not accepted"}, {v1alpha1.ConditionDistributed, "is not distributed"},
	} {
		c := meta.FindStatusCondition(api.Status.Conditions, judged.condition)
		none := c != nil && c.Reason == v1alpha1.ReasonOpaqueToken // no namespace gets a bundle; the status speaks of the API's own
		if c == nil || c.Status != metav1.ConditionFalse && !none || c.Reason == v1alpha1.ReasonDistributing || c.Reason == v1alpha1.ReasonBundleRefused {
			continue
		}
		if ref.Namespace != namespace {
			// The message is only for users who may read the APIResource.
			return because(c.Reason, "APIResource %q of namespace %q %s (%s)", ref.Name, ref.Namespace, judged.text, c.Reason)
		}
		return because(c.Reason, "APIResource %q %s: %s", ref.Name, judged.text, c.Message)
	}
	if said != "" {
		return because(v1alpha1.ReasonBundleRefused, "the API server refuses it in namespace %q: %s", namespace, said)
	}
	return nil, nil
}

// exists reports whether an object with a name exists, no matter whose it is. Either cache
// may be the first to know.
func (r *Reconciler) exists(ctx context.Context, kind string, o client.Object, name types.NamespacedName) (bool, error) {
	err := r.Client.Get(ctx, name, o, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err == nil {
		return true, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("get %s %q: %w", kind, name, err)
	}
	version, err := r.Foreign.Version(ctx, kind, name)
	return version != "", err
}

// toldPods remembers which pods wait and what they were told. It is lost on restart; the
// pods are then told once more.
type toldPods struct {
	mu   sync.Mutex
	Pods map[types.NamespacedName]toldPod
}

type toldPod struct {
	uid types.UID
	at  map[string]time.Time // by wait.key
}

func (t *toldPods) forget(name types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.Pods, name)
}

// due returns the waits that a pod must be told about now, and when to look again.
func (t *toldPods) due(pod client.Object, waits []wait, now time.Time) (news []wait, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := client.ObjectKeyFromObject(pod)
	told, ok := t.Pods[name]
	if !ok || told.uid != pod.GetUID() {
		told = toldPod{pod.GetUID(), map[string]time.Time{}}
	}
	for key, at := range told.at {
		waiting := slices.ContainsFunc(waits, func(w wait) bool { return w.key() == key })
		if !waiting && now.Sub(at) >= ForgetAfter {
			delete(told.at, key)
		}
	}
	after = TellEvery
	for _, w := range waits {
		at, ok := told.at[w.key()]
		if !ok || now.Sub(at) >= TellEvery {
			told.at[w.key()], at = now, now
			news = append(news, w)
		}
		after = min(after, at.Add(TellEvery).Sub(now))
	}
	if t.Pods == nil {
		t.Pods = map[types.NamespacedName]toldPod{}
	}
	t.Pods[name] = told
	return news, after
}

// tell records events on a pod or workload about what it waits for, unless it is younger
// than WaitGrace. It returns when to look again.
func (t *toldPods) tell(events recorder.EventRecorder, o client.Object, waits []wait, now time.Time) time.Duration {
	if len(waits) == 0 {
		t.forget(client.ObjectKeyFromObject(o))
		return 0
	}
	if grace := o.GetCreationTimestamp().Add(WaitGrace).Sub(now); grace > 0 {
		return grace
	}
	news, after := t.due(o, waits, now)
	for _, w := range news {
		events.Eventf(o, w.about, corev1.EventTypeWarning, w.reason, "Deliver", "%s", w.message)
	}
	return after
}

// readinessChanged passes an M2MClient or APIResource that is created or deleted, or whose
// spec or conditions change. It drops routine refreshes.
var readinessChanged = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := conditionsFor(e.ObjectOld), conditionsFor(e.ObjectNew)
	return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() || !slices.EqualFunc(was, is, func(a, b metav1.Condition) bool {
		return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
	})
}}

func conditionsFor(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *v1alpha1.M2MClient:
		return o.Status.Conditions
	case *v1alpha1.APIResource:
		return o.Status.Conditions
	}
	return nil
}
