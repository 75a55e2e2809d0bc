// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
)

// comparedClient passes the updates of an M2MClient that matter to its tokens:
// what the server has of it.
var comparedClient = watch.Updates(func(before, after client.Object) bool {
	was, is := before.(*v1alpha1.M2MClient).Status.Provisioning, after.(*v1alpha1.M2MClient).Status.Provisioning
	if (was.SyncedAt == nil) != (is.SyncedAt == nil) {
		return true
	}
	was.SyncedAt, is.SyncedAt = nil, nil
	was.LastHandledRefreshAt, is.LastHandledRefreshAt = "", ""
	return !equality.Semantic.DeepEqual(was, is)
})

// judgeProvisioning says what becomes of a registered client at its server, and
// which of its accesses have to wait for that.
func (r *Reconciler) judgeProvisioning(_ context.Context, p *pass) error {
	if !rules.Registered(p.Client) {
		return nil
	}
	st := p.Client.Status.Provisioning
	here := p.server != nil && record.IsAt(st.Server, p.server)
	if here && rules.Decided(st.Failure.Reason) {
		denyAll(p, &rules.Problem{Reason: st.Failure.Reason, Message: st.Failure.Message})
	}
	var missing *rules.Problem
	for _, a := range p.Accesses {
		if p.server == nil || a.denied != nil || a.spec == nil {
			continue
		}
		got, known := record.GrantedAt(p.Client, a.resource)
		lacks := lackingScopes(a.scopes, got.Scopes)
		if here && known && len(lacks) == 0 {
			continue
		}
		a.waiting = r.whyWaiting(p, a, lacks)
		if missing == nil {
			missing = &rules.Problem{Reason: a.waiting.Reason, Message: p.about(a, a.waiting.Message), Unknown: a.waiting.Unknown}
		}
	}
	p.provisioned = r.clientProvisioned(p, here, missing)
	return nil
}

// denyAll withdraws all accesses of a client that its server must not have.
func denyAll(p *pass, why *rules.Problem) {
	for _, a := range p.Accesses {
		if a.denied == nil || !a.withdraw {
			a.denied, a.withdraw = why, true
		}
	}
}

// clientProvisioned returns the condition Provisioned of a registered client.
func (r *Reconciler) clientProvisioned(p *pass, here bool, missing *rules.Problem) conditions.Condition {
	st := p.Client.Status.Provisioning
	problems := []*rules.Problem{p.serverProblem}
	if p.server != nil {
		problems = append(problems, r.whyNotProvisioned(p.server))
	}
	if here && st.Failure.Reason != "" {
		problems = append(problems, &rules.Problem{Reason: st.Failure.Reason, Message: st.Failure.Message})
	}
	for _, pr := range append(problems, missing) {
		if pr == nil {
			continue
		}
		c := conditions.Of(v1alpha1.ConditionProvisioned, pr)
		if pr == p.serverProblem {
			c.Status = metav1.ConditionUnknown
		}
		return c
	}
	if !here && !slices.ContainsFunc(p.Accesses, func(a *access) bool { return a.denied == nil }) {
		return conditions.Of(v1alpha1.ConditionProvisioned, &rules.Problem{Reason: v1alpha1.ReasonProvisioning, Unknown: true, Message: fmt.Sprintf(
			"Nothing is registered at %s %q for a client that is granted nothing", p.server.Key().Kind, p.server.Key().Name)})
	}
	if !here || st.SyncedAt == nil || st.ObservedGeneration != p.Client.Generation || st.Credential.Name == "" {
		return conditions.Of(v1alpha1.ConditionProvisioned, record.NotYetProvisioned(p.server))
	}
	return conditions.True(v1alpha1.ConditionProvisioned, v1alpha1.ReasonProvisioned, "The client is registered at the server with the access that it is granted")
}

