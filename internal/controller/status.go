// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// condition is a condition before it has times and generations.
type condition metav1.Condition

func isTrue(conditionType, reason, message string) condition {
	return condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

func isFalse(conditionType, reason, message string) condition {
	return condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

func conditionOf(conditionType string, p *rules.Problem) condition {
	c := isFalse(conditionType, p.Reason, p.Message)
	if p.Unknown {
		c.Status = metav1.ConditionUnknown
	}
	return c
}

// asReady returns the same statement as the condition Ready.
func (c condition) asReady() condition {
	c.Type = v1alpha1.ConditionReady
	return c
}

// setConditions writes conditions that speak of a generation. What did not
// change keeps its transition time.
func setConditions(conditions *[]metav1.Condition, generation int64, cs ...condition) {
	for _, c := range cs {
		c.ObservedGeneration, c.Message = generation, oneLine(c.Message)
		meta.SetStatusCondition(conditions, metav1.Condition(c))
	}
}

// setOrRemove writes a condition that not every object has; an empty one is
// taken away.
func setOrRemove(conditions *[]metav1.Condition, generation int64, conditionType string, c condition) {
	if c.Type == "" {
		meta.RemoveStatusCondition(conditions, conditionType)
		return
	}
	setConditions(conditions, generation, c)
}

// tellTransitions records an event for every condition that newly says, or says
// anew for another reason, that something is wrong, and one when the object
// becomes ready.
func tellTransitions(events recorder.EventRecorder, obj client.Object, action string, before, after []metav1.Condition) {
	var told []string
	for _, is := range after {
		was := meta.FindStatusCondition(before, is.Type)
		changed := was == nil || was.Status != is.Status || was.Reason != is.Reason
		switch {
		case is.Type == v1alpha1.ConditionReady && is.Status == metav1.ConditionTrue && changed:
			events.Eventf(obj, nil, corev1.EventTypeNormal, is.Reason, action, "%s", is.Message)
		case is.Reason == v1alpha1.ReasonDistributing: // a bundle on its way is nothing to warn of
		case is.Status == metav1.ConditionFalse && changed && !slices.Contains(told, is.Reason):
			told = append(told, is.Reason)
			events.Eventf(obj, nil, corev1.EventTypeWarning, is.Reason, action, "%s", is.Message)
		}
	}
}

// requestsFor lists objects from the cache and returns a request for each.
func requestsFor(ctx context.Context, c client.Reader, list client.ObjectList, opts ...client.ListOption) []reconcile.Request {
	// A list need not wait for our own writes: what it misses has its own event.
	opts = append(opts, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err := c.List(ctx, list, opts...); err != nil {
		log.FromContext(ctx).Error(err, "Failed to list from the cache")
		return nil
	}
	var requests []reconcile.Request
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		m := o.(client.Object)
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}})
		return nil
	})
	return requests
}

// timeOf returns a time as a status holds it: in whole seconds, nil for none.
func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.Truncate(time.Second)}
}

// momentOf returns the time that a status holds, zero for none.
func momentOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}
