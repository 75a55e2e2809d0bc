// SPDX-License-Identifier: Apache-2.0

// Package verifiers runs the examples of docs/examples. It renders their bundles, gives these to the web servers
// that the examples are for, and sends tokens that must pass and tokens that must not. M2M_VERIFIERS=1 runs the web
// servers that are installed (make interop-local); without it the examples are rendered, and nothing is started.
package verifiers

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// signer is a key of the authorization server.
type signer struct {
	alg     string
	private crypto.Signer
}

// newSigners makes a key of each kind, by its id.
func newSigners(t *testing.T) map[string]signer {
	t.Helper()
	r, err1 := rsa.GenerateKey(rand.Reader, 2048)
	p, err2 := rsa.GenerateKey(rand.Reader, 2048)
	e, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f, err4 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, o, err5 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	return map[string]signer{"rs256": {"RS256", r}, "ps256": {"PS256", p}, "es256": {"ES256", e}, "es384": {"ES384", f}, "eddsa": {"EdDSA", o}}
}

// bundle renders what the operator would distribute for an example.
func bundle(t *testing.T, example string, keys map[string]signer, ids ...string) map[string]string {
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
	b := render.Bundle{
		Name: "payment-api", Namespace: "payments", Issuer: issuer, Audience: audience, ClockSkewSeconds: 30, Formats: formats,
		Scopes: []render.Scope{{Name: scope, Claims: []string{"scope", "scp"}}},
	}
	for _, id := range ids {
		jwk, err := json.Marshal(jose.JSONWebKey{Key: keys[id].private.Public(), KeyID: id, Algorithm: keys[id].alg, Use: "sig"})
		if err != nil {
			t.Fatal(err)
		}
		b.Keys = append(b.Keys, render.Key{ID: id, JWK: string(jwk)})
	}
	files, err := render.Verification(b, extra)
	if err != nil {
		t.Fatalf("render: %v", err)
	}
	return files
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

// verifier is a web server with an example's configuration.
type verifier struct {
	example string
	program string
	signs   []string // the ids of the keys whose tokens it accepts
	// start starts it with the bundle in a directory, in front of the server at backend, and returns where it
	// listens.
	start func(t *testing.T, v verifier, dir, backend string) (address string)
	// follows reports whether it reads changed files by itself.
	follows bool
	// lax are the tests of bad tokens that it is known to accept, as the documentation says.
	lax []string
}

// token makes a JWT. change may change any part of it.
func token(t *testing.T, keys map[string]signer, id string, change func(header, claims map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	header := map[string]any{"alg": keys[id].alg, "kid": id, "typ": "JWT"}
	claims := map[string]any{"iss": issuer, "aud": audience, "sub": "cart", "iat": now, "exp": now + 600, "scope": "payments:read " + scope}
	if change != nil {
		change(header, claims)
	}
	opts := &jose.SignerOptions{}
	for name, value := range header {
		if name != "alg" {
			opts.WithHeader(jose.HeaderKey(name), value)
		}
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(keys[id].alg), Key: keys[id].private}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// unsigned makes a token without a signature, or with an HMAC whose key is the bytes of a
// public key.
func unsigned(t *testing.T, alg, id string, secret []byte) string {
	t.Helper()
	now := time.Now().Unix()
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := map[string]any{"iss": issuer, "aud": audience, "sub": "cart", "iat": now, "exp": now + 600, "scope": scope}
	if secret == nil {
		return encode(map[string]any{"alg": alg, "kid": id, "typ": "JWT"}) + "." + encode(claims) + "."
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithHeader("kid", id))
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := json.Marshal(claims)
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, _ := signed.CompactSerialize()
	return compact
}

// bad are changes that make a good token one that must be refused, by description.
var bad = map[string]struct {
	status int
	change func(header, claims map[string]any)
}{
	"expired":          {401, func(_, c map[string]any) { c["exp"] = time.Now().Unix() - 3600 }},
	"no exp":           {401, func(_, c map[string]any) { delete(c, "exp") }},
	"not yet valid":    {401, func(_, c map[string]any) { c["nbf"] = time.Now().Unix() + 3600 }},
	"another issuer":   {401, func(_, c map[string]any) { c["iss"] = issuer + "/" }},
	"no issuer":        {401, func(_, c map[string]any) { delete(c, "iss") }},
	"another audience": {401, func(_, c map[string]any) { c["aud"] = audience + "/v2" }},
	"no audience":      {401, func(_, c map[string]any) { delete(c, "aud") }},
	"an unknown key":   {401, func(h, _ map[string]any) { h["kid"] = "unknown" }},
	"another scope":    {403, func(_, c map[string]any) { c["scope"] = "payments:read payments:writers" }},
	"no scope":         {403, func(_, c map[string]any) { delete(c, "scope") }},
}

func TestVerifiers(t *testing.T) {
	if os.Getenv("M2M_VERIFIERS") != "1" {
		return // TestExamplesRender still runs
	}
	for _, v := range []verifier{
		{example: "nginx", program: "nginx", signs: []string{"rs256", "ps256", "es256", "es384"}, start: startNginx, follows: true},
		{example: "haproxy", program: "haproxy", signs: []string{"rs256", "es256", "es384"}, start: startHAProxy},
		{example: "apache", program: "apache2", signs: []string{"rs256", "ps256", "es256", "es384"}, start: startApache, lax: []string{"not yet valid", "another RSA algorithm"}},
	} {
		if _, err := exec.LookPath(v.program); err != nil {
			t.Logf("%s is not installed", v.program)
			continue
		}
		t.Run(v.example, func(t *testing.T) { testVerifier(t, v) })
	}
}

func testVerifier(t *testing.T, v verifier) {
	keys := newSigners(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "paid") }))
	t.Cleanup(backend.Close)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := bundle(t, v.example, keys, slices.Sorted(maps.Keys(keys))...)
	write(t, dir, files)
	address := v.start(t, v, dir, strings.TrimPrefix(backend.URL, "http://"))
	call := func(authorization string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/payments", nil)
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
		return resp.StatusCode, string(body)
	}
	is := func(what string, want int, token string) {
		t.Helper()
		authorization := ""
		if token != "" {
			authorization = "Bearer " + token
		}
		status, body := call(authorization)
		if status != want && (status/100 != 4 || want/100 != 4) || (body == "paid") != (want == 200) {
			t.Errorf("%s: %d, want %d", what, status, want)
		} else if status != want {
			t.Logf("%s: %d in place of %d", what, status, want)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		want := 401
		if slices.Contains(v.signs, id) {
			want = 200
		}
		is("a good token of "+id, want, token(t, keys, id, nil))
	}
	others := newSigners(t)
	for _, id := range v.signs {
		for what, b := range bad {
			want := b.status
			if slices.Contains(v.lax, what) {
				want = 200
			}
			is(what+" by "+id, want, token(t, keys, id, b.change))
		}
		is("signed by another key than "+id, 401, token(t, others, id, nil))
		good := token(t, keys, id, nil)
		parts := strings.Split(good, ".")
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		parts[1] = base64.RawURLEncoding.EncodeToString(bytes.Replace(payload, []byte("cart"), []byte("evil"), 1))
		is("changed after "+id, 401, strings.Join(parts, "."))
		is("without the signature of "+id, 401, parts[0]+"."+parts[1]+".")
		is("alg none for "+id, 401, unsigned(t, "none", id, nil))
		is("alg NONE for "+id, 401, unsigned(t, "NONE", id, nil))
		for name, content := range files {
			if strings.HasSuffix(name, ".pem") {
				is("HMAC by "+name, 401, unsigned(t, "HS256", id, []byte(content)))
			}
		}
		if rsaKey, ok := keys[id].private.(*rsa.PrivateKey); ok {
			for _, alg := range []string{"RS256", "RS512", "PS256", "PS512"} {
				if alg != keys[id].alg {
					want := 401
					if slices.Contains(v.lax, "another RSA algorithm") {
						want = 200
					}
					is(alg+" by "+id, want, token(t, map[string]signer{id: {alg, rsaKey}}, id, nil))
				}
			}
		}
		is("another id for "+id, 401, token(t, keys, id, func(h, _ map[string]any) { h["kid"] = "eddsa" }))
	}
	is("no token", 401, "")
	is("no JWT", 401, "opaque")
	is("nothing between dots", 401, "..")
	first := v.signs[0]
	basic, _ := call("Basic " + token(t, keys, first, nil))
	if basic/100 != 4 {
		t.Errorf("a token as Basic credentials: %d", basic)
	}
	if v.follows {
		testOtherNames(t, is, dir, files, keys, first)
		write(t, dir, bundle(t, v.example, keys, v.signs[1:]...))
		is("a token whose key was withdrawn", 401, token(t, keys, first, nil))
		is("a token of a key that stays", 200, token(t, keys, v.signs[1], nil))
		write(t, dir, bundle(t, v.example, keys))
		is("a token when all keys were withdrawn", 401, token(t, keys, v.signs[1], nil))
	}
}

// testOtherNames tests verification.json with tokens that name the API in another way than by
// aud.
func testOtherNames(t *testing.T, is func(what string, want int, token string), dir string, files map[string]string, keys map[string]signer, id string) {
	t.Helper()
	with := func(claim string, value any) string {
		return token(t, keys, id, func(_, claims map[string]any) {
			delete(claims, "aud")
			if claim != "" {
				claims[claim] = value
			}
		})
	}
	named := func(by string) {
		changed := strings.Replace(files[render.FileVerification], "{", `{"audienceIn": `+by+",", 1)
		write(t, dir, map[string]string{render.FileVerification: changed})
	}
	named(`{"claims": ["azp", "client_id"], "values": ["cart", "till"]}`)
	is("named by another claim", 200, with("client_id", "till"))
	is("named by a list", 200, with("client_id", []string{"other", "cart"}))
	is("named by the first of two claims only", 401, token(t, keys, id, func(_, c map[string]any) { c["azp"], c["client_id"] = "other", "cart" }))
	is("named by another value", 401, with("client_id", "carts"))
	is("named by aud", 401, token(t, keys, id, nil))
	is("not named at all", 401, with("", nil))
	named(`{"claims": ["scope", "scp"], "prefix": "payments:"}`)
	is("named by a scope", 200, with("", nil))
	is("named by no scope", 401, with("scope", "refunds:write xpayments:write"))
	is("without scopes", 401, with("scope", nil))
	write(t, dir, files)
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(content, mounted, dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// freeAddress returns an address at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// example returns an example's file, changed to listen and to find its files elsewhere. Every text to be replaced
// must be there.
func example(t *testing.T, v verifier, name string, replace ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(examples, v.example, name))
	if err != nil {
		t.Fatal(err)
	}
	content := string(raw)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(content, replace[i]) {
			t.Fatalf("%s has no %q", name, replace[i])
		}
		content = strings.ReplaceAll(content, replace[i], replace[i+1])
	}
	return content
}

// run starts a program and waits until it listens.
func run(t *testing.T, address, program string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var result error
	ended := make(chan struct{})
	go func() {
		result = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stubborn := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer stubborn.Stop()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", program, &said)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %v\n%s", program, result, &said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen at %s", program, address)
		}
	}
}

