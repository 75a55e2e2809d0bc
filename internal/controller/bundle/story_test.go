// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// counted waits until the status of an API counts at least so many bundles.
func counted(t *testing.T, api *v1alpha1.APIResource, least int32) {
	t.Helper()
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil {
			return err
		}
		got, want := ptr.Deref(api.Status.Bundle.Namespaces, -1), bundles(t, api)
		if got != want || got < least {
			return fmt.Errorf("the status counts %d namespaces, want %d, and at least %d", got, want, least)
		}
		return nil
	})
	operator.HasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
}

// TestDistribution checks which namespaces have a bundle.
func TestDistribution(t *testing.T) {
	operator.Start(t)
	w := operator.NewWorld(t)
	api := w.API()
	other := w.API()
	other.Name, other.Spec.Identifier = "refund-api", "https://refund.example.com/api"
	operator.Create(t, w.Server(w.Payments), api, other)
	operator.IsReady(t, api)
	operator.IsReady(t, other)
	counted(t, api, 0)
	if want := render.ConfigMapName(w.Payments, "payment-api"); string(api.Status.Bundle.ConfigMapName) != want {
		t.Errorf("the status names the ConfigMap %q, want %q", api.Status.Bundle.ConfigMapName, want)
	}
	ref := w.Payments + "/payment-api"

	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod"} {
		annotation := map[string]string{v1alpha1.VerifyAnnotation: ref}
		t.Run(kind+" with the annotation", func(t *testing.T) {
			ns := operator.NewVerifiers(t)
			o := operator.Workload(kind, ns, annotation, nil)
			operator.Create(t, o)
			operator.HasBundle(t, ns, api)
			operator.Change(t, o, func(o client.Object) { o.SetAnnotations(nil) })
			operator.HasNoBundle(t, ns, api)
			operator.Change(t, o, func(o client.Object) { o.SetAnnotations(annotation) })
			operator.HasBundle(t, ns, api)
			discard(t, o)
			operator.HasNoBundle(t, ns, api)
		})
		if kind == "Pod" {
			continue
		}
		t.Run(kind+" with the annotation on its pods", func(t *testing.T) {
			ns := operator.NewVerifiers(t)
			o := operator.Workload(kind, ns, nil, annotation)
			operator.Create(t, o)
			operator.HasBundle(t, ns, api)
			discard(t, o)
			operator.HasNoBundle(t, ns, api)
		})
	}
	t.Run("several APIs with spaces, and what is no name", func(t *testing.T) {
		ns := operator.NewVerifiers(t)
		operator.Create(t, operator.VerifyWith(ns, "both", " , "+ref+" ,../x,"+w.Payments+"/refund-api , "+w.Payments+"/none"))
		operator.HasBundle(t, ns, api)
		operator.HasBundle(t, ns, other)
	})
	t.Run("a name alone is of the own namespace", func(t *testing.T) {
		ns := operator.NewVerifiers(t)
		operator.Create(t, operator.VerifyWith(ns, "elsewhere", "payment-api"), operator.VerifyWith(w.Payments, "here", "payment-api"))
		operator.HasBundle(t, w.Payments, api)
		if operator.BundleIn(t, ns, api) != nil {
			t.Error("another namespace has the bundle")
		}
	})
	t.Run("until nothing needs it", func(t *testing.T) {
		ns := operator.NewVerifiers(t)
		first, second := operator.VerifyWith(ns, "first", ref), operator.Workload("Job", ns, nil, map[string]string{v1alpha1.VerifyAnnotation: ref})
		operator.Create(t, first, second)
		uid := operator.HasBundle(t, ns, api).UID
		discard(t, first)
		counted(t, api, 1)
		if b := operator.HasBundle(t, ns, api); b.UID != uid {
			t.Error("the bundle was removed although a workload needs it")
		}
		discard(t, second)
		operator.HasNoBundle(t, ns, api)
	})
	t.Run("the status counts", func(t *testing.T) {
		for n := range int32(3) {
			ns := operator.NewVerifiers(t)
			operator.Create(t, operator.VerifyWith(ns, "one-more", ref))
			operator.HasBundle(t, ns, api)
			counted(t, api, n+1)
		}
	})
	t.Run("the APIResource goes", func(t *testing.T) {
		ns := operator.NewVerifiers(t)
		operator.Create(t, operator.VerifyWith(ns, "refund", w.Payments+"/refund-api"))
		operator.HasBundle(t, ns, other)
		operator.Remove(t, other)
		operator.HasNoBundle(t, ns, other)
		operator.HasBundle(t, w.Payments, api)
	})
}

