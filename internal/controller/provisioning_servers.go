// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

const defaultResyncInterval = 10 * time.Minute

// provisioningRuntime is what of a server's provisioning lives as long as the
// process.
type provisioningRuntime struct {
	driver   provision.Driver
	kind     v1alpha1.ProvisioningDriver // of the driver
	version  string                      // of what the driver was made from
	inFlight int
	queue    *traffic.Queue[waiter] // for a place among those that are worked on
	waiting  map[types.UID]bool     // who is in the queue

	// check is how the last provision.Driver.Check went.
	check        *problem
	checkVersion string
	checkDue     time.Time
	checkFailed  int
}

// waiter is an object that waits for its turn at a server.
type waiter struct {
	object client.Object
	wake   chan<- event.GenericEvent
}

// queueWait is when a waiter asks again that was not woken. It is woken when
// somebody else leaves.
const queueWait = 30 * time.Second

// provisions reports whether the operator creates what is declared at a server.
func provisions(spec *v1alpha1.AuthorizationServerSpec) bool { return driverOf(spec) != "" }

// registers reports whether it does so by dynamic registration.
func registers(spec *v1alpha1.AuthorizationServerSpec) bool {
	return driverOf(spec) == v1alpha1.DriverDynamicRegistration
}

// driverOf returns how a server is provisioned, "" if it is not.
func driverOf(spec *v1alpha1.AuthorizationServerSpec) v1alpha1.ProvisioningDriver {
	return rules.Driver(spec)
}

func resyncInterval(spec *v1alpha1.AuthorizationServerSpec) time.Duration {
	return spec.Provisioning.ResyncInterval.Or(defaultResyncInterval)
}

