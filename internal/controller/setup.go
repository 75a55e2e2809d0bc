// SPDX-License-Identifier: Apache-2.0

// Package controller is the Kubernetes side of the operator: it watches the
// kinds of m2m-operator, carries values between them and the packages that
// decide (refresh, jwks, oauth, render), and writes what they say: statuses,
// token Secrets and verification bundles. No decision about time, tokens or
// keys is made here.
package controller

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/pace"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// fieldOwner names the operator as the writer of what it writes.
const fieldOwner = "m2m-operator"

// Options configure the operator.
type Options struct {
	// Egress says which connections to authorization servers are allowed.
	Egress egress.Policy

	// RequireCredentialLabel has only Secrets be sent to authorization servers
	// that carry v1alpha1.CredentialsLabel.
	RequireCredentialLabel bool

	// OperatorNamespace is where the Secrets and ConfigMaps are that a
	// ClusterAuthorizationServer names. Empty: it can name none.
	OperatorNamespace string

	// WatchNamespaces limits the operator to these namespaces. Empty: all.
	WatchNamespaces []string

	// Workers is the number of M2MClients, of verification bundles and of pods
	// that are reconciled at a time. Zero: 20.
	Workers int

	// RequestsPerSecond is the budget of an authorization server that names none.
	// Zero: 100.
	RequestsPerSecond int

	// PromptDelivery has the operator touch the pods that must see a changed
	// Secret or ConfigMap at once. It needs the permission to patch pods.
	PromptDelivery bool

	// ClusterID tells the clusters apart that share an authorization server.
	// Empty: the UID of namespace kube-system.
	ClusterID string

	// DeletionTimeout is how long a deleted object is held until what was
	// provisioned of it is removed at its server. Zero: 5 minutes.
	DeletionTimeout time.Duration

	// Shard is whose M2MClients this instance serves: those with the value of
	// ShardLabel. It does nothing else then. Empty: the clients without the
	// label, and everything that is no client.
	Shard string

	// Shards is how many instances share each authorization server's budget,
	// this one included. Zero: 1.
	Shards int

	// Clock is what every decision over time is made by. Nil: the real one.
	Clock clock.PassiveClock
}

func (o *Options) setDefaults() {
	if o.Workers <= 0 {
		o.Workers = 20
	}
	if o.Shards <= 0 {
		o.Shards = 1
	}
	if o.RequestsPerSecond <= 0 {
		o.RequestsPerSecond = defaultRequestsPerSecond
	}
	if o.DeletionTimeout <= 0 {
		o.DeletionTimeout = defaultDeletionTimeout
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
}

// Scheme returns a scheme with the kinds that the operator reads and writes.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

// ManagerOptions returns the scheme, the client and the cache that Setup's
// controllers need; the caller adds addresses and leader election.
//
// Of Secrets and ConfigMaps only the operator's own are cached, of pods and
// workloads their annotations: memory does not grow with what else is in the
// cluster. Of what anybody can write, no object is kept beyond a bound: see slim.go.
// A shard caches its own M2MClients, and all Secrets of the
// operator: those of a client that is handed over must be there when it comes.
func ManagerOptions(o Options) ctrl.Options {
	own := labels.SelectorFromSet(labels.Set{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	// A pod that has finished mounts nothing any more.
	unfinished := fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))
	var clients labels.Selector // of a shard; all others know all clients
	if o.Shard != "" {
		clients = labels.SelectorFromSet(labels.Set{v1alpha1.ShardLabel: o.Shard})
	}
	readYourWrites := true
	return ctrl.Options{
		Scheme: Scheme(),
		// Far above what any reconcile takes: a wait that never ends must not
		// cost a worker for good.
		Controller: config.Controller{ReconciliationTimeout: 2 * time.Minute},
		Client: client.Options{
			FieldOwner: fieldOwner,
			Cache: &client.CacheOptions{
				// Without it, a reconciler that has just replaced a token could
				// read the Secret as it was before, and mint once more.
				EnableReadYourWritesConsistency: &readYourWrites,
			},
		},
		Cache: cache.Options{
			DefaultNamespaces: watchedNamespaces(o.WatchNamespaces),
			DefaultTransform:  cache.TransformStripManagedFields(),
			NewInformer:       newPagedInformer,
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.M2MClient{}:                  {Label: clients, Transform: slimClient},
				&v1alpha1.APIResource{}:                {Transform: slimAPIResource},
				&v1alpha1.AuthorizationServer{}:        {Transform: slimServer},
				&v1alpha1.ClusterAuthorizationServer{}: {Transform: slimServer},
				&corev1.Secret{}:                       {Label: own, Namespaces: withOperatorNamespace(o), Transform: slimSecret(o.OperatorNamespace)},
				&corev1.ConfigMap{}:                    {Label: own, Transform: slimConfigMap},
				&corev1.Pod{}:                          {Field: unfinished, Transform: stripPod},
				&corev1.Namespace{}:                    {Transform: stripNamespace},
				&appsv1.Deployment{}:                   {Transform: stripWorkload},
				&appsv1.StatefulSet{}:                  {Transform: stripWorkload},
				&appsv1.DaemonSet{}:                    {Transform: stripWorkload},
				&batchv1.Job{}:                         {Transform: stripWorkload},
				&batchv1.CronJob{}:                     {Transform: stripWorkload},
			},
		},
	}
}

