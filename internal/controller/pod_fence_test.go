// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	podcontroller "github.com/m2m-operator/m2m-operator/internal/controller/pod"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestThePermissionToTouch: the role for prompt delivery grants exactly what a touch
// requires.
func TestThePermissionToTouch(t *testing.T) {
	f, err := os.Open(filepath.Join("..", "..", "config", "rbac", "prompt_delivery.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var role rbacv1.ClusterRole
	if err := yaml.NewYAMLOrJSONDecoder(f, 4096).Decode(&role); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"patch pods"}, sets.List(rightsOf(&role))); diff != "" {
		t.Errorf("the role grants (-want +got):\n%s", diff)
	}
	createForTest(t, &role)
	createForTest(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: operator.RestrictedUser}},
	})
	ns := operator.NewNamespace(t, "touch", nil)
	pod := operator.AnnotatedPod(ns, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, pod)
	operator.Create(t, operator.PromptObject(ns, watch.Mount{Kind: watch.MountedSecret, Name: "cart-token"}, delivery.Moment(pod.CreationTimestamp.Add(time.Second))))
	cfg := operator.Restricted(t)
	asOperator, err := client.New(cfg, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	// A new role takes effect after a short delay.
	operator.Eventually(t, func() error {
		return asOperator.Patch(t.Context(), pod.DeepCopy(), client.RawPatch(types.MergePatchType, []byte("{}")), client.DryRunAll)
	})
	operator.StartOver(t, cfg)
	operator.Eventually(t, func() error {
		if operator.TouchedAt(t, pod) == "" {
			return fmt.Errorf("the pod is not touched")
		}
		return nil
	})
}

