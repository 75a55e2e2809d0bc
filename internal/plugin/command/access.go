// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/plugin/cluster"
	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/draw"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/web"
)

// accessAnswer is the answer of access as data.
type accessAnswer struct {
	Access       []decision.Access `json:"access"`
	UnusedGrants []decision.Grant  `json:"unusedGrants,omitempty"`
	Missing      []inventory.Right `json:"missingRights,omitempty"`
}

func (p *plugin) access() *cobra.Command {
	var all bool
	var format string
	c := &cobra.Command{
		Use:   "access",
		Short: "Show which clients may call which APIs, with which scopes, and by which grant",
		Example: `  kubectl m2m access                      # of the clients and APIs of the namespace
  kubectl m2m access -A -o mermaid        # everything, as a diagram
  kubectl m2m access -A -o html >m2m.html # everything, as a page to pass on
  kubectl m2m access diff -f manifests/   # what applying these files would change`,
		Args: func(c *cobra.Command, args []string) error {
			if err := noArguments(c, args); err != nil {
				return err
			}
			return oneOf(format, "", "json", "yaml", "mermaid", "dot", "html")
		},
		RunE: func(c *cobra.Command, _ []string) error {
			ns := ""
			if !all {
				var err error
				if ns, err = p.namespace(); err != nil {
					return err
				}
			}
			if format == "html" {
				return p.writePage(c.Context(), ns)
			}
			return p.showAccess(c.Context(), ns, format)
		},
	}
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "Show all namespaces.")
	c.Flags().StringVarP(&format, "output", "o", "", "json, yaml, mermaid, dot or html instead of a table.")
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "mermaid", "dot", "html"}, cobra.ShellCompDirectiveNoFileComp))
	c.AddCommand(p.accessDiff())
	return c
}

// writePage writes the page of ui as one file, as it is now.
func (p *plugin) writePage(ctx context.Context, ns string) error {
	read, err := p.readings(ns)
	if err != nil {
		return err
	}
	r, err := read(ctx)
	if err != nil {
		return err
	}
	return web.File(p.Out, r.Inventory, r.Model)
}

// read reads what there is to questions about access.
func (p *plugin) read(ctx context.Context, namespaces ...string) (*inventory.Inventory, []inventory.Right, error) {
	c, err := p.client()
	if err != nil {
		return nil, nil, err
	}
	return cluster.Reader{Client: c}.Read(ctx, cluster.Question{Namespaces: slices.Compact(slices.DeleteFunc(namespaces, func(ns string) bool { return ns == "" }))})
}

func (p *plugin) showAccess(ctx context.Context, ns, format string) error {
	inv, missing, err := p.read(ctx, ns)
	if err != nil {
		return err
	}
	answer := accessAnswer{Access: []decision.Access{}, Missing: missing}
	all, err := decision.All(ctx, inv)
	if err != nil {
		return err
	}
	concerns := func(name string) bool { return ns == "" || strings.HasPrefix(name, ns+"/") }
	for _, a := range all {
		if concerns(a.Client) || concerns(a.API) {
			answer.Access = append(answer.Access, a)
			answer.Missing = append(answer.Missing, a.Missing...)
		}
	}
	for _, g := range decision.Unused(inv, all) {
		if concerns(g.API) {
			answer.UnusedGrants = append(answer.UnusedGrants, g)
		}
	}
	answer.Missing = each(answer.Missing)
	switch format {
	case "json", "yaml":
		return write(p.Out, format, answer)
	case "mermaid":
		err = draw.Mermaid(p.Out, answer.Access)
	case "dot":
		err = draw.Dot(p.Out, answer.Access)
	default:
		err = draw.AccessTable(p.Out, answer.Access, answer.UnusedGrants)
		if err == nil && len(answer.Access)+len(answer.UnusedGrants) == 0 {
			_, err = fmt.Fprintln(p.Out, "No client has access to anything here, and no API grants anything. Choose another namespace with -n, or all with -A.")
		}
	}
	if err != nil {
		return err
	}
	return draw.Uncertain(p.ErrOut, answer.Missing)
}

// each returns every right once, in order.
func each(rights []inventory.Right) []inventory.Right {
	rights = slices.Clone(rights)
	slices.SortFunc(rights, func(a, b inventory.Right) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(rights)
}

func (p *plugin) why() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "why [NAMESPACE/]CLIENT [NAMESPACE/]API [SCOPE]",
		Short: "Say whether a client may call an API, and show the lines of YAML that decide",
		Example: `  kubectl m2m why shop/cart payments/payment-api
  kubectl m2m why shop/cart payments/payment-api payments:write`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) > 3 {
				return usage{fmt.Errorf("why takes a client, an API and perhaps a scope, but got %d arguments", len(args))}
			}
			return oneOf(format, "", "json", "yaml")
		},
		ValidArgsFunction: p.complete(clientNames, apiNames, scopeNames),
		RunE: func(c *cobra.Command, args []string) error {
			ns, err := p.namespace()
			if err != nil {
				return err
			}
			client, err := parseName(args[0], ns)
			if err != nil {
				return err
			}
			api, err := parseName(args[1], ns)
			if err != nil {
				return err
			}
			scope := ""
			if len(args) > 2 {
				scope = args[2]
			}
			return p.showWhy(c.Context(), client, api, scope, format)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of text.")
	return c
}

// parseName reads NAMESPACE/NAME, or NAME in a namespace.
func parseName(arg, namespace string) (types.NamespacedName, error) {
	name := types.NamespacedName{Namespace: namespace, Name: arg}
	if ns, rest, ok := strings.Cut(arg, "/"); ok {
		name = types.NamespacedName{Namespace: ns, Name: rest}
	}
	if name.Namespace == "" || name.Name == "" || strings.Contains(name.Name, "/") {
		return name, usage{fmt.Errorf("%q is not NAMESPACE/NAME, such as shop/cart", arg)}
	}
	return name, nil
}

func (p *plugin) showWhy(ctx context.Context, client, api types.NamespacedName, scope, format string) error {
	inv, _, err := p.read(ctx, client.Namespace, api.Namespace)
	if err != nil {
		return err
	}
	answer, err := decision.Why(ctx, inv, client, api, scope)
	if err != nil {
		return err
	}
	if format != "" {
		err = write(p.Out, format, answer)
	} else if err = draw.Why(p.Out, answer, p.style()); err == nil {
		err = draw.Uncertain(p.ErrOut, answer.Missing)
	}
	switch {
	case err != nil:
		return err
	case answer.Yes():
		return nil
	case answer.Verdict == decision.Unknown && len(answer.Missing) > 0 && answer.Reason == "":
		return &Exit{CodeUnknown}
	}
	return &Exit{CodeNo}
}