// reconcilers are the operator's controllers and what they share.
type reconcilers struct {
	foreign  *foreignObjects
	servers  *servers
	server   []*AuthorizationServerReconciler // one for each kind
	resource *APIResourceReconciler
	bundle   *BundleReconciler
	client   *M2MClientReconciler
	others   *OthersReconciler
	pod      *PodReconciler
	workload []*WorkloadReconciler // one for each kind

	apiProvisioner    *APIResourceProvisioner
	clientProvisioner *M2MClientProvisioner
}

func newReconcilers(mgr ctrl.Manager, o Options) (*reconcilers, error) {
	mine, c := shard(o.Shard), wholeClient{mgr.GetClient(), mgr.GetAPIReader()}
	if err := addIndexes(mgr.GetFieldIndexer(), mine); err != nil {
		return nil, err
	}
	foreign, err := newForeignObjects(mgr, o)
	if err != nil {
		return nil, err
	}
	tokens, err := corev1client.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client for ServiceAccount tokens: %w", err)
	}
	servers := newServers(o, foreign, c)
	budget := newEventBudget(o.Clock)
	events := func(name string) recorder.EventRecorder { return boundedEvents{mgr.GetEventRecorder(name), budget} }
	access := accessResolver{servers: servers}
	apiWishes, clientWishes := newWishes(o.Clock), newWishes(o.Clock)
	remover := func(events recorder.EventRecorder, w *wishes) *remover {
		return &remover{since: lru.New(maxMoving), client: c, servers: servers, timeout: o.DeletionTimeout, wake: w.wake, events: events}
	}
	rendered, refusals := newRenderedBundles(), newRefusals(o.Clock)
	r := &reconcilers{
		foreign: foreign, servers: servers,
		resource: &APIResourceReconciler{
			client: c, servers: servers, foreign: foreign, events: events("m2m-apiresource"),
			rendered: rendered, refusals: refusals,
		},
		bundle: &BundleReconciler{
			client: c, live: mgr.GetAPIReader(), servers: servers, clock: o.Clock, prompt: o.PromptDelivery, events: events("m2m-verificationbundle"),
			rendered: rendered, writes: pace.New[bundleRequest](bundleWriteRate), refusals: refusals, terms: newNewTerms(),
		},
		client: &M2MClientReconciler{
			shard: mine, client: c, live: mgr.GetAPIReader(), access: access, servers: servers, foreign: foreign, tokens: tokens, audiences: newClusterAudiences(mgr.GetConfig()),
			clientWishes: clientWishes, apiWishes: apiWishes,
			clock: o.Clock, held: newPerAccess[heldToken](), written: newPerAccess[digest](), wrote: newPerAccess[digest](), events: events("m2m-m2mclient"),
			verdicts: newPerAccess[verdict](), rejudged: pace.New[string](rejudgedRate),
			prompt: o.PromptDelivery, confirmSecrets: len(o.WatchNamespaces) > 1,
		},
		others: &OthersReconciler{
			shard: mine, client: c, access: access, servers: servers, apiWishes: apiWishes, clock: o.Clock,
		},
		pod: &PodReconciler{
			client: c, servers: servers, foreign: foreign, clock: o.Clock, prompt: o.PromptDelivery, events: events("m2m-pod"),
			touches: newTouchBudget(), refusals: refusals,
		},
	}
	apiEvents, clientEvents := events("m2m-apiresource-provisioning"), events("m2m-m2mclient-provisioning")
	r.apiProvisioner = &APIResourceProvisioner{
		client: c, servers: servers, remover: remover(apiEvents, apiWishes), wishes: apiWishes, clock: o.Clock, events: apiEvents,
	}
	r.clientProvisioner = &M2MClientProvisioner{
		shard: mine, client: c, live: mgr.GetAPIReader(), access: access, servers: servers, remover: remover(clientEvents, clientWishes), wishes: clientWishes, seen: &sync.Map{}, clock: o.Clock, events: clientEvents,
	}
	for _, w := range workloads() {
		r.workload = append(r.workload, &WorkloadReconciler{
			kind: reflect.TypeOf(w).Elem().Name(), empty: w, client: c, clock: o.Clock, events: events("m2m-workload"),
		})
	}
	for _, kind := range []v1alpha1.AuthorizationServerKind{v1alpha1.KindAuthorizationServer, v1alpha1.KindClusterAuthorizationServer} {
		r.server = append(r.server, &AuthorizationServerReconciler{
			kind: kind, client: c, servers: servers, places: traffic.NewPlaces(serverWorkers), clock: o.Clock, events: events("m2m-authorizationserver"),
		})
	}
	return r, nil
}