// discard deletes an object at once.
func discard(t *testing.T, o client.Object) {
	t.Helper()
	if err := operator.Kube.Delete(t.Context(), o, client.GracePeriodSeconds(0), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
}

// bundles counts the ConfigMaps of an API.
func bundles(t *testing.T, api *v1alpha1.APIResource) (n int32) {
	t.Helper()
	var list corev1.ConfigMapList
	if err := operator.Kube.List(t.Context(), &list, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].Annotations[v1alpha1.APIResourceAnnotation] == client.ObjectKeyFromObject(api).String() {
			n++
		}
	}
	return n
}

// TestBundleIsKept changes a bundle as others might.
func TestBundleIsKept(t *testing.T) {
	operator.Start(t)
	w := operator.NewWorld(t)
	api := w.API()
	operator.Create(t, w.Server(w.Payments), api, operator.VerifyWith(w.Payments, "payment", "payment-api"))
	good := operator.HasBundle(t, w.Payments, api)
	restored := func(t *testing.T) {
		t.Helper()
		operator.Eventually(t, func() error {
			b := operator.BundleIn(t, w.Payments, api)
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
		operator.HasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionTrue, v1alpha1.ReasonDistributed)
	}
	for name, harm := range map[string]func(*corev1.ConfigMap){
		"edited":               func(m *corev1.ConfigMap) { m.Data["jwks.json"] = `{"keys":[]}` },
		"a file removed":       func(m *corev1.ConfigMap) { delete(m.Data, "issuer") },
		"a file added":         func(m *corev1.ConfigMap) { m.Data["extra"] = "x" },
		"a binary file added":  func(m *corev1.ConfigMap) { m.BinaryData = map[string][]byte{"extra": {0}} },
		"emptied":              func(m *corev1.ConfigMap) { m.Data = nil },
		"key IDs edited":       func(m *corev1.ConfigMap) { m.Annotations[v1alpha1.KeyIDsAnnotation] = "x" },
		"edited and immutable": func(m *corev1.ConfigMap) { m.Data["issuer"], m.Immutable = "x", ptr.To(true) },
	} {
		t.Run(name, func(t *testing.T) {
			operator.Change(t, operator.BundleIn(t, w.Payments, api), harm)
			restored(t)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		operator.Remove(t, operator.BundleIn(t, w.Payments, api))
		restored(t)
	})
	t.Run("its label taken away, it counts as another's", func(t *testing.T) {
		m := operator.BundleIn(t, w.Payments, api)
		operator.Change(t, m, func(m *corev1.ConfigMap) { m.Labels = nil })
		operator.HasCondition(t, api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotOwned)
		operator.Change(t, m, func(m *corev1.ConfigMap) { m.Labels = good.Labels })
		restored(t)
	})
	t.Run("another's ConfigMap of its name in the API's own namespace", func(t *testing.T) {
		operator.Remove(t, operator.BundleIn(t, w.Payments, api))
		restored(t)
		m := operator.BundleIn(t, w.Payments, api)
		operator.Change(t, m, func(m *corev1.ConfigMap) { m.Labels = nil })
		c := operator.HasCondition(t, api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonConfigMapNotOwned)
		for _, s := range []string{w.Payments, good.Name} {
			if !strings.Contains(c.Message, s) {
				t.Errorf("the message %q does not name %s", c.Message, s)
			}
		}
		operator.Remove(t, m)
		restored(t)
	})
	t.Run("another's ConfigMap of its name", func(t *testing.T) {
		ns := operator.NewVerifiers(t)
		foreign := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: good.Name}, Data: map[string]string{"mine": "yes"},
		}
		operator.Create(t, foreign, operator.VerifyWith(ns, "payment", w.Payments+"/payment-api"))
		lacking(t, api, 1)
		operator.IsReady(t, api)
		if b := operator.BundleIn(t, ns, api); b.ResourceVersion != foreign.ResourceVersion {
			t.Errorf("another's ConfigMap was changed: %v", b.Data)
		}
		operator.Remove(t, foreign)
		operator.HasBundle(t, ns, api)
		lacking(t, api, 0)
		operator.IsReady(t, api)
	})
	t.Run("another's ConfigMap of its name is not removed", func(t *testing.T) {
		ns := operator.NewVerifiers(t)
		foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: good.Name}}
		d := operator.VerifyWith(ns, "payment", w.Payments+"/payment-api")
		operator.Create(t, foreign, d)
		lacking(t, api, 1)
		discard(t, d)
		lacking(t, api, 0)
		operator.IsReady(t, api)
		if b := operator.BundleIn(t, ns, api); b == nil || b.UID != foreign.UID {
			t.Error("another's ConfigMap was removed")
		}
	})
}

