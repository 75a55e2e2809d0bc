// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/plugin/cluster"
	"github.com/m2m-operator/m2m-operator/internal/plugin/installation"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

func (p *plugin) check() *cobra.Command {
	var format string
	var q checkQuestion
	var uninstall bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Say whether the operator is installed soundly",
		Example: `  kubectl m2m check
  kubectl m2m check --uninstall   # what would stop working without the operator`,
		Args: func(c *cobra.Command, args []string) error {
			if err := noArguments(c, args); err != nil {
				return err
			}
			return oneOf(format, "", "json", "yaml")
		},
		RunE: func(c *cobra.Command, _ []string) error {
			if uninstall {
				return p.showUninstall(c.Context(), format)
			}
			return p.showCheck(c.Context(), q, format)
		},
	}
	c.Flags().BoolVar(&uninstall, "uninstall", false, "Say what would stop working, and what would be left behind, if the operator were uninstalled.")
	c.Flags().StringVar(&q.namespace, "operator-namespace", "m2m-operator-system", "The operator's namespace.")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of text.")
	c.Flags().BoolVar(&q.probe, "probe", false, "Ask each issuer for its metadata and keys from your machine, too.")
	egressFlags(c, &q.policy)
	return c
}

// checkQuestion is what check is asked.
type checkQuestion struct {
	namespace string // the operator's
	probe     bool   // whether to ask the issuers from here
	policy    egress.Policy
}

func (p *plugin) showCheck(ctx context.Context, q checkQuestion, format string) error {
	found, err := p.find(ctx, q)
	if err != nil {
		return err
	}
	all := installation.Check(found, p.now())
	if err := p.showFindings(all, format); err != nil {
		return err
	}
	return verdict(all, installation.Failed)
}

// showUninstall says what depends on the operator.
func (p *plugin) showUninstall(ctx context.Context, format string) error {
	found := installation.Found{Hidden: map[string]inventory.Right{}}
	c, err := p.client()
	if err != nil {
		return err
	}
	if err := findKinds(ctx, c, &found); err != nil {
		return err
	}
	var missing []inventory.Right
	if found.Objects, missing, err = (cluster.Reader{Client: c}).Read(ctx, cluster.Question{Pods: true}); err != nil {
		return err
	}
	found.Hide(missing)
	if err := findGatewayPolicies(ctx, c, &found); err != nil {
		return err
	}
	all := installation.Uninstall(found, p.now())
	if err := p.showFindings(all, format); err != nil {
		return err
	}
	return verdict(all, installation.Warning)
}

func (p *plugin) showFindings(all []installation.Finding, format string) error {
	if format != "" {
		return write(p.Out, format, map[string]any{"findings": all})
	}
	t := tabwriter.NewWriter(p.Out, 0, 0, 2, ' ', 0)
	for _, f := range all {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", f.Check, f.Result, f.Detail)
		if f.Advice != "" {
			_, _ = fmt.Fprintf(t, "\t\t→ %s\n", f.Advice)
		}
	}
	return t.Flush()
}

// verdict is the exit code of findings, of which one result is a no.
func verdict(all []installation.Finding, no installation.Result) error {
	has := func(r installation.Result) bool {
		return slices.ContainsFunc(all, func(f installation.Finding) bool { return f.Result == r })
	}
	switch {
	case has(no):
		return &Exit{CodeNo}
	case has(installation.Unknown):
		return &Exit{CodeUnknown}
	}
	return nil
}

// ours selects what the installation consists of.
var ours = client.MatchingLabels{"app.kubernetes.io/name": "m2m-operator"}

// find reads what an installation consists of.
func (p *plugin) find(ctx context.Context, q checkQuestion) (installation.Found, error) {
	namespace := q.namespace
	f := installation.Found{Hidden: map[string]inventory.Right{}}
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return f, fmt.Errorf("no cluster to ask: %w; set --kubeconfig or --context", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return f, fmt.Errorf("connect to %s: %w", cfg.Host, err)
	}
	version, err := disco.ServerVersion()
	if err != nil {
		return f, fmt.Errorf("the API server does not answer: %w", err)
	}
	f.Version = version.GitVersion
	c, err := p.client()
	if err != nil {
		return f, err
	}
	if err := findKinds(ctx, c, &f); err != nil {
		return f, err
	}
	lease, right, err := readLease(ctx, c, namespace)
	if !hides(&f, installation.Leader, right, err) && err != nil {
		return f, fmt.Errorf("%s: %w", right, err)
	}
	f.Lease = lease
	if err := findLists(ctx, c, &f, namespace); err != nil {
		return f, err
	}
	if len(f.Kinds) == len(installation.Names) {
		inv, missing, err := p.read(ctx)
		if err != nil {
			return f, err
		}
		f.Objects = inv
		if len(missing) > 0 {
			f.Hidden[installation.Watched], f.Hidden[installation.Issuers] = missing[0], missing[0]
		}
	} else {
		f.Objects = &inventory.Inventory{}
		if right, ok := f.Hidden[installation.Kinds]; ok {
			f.Hidden[installation.Issuers] = right
		}
	}
	return f, p.try(ctx, c, &f, q)
}

