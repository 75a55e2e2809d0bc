// SPDX-License-Identifier: Apache-2.0

package oidc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

const payments = "https://payment.example.com/api"

var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA}

// cart is a client with a secret that holds one of the two scopes of the payment API.
var cart = oidc.Client{
	ID: "cart+shop:1", Secret: "s3cr3t", Scopes: map[string][]string{payments: {"payments:write"}},
}

func start(t *testing.T, o oidc.Options) *oidc.Server {
	t.Helper()
	s, err := oidc.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.SetResource(payments, "payments:read", "payments:write")
	set(t, s, cart)
	return s
}

func set(t *testing.T, s *oidc.Server, c oidc.Client) {
	t.Helper()
	if err := s.SetClient(c); err != nil {
		t.Fatal(err)
	}
}

// form returns the parameters of a client_credentials request, with pairs added to them.
func form(pairs ...string) url.Values {
	v := url.Values{"grant_type": {"client_credentials"}}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (r reply) token() string { token, _ := r.body["access_token"].(string); return token }

// client does not follow redirects and reads no more than a real client should.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func do(r *http.Request) (reply, error) {
	response, err := client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	got := reply{status: response.StatusCode, header: response.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &got.body)
	return got, err
}

// request asks for a token. It sends the id and secret in HTTP Basic, unless the id is empty.
func request(s *oidc.Server, id, secret string, v url.Values) (reply, error) {
	r, err := http.NewRequest(http.MethodPost, s.TokenURL(), strings.NewReader(v.Encode()))
	if err != nil {
		return reply{}, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if id != "" {
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	}
	return do(r)
}

func mustRequest(t *testing.T, s *oidc.Server, id, secret string, v url.Values) reply {
	t.Helper()
	got, err := request(s, id, secret, v)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// asCart requests a token for the cart, with its scope at the payment API.
func asCart(t *testing.T, s *oidc.Server) reply {
	t.Helper()
	return mustRequest(t, s, cart.ID, cart.Secret, form("resource", payments, "scope", "payments:write"))
}

func get(t *testing.T, address string, headers ...string) reply {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	got, err := do(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func keySet(t *testing.T, s *oidc.Server) jose.JSONWebKeySet {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(get(t, s.JWKSURL()).raw), &set); err != nil {
		t.Fatal(err)
	}
	return set
}

func kids(t *testing.T, s *oidc.Server) []string {
	t.Helper()
	var all []string
	for _, key := range keySet(t, s).Keys {
		all = append(all, key.KeyID)
	}
	return all
}

// verify checks a token's signature with the published keys.
func verify(t *testing.T, s *oidc.Server, token string) (header jose.Header, claims map[string]any, err error) {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		t.Fatalf("parse the token %q: %v", token, err)
	}
	header = parsed.Headers[0]
	published := keySet(t, s)
	keys := published.Key(header.KeyID)
	if len(keys) != 1 {
		return header, nil, fmt.Errorf("%d published keys with kid %q", len(keys), header.KeyID)
	}
	return header, claims, parsed.Claims(keys[0].Key, &claims)
}

func mustVerify(t *testing.T, s *oidc.Server, token string) (jose.Header, map[string]any) {
	t.Helper()
	header, claims, err := verify(t, s, token)
	if err != nil {
		t.Fatal(err)
	}
	return header, claims
}

func TestTokenIsAsRFC9068SaysAndVerifies(t *testing.T) {
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	s := start(t, oidc.Options{Now: func() time.Time { return now }})
	got := asCart(t, s)
	header, claims := mustVerify(t, s, got.token())
	if header.ExtraHeaders[jose.HeaderType] != "at+jwt" || header.Algorithm != "ES256" {
		t.Errorf("header is %+v", header)
	}
	if claims["jti"] == "" {
		t.Error("no jti")
	}
	delete(claims, "jti")
	delete(got.body, "access_token")
	if diff := cmp.Diff(map[string]any{
		"iss": s.Issuer(), "sub": cart.ID, "client_id": cart.ID, "aud": payments, "scope": "payments:write",
		"iat": float64(now.Unix()), "exp": float64(now.Unix() + 300),
	}, claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"token_type": "Bearer", "expires_in": 300.0, "scope": "payments:write"}, got.body); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if got.header.Get("Cache-Control") != "no-cache, no-store" {
		t.Errorf("Cache-Control is %q", got.header.Get("Cache-Control"))
	}
}

func TestOptionsShapeTheAnswer(t *testing.T) {
	all := form("resource", payments, "scope", "payments:read payments:write")
	one := form("resource", payments, "scope", "payments:write")
	type outcome struct {
		Status                    int
		Error                     any
		Scope, ExpiresIn, Typ     any
		ClaimScope, Aud, Lifetime any
	}
	usual := outcome{200, nil, "payments:write", 300.0, "at+jwt", "payments:write", payments, 300.0}
	with := func(change func(*outcome)) outcome { o := usual; change(&o); return o }
	for name, tc := range map[string]struct {
		options oidc.Options
		client  func(*oidc.Client)
		form    url.Values
		want    outcome
	}{
		"a granted scope comes back":         {form: one, want: usual},
		"a scope that is not granted fails":  {form: all, want: outcome{Status: 400, Error: "invalid_scope"}},
		"an unknown resource fails":          {form: form("resource", "https://other.example.com"), want: outcome{Status: 400, Error: "invalid_target"}},
		"an unknown grant type fails":        {form: url.Values{"grant_type": {"password"}}, want: outcome{Status: 400, Error: "unsupported_grant_type"}},
		"ungranted scopes can be dropped":    {options: oidc.Options{DropUngrantedScopes: true}, form: all, want: usual},
		"the typ can be JWT":                 {options: oidc.Options{TokenType: "JWT"}, form: one, want: with(func(o *outcome) { o.Typ = "JWT" })},
		"scope can be left out":              {options: oidc.Options{OmitScope: true}, form: one, want: with(func(o *outcome) { o.Scope = nil })},
		"expires_in can be left out":         {options: oidc.Options{OmitExpiresIn: true}, form: one, want: with(func(o *outcome) { o.ExpiresIn = nil })},
		"expires_in can be a string":         {options: oidc.Options{ExpiresInString: true}, form: one, want: with(func(o *outcome) { o.ExpiresIn = "300" })},
		"the lifetime can be the server's":   {options: oidc.Options{TokenLifetime: time.Hour}, form: one, want: with(func(o *outcome) { o.ExpiresIn, o.Lifetime = 3600.0, 3600.0 })},
		"the lifetime can be the client's":   {client: func(c *oidc.Client) { c.TokenLifetime = 2 * time.Second }, form: one, want: with(func(o *outcome) { o.ExpiresIn, o.Lifetime = 2.0, 2.0 })},
		"aud can hold the client's id too":   {options: oidc.Options{ClientIDInAudience: true}, form: one, want: with(func(o *outcome) { o.Aud = []any{payments, cart.ID} })},
		"an opaque token is not a JWT":       {client: func(c *oidc.Client) { c.Opaque = true }, form: one, want: with(func(o *outcome) { o.Typ, o.ClaimScope, o.Aud, o.Lifetime = nil, nil, nil, nil })},
		"no resource and no scope: no claim": {form: form(), want: with(func(o *outcome) { o.Scope, o.ClaimScope, o.Aud = nil, nil, nil })},
		"nor a scope member if all are dropped": {
			options: oidc.Options{DropUngrantedScopes: true}, form: form("resource", payments, "scope", "payments:read"),
			want: with(func(o *outcome) { o.Scope, o.ClaimScope = nil, nil }),
		},
		"a default resource stands in": {
			client: func(c *oidc.Client) { c.DefaultResource = payments }, form: form("scope", "payments:write"), want: usual,
		},
		"a scope without a resource is granted separately": {
			client: func(c *oidc.Client) { c.Scopes = map[string][]string{"": {"payments:write"}} }, form: form("scope", "payments:write"),
			want: with(func(o *outcome) { o.Aud = nil }),
		},
		"and is not good at a resource": {
			client: func(c *oidc.Client) { c.Scopes = map[string][]string{"": {"payments:write"}} }, form: one, want: outcome{Status: 400, Error: "invalid_scope"},
		},
		"the API can be named by audience": {
			options: oidc.Options{AudienceParameter: "audience"}, form: form("audience", payments, "resource", "ignored", "scope", "payments:write"), want: usual,
		},
		"a granted scope that does not exist fails": {
			client: func(c *oidc.Client) { c.Scopes = map[string][]string{payments: {"payments:gone"}} },
			form:   form("resource", payments, "scope", "payments:gone"), want: outcome{Status: 400, Error: "invalid_scope"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, tc.options)
			c := cart
			if tc.client != nil {
				tc.client(&c)
			}
			set(t, s, c)
			reply := mustRequest(t, s, c.ID, c.Secret, tc.form)
			got := outcome{Status: reply.status, Error: reply.body["error"], Scope: reply.body["scope"], ExpiresIn: reply.body["expires_in"]}
			if strings.Count(reply.token(), ".") == 2 {
				header, claims := mustVerify(t, s, reply.token())
				got.Typ, got.ClaimScope, got.Aud = header.ExtraHeaders[jose.HeaderType], claims["scope"], claims["aud"]
				got.Lifetime = claims["exp"].(float64) - claims["iat"].(float64)
			} else if reply.status == http.StatusOK && !c.Opaque {
				t.Errorf("the token is not a JWT: %q", reply.token())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEndpointsAreDiscovered(t *testing.T) {
	const other = "https://auth.example.com/oidc"
	for name, tc := range map[string]struct {
		options oidc.Options
		paths   []string
		issuer  string
	}{
		"at the root":              {paths: []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}},
		"below a path":             {options: oidc.Options{PathPrefix: "/oidc"}, paths: []string{"/oidc/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/oidc"}},
		"under an issuer of ours":  {options: oidc.Options{Issuer: other}, paths: []string{"/.well-known/openid-configuration"}, issuer: other},
		"with HTTPS and a CA file": {options: oidc.Options{TLS: true, PathPrefix: "/oidc"}, paths: []string{"/oidc/.well-known/openid-configuration"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, tc.options)
			if tc.options.TLS {
				pool := x509.NewCertPool()
				if !pool.AppendCertsFromPEM(s.CAPEM()) {
					t.Fatal("the CA cannot be read")
				}
				client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
				defer func() { client.Transport = nil }()
			}
			root := strings.TrimSuffix(s.TokenURL(), tc.options.PathPrefix+"/token")
			for i, path := range tc.paths {
				doc := get(t, root+path).body
				want := map[string]any{
					"issuer": s.Issuer(), "token_endpoint": s.TokenURL(), "jwks_uri": s.JWKSURL(),
					"scopes_supported": []any{"payments:read", "payments:write"},
				}
				for member, value := range want {
					if diff := cmp.Diff(value, doc[member]); diff != "" {
						t.Errorf("%s at %s (-want +got):\n%s", member, path, diff)
					}
				}
				if s.Count(oidc.Discovery) != i+1 {
					t.Errorf("counted %d discoveries, want %d", s.Count(oidc.Discovery), i+1)
				}
			}
			if tc.issuer != "" && s.Issuer() != tc.issuer {
				t.Errorf("issuer is %q", s.Issuer())
			}
			if reply := asCart(t, s); reply.status != http.StatusOK {
				t.Errorf("the token endpoint answers %d: %s", reply.status, reply.raw)
			} else if _, claims := mustVerify(t, s, reply.token()); claims["iss"] != s.Issuer() {
				t.Errorf("iss is %q", claims["iss"])
			}
		})
	}
}

func TestServerBehindAnotherAddress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, oidc.Options{TLS: true, Listener: listener, URL: "https://auth.identity.svc", PathPrefix: "/oidc"})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CAPEM())
	var dialer net.Dialer
	client.Transport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, listener.Addr().String())
		},
	}
	defer func() { client.Transport = nil }()
	doc := get(t, "https://auth.identity.svc/oidc/.well-known/openid-configuration").body
	want := map[string]any{
		"issuer": "https://auth.identity.svc/oidc", "token_endpoint": "https://auth.identity.svc/oidc/token",
		"jwks_uri": "https://auth.identity.svc/oidc/jwks",
	}
	for member, value := range want {
		if diff := cmp.Diff(value, doc[member]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", member, diff)
		}
	}
	if reply := asCart(t, s); reply.status != http.StatusOK {
		t.Errorf("the token endpoint answers %d: %s", reply.status, reply.raw)
	}
}

