// SPDX-License-Identifier: Apache-2.0

// Package provisioning makes authorization servers have what APIResources and M2MClients
// declare: one loop for both kinds compares each object with its server when that is
// due, records what it finds, and removes what deleted objects leave there.
package provisioning

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/text"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

const defaultResyncInterval = 10 * time.Minute

// Config holds the dependencies and options of a provisioner.
type Config struct {
	Shard   watch.Shard
	Client  client.Client
	Live    client.Reader // past the cache
	Clock   clock.PassiveClock
	Events  recorder.EventRecorder
	Access  rules.Resolver
	Servers *Administration
	Watched watch.Namespaces
	Learnt  <-chan event.GenericEvent // servers of which this process learnt endpoints

	// DeletionTimeout is how long a deleted object is held until what was
	// provisioned of it is removed at its server.
	DeletionTimeout time.Duration
}

// AdministrationConfig holds the dependencies and options of an Administration.
type AdministrationConfig struct {
	Lives       *servers.Lives
	Connections *servers.Connections
	Endpoints   *servers.Endpoints
	Admission   *servers.Admission
	Foreign     *foreign.Objects
	Client      client.Reader
	Clock       clock.PassiveClock
	Wakes       servers.Wakes

	OperatorNamespace string
	Cluster           string // ID of the cluster at shared servers; empty: that of kube-system
	Workers           int
}

// Administration speaks to the administration of servers: with which driver, and how
// many objects at a time.
type Administration struct {
	AdministrationConfig

	// gate decides what is provisioned now: that may fail while tokens are issued.
	gate *traffic.Gate
	// inFlightMax bounds the objects that are provisioned at one server at a time,
	// so that one that hangs leaves workers for the others.
	inFlightMax int
	// drivers are the last ones that could be made, for what is to be removed
	// when its server or its credential is gone already: from driverKey to
	// provision.Driver.
	drivers *lru.Cache
	of      *servers.Each[provisioningRuntime]
}

// NewAdministration returns an administration that has spoken to no server yet.
func NewAdministration(c AdministrationConfig) *Administration {
	a := &Administration{
		AdministrationConfig: c, gate: traffic.NewGate(c.Workers), inFlightMax: max(1, c.Workers/2), drivers: lru.New(maxDrivers),
		of: servers.NewEach(c.Lives, func(client.Object) *provisioningRuntime { return &provisioningRuntime{} }, nil),
	}
	c.Lives.OnEnd(func(key rules.ServerKey, uid types.UID) { a.gate.Forget(servers.OwnerOf(key, uid)) })
	return a
}

