// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	company    = "company" // the ClusterAuthorizationServer that all tenants share
	payments   = "payments"
	paymentAPI = "payment-api"
	identifier = "https://payment.example.com/api"
	scope      = "payments:write"
	cart       = "cart"
	shops      = 3

	perSecond = 20 // token requests, of the shared issuer
	keysEvery = 10 * time.Second
)

func shop(i int) string { return fmt.Sprintf("shop-%d", i) }

// healthy are the tenants who do nothing wrong, and what the test saw of them.
type healthy struct {
	issuer *oidc.Server

	mu       sync.Mutex
	tokens   map[string][]string // by namespace, each once
	expired  []string            // which tenant held an expired token, and when
	admitted int                 // pods that were created
	refused  int                 // refused attempts to create a pod, each tried again
	longest  time.Duration       // for which a pod could not be created
}

// startHealthy declares the shared server, an API and its callers.
func startHealthy(t *testing.T, s sizes) *healthy {
	t.Helper()
	issuer, err := oidc.Start(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	issuer.SetResource(identifier, scope)
	h := &healthy{issuer: issuer, tokens: map[string][]string{}}
	everywhere := v1alpha1.NamespaceSelection{Selector: &metav1.LabelSelector{}}
	server := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: company}}
	server.Spec.Issuer = issuer.Issuer()
	server.Spec.Requests = v1alpha1.RequestBudget{PerSecond: perSecond}
	server.Spec.JWKS.RefreshInterval = v1alpha1.Duration(keysEvery.String())
	server.Spec.AllowedNamespaces = everywhere
	server.Spec.IdentifierClaims = []v1alpha1.IdentifierClaim{{
		Namespaces: v1alpha1.NamespaceSelection{Names: []v1alpha1.NamespaceName{payments}}, Prefixes: []string{"https://payment.example.com/"},
	}}
	all := []client.Object{namespace(payments), server, &v1alpha1.APIResource{
		ObjectMeta: metav1.ObjectMeta{Namespace: payments, Name: paymentAPI},
		Spec: v1alpha1.APIResourceSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Kind: v1alpha1.KindClusterAuthorizationServer, Name: company},
			Identifier:             identifier,
			Scopes:                 []v1alpha1.Scope{{Name: scope}},
			Grants:                 []v1alpha1.Grant{{Clients: v1alpha1.GrantedClients{Namespaces: everywhere}, Scopes: []v1alpha1.ScopeName{scope}}},
		},
	}}
	for i := range shops {
		all = append(all, namespace(shop(i)), verifier(shop(i), "cart", payments+"/"+paymentAPI))
		all = append(all, h.caller(t, shop(i), cart, s.lifetimes[i])...)
	}
	for _, o := range all {
		if err := cluster.Client.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T: %v", o, err)
		}
	}
	return h
}

// caller returns a client of the API, registered at the issuer, and its credential.
func (h *healthy) caller(t *testing.T, namespace, name string, lifetime time.Duration) []client.Object {
	t.Helper()
	c := oidc.Client{
		ID: namespace + "-" + name, Secret: oidc.NewSecret(), TokenLifetime: lifetime, Scopes: map[string][]string{identifier: {scope}},
	}
	if err := h.issuer.SetClient(c); err != nil {
		t.Fatal(err)
	}
	m := m2mClient(namespace, name, v1alpha1.KindClusterAuthorizationServer, company)
	m.Spec.Access = []v1alpha1.Access{paymentAccess()}
	return []client.Object{credential(namespace, name, c.ID, c.Secret), m}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func paymentAccess() v1alpha1.Access {
	return v1alpha1.Access{
		APIResourceRef: v1alpha1.APIResourceReference{Name: paymentAPI, Namespace: payments}, Scopes: []v1alpha1.ScopeName{scope},
	}
}

func credential(namespace, name, id, secret string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-credentials"},
		Data:       map[string][]byte{v1alpha1.ClientIDKey: []byte(id), v1alpha1.ClientSecretKey: []byte(secret)},
	}
}

// m2mClient returns a client without any access yet.
func m2mClient(namespace, name string, kind v1alpha1.AuthorizationServerKind, server string) *v1alpha1.M2MClient {
	return &v1alpha1.M2MClient{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.M2MClientSpec{
			AuthorizationServerRef: v1alpha1.AuthorizationServerReference{Kind: kind, Name: v1alpha1.ObjectName(server)},
			Credentials: v1alpha1.ClientCredentials{ClientSecret: v1alpha1.ClientSecretCredentials{
				SecretRef: v1alpha1.SecretKeyReference{Name: v1alpha1.ObjectName(name + "-credentials")},
			}},
		},
	}
}

// verifier returns a Deployment that asks for verification bundles.
func verifier(namespace, name, names string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{v1alpha1.VerifyAnnotation: names}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: name, Image: name}}},
			},
		},
	}
}

// pod returns a pod that no node will run.
func pod(namespace, name string, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
}

// token returns the token for the API that a client has, and its expiry.
func token(ctx context.Context, namespace, name string) (string, time.Time, error) {
	data, err := cluster.SecretData(ctx, namespace, name+"-token")
	if err != nil {
		return "", time.Time{}, err
	}
	value := string(data[paymentAPI])
	expiresAt, err := expiryOf(value)
	return value, expiresAt, err
}

