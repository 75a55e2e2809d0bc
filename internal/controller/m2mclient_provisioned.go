// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// comparedClient passes the updates of an M2MClient that matter to its tokens:
// what the server has of it.
var comparedClient = updates(func(before, after client.Object) bool {
	was, is := before.(*v1alpha1.M2MClient).Status.Provisioning, after.(*v1alpha1.M2MClient).Status.Provisioning
	if (was.SyncedAt == nil) != (is.SyncedAt == nil) {
		return true
	}
	was.SyncedAt, is.SyncedAt = nil, nil
	return !equality.Semantic.DeepEqual(was, is)
})

// judgeProvisioning says what becomes of a registered client at its server, and
// which of its accesses have to wait for that.
func (r *M2MClientReconciler) judgeProvisioning(_ context.Context, p *pass) error {
	if !isProvisioned(p.client) {
		return nil
	}
	st := p.client.Status.Provisioning
	here := p.server != nil && isAt(st.Server, p.server)
	if here && rules.Decided(st.Failure.Reason) {
		denyAll(p, &rules.Problem{Reason: st.Failure.Reason, Message: st.Failure.Message})
	}
	var missing *rules.Problem
	for _, a := range p.accesses {
		if p.server == nil || a.denied != nil || a.spec == nil {
			continue
		}
		got, known := grantedAt(p.client, a.resource)
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
	for _, a := range p.accesses {
		if a.denied == nil || !a.withdraw {
			a.denied, a.withdraw = why, true
		}
	}
}

// clientProvisioned returns the condition Provisioned of a registered client.
func (r *M2MClientReconciler) clientProvisioned(p *pass, here bool, missing *rules.Problem) condition {
	st := p.client.Status.Provisioning
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
		c := conditionOf(v1alpha1.ConditionProvisioned, pr)
		if pr == p.serverProblem {
			c.Status = metav1.ConditionUnknown
		}
		return c
	}
	if !here || st.SyncedAt == nil || st.ObservedGeneration != p.client.Generation || st.Credential.Name == "" {
		return conditionOf(v1alpha1.ConditionProvisioned, notYetProvisioned(p.server))
	}
	return isTrue(v1alpha1.ConditionProvisioned, v1alpha1.ReasonProvisioned, "The server has the client with the access that is granted")
}

// whyNotProvisioned returns what keeps the operator from provisioning anything
// at a server, nil for nothing.
func (r *M2MClientReconciler) whyNotProvisioned(srv *rules.Server) *rules.Problem {
	switch {
	case !provisions(srv.Spec):
		return &rules.Problem{Reason: v1alpha1.ReasonProvisioningNotConfigured, Message: fmt.Sprintf(
			"%s %q has no spec.provisioning; set it there, or give the client spec.credentials of its own", srv.Key().Kind, srv.Key().Name)}
	case r.operatorNamespace == "":
		return &rules.Problem{Reason: v1alpha1.ReasonProvisioningNotConfigured,
			Message: "The operator has no namespace to keep client secrets in: --operator-namespace"}
	}
	return nil
}

// notYetProvisioned says why there is nothing at a server yet.
func notYetProvisioned(srv *rules.Server) *rules.Problem {
	if meta.IsStatusConditionFalse(srv.Status.Conditions, v1alpha1.ConditionProvisioningReady) {
		return &rules.Problem{Reason: v1alpha1.ReasonAuthorizationServerNotReady, Message: fmt.Sprintf(
			"%s %q cannot be provisioned; see its condition ProvisioningReady", srv.Key().Kind, srv.Key().Name)}
	}
	return beingProvisioned(srv)
}

func beingProvisioned(srv *rules.Server) *rules.Problem {
	return &rules.Problem{Reason: v1alpha1.ReasonProvisioning, Unknown: true, Message: fmt.Sprintf("%s %q is being provisioned", srv.Key().Kind, srv.Key().Name)}
}

