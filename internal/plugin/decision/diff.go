// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// Change is what files would change about an access.
type Change struct {
	Client string `json:"client"`
	API    string `json:"api,omitempty"`
	Key    string `json:"key"`
	// Before and After are nil if the access does not exist.
	Before *Access `json:"before,omitempty"`
	After  *Access `json:"after,omitempty"`
	// Gained and Lost are the scopes that the client may have only after, and only before.
	Gained []string `json:"gained,omitempty"`
	Lost   []string `json:"lost,omitempty"`
}

// Diff is what files would change.
type Diff struct {
	Changes []Change `json:"changes"`
	// NewGrants and FormerGrants are grants without a client that appear and disappear.
	NewGrants    []Grant           `json:"newGrants,omitempty"`
	FormerGrants []Grant           `json:"formerGrants,omitempty"`
	Missing      []inventory.Right `json:"missingRights,omitempty"`
}

// Empty reports whether nothing would change.
func (d Diff) Empty() bool {
	return len(d.Changes) == 0 && len(d.NewGrants) == 0 && len(d.FormerGrants) == 0
}

// Compare says what would change if objects were applied at a moment. What the cluster has and
// the objects leave out stays.
func Compare(ctx context.Context, inv *inventory.Inventory, objects []client.Object, now time.Time) (Diff, error) {
	next := inv.Replaced(applied(inv, objects, now)...)
	before, err := All(ctx, inv)
	if err != nil {
		return Diff{}, err
	}
	after, err := All(ctx, next)
	if err != nil {
		return Diff{}, err
	}
	var d Diff
	type id struct{ client, key string }
	was := map[id]*Access{}
	for i := range before {
		was[id{before[i].Client, before[i].Key}] = &before[i]
	}
	for i := range after {
		k := id{after[i].Client, after[i].Key}
		d.add(was[k], &after[i])
		delete(was, k)
	}
	for _, a := range was {
		d.add(a, nil)
	}
	slices.SortFunc(d.Changes, func(a, b Change) int { return cmp.Or(cmp.Compare(a.Client, b.Client), cmp.Compare(a.Key, b.Key)) })
	// A grant that a client begins to use has not gone, and one that a client leaves is not new.
	d.NewGrants = without(Unused(next, after), Unused(inv, nil))
	d.FormerGrants = without(Unused(inv, before), Unused(next, nil))
	return d, nil
}

// add adds a change, if it is one.
func (d *Diff) add(before, after *Access) {
	c := Change{Before: before, After: after}
	was, is := Access{}, Access{}
	for _, a := range []*Access{before, after} {
		if a == nil {
			continue
		}
		c.Client, c.API, c.Key = a.Client, a.API, a.Key
		for _, r := range a.Missing {
			if !slices.Contains(d.Missing, r) {
				d.Missing = append(d.Missing, r)
			}
		}
	}
	if before != nil {
		was = *before
	}
	if after != nil {
		is = *after
	}
	c.Gained, c.Lost = minus(is.Scopes, was.Scopes), minus(was.Scopes, is.Scopes)
	if was.API == is.API && was.Resource == is.Resource && was.Verdict == is.Verdict && was.Reason == is.Reason && len(c.Gained) == 0 && len(c.Lost) == 0 {
		return
	}
	d.Changes = append(d.Changes, c)
}

func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// without returns the grants that are not among others, wherever they stand in their API.
func without(grants, others []Grant) []Grant {
	id := func(g Grant) string { return strings.Join(append([]string{g.API, g.Who}, g.Scopes...), "\n") }
	known := map[string]bool{}
	for _, g := range others {
		known[id(g)] = true
	}
	return slices.DeleteFunc(grants, func(g Grant) bool { return known[id(g)] })
}

// applied returns objects of files as the API server would have them: those that exist keep
// what they have from the cluster, and the others are created now. A file sets neither a status
// nor the time of a creation or deletion.
func applied(inv *inventory.Inventory, objects []client.Object, now time.Time) []client.Object {
	var all []client.Object
	for _, o := range objects {
		o = o.DeepCopyObject().(client.Object)
		var have client.Object
		name := client.ObjectKeyFromObject(o)
		switch o := o.(type) {
		case *v1alpha1.APIResource:
			o.Status = v1alpha1.APIResourceStatus{}
			if was := inventory.Find(inv.APIs, name); was != nil {
				have, o.Status = was, was.Status
			}
		case *v1alpha1.M2MClient:
			o.Status = v1alpha1.M2MClientStatus{}
			if was := inventory.Find(inv.Clients, name); was != nil {
				have, o.Status = was, was.Status
			}
		case *v1alpha1.AuthorizationServer:
			o.Status = v1alpha1.AuthorizationServerStatus{}
			if was := inventory.Find(inv.Servers, name); was != nil {
				have, o.Status = was, was.Status
			}
		case *v1alpha1.ClusterAuthorizationServer:
			o.Status = v1alpha1.AuthorizationServerStatus{}
			if was := inventory.Find(inv.ClusterServers, name); was != nil {
				have, o.Status = was, was.Status
			}
		case *metav1.PartialObjectMetadata:
			// Applying adds labels. Whether it removes any, only the API server knows.
			o.Labels = maps.Clone(o.Labels)
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			o.Labels[corev1.LabelMetadataName] = o.Name
			if was := inventory.Find(inv.Namespaces, name); was != nil {
				have = was
				for key, value := range was.Labels {
					if _, ok := o.Labels[key]; !ok {
						o.Labels[key] = value
					}
				}
			}
		}
		o.SetUID(types.UID("to be created as " + name.String()))
		o.SetCreationTimestamp(metav1.NewTime(now))
		o.SetDeletionTimestamp(nil)
		if have != nil {
			o.SetUID(have.GetUID())
			o.SetCreationTimestamp(have.GetCreationTimestamp())
			o.SetDeletionTimestamp(have.GetDeletionTimestamp())
		}
		all = append(all, o)
	}
	return all
}
