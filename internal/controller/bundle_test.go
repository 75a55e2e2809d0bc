// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

var bundleFiles = []string{"audience", "envoy-jwt-authn.yaml", "issuer", "jwks.json", "protected-resource.json", "verification.json"}

// hasBundle waits until a namespace has an API's bundle with all its files, and
// returns it.
func hasBundle(t *testing.T, namespace string, api *v1alpha1.APIResource) (bundle *corev1.ConfigMap) {
	t.Helper()
	eventually(t, func() error {
		if bundle = bundleIn(t, namespace, api); bundle == nil {
			return fmt.Errorf("namespace %s has no bundle", namespace)
		}
		return nil
	})
	for _, name := range bundleFiles {
		if bundle.Data[name] == "" {
			t.Errorf("the bundle has no %s", name)
		}
	}
	if got := bundle.Data["audience"]; got != string(api.Spec.Identifier) {
		t.Errorf("the bundle's audience is %q", got)
	}
	return bundle
}

func hasNoBundle(t *testing.T, namespace string, api *v1alpha1.APIResource) {
	t.Helper()
	eventually(t, func() error {
		if bundleIn(t, namespace, api) != nil {
			return fmt.Errorf("namespace %s still has the bundle", namespace)
		}
		return nil
	})
}

// newVerifiers creates a namespace whose workloads go when the test ends.
func newVerifiers(t *testing.T) string {
	t.Helper()
	ns := newNamespace(t, "verifier", nil)
	t.Cleanup(func() {
		for _, o := range []client.Object{&appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}} {
			err := kube.DeleteAllOf(context.Background(), o, client.InNamespace(ns), client.PropagationPolicy(metav1.DeletePropagationBackground))
			if err != nil {
				t.Error(err)
			}
		}
	})
	return ns
}

// workload returns an object of a kind that verifies, annotated on itself and on
// its pod template.
func workload(kind, namespace string, self, template map[string]string) client.Object {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "payment", Annotations: self}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "payment"}}
	pods := podTemplate("payment", template)
	ends := pods
	ends.Spec.RestartPolicy = corev1.RestartPolicyNever
	switch kind {
	case "Deployment":
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: pods}}
	case "StatefulSet":
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: pods}}
	case "DaemonSet":
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pods}}
	case "Job":
		return &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: ends}}
	case "CronJob":
		return &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			Schedule: "0 0 1 1 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: ends}},
		}}
	}
	return &corev1.Pod{ObjectMeta: meta, Spec: pods.Spec}
}

// counted waits until the status of an API counts its bundles, at least so many.
func counted(t *testing.T, api *v1alpha1.APIResource, least int32) {
	t.Helper()
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil {
			return err
		}
		got, want := ptr.Deref(api.Status.Bundle.Namespaces, -1), bundles(t, api)
		if got != want || got < least {
			return fmt.Errorf("the status counts %d namespaces, want %d, and at least %d", got, want, least)
		}
		return nil
	})
	hasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
}