// lacking waits until the status counts so many other namespaces that lack the bundle.
func lacking(t *testing.T, api *v1alpha1.APIResource, want int32) {
	t.Helper()
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil {
			return err
		}
		if got := api.Status.Bundle.Undelivered; got != want {
			return fmt.Errorf("%d namespaces lack the bundle, want %d", got, want)
		}
		return nil
	})
}

// TestBundleFollowsItsSpec changes the inputs of a bundle.
func TestBundleFollowsItsSpec(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	s.Verifies()
	spec := func(mutate func(*v1alpha1.APIResourceSpec)) {
		t.Helper()
		operator.Change(t, s.API, func(a *v1alpha1.APIResource) { mutate(&a.Spec) })
		operator.FromCache(t, op, s.API)
		s.Settle()
	}
	files := func(template string) func(*v1alpha1.APIResourceSpec) {
		return func(a *v1alpha1.APIResourceSpec) {
			a.Verification.Files = []v1alpha1.VerificationFile{{Name: "gateway.conf", Template: template}}
		}
	}

	spec(func(a *v1alpha1.APIResourceSpec) {
		a.Scopes = append(a.Scopes, v1alpha1.Scope{Name: "payments:refund"})
	})
	if !strings.Contains(s.Bundle().Data["verification.json"], "payments:refund") {
		t.Error("the bundle does not have the new scope")
	}
	spec(files(`iss {{ .Issuer }} for {{ .Name }} by {{ join "," .Scopes }}`))
	want := "iss " + s.AS.Issuer() + " for payment-api by payments:read,payments:write,payments:refund"
	if got := s.Bundle().Data["gateway.conf"]; got != want {
		t.Errorf("the file of a template is %q, want %q", got, want)
	}
	before := s.Bundle()

	spec(files(`{{ .Nothing }}`))
	c := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if !strings.Contains(c.Message, "gateway.conf") {
		t.Errorf("the message %q does not name the file", c.Message)
	}
	operator.HasCondition(t, s.API, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	operator.HasCondition(t, s.API, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if diff := cmp.Diff(before.Data, s.Bundle().Data); diff != "" {
		t.Errorf("an invalid template changed the bundle:\n%s", diff)
	}
	operator.IsReady(t, s.Cart) // whose token does not depend on it

	spec(func(a *v1alpha1.APIResourceSpec) { a.Verification = v1alpha1.Verification{} })
	operator.IsReady(t, s.API)
	if got := slices.Sorted(maps.Keys(s.Bundle().Data)); !slices.Equal(got, operator.BundleFiles) {
		t.Errorf("the bundle's files are %v", got)
	}
}

// TestRotationReachesManyNamespaces: fifty namespaces cost one fetch of the keys, and
// nothing if nothing changes.
func TestRotationReachesManyNamespaces(t *testing.T) {
	const namespaces = 50
	op := operator.StartStepped(t)
	w := operator.NewWorld(t, func(o *oidc.Options) { o.Now = op.Clock.Now })
	api := w.API()
	operator.Create(t, w.Server(w.Payments), api)
	var all []string
	for i := range namespaces {
		ns := operator.NewVerifiers(t)
		all = append(all, ns)
		d := operator.Workload([]string{"Deployment", "CronJob", "Pod"}[i%3], ns, map[string]string{v1alpha1.VerifyAnnotation: w.Payments + "/payment-api"}, nil)
		operator.Create(t, d)
		operator.EventuallyCached(t, op, d)
	}
	op.Settle(w.Payments)
	counted(t, api, namespaces)

	op.Requests.Reset()
	op.Advance(time.Second)
	op.Settle(w.Payments)
	if diff := cmp.Diff([]string{}, op.Requests.Writes()); diff != "" {
		t.Errorf("a pass with nothing to do wrote (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{}, op.Requests.Reads()); diff != "" {
		t.Errorf("a pass with nothing to do bypassed the cache (-want +got):\n%s", diff)
	}

	kid, err := w.AS.RotateKey()
	if err != nil {
		t.Fatal(err)
	}
	w.AS.ResetRequests()
	op.Advance(authserver.DefaultKeyRefreshInterval)
	op.Settle(w.Payments)
	if n := w.AS.Count(oidc.JWKS); n != 1 {
		t.Errorf("the keys were fetched %d times, want once", n)
	}
	for _, ns := range all {
		if !slices.Contains(operator.BundledKeys(t, operator.BundleIn(t, ns, api)), kid) {
			t.Errorf("the bundle of %s does not have the new key", ns)
		}
	}
	want := append([]string{"PATCH authorizationservers/status"}, slices.Repeat([]string{"PUT configmaps"}, namespaces)...)
	if diff := cmp.Diff(want, op.Requests.Writes()); diff != "" {
		t.Errorf("the rotation wrote (-want +got):\n%s", diff)
	}
}
