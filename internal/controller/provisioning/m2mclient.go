// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// defaultOverlap is how long a replaced client secret stays valid.
const defaultOverlap = 10 * time.Minute

// ClientReconciler registers the M2MClients without credentials of their
// own, keeps their access as granted, and replaces their secrets. Of the status
// it writes provisioning only; what that means for the conditions and the
// tokens is M2MClientReconciler's matter.
type ClientReconciler struct {
	Config

	remover *Remover
	wishes  *wishes
	seen    *sync.Map // names of the clients that this process saw; not in a shard
}

// NewClientReconciler returns a provisioner that has seen no client yet.
func NewClientReconciler(c Config) *ClientReconciler {
	w := newWishes(c.Clock)
	return &ClientReconciler{Config: c, remover: newRemover(c, w), wishes: w, seen: &sync.Map{}}
}

// Compare has a client compared with its server, unless that was asked for a moment
// ago.
func (r *ClientReconciler) Compare(o client.Object) { r.wishes.compare(o) }

// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients;authorizationservers,verbs=patch
// +kubebuilder:rbac:groups=m2m-operator.io,roleName=manager-cluster-role,resources=clusterauthorizationservers,verbs=patch

// Reconcile compares a client with its server where that is due.
func (r *ClientReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	ctx = forNamespace(ctx, req.Namespace)
	var c v1alpha1.M2MClient
	err := r.Client.Get(ctx, req.NamespacedName, &c)
	if apierrors.IsNotFound(err) {
		after, err := r.gone(ctx, req.NamespacedName)
		return ctrl.Result{RequeueAfter: after}, err
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	if r.Shard == "" {
		r.seen.Store(req.NamespacedName, nil)
	}
	if !r.Shard.Serves(&c) {
		r.wishes.forget(req.NamespacedName)
		r.remover.Since.Remove(c.UID)
		return ctrl.Result{}, nil
	}
	var after time.Duration
	if c.DeletionTimestamp.IsZero() && rules.Registered(&c) {
		after, err = r.sync(ctx, &c)
	} else {
		after, err = r.finish(ctx, &c)
	}
	return ctrl.Result{RequeueAfter: after}, client.IgnoreNotFound(err)
}

// RestoreGrace is how old a credential Secret is before it is deleted whose client
// this process never saw: a backup may bring back Secrets first, and clients later.
const RestoreGrace = time.Hour

// gone forgets a client that the cache does not have, and deletes its credentials
// if there are any: somebody took its finalizer away. It returns how long to wait
// with that.
func (r *ClientReconciler) gone(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	r.wishes.forget(name)
	if r.Shard != "" || r.Servers.OperatorNamespace == "" {
		return 0, nil // to a shard that is what a client looks like that was handed over
	}
	_, secret, err := record.ReadCredentials(ctx, r.Client, r.Servers.OperatorNamespace, name)
	if err != nil {
		return 0, err
	}
	if secret == nil {
		r.seen.Delete(name)
		return 0, nil
	}
	_, seen := r.seen.Load(name)
	if wait := secret.CreationTimestamp.Add(RestoreGrace).Sub(r.Clock.Now()); wait > 0 && !seen {
		return wait, nil
	}
	// Another instance may have registered a client that this cache does not have
	// yet.
	there, err := record.ClientUID(ctx, r.Live, name)
	if err != nil || there != "" {
		return 0, err // its own event comes
	}
	return 0, record.DeleteCredentials(ctx, r.Client, r.Servers.OperatorNamespace, name)
}

// task is what is to be done about one client.
type task struct {
	client   *v1alpha1.M2MClient
	now      time.Time
	server   *rules.Server // nil where the problem says why
	problem  *rules.Problem
	accesses []rules.Access // in the order of the client's spec
}

func (r *ClientReconciler) sync(ctx context.Context, c *v1alpha1.M2MClient) (time.Duration, error) {
	if r.Servers.OperatorNamespace == "" {
		return 0, nil // there is no place for its secret
	}
	found, err := r.Access.Client(ctx, c)
	if err != nil {
		return 0, err
	}
	p := &task{client: c, now: r.Clock.Now(), server: found.Server, problem: found.Problem, accesses: found.Accesses}
	store, secret, err := record.ReadCredentials(ctx, r.Client, r.Servers.OperatorNamespace, client.ObjectKeyFromObject(c))
	if err != nil {
		return 0, err
	}
	without := p.problem != nil // a server of its own: what it has is withdrawn, or stays
	if without {
		if after, err := r.withdraw(ctx, p, store); p.server == nil || err != nil {
			return after, err
		}
	}
	if rules.Driver(p.server.Spec) == "" || !p.server.Object.GetDeletionTimestamp().IsZero() {
		return 0, nil // nothing can be said, and nothing is taken away
	}
	if p.server.Status.Endpoints.Token == "" && !without {
		return 0, nil // a new secret could not be tried; the server's change wakes this
	}
	if at := cmp.Or(c.Status.Provisioning.Server, store.Server); at.Name != "" && !record.IsAt(at, p.server) {
		if after, err := r.leave(ctx, c); after > 0 || err != nil {
			return after, err
		}
		store, secret = record.CredentialStore{}, nil // they went with what is left
	}
	driver, version, unusable, err := r.Servers.Driver(ctx, p.server.Object)
	if unusable != nil || err != nil {
		return 0, err // the server's own condition says so, and its change wakes this
	}
	if err := r.recall(ctx, c, store); err != nil {
		return 0, err
	}
	want, err := r.declared(ctx, p)
	if err != nil {
		return 0, err
	}
	if len(want.Access) == 0 && c.Status.Provisioning.Server.Name == "" {
		return 0, nil // nothing is granted yet
	}
	plan := r.plan(p, want, record.ClientState(&c.Status.Provisioning, store), version)
	// Before anything of it exists, and again after a restore without finalizers.
	if err := write.HoldServer(ctx, r.Client, p.server); err != nil {
		return 0, err
	}
	if err := write.Hold(ctx, r.Client, c); err != nil {
		return 0, err
	}
	if wait := plan.Wait(p.now); wait > 0 {
		return wait, r.observe(ctx, c, plan)
	}
	leave, wait, busy := r.Servers.Enter(p.server.Object, c, r.wishes.wake)
	if busy != nil {
		return wait, nil
	}
	return r.apply(ctx, p, driver, version, want, plan, store, secret, leave)
}

// recall puts back into the status what the credential Secret knows of a client
// that has none: it was restored without. The server is asked next.
func (r *ClientReconciler) recall(ctx context.Context, c *v1alpha1.M2MClient, store record.CredentialStore) error {
	st := &c.Status.Provisioning
	if st.Server.Name != "" || len(store.Access) == 0 {
		return nil
	}
	before := c.DeepCopy()
	st.Server = store.Server
	record.ShowClientState(st, &store.ClientState, RotationOf(c))
	return r.Client.Status().Patch(ctx, c, client.MergeFrom(before))
}

// withdraw takes from a client what it has at its server, where somebody decided
// that it has none any more: all of it, if the server is not for its namespace;
// else its access, for which it puts the server into the pass. Where nothing was
// decided, nothing is taken away.
func (r *ClientReconciler) withdraw(ctx context.Context, p *task, store record.CredentialStore) (time.Duration, error) {
	at := cmp.Or(p.client.Status.Provisioning.Server, store.Server)
	if !rules.Decided(p.problem.Reason) || at.Name == "" {
		return 0, nil
	}
	ref := v1alpha1.AuthorizationServerReference{Kind: at.Kind, Name: at.Name}
	srv, refused, err := r.Access.Server(ctx, ref, cmp.Or(string(at.Namespace), p.client.Namespace))
	if err != nil || refused != nil && !refused.Decided() {
		return 0, err
	}
	if refused == nil {
		if p.client.Status.Provisioning.Server.Name == "" {
			return 0, nil // a restore may bring its APIs later
		}
		p.server, p.problem = srv, nil
		return 0, nil
	}
	if after, err := r.depart(ctx, p.client, true); after > 0 || err != nil {
		return after, err
	}
	return 0, write.Release(ctx, r.Client, p.client)
}

// observe notes that a changed spec says nothing else about the server.
func (r *ClientReconciler) observe(ctx context.Context, c *v1alpha1.M2MClient, plan provision.Plan) error {
	st := &c.Status.Provisioning
	if !plan.Agrees() || st.ObservedGeneration == c.Generation {
		return nil
	}
	before := c.DeepCopy()
	st.ObservedGeneration = c.Generation
	return r.Client.Status().Patch(ctx, c, client.MergeFrom(before))
}

// declared returns what the server should have of a client.
func (r *ClientReconciler) declared(ctx context.Context, p *task) (provision.Client, error) {
	owner, err := r.Servers.owner(ctx, "M2MClient", p.client)
	if err != nil {
		return provision.Client{}, err
	}
	want := provision.Client{Owner: owner, Retain: p.client.Spec.DeletionPolicy == v1alpha1.DeletionRetain}
	for _, a := range p.server.Spec.Provisioning.Adoption.Clients {
		if string(a.Namespace) == p.client.Namespace && string(a.Name) == p.client.Name {
			want.Adopt = string(a.ClientID)
		}
	}
	var unseen bool
	for _, a := range p.accesses {
		if a.Denied != nil || a.Spec == nil {
			unseen = unseen || !a.Denied.Decided()
			continue
		}
		id, scopes, known := record.ProvisionedAPI(a.Spec, p.server)
		switch before, had := record.GrantedAt(p.client, a.Resource); {
		case known:
		case had: // the API's state is unknown for the moment: nothing is added, nothing allowed is lost
			id, scopes = before.ResourceID, record.StringsOf(before.Scopes)
		default:
			continue
		}
		allowed := slices.DeleteFunc(slices.Clone(a.Scopes), func(s string) bool { return !slices.Contains(scopes, s) })
		want.Access = addAccess(want.Access, provision.Access{Resource: a.Resource, ResourceID: id, Scopes: allowed})
	}
	if unseen {
		want.Access = append(want.Access, r.unjudged(p, want.Access)...)
	}
	return want, nil
}

// unjudged returns what a client's server grants it of APIs that nobody can say
// anything about, such as one of a namespace that is no longer watched: nothing
// is taken away for that.
func (r *ClientReconciler) unjudged(p *task, judged []provision.Access) []provision.Access {
	var kept []provision.Access
	for _, a := range record.ClientState(&p.client.Status.Provisioning, record.CredentialStore{}).Access {
		known := func(b provision.Access) bool { return b.Resource == a.Resource }
		if !slices.ContainsFunc(judged, known) && !slices.ContainsFunc(p.accesses, func(b rules.Access) bool { return b.Denied.Decided() && b.Resource == a.Resource }) {
			kept = append(kept, a)
		}
	}
	return kept
}

// addAccess adds an access: two accesses of a client may be for one API.
func addAccess(all []provision.Access, a provision.Access) []provision.Access {
	i := slices.IndexFunc(all, func(b provision.Access) bool { return b.Resource == a.Resource })
	if i < 0 {
		return append(all, a)
	}
	all[i].Scopes = append(all[i].Scopes, a.Scopes...)
	slices.Sort(all[i].Scopes)
	all[i].Scopes = slices.Compact(all[i].Scopes)
	return all
}

func RotationOf(c *v1alpha1.M2MClient) provision.Rotation {
	rotation := provision.Rotation{Every: c.Spec.CredentialRotation.Every.Or(0), Overlap: c.Spec.CredentialRotation.Overlap.Or(defaultOverlap)}
	if request := c.Annotations[v1alpha1.RotateCredentialAnnotation]; request != "" {
		rotation.Request = provision.Hash(request) // it may be long, and is kept
	}
	return rotation
}

func (r *ClientReconciler) plan(p *task, want provision.Client, state *provision.ClientState, version string) provision.Plan {
	st := &p.client.Status.Provisioning
	plan := planOf(&st.ProvisioningRecord, p.client.UID, p.server)
	plan.Wants, plan.CredentialsDue = provision.Hash(want, RotationOf(p.client)), provision.NextStep(want, state, RotationOf(p.client))
	// Without its Secret a client cannot ask for anything.
	plan.Requested = r.wishes.Wanted(client.ObjectKeyFromObject(p.client)) || st.Credential.Name != currentName(state)
	plan.Tries = provision.Hash(plan.Wants, version)
	return plan
}

// apply makes the server have the client, and writes down how it went.
func (r *ClientReconciler) apply(ctx context.Context, p *task, driver provision.Driver, version string, want provision.Client, plan provision.Plan, store record.CredentialStore, secret *corev1.Secret, leave func(context.Context, error)) (time.Duration, error) {
	name := client.ObjectKeyFromObject(p.client)
	k := &clientKeeper{
		r: r, client: p.client, secret: secret, written: p.client.DeepCopy(), server: record.ServerOf(p.server),
		state: record.ClientState(&p.client.Status.Provisioning, store), rotation: RotationOf(p.client),
	}
	was, left := currentName(k.state), slices.Clone(k.state.LeftBehind)
	drift, _, failure := provision.SyncClient(ctx, driver, want, k.state, k.rotation, k.keep, r.probe(p), p.now)
	leave(ctx, failure)
	if failure != nil && provision.KindOf(failure) == "" {
		return 0, failure
	}
	st := &p.client.Status.Provisioning
	if failure != nil {
		st.Failure = failed(plan, st.Failure, p.now, failure)
	} else {
		st.Failure, st.SyncedAt, st.Inputs, st.ObservedGeneration = v1alpha1.TokenFailure{}, record.Time(p.now), plan.Wants, p.client.Generation
		r.wishes.granted(name)
	}
	if err := k.keep(ctx); err != nil {
		return 0, err
	}
	r.tell(p, was, k.state, drift)
	r.tellLeftBehind(p.client, left, k.state.LeftBehind)
	next := r.plan(p, want, k.state, version)
	return max(time.Millisecond, next.Wait(p.now)), nil
}

func currentName(state *provision.ClientState) string {
	if c := state.Current(); c != nil {
		return c.Name
	}
	return ""
}

// clientKeeper records the state of a client: what may be shown in the status,
// the rest in the credential Secret, which is written first.
type clientKeeper struct {
	r        *ClientReconciler
	client   *v1alpha1.M2MClient
	secret   *corev1.Secret
	written  *v1alpha1.M2MClient // as it is at the API server
	state    *provision.ClientState
	rotation provision.Rotation
	server   v1alpha1.ProvisioningServer
	refused  bool // the API server does not take the Secret
}

func (k *clientKeeper) keep(ctx context.Context) (err error) {
	store := record.CredentialStore{Server: k.server, ClientState: *k.state}
	if !k.refused && (k.secret != nil || len(store.Credentials) > 0) {
		k.secret, err = record.WriteCredentials(ctx, k.r.Client, k.r.Servers.OperatorNamespace, client.ObjectKeyFromObject(k.client), k.secret, store)
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
			// What the API server says about the operator's namespace is the operator's business.
			log.FromContext(ctx).Error(err, "Failed to store the secret of a client")
			k.refused = true
			return &provision.Error{Kind: provision.Refused, Message: "the operator could not store the client's secret in its own namespace; see its log"}
		}
		if err != nil {
			return err
		}
	}
	st := &k.client.Status.Provisioning
	st.Server = k.server
	record.ShowClientState(st, k.state, k.rotation)
	if equality.Semantic.DeepEqual(k.written.Status, k.client.Status) {
		return nil
	}
	if err := k.r.Client.Status().Patch(ctx, k.client, client.MergeFrom(k.written)); err != nil {
		return err
	}
	k.written = k.client.DeepCopy()
	return nil
}

