// SPDX-License-Identifier: Apache-2.0

// Package access decides who may have what: which namespace may use which
// authorization server, which APIResource an identifier belongs to, and what an
// M2MClient may ask for. All rules between tenants are here. It reads objects
// and returns values; it writes nothing.
package access

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// ByIdentifier is the index from an identifier to its APIResources that the
// reader of a Resolver must have.
const ByIdentifier = "identifier"

// Resolver answers questions about the objects that a reader sees.
type Resolver struct {
	// Reader must be a cache, because it is asked often. Its objects are shared with the
	// cache: read only.
	Reader client.Reader
	// Watches reports whether the reader can see the objects of a namespace.
	Watches func(namespace string) bool
	// Status returns the part of a server's status that can be trusted; others than the
	// operator may be able to write the status. Nil: all of it.
	Status func(client.Object) *v1alpha1.AuthorizationServerStatus
	// Cut reports whether the reader left out labels of an object because they are too
	// long. No selector matches such an object.
	Cut func(client.Object) bool
}

// Problem is why something is not allowed, as reason and message of a condition.
type Problem struct {
	Reason, Message string
	// Unknown reports whether the problem may be temporary. The condition is then Unknown.
	Unknown bool
	// Field is the field that decides. It may belong to another namespace, so it is only for
	// people who can read its object, never for a condition. It is zero if the client's own
	// entry of spec.access decides.
	Field Field
}

// Field names a field of an object.
type Field struct {
	Kind, Namespace, Name string
	Path                  string // such as spec.grants
}

// at says which field decides.
func (p *Problem) at(o client.Object, path string) *Problem {
	kind := "M2MClient"
	switch o.(type) {
	case *v1alpha1.APIResource:
		kind = "APIResource"
	case *v1alpha1.AuthorizationServer, *v1alpha1.ClusterAuthorizationServer:
		kind = string(kindOf(o))
	}
	p.Field = Field{kind, o.GetNamespace(), o.GetName(), path}
	return p
}

// named says that the reference to a server decides, unless a field of the server does.
func (p *Problem) named(by client.Object) *Problem {
	if p != nil && p.Field == (Field{}) {
		return p.at(by, "spec.authorizationServerRef.name")
	}
	return p
}

// Decided reports whether the problem is a decision. See [Decided].
func (p *Problem) Decided() bool { return p != nil && Decided(p.Reason) }

func problemf(reason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Server is an authorization server of either kind. It is shared with the
// cache: read only.
type Server struct {
	Object client.Object
	Spec   *v1alpha1.AuthorizationServerSpec
	Status *v1alpha1.AuthorizationServerStatus
}

// ServerOf returns what both kinds of authorization server share.
func ServerOf(o client.Object) *Server {
	if c, ok := o.(*v1alpha1.ClusterAuthorizationServer); ok {
		return &Server{o, &c.Spec.AuthorizationServerSpec, &c.Status}
	}
	s := o.(*v1alpha1.AuthorizationServer)
	return &Server{o, &s.Spec, &s.Status}
}

// Key names the server.
func (s *Server) Key() ServerKey { return ServerKeyOf(s.Object) }

// Revoked reports whether the server's owner revoked a key. A key without an ID
// cannot be revoked.
func (s *Server) Revoked(keyID string) bool {
	return keyID != "" && slices.Contains(s.Spec.JWKS.RevokedKeyIDs, keyID)
}

// Opaque reports whether only the server itself can judge its tokens.
func (s *Server) Opaque() bool { return s.Spec.TokenFormat == v1alpha1.TokenFormatOpaque }

// KeysKnown reports whether a verification bundle can be made: signing keys are
// known, or every one of them is revoked and nothing must verify.
func (s *Server) KeysKnown() bool {
	return len(s.Status.Keys) > 0 || len(s.Spec.JWKS.RevokedKeyIDs) > 0
}

// ServerKey names an authorization server. The namespace is empty for a
// ClusterAuthorizationServer.
type ServerKey struct {
	Kind            v1alpha1.AuthorizationServerKind
	Namespace, Name string
}

// ServerKeyOf returns the key of a server of either kind.
func ServerKeyOf(o client.Object) ServerKey {
	return ServerKey{kindOf(o), o.GetNamespace(), o.GetName()}
}

// String returns kind, namespace and name, separated by slashes.
func (k ServerKey) String() string { return string(k.Kind) + "/" + k.Namespace + "/" + k.Name }

// Object returns an empty object of the server's kind with its name.
func (k ServerKey) Object() client.Object {
	return Named(v1alpha1.AuthorizationServerReference{Kind: k.Kind, Name: v1alpha1.ObjectName(k.Name)}, k.Namespace)
}

// Named returns an empty object for the server to which a reference in a namespace refers.
func Named(ref v1alpha1.AuthorizationServerReference, namespace string) client.Object {
	if ref.Kind == v1alpha1.KindClusterAuthorizationServer {
		return &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: string(ref.Name)}}
	}
	return &v1alpha1.AuthorizationServer{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: string(ref.Name)}}
}

