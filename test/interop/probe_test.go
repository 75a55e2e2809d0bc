// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
)

// testProbe asks the server directly, with the operator's own client, and records how it answers.
func testProbe(t *testing.T, w *world) {
	note := func(name, format string, args ...any) {
		allReports.add(w.server, func(r *report) { r.Behaviour = append(r.Behaviour, property{name, fmt.Sprintf(format, args...)}) })
	}
	var ca []byte
	if w.named != nil && w.named.caPEM != "" {
		ca = []byte(w.named.caPEM)
	}
	hc, err := egressPolicy.NewClient(ca)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := w.metadata(t, hc)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	note("issuer", "%s", metadata.Issuer)
	note("metadata at", "%s", metadata.Source)
	note("token endpoint", "%s", metadata.TokenEndpoint)
	note("authentication methods listed", "%s", orNone(metadata.TokenEndpointAuthMethods))
	note("grant types listed", "%s", orNone(metadata.GrantTypes))
	noteKeys(t, note, hc, metadata.JWKSURI)
	noteToken(t, note, hc, w, metadata.TokenEndpoint)
}

// metadata returns the server's metadata, with the endpoints from the environment
// in place of its own. If both are given, the server need not publish any.
func (w *world) metadata(t *testing.T, hc *http.Client) (*jwks.Metadata, error) {
	n := w.named
	if n != nil && n.tokenEndpoint != "" && n.jwksEndpoint != "" {
		return &jwks.Metadata{Issuer: w.issuer, TokenEndpoint: n.tokenEndpoint, JWKSURI: n.jwksEndpoint}, nil
	}
	m, err := jwks.Discover(t.Context(), hc, w.issuer)
	if err == nil && n != nil {
		m.TokenEndpoint, m.JWKSURI = cmp.Or(n.tokenEndpoint, m.TokenEndpoint), cmp.Or(n.jwksEndpoint, m.JWKSURI)
	}
	return m, err
}

type noteFunc func(name, format string, args ...any)

func noteKeys(t *testing.T, note noteFunc, hc *http.Client, url string) {
	note("keys at", "%s", url)
	fetched, err := jwks.Fetch(t.Context(), hc, url, "", "")
	if err != nil {
		t.Fatalf("fetch the keys: %v", err)
	}
	var keys []string
	for _, k := range fetched.Keys {
		keys = append(keys, fmt.Sprintf("%s (%s)", orElse(k.ID, "no kid"), orElse(k.Algorithm, "no alg")))
	}
	note("keys", "%s", strings.Join(keys, ", "))
	for _, s := range fetched.Skipped {
		note("key left out", "%s: %s", s.ID, s.Reason)
	}
	switch again, err := jwks.Fetch(t.Context(), hc, url, fetched.ETag, fetched.LastModified); {
	case err != nil:
		t.Errorf("fetch the keys again: %v", err)
	case again.NotModified:
		note("keys, asked again", "304 Not Modified")
	case fetched.ETag == "" && fetched.LastModified == "":
		note("keys, asked again", "200, as the answer has no validator")
	default:
		note("keys, asked again", "200, in spite of the validator")
	}
	if fetched.MaxAge > 0 {
		note("keys may be cached for", "%s", fetched.MaxAge)
	}
}

// noteToken makes one token request and records the answer.
func noteToken(t *testing.T, note noteFunc, hc *http.Client, w *world, endpoint string) {
	req := oauth.TokenRequest{
		Endpoint: endpoint, Authentication: w.probeAuthentication(endpoint), Scopes: w.scopes, Resource: w.resource, Now: time.Now(),
	}
	switch w.audienceParameter() {
	case v1alpha1.AudienceParameterAudience:
		req.Resource, req.Audience = "", w.resource
	case v1alpha1.AudienceParameterNone:
		req.Resource = ""
	}
	answer := &lastAnswer{next: hc.Transport}
	hc.Transport = answer
	token, err := oauth.Exchange(t.Context(), hc, req)
	if err != nil {
		t.Fatalf("token request: %v", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(answer.body, &members); err != nil {
		t.Fatalf("the answer is not a JSON object: %v", err)
	}
	said := func(name string) string { return orElse(string(members[name]), "absent") }
	note("token_type in the answer", "%s", said("token_type"))
	note("expires_in in the answer", "%s", said("expires_in"))
	note("scope in the answer", "%s", said("scope"))

	noteClaims(note, token.Value)
	if w.named == nil {
		return
	}
	if why := unfit(token.Value, w.resource, asClaims(w.scopes)); why != "" {
		t.Fatal(why) // the other checks would wait for something that cannot come
	}
}

func noteClaims(note noteFunc, token string) {
	header, claims := segment(token, 0), segment(token, 1)
	if header == nil || claims == nil {
		note("token", "opaque: an API cannot check it with a verification bundle")
		return
	}
	note("token", "JWT: alg %s, typ %s, kid %s", claim(header, "alg"), claim(header, "typ"), claim(header, "kid"))
	note("aud", "%s", claim(claims, "aud"))
	note("scope claim", "scope %s, scp %s", claim(claims, "scope"), claim(claims, "scp"))
	note("claims", "%s", strings.Join(slices.Sorted(maps.Keys(claims)), " "))
}

// audienceParameter returns how a token request names the API.
func (w *world) audienceParameter() v1alpha1.AudienceParameter {
	if w.named != nil {
		return w.named.audienceParameter
	}
	return w.manner.audienceParameter
}

// unfit returns why an API could not use a token, and what to change, "" if it could.
func unfit(token, resource string, scopes []string) string {
	claims, err := jwks.Inspect(token)
	if err != nil {
		return fmt.Sprintf("%v: an API cannot check it with the distributed files; have the server issue JWTs, or set tokenFormat: Opaque on its AuthorizationServer", err)
	}
	if !slices.Contains(claims.Audience, resource) {
		return fmt.Sprintf("aud is %q and does not name %q: no token would be published; compare %sRESOURCE and %sAUDIENCE_PARAMETER with the server",
			claims.Audience, resource, prefix, prefix)
	}
	missing := slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return slices.Contains(claims.Scopes, s) })
	switch {
	case len(missing) == 0:
		return ""
	case !claims.ScopePresent:
		return fmt.Sprintf("the token has no claim that says its scopes, and was asked to have %q: no token would be published; compare %sSCOPES with what the server puts into tokens", missing, prefix)
	}
	return fmt.Sprintf("the token has the scopes %q and lacks %q: no token would be published; grant them to the application at the server, or leave them out of %sSCOPES", claims.Scopes, missing, prefix)
}

