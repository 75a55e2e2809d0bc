// SPDX-License-Identifier: Apache-2.0

// Package controller composes the operator from the packages below it, one for each
// reconciler and for what reconcilers share. Options configure it, ManagerOptions
// returns the scheme, client and cache that the reconcilers need, and Setup adds
// the reconcilers to a manager. Only cmd and tests import it. It makes no decision
// about time, tokens, keys or tenants: those are in the packages that it composes.
package controller

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
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
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/recorder"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/apiresource"
	"github.com/m2m-operator/m2m-operator/internal/controller/authserver"
	"github.com/m2m-operator/m2m-operator/internal/controller/bundle"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/credentials"
	gatewaypolicy "github.com/m2m-operator/m2m-operator/internal/controller/enforcement"
	"github.com/m2m-operator/m2m-operator/internal/controller/events"
	"github.com/m2m-operator/m2m-operator/internal/controller/foreign"
	"github.com/m2m-operator/m2m-operator/internal/controller/gateways"
	"github.com/m2m-operator/m2m-operator/internal/controller/lasting"
	"github.com/m2m-operator/m2m-operator/internal/controller/m2mclient"
	"github.com/m2m-operator/m2m-operator/internal/controller/metrics"
	"github.com/m2m-operator/m2m-operator/internal/controller/pod"
	"github.com/m2m-operator/m2m-operator/internal/controller/provisioning"
	"github.com/m2m-operator/m2m-operator/internal/controller/servers"
	"github.com/m2m-operator/m2m-operator/internal/controller/shard"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
)

// defaultRequestsPerSecond is enough for 10,000 tokens that live for 5 minutes, which take 61
// requests per second, and for new clients besides.
const defaultRequestsPerSecond = 100

// fieldOwner is the field manager of the operator's writes.
const fieldOwner = "m2m-operator"

// Options configure the operator.
type Options struct {
	// Egress is the policy for connections to authorization servers.
	Egress egress.Policy

	// RequireCredentialLabel limits the Secrets that may be sent to authorization servers
	// to those that carry v1alpha1.CredentialsLabel.
	RequireCredentialLabel bool

	// OperatorNamespace is the namespace of the Secrets and ConfigMaps that a
	// ClusterAuthorizationServer names. Empty: it can name none.
	OperatorNamespace string

	// WatchNamespaces limits the operator to these namespaces. Empty: all.
	WatchNamespaces []string

	// Workers is the number of M2MClients, of verification bundles and of pods
	// that are reconciled at a time. Zero: 20.
	Workers int

	// RequestsPerSecond is the budget of an authorization server whose spec sets none.
	// Zero: 100.
	RequestsPerSecond int

	// PromptDelivery enables touching pods so that they see urgent changes of a Secret or
	// ConfigMap at once. It needs the permission to patch pods.
	PromptDelivery bool

	// Enforcement names the gateways whose policies the operator may write. Empty: none.
	Enforcement []Gateway

	// ClusterID distinguishes clusters that share an authorization server. Empty: the UID
	// of namespace kube-system.
	ClusterID string

	// DeletionTimeout is how long a deleted object is held at most while the operator
	// tries to remove what was provisioned for it. Zero: 5 minutes.
	DeletionTimeout time.Duration

	// Shard limits this instance to the M2MClients whose ShardLabel has this value; it
	// then does nothing else. Empty: the clients without the label, and all other objects.
	Shard string

	// Shards is how many instances, including this one, share each authorization server's
	// budget. Zero: 1.
	Shards int

	// Clock is the clock for all decisions about time. Nil: the real one.
	Clock clock.PassiveClock
}

// Gateway is a kind of gateway whose policies the operator can write.
type Gateway = enforcement.Gateway

// Gateways returns all gateways whose policies the operator can write.
func Gateways() []Gateway { return enforcement.Gateways() }

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
		o.DeletionTimeout = provisioning.DefaultDeletionTimeout
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
}

// Scheme returns a scheme with all kinds that the operator reads or writes.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

