// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/internal/plugin/cluster"
	"github.com/m2m-operator/m2m-operator/internal/plugin/draw"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// kinds are the names under which a command line may name a kind.
var kinds = []struct {
	kind    string
	aliases []string
}{
	{"M2MClient", []string{"m2mclient", "m2mclients", "m2mc", "client"}},
	{"APIResource", []string{"apiresource", "apiresources", "apires", "api"}},
	{"AuthorizationServer", []string{"authorizationserver", "authorizationservers", "as", "server"}},
	{"ClusterAuthorizationServer", []string{"clusterauthorizationserver", "clusterauthorizationservers", "cas"}},
	{tree.KindPod, []string{"pod", "pods", "po"}},
}

// isKind reports whether a command line names a kind so.
func isKind(name string) bool {
	return slices.ContainsFunc(kinds, func(k struct {
		kind    string
		aliases []string
	}) bool {
		return slices.Contains(k.aliases, strings.ToLower(name))
	})
}

// parseRef reads KIND/NAME.
func parseRef(arg, namespace string) (tree.Ref, error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return tree.Ref{}, usage{fmt.Errorf("%q is not KIND/NAME, such as m2mclient/cart or pod/payment-0", arg)}
	}
	kind, _, _ = strings.Cut(strings.ToLower(kind), ".")
	for _, k := range kinds {
		if slices.Contains(k.aliases, kind) {
			if k.kind == "ClusterAuthorizationServer" {
				namespace = ""
			}
			return tree.Ref{Kind: k.kind, Namespace: namespace, Name: name}, nil
		}
	}
	return tree.Ref{}, usage{fmt.Errorf("there is no kind %q here; the kinds are m2mclient, apiresource, authorizationserver, clusterauthorizationserver and pod", kind)}
}

func (p *plugin) status() *cobra.Command {
	var all, watch bool
	var format string
	c := &cobra.Command{
		Use:   "status [KIND/NAME]",
		Short: "Show servers, APIs, clients and pods as a tree, what is wrong, and what to do about it",
		Example: `  kubectl m2m status                      # what has to do with the namespace
  kubectl m2m status -A                   # everything
  kubectl m2m status m2mclient/cart       # one client with its APIs and pods
  kubectl m2m status pod/payment-0        # what a pod mounts, and whether it has the keys`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage{fmt.Errorf("status takes one KIND/NAME, but got %d arguments", len(args))}
			}
			return oneOf(format, "", "json", "yaml")
		},
		ValidArgsFunction: p.complete(refs),
		RunE: func(c *cobra.Command, args []string) error {
			q := statusQuestion{}
			if !all || len(args) > 0 {
				var err error
				if q.namespace, err = p.namespace(); err != nil {
					return err
				}
			}
			if len(args) > 0 {
				ref, err := parseRef(args[0], q.namespace)
				if err != nil {
					return err
				}
				q.only = &ref
			}
			if !watch {
				return p.showStatus(c.Context(), q, format)
			}
			return p.watchStatus(c.Context(), q, format)
		},
	}
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "Show all namespaces.")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of a tree.")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "Show it again when something changes, until you press Ctrl-C.")
	return c
}

type statusQuestion struct {
	namespace string // "" for all
	only      *tree.Ref
}

func (p *plugin) showStatus(ctx context.Context, q statusQuestion, format string) error {
	text, t, err := p.statusText(ctx, q, format)
	if err != nil {
		return err
	}
	if _, err := p.Out.Write(text); err != nil {
		return err
	}
	if format == "" {
		if err := draw.Missing(p.ErrOut, t.Missing); err != nil {
			return err
		}
	}
	switch {
	case len(t.Issuers) == 0 && len(t.Missing) > 0:
		return &Exit{CodeUnknown}
	case t.Worst() == tree.Failing, len(t.Issuers) == 0 && q.only != nil:
		return &Exit{CodeNo}
	}
	return nil
}

// watchInterval is how often --watch looks.
const watchInterval = 2 * time.Second

