// SPDX-License-Identifier: Apache-2.0

// Package oauth is the one place that speaks to a token endpoint: it authenticates a client, makes one
// client_credentials request (RFC 6749 §4.4) and turns whatever comes back into a Token or a classed Error. It checks
// everything the server says before it returns it, and never returns what was sent to the server (secret, assertion,
// key). It makes no decisions about time: the caller decides when to ask, and when to ask again.
package oauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// TokenRequest holds everything that one token request depends on.
type TokenRequest struct {
	// Endpoint is the token endpoint's absolute URL. It may have a query but no fragment (RFC 6749 §3.2).
	Endpoint string
	// Authentication proves who the client is.
	Authentication Authentication
	// Scopes are joined by spaces into the scope parameter; none means no parameter.
	Scopes []string
	// Resource is the resource parameter (RFC 8707); "" means no parameter.
	Resource string
	// Audience is the audience parameter that some servers take instead; "" means no parameter.
	Audience string
	// Parameters are the other parameters that the server requires, by name.
	Parameters map[string]string
	// Now is the time of the request. It dates assertions, and the token's life counts from it.
	Now time.Time
}

// ownParameters are the parameters of a token request that only this package sets.
var ownParameters = []string{
	"grant_type", "scope", "resource", "client_id", "client_secret", "client_assertion", "client_assertion_type",
}

// Misplaced returns a name among Parameters that the caller must not set, "" if there is none. Case does not matter,
// because servers differ in whether it does, and in which of two values counts.
func (r TokenRequest) Misplaced() string {
	own := ownParameters
	if r.Audience != "" {
		own = append(slices.Clone(own), "audience")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Parameters)) {
		if slices.Contains(own, strings.ToLower(name)) {
			return name
		}
	}
	return ""
}

// config returns the request as x/oauth2 takes it, without authentication.
func (r TokenRequest) config() clientcredentials.Config {
	cfg := clientcredentials.Config{TokenURL: r.Endpoint, Scopes: r.Scopes, EndpointParams: url.Values{}}
	for name, value := range r.Parameters {
		cfg.EndpointParams.Set(name, value)
	}
	if r.Resource != "" {
		cfg.EndpointParams.Set("resource", r.Resource)
	}
	if r.Audience != "" {
		cfg.EndpointParams.Set("audience", r.Audience)
	}
	return cfg
}

// Exchange makes exactly one HTTP request and returns the token it yields. hc should come from package egress. Exchange
// uses its transport and its timeout, and ignores how it treats redirects. Every error is an *Error; if the context
// ended the request, errors.Is finds the context's error in it.
func Exchange(ctx context.Context, hc *http.Client, req TokenRequest) (*Token, error) {
	// This judges the form only. The client itself refuses what the operator's policy forbids.
	anywhere := egress.Policy{AllowHTTP: true, AllowLoopback: true, AllowLinkLocal: true}
	if err := anywhere.CheckURL(req.Endpoint); err != nil {
		return nil, &Error{Class: ClassTerminal, Detail: "token endpoint: " + err.Error()}
	}
	if name := req.Misplaced(); name != "" {
		return nil, &Error{Class: ClassTerminal, Detail: fmt.Sprintf("parameter %.64q must not be set", name)}
	}
	cfg := req.config()
	sent, err := req.Authentication.apply(&cfg, req.Now)
	if err != nil {
		return nil, &Error{Class: ClassTerminal, Detail: err.Error()}
	}

	rec := &recorder{base: hc.Transport}
	if rec.base == nil {
		rec.base = http.DefaultTransport
	}
	// The time limit is on the context instead of the client, which tells it from the caller's own deadline.
	attempt, cancel := ctx, context.CancelFunc(func() {})
	if hc.Timeout > 0 {
		attempt, cancel = context.WithTimeout(ctx, hc.Timeout)
	}
	defer cancel()
	client := &http.Client{
		Transport:     rec,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// x/oauth2 builds the request but does not read the answer: it would take unread errors for empty members, lose the
	// reason for a broken body, and print the body in its error.
	_, err = cfg.Token(context.WithValue(attempt, oauth2.HTTPClient, client))

	answer := rec.answer
	switch {
	case answer.status == 0:
		return nil, transportError(ctx, attempt, hc.Timeout, err)
	case answer.err != nil:
		e := transportError(ctx, attempt, hc.Timeout, answer.err)
		switch late, isLate := strings.CutPrefix(e.Detail, "no answer "); {
		case errors.Is(answer.err, egress.ErrBodyTooLarge):
			e.Detail = egress.ErrBodyTooLarge.Error()
		case isLate:
			e.Detail = "answer did not end " + late
		default:
			e.Detail = "answer broke off: " + e.Detail
		}
		e.Class, e.Status, e.RetryAfter = classify(answer.status, ""), answer.status, egress.RetryAfter(answer.header, req.Now)
		return nil, e
	}
	token, failure := answer.interpret(sent, req.Now)
	if failure != nil { // a nil *Error in an error is not nil
		return nil, failure
	}
	return token, nil
}

// answer is a token endpoint's answer. status 0 means that no header came.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // why body is not whole
}

// recorder is the http.RoundTripper of one Exchange. It keeps the answer and hands it on.
type recorder struct {
	base   http.RoundTripper
	answer answer
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Accept", "application/json") // otherwise some servers answer with a form
	resp, err := r.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r.answer = answer{status: resp.StatusCode, header: resp.Header}
	body, err := egress.ReadBody(resp.Body)
	if r.answer.err = err; err != nil {
		return nil, err
	}
	r.answer.body = body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