// tell records events about what was done.
func (r *ClientReconciler) tell(p *task, was string, state *provision.ClientState, drift []provision.Drift) {
	if len(drift) > 0 {
		r.Servers.Drifted(p.server, len(drift))
		r.Events.Eventf(p.client, nil, corev1.EventTypeWarning, v1alpha1.ReasonDriftCorrected, "Provision",
			"Put back at %s %q: %s", p.server.Key().Kind, p.server.Key().Name, driftText(drift))
	}
	if is := currentName(state); was != "" && is != "" && was != is {
		r.Events.Eventf(p.client, nil, corev1.EventTypeNormal, v1alpha1.ReasonCredentialRotated, "Provision",
			"A new client secret is in use; %s", WhatOfTheOld(was, state, p.now))
	}
}

// WhatOfTheOld says what becomes of a replaced client secret: the server may have lost
// it, which is why there is a new one.
func WhatOfTheOld(name string, state *provision.ClientState, now time.Time) string {
	for _, c := range state.Credentials {
		if left := c.RetireAt.Sub(now.Truncate(time.Second)); c.Name == name && left > 0 {
			return fmt.Sprintf("the old one stays valid for %s", left)
		}
	}
	return "the old one is not valid any more"
}

// tellLeftBehind tells what may newly remain at the server.
func (r *ClientReconciler) tellLeftBehind(c *v1alpha1.M2MClient, before, after []string) {
	for _, l := range after {
		if !slices.Contains(before, l) {
			r.Events.Eventf(c, nil, corev1.EventTypeWarning, v1alpha1.ReasonLeftBehind, "Provision", "%s", l)
			metrics.ObserveLeftBehind("M2MClient")
		}
	}
}

