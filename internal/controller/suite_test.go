// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// The suite's control plane: a real kube-apiserver and etcd.
var (
	restConfig *rest.Config
	kube       client.Client // the test's own, past every cache
	suiteLogs  = &kubetest.Log{}
)

// sentinel is in every client secret of the suite. Nothing that the operator
// writes anywhere may contain it.
const sentinel = "s3ntinel"

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(suiteLogs), zap.UseDevMode(true)))
	kubetest.Main(filepath.Join("..", ".."), func(environment *envtest.Environment) (code int, err error) {
		restConfig = environment.Config
		if kube, err = client.New(restConfig, client.Options{Scheme: Scheme()}); err != nil {
			return 1, err
		}
		code = m.Run()
		if leaks := findSentinel(); len(leaks) > 0 {
			return 1, fmt.Errorf("a client secret has leaked:\n%s", strings.Join(leaks, "\n"))
		}
		return code, nil
	})
}

var (
	sentinels = regexp.MustCompile(regexp.QuoteMeta(sentinel))
	// tokens finds how every JWT begins, which is not the middle of a certificate.
	tokens = regexp.MustCompile(`(^|[^A-Za-z0-9+/])eyJ`)
)

// findSentinel looks for the sentinel secret, and for anything that looks like
// a token, wherever the operator writes: logs, events, statuses, metrics,
// ConfigMaps, and the annotations of Secrets.
func findSentinel() (leaks []string) {
	suspect := func(where, what string) {
		for _, s := range []*regexp.Regexp{sentinels, tokens} {
			if at := s.FindStringIndex(what); at != nil {
				leaks = append(leaks, fmt.Sprintf("%s: …%s…", where, what[max(0, at[0]-80):min(len(what), at[0]+40)]))
			}
		}
	}
	suspect("logs", suiteLogs.String())
	families, err := metrics.Registry.Gather()
	if err != nil {
		return []string{err.Error()}
	}
	for _, f := range families {
		suspect("metrics", f.String())
	}
	ctx := context.Background()
	var secrets corev1.SecretList
	for _, list := range []client.ObjectList{
		&eventsv1.EventList{}, &corev1.ConfigMapList{}, &v1alpha1.M2MClientList{}, &v1alpha1.APIResourceList{},
		&v1alpha1.AuthorizationServerList{}, &v1alpha1.ClusterAuthorizationServerList{}, &secrets,
	} {
		if err := kube.List(ctx, list); err != nil {
			return []string{err.Error()}
		}
		for i := range secrets.Items {
			secrets.Items[i].Data = nil
		}
		b, err := json.Marshal(list)
		if err != nil {
			return []string{err.Error()}
		}
		suspect(fmt.Sprintf("%T", list), string(b))
	}
	return leaks
}

// requestCounter counts what the operator asks the API server for.
type requestCounter struct {
	next http.RoundTripper
	mu   sync.Mutex
	all  []string // "PATCH /apis/…"
}

func (c *requestCounter) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.all = append(c.all, req.Method+" "+req.URL.Path+"?"+req.URL.RawQuery)
	c.mu.Unlock()
	return c.next.RoundTrip(req)
}

// writes returns the writes so far, without events and leases, as
// "PATCH m2mclients/status".
func (c *requestCounter) writes() []string {
	return c.filter(func(method, _ string) bool { return method != http.MethodGet })
}

// reads returns the reads so far that are no watches and no lists of caches.
func (c *requestCounter) reads() []string {
	return c.filter(func(method, query string) bool { return method == http.MethodGet && query == "" })
}

func (c *requestCounter) filter(keep func(method, query string) bool) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []string{}
	for _, r := range c.all {
		method, rest, _ := strings.Cut(r, " ")
		path, query, _ := strings.Cut(rest, "?")
		if i := strings.Index(query, "fieldManager="); i >= 0 && method != http.MethodGet {
			query = ""
		}
		parts := strings.Split(strings.Trim(path, "/"), "/")
		if i := slices.Index(parts, "namespaces"); i >= 0 && len(parts) > i+2 {
			parts = parts[i+2:] // resource, name, subresource
		} else if i := slices.IndexFunc(parts, func(s string) bool { return s == "v1" || s == "v1alpha1" }); i >= 0 && len(parts) > i+1 {
			parts = parts[i+1:]
		}
		if parts[0] == "events" || parts[0] == "leases" || !keep(method, query) {
			continue
		}
		what := parts[0]
		if len(parts) > 2 {
			what += "/" + parts[2]
		}
		out = append(out, method+" "+what)
	}
	return out
}

