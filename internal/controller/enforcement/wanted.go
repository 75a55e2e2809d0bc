// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// basis is what all entries of an APIResource have in common.
type basis struct {
	api *v1alpha1.APIResource
	srv *rules.Server
	// problem keeps tokens from being checked as the spec says. If it is a decision,
	// gateways refuse every request. Otherwise what they were told stays, and a new
	// entry refuses every request.
	problem *rules.Problem
	decided bool
	bundle  render.Bundle
}

// basisOf reads what all entries depend on. That an APIResource is accepted is read from
// its status, where package apiresource has written it.
func (r *Reconciler) basisOf(ctx context.Context, api *v1alpha1.APIResource) (basis, error) {
	b := basis{api: api}
	accepted := meta.FindStatusCondition(api.Status.Conditions, v1alpha1.ConditionAccepted)
	switch {
	case accepted == nil:
		b.problem = &rules.Problem{Reason: v1alpha1.ReasonNotAccepted, Message: "The APIResource is not judged yet"}
		return b, nil
	case accepted.Status != metav1.ConditionTrue:
		b.problem = &rules.Problem{Reason: v1alpha1.ReasonNotAccepted, Message: "The APIResource is not accepted"}
		b.decided = rules.Decided(accepted.Reason)
		return b, nil
	}
	srv, unresolved, err := r.Access.Server(ctx, api.Spec.AuthorizationServerRef, api.Namespace)
	if err != nil {
		return b, err
	}
	switch {
	case unresolved != nil:
		b.problem, b.decided = unresolved, unresolved.Decided()
		return b, nil
	case srv.Opaque():
		b.problem = &rules.Problem{Reason: v1alpha1.ReasonOpaqueToken, Message: fmt.Sprintf(
			"The tokens of %s %q are opaque, so no gateway can check them", srv.Key().Kind, srv.Key().Name)}
		b.decided = true
		return b, nil
	case !srv.KeysKnown():
		b.problem = &rules.Problem{Reason: v1alpha1.ReasonNoKeys, Message: fmt.Sprintf(
			"No signing key of %s %q is known yet", srv.Key().Kind, srv.Key().Name)}
		return b, nil
	}
	b.srv, b.bundle = srv, verification.BundleOf(api, srv)
	return b, nil
}

// wanted is what an entry's objects should be.
type wanted struct {
	entry  enforcement.Entry
	policy enforcement.Policy
	// problem is why requests are refused, or why nothing changes. If it is nil, tokens are
	// checked.
	problem *rules.Problem
	// keep leaves the objects of the entry as they are, if it has any.
	keep     bool
	contents render.Contents
	drain    time.Duration // how long keys stay in a spare place
}

// termsClosed are the terms of a policy that refuses every request.
const termsClosed = "closed"

// wantedOf returns what an entry's objects should be.
func (b basis) wantedOf(e *v1alpha1.Enforcement) wanted {
	w := wanted{entry: entryOf(b.api, e), contents: render.Contents{Terms: termsClosed}, drain: verification.DrainOf(e)}
	w.policy = enforcement.Closed(w.entry)
	switch {
	case b.problem != nil:
		w.problem, w.keep = b.problem, !b.decided
		return w
	default:
		open, err := enforcement.Open(b.bundle, w.entry)
		if err != nil {
			w.problem = &rules.Problem{Reason: v1alpha1.ReasonNotEnforceable, Message: err.Error()}
			return w
		}
		w.policy, w.contents = open, verification.EnforcedContents(b.api, b.srv, e)
	}
	return w
}

// entryOf turns an entry of the spec into the values of package enforcement.
func entryOf(api *v1alpha1.APIResource, e *v1alpha1.Enforcement) enforcement.Entry {
	const gatewayAPI = "gateway.networking.k8s.io"
	entry := enforcement.Entry{
		Namespace: api.Namespace, API: api.Name, Name: string(e.Name), Gateway: verification.GatewayOf(e), Labels: map[string]string{},
	}
	for k, v := range e.Istio.Selector.MatchLabels {
		entry.Labels[k] = string(v)
	}
	targets := func(refs []v1alpha1.EnvoyGatewayTarget) (all []enforcement.Target) {
		for _, t := range refs {
			all = append(all, enforcement.Target{Group: gatewayAPI, Kind: string(t.Kind), Name: string(t.Name), Section: string(t.SectionName)})
		}
		return all
	}
	entry.Targets, entry.Spares = targets(e.EnvoyGateway.TargetRefs), targets(e.EnvoyGateway.SpareTargetRefs)
	for _, t := range e.Istio.TargetRefs {
		group := map[v1alpha1.IstioTargetKind]string{"Gateway": gatewayAPI, "ServiceEntry": "networking.istio.io"}[t.Kind]
		entry.Targets = append(entry.Targets, enforcement.Target{Group: group, Kind: string(t.Kind), Name: string(t.Name)})
	}
	for i, rule := range verification.RulesOf(e) {
		entry.Rules = append(entry.Rules, enforcement.Rule{Name: string(e.Rules[i].Name), Rule: rule})
	}
	return entry
}

// split returns the ConfigMap with the keys, nil if there is none, and the policies.
func (w wanted) split() (keys *unstructured.Unstructured, policies []*unstructured.Unstructured) {
	for _, o := range w.policy.Objects {
		if o.GetKind() == "ConfigMap" {
			keys = o
		} else {
			policies = append(policies, o)
		}
	}
	return keys, policies
}

// kindOf returns the kind of a policy.
func kindOf(g enforcement.Gateway, o *unstructured.Unstructured) gateways.Kind {
	kinds := gateways.Kinds(g)
	return kinds[slices.IndexFunc(kinds, func(k gateways.Kind) bool { return k.Name == o.GetKind() })]
}

// gate returns the policy that refuses requests: it exists as long as the entry does.
func (r *Reconciler) gate(w wanted) *gateways.Object { return r.Policies.Get(r.gateKind(w), w.name()) }

func (r *Reconciler) gateKind(w wanted) gateways.Kind {
	kinds := gateways.Kinds(w.entry.Gateway)
	return kinds[len(kinds)-1]
}

// name returns the name of an entry's policies.
func (w wanted) name() types.NamespacedName {
	return types.NamespacedName{Namespace: w.entry.Namespace, Name: enforcement.ObjectName(w.entry.API, w.entry.Name)}
}

// keyOf names an object of an entry.
func (w wanted) keyOf(o *unstructured.Unstructured) objectKey {
	return objectKey{o.GetKind(), types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}, w.contents.Terms == termsClosed}
}

// keysName returns the name of the ConfigMap with an entry's keys.
func (w wanted) keysName() types.NamespacedName {
	return types.NamespacedName{Namespace: w.entry.Namespace, Name: enforcement.KeysName(w.entry.API, w.entry.Name)}
}

// encode returns contents as the annotation has them.
func encode(c render.Contents) string {
	encoded, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and times only
	}
	return string(encoded)
}
