// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const initialToken = "initial-token"

func startRegistration(t *testing.T, o DynamicRegistration) *Server {
	t.Helper()
	s, err := Start(Options{DynamicRegistration: &o, PathPrefix: "/oidc"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// manage makes a request to the registration endpoint, in process.
func manage(t *testing.T, s *Server, method, uri, token string, body map[string]any) (int, map[string]any) {
	t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, uri, bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := s.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var members map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&members); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return resp.StatusCode, members
}

func wish(scope string) map[string]any {
	return map[string]any{
		"client_name": "cart", "grant_types": []string{"client_credentials"}, "response_types": []string{},
		"token_endpoint_auth_method": "client_secret_basic", "scope": scope,
	}
}

// grantedTo asks for a token and returns the status and the scopes in it.
func grantedTo(t *testing.T, s *Server, id, secret, resource, scope string) (int, string) {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {resource}, "scope": {scope}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.TokenURL(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	resp, err := s.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var body struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&body)
	claims, _ := claimsOf(body.AccessToken)
	granted, _ := claims["scope"].(string)
	return resp.StatusCode, granted
}

func TestRegisteredClientHoldsItsScopesAtAnyResource(t *testing.T) {
	s := startRegistration(t, DynamicRegistration{InitialAccessToken: initialToken})
	s.SetResource("https://known.example.com", "read")
	if status, _ := manage(t, s, http.MethodPost, s.RegistrationURL(), "another", wish("read")); status != http.StatusForbidden {
		t.Errorf("another initial access token was answered with %d", status)
	}
	status, c := manage(t, s, http.MethodPost, s.RegistrationURL(), initialToken, wish("write read"))
	if status != http.StatusCreated {
		t.Fatalf("registration: %d %v", status, c)
	}
	id, secret := c["client_id"].(string), c["client_secret"].(string)
	if diff := cmp.Diff([]any{"write read", "client_secret_basic", float64(0), s.RegistrationURL() + "/" + id},
		[]any{c["scope"], c["token_endpoint_auth_method"], c["client_secret_expires_at"], c["registration_client_uri"]}); diff != "" {
		t.Error(diff)
	}
	want := []RegisteredClient{{ID: id, Name: "cart", Scopes: []string{"read", "write"}, Method: SecretBasic}}
	if diff := cmp.Diff(want, s.RegisteredClients()); diff != "" {
		t.Error(diff)
	}
	for name, tc := range map[string]struct {
		secret, resource, scope string
		status                  int
		granted                 string
	}{
		"its scopes at an undeclared API":        {secret, "https://any.example.com", "read write", 200, "read write"},
		"another scope":                          {secret, "https://any.example.com", "read delete", 400, ""},
		"a scope that the API does not have":     {secret, "https://known.example.com", "write", 400, ""},
		"a scope that the API has":               {secret, "https://known.example.com", "read", 200, "read"},
		"another secret, which was never issued": {secret + "x", "https://any.example.com", "read", 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, granted := grantedTo(t, s, id, tc.secret, tc.resource, tc.scope)
			if status != tc.status || granted != tc.granted {
				t.Errorf("got %d with %q, want %d with %q", status, granted, tc.status, tc.granted)
			}
		})
	}
	if status, _ := grantedTo(t, s, "nobody", secret, "https://any.example.com", "read"); status != 401 {
		t.Errorf("an unknown client was answered with %d", status)
	}
}

func TestUpdateOfARegistration(t *testing.T) {
	with := func(name string, value any) map[string]any {
		m := wish("read")
		m["client_id"] = "ID"
		m[name] = value
		return m
	}
	for name, tc := range map[string]struct {
		body   map[string]any
		status int
	}{
		"all of it":                           {with("scope", "read write"), 200},
		"with the secret":                     {with("client_secret", "SECRET"), 200},
		"with another secret":                 {with("client_secret", "x"), 400},
		"without the client":                  {wish("read"), 400},
		"of another client":                   {with("client_id", "x"), 400},
		"with its token":                      {with("registration_access_token", "x"), 400},
		"with its time of issue":              {with("client_id_issued_at", 1), 400},
		"with a method that only go-oidc has": {with("token_endpoint_auth_method", "client_secret_jwt"), 400},
		"with keys for a method":              {with("token_endpoint_auth_method", "private_key_jwt"), 400},
	} {
		for _, rotate := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				s := startRegistration(t, DynamicRegistration{RotateTokens: rotate})
				_, c := manage(t, s, http.MethodPost, s.RegistrationURL(), "", wish("read"))
				uri, token := c["registration_client_uri"].(string), c["registration_access_token"].(string)
				body := map[string]any{}
				for name, value := range tc.body {
					switch value {
					case "ID":
						value = c["client_id"]
					case "SECRET":
						value = c["client_secret"]
					}
					body[name] = value
				}
				status, updated := manage(t, s, http.MethodPut, uri, token, body)
				if status != tc.status {
					t.Fatalf("got %d %v, want %d", status, updated, tc.status)
				}
				if status != 200 {
					return
				}
				if updated["scope"] != tc.body["scope"] || updated["client_secret"] == c["client_secret"] {
					t.Errorf("got %v", updated)
				}
				if _, replaced := updated["registration_access_token"]; replaced != rotate {
					t.Errorf("the registration access token was replaced: %t", replaced)
				}
				if status, _ := manage(t, s, http.MethodGet, uri, token, nil); (status == 200) == rotate {
					t.Errorf("the former token was answered with %d", status)
				}
			})
		}
	}
}