func (c *requestCounter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = nil
}

// operator is the operator under test.
type operator struct {
	t        *testing.T
	mgr      ctrl.Manager
	client   client.Client // the operator's own: cached, and it reads its writes
	requests *requestCounter
	*reconcilers
	clock *clocktesting.FakePassiveClock // of a stepped operator
	stop  func()
}

// operators are how many are running.
var operators atomic.Int32

// testOptions allow what the authorization servers of tests need.
func testOptions() Options {
	return Options{Egress: egress.Policy{AllowHTTP: true, AllowLoopback: true}, OperatorNamespace: "m2m-operator-system", PromptDelivery: true}
}

// startOperator runs the operator as it runs in production, on the real clock,
// until the test ends or stop is called.
func startOperator(t *testing.T, change ...func(*Options)) *operator {
	t.Helper()
	return newOperator(t, func(mgr ctrl.Manager, o Options) (*reconcilers, error) { return nil, Setup(mgr, o) }, change...)
}

// startStepped runs the operator's caches only. The test calls the reconcilers,
// by settle, and moves the clock: nothing happens by itself.
func startStepped(t *testing.T, change ...func(*Options)) *operator {
	t.Helper()
	clock := clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))
	op := newOperator(t, newReconcilers, append([]func(*Options){func(o *Options) { o.Clock = clock }}, change...)...)
	op.clock = clock
	return op
}

func newOperator(t *testing.T, build func(ctrl.Manager, Options) (*reconcilers, error), change ...func(*Options)) *operator {
	t.Helper()
	return newOperatorOver(t, rest.CopyConfig(restConfig), build, change...)
}

// newOperatorOver makes an operator that has its own connection to the API
// server.
func newOperatorOver(t *testing.T, cfg *rest.Config, build func(ctrl.Manager, Options) (*reconcilers, error), change ...func(*Options)) *operator {
	t.Helper()
	o := testOptions()
	for _, f := range change {
		f(&o)
	}
	o.setDefaults()
	op := &operator{t: t, requests: &requestCounter{}}
	if operators.Load() == 0 {
		noteAbandoned(t)
	}
	operators.Add(1)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		op.requests.next = next
		return op.requests
	})
	mo := ManagerOptions(o)
	mo.Metrics = metricsserver.Options{BindAddress: "0"}
	skip := true
	mo.Controller.SkipNameValidation = &skip
	var err error
	if op.mgr, err = ctrl.NewManager(cfg, mo); err != nil {
		t.Fatal(err)
	}
	if op.reconcilers, err = build(op.mgr, o); err != nil {
		t.Fatal(err)
	}
	op.client = op.mgr.GetClient()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- op.mgr.Start(ctx) }()
	op.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the operator stopped: %v", err)
		}
		operators.Add(-1)
	})
	t.Cleanup(op.stop)
	caches := []interface{ WaitForCacheSync(context.Context) bool }{op.mgr.GetCache()}
	if op.reconcilers != nil {
		caches = append(caches, op.servers.foreign)
	}
	for _, c := range caches {
		if !c.WaitForCacheSync(ctx) {
			t.Fatal("the caches did not fill")
		}
	}
	return op
}

// settle reconciles everything in the namespaces again and again until a round
// writes nothing more.
func (op *operator) settle(namespaces ...string) {
	op.t.Helper()
	op.catchUp(namespaces...)
	for range 10 {
		before := len(op.requests.writes())
		op.round(namespaces...)
		if len(op.requests.writes()) == before {
			return
		}
	}
	op.t.Fatal("the operator does not come to rest")
}

