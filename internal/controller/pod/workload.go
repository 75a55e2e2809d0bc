// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// WorkloadReconciler tells the workloads of one kind of labels and annotations that do
// nothing on them, by an event: their pods start without what they need, and nothing
// else would say so.
type WorkloadReconciler struct {
	Kind   string
	Empty  client.Object // of the kind
	Client client.Client
	Clock  clock.PassiveClock
	Events recorder.EventRecorder

	Watched watch.Namespaces

	Told toldPods
}

// Reconcile tells a workload what is misplaced on it.
func (r *WorkloadReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	o := r.Empty.DeepCopyObject().(client.Object)
	if err := r.Client.Get(ctx, req.NamespacedName, o); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.Told.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	path := "spec.template.metadata.annotations"
	if r.Kind == "CronJob" {
		path = "spec.jobTemplate." + path
	}
	waits := misplacedWait(o, "write it on the pod template, in "+path)
	return ctrl.Result{RequeueAfter: r.Told.tell(r.Events, o, waits, r.Clock.Now())}, nil
}

// misplacedWait says which labels and annotations are misplaced on a pod or workload,
// and where they belong: in one event, for of two about the same object the later one
// only counts the first one up.
func misplacedWait(o client.Object, belongs string) []wait {
	found := o.GetAnnotations()[cached.MisplacedMark]
	if found == "" {
		return nil
	}
	return []wait{{
		reason: v1alpha1.ReasonMisplaced, about: o, cause: found,
		message: fmt.Sprintf("Of no use here: %s; %s", strings.ReplaceAll(found, ",", ", "), belongs),
	}}
}

// SetupWithManager watches the workloads of the kind on which something is misplaced.
func (r *WorkloadReconciler) SetupWithManager(mgr ctrl.Manager) error {
	mark := func(o client.Object) string { return o.GetAnnotations()[cached.MisplacedMark] }
	return ctrl.NewControllerManagedBy(mgr).
		Named(strings.ToLower(r.Kind)).
		For(r.Empty, builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(e event.CreateEvent) bool { return mark(e.Object) != "" },
			UpdateFunc: func(e event.UpdateEvent) bool { return mark(e.ObjectOld) != mark(e.ObjectNew) },
			DeleteFunc: func(e event.DeleteEvent) bool { return mark(e.Object) != "" },
		})).
		WithOptions(controller.Options{NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}
