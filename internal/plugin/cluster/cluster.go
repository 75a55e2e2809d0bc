// SPDX-License-Identifier: Apache-2.0

// Package cluster reads an inventory from an API server, with the rights of whoever asks. What
// they may not read everywhere, it reads in the namespaces that matter to the question.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// page is how many objects one request asks for at most.
const page = 500

// Reader reads from an API server.
type Reader struct{ Client client.Client }

// Question says what an inventory is for.
type Question struct {
	// Namespaces are those that the question is about. None: all.
	Namespaces []string
	// Pods reports whether pods and bundles matter, too.
	Pods bool
}

// Read reads what there is to a question, and returns the rights that are missing for a
// complete answer.
func (r Reader) Read(ctx context.Context, q Question) (*inventory.Inventory, []inventory.Right, error) {
	s := &session{Reader: r, q: q, inv: &inventory.Inventory{}, refused: map[inventory.Right]bool{}}
	if err := s.kinds(ctx); err != nil {
		return nil, nil, explained(err)
	}
	if q.Pods {
		if err := s.pods(ctx); err != nil {
			return nil, nil, explained(err)
		}
	}
	return s.inv, s.missing(), nil
}

// explained says what to do about an error that the plugin cannot work around.
func explained(err error) error {
	var noMatch *meta.NoKindMatchError
	switch {
	case errors.As(err, &noMatch):
		return errors.New("this cluster does not have the kinds of m2m-operator: install the operator first, or choose another cluster with --context")
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server does not know you: check your credentials, for instance with kubectl auth whoami: %w", err)
	}
	return err
}

type session struct {
	Reader
	q       Question
	inv     *inventory.Inventory
	refused map[inventory.Right]bool
}

// kinds reads the operator's kinds and the namespaces.
func (s *session) kinds(ctx context.Context) error {
	lists := []client.ObjectList{&v1alpha1.M2MClientList{}, &v1alpha1.APIResourceList{}, &v1alpha1.AuthorizationServerList{}}
	for _, list := range lists {
		if err := s.list(ctx, list, ""); err != nil {
			return err
		}
	}
	if err := s.list(ctx, &v1alpha1.ClusterAuthorizationServerList{}, ""); err != nil {
		return err
	}
	// What the user may not list everywhere may be readable where it matters. Clients lead to
	// APIs, and APIs to servers.
	for _, list := range lists {
		for _, ns := range s.involved() {
			if err := s.list(ctx, list, ns); err != nil {
				return err
			}
		}
	}
	if err := s.clusterServers(ctx); err != nil {
		return err
	}
	return s.namespaces(ctx)
}

// clusterServers gets the ClusterAuthorizationServers that objects name, if they cannot be listed.
func (s *session) clusterServers(ctx context.Context) error {
	if s.inv.Knows(inventory.ClusterServers, "") {
		return nil
	}
	names := sets.New[string]()
	add := func(ref v1alpha1.AuthorizationServerReference) {
		if ref.Kind == v1alpha1.KindClusterAuthorizationServer {
			names.Insert(string(ref.Name))
		}
	}
	for _, c := range s.inv.Clients {
		add(c.Spec.AuthorizationServerRef)
	}
	for _, a := range s.inv.APIs {
		add(a.Spec.AuthorizationServerRef)
	}
	for _, name := range sets.List(names) {
		if err := s.get(ctx, &v1alpha1.ClusterAuthorizationServer{}, name); err != nil {
			return err
		}
	}
	return nil
}

// namespaces reads the labels of namespaces, which selectors match.
func (s *session) namespaces(ctx context.Context) error {
	if err := s.list(ctx, metadataList("Namespace"), ""); err != nil || s.inv.Knows(inventory.Namespaces, "") {
		return err
	}
	for _, ns := range s.involved() {
		if err := s.get(ctx, inventory.Metadata("Namespace"), ns); err != nil {
			return err
		}
	}
	return nil
}

// pods reads the pods and bundles of the namespaces that matter.
func (s *session) pods(ctx context.Context) error {
	in := []string{""}
	if len(s.q.Namespaces) > 0 {
		in = s.involved()
	}
	for _, kind := range []string{"Pod", "ConfigMap"} {
		for _, ns := range in {
			if err := s.list(ctx, metadataList(kind), ns); err != nil {
				return err
			}
		}
		if s.inv.Knows(inventory.ResourceOf(inventory.Metadata(kind)), in[0]) || len(in) > 1 || in[0] != "" {
			continue
		}
		for _, ns := range s.involved() {
			if err := s.list(ctx, metadataList(kind), ns); err != nil {
				return err
			}
		}
	}
	return nil
}

