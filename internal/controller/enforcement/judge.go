// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// gatewayPatience is how long a gateway may take to report on a policy.
const gatewayPatience = 10 * time.Second

// Judge returns the condition Enforced of an APIResource, empty if its spec asks for no
// enforcement, and when to look again. It reads caches only, and writes nothing.
func (r *Reconciler) Judge(ctx context.Context, api *v1alpha1.APIResource) (c conditions.Condition, again time.Duration, err error) {
	if len(api.Spec.Enforcement) == 0 {
		return conditions.Condition{}, 0, nil
	}
	b, err := r.basisOf(ctx, api)
	if err != nil {
		return c, 0, err
	}
	var failing *rules.Problem
	failed, unchecked, refusing := 0, []string{}, ""
	for i := range api.Spec.Enforcement {
		e := &api.Spec.Enforcement[i]
		if verification.GatewayOf(e) == "" {
			continue // its files are in the bundle, see Distributed
		}
		w := b.wantedOf(e)
		problem, wait, err := r.judge(ctx, b, w)
		if err != nil { // it must not keep the rest of the status from being written
			log.FromContext(ctx).V(1).Info("Could not read the policies of a gateway", "gateway", w.entry.Gateway, "reason", err.Error())
			problem, wait = &rules.Problem{Reason: v1alpha1.ReasonEnforcing, Message: fmt.Sprintf(
				"The policies of %s cannot be read for the moment", w.entry.Gateway.Name())}, gateways.LookAgain
			if often := (*gateways.TooOften)(nil); errors.As(err, &often) {
				problem.Message, wait = fmt.Sprintf("Somebody changes SecurityPolicy, RequestAuthentication or AuthorizationPolicy %q too often", w.name().Name), often.Wait
			}
		}
		again = refresh.Soonest(0, again, wait)
		if problem != nil {
			failed++
			if failing == nil {
				failing = &rules.Problem{Reason: problem.Reason, Message: fmt.Sprintf("Entry %q: %s", e.Name, problem.Message)}
			}
		}
		if p, wait := r.spareProblem(ctx, b, w); p != nil && refusing == "" {
			refusing = fmt.Sprintf("; some calls will be refused when keys change, because the spare targets of entry %q do not work: %s", e.Name, p.Message)
			again = refresh.Soonest(0, again, wait)
		}
		for _, u := range w.policy.Unchecked {
			unchecked = append(unchecked, fmt.Sprintf("%s (entry %q)", u, e.Name))
		}
	}
	if failing != nil {
		if failed > 1 {
			failing.Message += fmt.Sprintf("; %d more entries are not enforced either", failed-1)
		}
		return conditions.Of(v1alpha1.ConditionEnforced, failing), again, nil
	}
	message := "Tokens are checked wherever spec.enforcement says"
	if len(unchecked) > 0 {
		message += ", except for what gateways cannot check: " + strings.Join(unchecked, ", ")
	}
	return conditions.True(v1alpha1.ConditionEnforced, v1alpha1.ReasonEnforced, text.CutRunes(message+refusing, 2048)), again, nil
}

// judge returns why tokens are not checked as an entry says, nil if they are.
func (r *Reconciler) judge(ctx context.Context, b basis, w wanted) (*rules.Problem, time.Duration, error) {
	problem, err := r.Policies.Served(ctx, w.entry.Gateway)
	if problem != nil || err != nil {
		return problem, gateways.Again(problem), err
	}
	gate, err := r.Policies.Read(ctx, r.gateKind(w), w.name())
	if err != nil {
		return nil, 0, err
	}
	if w.keep && gate.Belongs(b.api) {
		return r.inForce(b, w, w.problem), 0, nil
	}
	if problem, err := r.lacking(ctx, b, w); problem != nil || err != nil {
		return problem, 0, err
	}
	if w.problem != nil {
		return meaning(w.problem, "the gateway refuses every request"), 0, nil
	}
	if w.entry.Gateway == enforcement.EnvoyGateway {
		problem, again := r.envoyGatewaySays(gate)
		return problem, again, nil
	}
	return istioSays(gate), 0, nil
}

// meaning adds to a problem what it means.
func meaning(p *rules.Problem, consequence string) *rules.Problem {
	return &rules.Problem{Reason: p.Reason, Message: p.Message + "; " + consequence}
}

// lacking returns why an object of an entry is not as it should be, nil if all are.
func (r *Reconciler) lacking(ctx context.Context, b basis, w wanted) (*rules.Problem, error) {
	writing := func(kind, name string) *rules.Problem {
		return &rules.Problem{Reason: v1alpha1.ReasonEnforcing, Message: fmt.Sprintf("%s %q is being written", kind, name)}
	}
	keys, policies := w.split()
	if keys != nil {
		key := w.keyOf(keys)
		if p := r.problemWith(key); p != nil {
			return r.inForce(b, w, p), nil
		}
		is, err := r.keysNow(ctx, key.name)
		if err != nil {
			return nil, err
		}
		p, err := r.planOf(ctx, b, w)
		if err != nil {
			return nil, err
		}
		waits := p.ready.After(r.Clock.Now()) // and what the gateway has meanwhile is good
		if want, _, _ := r.keysWanted(b, w, keys, is); !waits && (is == nil || !sameKeys(is, want)) {
			return writing(key.kind, key.name.Name), nil
		}
	}
	for _, o := range policies {
		k := kindOf(w.entry.Gateway, o)
		if p := r.problemWith(w.keyOf(o)); p != nil {
			return r.inForce(b, w, p), nil
		}
		is, err := r.Policies.Read(ctx, k, w.name())
		if err != nil {
			return nil, err
		}
		next, _ := w.contentsOf(o.GetKind(), is, r.Clock.Now())
		if !is.IsOf(b.api) || !r.Policies.Same(k, is, o, encode(next)) {
			return writing(k.Name, o.GetName()), nil
		}
	}
	return nil, nil
}

