// SPDX-License-Identifier: Apache-2.0

// Package authserver keeps the endpoints and signing keys of each authorization
// server current, and lets a deleted server go once nothing that was provisioned at
// it remains. Package controller sets up one Reconciler for each kind of server,
// and in a shard an EndpointReconciler instead. The package requests no token and
// provisions nothing. Of the API objects it changes only a server's status and
// finalizer.
package authserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/lasting"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

const (
	// DefaultKeyRefreshInterval is how often signing keys are fetched where the spec
	// does not say.
	DefaultKeyRefreshInterval = time.Minute

	// defaultKeyRetention is how long a retired key stays where the spec does not say.
	defaultKeyRetention = 24 * time.Hour

	// DiscoveryInterval is how often a server's metadata is read again; its
	// endpoints rarely move.
	DiscoveryInterval = 10 * time.Minute
)

// newKeyRate limits how many new keys of one server are accepted. Each is written to the
// server's status, and to a bundle in every namespace that verifies.
var newKeyRate = pace.Rate{Every: time.Minute, Burst: 64}

// Config holds the dependencies of a Reconciler.
type Config struct {
	Kind   v1alpha1.AuthorizationServerKind
	Client client.Client
	Clock  clock.PassiveClock
	Events recorder.EventRecorder

	Lives       *servers.Lives
	Endpoints   *servers.Endpoints
	Connections *servers.Connections
	Requests    *servers.KeyRequests
	Wakes       servers.Wakes
	Foreign     *foreign.Objects
	Watched     watch.Namespaces
	Failures    *lasting.Failures

	OperatorNamespace string

	// Check reports what keeps a server from being provisioned, and when to check again.
	// CheckIsDue reports whether that time has come.
	Check      func(context.Context, client.Object, time.Time) (*rules.Problem, time.Time, error)
	CheckIsDue func(client.Object, time.Time) bool
	// ForgetCheck makes the next check due.
	ForgetCheck func(client.Object)
}

// Reconciler keeps the endpoints and signing keys of one kind of authorization server
// current.
type Reconciler struct {
	Config

	states   *servers.Each[fetchState]
	requests *pace.Requests[rules.ServerKey] // of people who want the server asked now
	places   *traffic.Places                 // shares the workers among servers that are being asked
}

// New returns a Reconciler that has asked no server yet.
func New(c Config) *Reconciler {
	return &Reconciler{
		Config: c, states: servers.NewEach(c.Lives, func(client.Object) *fetchState { return &fetchState{} }, nil), places: traffic.NewPlaces(serverWorkers),
		requests: pace.NewRequests[rules.ServerKey](),
	}
}

// serverWorkers is how many servers of a kind are reconciled at a time.
const serverWorkers = 10

// fetchState records when to ask a server next, and what makes a request conditional. It
// is lost on restart; the server is then asked once more.
type fetchState struct {
	generation             int64
	discoveryDue, keysDue  time.Time
	discoveryFailures      int
	keysFailures           int
	keysURL                string
	etag, lastModified     string
	keysFetchedAt          time.Time
	discovered, keysResult *rules.Problem // how the last attempt failed; nil: it did not, or there was none
	leftOut                string         // unusable keys of the last key set, for a message
	newKeys                pace.Bucket
	supersededUntil        map[string]time.Time // JWK of a key that was replaced under its ID → when it goes
}

// The permissions for cluster-scoped objects are a role of their own, so that the rest can
// be granted in single namespaces only. Events about them are in namespace "default".
//
// +kubebuilder:rbac:groups=m2m-operator.io,resources=authorizationservers,verbs=list;watch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=authorizationservers/status,verbs=patch
// +kubebuilder:rbac:groups=m2m-operator.io,roleName=manager-cluster-role,resources=clusterauthorizationservers,verbs=list;watch
// +kubebuilder:rbac:groups=m2m-operator.io,roleName=manager-cluster-role,resources=clusterauthorizationservers/status,verbs=patch
// +kubebuilder:rbac:groups=events.k8s.io,roleName=manager-cluster-role,resources=events,verbs=create;patch

