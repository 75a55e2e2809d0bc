// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"cmp"
	"context"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// Endpoints knows each server's endpoints as this process has discovered them.
type Endpoints struct {
	found *Each[foundEndpoints]

	// Clients and Provisioning receive servers whose endpoints became usable or changed
	// without a change of the object. There is one channel for each controller that sends
	// requests to the endpoints.
	Clients, Provisioning chan event.GenericEvent
}

type foundEndpoints struct {
	mu  sync.Mutex
	are v1alpha1.AuthorizationServerEndpoints
}

// NewEndpoints returns endpoints of which none is discovered yet.
func NewEndpoints(l *Lives) *Endpoints {
	return &Endpoints{
		found:   NewEach(l, func(client.Object) *foundEndpoints { return &foundEndpoints{} }, nil),
		Clients: make(chan event.GenericEvent, 1024), Provisioning: make(chan event.GenericEvent, 1024),
	}
}

// Of returns the endpoints of a server to which credentials may be sent and from which keys
// may be fetched. It does not trust the status alone: others may be able to write it, and
// an endpoint of theirs would receive every client's secret.
func (e *Endpoints) Of(obj client.Object) v1alpha1.AuthorizationServerEndpoints {
	return record.UsableEndpoints(record.SpecOf(obj), e.Discovered(obj), record.StatusOf(obj).Endpoints)
}

// Discovered returns the endpoints that this process itself has discovered.
func (e *Endpoints) Discovered(obj client.Object) v1alpha1.AuthorizationServerEndpoints {
	f := e.found.Get(obj)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.are
}

// Learn records discovered endpoints. A known endpoint that is no longer named stays.
func (e *Endpoints) Learn(obj client.Object, named v1alpha1.AuthorizationServerEndpoints) {
	f := e.found.Get(obj)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.are = record.FirstEndpoints(named, f.are)
}

// Tell notifies the controllers that send requests to a server's endpoints.
func (e *Endpoints) Tell(ctx context.Context, obj client.Object) {
	for _, c := range []chan event.GenericEvent{e.Clients, e.Provisioning} {
		select {
		case c <- event.GenericEvent{Object: obj}:
		case <-ctx.Done():
		}
	}
}

// trustedStatus returns a server's status with the endpoints that may be used. The address
// of the JWKS stays as the status has it until it is discovered: it is only shown in
// bundles, and the operator does not fetch it.
func (e *Endpoints) trustedStatus(obj client.Object) *v1alpha1.AuthorizationServerStatus {
	status, usable := *record.StatusOf(obj), e.Of(obj)
	usable.JWKS = cmp.Or(usable.JWKS, status.Endpoints.JWKS)
	status.Endpoints = usable
	return &status
}

// Edited passes updates of a server's status after which its endpoints differ from those
// that may be used.
func (e *Endpoints) Edited() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(u event.UpdateEvent) bool {
			return record.StatusOf(u.ObjectOld).Endpoints != record.StatusOf(u.ObjectNew).Endpoints && record.StatusOf(u.ObjectNew).Endpoints != e.Of(u.ObjectNew)
		},
	}
}