// readLease reads the operator's lease, nil if there is none, with the right that this needs.
func readLease(ctx context.Context, c client.Client, namespace string) (*coordinationv1.Lease, inventory.Right, error) {
	right := inventory.Right{Verb: "get", Resource: "leases.coordination.k8s.io", Namespace: namespace, Name: "m2m-operator"}
	lease := &coordinationv1.Lease{}
	if err := c.Get(ctx, types.NamespacedName{Namespace: namespace, Name: right.Name}, lease); err != nil {
		return nil, right, client.IgnoreNotFound(err)
	}
	return lease, right, nil
}

// findKinds reads the CRDs.
func findKinds(ctx context.Context, c client.Client, f *installation.Found) error {
	for _, name := range installation.Names {
		var crd apiextensionsv1.CustomResourceDefinition
		right := inventory.Right{Verb: "get", Resource: "customresourcedefinitions.apiextensions.k8s.io", Name: name}
		if err := c.Get(ctx, types.NamespacedName{Name: name}, &crd); hides(f, installation.Kinds, right, err) {
			continue
		} else if err == nil {
			f.Kinds = append(f.Kinds, crd)
		} else if !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s: %w", right, err)
		}
	}
	return nil
}

// gatewayPolicies are the kinds by which gateways check tokens, and their resources.
var gatewayPolicies = []struct {
	kind     schema.GroupVersionKind
	resource inventory.Resource
}{
	{schema.GroupVersionKind{Group: "gateway.envoyproxy.io", Version: "v1alpha1", Kind: "SecurityPolicy"}, "securitypolicies.gateway.envoyproxy.io"},
	{schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "RequestAuthentication"}, "requestauthentications.security.istio.io"},
	{schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"}, "authorizationpolicies.security.istio.io"},
}

// findGatewayPolicies reads the policies that APIResources control, of the kinds that are there.
func findGatewayPolicies(ctx context.Context, c client.Client, f *installation.Found) error {
	for _, of := range gatewayPolicies {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(of.kind.GroupVersion().WithKind(of.kind.Kind + "List"))
		right := inventory.Right{Verb: "list", Resource: of.resource}
		err := c.List(ctx, list, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) || hides(f, installation.Gateways, right, err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", right, err)
		}
		for _, p := range list.Items {
			owner := metav1.GetControllerOf(&p)
			if owner == nil || owner.Kind != "APIResource" || !strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/") {
				continue
			}
			p.SetGroupVersionKind(of.kind)
			f.GatewayPolicies = append(f.GatewayPolicies, p)
		}
	}
	return nil
}

// hides notes that a right is missing for a check.
func hides(f *installation.Found, check string, right inventory.Right, err error) bool {
	if !apierrors.IsForbidden(err) {
		return false
	}
	f.Hidden[check] = right
	return true
}

// findLists reads what an installation has several of.
func findLists(ctx context.Context, c client.Client, f *installation.Found, namespace string) error {
	var deployments appsv1.DeploymentList
	var webhooks admissionv1.MutatingWebhookConfigurationList
	var slicesOf discoveryv1.EndpointSliceList
	var policies admissionv1.ValidatingAdmissionPolicyList
	var bindings admissionv1.ValidatingAdmissionPolicyBindingList
	var roles rbacv1.ClusterRoleBindingList
	for _, l := range []struct {
		check, resource string
		list            client.ObjectList
		opts            []client.ListOption
	}{
		{installation.Operator, "deployments.apps", &deployments, []client.ListOption{ours, client.InNamespace(namespace)}},
		{installation.Roles, "clusterrolebindings.rbac.authorization.k8s.io", &roles, []client.ListOption{ours}},
		{installation.Webhook, "mutatingwebhookconfigurations.admissionregistration.k8s.io", &webhooks, []client.ListOption{ours}},
		{installation.Endpoints, "endpointslices.discovery.k8s.io", &slicesOf, []client.ListOption{client.InNamespace(namespace)}},
		{installation.Policies, "validatingadmissionpolicies.admissionregistration.k8s.io", &policies, []client.ListOption{ours}},
		{installation.Policies, "validatingadmissionpolicybindings.admissionregistration.k8s.io", &bindings, []client.ListOption{ours}},
	} {
		right := inventory.Right{Verb: "list", Resource: inventory.Resource(l.resource)}
		if l.check == installation.Operator || l.check == installation.Endpoints {
			right.Namespace = namespace
		}
		err := c.List(ctx, l.list, l.opts...)
		if err != nil && !hides(f, l.check, right, err) {
			return fmt.Errorf("%s: %w", right, err)
		}
	}
	f.Deployments, f.Webhooks, f.Policies, f.Bindings, f.Roles = deployments.Items, webhooks.Items, policies.Items, bindings.Items, roles.Items
	for _, s := range slicesOf.Items {
		if strings.HasSuffix(s.Labels[discoveryv1.LabelServiceName], "webhook") {
			f.Endpoints = append(f.Endpoints, s)
		}
	}
	if right, ok := f.Hidden[installation.Webhook]; ok {
		f.Hidden[installation.Endpoints] = right
	}
	if right, ok := f.Hidden[installation.Operator]; ok {
		f.Hidden[installation.Roles], f.Hidden[installation.Watched] = right, right
	}
	return nil
}
