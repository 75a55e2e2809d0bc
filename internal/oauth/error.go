// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Class is what a failure asks of the caller.
type Class string

const (
	// ClassRetryable is temporary trouble of the network or the server: try again, with back-off.
	ClassRetryable Class = "Retryable"
	// ClassSlowRetry is a refusal that may heal when the server or the cluster catches up (an application that is
	// created late, a secret that is rotated, a certificate that is renewed): try again, rarely.
	ClassSlowRetry Class = "SlowRetry"
	// ClassTerminal means that our own configuration is wrong or forbidden: trying again does not help until it
	// changes.
	ClassTerminal Class = "Terminal"
)

// classByCode are the error codes of RFC 6749 §5.2 and §4.1.2.1, RFC 8628 §3.5 and RFC 8707 §2 that a token endpoint
// may answer. Any other code is a refusal like the others: SlowRetry.
var classByCode = map[string]Class{
	"server_error":            ClassRetryable,
	"slow_down":               ClassRetryable,
	"temporarily_unavailable": ClassRetryable,
	"access_denied":           ClassSlowRetry,
	"invalid_client":          ClassSlowRetry,
	"invalid_grant":           ClassSlowRetry,
	"invalid_request":         ClassSlowRetry, // Logto answers it for an expired secret
	"invalid_scope":           ClassSlowRetry,
	"invalid_target":          ClassSlowRetry,
	"unauthorized_client":     ClassSlowRetry,
	"unsupported_grant_type":  ClassTerminal,
}

// classify is the table of classes for answers. The status of a server in trouble (5xx, 408, 429) counts more than its
// code. An answer without a code and below 300 makes no sense, but the next one may.
func classify(status int, code string) Class {
	class, known := classByCode[code]
	switch {
	case status/100 == 3:
		return ClassTerminal
	case status >= 500 || status == 408 || status == 429:
		return ClassRetryable
	case known:
		return class
	case status/100 == 4 || code != "":
		return ClassSlowRetry
	}
	return ClassRetryable
}

// maxDescription bounds a description, in runes. Hydra and Entra begin with general words, and what helps comes after
// the first 200 runes.
const maxDescription = 500

// Error is why there is no token. The client's owner may see all of it: it holds no credential, no raw answer, and
// nothing that differs between two equal failures.
type Error struct {
	// Class reports whether trying again may help.
	Class Class
	// Code is the server's RFC 6749 error code, "" if it sent no well-formed one ([A-Za-z0-9_.:-]{1,64}).
	Code string
	// Description is the server's error_description: printable, at most 500 runes, "" if none.
	Description string
	// Status is the HTTP status, 0 if no answer came.
	Status int
	// RetryAfter is how long the server asked to wait, at most an hour; 0 if it did not ask.
	RetryAfter time.Duration
	// Detail is what happened, in our words; "" if Code or Status says it all.
	Detail string

	cause error // the context's error, or the policy's
}

// Error returns a sentence fragment, the same for the same failure, for example
// "invalid_client (HTTP 401): bad secret", "HTTP 503", "no answer: connection refused".
func (e *Error) Error() string {
	var parts []string
	switch {
	case e.Code != "":
		parts = append(parts, fmt.Sprintf("%s (HTTP %d)", e.Code, e.Status))
	case e.Status != 0:
		parts = append(parts, fmt.Sprintf("HTTP %d", e.Status))
	case e.Class != ClassTerminal && !strings.HasPrefix(e.Detail, "no answer"):
		parts = append(parts, "no answer")
	}
	for _, s := range []string{e.Detail, e.Description} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the context's error if the context ended the request, or the *egress.BlockedError.
func (e *Error) Unwrap() error { return e.cause }

// identify fills in how the server describes its refusal.
func (e *Error) identify(code, description string, sent []string) {
	e.Class = classify(e.Status, code)
	e.Description = describe(description, sent)
	_, known := classByCode[code]
	switch {
	case known, wellFormed(code) && !contains(code, sent):
		e.Code = code
	case code != "":
		e.Detail = "error in the answer is not a well-formed code"
	}
}

// codePattern is narrower than RFC 6749 §5.2, which allows any printable text. All registered codes fit.
var codePattern = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,64}$`)

func wellFormed(code string) bool { return codePattern.MatchString(code) }

// passing are the parts of a description that differ from request to request, as Microsoft Entra ID appends them.
var passing = regexp.MustCompile(`(?i)\b((trace|correlation|request)[ _-]?id:? ?[0-9a-f-]{16,}|timestamp:? ?\d{4}-\d\d-\d\d[T ][\d:.]+(Z|[+-][\d:]+)?)`)

// Describe makes a server's text fit to be shown, like Error.Description. It takes out the credentials, which the
// server may repeat in any spelling.
func Describe(description string, credentials ...string) string {
	return describe(description, spellings(credentials...))
}

// describe takes what we sent out of a server's text, both before it is cleaned, which may change an echo, and after
// it, which may complete one. It drops the passing parts, and cuts the rest.
func describe(description string, sent []string) string {
	description = text.Redact(description, sent...)
	description = passing.ReplaceAllString(text.Words(description), " ")
	description = text.Redact(text.Words(description), sent...)
	return text.CutRunes(description, maxDescription)
}

// spellings returns every form in which a server may echo the credentials: as they are, as they travelled, and as a
// careful server escapes them. It includes each part of an assertion.
func spellings(credentials ...string) []string {
	var all []string
	for _, c := range credentials {
		if c == "" {
			continue // every text contains it
		}
		all = append(all, c, url.QueryEscape(c), url.PathEscape(c), html.EscapeString(c),
			base64.RawStdEncoding.EncodeToString([]byte(c)))
		for part := range strings.SplitSeq(c, ".") {
			if len(part) >= 16 {
				all = append(all, part)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func contains(s string, sent []string) bool {
	return slices.ContainsFunc(sent, func(credential string) bool { return strings.Contains(s, credential) })
}

// transportError classes a request that got no answer, or half of one. ctx is the caller's context; attempt is the one
// that ends after limit.
func transportError(ctx, attempt context.Context, limit time.Duration, err error) *Error {
	e := &Error{Class: ClassRetryable}
	blocked, isBlocked := errors.AsType[*egress.BlockedError](err)
	switch why := egress.Why(err); {
	case isBlocked:
		e.Class, e.Detail, e.cause = ClassTerminal, blocked.Reason, blocked
	case errors.Is(ctx.Err(), context.Canceled):
		e.Detail, e.cause = string(egress.Cancelled), ctx.Err()
	case ctx.Err() != nil:
		e.Detail, e.cause = "no answer before the deadline", ctx.Err()
	case attempt.Err() != nil:
		e.Detail = "no answer within " + limit.String()
	default:
		e.Class, e.Detail = classOf(why), string(why)
	}
	return e
}

// classOf is the table of classes for requests without an answer. A certificate that is not trusted does not heal by
// itself within minutes; everything else may.
func classOf(why egress.Cause) Class {
	switch why {
	case egress.CertificateHost, egress.CertificateExpired, egress.CertificateAuthority, egress.CertificateUntrusted:
		return ClassSlowRetry
	}
	return ClassRetryable
}

// ErrorOf returns what a failed token request means, nil for a nil error.
func ErrorOf(err error) *Error {
	var e *Error
	if err != nil && !errors.As(err, &e) {
		e = &Error{Class: ClassRetryable, Detail: "the request failed"}
	}
	return e
}