// inForce adds to the problem with an object of an entry what the gateway does meanwhile.
func (r *Reconciler) inForce(b basis, w wanted, p *rules.Problem) *rules.Problem {
	gate := r.gate(w)
	closed, _ := verification.ReadContents(contentsOf(gate))
	switch {
	case !gate.Belongs(b.api):
		return meaning(p, "the operator checks no token there")
	case closed.Terms == termsClosed:
		return meaning(p, "the gateway refuses every request")
	case w.keep:
		return meaning(p, "what the gateway was told before stays")
	case w.problem != nil:
		return meaning(p, "the gateway has the former policy, without its keys, and no request passes")
	}
	return meaning(p, "what the gateway was told before stays in force, and the operator goes on trying")
}

// problemWith returns why an object could not be written.
func (r *Reconciler) problemWith(key objectKey) *rules.Problem {
	f, ok := r.failure(key)
	switch {
	case !ok:
		return nil
	case f.reason == v1alpha1.ReasonObjectNotOwned:
		return &rules.Problem{Reason: f.reason, Message: fmt.Sprintf(
			"%s %q exists in namespace %q and is not this APIResource's; delete or rename it", key.kind, key.name.Name, key.name.Namespace)}
	}
	return &rules.Problem{Reason: f.reason, Message: fmt.Sprintf(
		"The API server refuses %s %q: %s", key.kind, key.name.Name, f.said)}
}

// said returns what the API server says in an error.
func said(err error) string {
	answer := err.Error()
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		answer = status.Status().Message
	}
	return text.CutRunes(text.Line(answer), maxSaid)
}

// envoyGatewaySays returns what Envoy Gateway reports against a SecurityPolicy. It reports
// nothing on a policy whose target does not exist.
func (r *Reconciler) envoyGatewaySays(o *gateways.Object) (*rules.Problem, time.Duration) {
	since := o.Created
	if c, known := verification.ReadContents(o.Contents); known && c.TermsSince.After(since) {
		since = c.TermsSince
	}
	accepted, old := 0, 0
	for _, v := range o.Verdicts {
		switch {
		case v.Generation < o.Generation:
			old++
		case v.Type == "Accepted" && v.Status == "False":
			reason := v1alpha1.ReasonGatewayRefused
			if v.Reason == "TargetNotFound" {
				reason = v1alpha1.ReasonTargetNotFound
			}
			return &rules.Problem{Reason: reason, Message: fmt.Sprintf(
				"Envoy Gateway does not apply SecurityPolicy %q (%s): %s", o.Name.Name, v.Reason, v.Message)}, 0
		case v.Type == "Overridden" && v.Status == "True":
			return &rules.Problem{Reason: v1alpha1.ReasonOverridden, Message: fmt.Sprintf(
				"A more specific SecurityPolicy replaces %q for a part of its target: %s", o.Name.Name, v.Message)}, 0
		case v.Type == "Accepted" && v.Status == "True":
			accepted++
		}
	}
	if accepted > 0 && old == 0 {
		return nil, 0
	}
	if wait := min(since.Add(gatewayPatience).Sub(r.Clock.Now()), gatewayPatience); wait > 0 {
		return &rules.Problem{Reason: v1alpha1.ReasonEnforcing, Message: fmt.Sprintf(
			"Envoy Gateway has not reported on SecurityPolicy %q yet", o.Name.Name)}, wait
	}
	if len(o.Verdicts) > 0 {
		return &rules.Problem{Reason: v1alpha1.ReasonEnforcing, Message: fmt.Sprintf(
			"Envoy Gateway has not reported on the present SecurityPolicy %q; see whether it runs", o.Name.Name)}, 0
	}
	return &rules.Problem{Reason: v1alpha1.ReasonTargetNotFound, Message: fmt.Sprintf(
		"Envoy Gateway does not report on SecurityPolicy %q: its targets do not exist in namespace %q, or no Envoy Gateway serves them", o.Name.Name, o.Name.Namespace)}, 0
}

// istioSays returns what Istio reports against an AuthorizationPolicy. It reports only on
// waypoints and ztunnels, so that no report is no problem.
func istioSays(o *gateways.Object) *rules.Problem {
	for _, v := range o.Verdicts {
		if (v.Type == "WaypointAccepted" || v.Type == "ZtunnelAccepted") && v.Status == "False" {
			return &rules.Problem{Reason: v1alpha1.ReasonGatewayRefused, Message: fmt.Sprintf(
				"Istio does not apply AuthorizationPolicy %q (%s): %s", o.Name.Name, v.Reason, v.Message)}
		}
	}
	return nil
}

// digestOf returns the digest of an object and its contents.
func digestOf(object map[string]any, contents string) cached.Digest {
	encoded, err := json.Marshal([]any{object, contents})
	if err != nil {
		panic(err) // strings and booleans only
	}
	return cached.DigestOf(encoded)
}
