// SPDX-License-Identifier: Apache-2.0

// Package management calls Logto's Management API: it gets the token, makes the requests, reads lists that are paged and
// change meanwhile, and says of each failure what it means. What to ask for is the driver's decision, in the package
// above.
package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Config identifies a Logto, and the application that the operator acts as.
type Config struct {
	// Endpoint is the server's base URL.
	Endpoint string
	// ManagementAPI is the identifier of the Management API; "" means Identifier(Endpoint).
	ManagementAPI string
	// ClientID and ClientSecret are those of a machine-to-machine application with the Management API role.
	ClientID     string
	ClientSecret provision.Sensitive
	// HTTP makes the requests. It bounds time and bodies, and sets the pace.
	HTTP *http.Client
	// Now returns the time.
	Now func() time.Time
}

// API is the Management API of a Logto. It is safe for concurrent use.
type API struct {
	endpoint     string
	identifier   string
	clientID     string
	clientSecret provision.Sensitive
	http         *http.Client
	now          func() time.Time
	token        tokenCache
}

// New returns the Management API of a Logto. It makes no request.
func New(c Config) *API {
	endpoint := strings.TrimRight(c.Endpoint, "/")
	if c.ManagementAPI == "" {
		c.ManagementAPI = Identifier(endpoint)
	}
	// Never follow redirects, whatever the caller's client does: they would carry the token elsewhere.
	client := *c.HTTP
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &API{
		endpoint: endpoint, identifier: c.ManagementAPI, clientID: c.ClientID, clientSecret: c.ClientSecret,
		http: &client, now: c.Now, token: tokenCache{turn: make(chan struct{}, 1)},
	}
}

// Request is one request to the Management API.
type Request struct {
	Doing  string // its purpose, as an error states it: "create the API"
	Method string
	Path   string // below /api, escaped
	Query  url.Values
	Body   any // sent as JSON, nil for none
}

// Call makes a request and decodes the answer into out, unless that is nil. Errors are *provision.Error or the context's.
func (a *API) Call(ctx context.Context, r Request, out any) error {
	_, err := a.call(ctx, r, out)
	return err
}

// call is Call, and also returns the answer's header. If Logto does not accept the token, call gets another one and
// repeats the request once.
func (a *API) call(ctx context.Context, r Request, out any) (http.Header, error) {
	for again := false; ; again = true {
		token, err := a.managementToken(ctx)
		if err != nil {
			return nil, err
		}
		header, err := a.once(ctx, r, token, out)
		switch statusOf(err) {
		case http.StatusUnauthorized:
			a.forgetToken(ctx, token)
			if !again {
				continue
			}
		case http.StatusForbidden: // the application may have got the role since the token was made
			a.forgetToken(ctx, token)
		}
		return header, err
	}
}

