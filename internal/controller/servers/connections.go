// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// Connections holds an HTTP client for each server. The client trusts the CA bundle that the
// server's spec names.
type Connections struct {
	policy            egress.Policy
	foreign           *foreign.Objects
	operatorNamespace string
	To                *Each[connection]
}

type connection struct {
	mu        sync.Mutex
	HTTP      *http.Client
	caVersion string
}

// NewConnections returns connections that obey a policy. A ClusterAuthorizationServer's CA
// bundle is read from operatorNamespace.
func NewConnections(l *Lives, policy egress.Policy, foreign *foreign.Objects, operatorNamespace string) *Connections {
	return &Connections{
		policy: policy, foreign: foreign, operatorNamespace: operatorNamespace,
		To: NewEach(l, func(client.Object) *connection { return &connection{} }, (*connection).closeIdle),
	}
}

// closeIdle closes the idle connections of a server that is gone. Each of them keeps the CA
// bundle in memory.
func (c *connection) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.HTTP != nil {
		c.HTTP.CloseIdleConnections()
	}
}

// CaVersion identifies the CA bundle that the present HTTP client of a server trusts.
func (s *Connections) CaVersion(obj client.Object) string {
	c := s.To.Get(obj)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caVersion
}

// HTTPClient returns the HTTP client for a server, or the problem with its CA bundle. changed
// reports whether the client is another one than before.
func (s *Connections) HTTPClient(ctx context.Context, obj client.Object) (hc *http.Client, changed bool, p *rules.Problem, err error) {
	c := s.To.Get(obj)
	version, pem, p, err := s.caBundle(ctx, obj)
	if p != nil || err != nil {
		return nil, false, p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.HTTP != nil && c.caVersion == version {
		return c.HTTP, false, nil, nil
	}
	hc, err = s.policy.NewClient(pem)
	if err != nil {
		return nil, false, &rules.Problem{Reason: v1alpha1.ReasonCABundleInvalid, Message: "The CA bundle cannot be used: " + err.Error()}, nil
	}
	if c.HTTP != nil {
		c.HTTP.CloseIdleConnections()
	}
	c.HTTP, c.caVersion = hc, version
	return hc, true, nil, nil
}

func (s *Connections) caBundle(ctx context.Context, obj client.Object) (version string, pem []byte, p *rules.Problem, err error) {
	kind, name, key := "ConfigMap", "", ""
	switch ca := record.SpecOf(obj).CABundle; {
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
			Message: "The operator does not know its own namespace, where the CA bundle is; set its flag --operator-namespace",
		}, nil
	}
	content, err := s.foreign.Get(ctx, kind, types.NamespacedName{Namespace: namespace, Name: name}, foreign.MaxCABundle, key)
	if err != nil {
		return "", nil, nil, err
	}
	if content != nil && len(content.TooLong) > 0 {
		return "", nil, &rules.Problem{
			Reason:  v1alpha1.ReasonCABundleInvalid,
			Message: fmt.Sprintf("The CA bundle has more than %d bytes: key %q of %s %q in namespace %q", foreign.MaxCABundle, key, kind, name, namespace),
		}, nil
	}
	if content == nil || len(content.Data[key]) == 0 {
		p := &rules.Problem{
			Reason:  v1alpha1.ReasonCABundleInvalid,
			Message: fmt.Sprintf("The CA bundle does not exist: key %q of %s %q in namespace %q", key, kind, name, namespace),
		}
		// The condition of a cluster's server can be read by everybody, and a Secret's keys only by
		// those who may name it as a credential.
		if content != nil && obj.GetNamespace() == namespace && (kind == "ConfigMap" || s.foreign.MayBeSent(types.NamespacedName{Namespace: namespace, Name: name}, content) == nil) {
			p.Message += content.Instead(key)
		}
		return "", nil, p, nil
	}
	return content.Version + "/" + key, content.Data[key], nil, nil
}