func TestStartRefusesWhatItCannotDo(t *testing.T) {
	for name, options := range map[string]oidc.Options{
		"an audience parameter of another name": {AudienceParameter: "target"},
		"a path prefix that ends with a slash":  {PathPrefix: "/oidc/"},
		"an algorithm that it does not know":    {Algorithm: "HS256"},
		"an address that is not its own":        {Addr: "192.0.2.1:1"},
		"an issuer that is not a URL, with TLS": {TLS: true, Issuer: "://"},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := oidc.Start(options); err == nil {
				s.Close()
				t.Error("it started")
			}
		})
	}
}

func TestTokenAtAnyLoad(t *testing.T) {
	s := start(t, oidc.Options{RecordLimit: 10})
	const clients, each = 50, 20
	statuses := make(chan int, clients*each)
	for range clients {
		go func() {
			for range each {
				reply, err := request(s, cart.ID, cart.Secret, form("resource", payments))
				if err != nil {
					reply.status = -1
				}
				statuses <- reply.status
			}
		}()
	}
	for range clients * each {
		if status := <-statuses; status != http.StatusOK {
			t.Fatalf("a request was answered with %d", status)
		}
	}
	if s.Count(oidc.Token) != clients*each {
		t.Errorf("counted %d requests, want %d", s.Count(oidc.Token), clients*each)
	}
	if kept := len(s.TokenRequests()); kept < 10 || kept > 20 {
		t.Errorf("%d requests are remembered, want 10 to 20", kept)
	}
	tokens := map[string]bool{}
	for _, r := range s.TokenRequests() {
		tokens[r.TokenHash] = true
	}
	if len(tokens) != len(s.TokenRequests()) {
		t.Error("two requests got the same token")
	}
}

func BenchmarkToken(b *testing.B) {
	s, err := oidc.Start(oidc.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	s.SetResource(payments, "payments:write")
	if err := s.SetClient(cart); err != nil {
		b.Fatal(err)
	}
	client.Transport = &http.Transport{MaxIdleConnsPerHost: 100}
	defer func() { client.Transport = nil }()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if reply, err := request(s, cart.ID, cart.Secret, form("resource", payments, "scope", "payments:write")); err != nil || reply.status != 200 {
				b.Errorf("%v %v", reply.status, err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