// Reconcile asks the server for what is due, and writes what it learnt to the status.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	key := rules.ServerKey{Kind: r.Kind, Namespace: req.Namespace, Name: req.Name}
	obj := key.Object()
	if err := r.Client.Get(ctx, req.NamespacedName, obj); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.Lives.Forget(key)
			r.places.Forget(key.String())
			r.requests.Forget(key)
			obj.SetNamespace(req.Namespace)
			obj.SetName(req.Name)
			r.Failures.Forget(obj)
			metrics.ForgetServerMetrics(key)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !obj.GetDeletionTimestamp().IsZero() {
		after, err := r.release(ctx, obj)
		return ctrl.Result{RequeueAfter: after}, err
	}
	giveBack, wait := r.place(obj)
	if wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	defer giveBack()
	before := obj.DeepCopyObject().(client.Object)
	after, err := r.reconcile(ctx, obj)
	if err = cmp.Or(err, ctx.Err()); err != nil { // a context that ended says nothing about the server
		r.fetchAgain(obj)
		return ctrl.Result{}, err
	}
	metrics.ObserveServer(key, record.StatusOf(obj))
	metrics.ObserveKeys(key, record.StatusOf(obj), r.states.Get(obj).keysFetchedAt)
	if !equality.Semantic.DeepEqual(record.StatusOf(before), record.StatusOf(obj)) {
		if err := r.Client.Status().Patch(ctx, obj, client.MergeFrom(before)); err != nil {
			r.fetchAgain(obj)
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		r.tell(ctx, before, obj)
	}
	again := r.Failures.Look(ctx, r.Events, obj, record.StatusOf(before).Conditions, record.StatusOf(obj).Conditions,
		v1alpha1.ConditionDiscovered, v1alpha1.ConditionKeysFresh, v1alpha1.ConditionProvisioningReady)
	return ctrl.Result{RequeueAfter: refresh.Soonest(time.Millisecond, after, again)}, nil
}

// fetchAgain makes the keys due. Those just fetched are not in the status, which alone keeps them, and the
// server would say that its keys have not changed since.
func (r *Reconciler) fetchAgain(obj client.Object) {
	s := r.states.Get(obj)
	s.keysDue, s.etag, s.lastModified = time.Time{}, "", ""
}

// reconcile asks for what is due, puts the result into the object's status, and returns
// when to come back.
func (r *Reconciler) reconcile(ctx context.Context, obj client.Object) (time.Duration, error) {
	spec, status, now := record.SpecOf(obj), record.StatusOf(obj), r.Clock.Now()
	request, requestDue := r.requests.Current(rules.ServerKeyOf(obj), v1alpha1.RefreshRequest(obj), status.LastHandledRefreshAt, now)
	state := r.state(obj)
	if request != status.LastHandledRefreshAt {
		state.discoveryDue, state.keysDue = time.Time{}, time.Time{}
		r.ForgetCheck(obj)
	}
	known, told := r.Endpoints.Discovered(obj), status.Endpoints
	found := known

	hc, changed, unusable, err := r.Connections.HTTPClient(ctx, obj)
	if err != nil {
		return 0, err
	}
	if changed {
		state.discoveryDue, state.keysDue = time.Time{}, time.Time{}
	}
	var discovered, keys conditions.Condition
	if unusable != nil {
		discovered, keys = conditions.Of(v1alpha1.ConditionDiscovered, unusable), conditions.Of(v1alpha1.ConditionKeysFresh, unusable)
		state.discoveryDue, state.keysDue = now.Add(DiscoveryInterval), now.Add(DiscoveryInterval)
	} else {
		discovered = r.discover(ctx, hc, spec, status, state, &found, now)
		if keys, err = r.fetchKeys(ctx, hc, obj, state, found, now); err != nil {
			return 0, err
		}
	}
	records, superseded, supersededDue, err := r.supersede(ctx, obj, state, jwks.Merge(record.KeyRecords(status.Keys), nil, mergePolicy(spec, now)), now)
	if err != nil {
		return 0, err
	}
	status.Keys = signingKeys(records)
	if keys.Status == metav1.ConditionTrue {
		keys.Message += superseded
	}
	if opaque(spec) {
		status.Keys, status.KeysLeftOut, records, keys = nil, nil, nil, conditions.Condition{}
	}
	provisioning, checkDue, err := r.provisioning(ctx, obj, now)
	if err != nil {
		return 0, err
	}

	conditions.SetOrRemove(&status.Conditions, obj.GetGeneration(), v1alpha1.ConditionProvisioningReady, provisioning)
	conditions.SetOrRemove(&status.Conditions, obj.GetGeneration(), v1alpha1.ConditionKeysFresh, keys)
	conditions.Set(&status.Conditions, obj.GetGeneration(), discovered, serverReady(obj, record.UsableEndpoints(spec, found, status.Endpoints).Token, discovered, keys, provisioning))
	status.ObservedGeneration, status.LastHandledRefreshAt = obj.GetGeneration(), request

	*r.states.Get(obj) = *state
	r.Endpoints.Learn(obj, found)
	if record.UsableEndpoints(spec, known, told) != record.UsableEndpoints(spec, found, told) {
		r.Endpoints.Tell(ctx, obj)
	}
	prune := jwks.NextPrune(records, spec.JWKS.Retention.Or(defaultKeyRetention))
	return refresh.Soonest(time.Second, state.discoveryDue.Sub(now), state.keysDue.Sub(now), until(prune, now), until(checkDue, now), until(supersededDue, now), requestDue), nil
}

