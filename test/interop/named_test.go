// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
)

// namedServer is an existing server and an application there, as the environment names them.
type namedServer struct {
	issuer            string
	tokenEndpoint     string // "" for that of its metadata; the same holds for the next field
	jwksEndpoint      string
	clientID          string
	secret            string // or
	privateKey        string // PEM or JWK
	method            v1alpha1.ClientSecretMethod
	keyID, algorithm  string
	assertionAudience v1alpha1.AssertionAudience
	resource          string
	audienceParameter v1alpha1.AudienceParameter
	scopes            []string
	caPEM             string
	egress            egress.Policy
}

const prefix = "M2M_INTEROP_"

// parseNamedServer reads M2M_INTEROP_ISSUER and the related variables. An error names
// the variable to correct.
func parseNamedServer(getenv func(string) string, readFile func(string) ([]byte, error)) (*namedServer, error) {
	var bad []error
	fail := func(name, format string, args ...any) {
		bad = append(bad, fmt.Errorf("%s%s %s", prefix, name, fmt.Sprintf(format, args...)))
	}
	get := func(name string) string { return strings.TrimSpace(getenv(prefix + name)) }
	required := func(name, what string) string {
		v := get(name)
		if v == "" {
			fail(name, "is not set: %s", what)
		}
		return v
	}
	file := func(name string) string {
		path := get(name)
		if path == "" {
			return ""
		}
		content, err := readFile(path)
		if err != nil {
			fail(name, "names a file that cannot be read: %v", err)
		}
		return string(content)
	}
	flag := func(name string) bool {
		v := get(name)
		if v != "" && v != "0" && v != "1" {
			fail(name, "must be 1 or 0")
		}
		return v == "1"
	}
	s := &namedServer{
		issuer:            required("ISSUER", "the issuer identifier of the authorization server, exactly as its metadata says it"),
		tokenEndpoint:     get("TOKEN_ENDPOINT"),
		jwksEndpoint:      get("JWKS_ENDPOINT"),
		clientID:          required("CLIENT_ID", "the identifier of an application that may use client_credentials"),
		secret:            get("CLIENT_SECRET"),
		privateKey:        file("PRIVATE_KEY_FILE"),
		keyID:             get("KEY_ID"),
		algorithm:         get("ALG"),
		resource:          required("RESOURCE", "the identifier of the API, which its tokens have as aud"),
		method:            choice(fail, "AUTH_METHOD", get("AUTH_METHOD"), map[string]v1alpha1.ClientSecretMethod{"": "Basic", "basic": "Basic", "post": "Post"}),
		assertionAudience: choice(fail, "ASSERTION_AUDIENCE", get("ASSERTION_AUDIENCE"), map[string]v1alpha1.AssertionAudience{"": "Issuer", "Issuer": "Issuer", "TokenEndpoint": "TokenEndpoint"}),
		audienceParameter: choice(fail, "AUDIENCE_PARAMETER", get("AUDIENCE_PARAMETER"), map[string]v1alpha1.AudienceParameter{
			"": "Resource", "Resource": "Resource", "Audience": "Audience", "None": "None",
		}),
		scopes: strings.Fields(get("SCOPES")),
		caPEM:  file("CA_FILE"),
		egress: egress.Policy{AllowHTTP: flag("ALLOW_HTTP"), AllowLoopback: flag("ALLOW_LOOPBACK")},
	}
	for _, name := range []string{"TOKEN_ENDPOINT", "JWKS_ENDPOINT"} {
		if u, err := url.Parse(get(name)); get(name) != "" && (err != nil || u.Host == "") {
			fail(name, "is not an absolute URL")
		}
	}
	switch path := get("PRIVATE_KEY_FILE"); {
	case s.secret == "" && path == "":
		fail("CLIENT_SECRET", "is not set: set it, or %sPRIVATE_KEY_FILE", prefix)
	case s.secret != "" && path != "":
		fail("CLIENT_SECRET", "and %sPRIVATE_KEY_FILE are both set: one of them authenticates the application", prefix)
	case path != "" && get("AUTH_METHOD") != "":
		fail("AUTH_METHOD", "is for %sCLIENT_SECRET only", prefix)
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	return s, nil
}

func choice[T any](fail func(name, format string, args ...any), name, value string, of map[string]T) T {
	v, ok := of[value]
	if !ok {
		fail(name, "is %q, not one of %s", value, strings.Trim(strings.Join(slices.Sorted(maps.Keys(of)), ", "), ", "))
	}
	return v
}

// describe returns an AuthorizationServer for the server.
func (s *namedServer) describe(w *world, as *v1alpha1.AuthorizationServer) {
	as.Spec.AudienceParameter = s.audienceParameter
	as.Spec.Endpoints.Token, as.Spec.Endpoints.JWKS = v1alpha1.EndpointURL(s.tokenEndpoint), v1alpha1.EndpointURL(s.jwksEndpoint)
	if s.caPEM == "" {
		return
	}
	as.Spec.CABundle.ConfigMapRef.Name = "ca"
	w.create(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: as.Namespace}, Data: map[string]string{v1alpha1.CABundleKey: s.caPEM},
	})
}