// ManagerOptions returns the scheme, the client and the cache that Setup's controllers need;
// the caller adds addresses and leader election.
//
// The cache holds only the operator's own Secrets and ConfigMaps, and only the annotations of
// pods and workloads, so memory does not grow with the rest of the cluster. Package cached
// bounds what is kept of an object that anybody can write. A shard caches its own M2MClients,
// but all Secrets of the operator: when a client is handed over, its Secrets must be there.
func ManagerOptions(o Options) ctrl.Options {
	own := labels.SelectorFromSet(labels.Set{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
	// A finished pod no longer mounts anything.
	unfinished := fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))
	var clients labels.Selector // set for a shard; the instance without a shard caches all clients
	if o.Shard != "" {
		clients = labels.SelectorFromSet(labels.Set{v1alpha1.ShardLabel: o.Shard})
	}
	readYourWrites := true
	return ctrl.Options{
		Scheme: Scheme(),
		// Far above what any reconcile takes. It only ensures that a wait that never ends
		// does not block a worker for good.
		Controller: config.Controller{ReconciliationTimeout: 2 * time.Minute},
		Client: client.Options{
			FieldOwner: fieldOwner,
			Cache: &client.CacheOptions{
				// Without this, a reconciler that has just replaced a token could read the
				// former Secret and mint once more.
				EnableReadYourWritesConsistency: &readYourWrites,
			},
		},
		Cache: cache.Options{
			DefaultNamespaces: watchedNamespaces(o.WatchNamespaces),
			DefaultTransform:  cache.TransformStripManagedFields(),
			NewInformer:       cached.NewPagedInformer,
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.M2MClient{}:                  {Label: clients, Transform: cached.SlimClient},
				&v1alpha1.APIResource{}:                {Transform: cached.SlimAPIResource},
				&v1alpha1.AuthorizationServer{}:        {Transform: cached.SlimServer},
				&v1alpha1.ClusterAuthorizationServer{}: {Transform: cached.SlimServer},
				&corev1.Secret{}:                       {Label: own, Namespaces: withOperatorNamespace(o), Transform: cached.SlimSecret(o.OperatorNamespace)},
				&corev1.ConfigMap{}:                    {Label: own, Transform: cached.SlimConfigMap},
				&corev1.Pod{}:                          {Field: unfinished, Transform: cached.StripPod},
				&corev1.Namespace{}:                    {Transform: cached.StripNamespace},
				&appsv1.Deployment{}:                   {Transform: cached.StripWorkload},
				&appsv1.StatefulSet{}:                  {Transform: cached.StripWorkload},
				&appsv1.DaemonSet{}:                    {Transform: cached.StripWorkload},
				&batchv1.Job{}:                         {Transform: cached.StripWorkload},
				&batchv1.CronJob{}:                     {Transform: cached.StripWorkload},
			},
		},
	}
}

// Reconcilers are the operator's reconcilers, composed and not yet added to a manager.
type Reconcilers struct {
	Shared               Shared
	AuthorizationServers []*authserver.Reconciler // one for each kind
	APIResources         *apiresource.Reconciler
	Bundles              *bundle.Reconciler
	Enforcement          *gatewaypolicy.Reconciler
	M2MClients           *m2mclient.Reconciler
	ShardedClients       *shard.Reconciler
	Endpoints            []*authserver.EndpointReconciler // one for each kind of server; set up in a shard only
	Pods                 *pod.Reconciler
	Workloads            []*pod.WorkloadReconciler // one for each kind

	APIProvisioning    *provisioning.APIReconciler
	ClientProvisioning *provisioning.ClientReconciler
}

// Shared is what the reconcilers share: the in-memory state of authorization servers, and
// the Secrets and ConfigMaps that the operator did not write.
type Shared struct {
	Foreign        *foreign.Objects
	Lives          *servers.Lives
	Endpoints      *servers.Endpoints
	Connections    *servers.Connections
	KeyRequests    *servers.KeyRequests
	Wakes          servers.Wakes
	Admission      *servers.Admission
	Administration *provisioning.Administration
	Access         rules.Resolver
	Policies       *gateways.Policies
}

func newShared(mgr ctrl.Manager, o Options, c client.Client) (s Shared, err error) {
	if s.Foreign, err = foreign.New(mgr, slices.Sorted(maps.Keys(withOperatorNamespace(o))), o.RequireCredentialLabel); err != nil {
		return s, err
	}
	s.Lives, s.Wakes = servers.NewLives(), servers.NewWakes()
	s.Endpoints, s.KeyRequests = servers.NewEndpoints(s.Lives), servers.NewKeyRequests(s.Lives, o.Clock, s.Wakes)
	s.Connections = servers.NewConnections(s.Lives, o.Egress, s.Foreign, o.OperatorNamespace)
	s.Admission = servers.NewAdmission(s.Lives, c, o.Clock, o.Workers, o.Shards, o.RequestsPerSecond)
	metrics.ReadTraffic(s.Admission.Loads)
	s.Administration = provisioning.NewAdministration(provisioning.AdministrationConfig{
		Lives: s.Lives, Connections: s.Connections, Endpoints: s.Endpoints, Admission: s.Admission, Foreign: s.Foreign, Client: c, Clock: o.Clock, Wakes: s.Wakes,
		OperatorNamespace: o.OperatorNamespace, Cluster: o.ClusterID, Workers: o.Workers,
	})
	s.Access = servers.NewDirectory(c, o.WatchNamespaces, s.Endpoints)
	s.Policies, err = gateways.New(mgr, o.Enforcement, o.WatchNamespaces, o.Clock)
	return s, err
}

