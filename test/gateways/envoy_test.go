// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/render"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// proxy is a running Envoy.
type proxy struct {
	process *local.Process
	name    string
	admin   string
}

// startProxy starts Envoy with a configuration. Envoys do not take over from each other.
func startProxy(t *testing.T, name, configuration, admin string, args ...string) *proxy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &proxy{name: name, admin: admin}
	args = append([]string{"--config-path", path, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"}, args...)
	p.process = started(t, name, program.envoy, args...)
	within(t, time.Minute, p.process, p.live)
	return p
}

// live returns an error unless Envoy says that it has what it needs to work.
func (p *proxy) live() error { return ready("http://" + p.admin + "/ready") }

// ready returns an error unless an address answers with 200.
func ready(url string) error {
	resp, err := caller.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", url, resp.StatusCode)
	}
	return nil
}

// volume is a directory as a kubelet makes it of a ConfigMap.
type volume struct {
	dir      string
	versions int
}

// write replaces all files at once.
func (v *volume) write(files map[string]string) error {
	v.versions++
	version := "..version_" + strconv.Itoa(v.versions)
	if err := os.Mkdir(filepath.Join(v.dir, version), 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(v.dir, version, name), []byte(content), 0o600); err != nil {
			return err
		}
		link := filepath.Join(v.dir, name)
		if err := os.Symlink(filepath.Join("..data", name), link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	next := filepath.Join(v.dir, "..data_tmp")
	return errors.Join(os.Symlink(version, next), os.Rename(next, filepath.Join(v.dir, "..data")))
}

// TestEnvoy starts an Envoy without a control plane, which discovers its filters in the files of
// a bundle.
func TestEnvoy(t *testing.T) {
	needGateways(t)
	issuer, port := startIssuer(t), startBackend(t)
	v := &volume{dir: t.TempDir()}
	show := func(files map[string]string) {
		t.Helper()
		if err := v.write(files); err != nil {
			t.Fatal(err)
		}
	}
	update := func(keys string) { show(bundle(t, issuer, keys)) }
	update(published(t, issuer))
	configuration := strings.NewReplacer("DIRECTORY", v.dir, "HOST", hostAddress, "PORT", strconv.Itoa(port)).Replace(content(t, "envoy.yaml"))
	startProxy(t, "envoy", configuration, "127.0.0.1:19901")
	d := door("127.0.0.1:10082")
	checkTokens(t, d, issuer, http.StatusUnauthorized, http.StatusUnauthorized)
	checkScopes(t, d, issuer)
	t.Run("keys follow the files", func(t *testing.T) { checkRotation(t, d, issuer, update) })
	t.Run("no call fails while keys change", func(t *testing.T) { checkSeamless(t, d, issuer, 0, update) })
	t.Run("kept connections", func(t *testing.T) { // a filter from a file is not the listener's
		checkKeptConnections(t, d, issuer, kept{added: []int{200}, revoked: []int{401, 401}}, update)
	})
	t.Run("all keys are revoked", func(t *testing.T) {
		token := signed(t, issuer, nil)
		update(`{"keys":[]}`)
		awaits(t, d, http.StatusUnauthorized, token)
		update(published(t, issuer))
		awaits(t, d, http.StatusOK, token)
	})
	t.Run("a set without usable keys leaves the old ones", func(t *testing.T) {
		checkUselessSets(t, d, issuer, http.StatusOK, func(keys string) { show(withKeySet(t, bundle(t, issuer, published(t, issuer)), keys)) })
	})
}

// bundle returns the files that the operator distributes for the API. All tests use the
// same rules.
func bundle(t *testing.T, issuer *oidc.Server, keys string) map[string]string {
	t.Helper()
	b := render.Bundle{
		Name: "payment-api", Namespace: "payments", Issuer: issuer.Issuer(), Audience: audience, ClockSkewSeconds: 30,
		Scopes: []render.Scope{{Name: readScope, Claims: []string{"scope", "scp"}}, {Name: writeScope, Claims: []string{"scope", "scp"}}},
		Formats: render.Formats{Requests: []render.Requests{{Name: "public", Rules: []render.Rule{
			{Methods: []string{http.MethodGet}, Scopes: []string{readScope}},
			{Methods: []string{http.MethodPost}, Scopes: []string{writeScope}},
		}}}},
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(keys), &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		jwk, err := k.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		b.Keys = append(b.Keys, render.Key{ID: k.KeyID, JWK: string(jwk)})
	}
	files, err := render.Verification(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// withKeySet puts another key set into the filter that verifies tokens.
func withKeySet(t *testing.T, files map[string]string, keys string) map[string]string {
	t.Helper()
	var file map[string]any
	if err := yaml.Unmarshal([]byte(files[render.FileEnvoyJWT]), &file); err != nil {
		t.Fatal(err)
	}
	filter := file["resources"].([]any)[0].(map[string]any)["typed_config"].(map[string]any)
	for _, p := range filter["providers"].(map[string]any) {
		p.(map[string]any)["local_jwks"] = map[string]any{"inline_string": keys}
	}
	changed, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	files = maps.Clone(files)
	files[render.FileEnvoyJWT] = string(changed)
	return files
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testdata, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// untilGuarded waits until a gateway lets a good token pass and answers a request without a
// token with a status: it may serve before it has the policy.
func untilGuarded(t *testing.T, p *proxy, d door, issuer *oidc.Server, without int) {
	t.Helper()
	token := signed(t, issuer, nil)
	within(t, time.Minute, p.process, func() error {
		return errors.Join(d.answers(http.StatusOK, http.MethodGet, "/", token), d.answers(without, http.MethodGet, "/", ""))
	})
}

// checkTokens offers good and bad tokens. without is the status of a request without a token,
// endless that of one with a token that never expires.
func checkTokens(t *testing.T, d door, issuer *oidc.Server, without, endless int) {
	t.Helper()
	for what, token := range goodTokens(t, issuer) {
		t.Run("passes: "+what, func(t *testing.T) { d.wants(t, http.StatusOK, http.MethodGet, "/payments", token) })
	}
	bad := badTokens(t, issuer)
	bad["no token at all"] = refusal{"", without}
	for what, r := range bad {
		t.Run("is refused: "+what, func(t *testing.T) { d.wants(t, r.status, http.MethodGet, "/payments", r.token) })
	}
	t.Run("expires never", func(t *testing.T) { d.wants(t, endless, http.MethodGet, "/payments", issuedWithout(t, issuer, "exp")) })
	t.Run("is refused: a token in the URL", func(t *testing.T) {
		d.wants(t, without, http.MethodGet, "/payments?access_token="+signed(t, issuer, nil), "")
	})
}

// checkScopes makes requests with tokens for something else.
func checkScopes(t *testing.T, d door, issuer *oidc.Server) {
	t.Helper()
	for what, change := range map[string]claims{
		"reading only":            nil,
		"reading and more":        {"scope": readScope + " payments:write:all"},
		"the scope in upper case": {"scope": strings.ToUpper(writeScope)},
		"no scope":                {"scope": nil},
		"an empty scope":          {"scope": ""},
		"a scope under sub":       {"scope": nil, "sub": writeScope},
	} {
		t.Run("must not write: "+what, func(t *testing.T) {
			d.wants(t, http.StatusForbidden, http.MethodPost, "/payments", signed(t, issuer, change))
		})
	}
	t.Run("writes with the scope", func(t *testing.T) {
		d.wants(t, http.StatusOK, http.MethodPost, "/payments", signed(t, issuer, claims{"scope": writeScope}))
	})
	t.Run("a method without a rule", func(t *testing.T) {
		d.wants(t, http.StatusForbidden, http.MethodDelete, "/payments", signed(t, issuer, claims{"scope": readScope + " " + writeScope}))
	})
}

// checkRotation changes the keys that the gateway is told, and measures how long it takes.
func checkRotation(t *testing.T, d door, issuer *oidc.Server, update func(keys string)) {
	t.Helper()
	before := signed(t, issuer, nil)
	if err := issuer.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	after := signed(t, issuer, nil)
	d.wants(t, http.StatusOK, http.MethodGet, "/", before)
	d.wants(t, http.StatusUnauthorized, http.MethodGet, "/", after)
	began := time.Now()
	update(published(t, issuer))
	awaits(t, d, http.StatusOK, after)
	t.Logf("a new key reached the gateway after %s", time.Since(began).Round(time.Millisecond))
	d.wants(t, http.StatusUnauthorized, http.MethodGet, "/", before)

	began = time.Now()
	update(unusable(t))
	awaits(t, d, http.StatusUnauthorized, after)
	t.Logf("a revoked key left the gateway after %s", time.Since(began).Round(time.Millisecond))
	update(published(t, issuer))
	awaits(t, d, http.StatusOK, after)
}

// kept is what requests on one connection are answered with, that was open before a change.
type kept struct{ added, revoked []int }

// checkKeptConnections changes keys while a client keeps its connection: adds one, and calls
// with a token that it signed; then revokes it, and calls on.
func checkKeptConnections(t *testing.T, d door, issuer *oidc.Server, want kept, update func(keys string)) {
	t.Helper()
	old := published(t, issuer)
	before := signed(t, issuer, nil)
	if err := issuer.RotateKeyHard(); err != nil {
		t.Fatal(err)
	}
	after := signed(t, issuer, nil)
	calls := func(token string, n int, change func()) (got []int) {
		transport := &http.Transport{MaxConnsPerHost: 1}
		defer transport.CloseIdleConnections()
		by := &http.Client{Timeout: 5 * time.Second, Transport: transport}
		for i := range n + 1 {
			status, err := d.callBy(by, http.MethodGet, "/", token)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				change()
				token = after
				continue
			}
			got = append(got, status)
		}
		return got
	}
	if got := calls(before, len(want.added), func() {
		update(merged(t, old, published(t, issuer)))
		awaits(t, d, http.StatusOK, after)
	}); !slices.Equal(got, want.added) {
		t.Errorf("a token of a new key, on a connection from before: %v, want %v", got, want.added)
	}
	if got := calls(after, len(want.revoked), func() {
		update(old)
		awaits(t, d, http.StatusUnauthorized, after)
	}); !slices.Equal(got, want.revoked) {
		t.Errorf("a token of a revoked key, on a connection from before: %v, want %v", got, want.revoked)
	}
	update(published(t, issuer))
	awaits(t, d, http.StatusOK, after)
}

// checkUselessSets shows why nobody may tell a gateway a set without usable keys: Envoy refuses
// the configuration as a whole and goes on with what it has. want is how it then answers a
// request with a token that was good.
func checkUselessSets(t *testing.T, d door, issuer *oidc.Server, want int, update func(keys string)) {
	t.Helper()
	token := signed(t, issuer, nil)
	d.wants(t, http.StatusOK, http.MethodGet, "/", token)
	for _, keys := range []string{`{"keys":[]}`, `{"keys":`, `{"keys":[{"kty":"OKP","crv":"Ed448","kid":"a","x":"AA"}]}`} {
		update(keys)
		time.Sleep(time.Second) // many times what a change needs
		d.wants(t, want, http.MethodGet, "/", token)
	}
	update(published(t, issuer))
	awaits(t, d, http.StatusOK, token)
}

// checkSeamless makes calls without a pause while keys come and go beside the one that is
// needed. A call may fail for a moment after a change, but not for longer than allowed.
func checkSeamless(t *testing.T, d door, issuer *oidc.Server, allowed time.Duration, update func(keys string)) {
	t.Helper()
	token, keys := signed(t, issuer, nil), published(t, issuer)
	two := merged(t, keys, unusable(t))
	const changes = 20
	done, result := make(chan struct{}), make(chan outage)
	go func() { result <- observe(d, token, done) }()
	for i := range changes {
		update([]string{two, keys}[i%2])
		time.Sleep(100 * time.Millisecond)
	}
	close(done)
	o := <-result
	t.Logf("of %d calls while keys changed %d times, %d failed, within %s at most: %v", o.calls, changes, o.failed, o.longest, o.how)
	if o.calls < changes || o.longest > allowed {
		t.Errorf("calls fail for %s, longer than %s", o.longest, allowed)
	}
}

// outage is how calls failed.
type outage struct {
	calls, failed int
	how           map[string]int
	longest       time.Duration // between the last good call before failed ones and the first after them
}

// observe makes calls until done is closed.
func observe(d door, token string, done <-chan struct{}) outage {
	o := outage{how: map[string]int{}}
	good, failing := time.Now(), false
	for {
		err := d.answers(http.StatusOK, http.MethodGet, "/", token)
		o.calls++
		switch {
		case err != nil:
			failing = true
			o.failed++
			o.how[err.Error()]++
		case failing:
			o.longest, failing = max(o.longest, time.Since(good)), false
			fallthrough
		default:
			good = time.Now()
		}
		select {
		case <-done:
			if failing {
				o.longest = max(o.longest, time.Since(good))
			}
			return o
		default:
		}
	}
}

// awaits waits until a request is answered with a status.
func awaits(t *testing.T, d door, want int, token string) {
	t.Helper()
	kubetest.Every(t, 5*time.Millisecond, 20*time.Second, func() error { return d.answers(want, http.MethodGet, "/", token) })
}
