// SPDX-License-Identifier: Apache-2.0

// Package tree draws up what belongs together: an issuer with its authorization servers, the
// APIs there, the clients of each API, and the pods of both. Each node says how it is, what is
// wrong and what to do about it. The package is pure: the objects and the time are arguments.
package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// State says how an object is.
type State string

// The states of objects, from good to bad.
const (
	Ready   State = "Ready"   // it does its job
	Waiting State = "Waiting" // the operator or somebody else is not there yet
	Hidden  State = "Hidden"  // whoever asks may not read it
	Warning State = "Warning" // it does its job, and something fails
	Failing State = "Failing" // it does not do its job
)

// Kinds of nodes that are not kinds of objects.
const (
	KindIssuer = "Issuer"
	KindPod    = "Pod"
)

// Node is one object, or an issuer.
type Node struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	State     State  `json:"state"`
	// Summary says in a few words what the object is.
	Summary  string    `json:"summary,omitempty"`
	Problems []Problem `json:"problems,omitempty"`
	Tokens   []Token   `json:"tokens,omitempty"` // of an M2MClient
	Mounts   []Mount   `json:"mounts,omitempty"` // of a pod
	Keys     []Key     `json:"keys,omitempty"`   // of a pod that verifies
	Children []*Node   `json:"children,omitempty"`
}

// Problem is what is wrong, and what to do about it.
type Problem struct {
	Condition string `json:"condition,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message"`
	Advice    string `json:"advice,omitempty"`
}

// Token is what is known of a token. It never holds the token itself.
type Token struct {
	Key         string       `json:"key"`
	Scopes      []string     `json:"scopes,omitempty"`
	ExpiresAt   *metav1.Time `json:"expiresAt,omitempty"`
	RefreshAt   *metav1.Time `json:"refreshAt,omitempty"`
	IssuedAt    *metav1.Time `json:"issuedAt,omitempty"`
	KeyID       string       `json:"keyID,omitempty"`
	WaitsForKey string       `json:"waitsForKey,omitempty"` // the key of a newer token that is held back
	WaitsUntil  *metav1.Time `json:"waitsUntil,omitempty"`
	// HaveKey counts the API's pods that have the key, out of Verifiers. Both are nil if that
	// is not known.
	HaveKey   *int `json:"haveKey,omitempty"`
	Verifiers *int `json:"verifiers,omitempty"`
}

// Mount is a Secret or ConfigMap of the operator that a pod mounts.
type Mount struct {
	From       string   `json:"from"` // such as Secret/cart-token
	Path       string   `json:"path"`
	Files      []string `json:"files,omitempty"`
	Containers []string `json:"containers,omitempty"`
}

// Key says whether a pod has a key that tokens for an API are signed with.
type Key struct {
	API     string   `json:"api"` // namespace/name
	KeyID   string   `json:"keyID,omitempty"`
	Clients []string `json:"clients"` // namespace/name of those whose tokens the key signed
	Has     string   `json:"has"`     // Yes, No, Soon or Unknown
	// At is when the pod has the key at the latest, if it is Soon.
	At *metav1.Time `json:"at,omitempty"`
}

// The values of Key.Has.
const (
	Yes     = "Yes"
	No      = "No"
	Soon    = "Soon"
	Unknown = "Unknown"
)

// Ref names an object. The kind is one of the operator's, or Pod.
type Ref struct{ Kind, Namespace, Name string }

// Options say which part of the tree is wanted.
type Options struct {
	// Namespace limits the tree to what has to do with it, "" for all.
	Namespace string
	// Only limits the tree to one object with what is above and below it.
	Only *Ref
	// Mounts are what the pod of Only mounts, if its volumes were read.
	Mounts []Mount
	Now    time.Time
}

// Tree is what belongs together.
type Tree struct {
	Issuers []*Node `json:"issuers"`
	// Missing are the rights without which the tree is incomplete.
	Missing []inventory.Right `json:"missingRights,omitempty"`
}

