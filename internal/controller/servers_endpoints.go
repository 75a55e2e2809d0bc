// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"net/url"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// endpoints knows where each server's endpoints are, as this process has discovered
// them.
type endpoints struct {
	found *each[foundEndpoints]

	// clients and provisioning are channels of servers whose endpoints became usable,
	// or other ones, without their object telling so: one for each controller that
	// sends something to them.
	clients, provisioning chan event.GenericEvent
}

type foundEndpoints struct {
	mu  sync.Mutex
	are v1alpha1.AuthorizationServerEndpoints
}

func newEndpoints(l *lives) *endpoints {
	return &endpoints{
		found:   newEach(l, func(client.Object) *foundEndpoints { return &foundEndpoints{} }, nil),
		clients: make(chan event.GenericEvent, 1024), provisioning: make(chan event.GenericEvent, 1024),
	}
}

// of returns the endpoints of a server that credentials may be sent to and keys
// fetched from. The status alone is not believed: others may be able to write it, and
// an endpoint of theirs would be sent every client's secret.
func (e *endpoints) of(obj client.Object) v1alpha1.AuthorizationServerEndpoints {
	return usableEndpoints(specOf(obj), e.discovered(obj), statusOf(obj).Endpoints)
}

// discovered returns the endpoints that this process has discovered itself.
func (e *endpoints) discovered(obj client.Object) v1alpha1.AuthorizationServerEndpoints {
	f := e.found.get(obj)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.are
}

// learn notes endpoints that were discovered. One that was known and is not named any
// more stays.
func (e *endpoints) learn(obj client.Object, named v1alpha1.AuthorizationServerEndpoints) {
	f := e.found.get(obj)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.are = firstEndpoints(named, f.are)
}

// tell has what sends something to a server's endpoints look at them again.
func (e *endpoints) tell(ctx context.Context, obj client.Object) {
	for _, c := range []chan event.GenericEvent{e.clients, e.provisioning} {
		select {
		case c <- event.GenericEvent{Object: obj}:
		case <-ctx.Done():
		}
	}
}

// usableEndpoints chooses for each endpoint what the spec names, else what this process
// discovered itself, else what the status tells if that is where the issuer is: so a
// restart costs nothing while the server's metadata cannot be read.
func usableEndpoints(spec *v1alpha1.AuthorizationServerSpec, found, told v1alpha1.AuthorizationServerEndpoints) v1alpha1.AuthorizationServerEndpoints {
	told.Token, told.JWKS, told.Registration = nearby(spec.Issuer, told.Token), nearby(spec.Issuer, told.JWKS), nearby(spec.Issuer, told.Registration)
	return firstEndpoints(spec.Endpoints, found, told)
}

// firstEndpoints takes each endpoint from the first that has it.
func firstEndpoints(from ...v1alpha1.AuthorizationServerEndpoints) (all v1alpha1.AuthorizationServerEndpoints) {
	for _, e := range from {
		all.Token, all.JWKS, all.Registration = cmp.Or(all.Token, e.Token), cmp.Or(all.JWKS, e.JWKS), cmp.Or(all.Registration, e.Registration)
	}
	return all
}

// nearby returns an endpoint that has the issuer's scheme, host and port, "" for any other.
func nearby(issuer string, endpoint v1alpha1.EndpointURL) v1alpha1.EndpointURL {
	a, errA := url.Parse(issuer)
	b, errB := url.Parse(string(endpoint))
	if errA != nil || errB != nil || a.Scheme != b.Scheme || a.Host != b.Host {
		return ""
	}
	return endpoint
}

// trustedStatus returns a server's status with the endpoints that may be used. Of the
// JWKS a bundle tells where it is; that is not fetched, and stays as it was until it
// is discovered.
func (e *endpoints) trustedStatus(obj client.Object) *v1alpha1.AuthorizationServerStatus {
	status, usable := *statusOf(obj), e.of(obj)
	usable.JWKS = cmp.Or(usable.JWKS, status.Endpoints.JWKS)
	status.Endpoints = usable
	return &status
}

// edited passes the updates that leave other endpoints in a server's status
// than the spec and this process' own discovery say.
func (e *endpoints) edited() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(u event.UpdateEvent) bool {
			return statusOf(u.ObjectOld).Endpoints != statusOf(u.ObjectNew).Endpoints && statusOf(u.ObjectNew).Endpoints != e.of(u.ObjectNew)
		},
	}
}

// endpointsOf returns the endpoints that a server's metadata names.
func endpointsOf(m *jwks.Metadata) v1alpha1.AuthorizationServerEndpoints {
	return v1alpha1.AuthorizationServerEndpoints{
		Token: v1alpha1.EndpointURL(m.TokenEndpoint), JWKS: v1alpha1.EndpointURL(m.JWKSURI), Registration: v1alpha1.EndpointURL(m.RegistrationEndpoint),
	}
}