// TestPodFence attacks with the operator's own ServiceAccount, which may do everything
// here. On a pod it can change one annotation, nothing else.
func TestPodFence(t *testing.T) {
	cfg := fencedOperator(t, "pods.yaml")
	asOperator, err := client.New(cfg, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ns := operator.NewNamespace(t, "fence", nil)
	newPod := func(name string) *corev1.Pod {
		p := operator.AnnotatedPod(ns, name, v1alpha1.InjectedAnnotation, "secret/cart-token", v1alpha1.ClientAnnotation, "cart")
		p.Finalizers = []string{"example.com/held"}
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart", UID: "1"}}
		return p
	}
	pod, foreign := newPod("cart"), operator.AnnotatedPod(ns, "foreign")
	operator.Create(t, pod, foreign)
	defer operator.Change(t, pod, func(p *corev1.Pod) { p.Finalizers = nil })

	// A new policy takes effect after a short delay.
	operator.Eventually(t, func() error {
		if err := asOperator.Create(t.Context(), operator.AnnotatedPod(ns, "probe"), client.DryRunAll); !apierrors.IsInvalid(err) {
			return fmt.Errorf("the fence is not up: %w", err)
		}
		return nil
	})

	touch := func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] = delivery.Moment(time.Now()) }
	// also touches a pod and makes another change in the same request.
	also := func(mutate func(*corev1.Pod)) func() error {
		return func() error {
			p := pod.DeepCopy()
			if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(pod), p); err != nil {
				return err
			}
			before := p.DeepCopy()
			touch(p)
			mutate(p)
			return asOperator.Patch(t.Context(), p, client.MergeFrom(before))
		}
	}
	raw := func(patchType types.PatchType, patch string, subresource ...string) func() error {
		return func() error {
			_, err := clients.CoreV1().Pods(ns).Patch(t.Context(), pod.Name, patchType, []byte(patch), metav1.PatchOptions{}, subresource...)
			return err
		}
	}
	for name, tc := range map[string]struct {
		do      func() error
		allowed bool
	}{
		"it touches a pod": {also(func(*corev1.Pod) {}), true},
		"it touches a pod again": {also(func(p *corev1.Pod) {
			p.Annotations[v1alpha1.TouchedAtAnnotation] = delivery.Moment(time.Now().Add(time.Second))
		}), true},
		"it touches as the reconciler does": {func() error {
			r := &podcontroller.Reconciler{Config: podcontroller.Config{Client: asOperator}}
			if err := r.Touch(t.Context(), client.ObjectKeyFromObject(pod), time.Now()); err != nil {
				return err
			}
			if r.Refusing.Load() {
				return fmt.Errorf("the touch was refused")
			}
			return nil
		}, true},
		"it changes an image":      {also(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "evil" }), false},
		"it changes only an image": {raw(types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"main","image":"evil"}]}}`), false},
		"it shortens a pod's life": {also(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) }), false},
		"it adds a toleration": {also(func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists})
		}), false},
		"it adds a label":                      {also(func(p *corev1.Pod) { p.Labels["app.kubernetes.io/name"] = "bank" }), false},
		"it changes a label":                   {also(func(p *corev1.Pod) { p.Labels["app"] = "bank" }), false},
		"it removes all labels":                {also(func(p *corev1.Pod) { p.Labels = nil }), false},
		"it adds another annotation":           {also(func(p *corev1.Pod) { p.Annotations["prometheus.io/scrape"] = "true" }), false},
		"it changes another annotation":        {also(func(p *corev1.Pod) { p.Annotations["team"] = "bank" }), false},
		"it changes what is injected":          {also(func(p *corev1.Pod) { p.Annotations[v1alpha1.InjectedAnnotation] = "secret/other" }), false},
		"it removes another annotation":        {also(func(p *corev1.Pod) { delete(p.Annotations, "team") }), false},
		"it removes all annotations":           {also(func(p *corev1.Pod) { p.Annotations = nil }), false},
		"it writes a value that is not a time": {also(func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] = "now" }), false},
		"it writes a value longer than a time": {also(func(p *corev1.Pod) { p.Annotations[v1alpha1.TouchedAtAnnotation] += "\nand so on" }), false},
		"it adds a finalizer":                  {also(func(p *corev1.Pod) { p.Finalizers = append(p.Finalizers, "example.com/forever") }), false},
		"it removes the finalizers":            {also(func(p *corev1.Pod) { p.Finalizers = nil }), false},
		"it adds an owner": {also(func(p *corev1.Pod) {
			p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "2"})
		}), false},
		"it removes the owners":                     {also(func(p *corev1.Pod) { p.OwnerReferences = nil }), false},
		"it adds a container to debug":              {raw(types.StrategicMergePatchType, `{"spec":{"ephemeralContainers":[{"name":"debug","image":"evil"}]}}`, "ephemeralcontainers"), false},
		"it resizes a pod":                          {raw(types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"1"}}}]}}`, "resize"), false},
		"it changes a status":                       {raw(types.MergePatchType, `{"status":{"phase":"Failed"}}`, "status"), false},
		"it touches through the status subresource": {raw(types.MergePatchType, `{"metadata":{"annotations":{"m2m-operator.io/touched-at":"2026-11-24T12:00:00Z"}}}`, "status"), false},
		"it touches a pod that is not injected": {func() error {
			before := foreign.DeepCopy()
			touch(foreign)
			return asOperator.Patch(t.Context(), foreign, client.MergeFrom(before))
		}, false},
		"it injects and touches": {func() error {
			before := foreign.DeepCopy()
			touch(foreign)
			foreign.Annotations[v1alpha1.InjectedAnnotation] = "secret/x"
			return asOperator.Patch(t.Context(), foreign, client.MergeFrom(before))
		}, false},
		"it creates a pod":    {func() error { return asOperator.Create(t.Context(), newPod("mine")) }, false},
		"it deletes a pod":    {func() error { return asOperator.Delete(t.Context(), foreign) }, false},
		"it deletes all pods": {func() error { return asOperator.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(ns)) }, false},
		"it evicts a pod": {func() error {
			return clients.PolicyV1().Evictions(ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: foreign.Name}})
		}, false},
		"it binds a pod to a node": {func() error {
			return clients.CoreV1().Pods(ns).Bind(t.Context(), &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: foreign.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "mine"},
			}, metav1.CreateOptions{})
		}, false},
		"it runs a command in a pod": {func() error {
			return clients.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name(pod.Name).SubResource("exec").
				Param("command", "sh").Param("container", "main").Param("stdout", "true").Do(t.Context()).Error()
		}, false},
		"somebody else changes an image": {func() error {
			p := pod.DeepCopy()
			p.Spec.Containers[0].Image = "next"
			return operator.Kube.Patch(t.Context(), p, client.MergeFrom(pod))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.do()
			if tc.allowed && err != nil {
				t.Errorf("was denied: %v", err)
			}
			if !tc.allowed && (err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'pod-fence'")) {
				t.Errorf("was not denied by the fence: %v", err)
			}
		})
	}
}