func startNginx(t *testing.T, v verifier, dir, backend string) string {
	t.Helper()
	address, home := freeAddress(t), t.TempDir()
	config := example(t, v, "nginx.conf", "load_module modules/", "load_module /usr/lib/nginx/modules/", "listen 8080", "listen "+address,
		"/etc/nginx/njs", home, mounted, dir, "127.0.0.1:8081", backend)
	if os.Getuid() == 0 {
		config = "user root;\n" + config // it would run as another user, who may not read the bundle here
	}
	config = "pid " + home + "/pid;\ndaemon off;\nerror_log stderr info;\n" + regexp.MustCompile(`(?m)^http \{`).ReplaceAllString(config,
		"http {\naccess_log off;\nclient_body_temp_path "+home+"/body;\nproxy_temp_path "+home+"/proxy;\nfastcgi_temp_path "+home+"/fastcgi;\n"+
			"uwsgi_temp_path "+home+"/uwsgi;\nscgi_temp_path "+home+"/scgi;")
	write(t, home, map[string]string{"nginx.conf": config, "m2m.js": example(t, v, "m2m.js")})
	run(t, address, "nginx", "-c", filepath.Join(home, "nginx.conf"), "-p", home)
	return address
}

func startHAProxy(t *testing.T, v verifier, dir, backend string) string {
	t.Helper()
	address := freeAddress(t)
	write(t, dir, map[string]string{"haproxy.cfg": example(t, v, "haproxy.cfg", ":8080", address, "127.0.0.1:8081", backend)})
	run(t, address, "haproxy", "-db", "-f", filepath.Join(dir, "haproxy-rules.cfg"), "-f", filepath.Join(dir, "haproxy.cfg"))
	return address
}

func startApache(t *testing.T, v verifier, dir, backend string) string {
	t.Helper()
	address, home := freeAddress(t), t.TempDir()
	config := fmt.Sprintf("ServerRoot %q\nServerName localhost\nPidFile %q\nDefaultRuntimeDir %q\nErrorLog /dev/stderr\nListen %s\n", home, home+"/pid", home, address)
	for _, module := range []string{"mpm_event", "authn_core", "authz_core", "proxy", "proxy_http", "rewrite", "oauth2"} {
		config += fmt.Sprintf("LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", module, module)
	}
	write(t, home, map[string]string{"apache2.conf": config + example(t, v, "apache.conf", mounted, dir, "127.0.0.1:8081", backend)})
	run(t, address, "apache2", "-X", "-f", filepath.Join(home, "apache2.conf"))
	return address
}
