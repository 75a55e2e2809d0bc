// SPDX-License-Identifier: Apache-2.0

// Package conditions builds the conditions of a status, writes them so that a
// transition time changes only with the condition, and records an event when a
// condition begins to report a problem. The reconcilers that write a status use it.
// It does not decide what a condition says: the caller passes status, reason and
// message.
package conditions

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Condition is a condition without transition time and generation, which Set adds.
type Condition metav1.Condition

// True returns a condition with status True.
func True(conditionType, reason, message string) Condition {
	return Condition{Type: conditionType, Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

// False returns a condition with status False.
func False(conditionType, reason, message string) Condition {
	return Condition{Type: conditionType, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}

// Of returns the condition that reports a problem: False, or Unknown if the problem may
// be temporary.
func Of(conditionType string, p *rules.Problem) Condition {
	c := False(conditionType, p.Reason, p.Message)
	if p.Unknown {
		c.Status = metav1.ConditionUnknown
	}
	return c
}

// messageLimit bounds, in characters, the message of a condition that quotes another.
const messageLimit = 1024

// Though returns a condition that stays True although another one fails. Its message says how
// the object goes on, such as until when, and quotes the failure. It changes only if one of
// these does, so a status is written no more often for it.
func (c Condition) Though(goesOn string, failing Condition) Condition {
	c.Message = text.CutRunes(goesOn+": "+failing.Message, messageLimit)
	return c
}

// AsReady returns the same statement as the condition Ready.
func (c Condition) AsReady() Condition {
	c.Type = v1alpha1.ConditionReady
	return c
}

// Set writes conditions that were observed for a generation. A condition whose status did
// not change keeps its transition time.
func Set(conditions *[]metav1.Condition, generation int64, cs ...Condition) {
	for _, c := range cs {
		c.ObservedGeneration, c.Message = generation, text.Line(c.Message)
		meta.SetStatusCondition(conditions, metav1.Condition(c))
	}
}

// SetOrRemove writes a condition that not every object has. If c is empty, it removes the
// condition of that type.
func SetOrRemove(conditions *[]metav1.Condition, generation int64, conditionType string, c Condition) {
	if c.Type == "" {
		meta.RemoveStatusCondition(conditions, conditionType)
		return
	}
	Set(conditions, generation, c)
}

// RecordTransitions records a warning for each condition that has become False, or is False
// for another reason than before, and an event when the object becomes ready.
func RecordTransitions(events recorder.EventRecorder, obj client.Object, action string, before, after []metav1.Condition) {
	var told []string
	for _, is := range after {
		was := meta.FindStatusCondition(before, is.Type)
		changed := was == nil || was.Status != is.Status || was.Reason != is.Reason
		switch {
		case is.Type == v1alpha1.ConditionReady && is.Status == metav1.ConditionTrue && changed:
			events.Eventf(obj, nil, corev1.EventTypeNormal, is.Reason, action, "%s", is.Message)
		case is.Reason == v1alpha1.ReasonDistributing, is.Reason == v1alpha1.ReasonEnforcing: // what is on its way is nothing to warn of
		case is.Status == metav1.ConditionFalse && changed && !slices.Contains(told, is.Reason):
			told = append(told, is.Reason)
			events.Eventf(obj, nil, corev1.EventTypeWarning, is.Reason, action, "%s", is.Message)
		}
	}
}
