// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/draw"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

func (p *plugin) whoUses() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "who-uses [NAMESPACE/]API",
		Short: "Show the clients of an API, with their scopes and tokens",
		Long: `Show the clients of an API, with their scopes and tokens.

It shows the clients that you may read, and says where you may not look.`,
		Example: "  kubectl m2m who-uses payments/payment-api",
	}
	p.aboutAPI(c, &format, func(ctx context.Context, api types.NamespacedName) error { return p.showUsers(ctx, api, format) })
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of a table.")
	return c
}

func (p *plugin) showUsers(ctx context.Context, api types.NamespacedName, format string) error {
	inv, missing, err := p.read(ctx, api.Namespace)
	if err != nil {
		return err
	}
	if inv.Knows(inventory.APIs, api.Namespace) && !slices.ContainsFunc(inv.APIs, func(a *v1alpha1.APIResource) bool { return client.ObjectKeyFromObject(a) == api }) {
		return fmt.Errorf("APIResource %q does not exist in namespace %q; kubectl get apiresources -A lists those that you may see", api.Name, api.Namespace)
	}
	answer, err := decision.UsersOf(ctx, inv, api)
	if err != nil {
		return err
	}
	answer.Missing = each(append(missing, answer.Missing...))
	if format != "" {
		return write(p.Out, format, answer)
	}
	if err := draw.Users(p.Out, answer, p.style()); err != nil {
		return err
	}
	return draw.Uncertain(p.ErrOut, answer.Missing)
}
