// SPDX-License-Identifier: Apache-2.0

// Package gateways reads and writes the policies that gateways check tokens by. Their
// kinds belong to other projects: they may be absent, come later, or go, and the
// operator may have no permission for them. The package finds that out without a
// restart, and without a busy loop. It follows the metadata of objects with the operator's
// label, reads those that somebody asks for, and keeps of each only what is compared. It
// decides nothing about a policy.
package gateways

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/enforcement"
)

// LookAgain is how often a kind that is absent, or not permitted, is looked for.
const LookAgain = 30 * time.Second

// patience is how long reconciles wait for the first list of a kind, and how long the API
// server may take to answer whether it knows the kind.
const patience = 10 * time.Second

// readAgain is how often somebody looks whether the objects of a kind are listed.
const readAgain = 2 * time.Second

// Again returns when to look again after Served has returned a problem.
func Again(p *rules.Problem) time.Duration {
	if StillReading(p) {
		return readAgain
	}
	return LookAgain
}

// StillReading reports whether a problem of Served means that the policies are not known yet.
func StillReading(p *rules.Problem) bool { return p != nil && p.Reason == v1alpha1.ReasonEnforcing }

// Kind is a kind of policy.
type Kind struct {
	Gateway  enforcement.Gateway
	Resource schema.GroupVersionResource
	Name     string
}

// Kinds are the kinds of a gateway, in the order in which their objects are removed: the
// one that refuses requests comes last.
func Kinds(g enforcement.Gateway) []Kind {
	if g == enforcement.EnvoyGateway {
		return []Kind{{g, schema.GroupVersionResource{Group: "gateway.envoyproxy.io", Version: "v1alpha1", Resource: "securitypolicies"}, "SecurityPolicy"}}
	}
	istio := schema.GroupVersion{Group: "security.istio.io", Version: "v1"}
	return []Kind{
		{g, istio.WithResource("requestauthentications"), "RequestAuthentication"},
		{g, istio.WithResource("authorizationpolicies"), "AuthorizationPolicy"},
	}
}

// Policies are the policies with the operator's label.
type Policies struct {
	api      dynamic.Interface
	metadata metadata.Interface
	clock    clock.PassiveClock

	// Patience is how long all reconciles together wait for the first list of a kind.
	Patience time.Duration

	namespaces []string
	kinds      map[enforcement.Gateway][]*followed

	mu       sync.Mutex
	running  context.Context // of the manager; nil: not started
	handlers []func(types.NamespacedName)
}

// New returns the policies of the gateways that the installation allows. It adds itself to
// the manager. Without namespaces it follows all of them.
func New(mgr ctrl.Manager, allowed []enforcement.Gateway, namespaces []string, c clock.PassiveClock) (*Policies, error) {
	api, err := dynamic.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client for the policies of gateways: %w", err)
	}
	of, err := metadata.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client for the metadata of policies: %w", err)
	}
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	p := &Policies{api: api, metadata: of, clock: c, Patience: patience, namespaces: namespaces, kinds: map[enforcement.Gateway][]*followed{}}
	for _, g := range allowed {
		for _, k := range Kinds(g) {
			p.kinds[g] = append(p.kinds[g], newFollowed(p, k))
		}
	}
	return p, mgr.Add(p)
}