// provisioningRuntime is the in-memory state of one server's provisioning; lost on
// restart.
type provisioningRuntime struct {
	mu sync.Mutex

	requests uint64 // how often a turn was asked for

	driver   provision.Driver
	kind     v1alpha1.ProvisioningDriver // of the driver
	version  string                      // of what the driver was made from
	inFlight int
	queue    *traffic.Queue[waiter] // for a place among those that are worked on
	waiting  map[types.UID]bool     // who is in the queue

	// check is how the last provision.Driver.Check went.
	check        *rules.Problem
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

func resyncInterval(spec *v1alpha1.AuthorizationServerSpec) time.Duration {
	return spec.Provisioning.ResyncInterval.Or(defaultResyncInterval)
}

// driver returns what speaks a server's administration API, and what identifies
// the configuration that it was made from.
func (a *Administration) driver(ctx context.Context, obj client.Object) (d provision.Driver, version string, p *rules.Problem, err error) {
	spec, rt := record.SpecOf(obj), a.of.Get(obj)
	if rules.Driver(spec) == "" {
		return nil, "", &rules.Problem{
			Reason:  v1alpha1.ReasonProvisioningNotConfigured,
			Message: fmt.Sprintf("%s %q has no spec.provisioning", rules.ServerKeyOf(obj).Kind, obj.GetName()),
		}, nil
	}
	hc, _, p, err := a.Connections.HTTPClient(ctx, obj)
	if p != nil || err != nil {
		return nil, "", p, err
	}
	secret, secretVersion, p, err := a.provisioningSecret(ctx, obj)
	if p != nil || err != nil {
		return nil, "", p, err
	}
	endpoint, caVersion := a.registrationEndpoint(obj), a.Connections.CaVersion(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	version = provision.Hash(spec.Provisioning, endpoint, spec.Requests, spec.AudienceParameter, secretVersion, caVersion)
	if rt.driver != nil && rt.version == version {
		return rt.driver, version, nil, nil
	}
	paced := a.pace(hc, rt, obj)
	if l := spec.Provisioning.Logto; l.Endpoint != "" {
		d = logto.New(logto.Config{
			Endpoint: string(l.Endpoint), ManagementAPI: string(l.ManagementAPI),
			ClientID: secret.id, ClientSecret: secret.value, HTTP: paced, Now: a.Clock.Now,
		})
	} else {
		if endpoint == "" {
			return nil, "", &rules.Problem{
				Reason:  v1alpha1.ReasonEndpointMissing,
				Message: "The server's metadata names no client registration endpoint; set spec.provisioning.dynamicRegistration.endpoint",
			}, nil
		}
		d = a.registrar(spec, endpoint, secret.value, paced)
	}
	rt.driver, rt.kind, rt.version = d, rules.Driver(spec), version
	a.drivers.Add(driverKey{rules.ServerKeyOf(obj), rules.Driver(spec)}, d)
	return d, version, nil, nil
}

func (a *Administration) registrar(spec *v1alpha1.AuthorizationServerSpec, endpoint string, initial provision.Sensitive, paced *http.Client) provision.Driver {
	method := "client_secret_basic"
	if spec.Provisioning.DynamicRegistration.AuthenticationMethod == v1alpha1.ClientSecretPost {
		method = "client_secret_post"
	}
	return registration.New(registration.Config{
		Endpoint: endpoint, InitialAccessToken: initial, AuthenticationMethod: method, HTTP: paced, Now: a.Clock.Now,
		Audience: spec.AudienceParameter == v1alpha1.AudienceParameterAudience,
	})
}

// unregistrar returns a driver that removes what is registered at a server whose initial access token cannot be
// read: only a registration needs that. It is nil if there is no such driver.
func (a *Administration) unregistrar(ctx context.Context, obj client.Object) (provision.Driver, error) {
	spec, endpoint := record.SpecOf(obj), a.registrationEndpoint(obj)
	if rules.Driver(spec) != v1alpha1.DriverDynamicRegistration || endpoint == "" {
		return nil, nil
	}
	hc, _, p, err := a.Connections.HTTPClient(ctx, obj)
	if p != nil || err != nil {
		return nil, err
	}
	return a.registrar(spec, endpoint, "", a.pace(hc, a.of.Get(obj), obj)), nil
}

func (a *Administration) registrationEndpoint(obj client.Object) string {
	return string(cmp.Or(record.SpecOf(obj).Provisioning.DynamicRegistration.Endpoint, a.Endpoints.Of(obj).Registration))
}

// driverKey names a driver of a server.
type driverKey struct {
	server rules.ServerKey
	driver v1alpha1.ProvisioningDriver
}

// maxDrivers is how many drivers are kept beside those of the servers that exist.
// Servers come and go, and each driver has a client of its own with a CA bundle.
const maxDrivers = 64

// lastDriver returns the driver of a kind that a server was last spoken to with,
// nil if this process never did, or with many others since the server is gone.
func (a *Administration) lastDriver(at v1alpha1.ProvisioningServer) provision.Driver {
	if rt := a.of.Find(record.KeyOf(at)); rt != nil {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		if rt.driver != nil && rt.kind == at.Driver {
			return rt.driver
		}
	}
	d, _ := a.drivers.Get(driverKey{record.KeyOf(at), at.Driver})
	driver, _ := d.(provision.Driver)
	return driver
}

// provisioningCredential is what a driver proves itself with.
type provisioningCredential struct {
	id    string
	value provision.Sensitive
}

// provisioningSecret reads the credential that a server is provisioned with.
func (a *Administration) provisioningSecret(ctx context.Context, obj client.Object) (c provisioningCredential, version string, p *rules.Problem, err error) {
	name, key := string(record.SpecOf(obj).Provisioning.Logto.CredentialsSecretRef.Name), v1alpha1.ClientSecretKey
	if name == "" {
		ref := record.SpecOf(obj).Provisioning.DynamicRegistration.InitialAccessTokenSecretRef
		if name, key = string(ref.Name), cmp.Or(string(ref.Key), v1alpha1.InitialAccessTokenKey); name == "" {
			return c, "", nil, nil // registration is open
		}
	}
	namespace := cmp.Or(obj.GetNamespace(), a.OperatorNamespace)
	missing := func(format string, args ...any) (provisioningCredential, string, *rules.Problem, error) {
		return c, "", &rules.Problem{Reason: v1alpha1.ReasonCredentialsNotFound, Message: fmt.Sprintf(format, args...)}, nil
	}
	if namespace == "" {
		return missing("The operator does not know its own namespace, where the provisioning credential is; set its flag --operator-namespace")
	}
	content, err := a.Foreign.Get(ctx, "Secret", types.NamespacedName{Namespace: namespace, Name: name}, foreign.MaxCredential, key, v1alpha1.ClientIDKey)
	if err != nil {
		return c, "", nil, err
	}
	if content == nil {
		return missing("Secret %q with the provisioning credential does not exist in namespace %q", name, namespace)
	}
	if bad := a.Foreign.MayBeSent(types.NamespacedName{Namespace: namespace, Name: name}, content); bad != nil {
		return c, "", bad, nil
	}
	if len(content.TooLong) > 0 {
		return c, "", foreign.TooLongCredential(name, content.TooLong[0]), nil
	}
	read := func(key string) string { return strings.TrimSpace(string(content.Data[key])) }
	instead := func(key string) string {
		if obj.GetNamespace() == "" { // the condition of a cluster's server can be read by everybody
			return ""
		}
		return content.Instead(key)
	}
	c.value = provision.Sensitive(read(key))
	if c.value == "" {
		return missing("Secret %q with the provisioning credential has no key %q%s", name, key, instead(key))
	}
	if record.SpecOf(obj).Provisioning.Logto.Endpoint != "" {
		if c.id = read(v1alpha1.ClientIDKey); c.id == "" {
			return missing("Secret %q with the provisioning credential has no key %q%s", name, v1alpha1.ClientIDKey, instead(v1alpha1.ClientIDKey))
		}
	}
	if strings.ContainsFunc(c.id+c.value.Reveal(), oauth.NotVSCHAR) {
		return c, "", &rules.Problem{
			Reason:  v1alpha1.ReasonCredentialsInvalid,
			Message: fmt.Sprintf("Secret %q with the provisioning credential holds characters that RFC 6749 does not allow", name),
		}, nil
	}
	return c, content.Version, nil, nil
}

// enter asks whether an object may be worked on at a server now. If it may, exit is
// to be told how that went; if not, enter says how long to wait and why, and wakes the
// object when its turn comes.
func (a *Administration) enter(obj, o client.Object, wake chan<- event.GenericEvent) (exit func(context.Context, error), wait time.Duration, p *rules.Problem) {
	rt, now, key := a.of.Get(obj), a.Clock.Now(), rules.ServerKeyOf(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	// Each worker waits for the budget one request after another: with few of
	// them a token request never waits for more than a moment.
	most := min(a.inFlightMax, max(1, int(a.Admission.Budget(record.SpecOf(obj).Requests).PerSecond)/2))
	full := rt.inFlight >= most
	var answer traffic.Answer
	if !full {
		answer = a.gate.Ask(now, administrationOf(obj), traffic.Need{
			Asker: traffic.Asker{Tenant: o.GetNamespace(), Client: string(o.GetUID())}, Since: o.GetCreationTimestamp().Time, Proven: true,
		})
	}
	switch {
	case answer.Ticket != nil:
	case full, answer.Cause == traffic.CausePlaces, answer.Cause == traffic.CauseBudget:
		rt.enqueue(o, wake)
		wait = answer.Wait // nobody here wakes for a worker's place that another server has
		if full {
			wait = refresh.Between(string(o.GetUID()), queueWait, 2*queueWait)
		}
		return nil, wait, &rules.Problem{
			Reason: v1alpha1.ReasonWaitingForBudget, Unknown: true,
			Message: fmt.Sprintf("Other objects come first at %s %q", key.Kind, key.Name),
		}
	default:
		return nil, answer.Wait, &rules.Problem{
			Reason:  v1alpha1.ReasonAuthorizationServerUnavailable,
			Message: fmt.Sprintf("The administration of %s %q keeps failing; one object at a time tries again", key.Kind, key.Name),
		}
	}
	rt.inFlight++
	return func(ctx context.Context, err error) {
		a.exit(ctx, rt, answer.Ticket, err)
		if err == nil {
			a.checkAgain(obj)
		}
	}, 0, nil
}

// administrationOf is the route to a server's administration. Its requests are paced
// one by one: what is asked for here is a worker's place, and whether it works.
func administrationOf(obj client.Object) traffic.Endpoint {
	name := servers.Owner(obj)
	return traffic.Endpoint{Account: name, Route: name, Owner: name, Own: traffic.Budget{PerSecond: 1e6, Burst: 1e6}}
}

// exit notes how the work on an object went.
func (a *Administration) exit(ctx context.Context, rt *provisioningRuntime, t *traffic.Ticket, err error) {
	rt.mu.Lock()
	rt.inFlight = max(0, rt.inFlight-1)
	rt.wakeNext()
	rt.mu.Unlock()
	now := a.Clock.Now()
	var e *provision.Error
	switch isError := errors.As(err, &e); {
	case ctx.Err() != nil || err != nil && !isError:
		a.gate.Abandon(now, t) // no news about the server
	case isError && e.Kind == provision.Unavailable && e.Status == 0:
		a.gate.Done(now, t, traffic.Unanswered, 0)
	case isError && e.Kind == provision.Unavailable:
		a.gate.Done(now, t, traffic.Failed, e.RetryAfter)
	default:
		a.gate.Done(now, t, traffic.Served, 0)
	}
}

// checkAgain has a server checked at once whose last check failed: something was
// provisioned there since.
func (a *Administration) checkAgain(obj client.Object) {
	rt, key := a.of.Get(obj), rules.ServerKeyOf(obj)
	rt.mu.Lock()
	failed := rt.check != nil
	if failed {
		rt.checkDue = time.Time{}
	}
	rt.mu.Unlock()
	if !failed {
		return
	}
	a.Wakes.Wake(key)
}

// enqueue notes who is to be woken.
func (rt *provisioningRuntime) enqueue(o client.Object, wake chan<- event.GenericEvent) {
	if rt.waiting == nil {
		rt.waiting = map[types.UID]bool{}
		rt.queue = traffic.NewQueue(func(w waiter) string { return w.object.GetNamespace() }, nil)
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
func provisioningProblem(err error) *rules.Problem {
	var e *provision.Error
	if !errors.As(err, &e) {
		return &rules.Problem{Reason: v1alpha1.ReasonProvisioningFailed, Message: "Provisioning failed"}
	}
	reasons := map[provision.ErrorKind]string{
		provision.NotFound: v1alpha1.ReasonAdoptedNotFound, provision.Conflict: v1alpha1.ReasonExistsAtServer,
		provision.Refused: v1alpha1.ReasonProvisioningRefused, provision.Forbidden: v1alpha1.ReasonProvisioningForbidden,
	}
	return &rules.Problem{Reason: cmp.Or(reasons[e.Kind], v1alpha1.ReasonProvisioningFailed), Message: text.Sentence(e.Message)}
}

// provisioningWait returns how long to wait after so many failures in a row.
func provisioningWait(err error, attempts int, who types.UID) time.Duration {
	return provision.RetryIn(err, attempts, string(who))
}

// clusterID tells the clusters apart that share an authorization server.
func (a *Administration) clusterID(ctx context.Context) (string, error) {
	if a.Cluster != "" {
		return a.Cluster, nil
	}
	ns := cached.Metadata("Namespace")
	if err := a.Client.Get(ctx, types.NamespacedName{Name: "kube-system"}, ns); err != nil {
		return "", fmt.Errorf("look up the cluster's ID, which is the UID of namespace kube-system (--cluster-id): %w", err)
	}
	return string(ns.UID), nil
}

// owner returns whose an object's things at a server are.
func (a *Administration) owner(ctx context.Context, kind string, o client.Object) (provision.Owner, error) {
	cluster, err := a.clusterID(ctx)
	return provision.Owner{Cluster: cluster, Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID())}, err
}

// drifted counts differences that were put right at a server. The series of a server
// that is gone were deleted.
func (a *Administration) drifted(srv *rules.Server, n int) {
	if !a.Lives.IsGone(srv.Object) {
		metrics.ObserveDrift(srv.Key(), n)
	}
}

// CheckIsDue reports whether a server's credential is to be checked now.
func (a *Administration) CheckIsDue(obj client.Object, now time.Time) bool {
	if rules.Driver(record.SpecOf(obj)) == "" {
		return false
	}
	rt := a.of.Get(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return !now.Before(rt.checkDue)
}

// ForgetCheck makes the next check of a server's credential due.
func (a *Administration) ForgetCheck(obj client.Object) {
	if rules.Driver(record.SpecOf(obj)) == "" {
		return
	}
	rt := a.of.Get(obj)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.checkDue = time.Time{}
}

// CheckProvisioning reports whether the credential works that a server is
// provisioned with, and when to look again. It asks the server rarely.
func (a *Administration) CheckProvisioning(ctx context.Context, obj client.Object, now time.Time) (*rules.Problem, time.Time, error) {
	d, version, p, err := a.driver(ctx, obj)
	if p != nil || err != nil {
		return p, now.Add(resyncInterval(record.SpecOf(obj))), err
	}
	rt := a.of.Get(obj)
	rt.mu.Lock()
	fresh, check, due := rt.checkVersion == version && now.Before(rt.checkDue), rt.check, rt.checkDue
	rt.mu.Unlock()
	if fresh {
		return check, due, nil
	}
	failed := d.Check(ctx)
	if ctx.Err() != nil {
		return nil, time.Time{}, ctx.Err()
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	at := rt
	at.checkVersion, at.check, at.checkDue = version, nil, now.Add(resyncInterval(record.SpecOf(obj)))
	if failed != nil {
		at.checkFailed++
		at.check, at.checkDue = provisioningProblem(failed), now.Add(provisioningWait(failed, at.checkFailed, obj.GetUID()))
	} else {
		at.checkFailed = 0
	}
	return at.check, at.checkDue, nil
}
