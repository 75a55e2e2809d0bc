// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/recorder"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// clientConfig is what the reconciler works with.
type clientConfig struct {
	shard  shard
	client client.Client
	live   client.Reader // past the cache
	clock  clock.PassiveClock
	events recorder.EventRecorder

	access      rules.Resolver
	lives       *lives
	connections *connections
	admission   *admission
	foreign     *foreignObjects
	tokens      corev1client.ServiceAccountsGetter // requests ServiceAccount tokens
	rest        *rest.Config                       // of the API server, whose own audiences no such token may have
	watched     namespaces

	operatorNamespace string

	// learnt are the servers of which this process learnt endpoints.
	learnt <-chan event.GenericEvent
	// requestKeys has a server's keys fetched.
	requestKeys func(srv *rules.Server, keyID string) bool
	// compareClient and compareAPI have a registered client and its API compared with
	// their server.
	compareClient, compareAPI func(client.Object)

	// prompt enables touching pods that must see a changed Secret at once.
	prompt bool

	// confirmSecrets has a Secret read live before a token is minted for it:
	// where several namespaces are watched one by one, the cache may lag behind
	// our own writes.
	confirmSecrets bool
}

// M2MClientReconciler keeps a fresh, verified token for each access of each
// M2MClient in the client's Secret.
type M2MClientReconciler struct {
	clientConfig

	audiences clusterAudiences // of ServiceAccount tokens that must not be requested
	held      *perAccess[heldToken]
	written   *perAccess[digest] // of the tokens that this process wrote or has checked
	wrote     *perAccess[digest] // of the Secret that this process wrote last, under the key wholeSecret
	verdicts  *perAccess[verdict]
	rejudged  *pace.Buckets[string] // of the requests that a verdict causes, by access
}

// newClientReconciler returns a reconciler that knows nothing yet.
func newClientReconciler(c clientConfig) *M2MClientReconciler {
	return &M2MClientReconciler{
		clientConfig: c, audiences: newClusterAudiences(c.rest), held: newPerAccess[heldToken](), written: newPerAccess[digest](), wrote: newPerAccess[digest](),
		verdicts: newPerAccess[verdict](), rejudged: pace.New[string](rejudgedRate),
	}
}

// pass is what one reconcile of a client gathers and decides.
type pass struct {
	client *v1alpha1.M2MClient
	now    time.Time

	server        *rules.Server
	serverProblem *rules.Problem
	credentials   *credentials
	credProblem   *rules.Problem
	provisioned   condition // what becomes of the client at its server; empty with credentials of its own
	secret        *tokenSecret
	secretProblem *rules.Problem
	waiting       *corev1.Secret // the Secret with the tokens that wait, nil if there is none
	waitingTaken  bool           // there is one of that name that is not the client's
	refusal       *rules.Problem // why the API server does not take the Secret
	// templateProblem is why a key of spec.secret.template is not there.
	templateProblem *rules.Problem
	accesses        []*access
	brief           bool // it only waits for its turn for a moment: no status is worth that
	stale           bool // the Secret that was read is not the latest: nothing is written or told by it

	events []func()
}

func (p *pass) event(r *M2MClientReconciler, eventType, reason, format string, args ...any) {
	p.events = append(p.events, func() {
		r.events.Eventf(p.client, nil, eventType, reason, "Reconcile", format, args...)
	})
}

// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients,verbs=list;watch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients/status,verbs=patch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete

