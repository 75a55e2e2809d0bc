// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
)

// accountToken returns a token with a payload, like the one that the operator has
// mounted.
func accountToken(payload string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

func TestClusterAudiences(t *testing.T) {
	eks := accountToken(`{"iss":"https://oidc.eks.eu.amazonaws.com/id/1","aud":["https://kubernetes.default.svc","internal"]}`)
	for name, tc := range map[string]struct {
		token, audience string
		want            bool
	}{
		"the default of kubeadm":                   {"", "https://kubernetes.default.svc.cluster.local", true},
		"the default of an API server":             {"", "https://kubernetes.default.svc", true},
		"with another cluster domain":              {"", "https://kubernetes.default.svc.corp.example", true},
		"by its short name":                        {"", "kubernetes", true},
		"without scheme":                           {"", "kubernetes.default.svc", true},
		"with a port and a slash":                  {"", "https://kubernetes.default:443/", true},
		"in capitals":                              {"", "HTTPS://Kubernetes.Default.SVC", true},
		"the legacy default":                       {"", "api", true},
		"the authorization server's":               {"", "https://auth.example.com", false},
		"one that only begins so":                  {"", "https://kubernetes-login.example.com", false},
		"one that only contains it":                {"", "https://auth.example.com/kubernetes", false},
		"the cluster's issuer":                     {eks, "https://oidc.eks.eu.amazonaws.com/id/1", true},
		"another issuer of the same cloud":         {eks, "https://oidc.eks.eu.amazonaws.com/id/2", false},
		"one that this API server has":             {eks, "internal", true},
		"one audience instead of a list":           {accountToken(`{"iss":"i","aud":"only"}`), "only", true},
		"the operator's token is not a JWT":        {"opaque", "opaque", false},
		"the operator's token is not JSON":         {accountToken(`x`), "x", false},
		"the operator's token has no claims":       {accountToken(`{}`), "", false},
		"the operator's token has an odd audience": {accountToken(`{"aud":[1]}`), "1", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (clusterAudiences{func() string { return tc.token }}).include(tc.audience); got != tc.want {
				t.Errorf("include(%q) = %t, want %t", tc.audience, got, tc.want)
			}
		})
	}
}

// The token is read from its file each time, because it is replaced every hour.
func TestClusterAudiencesAreReadFromTheMountedToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	a := newClusterAudiences(&rest.Config{BearerTokenFile: file, BearerToken: accountToken(`{"iss":"at the start"}`)})
	if !a.include("at the start") {
		t.Error("without the file, the token that the process started with does not count")
	}
	for _, issuer := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(accountToken(`{"iss":"`+issuer+`"}`)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if !a.include(issuer) {
			t.Errorf("the audience %q is not known", issuer)
		}
	}
	if a.include("first") {
		t.Error("the audience of the former token is still refused")
	}
}
