// SPDX-License-Identifier: Apache-2.0

// Package m2mclient keeps a fresh token for each access of each M2MClient. It is a
// reconciler: it gathers what the pure packages decide by, and carries out what they say.
// Package refresh says whether a token is due, verdict whether a new one is published.
package m2mclient

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/credentials"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/lasting"
	"github.com/m2m-operator/m2m-operator/internal/controller/memory"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/recipients"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// Config holds the dependencies and options of the reconciler.
type Config struct {
	Shard  watch.Shard
	Client client.Client
	Live   client.Reader // past the cache
	Clock  clock.PassiveClock
	Events recorder.EventRecorder

	Access      rules.Resolver
	Lives       *servers.Lives
	Connections *servers.Connections
	Admission   *servers.Admission
	Foreign     *foreign.Objects
	Credentials *credentials.Source
	Watched     watch.Namespaces
	Failures    *lasting.Failures
	Policies    *gateways.Policies

	OperatorNamespace string

	// Learnt receives the servers whose endpoints this process has learnt.
	Learnt <-chan event.GenericEvent
	// RequestKeys requests a fetch of a server's keys.
	RequestKeys func(srv *rules.Server, keyID string) bool
	// CompareClient and CompareAPI request that a registered client and its API are
	// compared with their server.
	CompareClient, CompareAPI func(client.Object)

	// Prompt enables touching pods so that they see urgent changes at once.
	Prompt bool

	// ConfirmSecrets makes the reconciler read a Secret live before it mints any token for
	// it. Where several namespaces are watched one by one, the cache may lag behind our own
	// writes.
	ConfirmSecrets bool
}

// Reconciler keeps a fresh, verified token for each access of each M2MClient in the
// client's Secret.
type Reconciler struct {
	Config

	held       *memory.PerAccess[tokensecret.Token]
	written    *memory.PerAccess[cached.Digest] // of the tokens that this process wrote or has checked
	secrets    *tokensecret.Store
	recipients *recipients.Recipients
	judgements *memory.PerAccess[judgement]
	rejudged   *pace.Buckets[string] // of the requests that a judgement causes, by access
	requests   *pace.Requests[types.NamespacedName]
}

// New returns a reconciler that knows nothing yet.
func New(c Config) *Reconciler {
	return &Reconciler{
		Config: c, secrets: tokensecret.New(tokensecret.Config{Client: c.Client, Live: c.Live, Foreign: c.Foreign, Prompt: c.Prompt}),
		recipients: &recipients.Recipients{Client: c.Client, Access: c.Access, Policies: c.Policies, Prompt: c.Prompt},
		held:       memory.New[tokensecret.Token](), written: memory.New[cached.Digest](),
		judgements: memory.New[judgement](), rejudged: pace.New[string](RejudgedRate),
		requests: pace.NewRequests[types.NamespacedName](),
	}
}

// Pass is what one reconcile of a client gathers and decides. Each part is written by one
// step.
type pass struct {
	Client *v1alpha1.M2MClient
	Now    time.Time

	request request
	origin
	identity
	storage
	Accesses []*access
	course
}

// origin is where a client's tokens come from.
type origin struct {
	server        *rules.Server
	serverProblem *rules.Problem
}

// identity is who the client is at its server.
type identity struct {
	provisioned conditions.Condition // what becomes of it at its server; empty with credentials of its own
	credentials *credentials.Credentials
	credProblem *rules.Problem
}

// storage is what was found in the client's Secrets, and what became of writing them.
type storage struct {
	secret        *tokensecret.Found
	secretProblem *rules.Problem
	waiting       tokensecret.Waiting
	written       tokensecret.Written
}

// course is how the pass goes on.
type course struct {
	brief  bool // it only waits for its turn for a moment: no status is worth that
	stale  bool // the Secret that was read is not the latest: nothing is written or told by it
	events []func()
}

func (p *pass) event(r *Reconciler, eventType, reason, format string, args ...any) {
	p.events = append(p.events, func() {
		r.Events.Eventf(p.Client, nil, eventType, reason, "Reconcile", format, args...)
	})
}

// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients,verbs=list;watch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients/status,verbs=patch
// +kubebuilder:rbac:groups=m2m-operator.io,resources=m2mclients/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete

// Reconcile brings a client's Secret and status up to date.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	before := &v1alpha1.M2MClient{} // shared with the cache: read only
	if err := r.Client.Get(ctx, req.NamespacedName, before, client.UnsafeDisableDeepCopy); err != nil || !before.DeletionTimestamp.IsZero() || !r.Shard.Serves(before) {
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
	// A pass may take as long as the authorization server does. If the client was handed
	// over meanwhile, another instance writes its status.
	if mine, err := r.Shard.StillServes(ctx, r.Client, req.NamespacedName); err != nil || !mine {
		return ctrl.Result{}, err
	}
	if p.brief {
		p.observe(before)
	} else {
		p.observe(c)
	}
	if !p.brief && !equality.Semantic.DeepEqual(before.Status, c.Status) {
		if err := r.Client.Status().Patch(ctx, c, client.MergeFrom(before)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		conditions.RecordTransitions(r.Events, c, "Reconcile", before.Status.Conditions, c.Status.Conditions)
	}
	for _, tell := range p.events {
		tell()
	}
	if p.brief {
		return ctrl.Result{RequeueAfter: after}, nil
	}
	again := r.Failures.Look(ctx, r.Events, c, before.Status.Conditions, c.Status.Conditions, v1alpha1.ConditionFresh, v1alpha1.ConditionProvisioned)
	return ctrl.Result{RequeueAfter: refresh.Soonest(time.Millisecond, after, again)}, nil
}

// observe publishes a client's tokens and conditions as metrics.
func (p *pass) observe(c *v1alpha1.M2MClient) {
	server := ""
	if p.server != nil {
		server = p.server.Key().String()
	}
	metrics.ObserveClient(c, server)
}

// reconcile does the work, puts what it found into the client's status, and
// returns when to come back.
func (r *Reconciler) reconcile(ctx context.Context, c *v1alpha1.M2MClient) (*pass, time.Duration, error) {
	p := &pass{Client: c, Now: r.Clock.Now()}
	r.readRequest(p)
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

// forgetFormerAccesses drops what is remembered of accesses that the client no longer has.
func (r *Reconciler) forgetFormerAccesses(p *pass) {
	name := client.ObjectKeyFromObject(p.Client)
	has := func(key string) bool {
		return slices.ContainsFunc(p.Accesses, func(a *access) bool { return a.key == key })
	}
	r.held.Retain(name, has)
	r.written.Retain(name, has)
	r.judgements.Retain(name, has)
}

// next returns how long until something is to be done.
func (p *pass) next() time.Duration {
	var waits []time.Duration
	if p.written.Refused != nil {
		waits = append(waits, write.RefusalWait)
	}
	if !p.request.later.IsZero() {
		waits = append(waits, p.request.later.Sub(p.Now))
	}
	for _, a := range p.Accesses {
		if !a.wakeAt.IsZero() {
			waits = append(waits, max(time.Millisecond, a.wakeAt.Sub(p.Now)))
		}
		if a.Record != nil && p.Now.Before(a.Record.ExpiresAt) {
			waits = append(waits, a.Record.ExpiresAt.Sub(p.Now)) // to say that it has expired
		}
	}
	return refresh.Soonest(time.Millisecond, waits...)
}

// Need orders the clients of one namespace in the controller's queue, as their requests
// are ordered in the line for a budget: by the token that expires first.
func (r *Reconciler) Need(req reconcile.Request) traffic.Need {
	var c v1alpha1.M2MClient
	if r.Client.Get(context.Background(), req.NamespacedName, &c, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency) != nil {
		return traffic.Need{}
	}
	n := traffic.Need{Since: c.CreationTimestamp.Time}
	if c.Status.ExpiresAt != nil {
		n.ExpiresAt = c.Status.ExpiresAt.Time
	}
	return n
}

func (r *Reconciler) forget(name types.NamespacedName, uid types.UID) {
	metrics.ForgetClient(name)
	r.held.Forget(name)
	r.written.Forget(name)
	r.judgements.Forget(name)
	r.secrets.Forget(name)
	r.requests.Forget(name)
	r.Failures.Forget(&v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}})
	if uid != "" {
		r.Admission.Leave(uid)
	}
}

