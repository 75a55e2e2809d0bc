// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// long is one value of the greatest length that the annotations of an object may have.
var long = strings.Repeat("a,", 127<<10)

// many returns as many entries as a bound of the API server allows.
func many() map[string]string {
	m := map[string]string{}
	for i := range 10000 {
		m[fmt.Sprintf("example.com/a%d", i)] = "b"
	}
	return m
}

// anothersMeta is the metadata of an object that its writer has filled to the limit.
func anothersMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: "1", ResourceVersion: "7", Generation: 2, Labels: many(), Annotations: map[string]string{"example.com/a": long},
		Finalizers:      slices.Collect(maps.Keys(many())),
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: long, UID: "2"}},
	}
}

func partial(kind string, meta metav1.ObjectMeta) *metav1.PartialObjectMetadata {
	o := cached.Metadata(kind)
	o.ObjectMeta = meta
	return o
}

// TestWhatAnybodyWritesIsKeptWithinBounds prepares objects of the largest size that
// the API server allows for the caches.
func TestWhatAnybodyWritesIsKeptWithinBounds(t *testing.T) {
	verifies := anothersMeta("verifier")
	verifies.Annotations = map[string]string{v1alpha1.VerifyAnnotation: long}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.VerifyAnnotation: long}}}
	labelled := func(name string, annotations map[string]string) metav1.ObjectMeta {
		m := anothersMeta(name)
		m.Labels[v1alpha1.ManagedByLabel] = v1alpha1.ManagedByValue
		maps.Copy(m.Annotations, annotations)
		return m
	}
	ownedMeta := func(annotations map[string]string) metav1.ObjectMeta {
		m := labelled("cart-token", annotations)
		m.OwnerReferences = append(m.OwnerReferences, *metav1.NewControllerRef(
			&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: "cart", UID: "1"}}, v1alpha1.GroupVersion.WithKind("M2MClient")))
		return m
	}
	filled := map[string][]byte{"filled": []byte(strings.Repeat("x", 1<<20))}
	grants := make([]v1alpha1.Grant, 3)
	for i := range grants {
		grants[i].Clients.Namespaces.Selector = &metav1.LabelSelector{MatchLabels: many()}
	}
	secrets := cached.SlimSecret("m2m-operator-system")
	for name, tc := range map[string]struct {
		object client.Object
		slim   toolscache.TransformFunc
		most   int
	}{
		"a Deployment":  {&appsv1.Deployment{ObjectMeta: verifies, Spec: appsv1.DeploymentSpec{Template: template}}, cached.StripWorkload, 1024},
		"a StatefulSet": {&appsv1.StatefulSet{ObjectMeta: verifies, Spec: appsv1.StatefulSetSpec{Template: template}}, cached.StripWorkload, 1024},
		"a DaemonSet":   {&appsv1.DaemonSet{ObjectMeta: verifies, Spec: appsv1.DaemonSetSpec{Template: template}}, cached.StripWorkload, 1024},
		"a Job":         {&batchv1.Job{ObjectMeta: verifies, Spec: batchv1.JobSpec{Template: template}}, cached.StripWorkload, 1024},
		"a CronJob": {&batchv1.CronJob{ObjectMeta: verifies, Spec: batchv1.CronJobSpec{
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}, cached.StripWorkload, 1024},
		"a pod": {partial("Pod", func() metav1.ObjectMeta {
			m := anothersMeta("pod")
			for key := range cached.PodAnnotations {
				m.Annotations[key] = long
			}
			return m
		}()), cached.StripPod, 1024},
		"a pod that mounts many": {partial("Pod", metav1.ObjectMeta{
			Name: "pod", Annotations: map[string]string{v1alpha1.InjectedAnnotation: strings.Repeat("secret/a,", 1000)}}), cached.StripPod, 1024},
		"a namespace":                            {partial("Namespace", anothersMeta("shop")), cached.StripNamespace, 1024},
		"an M2MClient":                           {&v1alpha1.M2MClient{ObjectMeta: anothersMeta("cart")}, cached.SlimClient, 1024},
		"one with the annotation for a rotation": {&v1alpha1.M2MClient{ObjectMeta: labelled("cart", map[string]string{v1alpha1.RotateCredentialAnnotation: long})}, cached.SlimClient, 1024},
		"an AuthorizationServer":                 {&v1alpha1.AuthorizationServer{ObjectMeta: anothersMeta("auth")}, cached.SlimServer, 1024},
		"a ClusterAuthorizationServer":           {&v1alpha1.ClusterAuthorizationServer{ObjectMeta: anothersMeta("auth")}, cached.SlimServer, 1024},
		"an APIResource":                         {&v1alpha1.APIResource{ObjectMeta: anothersMeta("api"), Spec: v1alpha1.APIResourceSpec{Grants: grants}}, cached.SlimAPIResource, 2048},
		"a ConfigMap with our label": {&corev1.ConfigMap{
			ObjectMeta: labelled("settings", map[string]string{v1alpha1.ContentsAnnotation: long, v1alpha1.APIResourceAnnotation: "payments/payment-api"}),
			Data:       map[string]string{"filled": string(filled["filled"])}, BinaryData: filled}, cached.SlimConfigMap, 1024},
		"a bundle filled to the limit": {&corev1.ConfigMap{
			ObjectMeta: labelled(render.ConfigMapName("payments", "payment-api"), map[string]string{v1alpha1.ContentsAnnotation: "{}", v1alpha1.APIResourceAnnotation: "payments/payment-api"}),
			Data:       map[string]string{"filled": string(filled["filled"])}}, cached.SlimConfigMap, 1024},
		"a Secret with our label":         {&corev1.Secret{ObjectMeta: labelled("settings", nil), Data: filled, Type: corev1.SecretType(long)}, secrets, 1024},
		"one that names a client":         {&corev1.Secret{ObjectMeta: ownedMeta(nil), Data: filled}, secrets, 1024},
		"a token Secret that is too long": {&corev1.Secret{ObjectMeta: ownedMeta(map[string]string{v1alpha1.TokensAnnotation: "{}"}), Data: filled}, secrets, 1024},
		"credentials elsewhere":           {&corev1.Secret{ObjectMeta: labelled("m2m-credential-1", nil), Data: filled}, secrets, 1024},
	} {
		t.Run(name, func(t *testing.T) {
			was := tc.object.GetName()
			once, err := tc.slim(tc.object)
			if err != nil {
				t.Fatal(err)
			}
			kept := once.(client.Object)
			if kept.GetName() != was || kept.GetResourceVersion() != tc.object.GetResourceVersion() {
				t.Errorf("it is now %q at %q", kept.GetName(), kept.GetResourceVersion())
			}
			encoded, err := json.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			if len(encoded) > tc.most {
				t.Errorf("%d bytes are kept: %.2000s", len(encoded), encoded)
			}
			for _, i := range slices.Concat(watch.IndexesOfClients(), watch.IndexesOfAllElse()) {
				if fmt.Sprintf("%T", i.Obj) == fmt.Sprintf("%T", kept) && len(i.Fn(kept)) > 3 {
					t.Errorf("it has %d entries in the index %s", len(i.Fn(kept)), i.Field)
				}
			}
			// An informer may transform an object twice.
			before := kept.DeepCopyObject()
			if twice, err := tc.slim(kept); err != nil || !equality.Semantic.DeepEqual(twice, before) {
				t.Errorf("the second transformation changed it (%v):\n%s", err, cmp.Diff(before, twice.(runtime.Object)))
			}
		})
	}
}

