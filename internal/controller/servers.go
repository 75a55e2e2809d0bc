// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

const (
	// defaultRequestsPerSecond is enough for 10,000 tokens that live for 5 minutes,
	// which take 61 requests per second, and for what is new.
	defaultRequestsPerSecond = 100

	// keyRefetchInterval is the least time between two fetches of a server's
	// keys because of an unknown key ID.
	keyRefetchInterval = 10 * time.Second
)

// serverKey names an authorization server. The namespace is empty for a
// ClusterAuthorizationServer.
type serverKey struct {
	kind            v1alpha1.AuthorizationServerKind
	namespace, name string
}

func (k serverKey) String() string { return string(k.kind) + "/" + k.namespace + "/" + k.name }

// object returns an empty object of the server's kind with its name.
func (k serverKey) object() client.Object {
	return rules.Named(v1alpha1.AuthorizationServerReference{Kind: k.kind, Name: v1alpha1.ObjectName(k.name)}, k.namespace)
}

func keyOf(ref v1alpha1.AuthorizationServerReference, namespace string) serverKey {
	return keyOfObject(rules.Named(ref, namespace))
}

func keyOfObject(o client.Object) serverKey {
	kind := v1alpha1.KindAuthorizationServer
	if _, ok := o.(*v1alpha1.ClusterAuthorizationServer); ok {
		kind = v1alpha1.KindClusterAuthorizationServer
	}
	return serverKey{kind, o.GetNamespace(), o.GetName()}
}

// specOf and statusOf return what both kinds of authorization server share.
func specOf(o client.Object) *v1alpha1.AuthorizationServerSpec     { return rules.ServerOf(o).Spec }
func statusOf(o client.Object) *v1alpha1.AuthorizationServerStatus { return rules.ServerOf(o).Status }

// server is an authorization server as an APIResource or M2MClient sees it,
// shared with the cache: read only.
type server struct {
	key    serverKey
	object client.Object
	spec   *v1alpha1.AuthorizationServerSpec
	status *v1alpha1.AuthorizationServerStatus
}

func (s *servers) asServer(found *rules.Server) *server {
	if found == nil {
		return nil
	}
	return &server{key: keyOfObject(found.Object), object: found.Object, spec: found.Spec, status: s.trustedStatus(found.Object)}
}

func (s *server) asRules() *rules.Server {
	if s == nil {
		return nil
	}
	return &rules.Server{Object: s.object, Spec: s.spec, Status: s.status}
}

func (s *server) revoked(keyID string) bool {
	return keyID != "" && slices.Contains(s.spec.JWKS.RevokedKeyIDs, keyID)
}

// records returns the public keys that are trusted now.
func (s *server) records() []jwks.Record {
	return slices.DeleteFunc(recordsOf(s.status.Keys), func(k jwks.Record) bool { return s.revoked(k.ID) || !jwks.ValidKeyID(k.ID) })
}

// keys is records without their history.
func (s *server) keys() []jwks.Key {
	var keys []jwks.Key
	for _, k := range s.records() {
		keys = append(keys, k.Key)
	}
	return keys
}

// opaque says that only the server itself can judge its tokens.
func (s *server) opaque() bool { return opaque(s.spec) }

// keysKnown reports whether a verification bundle can be made: signing keys are
// known, or every one of them is revoked and nothing must verify.
func (s *server) keysKnown() bool {
	return len(s.status.Keys) > 0 || len(s.spec.JWKS.RevokedKeyIDs) > 0
}

// servers resolves references to authorization servers, and holds for each what
// lives only as long as the process: its HTTP client, budget and breaker. All
// else is in the objects.
type servers struct {
	rules             rules.Resolver // who may use which
	policy            egress.Policy
	optIn             bool // only Secrets that carry v1alpha1.CredentialsLabel are sent anywhere
	operatorNamespace string
	cluster           string   // ID of the cluster at shared servers; empty: that of kube-system
	watched           []string // namespaces; empty: all
	foreign           *foreignObjects
	client            client.Reader
	clock             clock.PassiveClock

	mu       sync.Mutex
	runtimes map[serverKey]*serverRuntime
	// drivers are the last ones that could be made, for what is to be removed
	// when its server or its credential is gone already: from driverKey to
	// provision.Driver.
	drivers *lru.Cache
	// gone are the UIDs of servers that are gone, the last ones: a pass that began
	// before must not bring back what was kept of one.
	gone *lru.Cache

	// shares is how many instances of the operator share each server's budget.
	shares int

	// wake has the AuthorizationServer of a key reconciled at once.
	wake map[v1alpha1.AuthorizationServerKind]chan event.GenericEvent
	// learnt has what depends on a server's endpoints look at it again.
	learnt learnt
	// gate decides when a token request may go.
	gate *traffic.Gate
	// administration decides what is provisioned now: that may fail while tokens are
	// issued.
	administration *traffic.Gate
	// inFlightMax bounds the objects that are provisioned at one server at a time,
	// so that one that hangs leaves workers for the others.
	inFlightMax int
	// requestsPerSecond is the budget of a server that names none.
	requestsPerSecond int
}