// probe asks for a token with a new credential, as the tokens themselves are
// asked for.
func (r *ClientReconciler) probe(p *task) provision.Probe {
	return func(ctx context.Context, state *provision.ClientState, c *provision.Credential) error {
		endpoint := string(p.server.Status.Endpoints.Token)
		if endpoint == "" {
			return &provision.Error{Kind: provision.Unavailable, Message: "the token endpoint is not known yet"}
		}
		hc, _, unusable, err := r.Servers.Connections.HttpClient(ctx, p.server.Object)
		if err != nil {
			return err
		}
		if unusable != nil {
			return &provision.Error{Kind: provision.Refused, Message: unusable.Message}
		}
		req := oauth.TokenRequest{
			Endpoint: endpoint, Authentication: record.Authentication(p.server.Spec, c.ClientID, c.Secret), Scopes: state.Access[0].Scopes, Now: r.Clock.Now(),
		}
		req.Resource, req.Audience = record.Audience(p.server.Spec, state.Access[0].Resource)
		for i, a := range p.accesses {
			if a.Resource == state.Access[0].Resource {
				req.Parameters = record.Parameters(p.client.Spec.Access[i])
			}
		}
		paced := r.Servers.pace(hc, r.Servers.Of.Get(p.server.Object), p.server.Object)
		_, err = oauth.Exchange(ctx, paced, req)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		return probeError(err)
	}
}

