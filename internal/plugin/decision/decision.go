// SPDX-License-Identifier: Apache-2.0

// Package decision explains what the tenant rules of internal/access decide: for each access
// whether it is allowed, and the lines of YAML that decide. It repeats no rule. The package is
// pure: an inventory goes in, values come out.
package decision

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// Verdict says what an access is.
type Verdict string

// The verdicts.
const (
	Allowed Verdict = "Allowed"
	Partly  Verdict = "Partly"  // some of the scopes are allowed, and the token has those
	Denied  Verdict = "Denied"  // somebody decided so
	Unknown Verdict = "Unknown" // something is missing that decides, or you may not read it
)

// Access is one access of a client, and what the rules say of it.
type Access struct {
	Client   string `json:"client"`             // namespace/name
	API      string `json:"api,omitempty"`      // namespace/name, empty for a plain resource
	Resource string `json:"resource,omitempty"` // the API's identifier, if it is known
	Key      string `json:"key"`
	// Requested are the scopes that the client requests, Scopes those that it may have.
	Requested []string `json:"requested,omitempty"`
	Scopes    []string `json:"scopes,omitempty"`
	Verdict   Verdict  `json:"verdict"`
	Reason    string   `json:"reason,omitempty"`
	Message   string   `json:"message,omitempty"`
	// Lines are the lines of YAML that decide.
	Lines []Line `json:"lines,omitempty"`
	// Missing are the rights without which the answer may be another.
	Missing []inventory.Right `json:"missingRights,omitempty"`

	grants []int
}

// By says in a few words what decides: the grants, or the reason.
func (a Access) By() string {
	if a.Reason != "" {
		return a.Reason
	}
	var parts []string
	for _, l := range a.Lines {
		part := l.Path
		if strings.HasPrefix(part, "spec.grants[") {
			part, _, _ = strings.Cut(part, "]")
			part += "]"
		}
		switch {
		case part == "metadata.namespace":
			part = "same namespace"
		case strings.HasPrefix(part, "spec.scopes["):
			continue
		}
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	if len(a.Missing) > 0 && len(parts) == 0 {
		return "you may not read it"
	}
	return strings.Join(parts, ", ")
}

// All explains every access of every client.
func All(ctx context.Context, inv *inventory.Inventory) ([]Access, error) {
	var all []Access
	for _, c := range inv.Clients {
		of, err := Of(ctx, inv, c)
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	slices.SortFunc(all, func(a, b Access) int {
		return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.API, b.API), cmp.Compare(a.Key, b.Key))
	})
	return all, nil
}

// Of explains every access of a client.
func Of(ctx context.Context, inv *inventory.Inventory, c *v1alpha1.M2MClient) ([]Access, error) {
	view := inv.View()
	got, err := view.Resolver().Client(ctx, c)
	var hidden *inventory.Hidden
	if !errors.As(err, &hidden) {
		if err != nil {
			return nil, err
		}
		all := make([]Access, 0, len(got.Accesses))
		for i := range got.Accesses {
			a, err := explain(ctx, view, c, i, got.Problem, got.Accesses[i])
			if err != nil {
				return nil, err
			}
			all = append(all, a)
		}
		return all, nil
	}
	// One access depends on something unreadable. The others may still have an answer, but a
	// registered client's server depends on all of them.
	var all []Access
	for i := range c.Spec.Access {
		a, err := ofOne(ctx, inv, c, i)
		if err != nil {
			return nil, err
		}
		if access.Registered(c) && !slices.Contains(a.Missing, hidden.Right) {
			a.Missing = append(a.Missing, hidden.Right)
		}
		all = append(all, a)
	}
	return all, nil
}

// ofOne explains one access as if the client had no other.
func ofOne(ctx context.Context, inv *inventory.Inventory, c *v1alpha1.M2MClient, i int) (Access, error) {
	one := c.DeepCopy()
	one.Spec.Access = one.Spec.Access[i : i+1]
	view := inv.View()
	got, err := view.Resolver().Client(ctx, one)
	var hidden *inventory.Hidden
	if errors.As(err, &hidden) {
		a := requested(c, i)
		a.Verdict, a.Message = Unknown, "It depends on an object that you may not read"
		a.Missing = append(view.Missed, hidden.Right)
		return a, nil
	}
	if err != nil {
		return Access{}, err
	}
	return explain(ctx, view, c, i, got.Problem, got.Accesses[0])
}

// requested returns what a client's spec says of an access.
func requested(c *v1alpha1.M2MClient, i int) Access {
	spec := &c.Spec.Access[i]
	a := Access{Client: client.ObjectKeyFromObject(c).String(), Key: access.KeyOf(spec), Resource: string(spec.Resource)}
	if spec.APIResourceRef.Name != "" {
		a.API = access.APIResourceOf(c, spec).String()
	}
	for _, s := range spec.Scopes {
		a.Requested = append(a.Requested, string(s))
	}
	return a
}

// explain turns an answer of the rules into a verdict with its lines.
func explain(ctx context.Context, view *inventory.View, c *v1alpha1.M2MClient, i int, server *access.Problem, got access.Access) (Access, error) {
	a := requested(c, i)
	a.Resource, a.Missing, a.grants = got.Resource, slices.Clone(view.Missed), got.Grants
	l := lines{ctx: ctx, view: view, c: c, index: i, api: view.APIResource(got.API)}
	problem := got.Denied
	switch {
	case problem != nil && problem.Decided():
		a.Verdict = Denied
	case problem != nil:
		a.Verdict = Unknown
	case server != nil:
		problem, a.Verdict = server, Unknown
	case got.Reduced != nil:
		problem, a.Verdict, a.Scopes = got.Reduced, Partly, got.Scopes
	default:
		a.Verdict, a.Scopes = Allowed, got.Scopes
	}
	if problem == nil {
		a.Lines = l.allowing(got)
		return a, nil
	}
	a.Reason, a.Message = problem.Reason, problem.Message
	var err error
	if a.Lines, err = l.refusing(problem, got); err != nil {
		return Access{}, err
	}
	if a.Verdict == Partly {
		a.Lines = append(l.allowing(got), a.Lines...)
	}
	return a, nil
}