func (p *plugin) watchStatus(ctx context.Context, q statusQuestion, format string) error {
	var before *tree.Tree
	return every(ctx, watchInterval, func() error {
		text, t, err := p.statusText(ctx, q, format)
		if ctx.Err() != nil {
			return nil
		}
		// The trees are compared, not the texts, in which every second changes something.
		if err != nil || before != nil && reflect.DeepEqual(*before, t) {
			return err
		}
		switch {
		case p.terminal():
			_, err = fmt.Fprint(p.Out, "\x1b[H\x1b[2J")
		case before != nil && format == "yaml":
			_, err = fmt.Fprintln(p.Out, "---")
		case before != nil && format == "":
			_, err = fmt.Fprintln(p.Out)
		}
		if err != nil {
			return err
		}
		before = &t
		if _, err := p.Out.Write(text); err != nil || format != "" {
			return err
		}
		return draw.Missing(p.Out, t.Missing)
	})
}

// statusText returns the answer as it is written.
func (p *plugin) statusText(ctx context.Context, q statusQuestion, format string) ([]byte, tree.Tree, error) {
	t, err := p.statusTree(ctx, q)
	if err != nil {
		return nil, t, err
	}
	var b bytes.Buffer
	switch {
	case format != "":
		err = write(&b, format, t)
	case len(t.Issuers) == 0:
		_, _ = fmt.Fprintln(&b, nothing(q, len(t.Missing) > 0))
	default:
		err = draw.Tree(&b, t, p.style())
	}
	return b.Bytes(), t, err
}

// nothing says that there is nothing to show, and what to do.
func nothing(q statusQuestion, hidden bool) string {
	switch {
	case hidden && q.only == nil && q.namespace == "":
		return "You may not read what the operator has in all namespaces. Choose one with -n."
	case hidden && q.only == nil:
		return fmt.Sprintf("You may read nothing of the operator in namespace %q. Choose another with -n.", q.namespace)
	case q.only != nil && q.only.Kind == tree.KindPod:
		return fmt.Sprintf("Pod %q of namespace %q mounts no token and no bundle of the operator.\n"+
			"Annotate its template with m2m-operator.io/client or m2m-operator.io/verify, and recreate it.", q.only.Name, q.only.Namespace)
	case q.only != nil && q.only.Namespace == "":
		return fmt.Sprintf("%s %q does not exist, or you may not read it.", q.only.Kind, q.only.Name)
	case q.only != nil:
		return fmt.Sprintf("%s %q does not exist in namespace %q, or you may not read it. Choose another namespace with -n.", q.only.Kind, q.only.Name, q.only.Namespace)
	case q.namespace == "":
		return "There is nothing of the operator in this cluster. Begin with an AuthorizationServer, an APIResource and an M2MClient."
	}
	return fmt.Sprintf("There is nothing of the operator in namespace %q. Choose another with -n, or all with -A.", q.namespace)
}

func (p *plugin) statusTree(ctx context.Context, q statusQuestion) (tree.Tree, error) {
	c, err := p.client()
	if err != nil {
		return tree.Tree{}, err
	}
	ask := cluster.Question{Pods: true}
	if q.namespace != "" {
		ask.Namespaces = []string{q.namespace}
	}
	inv, missing, err := cluster.Reader{Client: c}.Read(ctx, ask)
	if err != nil {
		return tree.Tree{}, err
	}
	o := tree.Options{Namespace: q.namespace, Only: q.only, Now: p.now()}
	if q.only != nil && q.only.Kind == tree.KindPod {
		var pod corev1.Pod
		err := c.Get(ctx, types.NamespacedName{Namespace: q.only.Namespace, Name: q.only.Name}, &pod)
		switch {
		case apierrors.IsNotFound(err):
			return tree.Tree{}, fmt.Errorf("pod %q does not exist in namespace %q; choose another namespace with -n", q.only.Name, q.only.Namespace)
		case apierrors.IsForbidden(err):
			missing = append(missing, inventory.Right{Verb: "get", Resource: inventory.Pods, Namespace: q.only.Namespace})
		case err != nil:
			return tree.Tree{}, fmt.Errorf("get pod %q: %w", q.only.Name, err)
		default:
			o.Mounts = tree.MountsOf(&pod, inv)
		}
	}
	t := tree.Build(inv, o)
	t.Missing = missing
	return t, nil
}
