// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

const (
	// maxTokenBytes bounds a token; a Secret holds 1 MiB, and a header line of a usual server 8 KiB.
	maxTokenBytes = 64 << 10
	// maxLifetime caps expires_in: ten years.
	maxLifetime = 10 * 365 * 24 * time.Hour
)

// interpret reads a complete answer. sent are the credentials that must not come back out of it.
func (a answer) interpret(sent []string, now time.Time) (*Token, *Error) {
	fail := func(detail string) *Error {
		return &Error{Class: classify(a.status, ""), Status: a.status, RetryAfter: egress.RetryAfter(a.header, now), Detail: detail}
	}
	if a.status/100 == 3 {
		return nil, fail("answered with a redirect, which is not followed")
	}
	m, err := parseMembers(a.header.Get("Content-Type"), a.body)
	code, codeErr := m.string("error")
	if a.status/100 != 2 || code != "" { // some servers refuse with status 200
		description, _ := m.string("error_description")
		e := fail("")
		e.identify(code, description, sent)
		return nil, e
	}
	if err := cmp.Or(err, codeErr); err != nil {
		return nil, fail(err.Error())
	}
	token := &Token{RequestedAt: now}
	for _, read := range []func(members, *Token) error{readValue, readExpiry, readScopes, readType} {
		if err := read(m, token); err != nil {
			e := fail(err.Error())
			if _, issued := m["access_token"]; issued {
				e.Class = ClassSlowRetry // the server issues a token with each such answer, and the next one will be no better
			}
			return nil, e
		}
	}
	if token.Type != "Bearer" {
		e := fail("token type is not supported, only Bearer")
		if wellFormed(token.Type) && !contains(token.Type, sent) {
			e.Detail = "token type " + token.Type + " is not supported, only Bearer"
		}
		e.Class = ClassTerminal // asking again yields the same type
		return nil, e
	}
	return token, nil
}

// members are an answer's members that are not null, undecoded: each is judged by itself, and unknown ones are ignored.
type members map[string]json.RawMessage

// parseMembers splits a body into its members. JSON is the rule (RFC 6749 §5.1). Like x/oauth2, it accepts a form if
// the content type says so.
func parseMembers(contentType string, body []byte) (members, error) {
	m := members{}
	switch mediaType, _, _ := mime.ParseMediaType(contentType); mediaType {
	case "application/x-www-form-urlencoded", "text/plain":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, fmt.Errorf("answer of type %s is not a form", mediaType)
		}
		for name := range form {
			m[name], _ = json.Marshal(form.Get(name)) // a string cannot fail
		}
	default:
		if len(body) == 0 {
			return nil, errors.New("answer is empty")
		}
		if !json.Valid(body) {
			return nil, errors.New("answer is not JSON")
		}
		if json.Unmarshal(body, &m) != nil {
			return nil, errors.New("answer is not a JSON object")
		}
	}
	for name, value := range m {
		if string(value) == "null" {
			delete(m, name)
		}
	}
	return m, nil
}

// string returns a member's value, "" if it is absent.
func (m members) string(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%s in the answer is not a string", name)
	}
	return s, nil
}

// readValue reads access_token. It accepts visible ASCII only, because the value ends up in an HTTP header, which a
// line break would end.
func readValue(m members, t *Token) (err error) {
	t.Value, err = m.string("access_token")
	switch {
	case err != nil:
		return err
	case t.Value == "":
		return errors.New("answer has no access_token")
	case len(t.Value) > maxTokenBytes:
		return fmt.Errorf("access_token in the answer is longer than %d bytes", maxTokenBytes)
	case strings.ContainsFunc(t.Value, func(r rune) bool { return r < '!' || r > '~' }):
		return errors.New("access_token in the answer has characters that are not allowed in a token")
	}
	return nil
}

// readExpiry reads expires_in: a number, or a string with one, as some servers send. It ignores everything else, such
// as 0, -1 or an empty string for an unknown lifetime, because the token is no worse for it.
func readExpiry(m members, t *Token) error {
	var n json.Number
	if json.Unmarshal(m["expires_in"], &n) != nil {
		return nil
	}
	switch seconds, _ := n.Float64(); { // a number out of range comes as an infinity of the right sign
	case seconds < 1:
	case seconds >= maxLifetime.Seconds():
		t.ExpiresIn = maxLifetime
	default:
		t.ExpiresIn = time.Duration(seconds) * time.Second
	}
	return nil
}

// readScopes reads scope, whose tokens are visible ASCII without quote and backslash (RFC 6749 §3.3). It is one string
// or, as some servers send, a list of them.
func readScopes(m members, t *Token) error {
	var list []string
	scope, err := m.string("scope")
	if err != nil {
		if json.Unmarshal(m["scope"], &list) != nil {
			return errors.New("scope in the answer is neither a string nor a list of strings")
		}
		scope = strings.Join(list, " ")
	}
	if strings.ContainsFunc(scope, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		return errors.New("scope in the answer has characters that are not allowed in a scope")
	}
	_, t.ScopesReturned = m["scope"]
	t.Scopes = strings.Fields(scope)
	return nil
}

// readType reads token_type. Only bearer tokens (RFC 6750) can be handed on in a file. A missing type counts as Bearer.
func readType(m members, t *Token) (err error) {
	t.Type, err = m.string("token_type")
	if t.Type == "" || strings.EqualFold(t.Type, "Bearer") {
		t.Type = "Bearer"
	}
	return err
}
