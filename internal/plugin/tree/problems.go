// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// ProblemsOf returns what conditions complain about: what decides comes first, what may pass
// by itself comes after what does not, and the summary comes last and only if it adds something.
func ProblemsOf(conditions []metav1.Condition) []Problem {
	var told []metav1.Condition
	var ready *metav1.Condition
	for i := range conditions {
		c := Cause(conditions[i], conditions)
		switch {
		case c.Status == metav1.ConditionTrue:
			continue
		case c.Status == metav1.ConditionUnknown && (c.Reason == v1alpha1.ReasonOpaqueToken || c.Reason == v1alpha1.ReasonNoToken):
			continue // nothing is wrong
		case c.Type == v1alpha1.ConditionReady:
			ready = &conditions[i]
			continue
		case slices.ContainsFunc(told, func(t metav1.Condition) bool { return t.Reason == c.Reason && t.Message == c.Message }):
			continue // said before, of the condition that it began with
		}
		told = append(told, c)
	}
	slices.SortStableFunc(told, func(a, b metav1.Condition) int { return cmp.Compare(weight(a, ready), weight(b, ready)) })
	if ready != nil && !slices.ContainsFunc(told, func(t metav1.Condition) bool { return t.Reason == ready.Reason || t.Message == ready.Message }) {
		told = append(told, *ready)
	}
	var problems []Problem
	for _, c := range told {
		problems = append(problems, Problem{c.Type, c.Reason, c.Message, AdviceOn(c, conditions)})
	}
	return problems
}

// weight orders conditions that are not True. Ready repeats the reason and the message of the one that decides.
func weight(c metav1.Condition, ready *metav1.Condition) int {
	switch {
	case ready != nil && c.Reason == ready.Reason && c.Message == ready.Message:
		return 0
	case c.Status == metav1.ConditionFalse:
		return 1
	}
	return 2
}

// Cause returns the condition of the same object that c repeats, or c itself. Fresh calls every withdrawal NotGranted and
// repeats the message of Granted. Granted has the reason.
func Cause(c metav1.Condition, all []metav1.Condition) metav1.Condition {
	granted := meta.FindStatusCondition(all, v1alpha1.ConditionGranted)
	if c.Type == v1alpha1.ConditionFresh && c.Reason == v1alpha1.ReasonNotGranted &&
		granted != nil && granted.Status == metav1.ConditionFalse && granted.Message == c.Message {
		return *granted
	}
	return c
}

// before are the conditions without which another one cannot become True, however long one waits.
var before = map[string][]string{
	v1alpha1.ConditionDistributed: {v1alpha1.ConditionAccepted},
	v1alpha1.ConditionProvisioned: {v1alpha1.ConditionAccepted, v1alpha1.ConditionGranted},
	v1alpha1.ConditionFresh:       {v1alpha1.ConditionGranted, v1alpha1.ConditionProvisioned},
}

// AdviceOn says what to do about a condition that is not True. It does not advise waiting if another condition of the
// object shows that waiting cannot help.
func AdviceOn(c metav1.Condition, all []metav1.Condition) string {
	c = Cause(c, all)
	text := Advice(c.Reason)
	switch {
	case c.Type == v1alpha1.ConditionFresh && c.Reason == v1alpha1.ReasonNotGranted:
		// Granted names another access than the one that is not allowed here.
		return "The access is not allowed; kubectl m2m why shows the line that decides"
	case strings.HasPrefix(text, wait):
		for _, t := range before[c.Type] {
			if meta.IsStatusConditionFalse(all, t) {
				return "It goes on when the condition " + t + " is True"
			}
		}
	}
	return text
}
