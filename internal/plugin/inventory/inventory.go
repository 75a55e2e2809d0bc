// SPDX-License-Identifier: Apache-2.0

// Package inventory holds the objects that somebody may read, and what they may not. It is
// the reader that the tenant rules ask in the kubectl plugin, so that an answer that depends
// on something unreadable says so instead of guessing.
package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
)

// Resource is what RBAC calls a kind of objects.
type Resource string

// The resources of an inventory.
const (
	Servers        Resource = "authorizationservers.m2m-operator.io"
	ClusterServers Resource = "clusterauthorizationservers.m2m-operator.io"
	APIs           Resource = "apiresources.m2m-operator.io"
	Clients        Resource = "m2mclients.m2m-operator.io"
	Namespaces     Resource = "namespaces"
	Pods           Resource = "pods"
	ConfigMaps     Resource = "configmaps"
)

// ResourceOf returns the resource of an object that an inventory can hold.
func ResourceOf(o any) Resource {
	switch o := o.(type) {
	case *v1alpha1.AuthorizationServer, *v1alpha1.AuthorizationServerList:
		return Servers
	case *v1alpha1.ClusterAuthorizationServer, *v1alpha1.ClusterAuthorizationServerList:
		return ClusterServers
	case *v1alpha1.APIResource, *v1alpha1.APIResourceList:
		return APIs
	case *v1alpha1.M2MClient, *v1alpha1.M2MClientList:
		return Clients
	case *metav1.PartialObjectMetadata:
		return Resource(strings.ToLower(o.Kind) + "s")
	}
	return ""
}

// KindOf returns the kind of an object of the operator. Typed objects do not carry it.
func KindOf(o client.Object) string {
	return map[Resource]string{
		APIs: "APIResource", Clients: "M2MClient", Servers: "AuthorizationServer", ClusterServers: "ClusterAuthorizationServer",
	}[ResourceOf(o)]
}

// Right is a right that somebody lacks.
type Right struct {
	Verb      string   `json:"verb"`
	Resource  Resource `json:"resource"`
	Namespace string   `json:"namespace,omitempty"` // empty: all namespaces, or a resource of the cluster
	Name      string   `json:"name,omitempty"`
}

// String returns the right as a sentence has it: list pods in namespace "shop".
func (r Right) String() string {
	s := r.Verb + " " + string(r.Resource)
	if r.Name != "" {
		s += fmt.Sprintf(" %q", r.Name)
	}
	switch {
	case r.Namespace != "":
		s += fmt.Sprintf(" in namespace %q", r.Namespace)
	case r.Resource.namespaced():
		s += " in all namespaces"
	}
	return s
}

// namespaced reports whether objects of a resource are in namespaces.
func (r Resource) namespaced() bool {
	return slices.Contains([]Resource{Servers, APIs, Clients, Pods, ConfigMaps}, r)
}

// Hidden is the error of a question whose answer depends on something unreadable.
type Hidden struct{ Right Right }

// Error says which right is missing.
func (h *Hidden) Error() string { return "you may not " + h.Right.String() }

// Inventory holds objects. Its zero value is empty and has read nothing.
type Inventory struct {
	Servers        []*v1alpha1.AuthorizationServer
	ClusterServers []*v1alpha1.ClusterAuthorizationServer
	APIs           []*v1alpha1.APIResource
	Clients        []*v1alpha1.M2MClient
	// The metadata of namespaces, of pods and of the operator's ConfigMaps.
	Namespaces, Pods, ConfigMaps []*metav1.PartialObjectMetadata

	read map[Resource]map[string]bool // by namespace, "" for all
}

// Add adds an object.
func (inv *Inventory) Add(o client.Object) {
	switch o := o.(type) {
	case *v1alpha1.AuthorizationServer:
		inv.Servers = append(inv.Servers, o)
	case *v1alpha1.ClusterAuthorizationServer:
		inv.ClusterServers = append(inv.ClusterServers, o)
	case *v1alpha1.APIResource:
		inv.APIs = append(inv.APIs, o)
	case *v1alpha1.M2MClient:
		inv.Clients = append(inv.Clients, o)
	case *metav1.PartialObjectMetadata:
		switch o.Kind {
		case "Namespace":
			inv.Namespaces = append(inv.Namespaces, o)
		case "Pod":
			inv.Pods = append(inv.Pods, o)
		case "ConfigMap":
			inv.ConfigMaps = append(inv.ConfigMaps, o)
		}
	}
}

// Read notes that a resource was read completely in a namespace, "" for everywhere.
func (inv *Inventory) Read(r Resource, namespace string) {
	if inv.read == nil {
		inv.read = map[Resource]map[string]bool{}
	}
	if inv.read[r] == nil {
		inv.read[r] = map[string]bool{}
	}
	inv.read[r][namespace] = true
}

// Knows reports whether an object of a namespace would be in the inventory if it existed.
// Of a resource of the cluster, the namespace is "", or the name of a Namespace.
func (inv *Inventory) Knows(r Resource, namespace string) bool {
	return inv.read[r][""] || inv.read[r][namespace]
}