// New composes the reconcilers for a manager that was made with ManagerOptions. Setup also
// adds them to it; by themselves they do nothing.
func New(mgr ctrl.Manager, o Options) (*Reconcilers, error) {
	o.setDefaults()
	mine, watched, c := watch.Shard(o.Shard), watch.Namespaces(o.WatchNamespaces), cached.WholeClient{Client: mgr.GetClient(), Live: mgr.GetAPIReader()}
	if err := watch.AddIndexes(mgr.GetFieldIndexer(), mine); err != nil {
		return nil, err
	}
	tokens, err := corev1client.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client for ServiceAccount tokens: %w", err)
	}
	s, err := newShared(mgr, o, c)
	if err != nil {
		return nil, err
	}
	budget := events.NewBudget(o.Clock)
	events := func(name string) recorder.EventRecorder {
		return events.Bounded{EventRecorder: mgr.GetEventRecorder(name), Budget: budget}
	}
	provisioner := provisioning.Config{
		Shard: mine, Client: c, Live: mgr.GetAPIReader(), Clock: o.Clock, Access: s.Access, Servers: s.Administration, Watched: watched,
		Learnt: s.Endpoints.Provisioning, DeletionTimeout: o.DeletionTimeout, Events: events("m2m-apiresource-provisioning"),
	}
	apis := provisioning.NewAPIReconciler(provisioner)
	provisioner.Events = events("m2m-m2mclient-provisioning")
	clients := provisioning.NewClientReconciler(provisioner)
	terms := verification.NewChangedTerms(c)
	policies := gatewaypolicy.New(gatewaypolicy.Config{
		Client: c, Clock: o.Clock, Access: s.Access, Watched: watched, Foreign: s.Foreign, Policies: s.Policies, Terms: terms,
	})
	rendered, refusals, failures := verification.NewRendered(), verification.NewRefusals(o.Clock), lasting.New(o.Clock)
	r := &Reconcilers{
		Shared: s, APIProvisioning: apis, ClientProvisioning: clients, Enforcement: policies,
		APIResources: &apiresource.Reconciler{
			Client: c, Access: s.Access, Watched: watched, Clock: o.Clock, Foreign: s.Foreign, Events: events("m2m-apiresource"),
			Failures: failures, Rendered: rendered, Refusals: refusals,
			Enforced: policies.Judge, Policies: gateways.Source{Policies: s.Policies}, PoliciesRefused: policies.Refused,
		},
		Bundles: bundle.New(bundle.Config{
			Client: c, Live: mgr.GetAPIReader(), Access: s.Access, Watched: watched, Foreign: s.Foreign, Clock: o.Clock, Prompt: o.PromptDelivery,
			Events: events("m2m-verificationbundle"), Rendered: rendered, Refusals: refusals, Terms: terms,
		}),
		M2MClients: m2mclient.New(m2mclient.Config{
			Shard: mine, Client: c, Live: mgr.GetAPIReader(), Clock: o.Clock, Events: events("m2m-m2mclient"), Policies: s.Policies,
			Access: s.Access, Lives: s.Lives, Connections: s.Connections, Admission: s.Admission, Foreign: s.Foreign,
			Credentials: credentials.New(credentials.Config{
				Client: c, Live: mgr.GetAPIReader(), OperatorNamespace: o.OperatorNamespace, Foreign: s.Foreign, Tokens: tokens, Rest: mgr.GetConfig(),
			}),
			Watched: watched, Failures: failures, OperatorNamespace: o.OperatorNamespace, Learnt: s.Endpoints.Clients, RequestKeys: s.KeyRequests.Request,
			CompareClient: clients.Compare, CompareAPI: apis.Compare, Prompt: o.PromptDelivery, ConfirmSecrets: len(o.WatchNamespaces) > 1,
		}),
		ShardedClients: &shard.Reconciler{Shard: mine, Client: c, Access: s.Access, Watched: watched, RequestKeys: s.KeyRequests.Request, CompareAPI: apis.Compare},
		Pods: pod.New(pod.Config{
			Client: c, Watched: watched, Foreign: s.Foreign, Clock: o.Clock, Prompt: o.PromptDelivery, Events: events("m2m-pod"), Refusals: refusals,
		}),
	}
	r.addWorkloads(o, c, events("m2m-workload"))
	r.addServers(o, authserver.Config{Client: c, Events: events("m2m-authorizationserver"), Failures: failures}, mgr.GetClient())
	return r, nil
}

