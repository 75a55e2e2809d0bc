// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// What differs between two equal runs.
var (
	// identifiers are UUIDs, digests, and the identifiers that servers choose.
	identifiers = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{12,}\b|\b[a-z0-9]{21}\b|\b[a-z0-9]{16}\b|\b\d{10}\b|[A-Za-z0-9_-]{32,}`)
	times       = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	versions    = regexp.MustCompile(`ID/\d+`) // of an object, after its UID
	issuers     = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)
	pem         = regexp.MustCompile(`(?s)(-----BEGIN [A-Z ]+-----).*?-----END [A-Z ]+-----`)
)

// objects returns all objects of a run that the operator may have written, and pods.
func (r *run) objects() (all []*unstructured.Unstructured) {
	r.t.Helper()
	for _, gvk := range r.kinds() {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		if err := operator.Kube.List(context.Background(), list); err != nil {
			r.t.Fatal(err)
		}
		for i := range list.Items {
			if u := &list.Items[i]; r.has(u) || u.GetNamespace() == operator.Namespace && r.owns(u) {
				all = append(all, u)
			}
		}
	}
	return all
}

// state returns a run's objects, and what the authorization server has, without what differs between two
// equal runs.
func (r *run) state() string {
	r.t.Helper()
	var out []string
	for _, u := range r.objects() {
		out = append(out, r.stateOf(u))
	}
	slices.Sort(out)
	return strings.Join(append(out, r.atServer()...), "\n")
}

// withoutLeftBehind removes from a state what may have been left behind at the server: what objects say of it,
// the registrations themselves, and the numbers that tell a client's registrations apart.
func withoutLeftBehind(state string) string {
	state = numbers.ReplaceAllString(leftBehind.ReplaceAllString(state, ""), "${1}N${2}")
	return strings.Join(slices.Compact(strings.Split(state, "\n")), "\n")
}

var (
	leftBehind = regexp.MustCompile(`(?s)\n *"leftBehind": \[.*?\n *\],`)
	numbers    = regexp.MustCompile(`(m2m-operator-ID-|\(m2m-operator:ID\) )\d+(\b)`)
)

// clean removes everything that a run has left.
func (r *run) clean() {
	r.t.Helper()
	ctx := context.Background()
	for _, u := range r.objects() {
		if len(u.GetFinalizers()) > 0 {
			before := u.DeepCopy()
			u.SetFinalizers(nil)
			if err := operator.Kube.Patch(ctx, u, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
				r.t.Error(err)
			}
		}
		if err := operator.Kube.Delete(ctx, u, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			r.t.Error(err)
		}
	}
}

// kinds are those that the operator writes, and pods.
func (r *run) kinds() []schema.GroupVersionKind {
	core := schema.GroupVersion{Version: "v1"}
	all := []schema.GroupVersionKind{core.WithKind("SecretList"), core.WithKind("ConfigMapList"), core.WithKind("PodList")}
	for _, kind := range []string{"AuthorizationServerList", "ClusterAuthorizationServerList", "APIResourceList", "M2MClientList"} {
		all = append(all, v1alpha1.GroupVersion.WithKind(kind))
	}
	for _, k := range gateways.Kinds(enforcement.EnvoyGateway) {
		all = append(all, k.Resource.GroupVersion().WithKind(k.Name+"List"))
	}
	return all
}

// has reports whether an object is in one of the run's namespaces, or is a cluster-wide one with the run's name.
func (r *run) has(u *unstructured.Unstructured) bool {
	return slices.Contains(r.all(), u.GetNamespace()) || u.GetNamespace() == "" && strings.HasSuffix(u.GetName(), "-"+r.shop)
}

// owns reports whether a Secret of the operator's namespace belongs to the run.
func (r *run) owns(u *unstructured.Unstructured) bool {
	of, _, _ := strings.Cut(u.GetAnnotations()[v1alpha1.OwnerAnnotation], "/")
	return slices.Contains(r.all(), of)
}

func (r *run) stateOf(u *unstructured.Unstructured) string {
	for _, f := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
		unstructured.RemoveNestedField(u.Object, "metadata", f)
	}
	if !r.urgent {
		for _, f := range []string{v1alpha1.PromptSinceAnnotation, v1alpha1.TouchedAtAnnotation} {
			unstructured.RemoveNestedField(u.Object, "metadata", "annotations", f)
		}
	}
	// Conditions are a map by their type.
	if all, ok, _ := unstructured.NestedSlice(u.Object, "status", "conditions"); ok {
		slices.SortFunc(all, func(a, b any) int { return cmp.Compare(typeOf(a), typeOf(b)) })
		_ = unstructured.SetNestedSlice(u.Object, all, "status", "conditions")
	}
	switch u.GetKind() {
	case "Secret":
		r.shape(u)
	case "ConfigMap":
		u.Object["data"] = r.sorted(u.Object["data"])
		u.SetAnnotations(nil) // they say when each key came
	case "Pod":
		delete(u.Object, "spec")
		delete(u.Object, "status")
	case "AuthorizationServer", "ClusterAuthorizationServer":
		keys, _, _ := unstructured.NestedSlice(u.Object, "status", "keys")
		slices.SortFunc(keys, func(a, b any) int { return cmp.Compare(r.plain(fmt.Sprint(a)), r.plain(fmt.Sprint(b))) })
		_ = unstructured.SetNestedSlice(u.Object, keys, "status", "keys")
	}
	b, err := json.MarshalIndent(u.Object, "", " ")
	if err != nil {
		r.t.Fatal(err)
	}
	return u.GetKind() + " " + r.plain(string(b))
}

// typeOf returns the type of a condition.
func typeOf(condition any) string {
	c, _ := condition.(map[string]any)
	return fmt.Sprint(c["type"])
}

// sorted returns texts with their lines in order: keys are in the order of their IDs, which differs from run to run.
func (r *run) sorted(data any) map[string]any {
	out := map[string]any{}
	texts, _ := data.(map[string]any)
	for name, text := range texts {
		lines := strings.Split(r.plain(pem.ReplaceAllString(fmt.Sprint(text), "$1")), "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], ",")
		}
		slices.Sort(lines)
		var all []any
		for _, l := range lines {
			all = append(all, l)
		}
		out[name] = all
	}
	return out
}

// shape replaces the tokens of a Secret by what they say, and other secrets by nothing.
func (r *run) shape(u *unstructured.Unstructured) {
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	for _, key := range slices.Collect(maps.Keys(data)) {
		raw, _ := base64.StdEncoding.DecodeString(data[key])
		data[key] = "a secret"
		if c, err := jwks.Inspect(string(raw)); err == nil {
			data[key] = fmt.Sprintf("a token by %s for %v with %v, signed by %s", c.Issuer, c.Audience, c.Scopes, c.KeyID)
		}
	}
	if data != nil {
		_ = unstructured.SetNestedStringMap(u.Object, data, "data")
	}
}

// plain replaces what differs between two equal runs.
func (r *run) plain(s string) string {
	for i, kid := range r.log.kids {
		s = strings.ReplaceAll(s, kid, fmt.Sprintf("KEY-%d", i+1))
	}
	s = times.ReplaceAllString(issuers.ReplaceAllString(s, "http://issuer"), "TIME")
	return versions.ReplaceAllString(r.rename(s), "ID/VERSION")
}

// atServer returns what the authorization server has.
func (r *run) atServer() (out []string) {
	if r.AS != nil {
		for _, c := range r.AS.RegisteredClients() {
			if r.retained[c.ID] {
				continue
			}
			out = append(out, r.plain(fmt.Sprintf("registered: %s %v %s", c.Name, c.Scopes, c.Method)))
		}
		return out
	}
	b, err := json.MarshalIndent(r.Logto.Snapshot(), "", " ")
	if err != nil {
		r.t.Fatal(err)
	}
	return []string{r.plain(string(b))}
}