// round reconciles everything in the namespaces once: servers, APIs, bundles,
// clients, pods.
func (op *operator) round(namespaces ...string) {
	op.t.Helper()
	ctx := op.t.Context()
	// The bundles' own list of the clients does not wait for what was just written to
	// their statuses: a watch would tell of it.
	if err := op.client.List(ctx, &v1alpha1.M2MClientList{}); err != nil {
		op.t.Fatal(err)
	}
	each := func(list client.ObjectList, reconcileOne func(types.NamespacedName) (ctrl.Result, error)) {
		op.t.Helper()
		if err := op.client.List(ctx, list); err != nil {
			op.t.Fatal(err)
		}
		objects, err := meta.ExtractList(list)
		if err != nil {
			op.t.Fatal(err)
		}
		for _, o := range objects {
			name := client.ObjectKeyFromObject(o.(client.Object))
			if name.Namespace != "" && !slices.Contains(namespaces, name.Namespace) {
				continue
			}
			if _, err := reconcileOne(name); err != nil {
				op.t.Fatalf("reconcile %T %q: %v", o, name, err)
			}
		}
	}
	request := func(n types.NamespacedName) reconcile.Request { return reconcile.Request{NamespacedName: n} }
	each(&v1alpha1.AuthorizationServerList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.server[0].Reconcile(ctx, request(n))
	})
	each(&v1alpha1.ClusterAuthorizationServerList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.server[1].Reconcile(ctx, request(n))
	})
	each(&v1alpha1.APIResourceList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		result, err := op.resource.Reconcile(ctx, request(n))
		for _, b := range op.bundle.Bundles(ctx, n) {
			if _, err := op.bundle.Reconcile(ctx, b); err != nil {
				return result, err
			}
		}
		op.awaitBundles()
		return result, err
	})
	each(&v1alpha1.APIResourceList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.apiProvisioner.Reconcile(ctx, request(n))
	})
	each(&v1alpha1.M2MClientList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.clientProvisioner.Reconcile(ctx, request(n))
	})
	each(&v1alpha1.M2MClientList{}, func(n types.NamespacedName) (ctrl.Result, error) {
		return op.reconcilers.client.Reconcile(ctx, request(n))
	})
	op.awaitClients()
	each(watch.VerifierLists()[0], func(n types.NamespacedName) (ctrl.Result, error) {
		return op.pod.Reconcile(ctx, request(n))
	})
}

// advance moves a stepped operator's clock.
func (op *operator) advance(d time.Duration) { op.clock.SetTime(op.clock.Now().Add(d)) }

// world is what a test plays in: an authorization server with an API and a
// client, and the namespaces of both.
type world struct {
	t        *testing.T
	as       *oidc.Server
	shop     string // the client's namespace
	payments string // the API's namespace
}

const (
	paymentAPI = "https://payment.example.com/api"
	cartID     = "cart-app"
)

var namespaceCount int

// newNamespace creates a namespace with a name of its own, and empties it when
// the test ends.
func newNamespace(t *testing.T, base string, labels map[string]string) string {
	t.Helper()
	namespaceCount++
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", base, namespaceCount), Labels: labels}}
	if err := kube.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, o := range []client.Object{
			&v1alpha1.M2MClient{}, &v1alpha1.APIResource{}, &v1alpha1.AuthorizationServer{}, &corev1.Secret{}, &corev1.ConfigMap{}, &corev1.Pod{},
		} {
			if err := kube.DeleteAllOf(context.Background(), o, client.InNamespace(ns.Name), client.GracePeriodSeconds(0)); err != nil {
				t.Error(err)
			}
		}
	})
	return ns.Name
}

// newWorld starts an authorization server that knows the payment API and the
// cart application, and creates the namespaces.
func newWorld(t *testing.T, change ...func(*oidc.Options)) *world {
	t.Helper()
	o := oidc.Options{TokenLifetime: time.Hour}
	for _, f := range change {
		f(&o)
	}
	as, err := oidc.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(as.Close)
	w := &world{t: t, as: as, shop: newNamespace(t, "shop", nil), payments: newNamespace(t, "payments", nil)}
	as.SetResource(paymentAPI, "payments:read", "payments:write")
	w.setClient(cartID, newSecret())
	return w
}

// newSecret returns a client secret with the sentinel in it.
func newSecret() string { return sentinel + oidc.NewSecret() }

