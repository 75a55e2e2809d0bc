// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// connections holds the HTTP client of each server, which trusts what the server's
// spec says.
type connections struct {
	policy            egress.Policy
	foreign           *foreignObjects
	operatorNamespace string
	to                *each[connection]
}

type connection struct {
	mu        sync.Mutex
	http      *http.Client
	caVersion string
}

func newConnections(l *lives, policy egress.Policy, foreign *foreignObjects, operatorNamespace string) *connections {
	return &connections{
		policy: policy, foreign: foreign, operatorNamespace: operatorNamespace,
		to: newEach(l, func(client.Object) *connection { return &connection{} }, (*connection).closeIdle),
	}
}

// closeIdle closes the connections of a server that is gone: each keeps its CA bundle
// in memory.
func (c *connection) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// caVersion identifies the CA bundle that a server's present HTTP client trusts.
func (s *connections) caVersion(obj client.Object) string {
	c := s.to.get(obj)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caVersion
}

// httpClient returns the client that speaks to a server and trusts its CA
// bundle; changed says that it is another one than before.
func (s *connections) httpClient(ctx context.Context, obj client.Object) (hc *http.Client, changed bool, p *rules.Problem, err error) {
	c := s.to.get(obj)
	version, pem, p, err := s.caBundle(ctx, obj)
	if p != nil || err != nil {
		return nil, false, p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil && c.caVersion == version {
		return c.http, false, nil, nil
	}
	hc, err = s.policy.NewClient(pem)
	if err != nil {
		return nil, false, &rules.Problem{Reason: v1alpha1.ReasonCABundleInvalid, Message: "The CA bundle cannot be used: " + err.Error()}, nil
	}
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
	c.http, c.caVersion = hc, version
	return hc, true, nil, nil
}

func (s *connections) caBundle(ctx context.Context, obj client.Object) (version string, pem []byte, p *rules.Problem, err error) {
	kind, name, key := "ConfigMap", "", ""
	switch ca := specOf(obj).CABundle; {
	case ca.ConfigMapRef.Name != "":
		name, key = string(ca.ConfigMapRef.Name), string(ca.ConfigMapRef.Key)
	case ca.SecretRef.Name != "":
		kind, name, key = "Secret", string(ca.SecretRef.Name), string(ca.SecretRef.Key)
	default:
		return "", nil, nil, nil
	}
	if key == "" {
		key = v1alpha1.CABundleKey
	}
	namespace := obj.GetNamespace()
	if namespace == "" {
		namespace = s.operatorNamespace
	}
	if namespace == "" {
		return "", nil, &rules.Problem{
			Reason:  v1alpha1.ReasonCABundleInvalid,
			Message: "The CA bundle lies in the operator's namespace, which it was not told: --operator-namespace",
		}, nil
	}
	content, err := s.foreign.get(ctx, kind, types.NamespacedName{Namespace: namespace, Name: name}, maxCABundle, key)
	if err != nil {
		return "", nil, nil, err
	}
	if content != nil && len(content.tooLong) > 0 {
		return "", nil, &rules.Problem{
			Reason:  v1alpha1.ReasonCABundleInvalid,
			Message: fmt.Sprintf("The CA bundle has more than %d bytes: key %q of %s %q in namespace %q", maxCABundle, key, kind, name, namespace),
		}, nil
	}
	if content == nil || len(content.data[key]) == 0 {
		return "", nil, &rules.Problem{
			Reason:  v1alpha1.ReasonCABundleInvalid,
			Message: fmt.Sprintf("The CA bundle does not exist: key %q of %s %q in namespace %q", key, kind, name, namespace),
		}, nil
	}
	return content.version + "/" + key, content.data[key], nil, nil
}
