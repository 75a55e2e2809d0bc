// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	registrationtest "github.com/m2m-operator/m2m-operator/internal/testing/registration"
)

// hydraManner is how Ory Hydra 2.3.0 differs from the other two.
var hydraManner = manner{
	audienceParameter: v1alpha1.AudienceParameterAudience,
	assertionAudience: v1alpha1.AssertionAudienceTokenEndpoint,
	assertionsWithout: []string{"EdDSA"},
	unknownResource:   "invalid_request",
	neverDrops:        true,
}

// Names of Hydra's key sets, as in its admin API.
const (
	hydraTokenKeys   = "hydra.jwt.access-token"
	hydraIDTokenKeys = "hydra.openid.id-token"
)

// hydra is a process of Ory Hydra with a database of its own. It listens on sockets in its directory. Its public API
// is reached through a proxy, which knows its own port before Hydra has to name the issuer, and adds the issuer's
// path.
type hydra struct {
	t         *testing.T
	cmd       *exec.Cmd
	ended     chan error
	output    bytes.Buffer // read only after the process has ended
	proxy     *httptest.Server
	admin     *http.Client
	issuer    string
	algorithm string

	mu        sync.Mutex
	signing   json.RawMessage // the private key that signs
	announced json.RawMessage
	clients   map[string]bool // that the test made
}

var (
	// hydraProgram is the path of Hydra, "" if it is not tested.
	hydraProgram string
	// hydraTables is the directory of the database that all others are copied from.
	hydraTables string
)

// startHydra returns a function that starts a Hydra.
func startHydra(t *testing.T, o serverOptions) authorizationServer {
	t.Helper()
	return newHydra(t, o.path, o.algorithm, o.lifetime)
}

// migrated returns the path of a database with Hydra's tables. Each process gets a
// copy, because creating the tables takes longer than everything else.
var migrated = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hydra")
	if err != nil {
		return "", err
	}
	hydraTables = dir
	file := filepath.Join(dir, "db")
	cmd := exec.Command(hydraProgram, "migrate", "sql", "--read-from-env", "--yes")
	cmd.Env = append(os.Environ(), "DSN=sqlite://"+file+"?_fk=true", "LOG_LEVEL=warn")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, said)
	}
	return file, nil
})

func newHydra(t *testing.T, path, algorithm string, lifetime time.Duration) *hydra {
	t.Helper()
	// Not t.TempDir: a socket's path must not exceed about a hundred bytes.
	dir, err := os.MkdirTemp("", "hydra")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tables, err := migrated()
	if err != nil {
		t.Fatalf("make Hydra's tables: %v", err)
	}
	database, err := os.ReadFile(tables)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "db"), database, 0o600); err != nil {
		t.Fatal(err)
	}

	h := &hydra{t: t, ended: make(chan error, 1), algorithm: algorithm, clients: map[string]bool{}}
	public := onSocket(filepath.Join(dir, "public"))
	h.admin = &http.Client{Transport: onSocket(filepath.Join(dir, "admin")), Timeout: 30 * time.Second}
	h.proxy = httptest.NewServer(http.StripPrefix(path, &httputil.ReverseProxy{
		Transport: public, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "public"}) },
	}))
	h.issuer = h.proxy.URL + path
	config, err := json.Marshal(map[string]any{
		"dsn":        "sqlite://" + filepath.Join(dir, "db") + "?_fk=true",
		"log":        map[string]any{"level": "warn"},
		"secrets":    map[string]any{"system": []string{oidc.NewSecret()}},
		"serve":      map[string]any{"public": map[string]any{"host": "unix:" + filepath.Join(dir, "public")}, "admin": map[string]any{"host": "unix:" + filepath.Join(dir, "admin")}},
		"urls":       map[string]any{"self": map[string]any{"issuer": h.issuer}},
		"strategies": map[string]any{"access_token": "jwt"},
		"ttl":        map[string]any{"access_token": lifetime.String()},
		"oidc":       map[string]any{"dynamic_client_registration": map[string]any{"enabled": true}},
		// Hydra does not name the endpoint by default.
		"webfinger": map[string]any{"oidc_discovery": map[string]any{"client_registration_url": h.issuer + "/oauth2/register"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	// dev allows an issuer with http; sqa-opt-out keeps Hydra from reporting to its makers.
	h.cmd = exec.Command(hydraProgram, "serve", "all", "--dev", "--sqa-opt-out", "--config", filepath.Join(dir, "config.json"))
	h.cmd.Stdout, h.cmd.Stderr = &h.output, &h.output
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { h.ended <- h.cmd.Wait() }()
	if err := h.begin(); err != nil {
		h.Close()
		t.Fatalf("start Hydra: %v\n%s", err, &h.output)
	}
	return h
}

// onSocket returns a transport to the server that listens on a socket.
func onSocket(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
}

// begin waits for the process and gives it keys before it makes its own, which takes
// long.
func (h *hydra) begin() error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := h.do(http.MethodGet, "/health/ready", nil, nil)
		if err == nil {
			break
		}
		select {
		case ended := <-h.ended:
			h.ended <- ended
			return fmt.Errorf("it ended: %w", ended)
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	if err := h.setKeys(hydraIDTokenKeys, h.newKey()); err != nil {
		return err
	}
	h.signing = h.newKey()
	return h.setKeys(hydraTokenKeys, h.signing)
}

// do makes a request to the admin API. Deleting something that does not exist is no error.
func (h *hydra) do(method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://admin"+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.admin.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusNotFound && method == http.MethodDelete:
		return nil
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, said)
	case into != nil:
		return json.Unmarshal(said, into)
	}
	return nil
}

func (h *hydra) newKey() json.RawMessage {
	alg := h.algorithm
	if alg == "" {
		alg = "ES256"
	}
	_, private, _, err := oidc.NewKeyPair(alg)
	if err != nil {
		h.t.Error(err)
	}
	return private
}

// setKeys replaces a set. The first key signs; the others are stored without their private half, so that they cannot.
// Of two private keys Hydra signs with the newer one, and keys made within a second are equally old.
func (h *hydra) setKeys(set string, signing json.RawMessage, published ...json.RawMessage) error {
	keys := []json.RawMessage{signing}
	for _, k := range published {
		public, err := publicHalf(k)
		if err != nil {
			return err
		}
		keys = append(keys, public)
	}
	return h.do(http.MethodPut, "/admin/keys/"+set, map[string]any{"keys": keys}, nil)
}

func publicHalf(jwk json.RawMessage) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(jwk, &members); err != nil {
		return nil, err
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		delete(members, private)
	}
	return json.Marshal(members)
}