// until returns how long it is until a moment, at least a second; zero for the zero time.
func until(at, now time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	return max(time.Second, at.Sub(now))
}

// place takes one of the workers' places if the server is to be asked now. It returns a
// function that gives the place back, or how long to wait if none is free. So the slow
// servers of one namespace cannot occupy all workers.
func (r *Reconciler) place(obj client.Object) (giveBack func(), wait time.Duration) {
	now, endpoint, tenant := r.Clock.Now(), rules.ServerKeyOf(obj).String(), obj.GetNamespace()
	if !r.isDue(obj, now) {
		return func() {}, 0
	}
	if tenant == "" {
		tenant = endpoint // the platform's servers do not share a namespace
	}
	place := r.places.Take(now, tenant, endpoint, 0)
	if place == nil {
		wait = refresh.Between(string(obj.GetUID()), 500*time.Millisecond, time.Second)
		r.places.Await(now, now.Add(wait), tenant, endpoint)
		return nil, wait
	}
	return func() { r.places.Give(r.Clock.Now(), place, true) }, 0
}

// isDue reports whether there is something to ask a server for now.
func (r *Reconciler) isDue(obj client.Object, now time.Time) bool {
	s := r.states.Get(obj)
	asked := v1alpha1.RefreshRequest(obj)
	return asked != "" && asked != record.StatusOf(obj).LastHandledRefreshAt || s.generation != obj.GetGeneration() || r.Requests.IsPending(obj) || !now.Before(s.discoveryDue) || !now.Before(s.keysDue) ||
		r.CheckIsDue(obj, now)
}

// provisioning returns the condition on whether the server can be provisioned, and
// when to check again. The condition is empty if the spec names no driver.
func (r *Reconciler) provisioning(ctx context.Context, obj client.Object, now time.Time) (conditions.Condition, time.Time, error) {
	if rules.Driver(record.SpecOf(obj)) == "" {
		return conditions.Condition{}, time.Time{}, nil
	}
	bad, due, err := r.Check(ctx, obj, now)
	switch {
	case err != nil:
		return conditions.Condition{}, time.Time{}, err
	case bad != nil:
		return conditions.Of(v1alpha1.ConditionProvisioningReady, bad), due, nil
	}
	return conditions.True(v1alpha1.ConditionProvisioningReady, v1alpha1.ReasonProvisioningReady, "The credential for provisioning works"), due, nil
}

// state returns a copy of the server's fetch state. A changed spec makes everything due.
func (r *Reconciler) state(obj client.Object) *fetchState {
	state := *r.states.Get(obj)
	if state.generation != obj.GetGeneration() {
		state.generation = obj.GetGeneration()
		state.discoveryDue, state.keysDue = time.Time{}, time.Time{}
	}
	if r.Requests.Take(obj) {
		state.keysDue = time.Time{}
	}
	return &state
}

