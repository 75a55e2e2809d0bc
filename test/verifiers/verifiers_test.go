// SPDX-License-Identifier: Apache-2.0

// Package verifiers runs the examples of docs/examples and the code of docs/verifying. It renders their bundles, mounts
// these as a kubelet does, and sends tokens that must pass and tokens that must not. M2M_VERIFIERS=1 runs what is
// installed (make verifiers-test), with CI=true everything; without it the examples are rendered, and nothing is started.
package verifiers

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

const (
	examples = "../../docs/examples"
	issuer   = "https://auth.example.com"
	audience = "https://payment.example.com/api"
	scope    = "payments:write"
	// mounted is where the examples expect the bundle.
	mounted = "/var/run/secrets/m2m-operator.io/verify/payment-api"
)

// bundle renders what the operator would distribute for an example.
func bundle(t *testing.T, example string, keys map[string]signer, ids ...string) map[string]string {
	t.Helper()
	return typedBundle(t, example, "", keys, ids...)
}

// typedBundle is the same for an API that demands a type of tokens.
func typedBundle(t *testing.T, example, typ string, keys map[string]signer, ids ...string) map[string]string {
	t.Helper()
	extra, formats := map[string]string{}, render.Formats{Directory: mounted}
	if raw, err := os.ReadFile(filepath.Join(examples, example, "apiresource.yaml")); err == nil {
		var api v1alpha1.APIResource
		if err := yaml.UnmarshalStrict(raw, &api); err != nil {
			t.Fatal(err)
		}
		for _, f := range api.Spec.Verification.Files {
			extra[f.Name] = f.Template
		}
		for _, f := range api.Spec.Verification.Formats {
			formats.Names = append(formats.Names, string(f))
		}
	}
	if example == "envoy" {
		formats.Requests = envoyRequests()
	}
	b := render.Bundle{
		Name: "payment-api", Namespace: "payments", Issuer: issuer, Audience: audience, ClockSkewSeconds: 30, TokenType: typ, Formats: formats,
		Scopes: []render.Scope{{Name: scope, Claims: []string{"scope", "scp"}}, {Name: "payments:read", Claims: []string{"scope", "scp"}}},
	}
	b.Keys = renderKeys(t, keys, ids...)
	files, err := render.Verification(b, extra)
	if err != nil {
		t.Fatalf("render: %v", err)
	}
	return files
}

func renderKeys(t *testing.T, keys map[string]signer, ids ...string) (list []render.Key) {
	t.Helper()
	for _, id := range ids {
		jwk, err := json.Marshal(jose.JSONWebKey{Key: keys[id].private.Public(), KeyID: kid(id), Algorithm: keys[id].alg, Use: "sig"})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, render.Key{ID: kid(id), JWK: string(jwk)})
	}
	return list
}

func TestExamplesRender(t *testing.T) {
	all, err := os.ReadDir(examples)
	if err != nil || len(all) < 3 {
		t.Fatalf("%d examples: %v", len(all), err)
	}
	keys := newSigners(t)
	for _, e := range all {
		t.Run(e.Name(), func(t *testing.T) {
			bundle(t, e.Name(), keys, slices.Sorted(maps.Keys(keys))...)
			bundle(t, e.Name(), keys) // all are revoked
		})
	}
}

// verifier is a web server with an example's configuration, or a page's code.
type verifier struct {
	name    string
	example string   // the directory in docs/examples, or none
	needs   []string // programs
	probe   []string // a command that fails if a library is not installed
	signs   []string // the ids of the keys whose tokens it accepts
	// start starts it with the bundle in a directory, in front of the server at backend, and returns where it
	// listens.
	start func(t *testing.T, v verifier, dir, backend string) (address string, process *os.Process)
	// reload makes it read the bundle again, if it does not do so by itself.
	reload syscall.Signal
	can    capabilities
	// lax are the tests of bad tokens that it is known to accept, as the documentation says.
	lax []string
}

// capabilities are what not every verifier has.
type capabilities struct {
	lists   bool // reads aud and scp as lists
	types   bool // compares typ; what does not refuses every token if the API demands a type
	names   bool // knows audienceIn
	sameIDs bool // tries all keys of one id
}