// Start lets kinds be followed until the context ends.
func (p *Policies) Start(ctx context.Context) error {
	p.mu.Lock()
	p.running = ctx
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

// NeedLeaderElection returns false: a replica that takes over knows the policies.
func (p *Policies) NeedLeaderElection() bool { return false }

// Allowed returns the gateways that the installation allows.
func (p *Policies) Allowed() (all []enforcement.Gateway) {
	for _, g := range enforcement.Gateways() {
		if _, ok := p.kinds[g]; ok {
			all = append(all, g)
		}
	}
	return all
}

// Served returns why the policies of a gateway cannot be written, nil if they can. It
// looks for kinds that were absent.
func (p *Policies) Served(ctx context.Context, g enforcement.Gateway) (*rules.Problem, error) {
	kinds, ok := p.kinds[g]
	if !ok {
		return &rules.Problem{Reason: v1alpha1.ReasonNotEnabled, Message: fmt.Sprintf(
			"This installation does not let the operator write policies for %s; the platform's team can allow it with --enforcement=%s and the permission for it", g.Name(), g)}, nil
	}
	p.mu.Lock()
	running := p.running
	p.mu.Unlock()
	if running == nil {
		return nil, errors.New("the operator has not started yet")
	}
	for _, k := range kinds {
		if problem, err := k.ensure(ctx, running); problem != nil || err != nil {
			return problem, err
		}
	}
	return nil, nil
}

// absent returns the problem with a kind that cannot be listed, nil if the error says
// something else.
func absent(k Kind, err error) *rules.Problem {
	switch {
	case apierrors.IsNotFound(err):
		return &rules.Problem{Reason: v1alpha1.ReasonKindNotInstalled, Message: fmt.Sprintf(
			"The API server does not know the kind %s of %s; install %s's CustomResourceDefinitions", k.Name, k.Resource.GroupVersion(), k.Gateway.Name())}
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return &rules.Problem{Reason: v1alpha1.ReasonNotEnabled, Message: fmt.Sprintf(
			"The operator has no permission for %s.%s; the platform's team can grant it with the component enforcement-%s or the chart's values",
			k.Resource.Resource, k.Resource.Group, k.Gateway)}
	}
	return nil
}

// of returns what is followed of a kind, nil if it is not allowed.
func (p *Policies) of(k Kind) *followed {
	i := slices.IndexFunc(p.kinds[k.Gateway], func(f *followed) bool { return f.kind == k })
	if i < 0 {
		return nil
	}
	return p.kinds[k.Gateway][i]
}

// Get returns a policy as it was last seen or written, nil if there is none. It costs no
// request, and may know the metadata only.
func (p *Policies) Get(k Kind, name types.NamespacedName) *Object {
	if f := p.of(k); f != nil {
		return f.get(name)
	}
	return nil
}

// Read returns a whole policy, nil if there is none. A version that nobody has read costs a
// request.
func (p *Policies) Read(ctx context.Context, k Kind, name types.NamespacedName) (*Object, error) {
	if f := p.of(k); f != nil {
		return f.read(ctx, name)
	}
	return nil, nil
}

// Of returns the policies of a kind that are an APIResource's.
func (p *Policies) Of(k Kind, api metav1.Object) (all []*Object) {
	if f := p.of(k); f != nil {
		return f.ofAPI(api)
	}
	return nil
}

// notify tells the handlers that a policy of an APIResource has changed.
func (p *Policies) notify(api types.NamespacedName) {
	p.mu.Lock()
	handlers := p.handlers
	p.mu.Unlock()
	for _, tell := range handlers {
		tell(api)
	}
}

// Source requests a reconcile of the APIResource whose policy has changed.
type Source struct{ Policies *Policies }

// Start implements source.Source.
func (s Source) Start(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	s.Policies.mu.Lock()
	defer s.Policies.mu.Unlock()
	s.Policies.handlers = append(s.Policies.handlers, func(api types.NamespacedName) {
		if ctx.Err() == nil {
			q.Add(reconcile.Request{NamespacedName: api})
		}
	})
	return nil
}

// listOptions select what is followed.
func listOptions(o metav1.ListOptions) metav1.ListOptions {
	o.LabelSelector = v1alpha1.ManagedByLabel + "=" + v1alpha1.ManagedByValue
	return o
}

// lister returns the functions by which a kind is followed in a namespace. It reports
// errors that end the following.
func (p *Policies) lister(k Kind, namespace string, failed func(error)) *toolscache.ListWatch {
	resource := p.metadata.Resource(k.Resource).Namespace(namespace)
	checked := func(err error) error {
		if absent(k, err) != nil {
			failed(err)
		}
		return err
	}
	return &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := resource.List(ctx, listOptions(o))
			return list, checked(err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := resource.Watch(ctx, listOptions(o))
			return w, checked(err)
		},
	}
}
