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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
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
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// defaultOverlap is how long a replaced client secret stays valid.
const defaultOverlap = 10 * time.Minute

// ClientReconciler registers the M2MClients without credentials of their
// own, keeps their access as granted, and replaces their secrets. Of the status
// it writes provisioning only; what that means for the conditions and the
// tokens is M2MClientReconciler's matter.
type ClientReconciler struct {
	loop

	seen      *sync.Map // names of the clients that this process saw; not in a shard
	rotations *pace.Requests[types.NamespacedName]
}

// NewClientReconciler returns a provisioner that has seen no client yet.
func NewClientReconciler(c Config) *ClientReconciler {
	return &ClientReconciler{loop: newLoop(c, "M2MClient"), seen: &sync.Map{}, rotations: pace.NewRequests[types.NamespacedName]()}
}

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
		r.forget(req.NamespacedName)
		r.remover.since.Remove(c.UID)
		return ctrl.Result{}, nil
	}
	return r.pass(ctx, &clientSubject{r: r, client: &c}, c.DeletionTimestamp.IsZero() && rules.Registered(&c))
}

// RestoreGrace is how old a credential Secret is before it is deleted whose client
// this process never saw: a backup may bring back Secrets first, and clients later.
const RestoreGrace = time.Hour

// gone forgets a client that the cache does not have, and deletes its credentials
// if there are any: somebody took its finalizer away. It returns how long to wait
// with that.
func (r *ClientReconciler) gone(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	r.forget(name)
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

// clientSubject is a client in one pass.
type clientSubject struct {
	r        *ClientReconciler
	client   *v1alpha1.M2MClient
	server   *rules.Server  // nil if there is none
	accesses []rules.Access // in the order of the client's spec

	store    record.CredentialStore // as it was read
	secret   *corev1.Secret         // that holds it, nil for none
	refused  bool                   // the API server does not take the Secret
	want     provision.Client
	state    *provision.ClientState
	rotation provision.Rotation
	// rotateLater is when a request for a new secret that came too soon is handled; zero for none.
	rotateLater time.Time

	used string   // the name of the credential that was in use before
	left []string // what was known to be left behind before
}

func (s *clientSubject) object() client.Object { return s.client }

func (s *clientSubject) record() *v1alpha1.ProvisioningRecord {
	return &s.client.Status.Provisioning.ProvisioningRecord
}

// at returns where a client was provisioned. The credential Secret knows that too if
// the status was lost.
func (s *clientSubject) at() v1alpha1.ProvisioningServer {
	return cmp.Or(s.record().Server, s.store.Server)
}

// read reads the credential Secret.
func (s *clientSubject) read(ctx context.Context) (err error) {
	s.store, s.secret, err = record.ReadCredentials(ctx, s.r.Client, s.r.Servers.OperatorNamespace, client.ObjectKeyFromObject(s.client))
	return err
}

func (s *clientSubject) find(ctx context.Context) (srv *rules.Server, at v1alpha1.ProvisioningServer, after time.Duration, err error) {
	if s.r.Servers.OperatorNamespace == "" {
		return nil, at, 0, nil // there is no place for its secret
	}
	found, err := s.r.Access.Client(ctx, s.client)
	if err != nil {
		return nil, at, 0, err
	}
	s.server, s.accesses = found.Server, found.Accesses
	if err := s.read(ctx); err != nil {
		return nil, at, 0, err
	}
	if found.Problem != nil { // no server of its own: what it has is withdrawn, or stays
		after, err = s.withdraw(ctx, found.Problem)
		return s.server, s.at(), after, err
	}
	if s.server.Status.Endpoints.Token == "" {
		return nil, at, 0, nil // a new secret could not be tried; the server's change wakes this
	}
	return s.server, s.at(), 0, nil
}

// withdraw takes from a client what it has at its server, where somebody decided
// that it has none any more: all of it, if the server is not for its namespace;
// else its access, for which the pass goes on with that server. Where nothing was
// decided, nothing is taken away.
func (s *clientSubject) withdraw(ctx context.Context, problem *rules.Problem) (time.Duration, error) {
	at := s.at()
	if !rules.Decided(problem.Reason) || at.Name == "" {
		return 0, nil
	}
	ref := v1alpha1.AuthorizationServerReference{Kind: at.Kind, Name: at.Name}
	srv, refused, err := s.r.Access.Server(ctx, ref, cmp.Or(string(at.Namespace), s.client.Namespace))
	if err != nil || refused != nil && !refused.Decided() {
		return 0, err
	}
	if refused == nil {
		if s.record().Server.Name != "" { // else a restore may bring its APIs later
			s.server = srv
		}
		return 0, nil
	}
	if after, err := s.depart(ctx, true); after > 0 || err != nil {
		return after, err
	}
	return 0, write.Release(ctx, s.r.Client, s.client)
}

// hold leaves the finalizer to declare: a client without access needs none.
func (s *clientSubject) hold(context.Context, *rules.Server) error { return nil }

func (s *clientSubject) declare(ctx context.Context, srv *rules.Server) (bool, error) {
	if err := s.recall(ctx); err != nil {
		return false, err
	}
	owner, err := s.r.Servers.owner(ctx, s.r.kind, s.client)
	if err != nil {
		return false, err
	}
	s.want = provision.Client{
		Owner: owner, Access: s.granted(), Retain: s.client.Spec.DeletionPolicy == v1alpha1.DeletionRetain,
	}
	for _, a := range srv.Spec.Provisioning.Adoption.Clients {
		if string(a.Namespace) == s.client.Namespace && string(a.Name) == s.client.Name {
			s.want.Adopt = string(a.ClientID)
		}
	}
	if len(s.want.Access) == 0 && s.record().Server.Name == "" {
		return false, nil // nothing is granted yet
	}
	s.state = record.ClientState(&s.client.Status.Provisioning, s.store)
	s.paceRotation(s.r.Clock.Now())
	// Before anything of it exists, and again after a restore without finalizers.
	if err := write.HoldServer(ctx, s.r.Client, srv); err != nil {
		return false, err
	}
	return true, write.Hold(ctx, s.r.Client, s.client)
}

// recall puts back into the status what the credential Secret knows of a client
// that has none: it was restored without. The server is asked next.
func (s *clientSubject) recall(ctx context.Context) error {
	st := &s.client.Status.Provisioning
	if st.Server.Name != "" || len(s.store.Access) == 0 {
		return nil
	}
	before := copyOf(s.client)
	st.Server = s.store.Server
	record.ShowClientState(st, &s.store.ClientState, RotationOf(s.client))
	return s.r.write(ctx, before, s.client)
}

// granted returns the access that the server should grant a client.
func (s *clientSubject) granted() []provision.Access {
	var all []provision.Access
	var unseen bool
	for _, a := range s.accesses {
		if a.Denied != nil || a.Spec == nil {
			unseen = unseen || !a.Denied.Decided()
			continue
		}
		id, scopes, known := record.ProvisionedAPI(a.Spec, s.server)
		switch before, had := record.GrantedAt(s.client, a.Resource); {
		case known:
		case had: // the API's state is unknown for the moment: nothing is added, nothing allowed is lost
			id, scopes = before.ResourceID, record.StringsOf(before.Scopes)
		default:
			continue
		}
		allowed := slices.DeleteFunc(slices.Clone(a.Scopes), func(scope string) bool { return !slices.Contains(scopes, scope) })
		all = addAccess(all, provision.Access{Resource: a.Resource, ResourceID: id, Scopes: allowed})
	}
	if unseen {
		all = append(all, s.unjudged(all)...)
	}
	return all
}

// unjudged returns what a client's server grants it of APIs that nobody can say
// anything about, such as one of a namespace that is no longer watched: nothing
// is taken away for that.
func (s *clientSubject) unjudged(judged []provision.Access) []provision.Access {
	var kept []provision.Access
	for _, a := range record.ClientState(&s.client.Status.Provisioning, record.CredentialStore{}).Access {
		known := func(b provision.Access) bool { return b.Resource == a.Resource }
		if !slices.ContainsFunc(judged, known) && !slices.ContainsFunc(s.accesses, func(b rules.Access) bool { return b.Denied.Decided() && b.Resource == a.Resource }) {
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

// RotationOf returns when to replace the secret of a client.
func RotationOf(c *v1alpha1.M2MClient) provision.Rotation {
	rotation := provision.Rotation{Every: c.Spec.CredentialRotation.Every.Or(0), Overlap: c.Spec.CredentialRotation.Overlap.Or(defaultOverlap)}
	if request := c.Annotations[v1alpha1.RotateCredentialAnnotation]; request != "" {
		rotation.Request = provision.Hash(request) // it may be long, and is kept
	}
	return rotation
}

// paceRotation works out when to replace the client's secret. Each request for that costs the
// server a secret, a token and a revocation.
func (s *clientSubject) paceRotation(now time.Time) {
	s.rotation, s.rotateLater = RotationOf(s.client), time.Time{}
	value, wait := s.r.rotations.Current(client.ObjectKeyFromObject(s.client), s.rotation.Request, s.state.Rotation, now)
	if wait > 0 {
		s.rotation.Request, s.rotateLater = value, now.Add(wait)
	}
}

func (s *clientSubject) plan(p *provision.Plan) {
	p.Wants, p.CredentialsDue = provision.Hash(s.want, s.rotation), provision.NextStep(s.want, s.state, s.rotation)
	if at := s.rotateLater; !at.IsZero() && (p.CredentialsDue.IsZero() || at.Before(p.CredentialsDue)) {
		p.CredentialsDue = at
	}
	// Without its Secret a client cannot ask for anything.
	p.Requested = p.Requested || s.client.Status.Provisioning.Credential.Name != currentName(s.state)
}

// isCurrent compares the credential Secret. The cache of a process that took over may be behind
// what its predecessor wrote, and the secret that seems missing there was made already. A Secret
// that somebody took the label from is in no cache: it gets the label back.
func (s *clientSubject) isCurrent(ctx context.Context) (bool, error) {
	_, latest, err := record.ReadCredentials(ctx, s.r.Live, s.r.Servers.OperatorNamespace, client.ObjectKeyFromObject(s.client))
	switch {
	case err != nil || latest == nil:
		return err == nil && s.secret == nil, err
	case latest.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue:
		metav1.SetMetaDataLabel(&latest.ObjectMeta, v1alpha1.ManagedByLabel, v1alpha1.ManagedByValue)
		return false, s.r.Client.Update(ctx, latest)
	}
	return s.secret != nil && latest.ResourceVersion == s.secret.ResourceVersion, nil
}

func (s *clientSubject) drive(ctx context.Context, d provision.Driver, keep provision.Keep, now time.Time) ([]provision.Drift, error) {
	s.used, s.left = currentName(s.state), slices.Clone(s.state.LeftBehind)
	drift, _, err := provision.SyncClient(ctx, d, s.want, s.state, s.rotation, keep, s.probe, now)
	return drift, err
}

func currentName(state *provision.ClientState) string {
	if c := state.Current(); c != nil {
		return c.Name
	}
	return ""
}

// keep writes the credential Secret first: the status shows the rest.
func (s *clientSubject) keep(ctx context.Context) (err error) {
	store := record.CredentialStore{Server: s.record().Server, ClientState: *s.state}
	if !s.refused && (s.secret != nil || len(store.Credentials) > 0) {
		s.secret, err = record.StoreCredentials(ctx, s.r.Client, s.r.Live, s.r.Servers.OperatorNamespace, client.ObjectKeyFromObject(s.client), s.secret, store)
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
			// What the API server says about the operator's namespace is the operator's business.
			log.FromContext(ctx).Error(err, "Failed to store the secret of a client")
			s.refused = true
			return &provision.Error{Kind: provision.Refused, Message: "the operator could not store the client's secret in its own namespace; see its log"}
		}
		if err != nil {
			return err
		}
	}
	record.ShowClientState(&s.client.Status.Provisioning, s.state, s.rotation)
	if request := RotationOf(s.client).Request; request != "" && s.state.Rotation == request {
		s.client.Status.Provisioning.LastHandledRotation = text.CutRunes(s.client.Annotations[v1alpha1.RotateCredentialAnnotation], 64)
	}
	return nil
}

// done records events about what was done.
func (s *clientSubject) done(next provision.Plan, now time.Time) time.Duration {
	if is := currentName(s.state); s.used != "" && is != "" && s.used != is {
		s.r.Events.Eventf(s.client, nil, corev1.EventTypeNormal, v1alpha1.ReasonCredentialRotated, "Provision",
			"A new client secret is in use; %s", WhatOfTheOld(s.used, s.state, now))
	}
	s.tellLeftBehind(s.left)
	return next.Wait(now)
}

// WhatOfTheOld says what becomes of a replaced client secret: the server may have lost
// it, which is why there is a new one.
func WhatOfTheOld(name string, state *provision.ClientState, now time.Time) string {
	for _, c := range state.Credentials {
		if left := c.RetireAt.Sub(now.Truncate(time.Second)); c.Name == name && left > 0 {
			return fmt.Sprintf("the old one stays valid for %s", left)
		}
	}
	return "the old one is no longer valid"
}

// tellLeftBehind tells what may remain at the server and was not known before.
func (s *clientSubject) tellLeftBehind(before []string) {
	for _, l := range s.state.LeftBehind {
		if !slices.Contains(before, l) {
			s.r.Events.Eventf(s.client, nil, corev1.EventTypeWarning, v1alpha1.ReasonLeftBehind, "Provision", "%s", l)
			metrics.ObserveLeftBehind(s.r.kind)
		}
	}
}

// probe asks for a token with a new credential, as the tokens themselves are
// asked for.
func (s *clientSubject) probe(ctx context.Context, state *provision.ClientState, c *provision.Credential) error {
	endpoint := string(s.server.Status.Endpoints.Token)
	if endpoint == "" {
		return &provision.Error{Kind: provision.Unavailable, Message: "the token endpoint is not known yet"}
	}
	administration := s.r.Servers
	hc, _, unusable, err := administration.Connections.HTTPClient(ctx, s.server.Object)
	if err != nil {
		return err
	}
	if unusable != nil {
		return &provision.Error{Kind: provision.Refused, Message: unusable.Message}
	}
	req := oauth.TokenRequest{
		Endpoint: endpoint, Authentication: record.Authentication(s.server.Spec, c.ClientID, c.Secret), Scopes: state.Access[0].Scopes, Now: s.r.Clock.Now(),
	}
	req.Resource, req.Audience = record.Audience(s.server.Spec, state.Access[0].Resource)
	for i, a := range s.accesses {
		if a.Resource == state.Access[0].Resource {
			req.Parameters = record.Parameters(s.client.Spec.Access[i])
		}
	}
	paced := administration.pace(hc, administration.of.Get(s.server.Object), s.server.Object)
	_, err = oauth.Exchange(ctx, paced, req)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return probeError(err)
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

func (s *clientSubject) remove(ctx context.Context) (time.Duration, error) {
	return s.depart(ctx, false)
}

// depart removes a client from the server where it was registered, of its own accord
// or because it has to go. If it has to, the operator tries for as long as the client
// exists, and what deletionPolicy retains has no access.
func (s *clientSubject) depart(ctx context.Context, must bool) (time.Duration, error) {
	if err := s.read(ctx); err != nil {
		return 0, err
	}
	s.state = record.ClientState(&s.client.Status.Provisioning, s.store)
	if at, known := s.at(), s.client.Status.Provisioning.LeftBehind; at.Name != "" {
		after, err := s.r.removeAs(ctx, s.client, removal{
			server: at, what: describe("client", s.state.ID, "with grant", s.state.GrantID), must: must,
			remove: func(ctx context.Context, d provision.Driver, owner provision.Owner) error {
				want := provision.Client{Owner: owner, Retain: s.client.Spec.DeletionPolicy == v1alpha1.DeletionRetain, Denied: must}
				return provision.RemoveClient(ctx, d, want, s.state, keepNothing)
			},
		})
		if after > 0 || err != nil {
			return after, err
		}
		s.tellLeftBehind(known)
		if err := s.r.remover.list(ctx, s.r.kind, s.client, at, s.state.LeftBehind, s.r.Clock.Now()); err != nil {
			return 0, err
		}
	}
	if err := record.DeleteCredentials(ctx, s.r.Client, s.r.Servers.OperatorNamespace, client.ObjectKeyFromObject(s.client)); err != nil {
		return 0, err
	}
	s.store, s.secret = record.CredentialStore{}, nil
	return 0, s.r.reset(ctx, s)
}

func (s *clientSubject) reset() { s.client.Status.Provisioning = v1alpha1.M2MClientProvisioning{} }

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
		WatchesRawSource(source.Channel(r.Wishes.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(watch.NamespaceOf, nil)}).
		Complete(watch.Reconciler(r, r.Watched, watch.In))
}