// TestWhatIsOursIsKept checks that the cache keeps everything that the operator reads.
func TestWhatIsOursIsKept(t *testing.T) {
	ours := map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	owner := []metav1.OwnerReference{*metav1.NewControllerRef(
		&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Name: "cart", UID: "1"}}, v1alpha1.GroupVersion.WithKind("M2MClient"))}
	verify := map[string]string{v1alpha1.VerifyAnnotation: "payments/payment-api"}
	mounts := []string{"secret/cart-token"}
	for i := range v1alpha1.VerifyMaxNames {
		mounts = append(mounts, fmt.Sprintf("configmap/%s", render.ConfigMapName(strings.Repeat("n", 63), fmt.Sprintf("%063d", i))))
	}
	pod := map[string]string{
		v1alpha1.VerifyAnnotation: "payment-api", v1alpha1.ClientAnnotation: strings.Repeat("c", 253), v1alpha1.InjectedAnnotation: strings.Join(mounts, ","),
		v1alpha1.TouchedAtAnnotation: "2026-11-29T00:00:00Z",
	}
	tokens := map[string][]byte{}
	for i := range 10 {
		tokens[fmt.Sprintf("api-%d", i)] = []byte(strings.Repeat("x", 3072))
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}
	api := &v1alpha1.APIResource{}
	api.Spec.Grants = []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Selector: selector}}}}
	for name, tc := range map[string]struct {
		object client.Object
		slim   toolscache.TransformFunc
	}{
		"a pod with as many mounts as there can be": {partial("Pod", metav1.ObjectMeta{Name: "cart", Annotations: pod}), cached.StripPod},
		"a Deployment": {&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "cart", Annotations: verify},
			Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: verify}}}}, cached.StripWorkload},
		"the labels of a namespace": {partial("Namespace", metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "shop"}}), cached.StripNamespace},
		"the shard, the rotation annotation and the finalizers of a client": {&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{
			Labels: map[string]string{v1alpha1.ShardLabel: "a"}, Annotations: map[string]string{v1alpha1.RotateCredentialAnnotation: "1"},
			Finalizers: []string{"example.com/theirs", v1alpha1.ProvisioningFinalizer}, Generation: 3}}, cached.SlimClient},
		"a selector": {api, cached.SlimAPIResource},
		"a token Secret, and what others have added": {&corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue, "team": "shop"}, Finalizers: []string{"example.com/theirs"},
			Annotations: map[string]string{v1alpha1.TokensAnnotation: "{}", "theirs": "1"}, OwnerReferences: owner}, Data: tokens}, cached.SlimSecret("m2m-operator-system")},
		"credentials": {&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "m2m-operator-system", Name: "m2m-credential-1", Labels: ours},
			Data: map[string][]byte{record.CredentialKey: []byte("{}")}}, cached.SlimSecret("m2m-operator-system")},
	} {
		t.Run(name, func(t *testing.T) {
			want := tc.object.DeepCopyObject()
			if got, err := tc.slim(tc.object); err != nil || !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("it became (%v):\n%s", err, cmp.Diff(want, got.(runtime.Object)))
			}
		})
	}
}

