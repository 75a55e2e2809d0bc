// SPDX-License-Identifier: Apache-2.0

package logto

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
	"strconv"
	"strings"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// request is one request to the Management API.
type request struct {
	doing  string // its purpose, as an error states it: "create the API"
	method string
	path   string // below /api, escaped
	query  url.Values
	body   any // sent as JSON, nil for none
}

// call makes a request and decodes the answer into out, unless that is nil. If Logto does not accept the token, call
// gets another one and repeats the request once. Errors are *provision.Error or the context's.
func (d *Driver) call(ctx context.Context, r request, out any) (http.Header, error) {
	for again := false; ; again = true {
		token, err := d.managementToken(ctx)
		if err != nil {
			return nil, err
		}
		header, err := d.once(ctx, r, token, out)
		switch statusOf(err) {
		case http.StatusUnauthorized:
			d.forgetToken(ctx, token)
			if !again {
				continue
			}
		case http.StatusForbidden: // the application may have got the role since the token was made
			d.forgetToken(ctx, token)
		}
		return header, err
	}
}

func (d *Driver) once(ctx context.Context, r request, token string, out any) (http.Header, error) {
	address := d.endpoint + "/api" + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return nil, r.failed(provision.Refused, "the request cannot be written as JSON")
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, r.failed(provision.Refused, "the endpoint is no URL")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, r.unanswered(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := egress.ReadBody(resp.Body)
	switch {
	case resp.StatusCode/100 != 2: // the status counts, however the body ended
		return nil, d.refusal(r, resp, raw)
	case errors.Is(err, egress.ErrBodyTooLarge):
		return nil, tooLarge{r.failed(provision.Unavailable, err.Error())}
	case err != nil:
		return nil, r.unanswered(ctx, err)
	case out != nil && json.Unmarshal(raw, out) != nil: // the error may quote the body
		return nil, r.failed(provision.Unavailable, "the answer is not what Logto's Management API answers")
	}
	return resp.Header, nil
}

// tooLarge is an answer that is larger than the client accepts.
type tooLarge struct{ told *provision.Error }

func (e tooLarge) Error() string { return e.told.Error() }

func (e tooLarge) Unwrap() error { return e.told }

func (r request) failed(kind provision.ErrorKind, why string) *provision.Error {
	return &provision.Error{Kind: kind, Message: r.doing + ": " + why}
}

// unanswered classes a request without an answer.
func (r request) unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if blocked, ok := errors.AsType[*egress.BlockedError](err); ok {
		return r.failed(provision.Refused, blocked.Reason)
	}
	switch why := egress.Why(err); why {
	case egress.TimedOut, egress.ConnectionTimedOut:
		return r.failed(provision.Unavailable, "Logto did not answer in time")
	default:
		return r.failed(provision.Unavailable, "Logto gave no complete answer: "+string(why))
	}
}

// codes are words joined by dots, such as scope.name_exists. A code of another form may echo anything.
var codes = regexp.MustCompile(`^[a-z]+(_[a-z]+)*(\.[a-z0-9]+(_[a-z0-9]+)*){1,3}$`)

// refusal returns the error for an answer that is not 2xx. Of the body it uses only the code: the message is localised,
// and both may repeat what was sent.
func (d *Driver) refusal(r request, resp *http.Response, raw []byte) error {
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
		e.Kind, said = provision.Refused, said+"; it does not take the token of the Management API's application"
	case e.Status == http.StatusForbidden && (code == "" || strings.HasPrefix(code, "auth.")):
		e.Kind, said = provision.Refused, said+"; "+roleNeeded
	case e.Status/100 == 3:
		e.Kind, said = provision.Refused, said+", a redirect, which is not followed; check the endpoint"
	case e.Status == http.StatusNotFound && code == "":
		e.Kind, said = provision.Unavailable, said+" in a form that is not Logto's; check the endpoint"
	case gone(e), e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooManyRequests, e.Status >= 500:
		// Something that vanishes in the middle of a call was deleted by somebody else. The next call sorts that out.
		e.Kind = provision.Unavailable
	default:
		e.Kind = provision.Refused
	}
	e.Message = r.doing + ": " + said
	e.RetryAfter = egress.RetryAfter(resp.Header, d.now())
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