func TestRegistrationsCanBeChangedAndDeletedAtTheConsole(t *testing.T) {
	s := startRegistration(t, DynamicRegistration{})
	_, c := manage(t, s, http.MethodPost, s.RegistrationURL(), "", wish("read"))
	id, uri, token := c["client_id"].(string), c["registration_client_uri"].(string), c["registration_access_token"].(string)
	if !s.ChangeRegisteredClient(id, func(c *RegisteredClient) { c.Name, c.Scopes = "till", []string{"delete"} }) {
		t.Error("there is no such client")
	}
	_, shown := manage(t, s, http.MethodGet, uri, token, nil)
	if shown["scope"] != "delete" || shown["client_name"] != "till" {
		t.Errorf("got %v", shown)
	}
	s.RemoveClient(id)
	if status, _ := manage(t, s, http.MethodGet, uri, token, nil); status != http.StatusBadRequest {
		t.Errorf("a deleted client was answered with %d", status)
	}
	if s.ChangeRegisteredClient(id, func(*RegisteredClient) {}) || len(s.RegisteredClients()) != 0 {
		t.Error("the client is still there")
	}
	if status, _ := manage(t, s, http.MethodPost, s.RegistrationURL(), "", wish("read")); status != http.StatusCreated {
		t.Errorf("the next registration was answered with %d", status)
	}
	if n := s.Count(Registration); n != 4 {
		t.Errorf("%d requests were counted", n)
	}
}

func TestRegistrationWhoseAnswerIsLost(t *testing.T) {
	s := startRegistration(t, DynamicRegistration{})
	s.SetFault(Registration, &Fault{Cut: true, Times: 1})
	body, err := json.Marshal(wish("read"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.RegistrationURL(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the answer ended with %v", err)
	}
	if n := len(s.RegisteredClients()); n != 1 {
		t.Errorf("%d clients are registered", n)
	}
}

func TestRegistrationIsInTheMetadata(t *testing.T) {
	s := startRegistration(t, DynamicRegistration{})
	_, doc := manage(t, s, http.MethodGet, s.Issuer()+"/.well-known/openid-configuration", "", nil)
	if doc["registration_endpoint"] != s.Issuer()+"/register" {
		t.Errorf("got %v", doc["registration_endpoint"])
	}
	want := []any{SecretBasic, SecretPost, PrivateKeyJWT}
	if diff := cmp.Diff(want, doc["token_endpoint_auth_methods_supported"]); diff != "" {
		t.Error(diff)
	}
}
