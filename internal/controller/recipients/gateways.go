// SPDX-License-Identifier: Apache-2.0

package recipients

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// gatewaysLook returns when to look again whether the API's gateways have what they verify
// a token with, the zero time if they have. Only what the operator has written counts: an
// entry that it may not write, or whose object another one owns, delays no token.
func (r *Recipients) gatewaysLook(ctx context.Context, t Token, now time.Time) (look time.Time) {
	for i := range t.API.Spec.Enforcement {
		e := &t.API.Spec.Enforcement[i]
		is, told, unknown := r.toldTo(ctx, t.API, e)
		if unknown {
			return now.Add(delivery.Poll)
		}
		if !told {
			continue
		}
		want := verification.EnforcedContents(t.API, t.Server, e)
		key := is.Keys[t.Claims.KeyID]
		// Terms that the predecessor does not meet wait for this token instead.
		if is.Terms != want.Terms && !t.NewTerms || key.Hash != want.Keys[t.Claims.KeyID].Hash {
			return now.Add(delivery.Poll)
		}
		since := key.Since
		if !t.NewTerms && is.TermsSince.After(since) {
			since = is.TermsSince
		}
		drain := time.Duration(0) // Envoy Gateway's policies decide per route, on all connections
		if verification.GatewayOf(e) == enforcement.Istio {
			drain = verification.DrainOf(e)
		}
		look = delivery.Sooner(look, delivery.GatewaySees(since, now, drain))
	}
	return look
}

// gatewaysHave reports whether the key that a token is signed with was written for all of
// the API's gateways.
func (r *Recipients) gatewaysHave(ctx context.Context, t Token) bool {
	for i := range t.API.Spec.Enforcement {
		is, told, unknown := r.toldTo(ctx, t.API, &t.API.Spec.Enforcement[i])
		if _, has := is.Keys[t.Claims.KeyID]; unknown || told && !has {
			return false
		}
	}
	return true
}

// toldTo returns what the gateway of an entry was told, and reports whether it was told
// anything by which a token can pass. That is unknown until the policies are read.
func (r *Recipients) toldTo(ctx context.Context, api *v1alpha1.APIResource, e *v1alpha1.Enforcement) (c render.Contents, told, unknown bool) {
	gateway := verification.GatewayOf(e)
	if gateway == "" || r.Policies == nil {
		return c, false, false
	}
	if problem, err := r.Policies.Served(ctx, gateway); problem != nil || err != nil {
		return c, false, err != nil || gateways.StillReading(problem)
	}
	annotation := ""
	if gateway == enforcement.EnvoyGateway {
		var m corev1.ConfigMap
		name := types.NamespacedName{Namespace: api.Namespace, Name: enforcement.KeysName(api.Name, string(e.Name))}
		if r.Client.Get(ctx, name, &m) != nil || !gateways.Belongs(&m, api) {
			return c, false, false
		}
		annotation = m.Annotations[v1alpha1.ContentsAnnotation]
	} else {
		name := types.NamespacedName{Namespace: api.Namespace, Name: enforcement.ObjectName(api.Name, string(e.Name))}
		o, err := r.Policies.Read(ctx, gateways.Kinds(gateway)[0], name)
		if err != nil || !o.Belongs(api) {
			return c, false, err != nil
		}
		annotation = o.Contents
	}
	c, told = verification.ReadContents(annotation)
	return c, told, false
}