func verifiers() []verifier {
	all := []string{"rs256", "ps256", "es256", "es384"}
	list := []verifier{
		{name: "nginx", example: "nginx", needs: []string{"nginx"}, signs: all, start: startNginx,
			can: capabilities{lists: true, types: true, names: true, sameIDs: true}},
		{name: "haproxy", example: "haproxy", needs: []string{"haproxy"}, signs: []string{"rs256", "es256", "es384"}, start: startHAProxy,
			reload: syscall.SIGUSR2, can: capabilities{types: true}},
		{name: "apache", example: "apache", needs: []string{"apache2"}, signs: all, start: startApache,
			reload: syscall.SIGUSR1, lax: []string{"not yet valid", "another RSA algorithm"}},
		{name: "envoy", example: "envoy", needs: []string{"envoy"}, signs: append([]string{"eddsa"}, all...), start: startEnvoy,
			can: capabilities{lists: true, types: true, sameIDs: true}},
	}
	return append(list, programs()...)
}

func TestVerifiers(t *testing.T) {
	for _, v := range verifiers() {
		t.Run(v.name, func(t *testing.T) {
			needs(t, v)
			newWorld(t, v).test(t)
		})
	}
}

// needs skips a test whose verifier is not asked for or not installed. In CI all are installed.
func needs(t *testing.T, v verifier) {
	t.Helper()
	if os.Getenv("M2M_VERIFIERS") != "1" {
		t.Skip("M2M_VERIFIERS is not 1: TestExamplesRender still runs")
	}
	missing := t.Skipf
	if os.Getenv("CI") == "true" {
		missing = t.Fatalf
	}
	for _, program := range v.needs {
		if _, err := exec.LookPath(program); err != nil {
			missing("%s is not installed", program)
		}
	}
	if len(v.probe) > 0 {
		if out, err := exec.CommandContext(t.Context(), v.probe[0], v.probe[1:]...).CombinedOutput(); err != nil {
			missing("%s: %v\n%s", strings.Join(v.probe, " "), err, out)
		}
	}
}

// world is a running verifier in front of an API.
type world struct {
	verifier
	keys    map[string]signer
	volume  *volume
	address string
	process *os.Process
}

func newWorld(t *testing.T, v verifier) *world {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "paid") }))
	t.Cleanup(backend.Close)
	dir := filepath.Join(t.TempDir(), "payment-api")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{verifier: v, keys: newSigners(t), volume: &volume{dir: dir}}
	w.volume.publish(t, bundle(t, v.example, w.keys, w.ids()...))
	w.address, w.process = v.start(t, v, dir, strings.TrimPrefix(backend.URL, "http://"))
	return w
}

// publish replaces the bundle, and lets the verifier know if it has to.
func (w *world) publish(t *testing.T, files map[string]string) {
	t.Helper()
	w.volume.publish(t, files)
	w.signal(t)
}

func (w *world) signal(t *testing.T) {
	t.Helper()
	if w.reload != 0 {
		if err := w.process.Signal(w.reload); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) ids() []string { return slices.Sorted(maps.Keys(w.keys)) }

// call makes a request to pay.
func (w *world) call(t *testing.T, authorization string) (status int, paid bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.address+"/payments", nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body) == "paid"
}

// is wants a status for a token. Of web servers, any refusal will do for another one, and is logged.
func (w *world) is(t *testing.T, what string, want int, token string) {
	t.Helper()
	authorization := ""
	if token != "" {
		authorization = "Bearer " + token
	}
	status, paid := w.call(t, authorization)
	if status != want && (w.example == "" || status/100 != 4 || want/100 != 4) || paid != (want == 200) {
		t.Errorf("%s: %d, want %d", what, status, want)
	} else if status != want {
		t.Logf("%s: %d in place of %d", what, status, want)
	}
}

