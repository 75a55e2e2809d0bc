// SPDX-License-Identifier: Apache-2.0

package servers

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

// KeyRefetchInterval is the least time between two fetches of a server's keys because of an
// unknown key ID.
const KeyRefetchInterval = 10 * time.Second

// Wakes holds a channel for each kind of server, by which a server's controller is woken.
type Wakes map[v1alpha1.AuthorizationServerKind]chan event.GenericEvent

// NewWakes returns a channel for each kind of server.
func NewWakes() Wakes {
	return Wakes{
		v1alpha1.KindAuthorizationServer:        make(chan event.GenericEvent, 16),
		v1alpha1.KindClusterAuthorizationServer: make(chan event.GenericEvent, 16),
	}
}

// Wake makes the controller look at a server now.
func (w Wakes) Wake(key rules.ServerKey) {
	select {
	case w[key.Kind] <- event.GenericEvent{Object: key.Object()}:
	default: // the controller is busy with other servers, and will find what is due
	}
}

// KeyRequests holds requests to fetch a server's keys now, because a token is signed with an
// unknown key.
type KeyRequests struct {
	clock clock.PassiveClock
	wakes Wakes
	of    *Each[keyRequest]
}

type keyRequest struct {
	mu      sync.Mutex
	limit   *rate.Limiter
	pending bool
	named   []string // the last IDs of unknown keys that tokens are signed with
}

// NewKeyRequests returns requests that wake the server's controller.
func NewKeyRequests(l *Lives, c clock.PassiveClock, wakes Wakes) *KeyRequests {
	return &KeyRequests{clock: c, wakes: wakes, of: NewEach(l, func(client.Object) *keyRequest {
		return &keyRequest{limit: rate.NewLimiter(rate.Every(KeyRefetchInterval), 1)}
	}, nil)}
}

// MaxNamedKeys bounds the IDs of requested keys that are remembered for a server.
const MaxNamedKeys = jwks.MaxRecords

// Request asks for a server's keys to be fetched at once, because a token is signed with an
// unknown key. It reports whether they will be: at most once per KeyRefetchInterval.
func (r *KeyRequests) Request(srv *rules.Server, keyID string) bool {
	k, now := r.of.Get(srv.Object), r.clock.Now()
	k.mu.Lock()
	if keyID != "" && jwks.ValidKeyID(keyID) && !slices.Contains(k.named, keyID) {
		k.named = append(k.named, keyID)
		k.named = k.named[max(0, len(k.named)-MaxNamedKeys):]
	}
	allowed := k.limit.AllowN(now, 1)
	k.pending = k.pending || allowed
	k.mu.Unlock()
	if allowed {
		r.wakes.Wake(srv.Key())
	}
	return allowed
}

// IsPending reports whether a request for a server's keys is waiting.
func (r *KeyRequests) IsPending(obj client.Object) bool {
	k := r.of.Get(obj)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pending
}

// Take reports whether a request for a server's keys was waiting, and removes it.
func (r *KeyRequests) Take(obj client.Object) bool {
	k := r.of.Get(obj)
	k.mu.Lock()
	defer k.mu.Unlock()
	pending := k.pending
	k.pending = false
	return pending
}

// Named returns the IDs of the keys that were requested last.
func (r *KeyRequests) Named(obj client.Object) []string {
	k := r.of.Get(obj)
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.named)
}