// addWorkloads adds the controllers of workloads, one for each kind.
func (r *Reconcilers) addWorkloads(o Options, c client.Client, events recorder.EventRecorder) {
	for _, w := range watch.Workloads() {
		r.Workloads = append(r.Workloads, &pod.WorkloadReconciler{
			Kind: reflect.TypeOf(w).Elem().Name(), Empty: w, Client: c, Clock: o.Clock, Events: events, Watched: o.WatchNamespaces,
		})
	}
}

// addServers adds the controllers of authorization servers, one for each kind.
func (r *Reconcilers) addServers(o Options, config authserver.Config, cut client.Client) {
	s, watched := r.Shared, watch.Namespaces(o.WatchNamespaces)
	config.Clock, config.Watched, config.OperatorNamespace = o.Clock, watched, o.OperatorNamespace
	config.Lives, config.Endpoints, config.Connections, config.Requests, config.Wakes, config.Foreign = s.Lives, s.Endpoints, s.Connections, s.KeyRequests, s.Wakes, s.Foreign
	config.Check, config.CheckIsDue, config.ForgetCheck = s.Administration.CheckProvisioning, s.Administration.CheckIsDue, s.Administration.ForgetCheck
	for _, kind := range []v1alpha1.AuthorizationServerKind{v1alpha1.KindAuthorizationServer, v1alpha1.KindClusterAuthorizationServer} {
		config.Kind = kind
		r.AuthorizationServers = append(r.AuthorizationServers, authserver.New(config))
		r.Endpoints = append(r.Endpoints, authserver.NewEndpointReconciler(kind, cut, s.Endpoints, s.Connections, watched))
	}
}

// Setup adds the operator's controllers to a manager that was made with
// ManagerOptions.
func Setup(mgr ctrl.Manager, o Options) error {
	o.setDefaults()
	r, err := New(mgr, o)
	if err != nil {
		return err
	}
	metrics.ObserveInstance(o.Shard, false)
	if err := mgr.Add(activity(o.Shard)); err != nil {
		return fmt.Errorf("set up the metric of the active instance: %w", err)
	}
	if err := r.M2MClients.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up M2MClient: %w", err)
	}
	if err := r.ClientProvisioning.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up the provisioning of M2MClients: %w", err)
	}
	if o.Shard != "" {
		for _, e := range r.Endpoints {
			if err := e.SetupWithManager(mgr); err != nil {
				return fmt.Errorf("set up the endpoints of %s: %w", e.Kind, err)
			}
		}
		return nil // the instance without a shard does everything else
	}
	if err := r.ShardedClients.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("set up the clients of shards: %w", err)
	}
	for _, s := range r.AuthorizationServers {
		if err := s.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("set up %s: %w", s.Kind, err)
		}
	}
	if err := r.APIResources.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("set up APIResource: %w", err)
	}
	if err := r.Bundles.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up verification bundles: %w", err)
	}
	if err := r.Enforcement.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up the policies of gateways: %w", err)
	}
	if err := r.APIProvisioning.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up the provisioning of APIResources: %w", err)
	}
	if err := r.Pods.SetupWithManager(mgr, o.Workers); err != nil {
		return fmt.Errorf("set up pods: %w", err)
	}
	for _, w := range r.Workloads {
		if err := w.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("set up %s: %w", w.Kind, err)
		}
	}
	return nil
}

// activity returns what publishes that this replica is the active one, from when it is
// elected until it stops.
func activity(shard string) manager.RunnableFunc {
	return func(ctx context.Context) error {
		metrics.ObserveInstance(shard, true)
		<-ctx.Done()
		metrics.ObserveInstance(shard, false)
		return nil
	}
}

// withOperatorNamespace returns the watched namespaces and the operator's own, which holds
// the credentials of registered clients. It returns nil for all namespaces.
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