// whyWaiting says why a server does not grant an access that is allowed.
func (r *M2MClientReconciler) whyWaiting(p *pass, a *access, lacks []string) *rules.Problem {
	st := p.client.Status.Provisioning
	_, scopes, known := provisionedAPI(a.spec, p.server)
	unknown := lackingScopes(a.scopes, scopeNames(scopes))
	switch {
	case r.whyNotProvisioned(p.server) != nil:
		return r.whyNotProvisioned(p.server)
	case !known && a.spec.Status.Provisioning.Failure.Reason != "":
		return &rules.Problem{Reason: v1alpha1.ReasonScopeNotProvisioned,
			Message: fmt.Sprintf("APIResource %q is not provisioned (%s)", a.api, a.spec.Status.Provisioning.Failure.Reason)}
	case known && len(unknown) > 0 && a.spec.Spec.ManagementPolicy == v1alpha1.ManagementObserve:
		return &rules.Problem{Reason: v1alpha1.ReasonScopeNotProvisioned, Message: fmt.Sprintf(
			"The server does not have the scopes %s of APIResource %q, which is only observed", strings.Join(unknown, ", "), a.api)}
	case st.Failure.Reason != "":
		return &rules.Problem{Reason: st.Failure.Reason, Message: st.Failure.Message}
	case known && st.SyncedAt != nil && len(lacks) > 0 && len(unknown) == 0 && !changing(p.client):
		return &rules.Problem{Reason: v1alpha1.ReasonScopeNotProvisioned, Message: fmt.Sprintf(
			"The server does not grant the scopes %s; see the condition of APIResource %q", strings.Join(lacks, ", "), a.api)}
	}
	return notYetProvisioned(p.server)
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

// registeredCredentials finds the credentials of a client that the operator
// registered.
func (r *M2MClientReconciler) registeredCredentials(ctx context.Context, p *pass) error {
	name := client.ObjectKeyFromObject(p.client)
	st := p.client.Status.Provisioning
	pending := func() error {
		p.credProblem = &rules.Problem{Reason: p.provisioned.Reason, Message: p.provisioned.Message, Unknown: p.provisioned.Status == metav1.ConditionUnknown}
		if p.provisioned.Status == metav1.ConditionTrue {
			p.credProblem = beingProvisioned(p.server) // the Secret with its credentials is gone
		}
		return nil
	}
	if !isAt(st.Server, p.server) || st.Credential.Name == "" {
		return pending()
	}
	current, err := r.registered(ctx, name, st.Server)
	if err != nil || current == nil {
		if err != nil {
			return err
		}
		return pending()
	}
	p.credentials = &credentials{
		credentialRecord: credentialRecord{
			Revision: "registered/" + current.Name + "/" + strconv.FormatInt(current.IssuedAt.Unix(), 10), ClientID: current.ClientID,
		},
		authenticate: func(context.Context) (oauth.Authentication, *rules.Problem, error) {
			return provisionedAuthentication(p.server.Spec, current.ClientID, current.Secret), nil, nil
		},
	}
	return nil
}

// registered returns the credential in use, nil if it is not there.
func (r *M2MClientReconciler) registered(ctx context.Context, name types.NamespacedName, at v1alpha1.ProvisioningServer) (*provision.Credential, error) {
	store, _, err := readCredentials(ctx, r.client, r.operatorNamespace, name)
	if err != nil || store.Server != at {
		return nil, err
	}
	state := provision.ClientState{Credentials: store.Credentials}
	return state.Current(), nil
}

// compare has a registered client and the API of an access compared with their
// server.
func (r *M2MClientReconciler) compare(p *pass, a *access) {
	r.compareClient(p.client)
	if a.spec != nil && r.shard == "" { // else the status says it to the instance that has the APIs
		r.compareAPI(a.spec)
	}
}

// apiProvisioned returns the condition Provisioned of an APIResource, empty at a
// server that is not provisioned.
func apiProvisioned(api *v1alpha1.APIResource, srv *rules.Server, refused *rules.Problem) condition {
	if srv == nil || !provisions(srv.Spec) {
		return condition{}
	}
	if refused != nil {
		return isFalse(v1alpha1.ConditionProvisioned, v1alpha1.ReasonNotAccepted, "The APIResource is not accepted")
	}
	st := api.Status.Provisioning
	here := isAt(st.Server, srv)
	switch {
	case here && st.Failure.Reason != "":
		return isFalse(v1alpha1.ConditionProvisioned, st.Failure.Reason, st.Failure.Message)
	case !here || st.SyncedAt == nil || st.ObservedGeneration != api.Generation:
		return conditionOf(v1alpha1.ConditionProvisioned, notYetProvisioned(srv))
	case len(st.Drift) > 0:
		return isFalse(v1alpha1.ConditionProvisioned, v1alpha1.ReasonDrifted, "The server differs from what is declared: "+strings.Join(st.Drift, "; "))
	case registers(srv.Spec):
		return isTrue(v1alpha1.ConditionProvisioned, v1alpha1.ReasonNotApplicable,
			"The server keeps no record of APIs; clients are registered for the API's scopes")
	}
	return isTrue(v1alpha1.ConditionProvisioned, v1alpha1.ReasonProvisioned, "The server has the API as it is declared")
}
