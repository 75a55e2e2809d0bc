// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// clusterAudiences knows the audiences of the Kubernetes API server: a
// ServiceAccount's token with one of them is good for the cluster itself, and
// must not be sent to a server that a tenant names.
type clusterAudiences struct {
	// token reads a token of the operator's own, "" outside a cluster. Its
	// audiences are those of the API server, for it is meant for it.
	token func() string
}

func newClusterAudiences(config *rest.Config) clusterAudiences {
	return clusterAudiences{token: func() string {
		if config.BearerTokenFile == "" {
			return config.BearerToken
		}
		content, err := os.ReadFile(config.BearerTokenFile)
		if err != nil {
			return config.BearerToken
		}
		return strings.TrimSpace(string(content))
	}}
}

// wellKnownAudience are audiences that API servers have where nothing else is
// configured. The schema of ServiceAccountCredentials refuses the same.
var wellKnownAudience = regexp.MustCompile(`^(?i:(https?://)?kubernetes(\.default(\.svc(\..*)?)?)?(:[0-9]+)?/?|api)$`)

// include reports whether an audience is one of the API server's.
func (a clusterAudiences) include(audience string) bool {
	if wellKnownAudience.MatchString(audience) {
		return true
	}
	own := claimsOf(a.token())
	return own.Issuer != "" && audience == own.Issuer || slices.Contains(own.Audience, audience)
}

// accountClaims are the claims of a ServiceAccount's token that say who issued it
// for whom.
type accountClaims struct {
	Issuer   string    `json:"iss"`
	Audience audiences `json:"aud"`
}

// audiences are one or several (RFC 7519 section 4.1.3).
type audiences []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audiences) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// claimsOf reads a token that the API server issued, without checking it: none if
// it cannot be read.
func claimsOf(token string) accountClaims {
	var claims accountClaims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return accountClaims{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return accountClaims{}
	}
	return claims
}

// clusterAudience is what keeps a ServiceAccount's token from being sent that would
// be good for the cluster itself.
func clusterAudience(account, audience string) *rules.Problem {
	return &rules.Problem{Reason: v1alpha1.ReasonCredentialsInvalid, Message: fmt.Sprintf(
		"The Kubernetes API server itself would accept a token of ServiceAccount %q for audience %q; set spec.credentials.serviceAccount.audience to an audience that only the authorization server accepts",
		account, audience)}
}