// credentials creates the Secret of the application, and returns how to use it.
func (s *namedServer) credentials(w *world) v1alpha1.ClientCredentials {
	w.t.Helper()
	if s.secret != "" {
		operatorLogs.neverShow(s.secret)
		w.credentials("cart", map[string]string{v1alpha1.ClientIDKey: s.clientID, v1alpha1.ClientSecretKey: s.secret})
		return clientSecret("cart", s.method)
	}
	w.credentials("cart", map[string]string{v1alpha1.PrivateKeyKey: s.privateKey})
	return v1alpha1.ClientCredentials{PrivateKeyJWT: v1alpha1.PrivateKeyJWTCredentials{
		ClientID: v1alpha1.ClientID(s.clientID), SecretRef: v1alpha1.SecretKeyReference{Name: "cart-credentials"},
		Algorithm: v1alpha1.AssertionAlgorithm(s.algorithm), KeyID: s.keyID, Audience: s.assertionAudience,
	}}
}

// authentication returns the same for a token request without the operator.
func (s *namedServer) authentication(tokenEndpoint string) (oauth.Authentication, error) {
	switch {
	case s.secret != "" && s.method == v1alpha1.ClientSecretPost:
		return oauth.ClientSecretPost(s.clientID, s.secret), nil
	case s.secret != "":
		return oauth.ClientSecretBasic(s.clientID, s.secret), nil
	}
	key, err := oauth.ParseSigningKey([]byte(s.privateKey), s.algorithm, s.keyID)
	if err != nil {
		return nil, fmt.Errorf("%sPRIVATE_KEY_FILE: %w", prefix, err)
	}
	audience := s.issuer
	if s.assertionAudience == v1alpha1.AssertionAudienceTokenEndpoint {
		audience = tokenEndpoint
	}
	return oauth.PrivateKeyJWT(s.clientID, key, audience), nil
}

func TestNamedServerVariables(t *testing.T) {
	complete := func(change map[string]string) map[string]string {
		vars := map[string]string{
			"ISSUER": "https://auth.example.com", "CLIENT_ID": "cart", "CLIENT_SECRET": "hush", "RESOURCE": "https://api.example.com",
		}
		maps.Copy(vars, change)
		return vars
	}
	for name, tc := range map[string]struct {
		vars map[string]string
		want string // in the error; "" for none
	}{
		"a client secret is enough":            {complete(nil), ""},
		"a private key is enough":              {complete(map[string]string{"CLIENT_SECRET": "", "PRIVATE_KEY_FILE": "key.pem"}), ""},
		"everything":                           {complete(map[string]string{"AUTH_METHOD": "post", "AUDIENCE_PARAMETER": "Audience", "SCOPES": "a b", "CA_FILE": "ca.crt", "ALLOW_HTTP": "1", "ALLOW_LOOPBACK": "1"}), ""},
		"endpoints":                            {complete(map[string]string{"TOKEN_ENDPOINT": "https://auth.example.com/token", "JWKS_ENDPOINT": "https://auth.example.com/jwks"}), ""},
		"an endpoint that is only a path":      {complete(map[string]string{"JWKS_ENDPOINT": "/jwks"}), "M2M_INTEROP_JWKS_ENDPOINT is not an absolute URL"},
		"no issuer":                            {complete(map[string]string{"ISSUER": ""}), "M2M_INTEROP_ISSUER is not set"},
		"no client":                            {complete(map[string]string{"CLIENT_ID": " "}), "M2M_INTEROP_CLIENT_ID is not set"},
		"no resource":                          {complete(map[string]string{"RESOURCE": ""}), "M2M_INTEROP_RESOURCE is not set"},
		"neither secret nor key":               {complete(map[string]string{"CLIENT_SECRET": ""}), "M2M_INTEROP_CLIENT_SECRET is not set: set it, or M2M_INTEROP_PRIVATE_KEY_FILE"},
		"both secret and key":                  {complete(map[string]string{"PRIVATE_KEY_FILE": "key.pem"}), "both set"},
		"a method for a key":                   {complete(map[string]string{"CLIENT_SECRET": "", "PRIVATE_KEY_FILE": "key.pem", "AUTH_METHOD": "post"}), "M2M_INTEROP_AUTH_METHOD is for"},
		"an unknown method":                    {complete(map[string]string{"AUTH_METHOD": "digest"}), `M2M_INTEROP_AUTH_METHOD is "digest", not one of basic, post`},
		"an unknown audience parameter":        {complete(map[string]string{"AUDIENCE_PARAMETER": "resource"}), `M2M_INTEROP_AUDIENCE_PARAMETER is "resource", not one of Audience, None, Resource`},
		"an unknown audience of the assertion": {complete(map[string]string{"ASSERTION_AUDIENCE": "me"}), "M2M_INTEROP_ASSERTION_AUDIENCE"},
		"a file that is not there":             {complete(map[string]string{"CA_FILE": "missing"}), "M2M_INTEROP_CA_FILE names a file that cannot be read"},
		"a flag that is neither":               {complete(map[string]string{"ALLOW_HTTP": "yes"}), "M2M_INTEROP_ALLOW_HTTP must be 1 or 0"},
		"everything is missing":                {nil, "M2M_INTEROP_CLIENT_ID"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseNamedServer(
				func(v string) string { return tc.vars[strings.TrimPrefix(v, prefix)] },
				func(path string) ([]byte, error) {
					if path == "missing" {
						return nil, errors.New("no such file")
					}
					return []byte("PEM"), nil
				})
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("unexpected error: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
}
