// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

func testStory(t *testing.T, w *world) {
	t.Run("cart calls payment", func(t *testing.T) {
		var calls wire.Calls
		eventually(t, 30*time.Second, func() error {
			if calls = cartCalls(t, false); calls.Total < 40 {
				return fmt.Errorf("only %d calls", calls.Total)
			}
			return nil
		})
		if err := noFailure(calls); err != nil {
			t.Error(err)
		}
	})
	t.Run("the Deployments have nothing of ours but their annotation", testDeployments)
	t.Run("what a container finds", testInside)
	t.Run("init containers and sidecars have it too", testInitContainers)
	t.Run("a pod waits for a client that does not exist yet", func(t *testing.T) { testWaitingPod(t, w) })
	t.Run("a namespace can forbid injection", testForbidden)
	t.Run("pods without annotations never reach the webhook", func(t *testing.T) { testUnannotated(t, w) })
	t.Run("the operator may not change a pod", testFence)
}

func testDeployments(t *testing.T) {
	for _, name := range []client.ObjectKey{{Namespace: shop, Name: "cart"}, {Namespace: payments, Name: "payment"}} {
		var d appsv1.Deployment
		if err := kube.Get(t.Context(), name, &d); err != nil {
			t.Fatal(err)
		}
		spec := d.Spec.Template.Spec
		if len(spec.Volumes) > 0 || len(spec.Containers[0].VolumeMounts) > 0 || len(spec.Containers[0].Env) > 0 || len(d.Spec.Template.Annotations) != 1 {
			t.Errorf("the Deployment %s was changed: %+v", name, d.Spec.Template)
		}
	}
}

func testInside(t *testing.T) {
	for _, tc := range []struct {
		namespace, app, variable, dir string
		replicas                      int
		files                         []string // at least
	}{
		{shop, "cart", v1alpha1.TokenDirVariable, v1alpha1.TokenDir, 1, []string{"payment-api"}},
		{payments, "payment", v1alpha1.VerifyDirVariable, v1alpha1.VerifyDir, 2, []string{
			"payment-api/jwks.json", "payment-api/issuer", "payment-api/audience", "payment-api/verification.json",
		}},
	} {
		for _, p := range running(t, tc.namespace, tc.app, tc.replicas) {
			in := get[wire.Inside](t, p, "/inside")
			if in.UID == 0 || in.ServiceAccountToken {
				t.Errorf("%s runs as user %d, with a ServiceAccount token: %t", p, in.UID, in.ServiceAccountToken)
			}
			if got := in.Env[tc.variable]; got != tc.dir || len(in.Env) != 1 {
				t.Errorf("%s has the variables %v, want %s=%s", p, in.Env, tc.variable, tc.dir)
			}
			found := map[string]wire.File{}
			for _, f := range in.Files {
				found[f.Path] = f
				if f.Error != "" {
					t.Errorf("%s cannot read %s (%s): %s", p, f.Path, f.Mode, f.Error)
				}
			}
			for _, f := range tc.files {
				if _, ok := found[path.Join(tc.dir, f)]; !ok {
					t.Errorf("%s has no file %s, only %v", p, f, slices.Sorted(maps.Keys(found)))
				}
			}
		}
	}
}

// testInitContainers makes each container of a pod look for its token, and fail
// without it.
func testInitContainers(t *testing.T) {
	p := pod(shop, "batch", map[string]string{v1alpha1.ClientAnnotation: "cart"}, "look")
	sidecar := container("sidecar", "cart")
	sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/pods", "look"}}}}
	p.Spec.InitContainers = []corev1.Container{container("first", "look"), sidecar}
	create(t, p)
	eventually(t, time.Minute, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("the pod is %s: %+v", p.Status.Phase, p.Status)
		}
		return nil
	})
}

