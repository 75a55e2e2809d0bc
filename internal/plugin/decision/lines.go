// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// Line is a line of an object's YAML.
type Line struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Path      string `json:"path"`            // such as spec.grants[0].scopes[1]
	Value     string `json:"value,omitempty"` // as JSON if it is not a plain word; empty if the field is not set
}

// Object names the object: APIResource payments/payment-api.
func (l Line) Object() string {
	if l.Namespace == "" {
		return l.Kind + " " + l.Name
	}
	return l.Kind + " " + l.Namespace + "/" + l.Name
}

// lines finds the lines that decide about an access of a client.
type lines struct {
	ctx   context.Context
	view  *inventory.View
	c     *v1alpha1.M2MClient
	index int
	api   *v1alpha1.APIResource // nil if it is not known
}

// allowing returns the lines that allow what the rules allowed.
func (l lines) allowing(got access.Access) []Line {
	if l.api == nil {
		return []Line{lineOf(l.c, fmt.Sprintf("spec.access[%d].resource", l.index))}
	}
	if l.api.Namespace == l.c.Namespace {
		all := []Line{lineOf(l.api, "metadata.namespace")}
		for i, s := range l.api.Spec.Scopes {
			if slices.Contains(got.Scopes, string(s.Name)) {
				all = append(all, lineOf(l.api, fmt.Sprintf("spec.scopes[%d].name", i)))
			}
		}
		return all
	}
	var all []Line
	for _, g := range got.Grants {
		grant := &l.api.Spec.Grants[g]
		var scopes []Line
		for i, s := range grant.Scopes {
			if slices.Contains(got.Scopes, string(s)) {
				scopes = append(scopes, lineOf(l.api, fmt.Sprintf("spec.grants[%d].scopes[%d]", g, i)))
			}
		}
		if len(got.Scopes) > 0 && len(scopes) == 0 {
			continue // it applies, and adds nothing to this
		}
		all = append(all, l.selecting(g)...)
		all = append(all, scopes...)
	}
	return all
}

// selecting returns the lines by which a grant that applies selects the client.
func (l lines) selecting(g int) []Line {
	clients := l.api.Spec.Grants[g].Clients
	prefix := fmt.Sprintf("spec.grants[%d].clients.", g)
	namespace := lineOf(l.api, prefix+"namespaces.selector")
	if i := slices.Index(clients.Namespaces.Names, v1alpha1.NamespaceName(l.c.Namespace)); i >= 0 {
		namespace = lineOf(l.api, fmt.Sprintf("%snamespaces.names[%d]", prefix, i))
	}
	all := []Line{namespace}
	if i := slices.Index(clients.Names, v1alpha1.ObjectName(l.c.Name)); i >= 0 {
		all = append(all, lineOf(l.api, fmt.Sprintf("%snames[%d]", prefix, i)))
	}
	return all
}

// refusing returns the lines that refuse an access.
func (l lines) refusing(p *access.Problem, got access.Access) ([]Line, error) {
	f := p.Field
	switch {
	case f == access.Field{}:
		return []Line{lineOf(l.c, fmt.Sprintf("spec.access[%d].apiResourceRef", l.index))}, nil
	case f.Path == "spec.grants" && l.api != nil && len(l.api.Spec.Grants) > 0 && p.Reason == v1alpha1.ReasonNotGranted:
		return l.missing()
	case l.api != nil && l.api.Namespace != l.c.Namespace && p.Reason == v1alpha1.ReasonScopeNotGranted:
		// The field is that of the API's scopes if one of them does not exist; others may not be granted.
		var all []Line
		for _, g := range got.Grants {
			all = append(all, lineOf(l.api, fmt.Sprintf("spec.grants[%d].scopes", g)))
		}
		for _, s := range l.c.Spec.Access[l.index].Scopes {
			if !slices.ContainsFunc(l.api.Spec.Scopes, func(have v1alpha1.Scope) bool { return have.Name == s }) {
				all = append(all, lineOf(l.api, "spec.scopes")) // the API does not even have it
				break
			}
		}
		return all, nil
	}
	if o := l.view.Object(f); o != nil {
		return []Line{lineOf(o, f.Path)}, nil
	}
	return []Line{{Kind: f.Kind, Namespace: f.Namespace, Name: f.Name, Path: f.Path}}, nil
}

// missing returns for each grant the line by which it does not apply to the client.
func (l lines) missing() ([]Line, error) {
	var all []Line
	for g := range l.api.Spec.Grants {
		selected, err := l.view.Resolver().Selects(l.ctx, l.api.Spec.Grants[g].Clients.Namespaces, l.c.Namespace)
		var hidden *inventory.Hidden
		if err != nil && !errors.As(err, &hidden) {
			return nil, err
		}
		path := fmt.Sprintf("spec.grants[%d].clients.", g)
		if selected {
			path += "names"
		} else {
			path += "namespaces"
		}
		all = append(all, lineOf(l.api, path))
	}
	return all, nil
}

// lineOf returns the line at a path of an object.
func lineOf(o client.Object, path string) Line {
	l := Line{Kind: inventory.KindOf(o), Namespace: o.GetNamespace(), Name: o.GetName(), Path: path}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return l // the line is right without its value, too
	}
	if v, ok := at(content, path); ok {
		l.Value = text(v)
	}
	return l
}

// at returns the value at a path such as spec.grants[0].scopes.
func at(content map[string]any, path string) (any, bool) {
	var v any = content
	for part := range strings.SplitSeq(path, ".") {
		name, index, indexed := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
		if !indexed {
			continue
		}
		list, ok := v.([]any)
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i >= len(list) {
			return nil, false
		}
		v = list[i]
	}
	return v, true
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}
