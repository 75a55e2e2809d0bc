// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/progress"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// request is a wish of the user's that an annotation tells the operator.
type request struct {
	annotation string
	value      string
	objects    []client.Object
	// progress says how far the operator is with an object.
	progress func(o client.Object, value string) progress.Progress
}

// patience is how a command waits for the operator.
type patience struct {
	wait    bool
	timeout time.Duration
}

func (w *patience) flags(c *cobra.Command) {
	c.Flags().BoolVar(&w.wait, "wait", true, "Wait until the operator has done it, and say how it went.")
	c.Flags().DurationVar(&w.timeout, "timeout", 3*time.Minute, "How long to wait.")
}

func (p *plugin) refresh() *cobra.Command {
	var all, everywhere bool
	var w patience
	c := &cobra.Command{
		Use:   "refresh [NAMESPACE/]CLIENT|KIND/NAME... | --all",
		Short: "Replace tokens, ask servers and compare APIs now",
		Long: `Replace tokens, ask servers and compare APIs now.

An argument is the name of an M2MClient, NAMESPACE/NAME of one in another namespace, or
KIND/NAME. For a client, the operator requests new tokens; for a server, it reads the
metadata and the keys; for an API that it provisions, it compares the API with the server.
The command sets an annotation with your own rights, which needs the right to patch the
object.`,
		Example: `  kubectl m2m refresh cart                # new tokens for M2MClient cart
  kubectl m2m refresh shop/cart           # the same, of namespace shop
  kubectl m2m refresh --all -n shop       # for every M2MClient of the namespace
  kubectl m2m refresh server/auth         # read the metadata and keys of AuthorizationServer auth
  kubectl m2m refresh api/payment-api     # compare APIResource payment-api with its server`,
		Args: func(_ *cobra.Command, args []string) error {
			if (all || everywhere) == (len(args) > 0) {
				return usage{fmt.Errorf("name what to refresh, or all clients with --all, but not both")}
			}
			return nil
		},
		ValidArgsFunction: p.completeAll(refreshable),
		RunE: func(c *cobra.Command, args []string) error {
			objects, err := p.named(c.Context(), args, everywhere)
			if err != nil {
				return err
			}
			r := request{v1alpha1.RefreshRequestedAnnotation, p.now().UTC().Format(time.RFC3339Nano), objects, progress.Refresh}
			return p.ask(c.Context(), r, w)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "Every M2MClient of the namespace.")
	c.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "Every M2MClient of all namespaces.")
	w.flags(c)
	return c
}