// TestBundlesAreKeptAsDigests checks that the cache does not keep the contents of
// verification bundles, but notices every change of them.
func TestBundlesAreKeptAsDigests(t *testing.T) {
	bundle := func(change func(*corev1.ConfigMap)) *corev1.ConfigMap {
		c := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: render.ConfigMapName("payments", "payment-api"),
				Labels:      map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue, "team": "shop"},
				Annotations: map[string]string{v1alpha1.APIResourceAnnotation: "payments/payment-api", v1alpha1.ContentsAnnotation: "{}", "theirs": "1"},
			},
			Data: map[string]string{"issuer": "https://auth.example.com"},
		}
		change(c)
		return c
	}
	written := bundle(func(*corev1.ConfigMap) {})
	for name, tc := range map[string]struct {
		change func(*corev1.ConfigMap)
		same   bool
	}{
		"the bundle as written":       {func(*corev1.ConfigMap) {}, true},
		"the API server's answer":     {func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{} }, true},
		"an edited file":              {func(c *corev1.ConfigMap) { c.Data["issuer"] = "https://evil.example.com" }, false},
		"an additional file":          {func(c *corev1.ConfigMap) { c.Data["more"] = "" }, false},
		"a missing file":              {func(c *corev1.ConfigMap) { c.Data = nil }, false},
		"an additional binary file":   {func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"more": nil} }, false},
		"the file under another name": {func(c *corev1.ConfigMap) { c.Data = map[string]string{"issuer2": c.Data["issuer"]} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			there := bundle(tc.change)
			want := there.DeepCopy()
			if _, err := cached.SlimConfigMap(there); err != nil {
				t.Fatal(err)
			}
			if !equality.Semantic.DeepEqual(there.ObjectMeta, want.ObjectMeta) {
				t.Errorf("its metadata became %s", cmp.Diff(want.ObjectMeta, there.ObjectMeta))
			}
			if same := cached.ContentDigest(there) == cached.ContentDigest(written); same != tc.same {
				t.Errorf("equal to what was written: %t", same)
			}
			if encoded, _ := json.Marshal(there.Data); strings.Contains(string(encoded), "example.com") {
				t.Errorf("the cache keeps its contents: %s", encoded)
			}
			if errs := validation.ValidateAnnotations(map[string]string{cached.CutMark: ""}, field.NewPath("")); len(errs) == 0 {
				t.Error("the API server would accept the cut object")
			}
		})
	}
}

// TestForgedBundlesCountForNothing prepares ConfigMaps for the cache that claim to be
// the bundle of an API but are not.
func TestForgedBundlesCountForNothing(t *testing.T) {
	for name, configMap := range map[string]string{"of any name": "forged", "of another API's bundle": render.ConfigMapName("payments", "another")} {
		t.Run(name, func(t *testing.T) {
			c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Namespace: "evil", Name: configMap, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue},
				Annotations: map[string]string{v1alpha1.APIResourceAnnotation: "payments/payment-api", v1alpha1.ContentsAnnotation: "{}"}}}
			if _, err := cached.SlimConfigMap(c); err != nil {
				t.Fatal(err)
			}
			if c.Annotations[v1alpha1.APIResourceAnnotation] != "" {
				t.Errorf("it counts as a bundle: %v", c.Annotations)
			}
		})
	}
}

// TestNamespaceWithTooManyLabelsIsNotSelected asks about a namespace with too many
// labels to keep, by a selector that would match because a label is missing.
func TestNamespaceWithTooManyLabelsIsNotSelected(t *testing.T) {
	ns, err := cached.StripNamespace(partial("Namespace", metav1.ObjectMeta{Name: "evil", Labels: many()}))
	if err != nil {
		t.Fatal(err)
	}
	r := rules.Resolver{Reader: theNamespace{ns.(*metav1.PartialObjectMetadata)}, Cut: cached.IsCut}
	lacks := v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "example.com/a1", Operator: metav1.LabelSelectorOpDoesNotExist}}}}
	if chosen, err := r.Selects(t.Context(), lacks, "evil"); chosen || err != nil {
		t.Errorf("it is selected: %t, %v", chosen, err)
	}
	lacks.Names = []v1alpha1.NamespaceName{"evil"}
	if chosen, err := r.Selects(t.Context(), lacks, "evil"); !chosen || err != nil {
		t.Errorf("by its name it is selected: %t, %v", chosen, err)
	}
}

// theNamespace is a reader that has one namespace.
type theNamespace struct{ *metav1.PartialObjectMetadata }

func (n theNamespace) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	n.DeepCopyInto(o.(*metav1.PartialObjectMetadata))
	return nil
}

func (theNamespace) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }
