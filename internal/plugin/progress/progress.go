// SPDX-License-Identifier: Apache-2.0

// Package progress says how far the operator is with a request that somebody made by an
// annotation: to refresh an object, or to replace a client's secret. It is pure: the object,
// its pods and the time are arguments.
package progress

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// State says how far a request is.
type State string

// The states of a request.
const (
	Waiting State = "Waiting"
	Done    State = "Done"
	Failed  State = "Failed" // the operator tried, and goes on trying
)

// Progress is how far a request is, in words.
type Progress struct {
	State  State
	Says   string
	Advice string // what to do if it failed, or if it goes no further
}

// NotSeen is the progress of a request that the operator has not acted on.
var NotSeen = Progress{State: Waiting, Says: "the operator has not acted on it yet", Advice: "Check that the operator runs and watches the namespace: kubectl m2m check"}

// Refresh says how far the refresh of an object is that was requested with a value.
func Refresh(o client.Object, value string) Progress {
	switch o := o.(type) {
	case *v1alpha1.M2MClient:
		return ofClient(o, value)
	case *v1alpha1.APIResource:
		if o.Status.Provisioning.LastHandledRefreshAt != value {
			return waiting(o.Status.Conditions, v1alpha1.ConditionProvisioned)
		}
		return judged(o.Status.Conditions, "it was compared with its server", v1alpha1.ConditionProvisioned)
	case *v1alpha1.AuthorizationServer:
		return ofServer(&o.Status, value)
	case *v1alpha1.ClusterAuthorizationServer:
		return ofServer(&o.Status, value)
	}
	return NotSeen
}

func ofServer(st *v1alpha1.AuthorizationServerStatus, value string) Progress {
	if st.LastHandledRefreshAt != value {
		return NotSeen
	}
	return judged(st.Conditions, "the server was asked", v1alpha1.ConditionDiscovered, v1alpha1.ConditionKeysFresh, v1alpha1.ConditionProvisioningReady)
}

// ofClient judges the tokens first: they are what the request is for.
func ofClient(c *v1alpha1.M2MClient, value string) Progress {
	if c.Status.LastHandledRefreshAt == value {
		if p := judged(c.Status.Conditions, "", v1alpha1.ConditionFresh); p.State == Failed {
			return p
		}
		if access.Registered(c) && c.Status.Provisioning.LastHandledRefreshAt != value {
			return waiting(c.Status.Conditions, v1alpha1.ConditionProvisioned)
		}
		return judged(c.Status.Conditions, newTokens(c), v1alpha1.ConditionFresh, v1alpha1.ConditionProvisioned)
	}
	for _, t := range c.Status.Tokens {
		if t.Pending.Since != nil {
			says := fmt.Sprintf("a new token %q waits until the API's pods have the key %q", t.Key, t.Pending.KeyID)
			if t.Pending.PublishAt != nil {
				says += fmt.Sprintf(", at most until %s", clock(t.Pending.PublishAt))
			}
			return Progress{State: Waiting, Says: says}
		}
	}
	return waiting(c.Status.Conditions, v1alpha1.ConditionFresh)
}

// newTokens says where the tokens are and how long they live.
func newTokens(c *v1alpha1.M2MClient) string {
	if c.Status.ExpiresAt == nil {
		return "the client has no token"
	}
	what := "a new token is"
	if len(c.Status.Tokens) > 1 {
		what = fmt.Sprintf("%d new tokens are", len(c.Status.Tokens))
	}
	return fmt.Sprintf("%s in Secret %s until %s", what, c.SecretName(), clock(c.Status.ExpiresAt))
}

func clock(t *metav1.Time) string { return t.UTC().Format("15:04:05Z") }

// Rotation says how far the replacement of a registered client's secret is that was requested
// with a value. It is done when every token was issued to the new secret.
func Rotation(c *v1alpha1.M2MClient, value string) Progress {
	st := c.Status.Provisioning
	switch {
	case st.LastHandledRotation != value && st.Failure.Reason != "":
		return Progress{State: Waiting, Says: st.Failure.Reason + ": " + st.Failure.Message, Advice: tree.Advice(st.Failure.Reason)}
	case st.LastHandledRotation != value:
		return waiting(c.Status.Conditions, v1alpha1.ConditionProvisioned)
	}
	if p := judged(c.Status.Conditions, "", v1alpha1.ConditionFresh); p.State == Failed {
		return p
	}
	for _, t := range c.Status.Tokens {
		if t.IssuedAt == nil || st.Credential.IssuedAt != nil && t.IssuedAt.Before(st.Credential.IssuedAt) {
			return Progress{State: Waiting, Says: fmt.Sprintf("the new secret %s is in use; token %q is being replaced", st.Credential.Name, t.Key)}
		}
	}
	return Progress{State: Done, Says: fmt.Sprintf("the new secret %s is in use; %s", st.Credential.Name, newTokens(c))}
}

// waiting says that the operator has not finished, and what a condition says of it.
func waiting(conditions []metav1.Condition, conditionType string) Progress {
	c := meta.FindStatusCondition(conditions, conditionType)
	if c == nil || c.Status == metav1.ConditionTrue {
		return NotSeen
	}
	return told(Waiting, *c, conditions)
}

// told says what a condition says, or the one that it repeats.
func told(state State, c metav1.Condition, all []metav1.Condition) Progress {
	c = tree.Cause(c, all)
	return Progress{State: state, Says: c.Reason + ": " + c.Message, Advice: tree.AdviceOn(c, all)}
}

// judged says what came of a request by the object's conditions. A condition that an object
// does not have says nothing.
func judged(conditions []metav1.Condition, done string, types ...string) Progress {
	for _, t := range types {
		if c := meta.FindStatusCondition(conditions, t); c != nil && c.Status == metav1.ConditionFalse {
			return told(Failed, *c, conditions)
		}
	}
	return Progress{State: Done, Says: done}
}

// Pods says how many of the client's injected pods have the tokens that are in its Secret. It
// counts as the operator does: a pod has seen a change if it was created or touched since, or
// if the kubelet has looked since by itself. A token may have been held after it was issued:
// waited is when the operator was last seen not to have finished, so the Secret changed later.
func Pods(c *v1alpha1.M2MClient, pods []*metav1.PartialObjectMetadata, waited, now time.Time) Progress {
	since := waited
	for _, t := range c.Status.Tokens {
		if t.IssuedAt != nil && t.IssuedAt.After(since) {
			since = t.IssuedAt.Time
		}
	}
	have, of := 0, 0
	for _, pod := range pods {
		mounts := strings.Split(pod.Annotations[v1alpha1.InjectedAnnotation], ",")
		if pod.Namespace != c.Namespace || !pod.DeletionTimestamp.IsZero() || !slices.Contains(mounts, "secret/"+c.SecretName()) {
			continue
		}
		of++
		seen := delivery.Pod{
			Created: pod.CreationTimestamp.Time, Touched: delivery.ParseMoment(pod.Annotations[v1alpha1.TouchedAtAnnotation]), Touchable: true,
		}
		if delivery.Settled(since, now) || !seen.Sees(since, now).After(now) {
			have++
		}
	}
	switch {
	case of == 0:
		return Progress{State: Done, Says: "no injected pod mounts it"}
	case have < of:
		return Progress{State: Waiting, Says: fmt.Sprintf("%d of %d pods have it", have, of), Advice: fmt.Sprintf("Wait: a kubelet shows a changed Secret within %s by itself", delivery.KubeletDelay)}
	}
	return Progress{State: Done, Says: fmt.Sprintf("%d of %d pods have it", have, of)}
}