// probeError says what a refused token request means for a new credential.
func probeError(err error) error {
	e := oauth.ErrorOf(err)
	kind := provision.Refused
	if e.Class == oauth.ClassRetryable {
		kind = provision.Unavailable
	}
	return &provision.Error{Kind: kind, Message: "the new client secret does not get a token: " + e.Error(), Code: e.Code, Status: e.Status, RetryAfter: e.RetryAfter}
}

// finish removes what a client has at its server that is deleted, or has
// credentials of its own now.
func (r *ClientReconciler) finish(ctx context.Context, c *v1alpha1.M2MClient) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(c, v1alpha1.ProvisioningFinalizer) {
		return 0, nil
	}
	if after, err := r.leave(ctx, c); after > 0 || err != nil {
		return after, err
	}
	r.wishes.forget(client.ObjectKeyFromObject(c))
	return 0, write.Release(ctx, r.Client, c)
}

// leave removes a client from the server where it was registered.
func (r *ClientReconciler) leave(ctx context.Context, c *v1alpha1.M2MClient) (time.Duration, error) {
	return r.depart(ctx, c, false)
}

// depart is leave, of a client's own accord or because it has to: then it is tried
// for as long as the client exists, and what deletionPolicy retains has no access.
func (r *ClientReconciler) depart(ctx context.Context, c *v1alpha1.M2MClient, must bool) (time.Duration, error) {
	name, st := client.ObjectKeyFromObject(c), c.Status.Provisioning
	store, _, err := record.ReadCredentials(ctx, r.Client, r.Servers.OperatorNamespace, name)
	if err != nil {
		return 0, err
	}
	state := record.ClientState(&st, store)
	st.Server = cmp.Or(st.Server, store.Server) // the status was lost
	if st.Server.Name != "" {
		owner, err := r.Servers.owner(ctx, "M2MClient", c)
		if err != nil {
			return 0, err
		}
		want := provision.Client{Owner: owner, Retain: c.Spec.DeletionPolicy == v1alpha1.DeletionRetain, Denied: must}
		after, err := r.remover.run(ctx, removal{
			kind: "M2MClient", object: c, server: st.Server, what: describe("client", state.ID, "with grant", state.GrantID), must: must,
			remove: func(ctx context.Context, d provision.Driver) error {
				nothing := func(context.Context) error { return nil } // a second time finds what the first one left
				return provision.RemoveClient(ctx, d, want, state, nothing)
			},
		}, r.Clock.Now())
		if after > 0 || err != nil {
			return after, err
		}
		r.tellLeftBehind(c, st.LeftBehind, state.LeftBehind)
		if err := r.remover.list(ctx, "M2MClient", c, st.Server, state.LeftBehind, r.Clock.Now()); err != nil {
			return 0, err
		}
	}
	if err := record.DeleteCredentials(ctx, r.Client, r.Servers.OperatorNamespace, name); err != nil {
		return 0, err
	}
	before := c.DeepCopy()
	c.Status.Provisioning = v1alpha1.M2MClientProvisioning{}
	if equality.Semantic.DeepEqual(before.Status, c.Status) {
		return 0, nil
	}
	return 0, r.Client.Status().Patch(ctx, c, client.MergeFrom(before))
}