// TestDistribution is about which namespaces have a bundle.
func TestDistribution(t *testing.T) {
	startOperator(t)
	w := newWorld(t)
	api := w.api()
	other := w.api()
	other.Name, other.Spec.Identifier = "refund-api", "https://refund.example.com/api"
	create(t, w.server(w.payments), api, other)
	isReady(t, api)
	isReady(t, other)
	counted(t, api, 0)
	if want := render.ConfigMapName(w.payments, "payment-api"); string(api.Status.Bundle.ConfigMapName) != want {
		t.Errorf("the status names the ConfigMap %q, want %q", api.Status.Bundle.ConfigMapName, want)
	}
	ref := w.payments + "/payment-api"

	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"} {
		annotation := map[string]string{v1alpha1.VerifyAnnotation: ref}
		t.Run(kind+" with the annotation", func(t *testing.T) {
			ns := newVerifiers(t)
			o := workload(kind, ns, annotation, nil)
			create(t, o)
			hasBundle(t, ns, api)
			change(t, o, func(o client.Object) { o.SetAnnotations(nil) })
			hasNoBundle(t, ns, api)
			change(t, o, func(o client.Object) { o.SetAnnotations(annotation) })
			hasBundle(t, ns, api)
			discard(t, o)
			hasNoBundle(t, ns, api)
		})
		if kind == "Pod" {
			continue
		}
		t.Run(kind+" with the annotation on its pods", func(t *testing.T) {
			ns := newVerifiers(t)
			o := workload(kind, ns, nil, annotation)
			create(t, o)
			hasBundle(t, ns, api)
			discard(t, o)
			hasNoBundle(t, ns, api)
		})
	}
	t.Run("several APIs with spaces, and what is no name", func(t *testing.T) {
		ns := newVerifiers(t)
		create(t, verifyWith(ns, "both", " , "+ref+" ,../x,"+w.payments+"/refund-api , "+w.payments+"/none"))
		hasBundle(t, ns, api)
		hasBundle(t, ns, other)
	})
	t.Run("a name alone is of the own namespace", func(t *testing.T) {
		ns := newVerifiers(t)
		create(t, verifyWith(ns, "elsewhere", "payment-api"), verifyWith(w.payments, "here", "payment-api"))
		hasBundle(t, w.payments, api)
		if bundleIn(t, ns, api) != nil {
			t.Error("another namespace has the bundle")
		}
	})
	t.Run("until nothing needs it", func(t *testing.T) {
		ns := newVerifiers(t)
		first, second := verifyWith(ns, "first", ref), workload("Job", ns, nil, map[string]string{v1alpha1.VerifyAnnotation: ref})
		create(t, first, second)
		uid := hasBundle(t, ns, api).UID
		discard(t, first)
		counted(t, api, 1)
		if b := hasBundle(t, ns, api); b.UID != uid {
			t.Error("the bundle was removed although a workload needs it")
		}
		discard(t, second)
		hasNoBundle(t, ns, api)
	})
	t.Run("the status counts", func(t *testing.T) {
		for n := range int32(3) {
			ns := newVerifiers(t)
			create(t, verifyWith(ns, "one-more", ref))
			hasBundle(t, ns, api)
			counted(t, api, n+1)
		}
	})
	t.Run("the APIResource goes", func(t *testing.T) {
		ns := newVerifiers(t)
		create(t, verifyWith(ns, "refund", w.payments+"/refund-api"))
		hasBundle(t, ns, other)
		remove(t, other)
		hasNoBundle(t, ns, other)
		hasBundle(t, w.payments, api)
	})
}

// discard deletes an object at once.
func discard(t *testing.T, o client.Object) {
	t.Helper()
	if err := kube.Delete(t.Context(), o, client.GracePeriodSeconds(0), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
}

// bundles counts the ConfigMaps of an API.
func bundles(t *testing.T, api *v1alpha1.APIResource) (n int32) {
	t.Helper()
	var list corev1.ConfigMapList
	if err := kube.List(t.Context(), &list, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].Annotations[v1alpha1.APIResourceAnnotation] == client.ObjectKeyFromObject(api).String() {
			n++
		}
	}
	return n
}