func kindOf(o client.Object) v1alpha1.AuthorizationServerKind {
	if _, ok := o.(*v1alpha1.ClusterAuthorizationServer); ok {
		return v1alpha1.KindClusterAuthorizationServer
	}
	return v1alpha1.KindAuthorizationServer
}

// isServer reports whether two objects are the same server.
func isServer(a, b client.Object) bool {
	return kindOf(a) == kindOf(b) && client.ObjectKeyFromObject(a) == client.ObjectKeyFromObject(b)
}

// title names a server for people of another namespace.
func title(o client.Object) string {
	title := fmt.Sprintf("%s %q", kindOf(o), o.GetName())
	if o.GetNamespace() != "" {
		title += fmt.Sprintf(" of namespace %q", o.GetNamespace())
	}
	return title
}

// Server returns the server that an object in a namespace names, or the problem that keeps
// the object from using it.
func (r Resolver) Server(ctx context.Context, ref v1alpha1.AuthorizationServerReference, namespace string) (*Server, *Problem, error) {
	obj := Named(ref, namespace)
	err := r.Reader.Get(ctx, client.ObjectKeyFromObject(obj), obj, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		p := problemf(v1alpha1.ReasonAuthorizationServerNotFound, "%s %q does not exist", kindOf(obj), string(ref.Name))
		if kindOf(obj) == v1alpha1.KindAuthorizationServer {
			p.Message += fmt.Sprintf(" in namespace %q", namespace)
		}
		return nil, p, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("get %s: %w", title(obj), err)
	}
	if cluster, ok := obj.(*v1alpha1.ClusterAuthorizationServer); ok {
		allowed, err := r.Selects(ctx, cluster.Spec.AllowedNamespaces, namespace)
		if err != nil {
			return nil, nil, err
		}
		if !allowed {
			return nil, problemf(v1alpha1.ReasonAuthorizationServerNotAllowed,
				"ClusterAuthorizationServer %q does not allow namespace %q; see its spec.allowedNamespaces", cluster.Name, namespace).
				at(cluster, "spec.allowedNamespaces"), nil
		}
	}
	srv := ServerOf(obj)
	if r.Status != nil {
		srv.Status = r.Status(obj)
	}
	return srv, nil, nil
}

// Selects reports whether a selection includes a namespace.
func (r Resolver) Selects(ctx context.Context, sel v1alpha1.NamespaceSelection, namespace string) (bool, error) {
	if slices.Contains(sel.Names, v1alpha1.NamespaceName(namespace)) {
		return true, nil
	}
	if sel.Selector == nil {
		return false, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(sel.Selector)
	if err != nil {
		return false, nil //nolint:nilerr // an invalid selector selects nothing; no access may depend on a typo
	}
	ns := &metav1.PartialObjectMetadata{}
	ns.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := r.Reader.Get(ctx, types.NamespacedName{Name: namespace}, ns, client.UnsafeDisableDeepCopy); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return !r.Cut(ns) && selector.Matches(labels.Set(ns.Labels)), nil
}

// APIResourceOf returns the APIResource that an access of a client names.
func APIResourceOf(c *v1alpha1.M2MClient, a *v1alpha1.Access) types.NamespacedName {
	return types.NamespacedName{
		Namespace: cmp.Or(string(a.APIResourceRef.Namespace), c.Namespace),
		Name:      string(a.APIResourceRef.Name),
	}
}

// Registered reports whether the operator registers a client, which then has
// no credentials of its own.
func Registered(c *v1alpha1.M2MClient) bool {
	return c.Spec.Credentials == (v1alpha1.ClientCredentials{})
}