// SetupWithManager watches what decides what a server should have.
func (r *ClientReconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	clients := func(ctx context.Context, opts ...client.ListOption) []reconcile.Request {
		return r.Shard.Clients(ctx, r.Client, opts...)
	}
	// The instance that has everything cleans up after everybody.
	ofShard := r.Shard.Of(watch.ChangedOrDeleted)
	clientChanged := predicate.Funcs{
		CreateFunc: ofShard.Create, UpdateFunc: ofShard.Update, GenericFunc: ofShard.Generic,
		DeleteFunc: func(e event.DeleteEvent) bool { return r.Shard == "" || ofShard.Delete(e) },
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("m2mclient-provisioning").
		For(&v1alpha1.M2MClient{}, builder.WithPredicates(clientChanged)).
		Watches(&v1alpha1.AuthorizationServer{}, watch.ClientsOfServer(r.Client, r.Shard), builder.WithPredicates(watch.ProvisioningChanged)).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, watch.ClientsOfServer(r.Client, r.Shard), builder.WithPredicates(watch.ProvisioningChanged)).
		WatchesRawSource(source.Channel(r.Learnt, watch.ClientsOfServer(r.Client, r.Shard))).
		Watches(&v1alpha1.APIResource{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			return clients(ctx, client.MatchingFields{watch.ByAPIResource: client.ObjectKeyFromObject(o).String()})
		}), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, watch.ComparedAPI, watch.AcceptedChanged))).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
			if !r.Watched.Watches(o.GetName()) {
				return nil
			}
			return clients(ctx, client.InNamespace(o.GetName()))
		}), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			// That its client may be another's, Reconcile finds out: it changes rarely.
			name, ok := record.ParseName(o.GetAnnotations()[v1alpha1.OwnerAnnotation])
			if !ok || o.GetNamespace() != r.Servers.OperatorNamespace || !r.Watched.Watches(name.Namespace) {
				return nil
			}
			return []reconcile.Request{{NamespacedName: name}}
		})).
		WatchesRawSource(source.Channel(r.wishes.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}
