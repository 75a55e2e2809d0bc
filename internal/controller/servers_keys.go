// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// keyRefetchInterval is the least time between two fetches of a server's
// keys because of an unknown key ID.
const keyRefetchInterval = 10 * time.Second

// wakeServers are channels of servers that are to be looked at, for each kind.
type wakeServers map[v1alpha1.AuthorizationServerKind]chan event.GenericEvent

func newWakeServers() wakeServers {
	return wakeServers{
		v1alpha1.KindAuthorizationServer:        make(chan event.GenericEvent, 16),
		v1alpha1.KindClusterAuthorizationServer: make(chan event.GenericEvent, 16),
	}
}

// wake has a server looked at now.
func (w wakeServers) wake(key rules.ServerKey) {
	select {
	case w[key.Kind] <- event.GenericEvent{Object: key.Object()}:
	default: // the controller is busy with others; it finds what is due
	}
}

// keyRequests are the requests to fetch a server's keys now: a token is signed with a
// key that is not known.
type keyRequests struct {
	clock clock.PassiveClock
	wakes wakeServers
	of    *each[keyRequest]
}

type keyRequest struct {
	mu      sync.Mutex
	limit   *rate.Limiter
	pending bool
	named   []string // the last IDs of unknown keys that tokens are signed with
}

func newKeyRequests(l *lives, c clock.PassiveClock, wakes wakeServers) *keyRequests {
	return &keyRequests{clock: c, wakes: wakes, of: newEach(l, func(client.Object) *keyRequest {
		return &keyRequest{limit: rate.NewLimiter(rate.Every(keyRefetchInterval), 1)}
	}, nil)}
}

// maxNamedKeys bounds the keys that are remembered to be looked for in a server's set.
const maxNamedKeys = jwks.MaxRecords

// request has a server's keys fetched at once because a token is signed with one that
// is not known, at most once per keyRefetchInterval. It reports whether they are.
func (r *keyRequests) request(srv *rules.Server, keyID string) bool {
	k, now := r.of.get(srv.Object), r.clock.Now()
	k.mu.Lock()
	if keyID != "" && jwks.ValidKeyID(keyID) && !slices.Contains(k.named, keyID) {
		k.named = append(k.named, keyID)
		k.named = k.named[max(0, len(k.named)-maxNamedKeys):]
	}
	allowed := k.limit.AllowN(now, 1)
	k.pending = k.pending || allowed
	k.mu.Unlock()
	if allowed {
		r.wakes.wake(srv.Key())
	}
	return allowed
}

// isPending reports whether a request for a server's keys waits.
func (r *keyRequests) isPending(obj client.Object) bool {
	k := r.of.get(obj)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pending
}

// take is isPending, and takes the request.
func (r *keyRequests) take(obj client.Object) bool {
	k := r.of.get(obj)
	k.mu.Lock()
	defer k.mu.Unlock()
	pending := k.pending
	k.pending = false
	return pending
}

// named returns the IDs of the keys that were asked for last.
func (r *keyRequests) named(obj client.Object) []string {
	k := r.of.get(obj)
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.named)
}
