// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/build"
	"github.com/m2m-operator/m2m-operator/internal/plugin/installation"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// versions are those of the plugin, of the API server and of the operator.
type versions struct {
	Client     build.Info             `json:"client"`
	Kubernetes string                 `json:"kubernetes,omitempty"`
	Operator   []installation.Running `json:"operator,omitempty"`
}

func (p *plugin) version() *cobra.Command {
	var namespace, format string
	var clientOnly bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of the plugin, of the operator and of Kubernetes",
		Args: func(c *cobra.Command, args []string) error {
			if err := noArguments(c, args); err != nil {
				return err
			}
			return oneOf(format, "", "json", "yaml")
		},
		RunE: func(c *cobra.Command, _ []string) error {
			found := versions{Client: build.Read()}
			var notFound error
			if !clientOnly {
				notFound = p.serverVersions(c.Context(), namespace, &found)
			}
			if err := p.writeVersions(found, format); err != nil {
				return err
			}
			return notFound
		},
	}
	c.Flags().BoolVar(&clientOnly, "client", false, "Show the plugin's own version only, and ask no cluster.")
	c.Flags().StringVar(&namespace, "operator-namespace", "m2m-operator-system", "The operator's namespace.")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of text.")
	return c
}

// serverVersions asks the cluster. It returns how the command ends.
func (p *plugin) serverVersions(ctx context.Context, namespace string, found *versions) error {
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return fmt.Errorf("no cluster to ask: %w; set --kubeconfig or --context, or --client", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", cfg.Host, err)
	}
	server, err := disco.ServerVersion()
	if err != nil {
		return fmt.Errorf("the API server does not answer: %w", err)
	}
	found.Kubernetes = server.GitVersion
	c, err := p.client()
	if err != nil {
		return err
	}
	right := inventory.Right{Verb: "list", Resource: "deployments.apps", Namespace: namespace}
	var deployments appsv1.DeploymentList
	switch err := c.List(ctx, &deployments, ours, client.InNamespace(namespace)); {
	case apierrors.IsForbidden(err):
		_, _ = fmt.Fprintf(p.ErrOut, "The operator's version is not shown, because you may not %s\n", right)
		return &Exit{CodeUnknown}
	case err != nil:
		return fmt.Errorf("%s: %w", right, err)
	case len(deployments.Items) == 0:
		return p.operatorOutside(ctx, c, namespace, found)
	}
	found.Operator = installation.Versions(deployments.Items)
	return nil
}

// operatorOutside finds an operator that no Deployment starts.
func (p *plugin) operatorOutside(ctx context.Context, c client.Client, namespace string, found *versions) error {
	lease, right, err := readLease(ctx, c, namespace)
	if apierrors.IsForbidden(err) {
		_, _ = fmt.Fprintf(p.ErrOut, "There is no Deployment of the operator in namespace %q, and it is not known whether it runs outside of the cluster, because you may not %s\n", namespace, right)
		return &Exit{CodeUnknown}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", right, err)
	}
	holder, outside := installation.Outside(nil, lease, p.now())
	if !outside {
		_, _ = fmt.Fprintf(p.ErrOut, "There is no operator in namespace %q; name its namespace with --operator-namespace\n", namespace)
		return &Exit{CodeNo}
	}
	found.Operator = []installation.Running{{Namespace: namespace, Holder: holder, Version: "unknown"}}
	return nil
}

func (p *plugin) writeVersions(found versions, format string) error {
	if format != "" {
		return write(p.Out, format, found)
	}
	t := tabwriter.NewWriter(p.Out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(t, "kubectl m2m\t%s\n", found.Client)
	if found.Kubernetes != "" {
		_, _ = fmt.Fprintf(t, "Kubernetes\t%s\n", text.Line(found.Kubernetes))
	}
	for _, o := range found.Operator {
		where := fmt.Sprintf("Deployment %s/%s, image %s", o.Namespace, o.Deployment, o.Image)
		if o.Deployment == "" {
			where = fmt.Sprintf("outside of the cluster: %s holds the lease in namespace %s", o.Holder, o.Namespace)
		}
		_, _ = fmt.Fprintf(t, "operator\t%s (%s)\n", text.Line(o.Version), text.Line(where))
		if advice := installation.Skew(found.Client.Version, o.Version); advice != "" {
			_, _ = fmt.Fprintf(t, "\t→ %s\n", advice)
		}
	}
	return t.Flush()
}
