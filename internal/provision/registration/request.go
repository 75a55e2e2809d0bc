// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// answer is a complete HTTP answer.
type answer struct {
	status  int
	body    []byte
	wait    time.Duration
	secrets []string // what the request carried, and other secrets that the answer may repeat
}

// busy reports whether the answer says nothing about the request.
func (a *answer) busy() bool {
	return a.status >= 500 && a.status != http.StatusNotImplemented || a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout
}

// object reports whether the body is a JSON object, as all errors of these protocols are.
func (a *answer) object() bool {
	var members map[string]json.RawMessage
	return json.Unmarshal(a.body, &members) == nil && members != nil
}

// absent reports whether the answer says that there is no such registration, in the ways of servers that do not answer
// 401 (RFC 7592 section 2.1). The body tells such an answer from that of a proxy without a route to the server.
func (a *answer) absent() bool {
	if a.status == http.StatusBadRequest {
		return slices.Contains([]string{"invalid_request", "invalid_client", "invalid_token"}, a.code())
	}
	return (a.status == http.StatusNotFound || a.status == http.StatusGone) && a.object()
}

// codes are error codes as the protocols write them.
var codes = regexp.MustCompile(`^[a-z][a-z_]{0,63}$`)

// code returns the error code in the answer, "" if there is none that can be shown.
func (a *answer) code() string {
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(a.body, &e) != nil || !codes.MatchString(e.Error) {
		return ""
	}
	for _, s := range a.secrets {
		if s != "" && (strings.Contains(e.Error, s) || strings.Contains(s, e.Error)) {
			return ""
		}
	}
	return e.Error
}

// description returns what the server says beside its code, without what the request carried.
func (a *answer) description() string {
	var e struct {
		Description string `json:"error_description"`
	}
	if json.Unmarshal(a.body, &e) != nil {
		return ""
	}
	return oauth.Describe(e.Description, a.secrets...)
}

// send makes one request. Its error is an *Error, or the context's.
func (d *Driver) send(ctx context.Context, method, uri string, token provision.Sensitive, body map[string]any) (*answer, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, refused("the client cannot be described in JSON")
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, uri, content)
	if err != nil {
		return nil, refused("the registration endpoint is not an absolute http or https URL")
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, failed(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	a := &answer{status: resp.StatusCode, wait: egress.RetryAfter(resp.Header, d.config.Now()), secrets: []string{token.Reveal()}}
	if a.body, err = egress.ReadBody(resp.Body); err != nil {
		if ctx.Err() != nil || a.status/100 == 2 {
			return nil, failed(ctx, err)
		}
		a.body = nil // a refusal counts however its body ended
	}
	return a, nil
}

// failed classes a request without an answer, or without the end of one.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if blocked, ok := errors.AsType[*egress.BlockedError](err); ok {
		return refused("the registration endpoint was not contacted: " + blocked.Reason)
	}
	why := egress.Why(err)
	message := "the registration endpoint gave no complete answer: " + string(why)
	if why == egress.TooLarge {
		message = fmt.Sprintf("the registration endpoint answered with more than %d bytes", egress.MaxBody)
	}
	return &provision.Error{Kind: provision.Unavailable, Message: message}
}

// notRegistered returns why a client was not registered.
func (d *Driver) notRegistered(a *answer) error {
	switch {
	case a.busy():
		return unavailable(a, "the server did not register the client")
	case a.status/100 == 3:
		return rejected(a, "the registration endpoint answered with a redirect, which is not followed")
	case a.status/100 == 2:
		return senseless(a)
	case a.status == http.StatusUnauthorized && d.config.InitialAccessToken == "":
		return rejected(a, "registration needs an initial access token")
	case a.status == http.StatusUnauthorized:
		return rejected(a, "the initial access token was not accepted")
	case a.status == http.StatusForbidden:
		return rejected(a, "the server does not allow registering the client; check the initial access token")
	case a.status == http.StatusNotFound, a.status == http.StatusMethodNotAllowed, a.status == http.StatusNotImplemented:
		return rejected(a, "the registration endpoint does not register clients")
	}
	return rejected(a, "the server refused to register the client")
}

func rejected(a *answer, message string) *provision.Error {
	e := refused(message)
	e.Status, e.Code, e.RetryAfter = a.status, a.code(), a.wait
	if e.Code != "" {
		e.Message += " (" + e.Code + ")"
	}
	if said := a.description(); said != "" {
		e.Message += ": " + said
	}
	return e
}

func refused(message string) *provision.Error {
	return &provision.Error{Kind: provision.Refused, Message: message}
}

// unavailable is the error for an answer that says nothing about the request.
func unavailable(a *answer, message string) *provision.Error {
	return &provision.Error{
		Kind: provision.Unavailable, Message: fmt.Sprintf("%s: it answered with status %d", message, a.status),
		Status: a.status, Code: a.code(), RetryAfter: a.wait,
	}
}

// senseless is the error for an answer that does not say what it must.
func senseless(a *answer) *provision.Error {
	return &provision.Error{
		Kind: provision.Unavailable, Message: "the server's answer is not a valid registration", Status: a.status, RetryAfter: a.wait,
	}
}