func (a *API) once(ctx context.Context, r Request, token string, out any) (http.Header, error) {
	var body io.Reader
	if r.Body != nil {
		raw, err := json.Marshal(r.Body)
		if err != nil {
			return nil, r.Failed(provision.Refused, "the request cannot be encoded as JSON")
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, a.endpoint+"/api"+r.Path, body)
	if err != nil {
		return nil, r.Failed(provision.Refused, "the endpoint is not a URL")
	}
	req.URL.RawQuery = r.Query.Encode()
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, r.unanswered(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := egress.ReadBody(resp.Body)
	switch {
	case resp.StatusCode/100 != 2: // the status counts, however the body ended
		return nil, a.refusal(r, resp, raw)
	case errors.Is(err, egress.ErrBodyTooLarge):
		return nil, tooLarge{r.Failed(provision.Unavailable, err.Error())}
	case err != nil:
		return nil, r.unanswered(ctx, err)
	case out != nil && json.Unmarshal(raw, out) != nil: // the error may quote the body
		return nil, r.Failed(provision.Unavailable, "the answer is not one of Logto's Management API")
	}
	return resp.Header, nil
}

// tooLarge is an answer that is larger than the client accepts.
type tooLarge struct{ told *provision.Error }

func (e tooLarge) Error() string { return e.told.Error() }

func (e tooLarge) Unwrap() error { return e.told }

// Failed returns an error about the request in words of the operator.
func (r Request) Failed(kind provision.ErrorKind, why string) *provision.Error {
	return &provision.Error{Kind: kind, Message: r.Doing + ": " + why}
}

// unanswered classes a request without an answer.
func (r Request) unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if blocked, ok := errors.AsType[*egress.BlockedError](err); ok {
		return r.Failed(provision.Refused, blocked.Reason)
	}
	switch why := egress.Why(err); why {
	case egress.TimedOut, egress.ConnectionTimedOut:
		return r.Failed(provision.Unavailable, "Logto did not answer in time")
	default:
		return r.Failed(provision.Unavailable, "Logto gave no complete answer: "+string(why))
	}
}

// codes are words joined by dots, such as scope.name_exists. A code of another form may echo anything.
var codes = regexp.MustCompile(`^[a-z]+(_[a-z]+)*(\.[a-z0-9]+(_[a-z0-9]+)*){1,3}$`)

// refusal returns the error for an answer that is not 2xx. Of the body it uses only the code: the message is localised,
// and both may repeat what was sent.
func (a *API) refusal(r Request, resp *http.Response, raw []byte) error {
	var body struct{ Code json.RawMessage }
	var code string
	if json.Unmarshal(raw, &body) == nil && json.Unmarshal(body.Code, &code) == nil {
		if len(code) > 64 || !codes.MatchString(code) {
			code = ""
		}
	}
	e := &provision.Error{Code: code, Status: resp.StatusCode}
	said := fmt.Sprintf("Logto answered with status %d", e.Status)
	if code != "" {
		said = fmt.Sprintf("Logto answered %s (HTTP %d)", code, e.Status)
	}
	switch {
	case e.Status == http.StatusUnauthorized:
		e.Kind, said = provision.Refused, said+"; it does not accept the token of the operator's application"
	case e.Status == http.StatusForbidden && (code == "" || strings.HasPrefix(code, "auth.")):
		e.Kind, said = provision.Refused, said+"; "+roleNeeded
	case e.Status/100 == 3:
		e.Kind, said = provision.Refused, said+", a redirect, which is not followed; check the endpoint"
	case e.Status == http.StatusNotFound && code == "":
		e.Kind, said = provision.Unavailable, said+" in a form that is not Logto's; check the endpoint"
	case Gone(e), e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooManyRequests, e.Status >= 500:
		// Something that vanishes in the middle of a call was deleted by somebody else. The next call sorts that out.
		e.Kind = provision.Unavailable
	default:
		e.Kind = provision.Refused
	}
	e.Message = r.Doing + ": " + said
	e.RetryAfter = egress.RetryAfter(resp.Header, a.now())
	return e
}

const roleNeeded = `the operator's application needs the machine-to-machine role "Logto Management API access" (scope "all" of the Management API)`

// statusOf returns the HTTP status of an error, 0 if it has none.
func statusOf(err error) int {
	var e *provision.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// Gone reports whether the answer says that something does not exist. Logto has several ways to say so, some with
// status 400. A 404 without a code does not count, because it may be a proxy's.
func Gone(err error) bool {
	var e *provision.Error
	if !errors.As(err, &e) || e.Status/100 != 4 {
		return false
	}
	switch e.Code {
	case "entity.not_exists", "entity.not_exists_with_id", "entity.not_found", "entity.relation_foreign_key_not_found":
		return true
	}
	return e.Status == http.StatusNotFound && strings.HasPrefix(e.Code, "entity.")
}

// Disputed reports whether what was to be created may already exist: a 422 means that, or something else, and the loser
// of a race gets a 500. Only looking tells.
func Disputed(err error) bool {
	var e *provision.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusUnprocessableEntity, http.StatusConflict, http.StatusInternalServerError:
		return true
	}
	// Some versions say the same with status 400.
	return strings.HasSuffix(e.Code, "_in_use") || strings.HasSuffix(e.Code, "_exists") && !strings.HasPrefix(e.Code, "entity.")
}

// Patch makes a PATCH.
func (a *API) Patch(ctx context.Context, doing, path string, body any) error {
	return a.Call(ctx, Request{Doing: doing, Method: http.MethodPatch, Path: path, Body: body}, nil)
}

// Delete makes a DELETE, for which absence is success. Here a 404 without a code counts: the callers have read from the
// server before, or only remove a secret.
func (a *API) Delete(ctx context.Context, doing, path string) error {
	err := a.Call(ctx, Request{Doing: doing, Method: http.MethodDelete, Path: path}, nil)
	if Gone(err) || statusOf(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// Get reads one thing, nil if there is none.
func Get[T Item](ctx context.Context, a *API, doing, path string) (*T, error) {
	var found T
	r := Request{Doing: doing, Method: http.MethodGet, Path: path}
	switch err := a.Call(ctx, r, &found); {
	case Gone(err):
		return nil, nil
	case err != nil:
		return nil, err
	case found.Key() == "":
		return nil, r.Failed(provision.Unavailable, "the answer has no id")
	}
	return &found, nil
}

// Create makes a POST and returns what it made.
func Create[T Item](ctx context.Context, a *API, doing, path string, body any) (*T, error) {
	var made T
	r := Request{Doing: doing, Method: http.MethodPost, Path: path, Body: body}
	if err := a.Call(ctx, r, &made); err != nil {
		return nil, err
	}
	if made.Key() == "" {
		return nil, r.Failed(provision.Unavailable, "the answer has no id")
	}
	return &made, nil
}