// becomes waits until a token has a status, because verifiers take a moment to read changed files, and HAProxy forgets a
// signal that comes while it is still reloading.
func (w *world) becomes(t *testing.T, what string, want int, token string) {
	t.Helper()
	for range 5 {
		for range 150 {
			if status, _ := w.call(t, "Bearer "+token); status == want || status/100 == 4 && want/100 == 4 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.signal(t)
	}
	w.is(t, what, want, token)
}

func (w *world) test(t *testing.T) {
	w.testPromises(t)
	for _, id := range w.ids() {
		want := 401
		if slices.Contains(w.signs, id) {
			want = 200
		}
		w.is(t, "a good token of "+id, want, token(t, w.keys, id, nil))
	}
	others := newSigners(t)
	for _, id := range w.signs {
		for what, b := range bad {
			want := b.status
			if slices.Contains(w.lax, what) {
				want = 200
			}
			w.is(t, what+" by "+id, want, token(t, w.keys, id, b.change))
		}
		w.is(t, "signed by another key than "+id, 401, token(t, others, id, nil))
		w.testForged(t, id)
	}
	w.is(t, "no token", 401, "")
	w.is(t, "no JWT", 401, "opaque")
	w.is(t, "nothing between dots", 401, "..")
	basic, _ := w.call(t, "Basic "+token(t, w.keys, w.signs[0], nil))
	if basic/100 != 4 {
		t.Errorf("a token as Basic credentials: %d", basic)
	}
	if w.can.lists {
		w.testLists(t)
	}
	w.testChanges(t)
}

// testForged sends tokens that somebody without the key of an id can make.
func (w *world) testForged(t *testing.T, id string) {
	good := token(t, w.keys, id, nil)
	parts := strings.Split(good, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString(bytes.Replace(payload, []byte("cart"), []byte("evil"), 1))
	w.is(t, "changed after "+id, 401, strings.Join(parts, "."))
	w.is(t, "without the signature of "+id, 401, parts[0]+"."+parts[1]+".")
	w.is(t, "alg none for "+id, 401, unsigned(t, "none", id, nil))
	w.is(t, "alg NONE for "+id, 401, unsigned(t, "NONE", id, nil))
	for name, secret := range publicTexts(t, w.keys[id]) {
		w.is(t, "HMAC by the "+name+" of "+id, 401, unsigned(t, "HS256", id, secret))
	}
	if rsaKey, ok := w.keys[id].private.(*rsa.PrivateKey); ok {
		for _, alg := range []string{"RS256", "RS512", "PS256", "PS512"} {
			if alg != w.keys[id].alg {
				want := 401
				if slices.Contains(w.lax, "another RSA algorithm") {
					want = 200
				}
				w.is(t, alg+" by "+id, want, token(t, map[string]signer{id: {alg, rsaKey}}, id, nil))
			}
		}
	}
	another := "eddsa"
	if id == another {
		another = "rs256"
	}
	w.is(t, "another id for "+id, 401, token(t, w.keys, id, func(h, _ map[string]any) { h["kid"] = another }))
}

// testLists tests claims that are lists.
func (w *world) testLists(t *testing.T) {
	id := w.signs[0]
	with := func(change func(c map[string]any)) string {
		return token(t, w.keys, id, func(_, c map[string]any) { change(c) })
	}
	w.is(t, "aud as a list", 200, with(func(c map[string]any) { c["aud"] = []string{"other", audience} }))
	w.is(t, "aud as a list of others", 401, with(func(c map[string]any) { c["aud"] = []string{"other", audience + "/"} }))
	w.is(t, "scp as a list", 200, with(func(c map[string]any) { delete(c, "scope"); c["scp"] = []string{"payments:read", scope} }))
	w.is(t, "scp as a string", 200, with(func(c map[string]any) { delete(c, "scope"); c["scp"] = "payments:read " + scope }))
	w.is(t, "scp as a list of others", 403, with(func(c map[string]any) { delete(c, "scope"); c["scp"] = []string{"payments:read"} }))
	w.is(t, "scp beside a scope without it", 403, with(func(c map[string]any) { c["scope"] = "payments:read"; c["scp"] = []string{scope} }))
}

// testChanges changes the bundle under the running verifier.
func (w *world) testChanges(t *testing.T) {
	if w.can.names {
		w.testOtherNames(t)
	}
	id, other := w.signs[0], w.signs[1]
	if w.can.types {
		w.publish(t, typedBundle(t, w.example, "at+jwt", w.keys, w.ids()...))
		typed := func(typ any) string { return token(t, w.keys, id, func(h, _ map[string]any) { h["typ"] = typ }) }
		w.becomes(t, "a token of another type", 401, typed("JWT"))
		w.is(t, "a token of the type", 200, typed("at+jwt"))
		w.is(t, "a token of the type in full", 200, typed("application/AT+JWT"))
		w.is(t, "a token of almost the type", 401, typed("at+jwts"))
		w.is(t, "a token without a type", 401, token(t, w.keys, id, func(h, _ map[string]any) { delete(h, "typ") }))
	} else {
		w.publish(t, typedBundle(t, w.example, "JWT", w.keys, w.ids()...))
		w.becomes(t, "a token of a type that cannot be compared", 401, token(t, w.keys, id, nil))
	}
	rotated := newSigners(t)
	w.keys["new"] = rotated["es256"]
	w.publish(t, bundle(t, w.example, w.keys, w.ids()...))
	w.becomes(t, "a token of a new key", 200, token(t, w.keys, "new", nil))
	w.is(t, "a token of a former key", 200, token(t, w.keys, id, nil))
	if w.can.sameIDs {
		w.keys["same/1"], w.keys["same/2"] = rotated["rs256"], rotated["es384"]
		w.publish(t, bundle(t, w.example, w.keys, w.ids()...))
		w.becomes(t, "a token of the first key of an id", 200, token(t, w.keys, "same/1", nil))
		w.is(t, "a token of the second key of an id", 200, token(t, w.keys, "same/2", nil))
	}
	w.publish(t, bundle(t, w.example, w.keys, w.signs[1:]...))
	w.becomes(t, "a token whose key was withdrawn", 401, token(t, w.keys, id, nil))
	w.is(t, "a token of a key that stays", 200, token(t, w.keys, other, nil))
	w.publish(t, bundle(t, w.example, w.keys))
	w.becomes(t, "a token when all keys were withdrawn", 401, token(t, w.keys, other, nil))
	w.publish(t, bundle(t, w.example, w.keys, other))
	w.becomes(t, "a token when there are keys again", 200, token(t, w.keys, other, nil))
}

// testOtherNames tests verification.json with tokens that name the API in another way than by
// aud.
func (w *world) testOtherNames(t *testing.T) {
	id, files := w.signs[0], bundle(t, w.example, w.keys, w.ids()...)
	with := func(claim string, value any) string {
		return token(t, w.keys, id, func(_, claims map[string]any) {
			delete(claims, "aud")
			if claim != "" {
				claims[claim] = value
			}
		})
	}
	named := func(by string) {
		changed := maps.Clone(files)
		changed[render.FileVerification] = strings.Replace(files[render.FileVerification], "{", `{"audienceIn": `+by+",", 1)
		w.publish(t, changed)
	}
	named(`{"claims": ["azp", "client_id"], "values": ["cart", "till"]}`)
	w.is(t, "named by another claim", 200, with("client_id", "till"))
	w.is(t, "named by a list", 200, with("client_id", []string{"other", "cart"}))
	w.is(t, "named by the first of two claims only", 401, token(t, w.keys, id, func(_, c map[string]any) { c["azp"], c["client_id"] = "other", "cart" }))
	w.is(t, "named by another value", 401, with("client_id", "carts"))
	w.is(t, "named by aud", 401, token(t, w.keys, id, nil))
	w.is(t, "not named at all", 401, with("", nil))
	named(`{"claims": ["scope", "scp"], "prefix": "payments:"}`)
	w.is(t, "named by a scope", 200, with("", nil))
	w.is(t, "named by no scope", 401, with("scope", "refunds:write xpayments:write"))
	w.is(t, "without scopes", 401, with("scope", nil))
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(content, mounted, dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