// gone reports whether the answer says that something does not exist. Logto has several ways to say so, some with
// status 400. A 404 without a code does not count, because it may be a proxy's.
func gone(err error) bool {
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

// disputed reports whether what was to be created may already exist: a 422 means that, or something else, and the loser
// of a race gets a 500. Only looking tells.
func disputed(err error) bool {
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

// remove makes a DELETE, for which absence is success. Here a 404 without a code counts: the callers have read from the
// server before, or only remove a secret.
func (d *Driver) remove(ctx context.Context, doing, path string) error {
	_, err := d.call(ctx, request{doing: doing, method: http.MethodDelete, path: path}, nil)
	if gone(err) || statusOf(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// get reads one thing, nil if there is none.
func get[T thing](ctx context.Context, d *Driver, doing, path string) (*T, error) {
	var found T
	r := request{doing: doing, method: http.MethodGet, path: path}
	switch _, err := d.call(ctx, r, &found); {
	case gone(err):
		return nil, nil
	case err != nil:
		return nil, err
	case found.key() == "":
		return nil, r.failed(provision.Unavailable, "the answer has no id")
	}
	return &found, nil
}

// create makes a POST and returns what it made.
func create[T thing](ctx context.Context, d *Driver, doing, path string, body any) (*T, error) {
	var made T
	r := request{doing: doing, method: http.MethodPost, path: path, body: body}
	if _, err := d.call(ctx, r, &made); err != nil {
		return nil, err
	}
	if made.key() == "" {
		return nil, r.failed(provision.Unavailable, "the answer has no id")
	}
	return &made, nil
}

func (d *Driver) patch(ctx context.Context, doing, path string, body any) error {
	_, err := d.call(ctx, request{doing: doing, method: http.MethodPatch, path: path, body: body}, nil)
	return err
}

// thing is an element of a list. key is unique within the list.
type thing interface{ key() string }

// Lists are read in the largest pages, or in smaller ones if such a page exceeds the bound of a body.
const (
	largestPage  = 100
	smallestPage = 4
	listTries    = 4
)

// list reads all pages of a list. Most lists of Logto have no order, and others change them meanwhile, so a thing may
// be on two pages or on none. list repeats the reading until it has as many as the server said there were.
func list[T thing](ctx context.Context, d *Driver, doing, path string, query url.Values) ([]T, error) {
	size := largestPage
	for try := 0; try < listTries; try++ {
		all, whole, err := listOnce[T](ctx, d, doing, path, query, size)
		var large tooLarge
		switch {
		case errors.As(err, &large) && size/5 >= smallestPage:
			size, try = size/5, -1
		case large.told != nil:
			return nil, large.told
		case err != nil:
			return nil, err
		case whole:
			return all, nil
		}
	}
	return nil, request{doing: doing}.failed(provision.Unavailable, "the list changed while it was read")
}

func listOnce[T thing](ctx context.Context, d *Driver, doing, path string, query url.Values, size int) (all []T, whole bool, err error) {
	seen := map[string]bool{}
	most := 0 // how many there were at the beginning, or more
	for page := 1; ; page++ {
		q := url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(size)}}
		for name, value := range query {
			q[name] = value
		}
		r := request{doing: doing, method: http.MethodGet, path: path, query: q}
		var items []T
		header, err := d.call(ctx, r, &items)
		if err != nil {
			return nil, false, err
		}
		total, err := strconv.Atoi(header.Get("Total-Number"))
		if err != nil || total < 0 {
			return nil, false, r.failed(provision.Unavailable, "the answer does not say how many there are")
		}
		for _, item := range items {
			switch key := item.key(); {
			case key == "":
				return nil, false, r.failed(provision.Unavailable, "the answer has something without an id")
			case !seen[key]:
				seen[key] = true
				all = append(all, item)
			}
		}
		if page == 1 {
			most = total
		}
		// The list need not hold what was created meanwhile. But a deletion may have moved something past the reader.
		if total < most {
			return nil, false, nil
		}
		if len(items) == 0 || page*size >= total {
			return all, len(all) >= most, nil
		}
	}
}

// marked returns the query for everything with the owner's tag in its name or description. A tag has neither _ nor %.
func marked(o provision.Owner) url.Values {
	return url.Values{"search": {"%" + o.Tag() + "%"}, "isCaseSensitive": {"true"}}
}