// TestBundleIsKept is about what others do to a bundle.
func TestBundleIsKept(t *testing.T) {
	startOperator(t)
	w := newWorld(t)
	api := w.api()
	create(t, w.server(w.payments), api, verifyWith(w.payments, "payment", "payment-api"))
	good := hasBundle(t, w.payments, api)
	restored := func(t *testing.T) {
		t.Helper()
		eventually(t, func() error {
			b := bundleIn(t, w.payments, api)
			if b == nil {
				return fmt.Errorf("there is no bundle")
			}
			if diff := cmp.Diff(good.Data, b.Data); diff != "" {
				return fmt.Errorf("the bundle differs:\n%s", diff)
			}
			if diff := cmp.Diff(good.Annotations, b.Annotations); diff != "" {
				return fmt.Errorf("the bundle's annotations differ:\n%s", diff)
			}
			if len(b.BinaryData) > 0 || ptr.Deref(b.Immutable, false) {
				return fmt.Errorf("the bundle is not as it was")
			}
			return nil
		})
		hasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
	}
	for name, harm := range map[string]func(*corev1.ConfigMap){
		"edited":               func(m *corev1.ConfigMap) { m.Data["jwks.json"] = `{"keys":[]}` },
		"a file taken away":    func(m *corev1.ConfigMap) { delete(m.Data, "issuer") },
		"a file added":         func(m *corev1.ConfigMap) { m.Data["extra"] = "x" },
		"a binary file added":  func(m *corev1.ConfigMap) { m.BinaryData = map[string][]byte{"extra": {0}} },
		"emptied":              func(m *corev1.ConfigMap) { m.Data = nil },
		"key IDs edited":       func(m *corev1.ConfigMap) { m.Annotations[v1alpha1.KeyIDsAnnotation] = "x" },
		"edited and immutable": func(m *corev1.ConfigMap) { m.Data["issuer"], m.Immutable = "x", ptr.To(true) },
	} {
		t.Run(name, func(t *testing.T) {
			change(t, bundleIn(t, w.payments, api), harm)
			restored(t)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		remove(t, bundleIn(t, w.payments, api))
		restored(t)
	})
	t.Run("its label taken away, it counts as another's", func(t *testing.T) {
		m := bundleIn(t, w.payments, api)
		change(t, m, func(m *corev1.ConfigMap) { m.Labels = nil })
		hasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotOwned)
		change(t, m, func(m *corev1.ConfigMap) { m.Labels = good.Labels })
		restored(t)
	})
	t.Run("another's ConfigMap of its name in the API's own namespace", func(t *testing.T) {
		remove(t, bundleIn(t, w.payments, api))
		restored(t)
		m := bundleIn(t, w.payments, api)
		change(t, m, func(m *corev1.ConfigMap) { m.Labels = nil })
		c := hasCondition(t, api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotOwned)
		for _, s := range []string{w.payments, good.Name} {
			if !strings.Contains(c.Message, s) {
				t.Errorf("the message %q does not name %s", c.Message, s)
			}
		}
		remove(t, m)
		restored(t)
	})
	t.Run("another's ConfigMap of its name", func(t *testing.T) {
		ns := newVerifiers(t)
		foreign := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: good.Name}, Data: map[string]string{"mine": "yes"},
		}
		create(t, foreign, verifyWith(ns, "payment", w.payments+"/payment-api"))
		lacking(t, api, 1)
		isReady(t, api)
		if b := bundleIn(t, ns, api); b.ResourceVersion != foreign.ResourceVersion {
			t.Errorf("another's ConfigMap was changed: %v", b.Data)
		}
		remove(t, foreign)
		hasBundle(t, ns, api)
		lacking(t, api, 0)
		isReady(t, api)
	})
	t.Run("another's ConfigMap of its name is not removed", func(t *testing.T) {
		ns := newVerifiers(t)
		foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: good.Name}}
		d := verifyWith(ns, "payment", w.payments+"/payment-api")
		create(t, foreign, d)
		lacking(t, api, 1)
		discard(t, d)
		lacking(t, api, 0)
		isReady(t, api)
		if b := bundleIn(t, ns, api); b == nil || b.UID != foreign.UID {
			t.Error("another's ConfigMap was removed")
		}
	})
}

// lacking waits until the status says that so many other namespaces lack the
// bundle.
func lacking(t *testing.T, api *v1alpha1.APIResource, want int32) {
	t.Helper()
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil {
			return err
		}
		if got := api.Status.Bundle.Undelivered; got != want {
			return fmt.Errorf("%d namespaces lack the bundle, want %d", got, want)
		}
		return nil
	})
}