// discover finds the endpoints, from the spec or from the server's metadata.
func (r *Reconciler) discover(ctx context.Context, hc *http.Client, spec *v1alpha1.AuthorizationServerSpec, status *v1alpha1.AuthorizationServerStatus, state *fetchState, found *v1alpha1.AuthorizationServerEndpoints, now time.Time) conditions.Condition {
	if spec.Endpoints.Token != "" && (spec.Endpoints.JWKS != "" || opaque(spec)) {
		status.Endpoints = spec.Endpoints
		state.discoveryDue, state.discovered = now.Add(DiscoveryInterval), nil
		if opaque(spec) {
			return conditions.True(v1alpha1.ConditionDiscovered, v1alpha1.ReasonEndpointsConfigured, "The spec names the token endpoint")
		}
		return conditions.True(v1alpha1.ConditionDiscovered, v1alpha1.ReasonEndpointsConfigured, "The spec names both endpoints")
	}
	if !now.Before(state.discoveryDue) {
		metadata, err := jwks.Discover(ctx, hc, spec.Issuer)
		if err != nil {
			state.discovered = fetchProblem("The server's metadata cannot be used", spec, err)
		} else {
			state.discovered = adopt(found, spec, metadata)
		}
		if state.discovered != nil {
			state.discoveryFailures++
			state.discoveryDue = now.Add(refresh.RetryBackoff.Next(state.discoveryFailures, retryAfter(err), spec.Issuer))
		} else {
			state.discoveryFailures, state.discoveryDue = 0, now.Add(DiscoveryInterval)
		}
	}
	// This undoes edits of the status by others. An endpoint that only the status names
	// stays there until it is discovered; it is used only if it is at the issuer's host.
	status.Endpoints = record.FirstEndpoints(spec.Endpoints, *found, status.Endpoints)
	if state.discovered != nil {
		return conditions.Of(v1alpha1.ConditionDiscovered, state.discovered)
	}
	return conditions.True(v1alpha1.ConditionDiscovered, v1alpha1.ReasonDiscovered, "The server's metadata names the issuer and its endpoints")
}

// opaque reports whether a server's tokens are not verified with keys.
func opaque(spec *v1alpha1.AuthorizationServerSpec) bool {
	return spec.TokenFormat == v1alpha1.TokenFormatOpaque
}

// adopt takes over the endpoints that the metadata names, and reports a missing one as a
// problem. A missing endpoint that was known before stays in use.
func adopt(found *v1alpha1.AuthorizationServerEndpoints, spec *v1alpha1.AuthorizationServerSpec, metadata *jwks.Metadata) *rules.Problem {
	named := record.EndpointsOf(metadata)
	*found = record.FirstEndpoints(named, *found)
	switch {
	case cmp.Or(spec.Endpoints.Token, named.Token) == "":
		return &rules.Problem{Reason: v1alpha1.ReasonEndpointMissing, Message: "The server's metadata names no token endpoint; set spec.endpoints.token"}
	case cmp.Or(spec.Endpoints.JWKS, named.JWKS) == "" && !opaque(spec):
		return &rules.Problem{Reason: v1alpha1.ReasonEndpointMissing, Message: "The server's metadata names no JWKS; set spec.endpoints.jwks, or set spec.tokenFormat to Opaque if its tokens are not JWTs"}
	}
	return nil
}

// leftOutReasons bounds the reasons in one message.
const leftOutReasons = 5

// serverReady returns the condition Ready. A server stays ready while discovery fails, as
// long as its endpoints and keys are known.
func serverReady(obj client.Object, token v1alpha1.EndpointURL, discovered, keys, provisioning conditions.Condition) conditions.Condition {
	status := record.StatusOf(obj)
	switch {
	case token == "":
		return discovered.AsReady()
	case keys.Type == "": // the tokens are opaque
	case len(status.Keys) == 0 && keys.Status == metav1.ConditionTrue:
		return conditions.False(v1alpha1.ConditionReady, v1alpha1.ReasonNoKeys, "Every signing key of the server is revoked; see spec.jwks.revokedKeyIDs")
	case len(status.Keys) == 0:
		return keys.AsReady()
	}
	ready, known := conditions.True(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "The token endpoint and the signing keys are known"), "The endpoints and signing keys"
	if keys.Type == "" {
		ready.Message, known = "The token endpoint is known; tokens are opaque and not checked", "The endpoints"
	}
	// The server may be down while everything goes on with what is known of it.
	stay := known + " known so far stay in use, but cannot be brought up to date"
	switch {
	case provisioning.Status == metav1.ConditionFalse:
		return provisioning.AsReady()
	case keys.Status == metav1.ConditionFalse:
		return ready.Though(stay, keys)
	case discovered.Status == metav1.ConditionFalse:
		return ready.Though(stay, discovered)
	}
	return ready
}

