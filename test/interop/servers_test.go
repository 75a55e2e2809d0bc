// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// authorizationServer is a server that the test controls. *oidc.Server is one.
type authorizationServer interface {
	Issuer() string
	SetResource(id string, scopes ...string)
	SetClient(oidc.Client) error
	KeyID() string                        // of the key that signs
	RotateKey() (kid string, err error)   // at once; the former key stays published
	RotateKeyHard() error                 // at once; the former key is gone
	AnnounceKey() (kid string, err error) // publish only
	PromoteKey() error                    // let the announced key sign
	Close()
}

// serverOptions are how a server behaves.
type serverOptions struct {
	path          string        // of the issuer, "/oidc"
	algorithm     string        // of the signing key; default ES256
	lifetime      time.Duration // of a token; default 1 h
	dropUngranted bool          // scopes that are not granted are left out, else refused
}

// subject is a server to test: one that is started for each test, or an existing one.
type subject struct {
	name   string
	start  func(*testing.T, serverOptions) authorizationServer
	manner manner
	named  *namedServer
}

// manner is how one of our servers differs from the others. The zero value is what
// most do.
type manner struct {
	audienceParameter v1alpha1.AudienceParameter
	assertionAudience v1alpha1.AssertionAudience // the only one that it accepts
	assertionsWithout []string                   // the algorithms that it does not accept for assertions
	unknownResource   string                     // its error for a request that names an API it does not know
	neverDrops        bool                       // it refuses requests for scopes that are not granted, and never leaves the scopes out
}

// chooseSubjects returns the servers to test. If a requested server is not available,
// that is an error.
func chooseSubjects(getenv func(string) string) ([]subject, error) {
	if getenv("M2M_INTEROP_NAMED") == "1" {
		named, err := parseNamedServer(getenv, os.ReadFile)
		if err != nil {
			return nil, err
		}
		egressPolicy = named.egress
		return []subject{{name: "named", named: named}}, nil
	}
	all := []subject{{name: "oidctest", start: startOIDCTest}}
	if getenv("M2M_INTEROP_NODE") == "1" {
		if _, err := exec.LookPath("node"); err != nil {
			return nil, fmt.Errorf("M2M_INTEROP_NODE is set, but Node.js is missing: %w", err)
		}
		if _, err := os.Stat(filepath.Join(providerDir, "node_modules", "oidc-provider")); err != nil {
			return nil, errors.New("M2M_INTEROP_NODE is set, but the npm package is not installed: run make interop-local, or npm ci in test/interop/oidc-provider")
		}
		all = append(all, subject{name: "oidc-provider", start: startOIDCProvider})
	}
	hydra, err := chooseHydra(getenv)
	return append(all, hydra...), err
}

