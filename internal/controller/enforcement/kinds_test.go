// SPDX-License-Identifier: Apache-2.0

package enforcement_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// installed installs the kinds of policies of one gateway for a test.
func installed(t *testing.T, g enforcement.Gateway) {
	t.Helper()
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, crd := range kubetest.GatewayKinds() {
		if slices.ContainsFunc(gateways.Kinds(g), func(k gateways.Kind) bool { return k.Name == crd.Spec.Names.Kind }) {
			crds = append(crds, crd)
		}
	}
	if _, err := envtest.InstallCRDs(operator.RESTConfig, envtest.CRDInstallOptions{CRDs: crds}); err != nil {
		t.Fatal(err)
	}
}

// uninstalled removes them, with all objects.
func uninstalled(t *testing.T, g enforcement.Gateway) {
	t.Helper()
	c, err := client.New(operator.RESTConfig, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	for _, k := range gateways.Kinds(g) {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: k.Resource.Resource + "." + k.Resource.Group}}
		if err := c.Delete(t.Context(), crd); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		operator.Eventually(t, func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s is still there: %w", crd.Name, err)
			}
			return nil
		})
	}
}

// TestKindsThatComeAndGo: nothing fails without the kinds or without the permission for
// them, and no restart is needed.
func TestKindsThatComeAndGo(t *testing.T) {
	uninstalled(t, enforcement.Istio)
	op := operator.StartStepped(t, operator.Enforcing(enforcement.Istio))
	s := operator.NewStage(t, op)
	enforce(s, inMesh())
	enforced(s, v1alpha1.ReasonKindNotInstalled, "RequestAuthentication")
	operator.IsReady(t, s.Cart)
	op.Requests.Reset()
	for range 20 {
		op.Round(s.Payments, s.Shop)
	}
	if n := len(op.Requests.Sent()); n > 0 {
		t.Errorf("%d requests without need: %v", n, op.Requests.Sent()[0])
	}
	installed(t, enforcement.Istio)
	op.Advance(gateways.LookAgain)
	s.Settle()
	enforced(s, v1alpha1.ReasonEnforced)
	if operator.Policy(t, authorization, s.Payments, policyName) == nil {
		t.Error("there is no policy")
	}

	uninstalled(t, enforcement.Istio)
	operator.Eventually(t, func() error {
		op.Advance(time.Second)
		for range 3 {
			op.Round(s.Payments, s.Shop)
		}
		if c := conditionOf(s, v1alpha1.ConditionEnforced); c.Reason != v1alpha1.ReasonKindNotInstalled {
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
		return nil
	})
	logged := strings.Count(operator.Logs.String(), "A kind of policy can no longer be read")
	if logged > 4 {
		t.Errorf("it was logged %d times", logged)
	}
	installed(t, enforcement.Istio)
	op.Advance(gateways.LookAgain)
	s.Settle()
	enforced(s, v1alpha1.ReasonEnforced)
}

// TestWithoutThePermission: a flag without its role is a condition, and costs one attempt
// in a while.
func TestWithoutThePermission(t *testing.T) {
	installed(t, enforcement.EnvoyGateway)
	op := operator.StartSteppedOver(t, operator.Restricted(t), operator.Enforcing(enforcement.EnvoyGateway))
	s := operator.NewStage(t, op)
	enforce(s, atRoute())
	enforced(s, v1alpha1.ReasonNotEnabled, "no permission", "securitypolicies")
	operator.IsReady(t, s.Cart)
	op.Requests.Reset()
	for range 20 {
		op.Round(s.Payments, s.Shop)
	}
	if n := len(op.Requests.Sent()); n > 0 {
		t.Errorf("%d requests without need: %v", n, op.Requests.Sent()[0])
	}
}

func TestNotEnabled(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	enforce(s, atRoute())
	enforced(s, v1alpha1.ReasonNotEnabled, "--enforcement=envoy-gateway")
	operator.IsReady(t, s.Cart)
	s.Due()
	if _, err := s.AS.RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.AS.ResetRequests()
	s.Settle()
	s.IsPublished() // it waits for no gateway
}