// driver returns what speaks a server's administration API, and what identifies
// the configuration that it was made from.
func (s *servers) driver(ctx context.Context, obj client.Object) (d provision.Driver, version string, p *problem, err error) {
	spec, rt := specOf(obj), s.runtime(obj)
	if !provisions(spec) {
		return nil, "", &problem{
			reason:  v1alpha1.ReasonProvisioningNotConfigured,
			message: fmt.Sprintf("%s %q has no spec.provisioning", keyOfObject(obj).kind, obj.GetName()),
		}, nil
	}
	hc, _, p, err := s.httpClient(ctx, obj)
	if p != nil || err != nil {
		return nil, "", p, err
	}
	secret, secretVersion, p, err := s.provisioningSecret(ctx, obj)
	if p != nil || err != nil {
		return nil, "", p, err
	}
	endpoint := s.registrationEndpoint(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	version = provision.Hash(spec.Provisioning, endpoint, spec.Requests, spec.AudienceParameter, secretVersion, rt.caVersion)
	if rt.provisioning.driver != nil && rt.provisioning.version == version {
		return rt.provisioning.driver, version, nil, nil
	}
	paced := s.pace(hc, rt, obj)
	if l := spec.Provisioning.Logto; l.Endpoint != "" {
		d = logto.New(logto.Config{
			Endpoint: string(l.Endpoint), ManagementAPI: cmp.Or(string(l.ManagementAPI), logto.ManagementAPI(string(l.Endpoint))),
			ClientID: secret.id, ClientSecret: secret.value, HTTP: paced, Now: s.clock.Now,
		})
	} else {
		if endpoint == "" {
			return nil, "", &problem{
				reason:  v1alpha1.ReasonEndpointMissing,
				message: "The server's metadata names no client registration endpoint; set spec.provisioning.dynamicRegistration.endpoint",
			}, nil
		}
		method := "client_secret_basic"
		if spec.Provisioning.DynamicRegistration.AuthenticationMethod == v1alpha1.ClientSecretPost {
			method = "client_secret_post"
		}
		d = registration.New(registration.Config{
			Endpoint: endpoint, InitialAccessToken: secret.value, AuthenticationMethod: method, HTTP: paced, Now: s.clock.Now,
			Audience: spec.AudienceParameter == v1alpha1.AudienceParameterAudience,
		})
	}
	rt.provisioning.driver, rt.provisioning.kind, rt.provisioning.version = d, driverOf(spec), version
	s.drivers.Add(driverKey{keyOfObject(obj), driverOf(spec)}, d)
	return d, version, nil, nil
}

func (s *servers) registrationEndpoint(obj client.Object) string {
	return string(cmp.Or(specOf(obj).Provisioning.DynamicRegistration.Endpoint, s.endpoints(obj).Registration))
}

// driverKey names a driver of a server.
type driverKey struct {
	server serverKey
	driver v1alpha1.ProvisioningDriver
}

// maxDrivers is how many drivers are kept beside those of the servers that exist.
// Servers come and go, and each driver has a client of its own with a CA bundle.
const maxDrivers = 64

// lastDriver returns the driver of a kind that a server was last spoken to with,
// nil if this process never did, or with many others since the server is gone.
func (s *servers) lastDriver(at v1alpha1.ProvisioningServer) provision.Driver {
	s.mu.Lock()
	rt := s.runtimes[keyOfProvisioning(at)]
	s.mu.Unlock()
	if rt != nil {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		if rt.provisioning.driver != nil && rt.provisioning.kind == at.Driver {
			return rt.provisioning.driver
		}
	}
	d, _ := s.drivers.Get(driverKey{keyOfProvisioning(at), at.Driver})
	driver, _ := d.(provision.Driver)
	return driver
}

// provisioningCredential is what a driver proves itself with.
type provisioningCredential struct {
	id    string
	value provision.Sensitive
}

// provisioningSecret reads the credential that a server is provisioned with.
func (s *servers) provisioningSecret(ctx context.Context, obj client.Object) (c provisioningCredential, version string, p *problem, err error) {
	name, key := string(specOf(obj).Provisioning.Logto.CredentialsSecretRef.Name), v1alpha1.ClientSecretKey
	if name == "" {
		ref := specOf(obj).Provisioning.DynamicRegistration.InitialAccessTokenSecretRef
		if name, key = string(ref.Name), cmp.Or(string(ref.Key), v1alpha1.InitialAccessTokenKey); name == "" {
			return c, "", nil, nil // registration is open
		}
	}
	namespace := cmp.Or(obj.GetNamespace(), s.operatorNamespace)
	missing := func(format string, args ...any) (provisioningCredential, string, *problem, error) {
		return c, "", &problem{reason: v1alpha1.ReasonCredentialsNotFound, message: fmt.Sprintf(format, args...)}, nil
	}
	if namespace == "" {
		return missing("The provisioning credential lies in the operator's namespace, which it was not told: --operator-namespace")
	}
	content, err := s.foreign.get(ctx, "Secret", types.NamespacedName{Namespace: namespace, Name: name}, maxCredential, key, v1alpha1.ClientIDKey)
	if err != nil {
		return c, "", nil, err
	}
	if content == nil {
		return missing("Secret %q with the provisioning credential does not exist in namespace %q", name, namespace)
	}
	if bad := s.mayBeSent(types.NamespacedName{Namespace: namespace, Name: name}, content); bad != nil {
		return c, "", bad, nil
	}
	if len(content.tooLong) > 0 {
		return c, "", tooLongCredential(name, content.tooLong[0]), nil
	}
	read := func(key string) string { return strings.TrimSpace(string(content.data[key])) }
	c.value = provision.Sensitive(read(key))
	if c.value == "" {
		return missing("Secret %q with the provisioning credential has no key %q", name, key)
	}
	if specOf(obj).Provisioning.Logto.Endpoint != "" {
		if c.id = read(v1alpha1.ClientIDKey); c.id == "" {
			return missing("Secret %q with the provisioning credential has no key %q", name, v1alpha1.ClientIDKey)
		}
	}
	if strings.ContainsFunc(c.id+c.value.Reveal(), notPrintable) {
		return c, "", &problem{
			reason:  v1alpha1.ReasonCredentialsInvalid,
			message: fmt.Sprintf("Secret %q with the provisioning credential holds characters that RFC 6749 does not allow", name),
		}, nil
	}
	return c, content.version, nil, nil
}

// enter asks whether an object may be worked on at a server now. If it may, leave is
// to be told how that went; if not, enter says how long to wait and why, and wakes the
// object when its turn comes.
func (s *servers) enter(obj, o client.Object, wake chan<- event.GenericEvent) (leave func(context.Context, error), wait time.Duration, p *problem) {
	rt, now, key := s.runtime(obj), s.clock.Now(), keyOfObject(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	// Each worker waits for the budget one request after another: with few of
	// them a token request never waits for more than a moment.
	most := min(s.inFlightMax, max(1, int(s.budget(specOf(obj).Requests).PerSecond)/2))
	full := rt.provisioning.inFlight >= most
	var answer traffic.Answer
	if !full {
		answer = s.administration.Ask(now, administrationOf(obj), traffic.Need{
			Asker: traffic.Asker{Tenant: o.GetNamespace(), Client: string(o.GetUID())}, Since: o.GetCreationTimestamp().Time, Proven: true,
		})
	}
	switch {
	case answer.Ticket != nil:
	case full, answer.Cause == traffic.CausePlaces, answer.Cause == traffic.CauseBudget:
		rt.provisioning.enqueue(o, wake)
		wait = answer.Wait // nobody here wakes for a worker's place that another server has
		if full {
			wait = spread(o.GetUID(), queueWait, 2*queueWait)
		}
		return nil, wait, &problem{
			reason: v1alpha1.ReasonWaitingForBudget, unknown: true,
			message: fmt.Sprintf("Others are being provisioned at %s %q first", key.kind, key.name),
		}
	default:
		return nil, answer.Wait, &problem{
			reason:  v1alpha1.ReasonAuthorizationServerUnavailable,
			message: fmt.Sprintf("The administration of %s %q keeps failing; one object at a time tries again", key.kind, key.name),
		}
	}
	rt.provisioning.inFlight++
	return func(ctx context.Context, err error) {
		s.exit(ctx, rt, answer.Ticket, err)
		if err == nil {
			s.checkAgain(obj)
		}
	}, 0, nil
}

// administrationOf is the route to a server's administration. Its requests are paced
// one by one: what is asked for here is a worker's place, and whether it works.
func administrationOf(obj client.Object) traffic.Endpoint {
	name := owner(obj)
	return traffic.Endpoint{Account: name, Route: name, Owner: name, Own: traffic.Budget{PerSecond: 1e6, Burst: 1e6}}
}

// exit notes how the work on an object went.
func (s *servers) exit(ctx context.Context, rt *serverRuntime, t *traffic.Ticket, err error) {
	rt.mu.Lock()
	rt.provisioning.inFlight = max(0, rt.provisioning.inFlight-1)
	rt.provisioning.wakeNext()
	rt.mu.Unlock()
	now := s.clock.Now()
	var e *provision.Error
	switch isError := errors.As(err, &e); {
	case ctx.Err() != nil || err != nil && !isError:
		s.administration.Abandon(now, t) // no news about the server
	case isError && e.Kind == provision.Unavailable && e.Status == 0:
		s.administration.Done(now, t, traffic.Unanswered, 0)
	case isError && e.Kind == provision.Unavailable:
		s.administration.Done(now, t, traffic.Failed, e.RetryAfter)
	default:
		s.administration.Done(now, t, traffic.Served, 0)
	}
}

// checkAgain has a server checked at once whose last check failed: something was
// provisioned there since.
func (s *servers) checkAgain(obj client.Object) {
	rt, key := s.runtime(obj), keyOfObject(obj)
	rt.mu.Lock()
	failed := rt.provisioning.check != nil
	if failed {
		rt.provisioning.checkDue = time.Time{}
	}
	rt.mu.Unlock()
	if !failed {
		return
	}
	select {
	case s.wake[key.kind] <- event.GenericEvent{Object: key.object()}:
	default: // the controller is busy with others; it finds the check due
	}
}

// enqueue notes who is to be woken.
func (rt *provisioningRuntime) enqueue(o client.Object, wake chan<- event.GenericEvent) {
	if rt.waiting == nil {
		rt.waiting = map[types.UID]bool{}
		rt.queue = traffic.NewQueue(func(w waiter) string { return w.object.GetNamespace() }, func(waiter) int64 { return 0 })
	}
	if !rt.waiting[o.GetUID()] {
		rt.waiting[o.GetUID()] = true
		rt.queue.Push(waiter{o, wake})
	}
}

// wakeNext wakes two of those that wait, of namespaces in turn: one may have nothing
// to do any more, and the place must not stay empty for it.
func (rt *provisioningRuntime) wakeNext() {
	for range min(2, len(rt.waiting)) {
		next := rt.queue.Pop()
		delete(rt.waiting, next.object.GetUID())
		select {
		case next.wake <- event.GenericEvent{Object: next.object}:
		default: // its controller is busy; it asks again by itself
		}
	}
}

// provisioningProblem says what an error of a driver means.
func provisioningProblem(err error) *problem {
	var e *provision.Error
	if !errors.As(err, &e) {
		return &problem{reason: v1alpha1.ReasonProvisioningFailed, message: "Provisioning failed"}
	}
	reasons := map[provision.ErrorKind]string{
		provision.NotFound: v1alpha1.ReasonAdoptedNotFound, provision.Conflict: v1alpha1.ReasonExistsAtServer,
		provision.Refused: v1alpha1.ReasonProvisioningRefused, provision.Forbidden: v1alpha1.ReasonProvisioningForbidden,
	}
	return &problem{reason: cmp.Or(reasons[e.Kind], v1alpha1.ReasonProvisioningFailed), message: sentence(e.Message)}
}

// sentence makes a sentence of a fragment.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// provisioningWait returns how long to wait after so many failures in a row.
func provisioningWait(err error, attempts int, who types.UID) time.Duration {
	return provision.RetryIn(err, attempts, string(who))
}

// clusterID tells the clusters apart that share an authorization server.
func (s *servers) clusterID(ctx context.Context) (string, error) {
	if s.cluster != "" {
		return s.cluster, nil
	}
	ns := metadataOf("Namespace")
	if err := s.client.Get(ctx, types.NamespacedName{Name: "kube-system"}, ns); err != nil {
		return "", fmt.Errorf("look up the cluster's ID, which is the UID of namespace kube-system (--cluster-id): %w", err)
	}
	return string(ns.UID), nil
}

// owner returns whose an object's things at a server are.
func (s *servers) owner(ctx context.Context, kind string, o client.Object) (provision.Owner, error) {
	cluster, err := s.clusterID(ctx)
	return provision.Owner{Cluster: cluster, Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID())}, err
}

// checkProvisioning reports whether the credential works that a server is
// provisioned with, and when to look again. It asks the server rarely.
func (s *servers) checkProvisioning(ctx context.Context, obj client.Object, now time.Time) (*problem, time.Time, error) {
	d, version, p, err := s.driver(ctx, obj)
	if p != nil || err != nil {
		return p, now.Add(resyncInterval(specOf(obj))), err
	}
	rt := s.runtime(obj)
	rt.mu.Lock()
	state := rt.provisioning
	rt.mu.Unlock()
	if state.checkVersion == version && now.Before(state.checkDue) {
		return state.check, state.checkDue, nil
	}
	failed := d.Check(ctx)
	if ctx.Err() != nil {
		return nil, time.Time{}, ctx.Err()
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	at := &rt.provisioning
	at.checkVersion, at.check, at.checkDue = version, nil, now.Add(resyncInterval(specOf(obj)))
	if failed != nil {
		at.checkFailed++
		at.check, at.checkDue = provisioningProblem(failed), now.Add(provisioningWait(failed, at.checkFailed, obj.GetUID()))
	} else {
		at.checkFailed = 0
	}
	return at.check, at.checkDue, nil
}
