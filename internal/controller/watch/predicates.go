// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// IsAccepted reports whether an APIResource's status says that it is accepted.
func IsAccepted(o client.Object) bool {
	return meta.IsStatusConditionTrue(o.(*v1alpha1.APIResource).Status.Conditions, v1alpha1.ConditionAccepted)
}

// ChangedOrDeleted passes the changes of an object that matter to its provisioning: spec,
// annotations, finalizers and deletion.
var ChangedOrDeleted = predicate.Or(
	predicate.GenerationChangedPredicate{},
	predicate.AnnotationChangedPredicate{},
	Updates(func(before, after client.Object) bool {
		return !equality.Semantic.DeepEqual(before.GetDeletionTimestamp(), after.GetDeletionTimestamp()) ||
			!equality.Semantic.DeepEqual(before.GetFinalizers(), after.GetFinalizers())
	}))

// ProvisioningChanged passes the changes of a server that matter to what is provisioned at
// it: spec, endpoints, and whether provisioning works.
var ProvisioningChanged = predicate.Or(
	predicate.GenerationChangedPredicate{},
	Updates(func(before, after client.Object) bool {
		ready := func(o client.Object) bool {
			return meta.IsStatusConditionTrue(record.StatusOf(o).Conditions, v1alpha1.ConditionProvisioningReady)
		}
		return record.StatusOf(before).Endpoints != record.StatusOf(after).Endpoints || ready(before) != ready(after)
	}))

// Updates passes the updates that a function selects, and no other events. It is meant to
// be combined with another predicate by predicate.Or.
func Updates(pass func(before, after client.Object) bool) predicate.Predicate {
	none := func(event.TypedGenericEvent[client.Object]) bool { return false }
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: none,
		UpdateFunc:  func(e event.UpdateEvent) bool { return pass(e.ObjectOld, e.ObjectNew) },
	}
}

// AcceptedChanged passes updates by which an APIResource becomes accepted, or stops being so.
var AcceptedChanged = Updates(func(before, after client.Object) bool { return IsAccepted(before) != IsAccepted(after) })

// EnforcedChanged passes the changes of an APIResource that matter to its policies at
// gateways: those of its spec, and of whether it is accepted and why not.
var EnforcedChanged = predicate.Or(predicate.GenerationChangedPredicate{}, Updates(func(before, after client.Object) bool {
	accepted := func(o client.Object) (is metav1.Condition) {
		if c := meta.FindStatusCondition(o.(*v1alpha1.APIResource).Status.Conditions, v1alpha1.ConditionAccepted); c != nil {
			is = *c
		}
		return is
	}
	was, is := accepted(before), accepted(after)
	return was.Status != is.Status || was.Reason != is.Reason
}))

// ComparedAPI passes updates after which an APIResource's status says something else about
// what its server has of the API.
var ComparedAPI = Updates(func(before, after client.Object) bool {
	return provisionedDiffers(before.(*v1alpha1.APIResource), after.(*v1alpha1.APIResource))
})

// NotJustCompared drops updates of an APIResource in which neither the spec nor the status
// has changed, apart from the time of the last comparison with its server.
var NotJustCompared = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.(*v1alpha1.APIResource), e.ObjectNew.(*v1alpha1.APIResource)
	was, is := before.Status, after.Status
	was.Provisioning.SyncedAt, is.Provisioning.SyncedAt = nil, nil
	was.Provisioning.LastHandledRefreshAt, is.Provisioning.LastHandledRefreshAt = "", ""
	return before.Generation != after.Generation || provisionedDiffers(before, after) || !equality.Semantic.DeepEqual(was, is)
}}

// NotJustAsked drops updates of an authorization server in which neither the spec nor the
// status has changed, apart from a request to ask the server now.
var NotJustAsked = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	was, is := *record.StatusOf(e.ObjectOld), *record.StatusOf(e.ObjectNew)
	was.LastHandledRefreshAt, is.LastHandledRefreshAt = "", ""
	return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() || !equality.Semantic.DeepEqual(was, is)
}}

func provisionedDiffers(before, after *v1alpha1.APIResource) bool {
	was, is := before.Status.Provisioning, after.Status.Provisioning
	was.SyncedAt, is.SyncedAt = nil, nil
	was.LastHandledRefreshAt, is.LastHandledRefreshAt = "", ""
	return (before.Status.Provisioning.SyncedAt == nil) != (after.Status.Provisioning.SyncedAt == nil) || !equality.Semantic.DeepEqual(was, is)
}