// whyNotProvisioned returns what keeps the operator from provisioning anything
// at a server, nil for nothing.
func (r *Reconciler) whyNotProvisioned(srv *rules.Server) *rules.Problem {
	switch {
	case rules.Driver(srv.Spec) == "":
		return &rules.Problem{Reason: v1alpha1.ReasonProvisioningNotConfigured, Message: fmt.Sprintf(
			"%s %q has no spec.provisioning; set it there, or give the client spec.credentials of its own", srv.Key().Kind, srv.Key().Name)}
	case r.OperatorNamespace == "":
		return &rules.Problem{Reason: v1alpha1.ReasonProvisioningNotConfigured,
			Message: "The operator does not know its own namespace, in which it keeps client secrets; set its flag --operator-namespace"}
	}
	return nil
}

// whyWaiting says why a server does not grant an access that is allowed.
func (r *Reconciler) whyWaiting(p *pass, a *access, lacks []string) *rules.Problem {
	st := p.Client.Status.Provisioning
	_, scopes, known := record.ProvisionedAPI(a.spec, p.server)
	unknown := lackingScopes(a.scopes, record.ScopeNames(scopes))
	switch {
	case r.whyNotProvisioned(p.server) != nil:
		return r.whyNotProvisioned(p.server)
	case !known && a.spec.Status.Provisioning.Failure.Reason != "":
		return &rules.Problem{Reason: v1alpha1.ReasonScopeNotProvisioned,
			Message: fmt.Sprintf("APIResource %q is not provisioned (%s)", a.api, a.spec.Status.Provisioning.Failure.Reason)}
	case known && len(unknown) > 0 && a.spec.Spec.ManagementPolicy == v1alpha1.ManagementObserve:
		return &rules.Problem{Reason: v1alpha1.ReasonScopeNotProvisioned, Message: fmt.Sprintf(
			"The server does not have the scopes %s of APIResource %q, and the operator only observes that API; add the scopes at the server, or set spec.managementPolicy of the APIResource to Full", strings.Join(unknown, ", "), a.api)}
	case st.Failure.Reason != "":
		return &rules.Problem{Reason: st.Failure.Reason, Message: st.Failure.Message}
	case known && st.SyncedAt != nil && len(lacks) > 0 && len(unknown) == 0 && !changing(p.Client):
		return &rules.Problem{Reason: v1alpha1.ReasonScopeNotProvisioned, Message: fmt.Sprintf(
			"The server does not grant the scopes %s; see the condition of APIResource %q", strings.Join(lacks, ", "), a.api)}
	}
	return record.NotYetProvisioned(p.server)
}

// changing reports whether a client is about to be compared with its server for its
// spec.
func changing(c *v1alpha1.M2MClient) bool { return c.Status.ObservedGeneration != c.Generation }

func lackingScopes(want []string, got []v1alpha1.ScopeName) []string {
	var lacks []string
	for _, s := range want {
		if !containsString(got, s) {
			lacks = append(lacks, s)
		}
	}
	return lacks
}

func containsString(list []v1alpha1.ScopeName, s string) bool {
	for _, l := range list {
		if string(l) == s {
			return true
		}
	}
	return false
}

// resolveCredentials finds out who the client is.
func (r *Reconciler) resolveCredentials(ctx context.Context, p *pass) (err error) {
	switch {
	case p.server == nil:
	case rules.Registered(p.Client):
		if p.credentials, err = r.Credentials.Registered(ctx, p.Client, p.server); p.credentials == nil && err == nil {
			p.credProblem = p.notRegistered()
		}
	default:
		p.credentials, p.credProblem, err = r.Credentials.Own(ctx, p.Client, p.server, p.secret.Records.Credential)
	}
	return err
}

// notRegistered says why a client that the operator registers has no credentials.
func (p *pass) notRegistered() *rules.Problem {
	if p.provisioned.Status == metav1.ConditionTrue {
		return record.BeingProvisioned(p.server) // the Secret with its credentials is gone
	}
	return &rules.Problem{Reason: p.provisioned.Reason, Message: p.provisioned.Message, Unknown: p.provisioned.Status == metav1.ConditionUnknown}
}

// compare has a registered client and the API of an access compared with their
// server.
func (r *Reconciler) compare(p *pass, a *access) {
	r.CompareClient(p.Client)
	if a.spec != nil && r.Shard == "" { // else the status says it to the instance that has the APIs
		r.CompareAPI(a.spec)
	}
}
