// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	// rotationsVariable is how many times keys rotate.
	rotationsVariable = "M2M_GATEWAYS_ROTATIONS"
	fewRotations      = 1
)

var cartSecret = oidc.NewSecret()

// scenario is cart, who calls payment through a gateway, in some ways.
type scenario struct {
	gateway   string
	ways      []way  // the first one is as it should be
	namespace string // of cart
	server    string
	restart   func() // of the gateway
	process   *local.Process
}

// Beside the operator's ways, tokens are checked with keys that somebody fetches.
const (
	usually = "keys fetched, as by default"
	briefly = "keys fetched every second"
)

// startIssuerOfCart starts an authorization server that knows cart.
func startIssuerOfCart(t *testing.T) *oidc.Server {
	t.Helper()
	issuer := startIssuer(t)
	if err := issuer.SetClient(oidc.Client{ID: "cart", Secret: cartSecret, Scopes: map[string][]string{audience: {readScope, writeScope}}}); err != nil {
		t.Fatal(err)
	}
	return issuer
}

// TestOperator lets the operator write the policy, and cart call payment through Envoy Gateway.
// The same calls go to the same API by way of policies as people write them, with the address
// of the keys. What fails is counted, and goes to out/gateways.json.
func TestOperator(t *testing.T) {
	needGateways(t)
	port, issuer := startBackend(t), startIssuerOfCart(t)
	keys := startKeyServer(t, issuer)
	g := startEnvoyGateway(t, port)
	startOperator(t)
	apply(t, "operator.yaml", "ISSUER", issuer.Issuer(), "SECRET", cartSecret, "KEYS", keys.url)
	s := scenario{gateway: "Envoy Gateway", namespace: "shop", server: "company", process: g.process, ways: []way{
		{"the operator, with spare targets", ourDoor, true}, {"the operator, without spare targets", "127.0.0.1:10084", true},
		{usually, "127.0.0.1:10081", false}, {briefly, "127.0.0.1:10085", false},
	}, restart: func() { stop(t, g.proxy.process); g.startProxy(t) }}
	for _, w := range s.ways {
		untilGuarded(t, g.proxy, w.door, issuer, http.StatusUnauthorized)
	}
	checkTokens(t, ourDoor, issuer, http.StatusUnauthorized, http.StatusForbidden)
	checkScopes(t, ourDoor, issuer)
	t.Run("calls", func(t *testing.T) {
		c := measure(t, s, issuer, keys)
		if rotations() > 2 && c.sum(rotating, s.ways[1].name).Refused == 0 { // the first change may cost nothing
			t.Error("without spare targets, no call was refused either: they are not needed any more")
		}
	})
}

// TestOperatorWithIstio lets the operator write Istio's policies.
func TestOperatorWithIstio(t *testing.T) {
	needGateways(t)
	port, issuer := startBackend(t), startIssuerOfCart(t)
	keys := startKeyServer(t, issuer)
	i := startIstio(t, port)
	startOperator(t)
	apply(t, "operator-istio.yaml", "ISSUER", issuer.Issuer(), "SECRET", cartSecret, "KEYS", keys.url)
	other := startIstioProxy(t, "usual", "127.0.0.1:19904")
	s := scenario{gateway: "Istio", namespace: "mesh", server: "mesh", process: i.process, ways: []way{
		{"the operator", innerDoor, true}, {usually, "127.0.0.1:10086", false},
	}, restart: func() {
		stop(t, i.process)
		stop(t, i.proxy.process)
		stop(t, other.process)
		i.start(t)
		i.startProxy(t)
		other = startIstioProxy(t, "usual", "127.0.0.1:19904")
	}}
	for _, w := range s.ways {
		untilGuarded(t, i.proxy, w.door, issuer, http.StatusForbidden)
	}
	checkTokens(t, innerDoor, issuer, http.StatusForbidden, http.StatusOK)
	checkScopes(t, innerDoor, issuer)
	t.Run("calls", func(t *testing.T) { measure(t, s, issuer, keys) })
}