// ownerless maps a Secret that says whose it is and has no owner to that client.
func (r *Reconciler) ownerless() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		name, ok := record.ParseName(o.GetAnnotations()[v1alpha1.OwnerAnnotation])
		if !ok || name.Namespace != o.GetNamespace() || !r.Watched.Watches(name.Namespace) || metav1.GetControllerOfNoCopy(o) != nil {
			return nil
		}
		return []reconcile.Request{{NamespacedName: name}}
	})
}

// SetupWithManager watches everything that decides what a client's Secret
// should hold.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, workers int) error {
	clients := func(ctx context.Context, opts ...client.ListOption) []reconcile.Request {
		return r.Shard.Clients(ctx, r.Client, opts...)
	}
	ofServer := watch.ClientsOfServer(r.Client, r.Shard)
	ofAPIResource := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return clients(ctx, client.MatchingFields{watch.ByAPIResource: client.ObjectKeyFromObject(o).String()})
	})
	ofNamespace := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if !r.Watched.Watches(o.GetName()) {
			return nil
		}
		return clients(ctx, client.InNamespace(o.GetName()))
	})
	ofSecret := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if !r.Watched.Watches(o.GetNamespace()) {
			return nil // the operator's own namespace
		}
		return r.Shard.ClientsNaming(ctx, r.Client, client.ObjectKeyFromObject(o))
	})
	// A foreign Secret that only looks like the operator's makes room when it goes.
	room := handler.Funcs{DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q watch.Queue) {
		if !r.Watched.Watches(e.Object.GetNamespace()) {
			return // the operator's own namespace
		}
		for _, c := range r.Shard.ClientsNaming(ctx, r.Client, client.ObjectKeyFromObject(e.Object)) {
			q.Add(c)
		}
	}}
	gone := r.Shard.Departures(func(o client.Object) { r.forget(client.ObjectKeyFromObject(o), o.GetUID()) })
	b := ctrl.NewControllerManagedBy(mgr).
		Named("m2mclient").
		For(&v1alpha1.M2MClient{}, builder.WithPredicates(r.Shard.Of(predicate.Or(predicate.GenerationChangedPredicate{}, comparedClient, refreshRequested)))).
		Watches(&v1alpha1.M2MClient{}, gone).
		Owns(&corev1.Secret{}, builder.WithPredicates(r.secrets.ChangedByOthers(), r.Shard.OwnedBy(r.Client))).
		Watches(&corev1.Secret{}, room).
		Watches(&corev1.Secret{}, r.ownerless()).
		Watches(&v1alpha1.AuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&v1alpha1.ClusterAuthorizationServer{}, ofServer, builder.WithPredicates(watch.NotJustAsked)).
		Watches(&v1alpha1.APIResource{}, ofAPIResource, builder.WithPredicates(watch.NotJustCompared)).
		WatchesMetadata(&corev1.Namespace{}, ofNamespace, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WatchesRawSource(foreign.Source(r.Foreign, "Secret", ofSecret)).
		WatchesRawSource(source.Channel(r.Learnt, ofServer)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, NewQueue: watch.Fairly(watch.NamespaceOf, r.Need)})
	if r.Shard != "" { // else the servers' own controller forgets them
		gone := handler.Funcs{DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ watch.Queue) {
			r.Lives.Forget(rules.ServerKeyOf(e.Object))
			metrics.ForgetServerMetrics(rules.ServerKeyOf(e.Object))
		}}
		b = b.Watches(&v1alpha1.AuthorizationServer{}, gone).Watches(&v1alpha1.ClusterAuthorizationServer{}, gone)
	}
	return b.Complete(watch.Reconciler(r, r.Watched, watch.In))
}