// testWaitingPod requires that a pod which names an unknown client is admitted,
// that an event says so in one line, and that the pod starts once the client
// exists.
func testWaitingPod(t *testing.T, w *world) {
	p := pod(shop, "early", map[string]string{v1alpha1.ClientAnnotation: "late"}, "cart")
	create(t, p)
	eventually(t, 30*time.Second, func() error {
		var events corev1.EventList
		if err := kube.List(t.Context(), &events, client.InNamespace(shop)); err != nil {
			return err
		}
		var said []string
		for _, e := range events.Items {
			if e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.Name != p.Name {
				continue
			}
			if e.Reason == "TokenNotReady" && strings.Contains(e.Message, `"late"`) && !strings.Contains(e.Message, "\n") {
				t.Logf("%s: %s", e.Reason, e.Message)
				return nil
			}
			said = append(said, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("the pod's events do not say that the M2MClient \"late\" is missing: %q", said)
	})
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil || p.Status.Phase != corev1.PodPending {
		t.Errorf("the pod is %s, want Pending: %v", p.Status.Phase, err)
	}
	start := time.Now()
	becomeReady(t, w.m2mClient(t, "late", 0, 50))
	// The kubelet retries a failed mount after up to two minutes.
	eventually(t, 3*time.Minute, func() error {
		ready, err := podsOf(t.Context(), shop, p.Name)
		if err == nil && len(ready) == 0 {
			err = errors.New("the pod does not start although its M2MClient is there")
		}
		return err
	})
	figures.set("waiting_pod_started_after_seconds", time.Since(start).Seconds())
	w.remove(t, "late")
	if err := kube.Delete(t.Context(), p); err != nil {
		t.Error(err)
	}
}

func testForbidden(t *testing.T) {
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: closed, Labels: map[string]string{
		v1alpha1.InjectionLabel: v1alpha1.InjectionDisabled, suiteLabel: "1",
	}}})
	p := pod(closed, "cart", map[string]string{v1alpha1.ClientAnnotation: "cart"}, "idle")
	eventually(t, 30*time.Second, func() error { // until its ServiceAccount exists
		return kube.Create(t.Context(), p)
	})
	if len(p.Spec.Volumes) > 0 || p.Annotations[v1alpha1.InjectedAnnotation] != "" {
		t.Errorf("the pod was changed: %+v", p)
	}
}

func testUnannotated(t *testing.T, w *world) {
	before := w.webhookRequests(t)
	for i := range 5 {
		p := pod(shop, fmt.Sprintf("plain-%d", i), nil, "idle")
		create(t, p)
		if len(p.Spec.Volumes) > 0 {
			t.Errorf("the pod was changed: %+v", p.Spec)
		}
		if err := kube.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
	}
	if after := w.webhookRequests(t); after != before {
		t.Errorf("the webhook has got %.0f requests while 5 pods without annotations were created", after-before)
	}
	// So that the metric is known to count.
	p := pod(shop, "annotated", map[string]string{v1alpha1.ClientAnnotation: "cart"}, "idle")
	create(t, p)
	if after := w.webhookRequests(t); after != before+1 {
		t.Errorf("the webhook has got %.0f requests when an annotated pod was created, want 1", after-before)
	}
	if p.Annotations[v1alpha1.InjectedAnnotation] != "secret/cart-token" {
		t.Errorf("the annotated pod has the annotations %v", p.Annotations)
	}
	if err := kube.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
		t.Error(err)
	}
}

// testFence tries, with the operator's own ServiceAccount, what must be denied.
func testFence(t *testing.T) {
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + operatorNamespace + ":" + operatorDeployment,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace, "system:authenticated"},
	}
	operator, err := client.New(as, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	victim := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: running(t, shop, "cart", 1)[0].Name}}
	patch := func(body string) error {
		return operator.Patch(t.Context(), victim.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, []byte(body)))
	}
	for what, body := range map[string]string{
		"its image":          `{"spec":{"containers":[{"name":"cart","image":"registry.example.com/evil:1"}]}}`,
		"its labels":         `{"metadata":{"labels":{"app":"other"}}}`,
		"another annotation": `{"metadata":{"annotations":{"m2m-operator.io/client":"other"}}}`,
	} {
		if err := patch(body); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("the operator changed %s: %v", what, err)
		} else if !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			t.Errorf("the operator was kept from changing %s by something else than the policy: %v", what, err)
		}
	}
	touch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.TouchedAtAnnotation, time.Now().UTC().Format(time.RFC3339Nano))
	if err := patch(touch); err != nil {
		t.Errorf("the operator may not touch a pod: %v", err)
	}
}
