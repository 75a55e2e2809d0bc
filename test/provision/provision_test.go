// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"math/rand/v2"
	"testing"
	"time"
)

// scenario is something that must work.
type scenario struct {
	name string
	run  func(*testing.T, *world)
	// losesAnswers is set if the scenario kills the operator while it waits for answers.
	// A registration whose answer was lost cannot be found again, so such a scenario
	// does not run on a server that others use.
	losesAnswers bool
}

// common are the scenarios for every server.
var common = []scenario{
	{name: "created from nothing", run: testFromNothing},
	{name: "a scope is added", run: testScopeAdded},
	{name: "a grant is withdrawn", run: testGrantWithdrawn},
	{name: "many clients, two APIs", run: testManyClients},
	{name: "a secret is replaced at once", run: testRotationAtOnce},
	{name: "a secret is replaced with an overlap", run: testRotationWithOverlap},
	{name: "the operator is restarted on the way", run: testRestart},
	{name: "the operator is killed during creation", run: testKilled, losesAnswers: true},
	{name: "two clusters share the server", run: testTwoClusters},
	{name: "the server's credential is wrong, and mended", run: testWrongCredential},
	{name: "an API is deleted before its client", run: testAPIDeletedFirst},
	{name: "the AuthorizationServer is deleted at the same time", run: testServerDeletedToo},
	{name: "everything is deleted at once", run: testAllDeletedAtOnce},
	{name: "deleted after the server's credential", run: testCredentialDeletedFirst},
}

// ofLogto are those only for a Logto.
var ofLogto = []scenario{
	{name: "drift: a scope is removed from the API", run: drift(driftScopeRemoved)},
	{name: "drift: a scope is taken from the role", run: drift(driftScopeRevoked)},
	{name: "drift: a scope is given to the role", run: drift(driftScopeGranted)},
	{name: "drift: the role is unassigned", run: drift(driftRoleUnassigned)},
	{name: "drift: the role is deleted", run: drift(driftRoleDeleted)},
	{name: "drift: our secret is deleted", run: drift(driftSecretDeleted)},
	{name: "drift: a secret is added", run: drift(driftSecretAdded)},
	{name: "drift: the application is renamed", run: drift(driftRenamed)},
	{name: "drift: the application is deleted", run: drift(driftApplicationDeleted)},
	{name: "drift: the API's token lifetime is changed", run: drift(driftLifetime)},
	{name: "drift: the API is deleted", run: drift(driftResourceDeleted)},
	{name: "observed, not changed", run: testObserve},
	{name: "an API is adopted", run: testAdoptAPI},
	{name: "an application is adopted", run: testAdoptApplication},
	{name: "the lifetime of access tokens", run: testLifetime},
	{name: "the Management API is no API of ours", run: testManagementAPI},
	{name: "deletion policy Retain", run: testRetain},
	{name: "deleted without the client's own Secret", run: testOwnSecretDeletedFirst},
	{name: "deleted when nothing can be removed any more", run: testLetGo},
}

// ofRegistration are those only for dynamic registration.
var ofRegistration = []scenario{
	{name: "drift: the registration is deleted", run: testRegistrationDeleted},
	{name: "drift: the registration is changed", run: testRegistrationChanged},
}

// seed is the seed for the times at which operators are killed.
var seed = rand.Uint64()

// TestProvision runs all scenarios against each server, several at a time: most of the
// time they wait for the operator's next comparison with the server.
func TestProvision(t *testing.T) {
	t.Logf("seed %d", seed)
	for _, s := range subjects {
		report.addServer(s)
		scenarios := append(common[:len(common):len(common)], ofLogto...)
		if s.name == registrationName {
			scenarios = append(common[:len(common):len(common)], ofRegistration...)
		}
		t.Run("server="+s.name, func(t *testing.T) {
			for _, sc := range scenarios {
				if sc.losesAnswers && s.name == registrationName && s.issuer != "" {
					continue
				}
				t.Run(sc.name, func(t *testing.T) {
					t.Parallel()
					start, figures := time.Now(), map[string]float64{}
					// Registered first, so that it runs last: cleaning up is part of it.
					t.Cleanup(func() {
						report.addCheck(checkReport{Server: s.name, Name: sc.name, OK: !t.Failed(), Seconds: inSeconds(time.Since(start)), Figures: figures})
					})
					w := newWorld(t, s)
					w.figures = figures
					sc.run(t, w)
				})
			}
		})
	}
}
