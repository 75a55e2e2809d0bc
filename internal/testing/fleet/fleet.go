// SPDX-License-Identifier: Apache-2.0

// Package fleet makes inventories for tests and pictures of the kubectl plugin: objects as the
// operator leaves them, a small company in which everything that can be wrong is wrong once,
// and a large one.
package fleet

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Fleet makes objects at a time.
type Fleet struct{ Now time.Time }

// Inventory returns an inventory of objects, of everything but some resources in some namespaces.
func Inventory(objects ...client.Object) *inventory.Inventory {
	inv := &inventory.Inventory{}
	for _, o := range objects {
		inv.Add(o)
	}
	for _, r := range []inventory.Resource{
		inventory.Servers, inventory.ClusterServers, inventory.APIs, inventory.Clients, inventory.Namespaces, inventory.Pods, inventory.ConfigMaps,
	} {
		inv.Read(r, "")
	}
	return inv
}

func (f Fleet) in(d time.Duration) *metav1.Time {
	t := metav1.NewTime(f.Now.Add(d).UTC().Truncate(time.Second))
	return &t
}

// Meta returns the metadata of an object that was made a week ago.
func (f Fleet) Meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), Generation: 1, CreationTimestamp: *f.in(-7 * 24 * time.Hour),
	}
}

// Condition returns a condition that is True, or has a reason why not.
func (f Fleet) Condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: *f.in(-25 * time.Minute), ObservedGeneration: 1}
}

func (f Fleet) good(kinds ...string) []metav1.Condition {
	var all []metav1.Condition
	for _, kind := range kinds {
		all = append(all, f.Condition(kind, metav1.ConditionTrue, kind, "As it should be"))
	}
	return all
}

// Server returns an AuthorizationServer that is ready.
func (f Fleet) Server(namespace, name, issuer string) *v1alpha1.AuthorizationServer {
	s := &v1alpha1.AuthorizationServer{ObjectMeta: f.Meta(namespace, name)}
	s.Spec.Issuer = issuer
	f.serve(&s.Status, issuer)
	return s
}

// ClusterServer returns a ClusterAuthorizationServer that is ready and for everybody.
func (f Fleet) ClusterServer(name, issuer string) *v1alpha1.ClusterAuthorizationServer {
	s := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: f.Meta("", name)}
	s.Spec.Issuer = issuer
	s.Spec.AllowedNamespaces.Selector = &metav1.LabelSelector{}
	f.serve(&s.Status, issuer)
	return s
}

func (f Fleet) serve(s *v1alpha1.AuthorizationServerStatus, issuer string) {
	s.ObservedGeneration = 1
	s.Conditions = f.good("Ready", "Discovered", "KeysFresh")
	s.Endpoints.Token, s.Endpoints.JWKS = v1alpha1.EndpointURL(issuer+"/token"), v1alpha1.EndpointURL(issuer+"/jwks")
	s.Keys = []v1alpha1.SigningKey{
		{KeyID: "2026-11", Algorithm: "ES256", PublicKey: `{"kty":"EC","crv":"P-256","x":"…","y":"…"}`, FirstSeenAt: f.in(-12 * 24 * time.Hour)},
	}
}

// API returns an APIResource that is ready.
func (f Fleet) API(namespace, name, server string, scopes ...v1alpha1.ScopeName) *v1alpha1.APIResource {
	a := &v1alpha1.APIResource{ObjectMeta: f.Meta(namespace, name)}
	a.Spec.AuthorizationServerRef.Name = v1alpha1.ObjectName(server)
	a.Spec.Identifier = v1alpha1.ResourceIdentifier("https://" + name + ".example.com")
	for _, s := range scopes {
		a.Spec.Scopes = append(a.Spec.Scopes, v1alpha1.Scope{Name: s})
	}
	a.Status.ObservedGeneration = 1
	a.Status.Bundle.ConfigMapName = v1alpha1.ObjectName(render.ConfigMapName(namespace, name))
	a.Status.Conditions = f.good("Ready", "Accepted", "Distributed")
	return a
}

// Grant returns a grant for clients of a namespace.
func Grant(namespace string, clients []v1alpha1.ObjectName, scopes ...v1alpha1.ScopeName) v1alpha1.Grant {
	return v1alpha1.Grant{Clients: v1alpha1.GrantedClients{
		Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(namespace)}}, Names: clients,
	}, Scopes: scopes}
}

// Client returns an M2MClient that the operator registers, without access.
func (f Fleet) Client(namespace, name string) *v1alpha1.M2MClient {
	c := &v1alpha1.M2MClient{ObjectMeta: f.Meta(namespace, name)}
	c.Status.ObservedGeneration = 1
	c.Status.ClientID = v1alpha1.ClientID("m2m-" + namespace + "-" + name)
	c.Status.Conditions = f.good("Ready", "Granted", "Fresh", "Verified")
	return c
}

