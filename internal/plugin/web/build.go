// SPDX-License-Identifier: Apache-2.0

package web

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// mostPods is how many pods of an object are shown, those in trouble first.
const mostPods = 20

// Options say what a model is about.
type Options struct {
	Namespace string // "" for all
	// Missing are the rights that were missing when the inventory was read.
	Missing []inventory.Right
	Now     time.Time
}

// Build makes the model of an inventory.
func Build(ctx context.Context, inv *inventory.Inventory, o Options) (*Model, error) {
	all, err := decision.All(ctx, inv)
	if err != nil {
		return nil, err
	}
	b := &builder{
		namespace: o.Namespace, objects: objectsOf(inv), nodes: map[string]*found{}, tokens: map[string]*tree.Token{}, now: o.Now,
	}
	for _, issuer := range tree.Build(inv, tree.Options{Namespace: o.Namespace, Now: o.Now}).Issuers {
		b.collect(issuer)
	}
	at := metav1.NewTime(o.Now.UTC().Truncate(time.Second))
	m := &Model{Namespace: o.Namespace, Objects: []Object{}, Edges: []Edge{}, ReadAt: &at}
	missing := slices.Clone(o.Missing)
	for _, a := range all {
		if !b.concerns(a.Client) && !b.concerns(a.API) {
			continue
		}
		if e, ok := b.edge(a); ok {
			m.Edges = append(m.Edges, e)
			missing = append(missing, a.Missing...)
		}
	}
	for _, g := range decision.Unused(inv, all) {
		if b.concerns(g.API) {
			m.Unused = append(m.Unused, Grant{API: "APIResource/" + g.API, Path: g.Lines[0].Path, Who: g.Who, Scopes: g.Scopes})
		}
	}
	for _, r := range missing {
		m.Missing = append(m.Missing, r.String())
	}
	slices.Sort(m.Missing)
	m.Missing = slices.Compact(m.Missing)
	m.Objects = b.finished(m.Edges)
	clean(m)
	return m, nil
}