// TestBundleFollowsItsSpec changes what a bundle is made of.
func TestBundleFollowsItsSpec(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	s.verifies()
	spec := func(mutate func(*v1alpha1.APIResourceSpec)) {
		t.Helper()
		change(t, s.api, func(a *v1alpha1.APIResource) { mutate(&a.Spec) })
		fromCache(t, op, s.api)
		s.settle()
	}
	files := func(template string) func(*v1alpha1.APIResourceSpec) {
		return func(a *v1alpha1.APIResourceSpec) {
			a.Verification.Files = []v1alpha1.VerificationFile{{Name: "gateway.conf", Template: template}}
		}
	}

	spec(func(a *v1alpha1.APIResourceSpec) {
		a.Scopes = append(a.Scopes, v1alpha1.Scope{Name: "payments:refund"})
	})
	if !strings.Contains(s.bundle().Data["verification.json"], "payments:refund") {
		t.Error("the bundle does not have the new scope")
	}
	spec(files(`iss {{ .Issuer }} for {{ .Name }} by {{ join "," .Scopes }}`))
	want := "iss " + s.as.Issuer() + " for payment-api by payments:read,payments:write,payments:refund"
	if got := s.bundle().Data["gateway.conf"]; got != want {
		t.Errorf("the file of a template is %q, want %q", got, want)
	}
	before := s.bundle()

	spec(files(`{{ .Nothing }}`))
	c := hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if !strings.Contains(c.Message, "gateway.conf") {
		t.Errorf("the message %q does not name the file", c.Message)
	}
	hasCondition(t, s.api, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	hasCondition(t, s.api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if diff := cmp.Diff(before.Data, s.bundle().Data); diff != "" {
		t.Errorf("an invalid template changed the bundle:\n%s", diff)
	}
	isReady(t, s.cart) // whose token does not depend on it

	spec(func(a *v1alpha1.APIResourceSpec) { a.Verification = v1alpha1.Verification{} })
	isReady(t, s.api)
	if got := slices.Sorted(maps.Keys(s.bundle().Data)); !slices.Equal(got, bundleFiles) {
		t.Errorf("the bundle's files are %v", got)
	}
}

// TestRotationReachesManyNamespaces: fifty namespaces cost one fetch of the
// keys, and nothing when nothing changes.
func TestRotationReachesManyNamespaces(t *testing.T) {
	const namespaces = 50
	op := startStepped(t)
	w := newWorld(t, func(o *oidc.Options) { o.Now = op.clock.Now })
	api := w.api()
	create(t, w.server(w.payments), api)
	var all []string
	for i := range namespaces {
		ns := newVerifiers(t)
		all = append(all, ns)
		d := workload([]string{"Deployment", "CronJob", "Pod"}[i%3], ns, map[string]string{v1alpha1.VerifyAnnotation: w.payments + "/payment-api"}, nil)
		create(t, d)
		eventuallyCached(t, op, d)
	}
	op.settle(w.payments)
	counted(t, api, namespaces)

	op.requests.reset()
	op.advance(time.Second)
	op.settle(w.payments)
	if diff := cmp.Diff([]string{}, op.requests.writes()); diff != "" {
		t.Errorf("a pass without anything to do wrote (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{}, op.requests.reads()); diff != "" {
		t.Errorf("a pass without anything to do read past the cache (-want +got):\n%s", diff)
	}

	kid, err := w.as.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	w.as.ResetRequests()
	op.advance(authserver.DefaultKeyRefreshInterval)
	op.settle(w.payments)
	if n := w.as.Count(oidc.JWKS); n != 1 {
		t.Errorf("the keys were fetched %d times, want once", n)
	}
	for _, ns := range all {
		if !slices.Contains(bundledKeys(t, bundleIn(t, ns, api)), kid) {
			t.Errorf("the bundle of %s does not have the new key", ns)
		}
	}
	want := append([]string{"PATCH authorizationservers/status"}, slices.Repeat([]string{"PUT configmaps"}, namespaces)...)
	if diff := cmp.Diff(want, op.requests.writes()); diff != "" {
		t.Errorf("the rotation wrote (-want +got):\n%s", diff)
	}
}