// Setup adds the operator's controllers to a manager that was made with
// ManagerOptions.
func Setup(mgr ctrl.Manager, o Options) error {
	o.setDefaults()
	r, err := newReconcilers(mgr, o)
	if err != nil {
		return err
	}
	if err := r.client.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up M2MClient: %w", err)
	}
	if err := r.clientProvisioner.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up the provisioning of M2MClients: %w", err)
	}
	if o.Shard != "" {
		for _, s := range r.server {
			e := &EndpointReconciler{kind: s.kind, client: mgr.GetClient(), servers: r.servers, failures: map[serverKey]int{}}
			if err := e.SetupWithManager(mgr); err != nil {
				return fmt.Errorf("set up the endpoints of %s: %w", s.kind, err)
			}
		}
		return nil // all else is the affair of the instance without a shard
	}
	if err := r.others.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("set up the clients of shards: %w", err)
	}
	for _, s := range r.server {
		if err := s.SetupWithManager(mgr, r.foreign); err != nil {
			return fmt.Errorf("set up %s: %w", s.kind, err)
		}
	}
	if err := r.resource.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("set up APIResource: %w", err)
	}
	if err := r.bundle.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up verification bundles: %w", err)
	}
	if err := r.apiProvisioner.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up the provisioning of APIResources: %w", err)
	}
	if err := r.pod.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up pods: %w", err)
	}
	for _, w := range r.workload {
		if err := w.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("set up %s: %w", w.kind, err)
		}
	}
	return nil
}

// withOperatorNamespace adds to the watched namespaces the operator's own, where
// the credentials of registered clients are.
func withOperatorNamespace(o Options) map[string]cache.Config {
	namespaces := watchedNamespaces(o.WatchNamespaces)
	if namespaces != nil && o.OperatorNamespace != "" {
		namespaces[o.OperatorNamespace] = cache.Config{}
	}
	return namespaces
}

func watchedNamespaces(names []string) map[string]cache.Config {
	if len(names) == 0 {
		return nil
	}
	m := make(map[string]cache.Config, len(names))
	for _, n := range names {
		m[n] = cache.Config{}
	}
	return m
}

// soonest returns the shortest of the durations that are set, at least min.
func soonest(least time.Duration, ds ...time.Duration) time.Duration {
	ds = slices.DeleteFunc(ds, func(d time.Duration) bool { return d == 0 })
	if len(ds) == 0 {
		return 0
	}
	return max(least, slices.Min(ds))
}