// setClient registers an application with all scopes of the payment API, or
// changes its secret.
func (w *world) setClient(id, secret string) {
	w.t.Helper()
	err := w.as.SetClient(oidc.Client{
		ID: id, Secret: secret, Method: oidc.SecretBasic,
		Scopes: map[string][]string{paymentAPI: {"payments:read", "payments:write"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// server returns an AuthorizationServer for the world's server.
func (w *world) server(namespace string) *v1alpha1.AuthorizationServer {
	return &v1alpha1.AuthorizationServer{
		ObjectMeta: metav1.ObjectMeta{Name: "auth", Namespace: namespace},
		Spec:       v1alpha1.AuthorizationServerSpec{Issuer: w.as.Issuer()},
	}
}

// api returns the payment API, which grants everything to the shop.
func (w *world) api() *v1alpha1.APIResource {
	return &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Name: "payment-api", Namespace: w.payments},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Identifier:             paymentAPI,
			Scopes:                 []v1alpha1.Scope{{Name: "payments:read"}, {Name: "payments:write"}},
			Grants: []v1alpha1.Grant{{
				Clients: v1alpha1.GrantedClients{Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(w.shop)}}},
				Scopes:  []v1alpha1.ScopeName{"payments:read", "payments:write"},
			}},
		},
	}
}

// secret returns a Secret with the credentials of an application.
func (w *world) secret(name, id, secret string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.shop},
		StringData: map[string]string{v1alpha1.ClientIDKey: id, v1alpha1.ClientSecretKey: secret},
	}
}

// cart returns a client that calls the payment API.
func (w *world) cart() *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: w.shop},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Name: "auth"},
			Access: []v1alpha1.Access{{
				APIResourceRef: v1alpha1.APIResourceReference{Name: "payment-api", Namespace: v1alpha1.NamespaceName(w.payments)},
				Scopes:         []v1alpha1.ScopeName{"payments:write"},
			}},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"},
			}},
		},
	}
}

// story creates the whole: servers, API, credentials and client.
func (w *world) story() (*v1alpha1.APIResource, *v1alpha1.M2MClient) {
	w.t.Helper()
	secret := newSecret()
	w.setClient(cartID, secret)
	api, cart := w.api(), w.cart()
	create(w.t, w.server(w.payments), w.server(w.shop), api, w.secret("cart-credentials", cartID, secret), cart)
	return api, cart
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %q: %v", o, o.GetName(), err)
		}
	}
}

// change updates an object, again if somebody else was faster.
func change[T client.Object](t *testing.T, obj T, mutate func(T)) {
	t.Helper()
	for range 20 {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			t.Fatal(err)
		}
		mutate(obj)
		err := kube.Update(t.Context(), obj)
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
	t.Fatal("too many conflicts")
}

func remove(t *testing.T, obj client.Object) {
	t.Helper()
	if err := kube.Delete(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

var eventually = kubetest.Eventually

// hasCondition waits until an object has a condition of a status and reason.
func hasCondition(t *testing.T, obj client.Object, conditionType string, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	var c *metav1.Condition
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		c = meta.FindStatusCondition(conditionsOf(obj), conditionType)
		if c == nil {
			return fmt.Errorf("%T %q has no condition %s", obj, obj.GetName(), conditionType)
		}
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("%s is %s, %s: %s; want %s, %s", conditionType, c.Status, c.Reason, c.Message, status, reason)
		}
		if c.ObservedGeneration != obj.GetGeneration() {
			return fmt.Errorf("%s speaks of generation %d, not %d", conditionType, c.ObservedGeneration, obj.GetGeneration())
		}
		return nil
	})
	return *c
}

func isReady(t *testing.T, obj client.Object) {
	t.Helper()
	hasCondition(t, obj, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady)
}

func conditionsOf(obj client.Object) []metav1.Condition {
	switch o := obj.(type) {
	case *v1alpha1.M2MClient:
		return o.Status.Conditions
	case *v1alpha1.APIResource:
		return o.Status.Conditions
	}
	return record.StatusOf(obj).Conditions
}

// tokenIn returns what lies under a key of a Secret, "" for nothing.
func tokenIn(t *testing.T, namespace, secret, key string) string {
	t.Helper()
	var s corev1.Secret
	err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: secret}, &s)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return string(s.Data[key])
}