// bundleHas returns an error until a shop's bundle has a key.
func bundleHas(ctx context.Context, namespace, keyID string) error {
	var bundle corev1.ConfigMap
	key := client.ObjectKey{Namespace: namespace, Name: render.ConfigMapName(payments, paymentAPI)}
	if err := cluster.Client.Get(ctx, key, &bundle); err != nil {
		return err
	}
	if !strings.Contains(bundle.Data["jwks.json"], keyID) {
		return fmt.Errorf("the bundle of %s does not have the new key", namespace)
	}
	return nil
}

// served returns an error until every shop has a token and a bundle.
func (h *healthy) served(ctx context.Context) error {
	var errs []error
	for i := range shops {
		_, _, err := token(ctx, shop(i), cart)
		errs = append(errs, err, bundleHas(ctx, shop(i), h.issuer.KeyID()))
	}
	return errors.Join(errs...)
}

// watch checks the tokens every second, and creates a pod from time to time.
func (h *healthy) watch(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for wait(ctx, time.Second) {
			for i := range shops {
				h.look(ctx, shop(i))
			}
		}
	})
	wg.Go(func() {
		for wait(ctx, 2*time.Second) {
			h.createPod(ctx)
		}
	})
	wg.Wait()
}

// look records a shop's token. A token that cannot be read counts as missing:
// nothing in this test prevents reading the Secret.
func (h *healthy) look(ctx context.Context, namespace string) {
	now := time.Now() // before the read: a slow machine must not make a token look expired
	value, expiresAt, err := token(ctx, namespace, cart)
	if ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || now.After(expiresAt) {
		h.expired = append(h.expired, fmt.Sprintf("%s at %s: expired at %s (%v)", namespace, now.Format(time.TimeOnly), expiresAt.Format(time.TimeOnly), err))
	}
	if err == nil && !slices.Contains(h.tokens[namespace], value) {
		h.tokens[namespace] = append(h.tokens[namespace], value)
	}
}

// createPod creates a pod as a ReplicaSet does, repeatedly until it is admitted with
// the mounts that its annotations request.
func (h *healthy) createPod(ctx context.Context) {
	started := time.Now()
	for ctx.Err() == nil {
		p := pod(shop(0), "", map[string]string{v1alpha1.ClientAnnotation: cart, v1alpha1.VerifyAnnotation: payments + "/" + paymentAPI})
		p.GenerateName = "cart-"
		err := cluster.Client.Create(ctx, p, client.DryRunAll)
		if err == nil && len(p.Spec.Volumes) == 0 {
			err = errors.New("nothing was injected")
		}
		h.mu.Lock()
		if err == nil {
			h.admitted++
		} else if ctx.Err() == nil {
			h.refused++
		}
		h.longest = max(h.longest, time.Since(started))
		h.mu.Unlock()
		if err == nil || !wait(ctx, time.Second) {
			return
		}
	}
}

// fewestReplaced returns how often the least replaced token was replaced.
func (h *healthy) fewestReplaced() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	fewest := len(h.tokens[shop(0)])
	for i := range shops {
		fewest = min(fewest, len(h.tokens[shop(i)]))
	}
	return fewest - 1
}

// newClient creates a new client, and returns how long its token took.
func (h *healthy) newClient(t *testing.T) (time.Duration, error) {
	t.Helper()
	started := time.Now()
	for _, o := range h.caller(t, shop(1), "newcomer", 2*time.Minute) {
		if err := cluster.Client.Create(t.Context(), o); err != nil {
			return 0, err
		}
	}
	err := local.Until(t.Context(), breaker+patience, func() error {
		if _, _, err := token(t.Context(), shop(1), "newcomer"); err != nil {
			var c v1alpha1.M2MClient
			getErr := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: shop(1), Name: "newcomer"}, &c)
			return errors.Join(err, getErr, conditionsError(c.Status.Conditions))
		}
		return nil
	})
	return time.Since(started), err
}

// conditionsError returns the conditions' messages as an error.
func conditionsError(conditions []metav1.Condition) error {
	var errs []error
	for _, c := range conditions {
		errs = append(errs, fmt.Errorf("%s=%s, %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return errors.Join(errs...)
}

// newServer declares an authorization server for a tenant, and returns how long
// it took to become ready.
func (h *healthy) newServer(t *testing.T) (time.Duration, error) {
	t.Helper()
	started := time.Now()
	server := ownServer(shop(2), "own", h.issuer.Issuer())
	if err := cluster.Client.Create(t.Context(), server); err != nil {
		return 0, err
	}
	err := local.Until(t.Context(), patience, func() error {
		if err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(server), server); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(server.Status.Conditions, v1alpha1.ConditionReady) {
			return errors.Join(errors.New("it is not ready"), conditionsError(server.Status.Conditions))
		}
		return nil
	})
	return time.Since(started), err
}

// rotate rotates the shared server's key, and returns how long the new key took to
// reach every shop's bundle.
func (h *healthy) rotate(t *testing.T) (time.Duration, error) {
	t.Helper()
	keyID, err := h.issuer.RotateKey()
	if err != nil {
		return 0, err
	}
	started := time.Now()
	err = local.Until(t.Context(), patience+keysEvery, func() error {
		var errs []error
		for i := range shops {
			errs = append(errs, bundleHas(t.Context(), shop(i), keyID))
		}
		return errors.Join(errs...)
	})
	return time.Since(started), err
}

// wait waits, and reports whether there is still something to do.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
