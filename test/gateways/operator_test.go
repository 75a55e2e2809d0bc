// SPDX-License-Identifier: Apache-2.0

package gateways

import (
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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

const (
	usualDoor = door("127.0.0.1:10081")
	// rotationsVariable is how many times keys rotate.
	rotationsVariable = "M2M_GATEWAYS_ROTATIONS"
	fewRotations      = 3
)

var cartSecret = oidc.NewSecret()

// TestOperator lets the operator write the policy, and cart call payment through Envoy Gateway.
// The same calls go to the same API by way of a policy as people write it, with the address of
// the keys. What fails is counted, and goes to out/gateways.json.
func TestOperator(t *testing.T) {
	needGateways(t)
	port, issuer := startBackend(t), startIssuer(t)
	if err := issuer.SetClient(oidc.Client{ID: "cart", Secret: cartSecret, Scopes: map[string][]string{audience: {readScope, writeScope}}}); err != nil {
		t.Fatal(err)
	}
	g := startEnvoyGateway(t, port)
	startOperator(t)
	apply(t, "operator.yaml", "ISSUER", issuer.Issuer(), "SECRET", cartSecret, "KEYS", issuer.JWKSURL())
	untilGuarded(t, g.proxy, ourDoor, issuer, http.StatusUnauthorized)
	untilGuarded(t, g.proxy, usualDoor, issuer, http.StatusUnauthorized)
	checkTokens(t, ourDoor, issuer, http.StatusUnauthorized, http.StatusForbidden)
	checkScopes(t, ourDoor, issuer)
	t.Run("calls", func(t *testing.T) { measure(t, g, issuer) })
}

// TestOperatorWithIstio lets the operator write Istio's policies.
func TestOperatorWithIstio(t *testing.T) {
	needGateways(t)
	issuer, port := startIssuer(t), startBackend(t)
	i := startIstio(t, port)
	startOperator(t)
	apply(t, "operator-istio.yaml", "ISSUER", issuer.Issuer())
	untilGuarded(t, i.proxy, innerDoor, issuer, http.StatusForbidden)
	checkTokens(t, innerDoor, issuer, http.StatusForbidden, http.StatusOK)
	checkScopes(t, innerDoor, issuer)
	revoke(t, innerDoor, issuer, "mesh")
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
func tokenOfCart(t *testing.T) string {
	t.Helper()
	data, err := cluster.SecretData(t.Context(), "shop", "cart-token")
	if client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
	return string(data["payment-api"])
}

// tally is what happened to calls at one door, during one step.
type tally struct {
	Calls       int            `json:"calls"`
	Refused     int            `json:"refused"`
	Unreachable int            `json:"unreachable"` // Envoy is down
	Statuses    map[string]int `json:"statuses,omitempty"`
}

// traffic makes calls at two doors and counts what happens to them.
type traffic struct {
	mu    sync.Mutex
	step  string
	usual string // the token of the client that asks for its own
	tally map[string]map[string]*tally
}

func (c *traffic) begin(step string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step, c.tally[step] = step, map[string]*tally{"ours": {Statuses: map[string]int{}}, "usual": {Statuses: map[string]int{}}}
}

func (c *traffic) renew(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usual = token
}

// call makes a call at a door and counts it in the step in which it began.
func (c *traffic) call(whose string, d door, token string) {
	c.mu.Lock()
	counts := c.tally[c.step][whose]
	c.mu.Unlock()
	status, err := d.call(http.MethodGet, "/payments", token)
	c.mu.Lock()
	defer c.mu.Unlock()
	counts.Calls++
	switch {
	case err != nil:
		counts.Unreachable++
	case status != http.StatusOK:
		counts.Refused++
		counts.Statuses[strconv.Itoa(status)]++
	}
}

// run makes 20 calls a second at each door until done is closed.
func (c *traffic) run(t *testing.T, done <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		usual := c.usual
		c.mu.Unlock()
		c.call("ours", ourDoor, tokenOfCart(t))
		c.call("usual", usualDoor, usual)
	}
}

// measure counts calls through rotations and a restart, and looks how long a revoked key works.
func measure(t *testing.T, g *envoyGateway, issuer *oidc.Server) {
	within(t, time.Minute, g.proxy.process, func() error {
		return ourDoor.answers(http.StatusOK, http.MethodGet, "/payments", tokenOfCart(t))
	})
	rotations := fewRotations
	if n, err := strconv.Atoi(os.Getenv(rotationsVariable)); err == nil {
		rotations = n
	}
	c := &traffic{tally: map[string]map[string]*tally{}, usual: requested(t, issuer)}
	c.begin("nothing happens")
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); c.run(t, done) }()
	time.Sleep(3 * time.Second)

	c.begin("rotations")
	for range rotations {
		kid, err := issuer.RotateKey()
		if err != nil {
			t.Fatal(err)
		}
		c.renew(requested(t, issuer))
		refreshed(t, kid)
	}
	c.begin("restart while the authorization server is down")
	down := &oidc.Fault{Status: http.StatusServiceUnavailable}
	issuer.SetFault(oidc.JWKS, down)
	stop(t, g.proxy.process)
	g.startProxy(t)
	time.Sleep(5 * time.Second)
	issuer.ClearFaults()
	time.Sleep(3 * time.Second)

	close(done)
	<-ended
	began := time.Now()
	ours, old := revoke(t, ourDoor, issuer, "company")
	usual := refusedAfter(t, usualDoor, old, began, 10*time.Second)
	report(t, map[string]any{
		"usual is": "remoteJWKS, fetched again after 5 minutes, the default", "rotations": rotations, "calls": c.tally,
		"revoked key refused after seconds": map[string]any{"ours": ours, "usual": usual},
	})
	for _, step := range []string{"nothing happens", "rotations"} {
		// Each change of the keys costs Envoy Gateway some milliseconds: a call of 20 a second may meet it.
		if n := c.tally[step]["ours"].Refused; n > rotations {
			t.Errorf("%s: %d calls were refused", step, n)
		}
	}
	if n := c.tally["restart while the authorization server is down"]["ours"].Refused; n > 0 {
		t.Errorf("after the restart, %d calls were refused", n)
	}
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
	if err := local.Until(t.Context(), limit, func() error { return d.answers(http.StatusUnauthorized, http.MethodGet, "/", token) }); err != nil {
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
func refreshed(t *testing.T, kid string) {
	t.Helper()
	var cart v1alpha1.M2MClient
	name := types.NamespacedName{Namespace: "shop", Name: "cart"}
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

func report(t *testing.T, figures map[string]any) {
	t.Helper()
	b, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", b)
	if err := os.WriteFile(filepath.Join(outDir, "gateways.json"), append(b, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}