func newServers(o Options, foreign *foreignObjects, reader client.Reader) *servers {
	s := &servers{
		policy: o.Egress, optIn: o.RequireCredentialLabel, operatorNamespace: o.OperatorNamespace, cluster: o.ClusterID, watched: o.WatchNamespaces, foreign: foreign, client: reader, clock: o.Clock,
		shares:   o.Shards,
		runtimes: map[serverKey]*serverRuntime{}, drivers: lru.New(maxDrivers), gone: lru.New(maxGone),
		learnt: newLearnt(),
		wake: map[v1alpha1.AuthorizationServerKind]chan event.GenericEvent{
			v1alpha1.KindAuthorizationServer:        make(chan event.GenericEvent, 16),
			v1alpha1.KindClusterAuthorizationServer: make(chan event.GenericEvent, 16),
		},
		gate: traffic.NewGate(o.Workers), administration: traffic.NewGate(o.Workers), inFlightMax: max(1, o.Workers/2), requestsPerSecond: o.RequestsPerSecond,
	}
	s.rules = rules.Resolver{Reader: reader, Watches: s.watches, Cut: isCut}
	return s
}

// watches reports whether the operator sees the objects of a namespace. The cache
// answers questions about others with errors.
func (s *servers) watches(namespace string) bool {
	return len(s.watched) == 0 || slices.Contains(s.watched, namespace)
}

// problem is why something is not as it should be: a condition's reason and
// message. Unknown says that it may be so for the moment only.
type problem struct {
	reason, message string
	unknown         bool
}

// resolve returns the server that an object of a namespace names, or the
// problem that keeps it from being used.
func (s *servers) resolve(ctx context.Context, ref v1alpha1.AuthorizationServerReference, namespace string) (*server, *problem, error) {
	srv, refused, err := s.rules.Server(ctx, ref, namespace)
	return s.asServer(srv), problemOf(refused), err
}

// accept reports whether an APIResource may describe its API, and at which
// server.
func (s *servers) accept(ctx context.Context, api *v1alpha1.APIResource) (*server, *problem, error) {
	srv, refused, err := s.rules.Accept(ctx, api)
	return s.asServer(srv), problemOf(refused), err
}

// serverRuntime is what of a server lives as long as the process.
type serverRuntime struct {
	uid   types.UID
	owner string // in the gate

	mu         sync.Mutex
	http       *http.Client
	caVersion  string
	refetch    *rate.Limiter
	requests   uint64 // how often provisioning asked for a turn
	fetchState fetchState

	provisioning provisioningRuntime
	keysWanted   bool     // fetch the keys now
	namedKeys    []string // IDs of keys that were not known and that tokens are signed with, the last ones
}

// runtime returns a server's runtime, made anew when the server is another one
// of the same name.
func (s *servers) runtime(obj client.Object) *serverRuntime {
	key := keyOfObject(obj)
	s.mu.Lock()
	defer s.mu.Unlock()
	rt := s.runtimes[key]
	if rt == nil || rt.uid != obj.GetUID() {
		if rt != nil && !s.isGone(obj) {
			s.drop(key, rt)
		}
		rt = &serverRuntime{
			owner:   owner(obj),
			uid:     obj.GetUID(),
			refetch: rate.NewLimiter(rate.Every(keyRefetchInterval), 1),
		}
		if !s.isGone(obj) {
			s.runtimes[key] = rt
		}
	}
	return rt
}

// maxGone is how many servers may go while a pass lasts that knows one of them.
const maxGone = 4096

// isGone reports whether a server was deleted a moment ago.
func (s *servers) isGone(obj client.Object) bool {
	_, gone := s.gone.Get(obj.GetUID())
	return gone
}

// drop forgets a server's runtime. s.mu must be held.
func (s *servers) drop(key serverKey, rt *serverRuntime) {
	s.gone.Add(rt.uid, nil)
	delete(s.runtimes, key)
	s.forgetOwner(rt.owner)
	rt.closeIdle()
}

