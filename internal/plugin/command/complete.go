// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/plugin/cluster"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// completeWithin is how long the shell waits for names.
const completeWithin = 3 * time.Second

// names returns what an argument may be, given those before it. Names of the namespace stand
// alone, and others as NAMESPACE/NAME.
type names func(inv *inventory.Inventory, namespace string, before []string) []string

// complete completes arguments with what the cluster has. Whatever goes wrong, there are no
// names.
func (p *plugin) complete(of ...names) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(of) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := c.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeWithin)
		defer cancel()
		ns, err := p.namespace()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		kube, err := p.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		inv, _, err := cluster.Reader{Client: kube}.Read(ctx, cluster.Question{Namespaces: []string{ns}})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		for _, name := range of[len(args)](inv, ns, args) {
			if strings.HasPrefix(name, begun) {
				found = append(found, name)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAll completes any number of arguments of one sort.
func (p *plugin) completeAll(of names) cobra.CompletionFunc {
	one := p.complete(of)
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		found, directive := one(c, nil, begun)
		return slices.DeleteFunc(found, func(name string) bool { return slices.Contains(args, name) }), directive
	}
}

// short returns a name as an argument.
func short(o client.Object, namespace string) string {
	if o.GetNamespace() == namespace {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

func clientNames(inv *inventory.Inventory, namespace string, _ []string) (all []string) {
	for _, c := range inv.Clients {
		all = append(all, short(c, namespace))
	}
	return all
}

func apiNames(inv *inventory.Inventory, namespace string, _ []string) (all []string) {
	for _, a := range inv.APIs {
		all = append(all, short(a, namespace))
	}
	return all
}

func scopeNames(inv *inventory.Inventory, namespace string, before []string) (all []string) {
	name, err := parseName(before[len(before)-1], namespace)
	if err != nil {
		return nil
	}
	if a := inventory.Find(inv.APIs, name); a != nil {
		for _, s := range a.Spec.Scopes {
			all = append(all, string(s.Name))
		}
	}
	return all
}

// refs returns the objects of the namespace as KIND/NAME.
func refs(inv *inventory.Inventory, namespace string, _ []string) (all []string) {
	for _, c := range inv.Clients {
		if c.Namespace == namespace {
			all = append(all, "m2mclient/"+c.Name)
		}
	}
	for _, a := range inv.APIs {
		if a.Namespace == namespace {
			all = append(all, "apiresource/"+a.Name)
		}
	}
	for _, s := range inv.Servers {
		if s.Namespace == namespace {
			all = append(all, "authorizationserver/"+s.Name)
		}
	}
	for _, s := range inv.ClusterServers {
		all = append(all, "clusterauthorizationserver/"+s.Name)
	}
	return all
}