// Reconcile brings a client's Secret and status up to date.
func (r *M2MClientReconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	before := &v1alpha1.M2MClient{} // the cache's, not to be changed
	if err := r.client.Get(ctx, req.NamespacedName, before, client.UnsafeDisableDeepCopy); err != nil || !before.DeletionTimestamp.IsZero() || !r.shard.serves(before) {
		if client.IgnoreNotFound(err) == nil {
			r.forget(req.NamespacedName, before.UID)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	c := before.DeepCopy()
	p, after, err := r.reconcile(ctx, c)
	if err != nil {
		return ctrl.Result{}, err
	}
	if p.stale {
		return ctrl.Result{RequeueAfter: after}, nil
	}
	// A pass may take as long as the authorization server does. If the client was
	// handed over meanwhile, its status is another's to write.
	if mine, err := r.shard.stillServes(ctx, r.client, req.NamespacedName); err != nil || !mine {
		return ctrl.Result{}, err
	}
	observeTokens(c)
	if !p.brief && !equality.Semantic.DeepEqual(before.Status, c.Status) {
		if err := r.client.Status().Patch(ctx, c, client.MergeFrom(before)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		tellTransitions(r.events, c, "Reconcile", before.Status.Conditions, c.Status.Conditions)
	}
	for _, tell := range p.events {
		tell()
	}
	return ctrl.Result{RequeueAfter: after}, nil
}

// reconcile does the work, puts what it found into the client's status, and
// returns when to come back.
func (r *M2MClientReconciler) reconcile(ctx context.Context, c *v1alpha1.M2MClient) (*pass, time.Duration, error) {
	p := &pass{client: c, now: r.clock.Now()}
	for _, step := range []func(context.Context, *pass) error{
		r.resolve, r.judgeProvisioning, r.readSecret, r.readWaiting, r.resolveCredentials, r.refreshTokens, r.writeSecret, r.writeWaiting,
	} {
		if err := step(ctx, p); err != nil {
			return nil, 0, err
		}
	}
	r.forgetFormerAccesses(p)
	summarize(p)
	return p, p.next(), nil
}

// forgetFormerAccesses drops what is kept of accesses that the client has no longer.
func (r *M2MClientReconciler) forgetFormerAccesses(p *pass) {
	name := client.ObjectKeyFromObject(p.client)
	has := func(key string) bool {
		return slices.ContainsFunc(p.accesses, func(a *access) bool { return a.key == key })
	}
	r.held.retain(name, has)
	r.written.retain(name, has)
	r.verdicts.retain(name, has)
}

// next returns how long until something is to be done.
func (p *pass) next() time.Duration {
	var waits []time.Duration
	if p.refusal != nil {
		waits = append(waits, refusalWait)
	}
	for _, a := range p.accesses {
		if !a.wakeAt.IsZero() {
			waits = append(waits, max(time.Millisecond, a.wakeAt.Sub(p.now)))
		}
		if a.record != nil && p.now.Before(a.record.ExpiresAt) {
			waits = append(waits, a.record.ExpiresAt.Sub(p.now)) // to say that it has expired
		}
	}
	return refresh.Soonest(time.Millisecond, waits...)
}

// rank is a client's place in the controller's queue among those of its namespace:
// the sooner a token of it expires, the sooner it is. A client without one comes
// after all that have one.
func (r *M2MClientReconciler) rank(req reconcile.Request) int64 {
	var c v1alpha1.M2MClient
	err := r.client.Get(context.Background(), req.NamespacedName, &c, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil || c.Status.ExpiresAt == nil {
		return lastRank
	}
	return c.Status.ExpiresAt.Unix()
}

func (r *M2MClientReconciler) forget(name types.NamespacedName, uid types.UID) {
	forgetTokens(name)
	r.held.forgetClient(name)
	r.written.forgetClient(name)
	r.verdicts.forgetClient(name)
	r.wrote.forgetClient(name)
	if uid != "" {
		r.admission.leave(uid)
	}
}

// clientsOfServer maps a server to the clients of a shard that name it or one of
// its APIs.
func clientsOfServer(c client.Reader, mine shard) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		server := client.MatchingFields{byServer: rules.ServerKeyOf(o).String()}
		all := sets.New(mine.clients(ctx, c, server)...)
		for _, api := range requestsFor(ctx, c, &v1alpha1.APIResourceList{}, server) {
			all.Insert(mine.clients(ctx, c, client.MatchingFields{byAPIResource: api.String()})...)
		}
		return all.UnsortedList()
	})
}

// SetupWithManager watches everything that decides what a client's Secret
// should hold.
func (r *M2MClientReconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	clients := func(ctx context.Context, opts ...client.ListOption) []reconcile.Request {
		return r.shard.clients(ctx, r.client, opts...)
	}
	ofServer := clientsOfServer(r.client, r.shard)
	ofAPIResource := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return clients(ctx, client.MatchingFields{byAPIResource: client.ObjectKeyFromObject(o).String()})
	})
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if !r.watched.watches(o.GetName()) {
			return nil
		}
		return clients(ctx, client.InNamespace(o.GetName()))
	})
	ofSecret := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if !r.watched.watches(o.GetNamespace()) {
			return nil // the operator's own namespace
		}
		return r.shard.clientsNaming(ctx, r.client, client.ObjectKeyFromObject(o))
	})
	// Another's Secret that only looks like the operator's makes room when it
	// goes.
	room := handler.Funcs{DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
		if !r.watched.watches(e.Object.GetNamespace()) {
			return // the operator's own namespace
		}
		for _, c := range r.shard.clientsNaming(ctx, r.client, client.ObjectKeyFromObject(e.Object)) {
			q.Add(c)
		}
	}}
	gone := r.shard.departures(func(o client.Object) { r.forget(client.ObjectKeyFromObject(o), o.GetUID()) })
	b := ctrl.NewControllerManagedBy(mgr).
		Named("m2mclient").
		For(&v1alpha1.M2MClient{}, builder.WithPredicates(r.shard.of(predicate.Or(predicate.GenerationChangedPredicate{}, comparedClient)))).
		Watches(&v1alpha1.M2MClient{}, gone).
		Owns(&corev1.Secret{}, builder.WithPredicates(r.changedByOthers(), r.shard.ownedBy(r.client))).
		Watches(&corev1.Secret{}, room).
		Watches(&corev1.Secret{}, r.ownerless()).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofServer).
		Watches(&v1alpha1.APIResource{}, ofAPIResource, builder.WithPredicates(notJustCompared)).
		WatchesMetadata(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WatchesRawSource(sourceKind(r.foreign, "Secret", ofSecret)).
		WatchesRawSource(source.Channel(r.learnt, ofServer)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: fairly(namespaceOf, r.rank)})
	if r.shard != "" { // else the servers' own controller forgets them
		gone := handler.Funcs{DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ queue) {
			r.lives.forget(rules.ServerKeyOf(e.Object))
			forgetServerMetrics(rules.ServerKeyOf(e.Object))
		}}
		b = b.Watches(&v1alpha1.AuthorizationServer{}, gone).Watches(&v1alpha1.ClusterAuthorizationServer{}, gone)
	}
	return b.Complete(untilStopped(r))
}