func (s *servers) forget(key serverKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rt := s.runtimes[key]; rt != nil {
		s.drop(key, rt)
	}
}

func (s *servers) forgetOwner(owner string) {
	s.gate.Forget(owner)
	s.administration.Forget(owner)
}

// closeIdle closes the connections of a server that is gone: each keeps its CA bundle
// in memory.
func (rt *serverRuntime) closeIdle() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.http != nil {
		rt.http.CloseIdleConnections()
	}
}

// httpClient returns the client that speaks to a server and trusts its CA
// bundle; changed says that it is another one than before.
func (s *servers) httpClient(ctx context.Context, obj client.Object) (hc *http.Client, changed bool, p *problem, err error) {
	rt := s.runtime(obj)
	version, pem, p, err := s.caBundle(ctx, obj)
	if p != nil || err != nil {
		return nil, false, p, err
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.http != nil && rt.caVersion == version {
		return rt.http, false, nil, nil
	}
	hc, err = s.policy.NewClient(pem)
	if err != nil {
		return nil, false, &problem{reason: v1alpha1.ReasonCABundleInvalid, message: "The CA bundle cannot be used: " + err.Error()}, nil
	}
	if rt.http != nil {
		rt.http.CloseIdleConnections()
	}
	rt.http, rt.caVersion = hc, version
	return hc, true, nil, nil
}

func (s *servers) caBundle(ctx context.Context, obj client.Object) (version string, pem []byte, p *problem, err error) {
	kind, name, key := "ConfigMap", "", ""
	switch ca := specOf(obj).CABundle; {
	case ca.ConfigMapRef.Name != "":
		name, key = string(ca.ConfigMapRef.Name), string(ca.ConfigMapRef.Key)
	case ca.SecretRef.Name != "":
		kind, name, key = "Secret", string(ca.SecretRef.Name), string(ca.SecretRef.Key)
	default:
		return "", nil, nil, nil
	}
	if key == "" {
		key = v1alpha1.CABundleKey
	}
	namespace := obj.GetNamespace()
	if namespace == "" {
		namespace = s.operatorNamespace
	}
	if namespace == "" {
		return "", nil, &problem{
			reason:  v1alpha1.ReasonCABundleInvalid,
			message: "The CA bundle lies in the operator's namespace, which it was not told: --operator-namespace",
		}, nil
	}
	content, err := s.foreign.get(ctx, kind, types.NamespacedName{Namespace: namespace, Name: name}, maxCABundle, key)
	if err != nil {
		return "", nil, nil, err
	}
	if content != nil && len(content.tooLong) > 0 {
		return "", nil, &problem{
			reason:  v1alpha1.ReasonCABundleInvalid,
			message: fmt.Sprintf("The CA bundle has more than %d bytes: key %q of %s %q in namespace %q", maxCABundle, key, kind, name, namespace),
		}, nil
	}
	if content == nil || len(content.data[key]) == 0 {
		return "", nil, &problem{
			reason:  v1alpha1.ReasonCABundleInvalid,
			message: fmt.Sprintf("The CA bundle does not exist: key %q of %s %q in namespace %q", key, kind, name, namespace),
		}, nil
	}
	return content.version + "/" + key, content.data[key], nil, nil
}

// maxNamedKeys bounds the keys that are remembered to be looked for in a server's set.
const maxNamedKeys = jwks.MaxRecords

// refetchKeys has a server's keys fetched at once because a token was signed
// with one that is not known, at most once in keyRefetchInterval. It says
// whether they are fetched.
func (s *servers) refetchKeys(srv *server, keyID string) bool {
	rt, now := s.runtime(srv.object), s.clock.Now()
	rt.mu.Lock()
	if keyID != "" && jwks.ValidKeyID(keyID) && !slices.Contains(rt.namedKeys, keyID) {
		rt.namedKeys = append(rt.namedKeys, keyID)
		rt.namedKeys = rt.namedKeys[max(0, len(rt.namedKeys)-maxNamedKeys):]
	}
	allowed := rt.refetch.AllowN(now, 1)
	if allowed {
		rt.keysWanted = true
	}
	rt.mu.Unlock()
	if !allowed {
		return false
	}
	select {
	case s.wake[srv.key.kind] <- event.GenericEvent{Object: srv.key.object()}:
	default: // the controller is busy with others; it finds the keys due
	}
	return true
}

// spread returns a duration from least to most that depends on the client only,
// so that clients which wait for the same moment do not come at once.
func spread(who types.UID, least, most time.Duration) time.Duration {
	return least + refresh.Spread(string(who), most-least)
}