func TestUnfit(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	for name, tc := range map[string]struct {
		payload string // "" for an opaque token
		want    string // how it begins
	}{
		"nothing is missing":         {`{"aud":"https://api","scope":"read write more"}`, ""},
		"several audiences, and scp": {`{"aud":["x","https://api"],"scp":["write","read"]}`, ""},
		"an additional slash":        {`{"aud":"https://api/","scope":"read write"}`, `aud is ["https://api/"] and does not name "https://api"`},
		"no audience":                {`{"scope":"read write"}`, `aud is [] and does not name "https://api"`},
		"a scope is missing":         {`{"aud":"https://api","scope":"read"}`, `the token has the scopes ["read"] and lacks ["write"]: `},
		"no scope at all":            {`{"aud":"https://api"}`, `the token has no claim that says its scopes, and was asked to have ["read" "write"]: `},
		"an opaque token":            {"", "token is not a signed JWT: an API cannot check it with the distributed files; "},
	} {
		t.Run(name, func(t *testing.T) {
			token := "2YotnFZFEjr1zCsicMWpAA"
			if tc.payload != "" {
				token = encode([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + encode([]byte(tc.payload)) + "." + encode([]byte("signature"))
			}
			got := unfit(token, "https://api", []string{"read", "write"})
			if !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" || strings.Contains(got, token) {
				t.Errorf("it says %q, want %q", got, tc.want)
			}
		})
	}
}

// probeAuthentication returns how the probe authenticates.
func (w *world) probeAuthentication(endpoint string) oauth.Authentication {
	w.t.Helper()
	if w.named != nil {
		a, err := w.named.authentication(endpoint)
		if err != nil {
			w.t.Fatal(err)
		}
		return a
	}
	secret := newSecret()
	w.setClient(oidc.Client{ID: cartID, Secret: secret, Method: oidc.SecretBasic})
	return oauth.ClientSecretBasic(cartID, secret)
}

// segment returns the JOSE header (0) or the claims (1) of a JWT, nil if it is not one.
func segment(token string, i int) map[string]any {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[i])
	if err != nil {
		return nil
	}
	var members map[string]any
	_ = json.Unmarshal(raw, &members) // nil then
	return members
}

// claim returns a member as JSON.
func claim(members map[string]any, name string) string {
	v, ok := members[name]
	if !ok {
		return "absent"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "unreadable"
	}
	return string(b)
}

func orNone(list []string) string { return orElse(strings.Join(list, ", "), "none") }

func orElse(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

// lastAnswer is a transport that keeps the body of the last answer.
type lastAnswer struct {
	next http.RoundTripper
	body []byte
}

func (l *lastAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	l.body, err = io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(l.body))
	return resp, err
}

// report describes a server's behaviour and which tests it passed.
type report struct {
	Server    string     `json:"server"`
	Behaviour []property `json:"behaviour"`
	Checks    []check    `json:"checks"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type check struct {
	Name    string  `json:"name"`
	Result  string  `json:"result"` // passed, FAILED, or why the test was skipped
	Seconds float64 `json:"seconds"`
}

// reports are the reports of all servers, which are tested at the same time.
type reports struct {
	mu       sync.Mutex
	byServer map[string]*report
}

var allReports = reports{byServer: map[string]*report{}}

func (a *reports) add(server string, f func(*report)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byServer[server] == nil {
		a.byServer[server] = &report{Server: server}
	}
	f(a.byServer[server])
}

func reportCheck(server, name, notMade string, failed bool, took time.Duration) {
	c := check{Name: name, Result: "passed", Seconds: took.Round(10 * time.Millisecond).Seconds()}
	switch {
	case failed:
		c.Result = "FAILED"
	case notMade != "":
		c.Result = "not made: " + notMade
	}
	allReports.add(server, func(r *report) { r.Checks = append(r.Checks, c) })
}

// write writes interop.json and, for people, interop.txt to a folder. An empty name writes nothing.
func (a *reports) write(dir string) error {
	if dir == "" {
		return nil
	}
	servers := make([]*report, 0, len(a.byServer))
	for _, name := range slices.Sorted(maps.Keys(a.byServer)) {
		servers = append(servers, a.byServer[name])
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	encoded, err := json.MarshalIndent(map[string]any{"servers": servers}, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	var table bytes.Buffer
	for _, r := range servers {
		columns := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		fmt.Fprintf(columns, "%s\t\n", r.Server)
		for _, p := range r.Behaviour {
			fmt.Fprintf(columns, "  %s\t%s\n", p.Name, p.Value)
		}
		for _, c := range r.Checks {
			fmt.Fprintf(columns, "  %s\t%s\n", c.Name, c.Result)
		}
		_ = columns.Flush() // into a buffer
	}
	for name, content := range map[string][]byte{"interop.json": append(encoded, '\n'), "interop.txt": table.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}
