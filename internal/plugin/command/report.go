// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/build"
	"github.com/m2m-operator/m2m-operator/internal/plugin/installation"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/report"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Bounds of a report.
const (
	maxLogLines = 20_000   // of each container, the newest
	maxLogBytes = 64 << 20 // a guard: a kubelet that stops there leaves out the newest lines
)

func (p *plugin) report() *cobra.Command {
	var q checkQuestion
	var file string
	c := &cobra.Command{
		Use:   "report",
		Short: "Put everything that a maintainer needs to see into one archive, without secrets",
		Long: `Put everything that a maintainer needs to see into one archive, without secrets.

It has the operator's objects in all namespaces with their conditions, the operator's events,
Deployments, pods and logs, its webhook and policies, the metadata of its Secrets, and what
kubectl m2m check says. Only listed fields are shown; all other text is replaced by its length.
What you may not read is left out and listed. Look through it before you send it.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return p.writeReport(c.Context(), q, file) },
	}
	c.Flags().StringVarP(&file, "output", "o", "", "The new archive. By default m2m-report-TIME.tar.gz.")
	c.Flags().StringVar(&q.namespace, "operator-namespace", "m2m-operator-system", "The operator's namespace.")
	return c
}

func (p *plugin) writeReport(ctx context.Context, q checkQuestion, file string) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	g := &gatherer{plugin: p, client: c}
	if err := g.findings(ctx, q); err != nil {
		return err
	}
	for _, gather := range []func(context.Context, string) error{g.objects, g.installed, g.events, g.secrets, g.logs} {
		if err := gather(ctx, q.namespace); err != nil {
			return err
		}
	}
	if file == "" {
		file = "m2m-report-" + p.now().UTC().Format("20060102T150405Z") + ".tar.gz"
	}
	var b bytes.Buffer
	if err := g.report.Write(&b, p.now()); err != nil {
		return err
	}
	if err := p.writeNew(file, b.Bytes()); err != nil {
		return err
	}
	for _, m := range g.report.Missing() {
		_, _ = fmt.Fprintf(p.ErrOut, "Not in it: %s\n", text.Line(m))
	}
	_, err = fmt.Fprintf(p.Out, "Wrote %d files into %s. Look through it before you send it.\n", len(g.report.Names()), file)
	return err
}

// gatherer reads what a report consists of.
type gatherer struct {
	*plugin
	client client.Client
	report report.Report
}

// findings adds what check says, and the versions.
func (g *gatherer) findings(ctx context.Context, q checkQuestion) error {
	found, err := g.find(ctx, q)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		g.report.Miss("what kubectl m2m check says", err.Error())
		return nil
	}
	if err := g.report.Add("check.yaml", map[string]any{"findings": installation.Check(found, g.now())}); err != nil {
		return err
	}
	images := []map[string]string{}
	for i := range found.Deployments {
		for _, container := range found.Deployments[i].Spec.Template.Spec.Containers {
			images = append(images, map[string]string{"name": found.Deployments[i].Name, "image": container.Image})
		}
	}
	return g.report.Add("versions.yaml", map[string]any{
		"operators": images, "apiServer": map[string]string{"name": found.Version}, "plugin": map[string]string{"name": build.Read().Version + " " + build.Read().Revision},
	})
}

// list lists objects, or notes why that is not possible.
func (g *gatherer) list(ctx context.Context, what string, list client.ObjectList, add func(client.Object) error, opts ...client.ListOption) error {
	err := g.client.List(ctx, list, opts...)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case apierrors.IsForbidden(err):
		g.report.Miss(what, "you may not list them")
		return nil
	case err != nil:
		g.report.Miss(what, err.Error())
		return nil
	}
	return meta.EachListItem(list, func(o runtime.Object) error { return add(o.(client.Object)) })
}

// objects adds the objects of the operator's kinds.
func (g *gatherer) objects(ctx context.Context, _ string) error {
	for _, k := range []struct {
		kind string
		list client.ObjectList
	}{
		{"ClusterAuthorizationServer", &v1alpha1.ClusterAuthorizationServerList{}},
		{"AuthorizationServer", &v1alpha1.AuthorizationServerList{}},
		{"APIResource", &v1alpha1.APIResourceList{}},
		{"M2MClient", &v1alpha1.M2MClientList{}},
	} {
		add := func(o client.Object) error { return g.report.AddObject(k.kind, o) }
		if err := g.list(ctx, k.kind+"s", k.list, add); err != nil {
			return err
		}
	}
	return nil
}

// installed adds the operator's Deployments, pods, leases, webhooks and policies.
func (g *gatherer) installed(ctx context.Context, namespace string) error {
	in := client.InNamespace(namespace)
	for _, k := range []struct {
		kind string
		list client.ObjectList
		opts []client.ListOption
	}{
		{"Deployment", &appsv1.DeploymentList{}, []client.ListOption{in, ours}},
		{"Pod", &corev1.PodList{}, []client.ListOption{in, ours}},
		{"Lease", &coordinationv1.LeaseList{}, []client.ListOption{in}},
		{"MutatingWebhookConfiguration", &admissionv1.MutatingWebhookConfigurationList{}, []client.ListOption{ours}},
		{"ValidatingAdmissionPolicyBinding", &admissionv1.ValidatingAdmissionPolicyBindingList{}, []client.ListOption{ours}},
	} {
		add := func(o client.Object) error {
			return g.report.Add("operator/"+strings.ToLower(k.kind)+"s/"+o.GetName()+".yaml", o)
		}
		if err := g.list(ctx, "the operator's "+k.kind+"s", k.list, add, k.opts...); err != nil {
			return err
		}
	}
	return nil
}

// events adds the events that the operator recorded, by namespace.
func (g *gatherer) events(ctx context.Context, _ string) error {
	byNamespace := map[string][]client.Object{}
	err := g.list(ctx, "events", &eventsv1.EventList{}, func(o client.Object) error {
		if strings.HasPrefix(o.(*eventsv1.Event).ReportingController, "m2m-") {
			byNamespace[o.GetNamespace()] = append(byNamespace[o.GetNamespace()], o)
		}
		return nil
	})
	for namespace, all := range byNamespace {
		err = errors.Join(err, g.report.Add("events/"+namespace+".yaml", all))
	}
	return err
}

// secrets adds the metadata of the operator's Secrets and ConfigMaps. Their contents are not
// even read.
func (g *gatherer) secrets(ctx context.Context, _ string) error {
	for _, kind := range []string{"Secret", "ConfigMap"} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(inventory.Metadata(kind + "List").GroupVersionKind())
		add := func(o client.Object) error {
			return g.report.Add("metadata/"+strings.ToLower(kind)+"s/"+o.GetNamespace()+"/"+o.GetName()+".yaml", map[string]any{"metadata": o.(*metav1.PartialObjectMetadata).ObjectMeta})
		}
		if err := g.list(ctx, "the metadata of the operator's "+kind+"s", list, add, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}); err != nil {
			return err
		}
	}
	return nil
}

// logs adds the logs of the operator's containers, also of those that ended before.
func (g *gatherer) logs(ctx context.Context, namespace string) error {
	cfg, err := g.config.ToRESTConfig()
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	all := &corev1.PodList{}
	err = g.list(ctx, "the operator's pods", all, func(o client.Object) error {
		for _, container := range o.(*corev1.Pod).Spec.Containers {
			name := fmt.Sprintf("operator/logs/%s-%s", o.GetName(), container.Name)
			pods := kube.CoreV1().Pods(namespace)
			g.log(ctx, name+".log", pods.GetLogs(o.GetName(), logOptions(container.Name, false)), false)
			g.log(ctx, name+"-previous.log", pods.GetLogs(o.GetName(), logOptions(container.Name, true)), true)
		}
		return ctx.Err()
	}, client.InNamespace(namespace), ours)
	if listed := all.ResourceVersion != ""; listed && len(all.Items) == 0 {
		g.report.Miss("the operator's log", fmt.Sprintf("no pod in namespace %q has the label app.kubernetes.io/name=m2m-operator; "+
			"name another namespace with --operator-namespace, or send the log of an operator outside of the cluster as well", namespace))
	}
	return err
}

func logOptions(container string, previous bool) *corev1.PodLogOptions {
	lines, bound := int64(maxLogLines), int64(maxLogBytes)
	return &corev1.PodLogOptions{Container: container, Previous: previous, TailLines: &lines, LimitBytes: &bound}
}

// log adds one log. Most containers have no previous one.
func (g *gatherer) log(ctx context.Context, name string, request *rest.Request, optional bool) {
	stream, err := request.Stream(ctx)
	if err != nil {
		if !optional {
			g.report.Miss(name, err.Error())
		}
		return
	}
	log, err := io.ReadAll(io.LimitReader(stream, maxLogBytes))
	if err := errors.Join(err, stream.Close()); err != nil {
		g.report.Miss(name, err.Error())
	}
	if len(log) == maxLogBytes {
		g.report.Miss(name, "its newest lines: the log is too long")
	}
	g.report.AddLog(name, string(log))
}
