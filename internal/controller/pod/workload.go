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

// WorkloadReconciler records an event on workloads of one kind whose labels or annotations
// have no effect where they are. Their pods start without what they need, and nothing else
// would say so.
type WorkloadReconciler struct {
	Kind   string
	Empty  client.Object // of the kind
	Client client.Client
	Clock  clock.PassiveClock
	Events recorder.EventRecorder

	Watched watch.Namespaces

	Told toldPods
}

// Reconcile records events about what is misplaced on a workload.
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

// misplacedWait returns what is misplaced on a pod or workload, and where it belongs. It is
// one wait for all of it: a second event about the same object would only increase the
// count of the first.
func misplacedWait(o client.Object, belongs string) []wait {
	found := o.GetAnnotations()[cached.MisplacedMark]
	if found == "" {
		return nil
	}
	return []wait{{
		reason: v1alpha1.ReasonMisplaced, about: o, cause: found,
		message: fmt.Sprintf("No effect here: %s; %s", strings.ReplaceAll(found, ",", ", "), belongs),
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
