// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	crowdServers = 3
	crowdTenants = 10
)

// crowd is many clients of several tenants at several servers. Each client calls the one API
// of its server.
type crowd struct {
	name    string // what its objects' names begin with
	issuers [crowdServers]*oidc.Server
	members []member

	mu     sync.Mutex
	tokens map[client.ObjectKey]time.Time // when the present one expires
	left   map[client.ObjectKey]time.Duration
	came   int // tokens
}

// member is a client of a crowd.
type member struct {
	key    client.ObjectKey
	id     string // at its server
	server int
}

// startCrowd declares a crowd whose tokens live so long.
func startCrowd(t *testing.T, name string, size int, lifetime time.Duration) *crowd {
	t.Helper()
	c := &crowd{name: name, tokens: map[client.ObjectKey]time.Time{}, left: map[client.ObjectKey]time.Duration{}}
	everywhere := v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}
	owner := name + "-apis"
	all := []client.Object{namespace(owner)}
	for i := range c.issuers {
		issuer, err := oidc.Start(oidc.Options{TokenLifetime: lifetime, RecordLimit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(issuer.Close)
		c.issuers[i] = issuer
		issuer.SetResource(c.identifier(i), scope)
		server := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: c.server(i)}}
		server.Spec.Issuer = issuer.Issuer()
		server.Spec.Requests = v1alpha1.RequestBudget{PerSecond: 100, Burst: 100}
		server.Spec.JWKS.RefreshInterval = v1alpha1.Duration(keysEvery.String())
		server.Spec.AllowedNamespaces = everywhere
		server.Spec.IdentifierClaims = []v1alpha1.IdentifierClaim{{
			Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(owner)}},
			Prefixes:   []string{"https://" + c.server(i) + ".example.com/"},
		}}
		api := &v1alpha1.APIResource{ObjectMeta: metav1.ObjectMeta{Namespace: owner, Name: c.server(i)}}
		api.Spec.AuthorizationServerRef = v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: v1alpha1.ObjectName(c.server(i))}
		api.Spec.Identifier = v1alpha1.ResourceIdentifier(c.identifier(i))
		api.Spec.Scopes = []v1alpha1.Scope{{Name: scope}}
		api.Spec.Grants = []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: everywhere}, Scopes: []v1alpha1.ScopeName{scope}}}
		all = append(all, server, api)
	}
	for i := range crowdTenants {
		all = append(all, namespace(c.tenant(i)))
	}
	for i := range size {
		all = append(all, c.join(t, fmt.Sprintf("client-%d", i), i%crowdTenants, i%crowdServers)...)
	}
	for _, o := range all {
		if err := cluster.Client.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T: %v", o, err)
		}
	}
	return c
}

func (c *crowd) server(i int) string     { return fmt.Sprintf("%s-%d", c.name, i) }
func (c *crowd) tenant(i int) string     { return fmt.Sprintf("%s-tenant-%d", c.name, i) }
func (c *crowd) identifier(i int) string { return "https://" + c.server(i) + ".example.com/api" }

// join registers a client, and returns its objects.
func (c *crowd) join(t *testing.T, name string, tenant, server int) []client.Object {
	t.Helper()
	m := member{key: client.ObjectKey{Namespace: c.tenant(tenant), Name: name}, id: c.tenant(tenant) + "-" + name, server: server}
	registered := oidc.Client{ID: m.id, Secret: oidc.NewSecret(), Scopes: map[string][]string{c.identifier(server): {scope}}}
	if err := c.issuers[server].SetClient(registered); err != nil {
		t.Fatal(err)
	}
	c.members = append(c.members, m)
	o := m2mClient(m.key.Namespace, name, v1alpha1.KindClusterAuthorizationServer, c.server(server))
	o.Spec.Access = []v1alpha1.Access{{
		APIResourceRef: v1alpha1.APIResourceReference{Namespace: v1alpha1.NamespaceName(c.name + "-apis"), Name: v1alpha1.APIResourceName(c.server(server))},
		Scopes:         []v1alpha1.ScopeName{scope},
	}}
	return []client.Object{credential(m.key.Namespace, name, registered.ID, registered.Secret), o}
}

// follow sees every token of the crowd until the context ends.
func (c *crowd) follow(ctx context.Context) {
	for ctx.Err() == nil {
		list := &corev1.SecretList{}
		w, err := cluster.Client.Watch(ctx, list, client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
		if err != nil {
			wait(ctx, time.Second)
			continue
		}
		for e := range w.ResultChan() {
			if s, ok := e.Object.(*corev1.Secret); ok && e.Type != watch.Deleted {
				c.saw(s)
			}
		}
		w.Stop()
	}
}

// saw records the token of a Secret, and how much of its life the one before it had left.
func (c *crowd) saw(s *corev1.Secret) {
	now := time.Now()
	name, ok := strings.CutSuffix(s.Name, "-token")
	key := client.ObjectKey{Namespace: s.Namespace, Name: name}
	if !ok || !strings.HasPrefix(s.Namespace, c.name) {
		return
	}
	for _, value := range s.Data {
		expiresAt, err := expiryOf(string(value))
		if err != nil {
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		before, known := c.tokens[key]
		if known && before.Equal(expiresAt) {
			return
		}
		c.came++
		c.tokens[key] = expiresAt
		if known {
			left, more := c.left[key]
			if rest := before.Sub(now); !more || rest < left {
				c.left[key] = rest
			}
		}
		return
	}
}

// expiryOf returns when a token expires.
func expiryOf(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("it is no JWT")
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	return time.Unix(claims.Exp, 0), err
}

// served waits until every member has a token.
func (c *crowd) served(t *testing.T, patience time.Duration) {
	t.Helper()
	if err := local.Until(t.Context(), patience, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.tokens) < len(c.members) {
			return fmt.Errorf("%d of %d clients have a token", len(c.tokens), len(c.members))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// margin is how much of their lives tokens had left when others replaced them, in seconds.
type margin struct {
	Replaced int     `json:"replaced"` // clients whose token was replaced
	Least    float64 `json:"leastSeconds"`
	Tenth    float64 `json:"tenthSeconds"` // a tenth of the clients had less at some time
	Median   float64 `json:"medianSeconds"`
	Expired  int     `json:"expired"` // clients that had an expired token at some time
}

// measure tells of some members since the last measurement, which begins a new one.
func (c *crowd) measure(some func(member) bool) margin {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var all []float64
	r := margin{}
	for _, m := range c.members {
		if !some(m) {
			continue
		}
		left, replaced := c.left[m.key]
		if replaced {
			all = append(all, left.Seconds())
		}
		if left < 0 || now.After(c.tokens[m.key]) {
			r.Expired++
		}
	}
	clear(c.left)
	slices.Sort(all)
	if r.Replaced = len(all); len(all) > 0 {
		r.Least, r.Tenth, r.Median = all[0], all[len(all)/10], all[len(all)/2]
	}
	return r
}

// late returns the members whose token is expired.
func (c *crowd) late() (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for key, expiresAt := range c.tokens {
		if now.After(expiresAt) {
			all = append(all, key.String())
		}
	}
	slices.Sort(all)
	return all
}