// TestOperatorWithEnvoy lets the operator write the files of an Envoy.
func TestOperatorWithEnvoy(t *testing.T) {
	needGateways(t)
	port, issuer := startBackend(t), startIssuerOfCart(t)
	keys := startKeyServer(t, issuer)
	startOperator(t)
	apply(t, "operator-envoy.yaml", "ISSUER", issuer.Issuer(), "SECRET", cartSecret)
	v := &volume{dir: t.TempDir()}
	v.follow(t, types.NamespacedName{Namespace: "own", Name: render.ConfigMapName("own", "payment-api")})
	here := strings.NewReplacer("DIRECTORY", v.dir, "HOST", hostAddress, "KPORT", keys.url[strings.LastIndexByte(keys.url, ':')+1:],
		"PORT", strconv.Itoa(port), "KEYS", keys.url, "ISSUER", issuer.Issuer())
	var own, other *proxy
	start := func() {
		own = startProxy(t, "envoy", here.Replace(content(t, "envoy.yaml")), "127.0.0.1:19901")
		other = startProxy(t, "envoy-usual", here.Replace(content(t, "envoy-usual.yaml")), "127.0.0.1:19903")
	}
	start()
	s := scenario{gateway: "Envoy", namespace: "own", server: "own", process: own.process, ways: []way{
		{"the operator", "127.0.0.1:10082", true}, {usually, "127.0.0.1:10087", false}, {briefly, "127.0.0.1:10088", false},
	}, restart: func() { stop(t, own.process); stop(t, other.process); start() }}
	for _, w := range s.ways {
		untilGuarded(t, own, w.door, issuer, http.StatusUnauthorized)
	}
	t.Run("calls", func(t *testing.T) { measure(t, s, issuer, keys) })
}

// follow writes the content of a ConfigMap into the volume whenever it changes, as a kubelet
// does for a pod that was touched.
func (v *volume) follow(t *testing.T, name types.NamespacedName) {
	t.Helper()
	version := ""
	look := func() error {
		var m corev1.ConfigMap
		if err := cluster.Client.Get(context.Background(), name, &m); err != nil {
			return err
		}
		if m.ResourceVersion == version {
			return nil
		}
		version = m.ResourceVersion
		return v.write(m.Data)
	}
	kubetest.Every(t, 50*time.Millisecond, time.Minute, look)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		each(50*time.Millisecond, done, func() {
			if err := look(); err != nil {
				t.Error(err)
			}
		})
	}()
	t.Cleanup(func() { close(done); <-ended })
}

// startOperator installs the operator and starts it, with its ServiceAccount's rights.
func startOperator(t *testing.T) {
	t.Helper()
	if _, err := cluster.InstallOperatorOf(t.Context(), filepath.Join(testdata, "operator")); err != nil {
		t.Fatal(err)
	}
	p, probe, err := cluster.StartOperator(t.Context(), logOf("operator"), "--enforcement=envoy-gateway,istio")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Running(), p.Stop()); err != nil {
			t.Error(err)
		}
	})
	within(t, time.Minute, p, func() error { return local.Healthy(probe) })
}

// tokenOfCart returns the token that the operator has published for cart.
func tokenOfCart(t *testing.T, namespace string) string {
	t.Helper()
	data, err := cluster.SecretData(context.Background(), namespace, "cart-token")
	if client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
	return string(data["payment-api"])
}

// Steps of a measurement.
const (
	resting    = "nothing happens"
	rotating   = "rotations"
	restarting = "restart while the authorization server is down"
)

// rotations returns how many times keys rotate.
func rotations() int {
	if n, err := strconv.Atoi(os.Getenv(rotationsVariable)); err == nil {
		return n
	}
	return fewRotations
}

// measure counts calls through rotations and a restart, and looks how long a revoked key works.
func measure(t *testing.T, s scenario, issuer *oidc.Server, keys *keyServer) *traffic {
	within(t, time.Minute, s.process, func() error {
		return s.ways[0].door.answers(http.StatusOK, http.MethodGet, "/payments", tokenOfCart(t, s.namespace))
	})
	c := &traffic{ways: s.ways, tally: map[string]map[string]map[string]*tally{}, mine: requested(t, issuer)}
	c.begin(resting)
	stopped := c.start(t, s.namespace)
	time.Sleep(2 * time.Second)

	keys.take()
	began := time.Now()
	c.begin(rotating)
	for range rotations() {
		kid, err := issuer.RotateKey()
		if err != nil {
			t.Fatal(err)
		}
		c.renew(requested(t, issuer))
		refreshed(t, s.namespace, kid)
		time.Sleep(time.Second)
	}
	took, asked := time.Since(began).Seconds(), keys.take()
	c.begin(restarting)
	down := &oidc.Fault{Status: http.StatusServiceUnavailable}
	issuer.SetFault(oidc.JWKS, down)
	s.restart()
	time.Sleep(4 * time.Second)
	issuer.ClearFaults()
	time.Sleep(2 * time.Second)
	stopped()
	report(t, s.gateway, map[string]any{
		"rotations": rotations(), "seconds of the rotations": took, "requests for keys meanwhile": asked, "calls": c.tally,
		"revoked key refused after seconds": revocation(t, s, issuer),
	})
	s.judge(t, c)
	return c
}

