// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// planOf returns the plan of an object whose status holds st. What is declared and
// wanted of the server is still missing.
func planOf(st *v1alpha1.ProvisioningRecord, uid types.UID, srv *rules.Server) provision.Plan {
	p := provision.Plan{SyncedAt: record.Moment(st.SyncedAt), Synced: st.Inputs, Interval: resyncInterval(srv.Spec), Seed: string(uid)}
	if f := st.Failure; f.Reason != "" {
		p.Failure = provision.Failure{Attempts: int(max(1, f.Attempts)), Tried: f.Inputs, NextAt: record.Moment(f.NextAttemptAt)}
	}
	return p
}

// failureAfter returns what to record after an attempt that failed with err. Only a success
// undoes what somebody decided: a later failure that says nothing about the decision
// keeps its reason.
func failureAfter(p provision.Plan, last v1alpha1.TokenFailure, now time.Time, err error) v1alpha1.TokenFailure {
	f, why := p.Failed(now, err), provisioningProblem(err)
	if rules.Decided(last.Reason) && !rules.Decided(why.Reason) {
		why = &rules.Problem{Reason: last.Reason, Message: last.Message}
	}
	return v1alpha1.TokenFailure{
		Reason: why.Reason, Message: text.CutRunes(cmp.Or(why.Message, "unknown"), 1024), Attempts: int32(f.Attempts), Inputs: f.Tried, //nolint:gosec // bounded
		NextAttemptAt: record.Time(f.NextAt),
	}
}