func (h *hydra) Issuer() string { return h.issuer }

// SetResource does nothing: Hydra knows no APIs, only the audience of each client.
func (h *hydra) SetResource(string, ...string) {}

func (h *hydra) SetClient(c oidc.Client) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var scopes, audience []string
	for resource, granted := range c.Scopes {
		scopes, audience = append(scopes, granted...), append(audience, resource)
	}
	metadata := map[string]any{
		"client_id": c.ID, "grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{},
		"scope": strings.Join(scopes, " "), "audience": audience, "token_endpoint_auth_method": c.Method,
	}
	if c.Secret != "" {
		metadata["client_secret"] = c.Secret
	}
	if c.PublicJWKS != nil {
		metadata["jwks"], metadata["token_endpoint_auth_signing_alg"] = json.RawMessage(c.PublicJWKS), c.AssertionAlg
	}
	if h.clients[c.ID] {
		return h.do(http.MethodPut, "/admin/clients/"+url.PathEscape(c.ID), metadata, nil)
	}
	h.clients[c.ID] = true
	return h.do(http.MethodPost, "/admin/clients", metadata, nil)
}

func (h *hydra) KeyID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return kidOf(h.signing)
}

// sign makes a key sign, while others are published too.
func (h *hydra) sign(key json.RawMessage, published ...json.RawMessage) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.setKeys(hydraTokenKeys, key, published...); err != nil {
		return err
	}
	h.signing = key
	return nil
}

func (h *hydra) RotateKey() (string, error) {
	key := h.newKey()
	return kidOf(key), h.sign(key, h.signing)
}

func (h *hydra) RotateKeyHard() error { return h.sign(h.newKey()) }

func (h *hydra) AnnounceKey() (string, error) {
	h.announced = h.newKey()
	return kidOf(h.announced), h.sign(h.signing, h.announced)
}

func (h *hydra) PromoteKey() error { return h.sign(h.announced, h.signing) }

func (h *hydra) Close() {
	h.proxy.Close()
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	stubborn := time.AfterFunc(10*time.Second, func() { _ = h.cmd.Process.Kill() })
	defer stubborn.Stop()
	if err := <-h.ended; err != nil || h.t.Failed() {
		h.t.Logf("Hydra ended (%v) and had said:\n%s", err, &h.output)
	}
	h.ended <- nil
}

// hydraConsole is Hydra with its admin API, for clients that registered themselves.
type hydraConsole struct {
	registrar
	*hydra
}

func (s hydraConsole) must(err error) {
	if err != nil {
		s.t.Errorf("Hydra: %v", err)
	}
}

func (s hydraConsole) Registered() (all []registrationtest.Registered) {
	var clients []registeredClient
	s.must(s.do(http.MethodGet, "/admin/clients?page_size=500", nil, &clients))
	for _, c := range clients {
		all = append(all, registrationtest.Registered{ID: c.ID, Name: c.Name, Scopes: slices.Sorted(slices.Values(strings.Fields(c.Scope)))})
	}
	return all
}

func (s hydraConsole) Change(to registrationtest.Registered) {
	s.must(s.do(http.MethodPatch, "/admin/clients/"+url.PathEscape(to.ID), []map[string]string{
		{"op": "replace", "path": "/client_name", "value": to.Name},
		{"op": "replace", "path": "/scope", "value": strings.Join(to.Scopes, " ")},
	}, nil))
}

func (s hydraConsole) Delete(id string) {
	s.must(s.do(http.MethodDelete, "/admin/clients/"+url.PathEscape(id), nil, nil))
}

// chooseHydra adds Hydra to the tested servers if M2M_INTEROP_HYDRA names its program.
func chooseHydra(getenv func(string) string) ([]subject, error) {
	program := getenv("M2M_INTEROP_HYDRA")
	if program == "" {
		return nil, nil
	}
	if info, err := os.Stat(program); err != nil || info.IsDir() {
		return nil, errors.New("M2M_INTEROP_HYDRA does not name a program: run make interop-local, or hack/tool.sh --path hydra")
	}
	hydraProgram = program
	return []subject{{name: "hydra", start: startHydra, manner: hydraManner}}, nil
}