// Grant is a grant that no client uses.
type Grant struct {
	API   string `json:"api"`
	Lines []Line `json:"lines"`
	// Who and Scopes say for whom the grant is, in words, and what it allows.
	Who    string   `json:"who"`
	Scopes []string `json:"scopes,omitempty"`
}

// Unused returns the grants that apply to no access.
func Unused(inv *inventory.Inventory, all []Access) []Grant {
	used := map[string]map[int]bool{}
	for _, a := range all {
		if used[a.API] == nil {
			used[a.API] = map[int]bool{}
		}
		for _, g := range a.grants {
			used[a.API][g] = true
		}
	}
	var unused []Grant
	for _, api := range inv.APIs {
		name := client.ObjectKeyFromObject(api).String()
		for g := range api.Spec.Grants {
			if used[name][g] {
				continue
			}
			grant := &api.Spec.Grants[g]
			u := Grant{API: name, Who: who(grant), Lines: []Line{lineOf(api, fmt.Sprintf("spec.grants[%d]", g))}}
			for _, s := range grant.Scopes {
				u.Scopes = append(u.Scopes, string(s))
			}
			unused = append(unused, u)
		}
	}
	slices.SortStableFunc(unused, func(a, b Grant) int { return cmp.Compare(a.API, b.API) })
	return unused
}

// who says for whom a grant is.
func who(g *v1alpha1.Grant) string {
	names := func(s string, all []string) string {
		if len(all) == 0 {
			return s
		}
		return strings.Join(all, ", ")
	}
	var clients, namespaces []string
	for _, n := range g.Clients.Names {
		clients = append(clients, string(n))
	}
	for _, n := range g.Clients.Namespaces.Names {
		namespaces = append(namespaces, string(n))
	}
	if sel := g.Clients.Namespaces.Selector; sel != nil {
		labels := metav1.FormatLabelSelector(sel)
		if labels == "" {
			labels = "any labels"
		}
		namespaces = append(namespaces, "those with "+labels)
	}
	return fmt.Sprintf("%s of namespaces %s", names("every client", clients), strings.Join(namespaces, ", "))
}

// Answer is the answer to whether a client may call an API.
type Answer struct {
	Access
	// Asked reports whether the client exists and asks for it. If not, the verdict is what
	// it would get.
	Asked bool `json:"asked"`
	// Notes say what else there is to know.
	Notes []string `json:"notes,omitempty"`
}

// Yes reports whether the client gets what the question is about.
func (a Answer) Yes() bool { return a.Asked && a.Verdict == Allowed }

// Why explains whether a client may call an API, with a scope, or with "" with all that it
// requests.
func Why(ctx context.Context, inv *inventory.Inventory, name, api types.NamespacedName, scope string) (Answer, error) {
	var answer Answer
	c := inventory.Find(inv.Clients, name)
	switch {
	case c != nil:
		c = c.DeepCopy()
	case !inv.Knows(inventory.Clients, name.Namespace):
		answer.Notes = append(answer.Notes, fmt.Sprintf("You may not read M2MClient %q; this is what a client of that name would get", name))
	default:
		answer.Notes = append(answer.Notes, fmt.Sprintf("M2MClient %q does not exist; this is what it would get", name))
	}
	if c == nil {
		c = &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
	}
	i := slices.IndexFunc(c.Spec.Access, func(a v1alpha1.Access) bool {
		return a.APIResourceRef.Name != "" && access.APIResourceOf(c, &a) == api &&
			(scope == "" || slices.Contains(a.Scopes, v1alpha1.ScopeName(scope)))
	})
	answer.Asked = i >= 0
	if !answer.Asked {
		// What would it get if it asked?
		if len(answer.Notes) == 0 {
			what := "APIResource " + api.String()
			if scope != "" {
				what = "scope " + scope + " of " + what
			}
			answer.Notes = append(answer.Notes, fmt.Sprintf("M2MClient %q does not request %s: its team can add that to spec.access", name, what))
		}
		c.Spec.Access = append(c.Spec.Access, v1alpha1.Access{
			APIResourceRef: v1alpha1.APIResourceReference{Namespace: v1alpha1.NamespaceName(api.Namespace), Name: v1alpha1.APIResourceName(api.Name)},
		})
		i = len(c.Spec.Access) - 1
	}
	if scope != "" {
		c.Spec.Access[i].Scopes = []v1alpha1.ScopeName{v1alpha1.ScopeName(scope)}
	}
	all, err := Of(ctx, inv, c)
	if err != nil {
		return Answer{}, err
	}
	answer.Access = all[i]
	if !answer.Asked {
		// The entry of spec.access exists nowhere but here.
		answer.Lines = slices.DeleteFunc(answer.Lines, func(l Line) bool { return l.Kind == "M2MClient" && strings.HasPrefix(l.Path, "spec.access[") })
	}
	if granted := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionGranted); granted != nil && len(answer.Missing) > 0 {
		answer.Notes = append(answer.Notes, fmt.Sprintf("The operator, which may read everything, says of all accesses of the client: Granted is %s (%s): %s",
			granted.Status, granted.Reason, granted.Message))
	}
	return answer, nil
}
