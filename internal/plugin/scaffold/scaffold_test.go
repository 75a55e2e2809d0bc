// SPDX-License-Identifier: Apache-2.0

package scaffold_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/plugin/scaffold"
)

// full is a server that says everything.
func full() scaffold.Metadata {
	return scaffold.Metadata{
		TokenEndpoint: "https://auth.example.com/token", JWKS: "https://auth.example.com/jwks", Registration: "https://auth.example.com/register",
		AuthenticationMethods: []string{"client_secret_basic"}, GrantTypes: []string{"client_credentials"}, Keys: 1,
	}
}

func wanted(change func(*scaffold.Wanted)) scaffold.Wanted {
	w := scaffold.Wanted{
		Issuer: "https://auth.example.com", Namespace: "shop", Server: "auth", API: "payment-api", Identifier: "https://payment.example.com/api",
		Scopes: []string{"payments:read", "payments:write"}, Client: "cart",
	}
	change(&w)
	return w
}

func TestYAML(t *testing.T) {
	for name, tc := range map[string]struct {
		wanted   scaffold.Wanted
		metadata func(*scaffold.Metadata)
	}{
		"secret": {wanted(func(*scaffold.Wanted) {}), func(*scaffold.Metadata) {}},
		"private-key": {wanted(func(w *scaffold.Wanted) {
			w.Scopes, w.CA = nil, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
		}), func(m *scaffold.Metadata) {
			m.AuthenticationMethods, m.GrantTypes, m.Registration = []string{"private_key_jwt"}, []string{"authorization_code"}, ""
		}},
		"logto": {wanted(func(w *scaffold.Wanted) { w.Issuer = "https://logto.example.com/oidc" }), func(m *scaffold.Metadata) {
			m.TokenEndpoint, m.JWKS = "https://logto.example.com/oidc/token", "https://logto.example.com/oidc/jwks"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := full()
			tc.metadata(&m)
			got, err := scaffold.YAML(tc.wanted, m)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".yaml")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestNamesAreText: a name that looks like a number or a truth value stays a name.
func TestNamesAreText(t *testing.T) {
	var check func(path string, v any) int
	check = func(path string, v any) (names int) {
		switch v := v.(type) {
		case map[string]any:
			for k, value := range v {
				if _, ok := value.(string); k == "name" || k == "namespace" {
					if names++; !ok {
						t.Errorf("%s.%s is %v, which is no text", path, k, value)
					}
				}
				names += check(path+"."+k, value)
			}
		case []any:
			for _, item := range v {
				names += check(path, item)
			}
		}
		return names
	}
	for _, issuer := range []string{"https://auth.example.com", "https://logto.example.com/oidc"} {
		w := wanted(func(w *scaffold.Wanted) {
			w.Issuer, w.Namespace, w.Server, w.API, w.Client, w.CA = issuer, "123", "0", "true", "1e3", "AAAA"
		})
		m := full()
		m.TokenEndpoint, m.JWKS = issuer+"/token", issuer+"/jwks"
		got, err := scaffold.YAML(w, m)
		if err != nil {
			t.Fatal(err)
		}
		names := 0
		for i, one := range strings.Split(string(got), "\n---\n") {
			var v map[string]any
			if err := yaml.Unmarshal([]byte(one), &v); err != nil {
				t.Fatal(err)
			}
			names += check(fmt.Sprintf("object %d", i), v)
			if labels, _, _ := unstructured.NestedStringMap(v, "metadata", "labels"); v["kind"] == "Secret" && labels["m2m-operator.io/credentials"] != "true" {
				t.Errorf("the operator may not read the Secret:\n%s", one)
			}
		}
		if names < 10 {
			t.Errorf("there are %d names", names)
		}
	}
}

func TestVendor(t *testing.T) {
	for issuer, tc := range map[string]struct{ vendor, parameter, token, keys string }{
		"https://tenant.eu.auth0.com/":                       {"Auth0", "Audience", "", ""},
		"https://id.example.com/realms/main":                 {"Keycloak", "None", "", ""},
		"https://login.microsoftonline.com/tenant/v2.0":      {"Microsoft Entra", "None", "", ""},
		"https://cognito-idp.eu-central-1.amazonaws.com/p_1": {"Amazon Cognito", "None", "", ""},
		"https://dev.okta.com/oauth2/default":                {"Okta", "None", "", ""},
		"https://hydra.example.com/":                         {"Ory Hydra", "Audience", "https://hydra.example.com/oauth2/token", "https://hydra.example.com/.well-known/jwks.json"},
		"https://logto.example.com/oidc":                     {"Logto", "Resource", "https://logto.example.com/oidc/token", "https://logto.example.com/oidc/jwks"},
		"https://other.example.com/oidc":                     {"", "Resource", "https://other.example.com/token", "https://other.example.com/oidc/jwks"},
		"https://auth0.com.example.com":                      {"", "Resource", "", ""},
	} {
		vendor, parameter := scaffold.Vendor(issuer, scaffold.Metadata{TokenEndpoint: tc.token, JWKS: tc.keys})
		if vendor != tc.vendor || parameter.Value != tc.parameter {
			t.Errorf("%s: %q with %s, want %q with %s", issuer, vendor, parameter.Value, tc.vendor, tc.parameter)
		}
	}
}

func TestMethod(t *testing.T) {
	for want, lists := range map[string][][]string{
		"Basic":      {nil, {"client_secret_post", "client_secret_basic"}, {"none"}},
		"Post":       {{"client_secret_post", "private_key_jwt"}},
		"PrivateKey": {{"private_key_jwt", "tls_client_auth"}},
	} {
		for _, list := range lists {
			if got := scaffold.Method(scaffold.Metadata{AuthenticationMethods: list}); got.Value != want {
				t.Errorf("%q: %s, want %s", list, got.Value, want)
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	if all := scaffold.Warnings(full()); len(all) > 0 {
		t.Errorf("warnings about a good server: %q", all)
	}
	for want, change := range map[string]func(*scaffold.Metadata){
		"client_credentials": func(m *scaffold.Metadata) { m.GrantTypes = []string{"implicit"} },
		"token endpoint":     func(m *scaffold.Metadata) { m.TokenEndpoint = "" },
		"no JWKS":            func(m *scaffold.Metadata) { m.JWKS, m.Keys = "", 0 },
		"no signing key":     func(m *scaffold.Metadata) { m.Keys = 0 },
	} {
		m := full()
		change(&m)
		if all := scaffold.Warnings(m); len(all) != 1 || !strings.Contains(all[0], want) {
			t.Errorf("%q, want one about %q", all, want)
		}
	}
}

func TestNameOf(t *testing.T) {
	for identifier, want := range map[string]string{
		"https://payment.example.com/api": "payment-api", "https://payment-api.example.com": "payment-api", "Orders": "orders-api",
		"https://api.example.com": "my-api", "": "my-api", "///": "my-api", strings.Repeat("x", 64): "my-api", "urn:example:stock": "urn-example-stock-api",
	} {
		if got := scaffold.NameOf(identifier); got != want {
			t.Errorf("%q: %q, want %q", identifier, got, want)
		}
	}
}
