// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/progress"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// waiter follows objects until the operator has done what was requested, or has failed.
type waiter struct {
	*plugin
	client  client.Client
	request request
	last    map[string]progress.Progress // by the object's name
	waited  map[string]time.Time         // when the operator was last seen not to have finished, by the object's name
	failed  bool
	pods    map[string]podsOf    // by namespace, of one round
	clients map[string]clientsOf // by namespace, of one round
	several map[string]int       // how many clients are followed, by namespace
}

func newWaiter(p *plugin, c client.Client, r request) *waiter {
	w := &waiter{plugin: p, client: c, request: r, last: map[string]progress.Progress{}, waited: map[string]time.Time{}, several: map[string]int{}}
	for _, o := range r.objects {
		if _, ok := o.(*v1alpha1.M2MClient); ok {
			w.several[o.GetNamespace()]++
		}
	}
	return w
}

// podsOf are the pods of a namespace, unless the user may not list them.
type podsOf struct {
	pods   []*metav1.PartialObjectMetadata
	hidden bool
}

// clientsOf are the clients of a namespace by name, unless the user may not list them.
type clientsOf struct {
	clients map[string]*v1alpha1.M2MClient
	hidden  bool
}

// waiterInterval is how often objects are looked at.
const waiterInterval = time.Second

// errDone ends the looking.
var errDone = errors.New("done")

func (w *waiter) run(ctx context.Context, timeout time.Duration) error {
	open := w.request.objects
	err := every(ctx, waiterInterval, func() error {
		var still []client.Object
		w.pods, w.clients = map[string]podsOf{}, map[string]clientsOf{}
		for _, o := range open {
			done, err := w.look(ctx, o)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			if !done {
				still = append(still, o)
			}
		}
		if open = still; len(open) == 0 {
			return errDone
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDone) {
		return err
	}
	for _, o := range open {
		last, ok := w.last[nameOf(o)]
		if !ok {
			last = progress.NotSeen
		}
		w.say(o, "gave up after "+timeout.String()+": "+last.Says)
		w.advise(last)
		w.failed = true
	}
	if w.failed {
		return &Exit{CodeNo}
	}
	return nil
}

// look looks at an object once, and reports whether there is nothing more to wait for.
func (w *waiter) look(ctx context.Context, o client.Object) (done bool, err error) {
	switch err := w.get(ctx, o); {
	case apierrors.IsNotFound(err):
		w.failed = true
		w.say(o, "it was deleted")
		return true, nil
	case err != nil:
		return false, w.explain(err, inventory.Right{Verb: "get", Resource: inventory.ResourceOf(o), Namespace: o.GetNamespace(), Name: o.GetName()})
	}
	now := w.request.progress(o, w.request.value)
	if now.State == progress.Waiting {
		// The status follows the Secret: the Secret may have changed a moment ago.
		w.waited[nameOf(o)] = w.now().Add(-waiterInterval)
	}
	if c, ok := o.(*v1alpha1.M2MClient); ok && now.State == progress.Done {
		pods, err := w.delivered(ctx, c)
		if err != nil {
			return false, err
		}
		now = progress.Progress{State: pods.State, Says: now.Says + "; " + pods.Says, Advice: pods.Advice}
	}
	if w.last[nameOf(o)].Says != now.Says {
		w.say(o, now.Says)
	}
	w.last[nameOf(o)] = now
	if now.State == progress.Failed {
		w.failed = true
		w.advise(now)
	}
	return now.State != progress.Waiting, nil
}

// get reads an object anew. Clients of a namespace of which several are followed are listed once in a round.
func (w *waiter) get(ctx context.Context, o client.Object) error {
	c, ok := o.(*v1alpha1.M2MClient)
	if !ok || w.several[c.Namespace] < 2 {
		return w.client.Get(ctx, client.ObjectKeyFromObject(o), o)
	}
	found, ok := w.clients[c.Namespace]
	if !ok {
		list := &v1alpha1.M2MClientList{}
		err := w.client.List(ctx, list, client.InNamespace(c.Namespace))
		if err != nil && !apierrors.IsForbidden(err) {
			return err
		}
		found = clientsOf{clients: map[string]*v1alpha1.M2MClient{}, hidden: err != nil}
		for i := range list.Items {
			found.clients[list.Items[i].Name] = &list.Items[i]
		}
		w.clients[c.Namespace] = found
	}
	switch now := found.clients[c.Name]; {
	case found.hidden:
		return w.client.Get(ctx, client.ObjectKeyFromObject(o), o)
	case now == nil:
		return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("m2mclients").GroupResource(), c.Name)
	default:
		*c = *now
	}
	return nil
}

// say writes a line about an object, which may quote what others wrote.
func (w *waiter) say(o client.Object, what string) {
	_, _ = fmt.Fprintf(w.Out, "%s: %s\n", nameOf(o), text.Line(what))
}

func (w *waiter) advise(at progress.Progress) {
	if at.Advice != "" {
		_, _ = fmt.Fprintf(w.Out, "  → %s\n", at.Advice)
	}
}

// delivered reports whether a client's pods have its new tokens.
func (w *waiter) delivered(ctx context.Context, c *v1alpha1.M2MClient) (progress.Progress, error) {
	found, ok := w.pods[c.Namespace]
	if !ok {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(inventory.Metadata("PodList").GroupVersionKind())
		err := w.client.List(ctx, list, client.InNamespace(c.Namespace))
		if err != nil && !apierrors.IsForbidden(err) {
			return progress.Progress{}, fmt.Errorf("list pods: %w", err)
		}
		found.hidden = err != nil
		for i := range list.Items {
			found.pods = append(found.pods, &list.Items[i])
		}
		w.pods[c.Namespace] = found
	}
	if found.hidden {
		return progress.Progress{State: progress.Done, Says: "you may not list pods, so whether they have it is not known"}, nil
	}
	return progress.Pods(c, found.pods, w.waited[nameOf(c)], w.now()), nil
}
