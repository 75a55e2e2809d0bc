// SPDX-License-Identifier: Apache-2.0

package management

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// FuzzRefusal: an answer that is not 2xx becomes an error of a known kind, which says nothing
// of the body but a code.
func FuzzRefusal(f *testing.F) {
	for _, body := range []string{"", "{}", `{"code":"entity.not_found","message":"no"}`, `{"code":7}`, `{"code":"auth.forbidden"}`, `{"code":"s3cret value"}`, "<html>"} {
		f.Add(body, 404, "120")
		f.Add(body, 403, "Tue, 24 Nov 2026 12:00:00 GMT")
	}
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body string, status int, retryAfter string) {
		a := &API{now: func() time.Time { return now }}
		resp := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {retryAfter}}}
		err := a.refusal(Request{Doing: "reading roles"}, resp, []byte(body))
		e, ok := err.(*provision.Error) //nolint:errorlint // refusal makes it
		if !ok || e.Status != status || e.RetryAfter < 0 || !strings.HasPrefix(e.Message, "reading roles: ") {
			t.Fatalf("answered %v", err)
		}
		rest := strings.Replace(e.Message, e.Code, "", 1)
		if e.Code != "" && (len(e.Code) > 64 || !codes.MatchString(e.Code)) || len(rest) > 400 || strings.ContainsAny(e.Message, "\n\x00<") {
			t.Errorf("says %q", e.Message)
		}
		if Gone(err) && e.Code == "" {
			t.Error("a page of a proxy means that something is gone")
		}
	})
}
