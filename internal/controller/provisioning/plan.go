// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// SyncPlan is what decides whether an object is compared with its server.
type SyncPlan struct {
	syncedAt  *metav1.Time
	inputs    string // what was declared when it was synced
	Failure   v1alpha1.TokenFailure
	wants     string // what is declared now
	tries     string // that and what it is tried with: the server's configuration
	interval  time.Duration
	credsDue  time.Time // when the credentials need something
	requested bool      // somebody has seen that the server differs
	seed      string
}

// plan is what package provision decides by.
func (s SyncPlan) plan() provision.Plan {
	p := provision.Plan{
		Wants: s.wants, Tries: s.tries, SyncedAt: record.Moment(s.syncedAt), Synced: s.inputs,
		Interval: s.interval, CredentialsDue: s.credsDue, Requested: s.requested, Seed: s.seed,
	}
	if s.Failure.Reason != "" {
		p.Failure = provision.Failure{Attempts: int(max(1, s.Failure.Attempts)), Tried: s.Failure.Inputs, NextAt: record.Moment(s.Failure.NextAttemptAt)}
	}
	return p
}

// agrees reports whether the server was found or made to agree with what is
// declared now.
func (s SyncPlan) agrees() bool { return s.plan().Agrees() }

// wait returns how long nothing needs to be done, zero for now.
func (s SyncPlan) wait(now time.Time) time.Duration { return s.plan().Wait(now) }

// Failed notes a failed attempt. What somebody decided is not undone by a failure
// of the next attempt that says nothing about it: only a success undoes it.
func (s SyncPlan) Failed(now time.Time, err error, who types.UID) v1alpha1.TokenFailure {
	s.seed = string(who)
	f := s.plan().Failed(now, err)
	p := provisioningProblem(err)
	if rules.Decided(s.Failure.Reason) && !rules.Decided(p.Reason) {
		p = &rules.Problem{Reason: s.Failure.Reason, Message: s.Failure.Message}
	}
	return v1alpha1.TokenFailure{
		Reason: p.Reason, Message: text.CutRunes(cmp.Or(p.Message, "unknown"), 1024), Attempts: int32(f.Attempts), Inputs: f.Tried, //nolint:gosec // bounded
		NextAttemptAt: record.Time(f.NextAt),
	}
}