// Replaced returns an inventory with objects added or, where they exist, replaced.
func (inv *Inventory) Replaced(objects ...client.Object) *Inventory {
	next := &Inventory{
		Servers: slices.Clone(inv.Servers), ClusterServers: slices.Clone(inv.ClusterServers), APIs: slices.Clone(inv.APIs),
		Clients: slices.Clone(inv.Clients), Namespaces: slices.Clone(inv.Namespaces), Pods: inv.Pods, ConfigMaps: inv.ConfigMaps, read: inv.read,
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *v1alpha1.AuthorizationServer:
			next.Servers = without(next.Servers, o)
		case *v1alpha1.ClusterAuthorizationServer:
			next.ClusterServers = without(next.ClusterServers, o)
		case *v1alpha1.APIResource:
			next.APIs = without(next.APIs, o)
		case *v1alpha1.M2MClient:
			next.Clients = without(next.Clients, o)
		case *metav1.PartialObjectMetadata:
			next.Namespaces = without(next.Namespaces, o)
		}
		next.Add(o)
	}
	return next
}

func without[T client.Object](all []T, o T) []T {
	return slices.DeleteFunc(all, func(have T) bool { return client.ObjectKeyFromObject(have) == client.ObjectKeyFromObject(o) })
}

// Find returns an object by kind and name, nil if the inventory does not have it.
func Find[T client.Object](all []T, name types.NamespacedName) (found T) {
	i := slices.IndexFunc(all, func(o T) bool { return client.ObjectKeyFromObject(o) == name })
	if i >= 0 {
		found = all[i]
	}
	return found
}

// View reads an inventory for one question.
type View struct {
	inv *Inventory
	// Missed are the rights without which the answer may be another.
	Missed []Right
}

// View returns a reader for one question.
func (inv *Inventory) View() *View { return &View{inv: inv} }

// Resolver returns the tenant rules over a view. The plugin cannot know which namespaces the
// operator watches, so it assumes all.
func (v *View) Resolver() access.Resolver {
	return access.Resolver{
		Reader: v, Watches: func(string) bool { return true }, Cut: func(client.Object) bool { return false },
	}
}

// Get implements client.Reader. An object that could not be read is a *Hidden error.
func (v *View) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	found := false
	switch into := into.(type) {
	case *v1alpha1.AuthorizationServer:
		found = get(v.inv.Servers, name, into)
	case *v1alpha1.ClusterAuthorizationServer:
		found = get(v.inv.ClusterServers, name, into)
	case *v1alpha1.APIResource:
		found = get(v.inv.APIs, name, into)
	case *v1alpha1.M2MClient:
		found = get(v.inv.Clients, name, into)
	case *metav1.PartialObjectMetadata:
		found = get(v.inv.Namespaces, name, into)
	}
	if found {
		return nil
	}
	r := ResourceOf(into)
	in := name.Namespace
	if in == "" {
		in = name.Name
	}
	if !v.inv.Knows(r, in) {
		return &Hidden{Right{Verb: "get", Resource: r, Namespace: name.Namespace, Name: name.Name}}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: string(r)}, name.String())
}

func get[T any, P interface {
	*T
	client.Object
}](all []P, name client.ObjectKey, into P) bool {
	found := Find(all, name)
	if found == nil {
		return false
	}
	*into = *found
	return true
}

// List implements client.Reader for what the tenant rules list. It lists what there is, and
// notes what it missed.
func (v *View) List(_ context.Context, into client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	r := ResourceOf(into)
	if missing := (Right{Verb: "list", Resource: r}); !v.inv.Knows(r, "") && !slices.Contains(v.Missed, missing) {
		v.Missed = append(v.Missed, missing)
	}
	switch list := into.(type) {
	case *v1alpha1.APIResourceList:
		for _, api := range v.inv.APIs {
			if o.FieldSelector == nil || o.FieldSelector.Matches(fields.Set{access.ByIdentifier: string(api.Spec.Identifier)}) {
				list.Items = append(list.Items, *api)
			}
		}
	case *v1alpha1.ClusterAuthorizationServerList:
		for _, s := range v.inv.ClusterServers {
			list.Items = append(list.Items, *s)
		}
	default:
		return fmt.Errorf("an inventory does not list %T", into)
	}
	return nil
}

// Metadata returns an empty object for the metadata of a core kind.
func Metadata(kind string) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return m
}

// APIResource returns an APIResource, nil if the inventory does not have it.
func (v *View) APIResource(name types.NamespacedName) *v1alpha1.APIResource {
	return Find(v.inv.APIs, name)
}

// Object returns the object that a field belongs to, nil if the inventory does not have it.
func (v *View) Object(f access.Field) client.Object {
	name := types.NamespacedName{Namespace: f.Namespace, Name: f.Name}
	switch f.Kind {
	case "APIResource":
		return present(Find(v.inv.APIs, name))
	case "M2MClient":
		return present(Find(v.inv.Clients, name))
	case string(v1alpha1.KindAuthorizationServer):
		return present(Find(v.inv.Servers, name))
	case string(v1alpha1.KindClusterAuthorizationServer):
		return present(Find(v.inv.ClusterServers, name))
	}
	return nil
}

// present returns no object for a nil pointer.
func present[T any, P interface {
	*T
	client.Object
}](o P) client.Object {
	if o == nil {
		return nil
	}
	return o
}
