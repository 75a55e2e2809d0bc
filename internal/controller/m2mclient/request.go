// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// refreshRequested passes the updates of an M2MClient that request new tokens.
var refreshRequested = watch.Updates(func(before, after client.Object) bool {
	return v1alpha1.RefreshRequest(before) != v1alpha1.RefreshRequest(after)
})

// request is the last refresh that was asked for. It changes nothing of a client's turn: its
// tokens need a new one no sooner than before. It is fulfilled by a token that was
// published after it, whose record names it: the record is written together with the token,
// so that a killed process mints nothing twice. Until then it counts as a due refresh does,
// with the same back-off, which a new request begins anew.
type request struct {
	value string
	later time.Time // when a newer one is handled that came too soon; zero for none
}

// readRequest takes up what the client's annotation asks for.
func (r *Reconciler) readRequest(p *pass) {
	value, wait := r.requests.Current(client.ObjectKeyFromObject(p.Client), v1alpha1.RefreshRequest(p.Client), p.Client.Status.LastHandledRefreshAt, p.Now)
	p.request.value = value
	if wait > 0 {
		p.request.later = p.Now.Add(wait)
	}
}

// requested reports whether a new token for an access was requested and did not come yet.
func (p *pass) requested(a *access) bool {
	return p.request.value != "" && a.Record != nil && a.Record.Request != p.request.value
}

// wasTried reports whether a pass, or an earlier one, has tried to do for an access what
// was requested, or knows why that is not possible.
func (p *pass) wasTried(a *access) bool {
	switch {
	case a.withdraw, a.Record != nil && !p.requested(a):
		return true
	case a.failure != nil && a.failure.Inputs == p.basis(a, refresh.HashInputs(a.inputs), a.failure.Reason):
		return true
	}
	return a.problem != nil && !a.problem.Unknown
}

// noteRequest records that the request was handled, if it was for every access.
func (p *pass) noteRequest() {
	for _, a := range p.Accesses {
		if !p.wasTried(a) {
			return
		}
	}
	p.Client.Status.LastHandledRefreshAt = p.request.value
}
