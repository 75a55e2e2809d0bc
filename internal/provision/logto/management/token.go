// SPDX-License-Identifier: Apache-2.0

package management

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// managementScope must be asked for. Without it Logto issues a token that the Management API refuses.
const managementScope = "all"

// tokenCache holds the token for the Management API. The holder of the turn may read and change it, so that no two
// requests for a token are under way at once.
type tokenCache struct {
	turn  chan struct{}
	value string
	until time.Time
}

// How long a token stays in the cache.
const (
	tokenLead    = time.Minute // before its expiry
	unknownLife  = time.Minute // if the server does not say
	shortestLife = time.Second
)

func (a *API) managementToken(ctx context.Context) (string, error) {
	c := &a.token
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	now := a.now()
	if c.value != "" && now.Before(c.until) {
		return c.value, nil
	}
	token, err := oauth.Exchange(ctx, a.http, oauth.TokenRequest{
		Endpoint:       a.endpoint + "/oidc/token",
		Authentication: oauth.ClientSecretBasic(a.clientID, a.clientSecret.Reveal()),
		Scopes:         []string{managementScope},
		Resource:       a.identifier,
		Now:            now,
	})
	if err != nil {
		return "", tokenError(ctx, err)
	}
	// Logto leaves out scopes that it does not grant, and the member scope if it grants none.
	if !slices.Contains(token.Scopes, managementScope) {
		return "", &provision.Error{Kind: provision.Refused, Message: gettingToken + "the token lacks the scope \"" + managementScope + "\"; " + roleNeeded}
	}
	life := unknownLife
	if token.ExpiresIn > 0 {
		life = max(token.ExpiresIn-min(tokenLead, token.ExpiresIn/2), shortestLife)
	}
	c.value, c.until = token.Value, token.RequestedAt.Add(life)
	return c.value, nil
}

// forgetToken drops a token that was refused, unless it has been replaced already.
func (a *API) forgetToken(ctx context.Context, token string) {
	select {
	case a.token.turn <- struct{}{}:
		defer func() { <-a.token.turn }()
	case <-ctx.Done():
		return
	}
	if a.token.value == token {
		a.token.value = ""
	}
}

const gettingToken = "get a token for the Management API: "

func tokenError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var e *oauth.Error
	if !errors.As(err, &e) {
		return &provision.Error{Kind: provision.Unavailable, Message: gettingToken + "it failed"}
	}
	p := &provision.Error{Kind: provision.Refused, Code: e.Code, Status: e.Status, RetryAfter: e.RetryAfter}
	if e.Class == oauth.ClassRetryable {
		p.Kind = provision.Unavailable
	}
	if p.Status == http.StatusNotFound { // this is about the token endpoint, not about what the token was for
		p.Status = 0
	}
	switch {
	case e.Code == "invalid_client":
		p.Message = fmt.Sprintf("%sLogto answered invalid_client (HTTP %d); check the client id and secret", gettingToken, e.Status)
	case e.Code == "invalid_target":
		p.Message = fmt.Sprintf("%sLogto answered invalid_target (HTTP %d); check the identifier of the Management API", gettingToken, e.Status)
	case e.Code == "invalid_request" && e.Status != http.StatusNotFound:
		p.Message = fmt.Sprintf("%sLogto answered invalid_request (HTTP %d); the client secret may have expired", gettingToken, e.Status)
	case e.Code != "":
		p.Message = fmt.Sprintf("%sLogto answered %s (HTTP %d)", gettingToken, e.Code, e.Status)
	case e.Status/100 == 3:
		p.Message = fmt.Sprintf("%sLogto answered with status %d, a redirect, which is not followed", gettingToken, e.Status)
	case e.Status != 0:
		p.Message = fmt.Sprintf("%sLogto answered with status %d", gettingToken, e.Status)
		if e.Detail != "" {
			p.Message += ": " + e.Detail
		}
	default:
		p.Message = gettingToken + e.Detail
	}
	if elsewhere(e) {
		p.Message += "; check the endpoint"
	}
	return p
}

// elsewhere reports whether the outcome of a token request suggests that the endpoint is not Logto's. Outside its own
// paths, Logto answers 404, also with the code invalid_request, or with a page.
func elsewhere(e *oauth.Error) bool {
	switch e.Status {
	case 0:
		return e.Class != oauth.ClassTerminal // terminal without an answer is our own doing: a policy, or an empty secret
	case http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed:
		return true
	}
	return e.Status/100 == 3
}
