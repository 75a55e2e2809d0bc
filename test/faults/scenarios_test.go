// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"time"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// scenario is a part of the operator's life.
type scenario struct {
	name         string
	logto        bool
	registration *oidc.DynamicRegistration
	sharded      bool
	urgent       bool // it matters when pods must see something at once
	more         int  // namespaces besides those of the client and the API
	options      []func(*controller.Options)
	ahead        time.Duration // of the operator's clock is that of the authorization server
	// before happens without faults.
	before []step
	steps  []step
}

// step is something that happens, and the time in which the operator deals with it.
type step struct {
	do     func(*run)
	within time.Duration // zero: patience
}

// patience is longer than the operator takes for anything that has gone wrong once.
const patience = 8 * time.Minute

// scenarios returns all scenarios.
func scenarios() []*scenario {
	enforcing := []func(*controller.Options){operator.Enforcing(enforcement.EnvoyGateway)}
	registration := &oidc.DynamicRegistration{RotateTokens: true}
	return []*scenario{
		{name: "first token", steps: []step{{do: story}}},
		{name: "refresh", before: []step{{do: story}}, steps: []step{{do: due}}},
		{name: "several accesses", steps: []step{{do: twoAPIs}, {do: due}}},
		{name: "withdrawal", urgent: true, before: []step{{do: story}, {do: verifies}}, steps: []step{{do: withdraw}}},
		{name: "key rotation", before: []step{{do: story}, {do: verifies}}, steps: []step{{do: rotateKey}}},
		{name: "revocation", urgent: true, before: []step{{do: story}, {do: verifies}}, steps: []step{{do: revoke}}},
		{name: "ten namespaces", more: 10, before: []step{{do: story}}, steps: []step{{do: verifiesEverywhere}, {do: rotateKey}}},
		{name: "prompt delivery", urgent: true, before: []step{{do: story}, {do: injected}}, steps: []step{{do: rotateKey}}},
		{name: "lost Secret", before: []step{{do: story}, {do: injected}}, steps: []step{{do: loseSecret}}},
		{name: "hand-over", sharded: true, before: []step{{do: story}}, steps: []step{{do: handOver}, {do: due}}},
		{name: "enforcement", options: enforcing, before: []step{{do: story}, {do: verifies}}, steps: []step{{do: enforce}, {do: rotateKey}, {do: stopEnforcing}}},
		{name: "registration", registration: registration, steps: []step{{do: register}}},
		{name: "registered scopes", registration: registration, before: []step{{do: register}}, steps: []step{{do: otherScopes}}},
		{name: "registered rotation", registration: registration, before: []step{{do: register}}, steps: []step{{do: rotateCredential}}},
		{name: "deregistration", registration: registration, before: []step{{do: register}}, steps: []step{{do: deleteClient}}},
		{name: "provisioning", logto: true, steps: []step{{do: provision}}},
		{name: "provisioned scopes", logto: true, before: []step{{do: provision}}, steps: []step{{do: otherScopes}}},
		{name: "credential rotation", logto: true, before: []step{{do: provision}}, steps: []step{{do: rotateCredential}}},
		{name: "drift", logto: true, before: []step{{do: provision}}, steps: []step{{do: drift}}},
		{name: "adoption", logto: true, steps: []step{{do: adopt}}},
		{name: "deletion", logto: true, before: []step{{do: provision}}, steps: []step{{do: deleteClient}, {do: deleteAPI}, {do: deleteServer}}},
	}
}