// involved returns the namespaces that the question is about, and those of the APIs and
// clients that these have to do with.
func (s *session) involved() []string {
	about := sets.New(s.q.Namespaces...)
	all := sets.New(s.q.Namespaces...)
	for _, c := range s.inv.Clients {
		for i := range c.Spec.Access {
			a := &c.Spec.Access[i]
			if len(about) > 0 && !about.Has(c.Namespace) && (a.APIResourceRef.Name == "" || !about.Has(access.APIResourceOf(c, a).Namespace)) {
				continue
			}
			all.Insert(c.Namespace)
			if a.APIResourceRef.Name != "" {
				all.Insert(access.APIResourceOf(c, a).Namespace)
			}
		}
	}
	return sets.List(all)
}

func metadataList(kind string) *metav1.PartialObjectMetadataList {
	l := &metav1.PartialObjectMetadataList{}
	l.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
	return l
}

// kindOf returns the kind of the objects in a list of metadata.
func kindOf(list client.ObjectList) string {
	return strings.TrimSuffix(list.GetObjectKind().GroupVersionKind().Kind, "List")
}

func resourceOf(list client.ObjectList) inventory.Resource {
	if m, ok := list.(*metav1.PartialObjectMetadataList); ok {
		return inventory.ResourceOf(inventory.Metadata(kindOf(m)))
	}
	return inventory.ResourceOf(list)
}

// list reads a kind in a namespace, "" for all, unless that was read. It notes if it may not.
func (s *session) list(ctx context.Context, list client.ObjectList, namespace string) error {
	r := resourceOf(list)
	right := inventory.Right{Verb: "list", Resource: r, Namespace: namespace}
	if s.inv.Knows(r, namespace) || s.refused[right] {
		return nil
	}
	opts := []client.ListOption{client.InNamespace(namespace), client.Limit(page)}
	if r == inventory.ConfigMaps {
		opts = append(opts, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	}
	var found []client.Object
	for next := ""; ; {
		into := list.DeepCopyObject().(client.ObjectList)
		err := s.Client.List(ctx, into, append(opts, client.Continue(next))...)
		if apierrors.IsForbidden(err) {
			s.refused[right] = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", right, err)
		}
		err = meta.EachListItem(into, func(o runtime.Object) error {
			found = append(found, o.(client.Object))
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", right, err)
		}
		if next = into.GetContinue(); next == "" {
			break
		}
	}
	for _, o := range found {
		if m, ok := o.(*metav1.PartialObjectMetadata); ok {
			m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kindOf(list)))
		}
		s.inv.Add(o)
	}
	s.inv.Read(r, namespace)
	return nil
}

// get reads one object of the cluster. It notes if it may not.
func (s *session) get(ctx context.Context, o client.Object, name string) error {
	r := inventory.ResourceOf(o)
	right := inventory.Right{Verb: "get", Resource: r, Name: name}
	err := s.Client.Get(ctx, types.NamespacedName{Name: name}, o)
	switch {
	case apierrors.IsForbidden(err):
		s.refused[right] = true
		return nil
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("%s: %w", right, err)
	default:
		s.inv.Add(o)
	}
	s.inv.Read(r, name)
	return nil
}

// missing returns the rights without which the answer is incomplete. That a kind cannot be
// listed everywhere matters for a question about everything, and for clients if the question
// is about a namespace with APIs, which any namespace may call.
func (s *session) missing() []inventory.Right {
	hasAPIs := slices.ContainsFunc(s.inv.APIs, func(a *v1alpha1.APIResource) bool { return slices.Contains(s.q.Namespaces, a.Namespace) })
	var missing []inventory.Right
	for right := range s.refused {
		everywhere := right.Verb == "list" && right.Namespace == ""
		switch {
		case right.Resource == inventory.Namespaces:
			continue // only selectors need them; whoever asks one notes it
		case right.Resource == inventory.ClusterServers && right.Verb == "list":
			continue // the ones that matter were asked for by name
		case everywhere && len(s.q.Namespaces) > 0 && (right.Resource != inventory.Clients || !hasAPIs):
			continue
		}
		missing = append(missing, right)
	}
	slices.SortFunc(missing, func(a, b inventory.Right) int { return strings.Compare(a.String(), b.String()) })
	return missing
}
