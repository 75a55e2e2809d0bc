// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	// assertionType is the client_assertion_type of a JWT (RFC 7523 §2.2).
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionBackdate allows for a server whose clock is behind ours.
	assertionBackdate = 10 * time.Second
	// assertionLifetime is how long an assertion may be used.
	assertionLifetime = time.Minute
)

// Authentication proves to the token endpoint who the client is. Printing it never shows a credential.
type Authentication interface {
	// apply adds the credentials to a request made at now, and returns every spelling of them that the server may echo.
	apply(cfg *clientcredentials.Config, now time.Time) (sent []string, err error)
}

// method is an Authentication. The function holds the credentials, where no reflection reaches them.
type method struct {
	name     string // of the IANA registry "OAuth Token Endpoint Authentication Methods"
	clientID string
	add      func(cfg *clientcredentials.Config, now time.Time) (sent []string, err error)
}

func (m method) apply(cfg *clientcredentials.Config, now time.Time) ([]string, error) {
	// Never use auto-detection: it sends a second request if the server refuses the first.
	cfg.AuthStyle = oauth2.AuthStyleInParams
	cfg.ClientID = m.clientID
	return m.add(cfg, now)
}

// Format prints the method and the client's id, whatever the verb.
func (m method) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s of client %q", m.name, m.clientID)
}

// ClientSecretBasic sends id and secret, form-encoded, by HTTP Basic (RFC 6749 §2.3.1).
func ClientSecretBasic(clientID, secret string) Authentication {
	return method{"client_secret_basic", clientID, func(cfg *clientcredentials.Config, _ time.Time) ([]string, error) {
		cfg.AuthStyle = oauth2.AuthStyleInHeader
		cfg.ClientSecret = secret
		travelling := url.QueryEscape(clientID) + ":" + url.QueryEscape(secret)
		return spellings(secret, clientID+":"+secret, travelling), checkSecret(clientID, secret)
	}}
}

// ClientSecretPost sends id and secret in the body (RFC 6749 §2.3.1).
func ClientSecretPost(clientID, secret string) Authentication {
	return method{"client_secret_post", clientID, func(cfg *clientcredentials.Config, _ time.Time) ([]string, error) {
		cfg.ClientSecret = secret
		return spellings(secret), checkSecret(clientID, secret)
	}}
}

func checkSecret(clientID, secret string) error {
	switch {
	case clientID == "":
		return errors.New("client id is empty")
	case secret == "":
		return errors.New("client secret is empty")
	}
	return nil
}

// PrivateKeyJWT sends an assertion that key signs anew for each request (RFC 7523 and its revision rfc7523bis, OpenID
// Connect Core §9). audience becomes the assertion's only aud. It should be the server's issuer identifier; use the
// token endpoint's URL only for servers that insist on it.
func PrivateKeyJWT(clientID string, key *SigningKey, audience string) Authentication {
	return method{"private_key_jwt", clientID, func(cfg *clientcredentials.Config, now time.Time) ([]string, error) {
		if clientID == "" {
			return nil, errors.New("client id is empty")
		}
		claims, _ := json.Marshal(map[string]any{ // strings and numbers cannot fail
			"iss": clientID,
			"sub": clientID,
			"aud": audience, // a string: a list could address a second server too
			"jti": rand.Text(),
			"iat": now.Add(-assertionBackdate).Unix(),
			"exp": now.Add(assertionLifetime).Unix(),
			// No nbf: a server whose clock is behind would refuse it.
		})
		assertion, err := key.sign(claims)
		if err != nil {
			return nil, errors.New("client assertion cannot be signed")
		}
		return addAssertion(cfg, assertion), nil
	}}
}

// JWTBearerAssertion sends a ready-made JWT, such as a Kubernetes ServiceAccount token, as assertion (RFC 7523 §2.2).
// clientID may be "" if the server finds the client by the assertion's subject.
func JWTBearerAssertion(clientID, assertion string) Authentication {
	return method{"jwt_bearer_assertion", clientID, func(cfg *clientcredentials.Config, _ time.Time) ([]string, error) {
		if assertion == "" {
			return nil, errors.New("client assertion is empty")
		}
		return addAssertion(cfg, assertion), nil
	}}
}

func addAssertion(cfg *clientcredentials.Config, assertion string) []string {
	cfg.EndpointParams.Set("client_assertion_type", assertionType)
	cfg.EndpointParams.Set("client_assertion", assertion)
	return spellings(assertion)
}