// Worst returns the worst state in the tree.
func (t Tree) Worst() State {
	worst := Ready
	t.each(func(n *Node) { worst = worse(worst, n.State) })
	return worst
}

// Find returns the nodes of an object.
func (t Tree) Find(r Ref) (found []*Node) {
	t.each(func(n *Node) {
		if n.ref() == r {
			found = append(found, n)
		}
	})
	return found
}

func (t Tree) each(f func(*Node)) {
	var walk func([]*Node)
	walk = func(nodes []*Node) {
		for _, n := range nodes {
			f(n)
			walk(n.Children)
		}
	}
	walk(t.Issuers)
}

func (n *Node) ref() Ref { return Ref{n.Kind, n.Namespace, n.Name} }

// Build draws up the tree of an inventory.
func Build(inv *inventory.Inventory, o Options) Tree {
	b := &builder{inv: inv, o: o, issuers: map[string]*Node{}, named: map[*Node]Ref{}, contents: map[*metav1.PartialObjectMetadata]render.Contents{}}
	b.index()
	for _, s := range inv.ClusterServers {
		b.server(s)
	}
	for _, s := range inv.Servers {
		b.server(s)
	}
	apis := map[types.NamespacedName]*Node{}
	for _, a := range inv.APIs {
		n := b.api(a)
		apis[client.ObjectKeyFromObject(a)] = n
		b.named[n] = refOf(access.Named(a.Spec.AuthorizationServerRef, a.Namespace))
		root := b.rootOf(a.Spec.AuthorizationServerRef, a.Namespace)
		root.Children = append(root.Children, n)
	}
	for _, c := range inv.Clients {
		b.placeClient(c, apis)
	}
	t := Tree{Issuers: b.roots()}
	t.Issuers = prune(t.Issuers, o, b.named)
	return t
}

type builder struct {
	inv     *inventory.Inventory
	o       Options
	issuers map[string]*Node
	named   map[*Node]Ref // the server that an API names

	// What is looked up often.
	podsIn   map[string][]*metav1.PartialObjectMetadata               // by namespace, the pods that may be clients'
	podsOf   map[types.NamespacedName][]*metav1.PartialObjectMetadata // by API, the pods that verify
	signers  map[types.NamespacedName][]signer                        // by API
	bySecret map[types.NamespacedName][]*v1alpha1.M2MClient           // by the Secret with the tokens
	contents map[*metav1.PartialObjectMetadata]render.Contents        // by bundle
}

// roots returns the issuers in order, each with its servers, APIs and clients in order.
func (b *builder) roots() []*Node {
	var roots []*Node
	for _, n := range b.issuers {
		roots = append(roots, n)
	}
	sortNodes(roots)
	return roots
}

var rank = []string{
	KindIssuer, string(v1alpha1.KindClusterAuthorizationServer), string(v1alpha1.KindAuthorizationServer), "APIResource", KindPod, "M2MClient",
}