// tell records events about what was written.
func (r *Reconciler) tell(ctx context.Context, before, after client.Object) {
	conditions.RecordTransitions(r.Events, after, "Reconcile", record.StatusOf(before).Conditions, record.StatusOf(after).Conditions)
	if was, is := keyIDs(record.StatusOf(before).Keys), keyIDs(record.StatusOf(after).Keys); !slices.Equal(was, is) {
		log.FromContext(ctx).Info("Signing keys changed", "server", klog.KObj(after), "keys", is)
		if len(was) > 0 {
			r.Events.Eventf(after, nil, corev1.EventTypeNormal, v1alpha1.ReasonKeysChanged, "Fetch",
				"Signing keys changed to %s", cmp.Or(strings.Join(is, ", "), "none"))
		}
		if ids := superseded(record.StatusOf(before).Keys, record.StatusOf(after).Keys); len(ids) > 0 {
			r.Events.Eventf(after, nil, corev1.EventTypeNormal, v1alpha1.ReasonFormerKeyLeft, "Fetch",
				"The server has replaced %s under the same ID; the former key was removed, because no token in use needs it", quotedIDs(ids))
		}
	}
}

// fetchProblem returns the problem that a failed discovery or fetch means.
func fetchProblem(what string, spec *v1alpha1.AuthorizationServerSpec, err error) *rules.Problem {
	var e *jwks.Error
	if !errors.As(err, &e) {
		return &rules.Problem{Reason: v1alpha1.ReasonUnreachable, Message: what}
	}
	p := &rules.Problem{Reason: e.Reason, Message: fmt.Sprintf("%s: %s", what, e.Message)}
	switch {
	case e.Cause != egress.CertificateAuthority:
	case spec.CABundle == (v1alpha1.CABundleSource{}):
		p.Message += "; name a bundle with that authority's certificate in spec.caBundle"
	default:
		p.Message += "; the bundle of spec.caBundle lacks that authority's certificate"
	}
	return p
}

func retryAfter(err error) time.Duration {
	var e *jwks.Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// SetupWithManager watches the servers, their CA bundles, and requests to fetch keys at
// once.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	list := func() client.ObjectList {
		if r.Kind == v1alpha1.KindClusterAuthorizationServer {
			return &v1alpha1.ClusterAuthorizationServerList{}
		}
		return &v1alpha1.AuthorizationServerList{}
	}
	byCABundle := func(index string) handler.EventHandler {
		return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			opts := []client.ListOption{client.MatchingFields{index: o.GetName()}, client.InNamespace(o.GetNamespace())}
			if r.Kind == v1alpha1.KindClusterAuthorizationServer {
				if o.GetNamespace() != r.OperatorNamespace {
					return nil
				}
				opts = opts[:1]
			} else if !r.Watched.Watches(o.GetNamespace()) {
				return nil
			}
			return watch.Requests(ctx, r.Client, list(), opts...)
		})
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(strings.ToLower(string(r.Kind))).
		For(rules.ServerKey{Kind: r.Kind}.Object(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, watch.ChangedOrDeleted, r.Endpoints.Edited()))).
		WatchesRawSource(foreign.Source(r.Foreign, "Secret", byCABundle(watch.BySecret))).
		WatchesRawSource(foreign.Source(r.Foreign, "ConfigMap", byCABundle(watch.ByConfigMap))).
		WatchesRawSource(source.Channel(r.Wakes[r.Kind], &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: serverWorkers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}