// Access adds an access to a client.
func (f Fleet) Access(c *v1alpha1.M2MClient, api *v1alpha1.APIResource, scopes ...v1alpha1.ScopeName) *v1alpha1.M2MClient {
	c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
		APIResourceRef: v1alpha1.APIResourceReference{Namespace: v1alpha1.NamespaceName(api.Namespace), Name: v1alpha1.APIResourceName(api.Name)}, Scopes: scopes,
	})
	return c
}

// Token gives a client the token of its newest access.
func (f Fleet) Token(c *v1alpha1.M2MClient, issued, refresh, expires time.Duration) *v1alpha1.M2MClient {
	a := &c.Spec.Access[len(c.Spec.Access)-1]
	c.Status.Tokens = append(c.Status.Tokens, v1alpha1.TokenStatus{
		Key: v1alpha1.AccessKey(access.KeyOf(a)), Scopes: a.Scopes, IssuedAt: f.in(issued), RefreshAt: f.in(refresh), ExpiresAt: f.in(expires),
		KeyID: "2026-11", KeyThumbprint: "thumbprint", Algorithm: "ES256",
	})
	return c
}

// Fails gives an object's conditions one that is not True, and Ready with it if the object
// does not do its job.
func (f Fleet) Fails(conditions []metav1.Condition, job bool, kind, reason, message string) {
	for i := range conditions {
		if c := &conditions[i]; c.Type == kind || job && c.Type == "Ready" {
			*c = f.Condition(c.Type, metav1.ConditionFalse, reason, message)
		}
	}
}

// Pod returns a pod that has an annotation.
func (f Fleet) Pod(namespace, name string, annotations ...string) *metav1.PartialObjectMetadata {
	p := inventory.Metadata("Pod")
	p.ObjectMeta = f.Meta(namespace, name)
	p.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		p.Annotations[annotations[i]] = annotations[i+1]
	}
	return p
}

// ClientPod returns a pod that mounts the tokens of a client.
func (f Fleet) ClientPod(c *v1alpha1.M2MClient, name string) *metav1.PartialObjectMetadata {
	return f.Pod(c.Namespace, name, v1alpha1.ClientAnnotation, c.Name, v1alpha1.InjectedAnnotation, "secret/"+c.SecretName())
}

// Bundle returns the bundle of an API, which its pods have had for a day.
func (f Fleet) Bundle(a *v1alpha1.APIResource) *metav1.PartialObjectMetadata {
	m := inventory.Metadata("ConfigMap")
	m.ObjectMeta = f.Meta(a.Namespace, render.ConfigMapName(a.Namespace, a.Name))
	b, _ := json.Marshal(render.Contents{Terms: "terms", Keys: map[string]render.KeyContents{"2026-11": {Hash: "hash", Since: f.Now.Add(-24 * time.Hour)}}})
	m.Annotations = map[string]string{v1alpha1.ContentsAnnotation: string(b)}
	return m
}

// Namespace returns a Namespace.
func (f Fleet) Namespace(name string) *metav1.PartialObjectMetadata {
	n := inventory.Metadata("Namespace")
	n.Name = name
	return n
}

// Large returns a company of many clients in 40 namespaces, and APIs in 10. Every hundredth
// client has an expired token.
func (f Fleet) Large(clients, apis int) []client.Object {
	server := f.ClusterServer("company", "https://login.example.com")
	all := []client.Object{server}
	byIndex := make([]*v1alpha1.APIResource, apis)
	for i := range apis {
		a := f.API(fmt.Sprintf("platform-%02d", i%10), fmt.Sprintf("api-%02d", i), server.Name, "read", "write")
		a.Spec.AuthorizationServerRef.Kind = v1alpha1.KindClusterAuthorizationServer
		a.Spec.Grants = []v1alpha1.Grant{{
			Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}}, Scopes: []v1alpha1.ScopeName{"read", "write"},
		}}
		byIndex[i] = a
		all = append(all, a)
	}
	for i := range clients {
		c := f.Client(fmt.Sprintf("team-%02d", i%40), fmt.Sprintf("service-%04d", i))
		for j := range 1 + i%3 {
			f.Access(c, byIndex[(i+7*j)%apis], "read")
			f.Token(c, -20*time.Minute, time.Duration(10+i%30)*time.Minute, time.Duration(30+i%30)*time.Minute)
		}
		if i%100 == 99 {
			c.Status.Tokens[0].ExpiresAt = f.in(-time.Minute)
			f.Fails(c.Status.Conditions, true, "Fresh", v1alpha1.ReasonTokenRequestFailed, "AuthorizationServer \"company\" answered HTTP 503")
		}
		all = append(all, c)
	}
	for i := range 40 {
		all = append(all, f.Namespace(fmt.Sprintf("team-%02d", i)))
	}
	for i := range 10 {
		all = append(all, f.Namespace(fmt.Sprintf("platform-%02d", i)))
	}
	return all
}