// idOf returns the ID of an object. Names of Kubernetes have no slash.
func idOf(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// objectsOf returns the operator's objects of an inventory by ID.
func objectsOf(inv *inventory.Inventory) map[string]client.Object {
	all := map[string]client.Object{}
	for _, o := range inv.Servers {
		all[idOf("AuthorizationServer", o.Namespace, o.Name)] = o
	}
	for _, o := range inv.ClusterServers {
		all[idOf("ClusterAuthorizationServer", "", o.Name)] = o
	}
	for _, o := range inv.APIs {
		all[idOf("APIResource", o.Namespace, o.Name)] = o
	}
	for _, o := range inv.Clients {
		all[idOf("M2MClient", o.Namespace, o.Name)] = o
	}
	return all
}

// found is an object as the tree has it.
type found struct {
	Object
	pods map[types.NamespacedName]*tree.Node
}

type builder struct {
	namespace string
	objects   map[string]client.Object
	nodes     map[string]*found
	tokens    map[string]*tree.Token // by the client's ID and the token's key
	now       time.Time
}

// concerns reports whether something of the form namespace/name belongs to the page.
func (b *builder) concerns(name string) bool {
	return b.namespace == "" || strings.HasPrefix(name, b.namespace+"/")
}

// collect takes the objects below an issuer out of the tree. A client is there once for each
// of its APIs.
func (b *builder) collect(issuer *tree.Node) {
	server := ""
	for _, n := range issuer.Children {
		switch n.Kind {
		case string(v1alpha1.KindAuthorizationServer), string(v1alpha1.KindClusterAuthorizationServer):
			b.add(n)
			server = cmp.Or(server, idOf(n.Kind, n.Namespace, n.Name))
		case "APIResource":
			b.add(n).Server = b.serverOf(n, server)
			for _, c := range n.Children {
				if c.Kind == "M2MClient" {
					b.add(c)
				}
			}
		case "M2MClient":
			b.add(n)
		}
	}
}

// add notes a node of the tree, with its tokens and pods.
func (b *builder) add(n *tree.Node) *found {
	id := idOf(n.Kind, n.Namespace, n.Name)
	f := b.nodes[id]
	if f == nil {
		f = &found{
			Object: Object{
				ID: id, Kind: n.Kind, Namespace: n.Namespace, Name: n.Name, State: n.State, Sentence: sentence(n.Kind, n.State),
				Summary: n.Summary, Details: Details{Problems: slices.Clone(n.Problems)},
			},
			pods: map[types.NamespacedName]*tree.Node{},
		}
		for i := range f.Problems {
			f.Problems[i].Advice = advice(f.Problems[i].Advice)
		}
		f.Facts, f.Conditions = facts(b.objects[id]), conditions(b.objects[id])
		b.nodes[id] = f
	}
	for i := range n.Tokens {
		b.tokens[id+" "+n.Tokens[i].Key] = &n.Tokens[i]
	}
	for _, pod := range n.Children {
		if pod.Kind == tree.KindPod {
			f.pods[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] = pod
		}
	}
	return f
}

// advice leaves out how to see the lines that decide: the page shows them.
func advice(s string) string {
	return strings.TrimSuffix(s, "; kubectl m2m why shows the line that decides")
}

// serverOf returns the server of an API: the one that it names, or else, of an API that cannot
// be read, one of the issuer under which it stands.
func (b *builder) serverOf(n *tree.Node, fallback string) string {
	a, ok := b.objects[idOf(n.Kind, n.Namespace, n.Name)].(*v1alpha1.APIResource)
	if !ok {
		return fallback
	}
	return serverID(a.Spec.AuthorizationServerRef, a.Namespace)
}

// serverID returns the ID of the server that an object of a namespace names.
func serverID(ref v1alpha1.AuthorizationServerReference, namespace string) string {
	k := access.ServerKeyOf(access.Named(ref, namespace))
	return idOf(string(k.Kind), k.Namespace, k.Name)
}

// finished returns all objects in order, with what their edges say of them.
func (b *builder) finished(edges []Edge) []Object {
	inTrouble := map[string]bool{}
	for _, e := range edges {
		switch {
		case e.State == tree.Failing, e.State == tree.Warning, e.State == tree.Waiting && e.Token == nil:
			inTrouble[e.Client] = true
		}
	}
	all := make([]Object, 0, len(b.nodes))
	for id, f := range b.nodes {
		f.addPods()
		if f.Server != "" && b.nodes[f.Server] == nil {
			f.Server = "" // of a namespace that the page is not about
		}
		f.Wrong = f.State != tree.Ready && f.State != tree.Hidden || inTrouble[id] ||
			slices.ContainsFunc(f.Pods, func(p Pod) bool { return p.State == tree.Warning || p.State == tree.Failing })
		all = append(all, f.Object)
	}
	slices.SortFunc(all, func(a, b Object) int {
		return cmp.Or(cmp.Compare(rank(a.Kind), rank(b.Kind)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// rank orders kinds as the map does, from those who call to those who issue.
func rank(kind string) int {
	return slices.Index([]string{"M2MClient", "APIResource", KindResource, "AuthorizationServer", "ClusterAuthorizationServer"}, kind)
}

// addPods adds the pods that are shown.
func (f *found) addPods() {
	var pods []Pod
	for name, n := range f.pods {
		pods = append(pods, Pod{Namespace: name.Namespace, Name: name.Name, State: n.State, Summary: n.Summary, Problems: n.Problems})
	}
	severity := []tree.State{tree.Failing, tree.Warning, tree.Waiting, tree.Hidden, tree.Ready}
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(slices.Index(severity, a.State), slices.Index(severity, b.State)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	f.MorePods = max(0, len(pods)-mostPods)
	f.Pods = pods[:len(pods)-f.MorePods]
}

// edge returns the edge of an access. It has none if one of its ends is not on the page.
func (b *builder) edge(a decision.Access) (Edge, bool) {
	e := Edge{Client: "M2MClient/" + a.Client, API: "APIResource/" + a.API}
	if b.nodes[e.Client] == nil {
		return Edge{}, false
	}
	if a.API == "" {
		e.API = b.resource(e.Client, a.Resource)
	}
	if b.nodes[e.API] == nil {
		return Edge{}, false
	}
	e.Decision = Decision{
		Key: a.Key, Verdict: a.Verdict, Requested: a.Requested, Scopes: a.Scopes, Reason: a.Reason, Message: a.Message,
		Advice: advice(tree.Advice(a.Reason)), By: a.By(),
	}
	for _, l := range a.Lines {
		e.Lines = append(e.Lines, Line{Object: idOf(l.Kind, l.Namespace, l.Name), Path: l.Path, Value: l.Value})
	}
	e.Token = b.tokens[e.Client+" "+a.Key]
	e.State, e.Sentence = b.judge(a, e.Token)
	return e, true
}

// resource returns the ID of a resource without an APIResource, which belongs to the server of
// its client.
func (b *builder) resource(client, identifier string) string {
	server := ""
	if c, ok := b.objects[client].(*v1alpha1.M2MClient); ok {
		server = serverID(c.Spec.AuthorizationServerRef, c.Namespace)
	}
	id := KindResource + "/" + server + "/" + identifier
	if b.nodes[id] == nil {
		b.nodes[id] = &found{Object: Object{
			ID: id, Kind: KindResource, Name: identifier, State: tree.Ready, Server: server,
			Sentence: sentence(KindResource, tree.Ready), Summary: "no APIResource",
		}}
	}
	return id
}

// judge returns the state of an access, and says it in words.
func (b *builder) judge(a decision.Access, token *tree.Token) (tree.State, string) {
	late := func(t *metav1.Time) bool { return t != nil && !t.After(b.now) }
	switch {
	case a.Verdict == decision.Denied:
		return tree.Failing, "Not allowed"
	case a.Verdict == decision.Unknown && len(a.Missing) > 0:
		return tree.Hidden, "Not known: you may not read what decides"
	case a.Verdict == decision.Unknown:
		return tree.Waiting, "Not decided yet"
	case token == nil:
		return tree.Waiting, "Allowed, and there is no token yet"
	case late(token.ExpiresAt):
		return tree.Failing, "Allowed, and the token has expired"
	case token.WaitsForKey != "":
		return tree.Waiting, "Works; a newer token waits until the API's pods have its key"
	case late(token.RefreshAt):
		return tree.Warning, "Works, and a new token is due"
	case a.Verdict == decision.Partly:
		return tree.Warning, "Works, with some of the scopes only"
	}
	return tree.Ready, "Works"
}
