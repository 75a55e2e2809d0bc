// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func TestMain(m *testing.M) { operator.Main(m, "../..") }

// install creates what all runs share: the operator's namespace, and the kind of Envoy Gateway's policies.
var install = sync.OnceValue(func() error {
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, crd := range kubetest.GatewayKinds() {
		if slices.ContainsFunc(gateways.Kinds(enforcement.EnvoyGateway), func(k gateways.Kind) bool { return k.Name == crd.Spec.Names.Kind }) {
			crds = append(crds, crd)
		}
	}
	_, err := envtest.InstallCRDs(operator.RESTConfig, envtest.CRDInstallOptions{CRDs: crds})
	return err
})