// judge fails the test if calls were refused in the way that should be without a fault, or if
// the measurement would not notice.
func (s scenario) judge(t *testing.T, c *traffic) {
	t.Helper()
	for _, step := range []string{resting, rotating, restarting} {
		if n := c.sum(step, s.ways[0].name).Refused; n > 0 {
			t.Errorf("%s: %d calls were refused", step, n)
		}
	}
	for _, w := range s.ways {
		if c.sum(resting, w.name).Refused > 0 {
			t.Errorf("%s: calls were refused while nothing happened", w.name)
		}
		if w.name == usually && c.sum(rotating, w.name).Refused == 0 {
			t.Errorf("%s: no call was refused, which cannot be", w.name)
		}
	}
}

// revocation returns, for each way, after how many seconds a revoked key is refused, nil if
// that takes long. A way that did not accept the key before is left out.
func revocation(t *testing.T, s scenario, issuer *oidc.Server) map[string]any {
	t.Helper()
	var accepting []way
	token := signed(t, issuer, nil)
	for _, w := range s.ways[1:] {
		if w.door.answers(http.StatusOK, http.MethodGet, "/", token) == nil {
			accepting = append(accepting, w)
		}
	}
	began := time.Now()
	seconds, old := revoke(t, s.ways[0].door, issuer, s.server)
	all := map[string]any{s.ways[0].name: seconds}
	var mu sync.Mutex
	var waiting sync.WaitGroup
	for _, w := range accepting {
		waiting.Go(func() {
			after := refusedAfter(t, w.door, old, began, 10*time.Second)
			mu.Lock()
			defer mu.Unlock()
			all[w.name] = after
		})
	}
	waiting.Wait()
	return all
}

// revoke withdraws the key that signs, at the server and by the platform's team, and returns
// after how many seconds a door refuses its tokens, and one of these tokens.
func revoke(t *testing.T, d door, issuer *oidc.Server, server string) (seconds any, token string) {
	t.Helper()
	token, kid := signed(t, issuer, nil), issuer.KeyID()
	if err := errors.Join(d.answers(http.StatusOK, http.MethodGet, "/", token), issuer.RotateKeyHard()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	change := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"jwks":{"revokedKeyIDs":["`+kid+`"]}}}`))
	o := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: server}}
	if err := cluster.Client.Patch(t.Context(), o, change); err != nil {
		t.Fatal(err)
	}
	seconds = refusedAfter(t, d, token, began, time.Minute)
	if seconds == nil {
		t.Error("a token of a revoked key was never refused")
	}
	return seconds, token
}

// refusedAfter returns after how many seconds a token is refused, nil if that takes too long.
func refusedAfter(t *testing.T, d door, token string, began time.Time, limit time.Duration) any {
	t.Helper()
	if err := local.Until(t.Context(), limit, func() error {
		status, err := d.call(http.MethodGet, "/", token)
		if err == nil && status == http.StatusOK {
			err = errors.New("the token passes")
		}
		return err
	}); err != nil {
		return nil
	}
	return time.Since(began).Seconds()
}

// requested returns a token as a client gets it that asks for its own.
func requested(t *testing.T, issuer *oidc.Server) string {
	t.Helper()
	form := "grant_type=client_credentials&scope=" + readScope + "&resource=" + audience
	r, err := http.NewRequest(http.MethodPost, issuer.TokenURL(), strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("cart", url.QueryEscape(cartSecret)) // RFC 6749 section 2.3.1
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(fetch(t, r), &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Token
}

// refreshed renews cart's token now, and waits until a key of an ID has signed it.
func refreshed(t *testing.T, namespace, kid string) {
	t.Helper()
	var cart v1alpha1.M2MClient
	name := types.NamespacedName{Namespace: namespace, Name: "cart"}
	if err := cluster.Client.Get(t.Context(), name, &cart); err != nil {
		t.Fatal(err)
	}
	before := cart.DeepCopy()
	cart.Annotations = map[string]string{v1alpha1.RefreshRequestedAnnotation: time.Now().Format(time.RFC3339Nano)}
	if err := cluster.Client.Patch(t.Context(), &cart, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	if err := local.Until(t.Context(), 2*time.Minute, func() error {
		if err := cluster.Client.Get(t.Context(), name, &cart); err != nil {
			return err
		}
		if len(cart.Status.Tokens) != 1 || cart.Status.Tokens[0].KeyID != kid {
			return errors.New("cart has no token of the new key yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// report adds the figures of a gateway to out/gateways.json.
func report(t *testing.T, gateway string, figures map[string]any) {
	t.Helper()
	path := filepath.Join(outDir, "gateways.json")
	all := map[string]any{}
	if b, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
	}
	all[gateway] = figures
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err = json.MarshalIndent(figures, "", "  "); err == nil {
		t.Logf("%s: %s", gateway, b)
	}
}
