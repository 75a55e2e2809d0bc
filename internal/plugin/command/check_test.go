// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestCheckCommand looks at an installation without a webhook and without policies, first
// while no pod runs.
func TestCheckCommand(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewNamespace(t, "system", nil)
	labels := map[string]string{"app.kubernetes.io/name": "m2m-operator"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "manager", Labels: labels}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "manager", Image: "m2m-operator:v1"}}
	operator.Create(t, held(ns, op.Clock.Now()))
	outside := run(t, op.Clock.Now(), "check", "--operator-namespace", ns)
	outside.ends(t, 0)
	says(t, outside.out, "it runs outside of the cluster", "pod-1 holds the lease", "an operator outside of the cluster has an identity of its own")
	operator.Create(t, d)
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), d); err != nil {
			t.Error(err)
		}
	})
	a := run(t, op.Clock.Now(), "check", "--operator-namespace", ns)
	a.ends(t, 3)
	says(t, a.out, "0 of 1 replica is ready, image m2m-operator:v1", "4 kinds are established", "pod-1 leads", "there is no webhook", "there is no policy", "the operator watches all")
	says(t, run(t, op.Clock.Now().Add(time.Hour), "check", "--operator-namespace", ns, "-o", "yaml").out, "result: Failed", "has not renewed the lease")

	reader(t, "dora", ns)
	a = run(t, op.Clock.Now(), "check", "--operator-namespace", ns, "--as", "dora")
	a.ends(t, 4)
	says(t, a.out, "you may not list deployments.apps in namespace", "you may not get leases.coordination.k8s.io", "you may not list validatingadmissionpolicy")
}

// held returns an operator's lease that was renewed at a time.
func held(namespace string, at time.Time) *coordinationv1.Lease {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "m2m-operator"}}
	renewed := metav1.NewMicroTime(at)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = new("pod-1"), new(int32(15)), &renewed
	return lease
}

// TestWhatNeedsTheOperator asks what would stop working without it.
func TestWhatNeedsTheOperator(t *testing.T) {
	if _, err := envtest.InstallCRDs(operator.RESTConfig, envtest.CRDInstallOptions{CRDs: kubetest.GatewayKinds()[:1]}); err != nil {
		t.Fatal(err)
	}
	op := operator.StartStepped(t, operator.Enforcing(enforcement.EnvoyGateway))
	s := operator.NewStage(t, op)
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
		a.Spec.Enforcement = []v1alpha1.Enforcement{{Name: "public", EnvoyGateway: v1alpha1.EnvoyGatewayEnforcement{
			TargetRefs: []v1alpha1.EnvoyGatewayTarget{{Kind: "HTTPRoute", Name: "payment"}},
		}}}
	})
	operator.FromCache(t, op, s.API)
	s.Settle()
	pod := operator.AnnotatedPod(s.Shop, "needs-it", v1alpha1.ClientAnnotation, "cart", v1alpha1.InjectedAnnotation, "secret/cart-token")
	operator.Create(t, pod)
	a := run(t, op.Clock.Now(), "check", "--uninstall")
	a.ends(t, 3)
	says(t, a.out, "annotated, whose successors", "Pod "+s.Shop+"/needs-it", "nobody would replace",
		"1 policy of a gateway would stay with the keys of today", "SecurityPolicy "+s.Payments+"/m2m.payment-api.public", "helm uninstall keeps the CRDs")
	says(t, run(t, op.Clock.Now(), "check", "--uninstall", "-o", "json").out, `"check": "finalizers"`)
	reader(t, "dora", s.Shop)
	a = run(t, op.Clock.Now(), "check", "--uninstall", "--as", "dora")
	says(t, a.out, "you may not list pods in all namespaces", "you may not list securitypolicies.gateway.envoyproxy.io")
}
