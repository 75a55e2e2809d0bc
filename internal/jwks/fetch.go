// SPDX-License-Identifier: Apache-2.0

package jwks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	// maxValidator bounds an ETag or Last-Modified, in bytes. Longer ones are dropped.
	maxValidator = 256
	// maxMaxAge bounds the freshness a server can claim for its keys.
	maxMaxAge = 24 * time.Hour
)

// Fetched is the answer to one request for a key set.
type Fetched struct {
	// Keys are the usable keys in the server's order. There is at least one unless
	// NotModified is set.
	Keys []Key
	// Skipped are the keys left out.
	Skipped []Skipped
	// ETag and LastModified are the validators to send with the next request; "" if
	// the server gave none.
	ETag, LastModified string
	// MaxAge is how long the set counts as fresh (Cache-Control max-age, RFC 9111
	// §5.2.2.1), at most a day. It is 0 if the server does not say, or says no-cache
	// or no-store.
	MaxAge time.Duration
	// NotModified means that the set has not changed since the server gave the
	// validators.
	NotModified bool
}

// Fetch gets the key set at an absolute http or https URL, conditionally
// (RFC 9110 §13.1) if etag or lastModified, as an earlier Fetch returned them,
// is not "". Every error is an *Error. A set without a usable key is the error
// NoKeys, so that a caller that keeps the last good set cannot lose it to an empty
// one. Of a large set, Fetch always reads the keys whose IDs are named.
func Fetch(ctx context.Context, hc *http.Client, url string, etag, lastModified string, named ...string) (*Fetched, error) {
	u, ok := endpoint(url)
	if !ok {
		return nil, &Error{Reason: Refused, Message: fmt.Sprintf("key set URL %s is not an absolute http or https URL", quote(url))}
	}
	header := http.Header{"Accept": {"application/jwk-set+json, application/json"}}
	if etag != "" {
		header.Set("If-None-Match", etag)
	}
	if lastModified != "" {
		header.Set("If-Modified-Since", lastModified)
	}
	resp, body, failed := get(ctx, hc, u, header) //nolint:bodyclose // get reads and closes it
	if failed != nil {
		return nil, failed
	}
	f := &Fetched{
		ETag:         validator(resp.Header.Get("ETag")),
		LastModified: validator(resp.Header.Get("Last-Modified")),
		MaxAge:       maxAge(resp.Header.Values("Cache-Control")),
		NotModified:  resp.StatusCode == http.StatusNotModified,
	}
	if f.NotModified {
		if f.ETag == "" && f.LastModified == "" { // a 304 need not repeat them
			f.ETag, f.LastModified = etag, lastModified
		}
		return f, nil
	}
	var err error
	if f.Keys, f.Skipped, err = Parse(body, named...); err != nil {
		var malformed *Error
		if errors.As(err, &malformed) {
			malformed.Message = shown(u) + ": " + malformed.Message
		}
		return nil, err
	}
	if len(f.Keys) == 0 {
		message := shown(u) + " has no keys"
		if len(f.Skipped) > 0 {
			message = fmt.Sprintf("%s has no usable key: the first, %s, %s", shown(u), quote(f.Skipped[0].ID), f.Skipped[0].Reason)
		}
		return nil, &Error{Reason: NoKeys, Message: message}
	}
	return f, nil
}

// validator returns a validator that is small enough to send back, else "".
func validator(s string) string {
	if len(s) > maxValidator {
		return ""
	}
	return s
}

// maxAge reads the freshness from Cache-Control's directives.
func maxAge(fields []string) time.Duration {
	var age time.Duration
	for directive := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-cache", "no-store":
			return 0
		case "max-age":
			age = min(seconds(strings.Trim(value, `"`)), maxMaxAge)
		}
	}
	return age
}