func (p *plugin) rotate() *cobra.Command {
	var w patience
	c := &cobra.Command{
		Use:   "rotate [NAMESPACE/]CLIENT...",
		Short: "Replace the client secret that the operator keeps for a client",
		Long: `Replace the client secret that the operator keeps for a client.

The operator makes a new secret at the server, tries it, and replaces the client's tokens. It
removes the old secret after spec.credentialRotation.overlap. The command sets an annotation
with your own rights, which needs the right to patch the M2MClient.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage{fmt.Errorf("name the M2MClient whose secret is to be replaced")}
			}
			return nil
		},
		ValidArgsFunction: p.completeAll(clientNames),
		RunE: func(c *cobra.Command, args []string) error {
			objects, err := p.named(c.Context(), args, false)
			if err != nil {
				return err
			}
			for _, o := range objects {
				m, ok := o.(*v1alpha1.M2MClient)
				switch {
				case !ok:
					return usage{fmt.Errorf("%s has no secret that the operator keeps; only M2MClients do", nameOf(o))}
				case !access.Registered(m):
					return usage{fmt.Errorf("%s has credentials of its own, which the operator does not replace: change what spec.credentials names", nameOf(o))}
				}
			}
			r := request{
				annotation: v1alpha1.RotateCredentialAnnotation, value: p.now().UTC().Format(time.RFC3339Nano), objects: objects,
				progress: func(o client.Object, value string) progress.Progress {
					return progress.Rotation(o.(*v1alpha1.M2MClient), value)
				},
			}
			return p.ask(c.Context(), r, w)
		},
	}
	w.flags(c)
	return c
}

// refreshable returns what refresh takes.
func refreshable(inv *inventory.Inventory, namespace string, before []string) []string {
	return append(clientNames(inv, namespace, before), slices.DeleteFunc(refs(inv, namespace, before), func(ref string) bool {
		return strings.HasPrefix(ref, "m2mclient/")
	})...)
}

// parseTarget reads NAME, NAMESPACE/NAME of a client, or KIND/NAME.
func parseTarget(arg, namespace string) (tree.Ref, error) {
	if kind, _, ok := strings.Cut(arg, "/"); ok && isKind(kind) {
		return parseRef(arg, namespace)
	}
	name, err := parseName(arg, namespace)
	return tree.Ref{Kind: "M2MClient", Namespace: name.Namespace, Name: name.Name}, err
}

// named gets the objects that arguments name, or all clients if there are none.
func (p *plugin) named(ctx context.Context, args []string, everywhere bool) ([]client.Object, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	ns, err := p.namespace()
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		if everywhere {
			ns = ""
		}
		return p.allClients(ctx, c, ns)
	}
	var all []client.Object
	for _, arg := range args {
		ref, err := parseTarget(arg, ns)
		if err != nil {
			return nil, err
		}
		o := objectOf(ref)
		if o == nil {
			return nil, usage{fmt.Errorf("a %s has nothing to refresh", ref.Kind)}
		}
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return nil, p.unnamed(ctx, c, ref, arg, err)
		}
		if api, ok := o.(*v1alpha1.APIResource); ok {
			if cond := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionProvisioned); cond == nil || cond.Reason == v1alpha1.ReasonNotApplicable {
				return nil, usage{fmt.Errorf("%s is not provisioned, so there is nothing to compare; to read its keys anew, refresh its server", nameOf(o))}
			}
		}
		all = append(all, o)
	}
	return all, nil
}

// unnamed returns why an argument names nothing. Perhaps the user means an object of another kind.
func (p *plugin) unnamed(ctx context.Context, c client.Client, ref tree.Ref, arg string, err error) error {
	right := inventory.Right{Verb: "get", Resource: inventory.ResourceOf(objectOf(ref)), Namespace: ref.Namespace, Name: ref.Name}
	if !apierrors.IsNotFound(err) {
		return p.explain(err, right)
	}
	for _, alias := range []string{"api", "server", "cas"} {
		meant, err := parseRef(alias+"/"+ref.Name, ref.Namespace)
		if err != nil || ref.Kind != "M2MClient" {
			break
		}
		if o := objectOf(meant); c.Get(ctx, client.ObjectKeyFromObject(o), o) == nil {
			return fmt.Errorf("there is no M2MClient %q, but there is %s: write %s/%s, with -n %s", arg, nameOf(o), alias, ref.Name, ref.Namespace)
		}
	}
	return explained(err, right)
}

func (p *plugin) allClients(ctx context.Context, c client.Client, namespace string) ([]client.Object, error) {
	var list v1alpha1.M2MClientList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, p.explain(err, inventory.Right{Verb: "list", Resource: inventory.Clients, Namespace: namespace})
	}
	var all []client.Object
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no M2MClient in namespace %q; choose another with -n, or all with -A", namespace)
	}
	return all, nil
}

// explain says which right is missing, and ends the command with the code for that.
func (p *plugin) explain(err error, right inventory.Right) error {
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("%s: %w", right, err)
	}
	_, _ = fmt.Fprintf(p.ErrOut, "You may not %s.\n", right)
	return &Exit{CodeUnknown}
}

func objectOf(ref tree.Ref) client.Object {
	m := metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name}
	switch ref.Kind {
	case "M2MClient":
		return &v1alpha1.M2MClient{ObjectMeta: m}
	case "APIResource":
		return &v1alpha1.APIResource{ObjectMeta: m}
	case "AuthorizationServer":
		return &v1alpha1.AuthorizationServer{ObjectMeta: m}
	case "ClusterAuthorizationServer":
		return &v1alpha1.ClusterAuthorizationServer{ObjectMeta: m}
	}
	return nil
}

// nameOf names an object as messages do.
func nameOf(o client.Object) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1alpha1.")
	if o.GetNamespace() == "" {
		return kind + " " + o.GetName()
	}
	return kind + " " + o.GetNamespace() + "/" + o.GetName()
}

// ask annotates the objects, and waits for what comes of it.
func (p *plugin) ask(ctx context.Context, r request, w patience) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{r.annotation: r.value}}})
	if err != nil {
		return err
	}
	for _, o := range r.objects {
		if err := c.Patch(ctx, o, client.RawPatch(types.MergePatchType, patch)); err != nil {
			return p.explain(err, inventory.Right{Verb: "patch", Resource: inventory.ResourceOf(o), Namespace: o.GetNamespace(), Name: o.GetName()})
		}
		if _, err := fmt.Fprintf(p.Out, "%s: requested\n", nameOf(o)); err != nil {
			return err
		}
	}
	if !w.wait {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	return newWaiter(p, c, r).run(ctx, w.timeout)
}
