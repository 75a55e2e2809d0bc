// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
)

// Enforcing lets an operator write the policies of gateways.
func Enforcing(all ...controller.Gateway) func(*controller.Options) {
	return func(o *controller.Options) { o.Enforcement = all }
}

// Policy returns a policy of a gateway, nil if there is none.
func Policy(t *testing.T, k gateways.Kind, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	u := NewPolicy(k, namespace, name)
	err := Kube.Get(t.Context(), client.ObjectKeyFromObject(u), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// NewPolicy returns an empty policy of a gateway.
func NewPolicy(k gateways.Kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(k.Resource.GroupVersion().WithKind(k.Name))
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// SlowPolicies returns a connection on which the lists and watches of gateways' policies get
// no answer until the returned function is called. It records what they accept.
func SlowPolicies(t *testing.T) (cfg *rest.Config, answer func(), accepted func() []string) {
	t.Helper()
	slow := &slowPolicies{open: make(chan struct{})}
	cfg = rest.CopyConfig(RESTConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		slow.next = next
		return slow
	})
	answer = sync.OnceFunc(func() { close(slow.open) })
	t.Cleanup(answer)
	return cfg, answer, func() []string {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		return slices.Clone(slow.accepted)
	}
}

type slowPolicies struct {
	next http.RoundTripper
	open chan struct{}

	mu       sync.Mutex
	accepted []string
}

// RoundTrip sends a request, late if it is for a list. One of a single object is to find
// out whether the kind is there.
func (s *slowPolicies) RoundTrip(req *http.Request) (*http.Response, error) {
	for _, g := range enforcement.Gateways() {
		for _, k := range gateways.Kinds(g) {
			if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, "/"+k.Resource.Resource) {
				continue
			}
			s.mu.Lock()
			s.accepted = append(s.accepted, req.Header.Get("Accept"))
			s.mu.Unlock()
			if req.URL.Query().Get("limit") == "1" {
				continue
			}
			select {
			case <-s.open:
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		}
	}
	return s.next.RoundTrip(req)
}

// SeesPolicy waits until the operator has seen a policy as it is now.
func (op *Operator) SeesPolicy(k gateways.Kind, namespace, name string) {
	op.T.Helper()
	Eventually(op.T, func() error {
		version, seen := "", ""
		if u := Policy(op.T, k, namespace, name); u != nil {
			version = u.GetResourceVersion()
		}
		if o := op.Shared.Policies.Get(k, types.NamespacedName{Namespace: namespace, Name: name}); o != nil {
			seen = o.Version
		}
		if version != seen {
			return fmt.Errorf("the operator has seen version %q of %s %q, not %q", seen, k.Name, name, version)
		}
		return nil
	})
}