func startOIDCTest(t *testing.T, o serverOptions) authorizationServer {
	t.Helper()
	s, err := oidc.Start(oidc.Options{
		PathPrefix: o.path, Algorithm: o.algorithm, TokenLifetime: o.lifetime, DropUngrantedScopes: o.dropUngranted,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// providerDir is the directory of the npm package.
const providerDir = "oidc-provider"

// oidcProvider is a process of test/interop/oidc-provider/server.mjs. Its whole state is in its latest configuration.
type oidcProvider struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr *bytes.Buffer
	issuer string

	mu        sync.Mutex
	config    providerConfig
	clients   map[string]providerClient
	algorithm string
	announced json.RawMessage
	// registered are the clients that registered themselves, as of the last configuration.
	registered []registeredClient
}

// providerConfig is what test/interop/oidc-provider/server.mjs documents.
type providerConfig struct {
	Path            string                       `json:"path,omitempty"`
	Keys            []json.RawMessage            `json:"keys"`
	Lifetime        int                          `json:"lifetime"`
	UngrantedScopes string                       `json:"ungrantedScopes"`
	Resources       map[string][]string          `json:"resources"`
	Clients         []providerClient             `json:"clients"`
	Registration    *providerRegistration        `json:"registration,omitempty"`
	Changes         map[string]*registeredClient `json:"changes,omitempty"`
}

type providerRegistration struct {
	InitialAccessToken string `json:"initialAccessToken"`
	Rotate             bool   `json:"rotate"`
}

type registeredClient struct {
	ID    string `json:"client_id"`
	Name  string `json:"client_name"`
	Scope string `json:"scope,omitempty"`
}

type providerClient struct {
	ID     string              `json:"client_id"`
	Secret string              `json:"client_secret,omitempty"`
	Method string              `json:"token_endpoint_auth_method"`
	JWKS   json.RawMessage     `json:"jwks,omitempty"`
	Alg    string              `json:"token_endpoint_auth_signing_alg,omitempty"`
	Scopes map[string][]string `json:"scopes"`
}

func startOIDCProvider(t *testing.T, o serverOptions) authorizationServer {
	t.Helper()
	return startProvider(t, o, nil)
}

func startProvider(t *testing.T, o serverOptions, registration *providerRegistration) *oidcProvider {
	t.Helper()
	s := &oidcProvider{
		t: t, stderr: &bytes.Buffer{}, clients: map[string]providerClient{}, algorithm: o.algorithm,
		config: providerConfig{
			Path: o.path, Lifetime: int(o.lifetime.Seconds()), UngrantedScopes: "refuse", Resources: map[string][]string{},
			Registration: registration,
		},
	}
	if o.dropUngranted {
		s.config.UngrantedScopes = "drop"
	}
	s.config.Keys = []json.RawMessage{s.newKey()}
	s.cmd = exec.Command("node", "server.mjs")
	s.cmd.Dir, s.cmd.Stderr = providerDir, s.stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(stdout)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.apply(); err != nil {
		s.Close()
		t.Fatalf("start oidc-provider: %v\n%s", err, s.stderr)
	}
	return s
}

// apply sends the process its configuration, and returns when the configuration is in force.
func (s *oidcProvider) apply() error {
	s.config.Clients = slices.AppendSeq([]providerClient{}, maps.Values(s.clients))
	line, err := json.Marshal(s.config)
	if err != nil {
		return err
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		return err
	}
	if !s.out.Scan() {
		return fmt.Errorf("no answer: %w", errors.Join(s.out.Err(), io.EOF))
	}
	var answer struct {
		Issuer, Error string
		Registered    []registeredClient
	}
	if err := json.Unmarshal(s.out.Bytes(), &answer); err != nil {
		return fmt.Errorf("answer %q: %w", s.out.Text(), err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	s.issuer, s.registered = answer.Issuer, answer.Registered
	s.config.Changes = nil // they are made once
	return nil
}

// change changes the configuration.
func (s *oidcProvider) change(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	return s.apply()
}

func (s *oidcProvider) newKey() json.RawMessage {
	alg := s.algorithm
	if alg == "" {
		alg = "ES256"
	}
	_, private, _, err := oidc.NewKeyPair(alg)
	if err != nil {
		s.t.Fatal(err)
	}
	return private
}

func (s *oidcProvider) Issuer() string { return s.issuer }

func (s *oidcProvider) SetResource(id string, scopes ...string) {
	if err := s.change(func() { s.config.Resources[id] = scopes }); err != nil {
		s.t.Errorf("oidc-provider: set resource: %v", err)
	}
}

func (s *oidcProvider) SetClient(c oidc.Client) error {
	return s.change(func() {
		s.clients[c.ID] = providerClient{ID: c.ID, Secret: c.Secret, Method: c.Method, JWKS: c.PublicJWKS, Alg: c.AssertionAlg, Scopes: c.Scopes}
	})
}

func kidOf(jwk json.RawMessage) string {
	var key struct{ Kid string }
	_ = json.Unmarshal(jwk, &key) // we made it
	return key.Kid
}

func (s *oidcProvider) KeyID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return kidOf(s.config.Keys[0])
}

func (s *oidcProvider) RotateKey() (string, error) {
	key := s.newKey()
	return kidOf(key), s.change(func() { s.config.Keys = []json.RawMessage{key, s.config.Keys[0]} })
}

func (s *oidcProvider) RotateKeyHard() error {
	return s.change(func() { s.config.Keys = []json.RawMessage{s.newKey()} })
}

func (s *oidcProvider) AnnounceKey() (string, error) {
	s.announced = s.newKey()
	return kidOf(s.announced), s.change(func() { s.config.Keys = []json.RawMessage{s.config.Keys[0], s.announced} })
}

func (s *oidcProvider) PromoteKey() error {
	return s.change(func() { s.config.Keys = []json.RawMessage{s.announced, s.config.Keys[0]} })
}

// Close ends the process by closing its input.
func (s *oidcProvider) Close() {
	_ = s.in.Close()
	stubborn := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer stubborn.Stop()
	if err := s.cmd.Wait(); err != nil || s.t.Failed() {
		s.t.Logf("oidc-provider ended (%v) and had said:\n%s", err, s.stderr)
	}
}