func sortNodes(nodes []*Node) {
	slices.SortFunc(nodes, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(slices.Index(rank, a.Kind), slices.Index(rank, b.Kind)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, n := range nodes {
		sortNodes(n.Children)
	}
}

// root returns the node of an issuer.
func (b *builder) root(issuer string) *Node {
	n := b.issuers[issuer]
	if n == nil {
		n = &Node{Kind: KindIssuer, Name: issuer, State: Ready}
		if issuer == "" {
			n.State, n.Summary = Waiting, "the authorization server is not known"
		}
		b.issuers[issuer] = n
	}
	return n
}

func (b *builder) server(o client.Object) {
	s := access.ServerOf(o)
	n := b.node(string(s.Key().Kind), o, s.Status.Conditions, s.Status.ObservedGeneration)
	root := b.root(s.Spec.Issuer)
	root.Children = append(root.Children, n)
	var facts []string
	switch {
	case s.Opaque():
		facts = append(facts, "opaque tokens")
	case len(s.Status.Keys) == 1:
		facts = append(facts, "1 key")
	default:
		facts = append(facts, fmt.Sprintf("%d keys", len(s.Status.Keys)))
	}
	if d := access.Driver(s.Spec); d != "" {
		facts = append(facts, "provisioned by "+string(d))
	}
	n.Summary = strings.Join(facts, ", ")
	for _, left := range s.Status.LeftBehind {
		n.State = worse(n.State, Warning)
		n.Problems = append(n.Problems, Problem{
			Reason: v1alpha1.ReasonLeftBehind, Message: "Something of a deleted object remains at the server: " + leftBehind(left),
			Advice: "Delete it at the server, then remove the entry from status.leftBehind",
		})
	}
}

// rootOf returns the issuer of the server that an object of a namespace names.
func (b *builder) rootOf(ref v1alpha1.AuthorizationServerReference, namespace string) *Node {
	named := access.Named(ref, namespace)
	name := client.ObjectKeyFromObject(named)
	switch named.(type) {
	case *v1alpha1.ClusterAuthorizationServer:
		if s := inventory.Find(b.inv.ClusterServers, name); s != nil {
			return b.root(s.Spec.Issuer)
		}
	default:
		if s := inventory.Find(b.inv.Servers, name); s != nil {
			return b.root(s.Spec.Issuer)
		}
	}
	root := b.root("")
	b.absent(root, refOf(named), inventory.ResourceOf(named))
	return root
}

// refOf returns the reference to a server, of which no more than its name need be known.
func refOf(server client.Object) Ref {
	return Ref{string(access.ServerKeyOf(server).Kind), server.GetNamespace(), server.GetName()}
}

// absent adds a node for an object that is named and not there.
func (b *builder) absent(parent *Node, r Ref, resource inventory.Resource) *Node {
	for _, n := range parent.Children {
		if n.ref() == r {
			return n
		}
	}
	n := &Node{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
	if in := cmp.Or(r.Namespace, r.Name); b.inv.Knows(resource, in) {
		n.State, n.Summary = Failing, "does not exist"
		n.Problems = []Problem{{Message: fmt.Sprintf("%s %q does not exist", r.Kind, r.Name), Advice: "Create it, or correct the reference to it"}}
	} else {
		n.State, n.Summary = Hidden, "you may not read it"
	}
	parent.Children = append(parent.Children, n)
	return n
}

func (b *builder) api(a *v1alpha1.APIResource) *Node {
	n := b.node("APIResource", a, a.Status.Conditions, a.Status.ObservedGeneration)
	n.Summary = string(a.Spec.Identifier)
	n.Children = b.verifiers(a)
	return n
}

// placeClient puts a client below each of its APIs, and below its issuer if it has a plain
// resource.
func (b *builder) placeClient(c *v1alpha1.M2MClient, apis map[types.NamespacedName]*Node) {
	plain := false
	for i := range c.Spec.Access {
		a := &c.Spec.Access[i]
		if a.APIResourceRef.Name == "" {
			plain = true
			continue
		}
		name := access.APIResourceOf(c, a)
		parent := apis[name]
		if parent == nil {
			root := b.issuerOfClient(c)
			parent = b.absent(root, Ref{"APIResource", name.Namespace, name.Name}, inventory.APIs)
		}
		if slices.ContainsFunc(parent.Children, func(n *Node) bool { return n.ref() == (Ref{"M2MClient", c.Namespace, c.Name}) }) {
			continue // two accesses to one API; the node has the tokens of both
		}
		parent.Children = append(parent.Children, b.client(c, name))
	}
	if plain {
		root := b.issuerOfClient(c)
		root.Children = append(root.Children, b.client(c, types.NamespacedName{}))
	}
}

// issuerOfClient returns the issuer of a client's server: the one that it names, or that of
// its APIs.
func (b *builder) issuerOfClient(c *v1alpha1.M2MClient) *Node {
	if c.Spec.AuthorizationServerRef.Name != "" {
		return b.rootOf(c.Spec.AuthorizationServerRef, c.Namespace)
	}
	for i := range c.Spec.Access {
		if api := inventory.Find(b.inv.APIs, access.APIResourceOf(c, &c.Spec.Access[i])); api != nil {
			return b.rootOf(api.Spec.AuthorizationServerRef, api.Namespace)
		}
	}
	return b.root("")
}

// client returns the node of a client below one of its APIs, or for its plain resources.
func (b *builder) client(c *v1alpha1.M2MClient, api types.NamespacedName) *Node {
	n := b.node("M2MClient", c, c.Status.Conditions, c.Status.ObservedGeneration)
	var waits []string
	for i := range c.Spec.Access {
		a := &c.Spec.Access[i]
		of := types.NamespacedName{}
		if a.APIResourceRef.Name != "" {
			of = access.APIResourceOf(c, a)
		}
		if of != api {
			continue
		}
		token, ok := b.token(c, access.KeyOf(a), of)
		if ok {
			n.Tokens = append(n.Tokens, token)
		} else {
			waits = append(waits, access.KeyOf(a))
		}
	}
	if len(waits) > 0 {
		n.Summary = "no token for " + strings.Join(waits, ", ")
	}
	n.Children = b.clientPods(c)
	return n
}

// token returns what a client's status says of a token.
func (b *builder) token(c *v1alpha1.M2MClient, key string, api types.NamespacedName) (Token, bool) {
	i := slices.IndexFunc(c.Status.Tokens, func(t v1alpha1.TokenStatus) bool { return string(t.Key) == key })
	if i < 0 || c.Status.Tokens[i].ExpiresAt == nil {
		return Token{}, false
	}
	s := c.Status.Tokens[i]
	t := Token{Key: key, IssuedAt: s.IssuedAt, ExpiresAt: s.ExpiresAt, RefreshAt: s.RefreshAt, KeyID: s.KeyID}
	for _, scope := range s.Scopes {
		t.Scopes = append(t.Scopes, string(scope))
	}
	if s.Pending.Since != nil {
		t.WaitsForKey, t.WaitsUntil = s.Pending.KeyID, s.Pending.PublishAt
	}
	if have, of, known := b.haveKey(api, s); known {
		t.HaveKey, t.Verifiers = &have, &of
	}
	return t, true
}

// node returns the node of an object with conditions.
func (b *builder) node(kind string, o client.Object, conditions []metav1.Condition, observed int64) *Node {
	n := &Node{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil || ready.Reason == v1alpha1.ReasonPending:
		n.State = Waiting
		n.Problems = []Problem{{
			Condition: v1alpha1.ConditionReady, Reason: v1alpha1.ReasonPending, Message: "The operator has not seen the object yet",
			Advice: "Check that the operator runs and watches the namespace",
		}}
		return n
	case ready.Status == metav1.ConditionTrue:
		n.State = Ready
	case ready.Status == metav1.ConditionFalse:
		n.State = Failing
	default:
		n.State = Waiting
	}
	n.Problems = ProblemsOf(conditions)
	if n.State == Ready && len(n.Problems) > 0 {
		n.State = Warning
	}
	if observed < o.GetGeneration() {
		n.State = worse(n.State, Waiting)
		n.Problems = append(n.Problems, Problem{Message: "The conditions are about an earlier version of the object", Advice: "Wait a moment; if this stays, check that the operator runs"})
	}
	if !o.GetDeletionTimestamp().IsZero() {
		n.State = worse(n.State, Waiting)
		n.Problems = append(n.Problems, Problem{Message: "The object is being deleted", Advice: "The operator first removes what it provisioned at the server"})
	}
	return n
}

func leftBehind(l v1alpha1.LeftBehind) string {
	return fmt.Sprintf("%s, of %s %s/%s", l.What, l.Kind, l.Namespace, l.Name)
}

var order = []State{Ready, Waiting, Hidden, Warning, Failing}

func worse(a, b State) State {
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}
