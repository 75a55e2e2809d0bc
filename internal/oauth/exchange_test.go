// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/m2m-operator/m2m-operator/internal/egress"
)

// secret has every character that encodings treat specially.
const secret = `s3ntinel +/%&="<ü>`

var (
	now  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	auth = ClientSecretBasic("cart", secret)

	ignoreCause = cmpopts.IgnoreUnexported(Error{})
)

// client returns a client for servers on loopback, with a time limit.
func client(t *testing.T, timeout time.Duration) *http.Client {
	t.Helper()
	hc, err := egress.Policy{AllowHTTP: true, AllowLoopback: true}.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	hc.Timeout = timeout
	t.Cleanup(hc.CloseIdleConnections)
	return hc
}

// exchange asks a server that runs h, and fails unless it gets exactly one request.
func exchange(t *testing.T, h http.HandlerFunc, timeout time.Duration, req TokenRequest) (*Token, error) {
	t.Helper()
	var requests atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		h(w, r)
	}))
	defer s.Close()
	req.Endpoint = s.URL + "/token?tenant=a"
	if req.Authentication == nil {
		req.Authentication = auth
	}
	req.Now = now
	token, err := Exchange(t.Context(), client(t, timeout), req)
	if n := requests.Load(); n != 1 {
		t.Errorf("the server got %d requests, want 1", n)
	}
	return token, err
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %T (%v), want *Error", err, err)
	}
	assertNoSecret(t, fmt.Sprintf("%v %+v %#v", e, *e, e))
	return e
}

func assertNoSecret(t *testing.T, text string) {
	t.Helper()
	for _, s := range spellings(secret) {
		if strings.Contains(text, s) {
			t.Errorf("%q holds the secret as %q", text, s)
		}
	}
}

// reply answers with a status, a body, and headers in pairs.
func reply(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func TestRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		req       TokenRequest
		wantForm  url.Values
		wantBasic bool
	}{
		"basic, all parameters": {
			TokenRequest{Authentication: auth, Scopes: []string{"a", "b:c"}, Resource: "https://payment.example.com/api", Audience: "payment"},
			url.Values{"grant_type": {"client_credentials"}, "scope": {"a b:c"}, "resource": {"https://payment.example.com/api"}, "audience": {"payment"}},
			true,
		},
		"parameters of the server's own": {
			TokenRequest{Authentication: auth, Resource: "r", Parameters: map[string]string{"organization_id": "a&b=c", "audience": "payment"}},
			url.Values{"grant_type": {"client_credentials"}, "resource": {"r"}, "organization_id": {"a&b=c"}, "audience": {"payment"}}, true,
		},
		"basic, no parameters": {TokenRequest{Authentication: auth}, url.Values{"grant_type": {"client_credentials"}}, true},
		"post": {
			TokenRequest{Authentication: ClientSecretPost("cart", secret)},
			url.Values{"grant_type": {"client_credentials"}, "client_id": {"cart"}, "client_secret": {secret}}, false,
		},
		"assertion": {
			TokenRequest{Authentication: JWTBearerAssertion("cart", "e.y.J")},
			url.Values{"grant_type": {"client_credentials"}, "client_id": {"cart"}, "client_assertion_type": {assertionType}, "client_assertion": {"e.y.J"}}, false,
		},
		"assertion without client id": {
			TokenRequest{Authentication: JWTBearerAssertion("", "e.y.J")},
			url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {assertionType}, "client_assertion": {"e.y.J"}}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := exchange(t, func(w http.ResponseWriter, r *http.Request) {
				if err := r.ParseForm(); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(tc.wantForm, r.PostForm); diff != "" {
					t.Errorf("form (-want +got):\n%s", diff)
				}
				user, password, basic := r.BasicAuth()
				if basic != tc.wantBasic {
					t.Errorf("HTTP Basic used: %t", basic)
				}
				if basic {
					// RFC 6749 §2.3.1: the server undoes the form encoding.
					user, _ = url.QueryUnescape(user)
					if password, _ = url.QueryUnescape(password); user != "cart" || password != secret {
						t.Errorf("HTTP Basic holds %q, %q", user, password)
					}
				}
				if r.Method != http.MethodPost || r.URL.RawQuery != "tenant=a" || r.Header.Get("Accept") != "application/json" {
					t.Errorf("got %s %s, Accept %q", r.Method, r.URL, r.Header.Get("Accept"))
				}
				reply(200, `{"access_token":"t"}`)(w, r)
			}, time.Second, tc.req)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Nobody else can set the package's own parameters, in any spelling: x/oauth2 would let grant_type through.
func TestMisplacedParameters(t *testing.T) {
	for name, tc := range map[string]struct {
		parameter string
		req       TokenRequest
	}{
		"grant_type":            {"grant_type", TokenRequest{}},
		"grant_type, capitals":  {"Grant_Type", TokenRequest{}},
		"scope":                 {"scope", TokenRequest{}},
		"resource":              {"resource", TokenRequest{Audience: "payment"}},
		"client_id":             {"client_id", TokenRequest{}},
		"client_secret":         {"client_secret", TokenRequest{}},
		"client_assertion":      {"client_assertion", TokenRequest{}},
		"client_assertion_type": {"client_assertion_type", TokenRequest{}},
		"audience in use":       {"Audience", TokenRequest{Audience: "payment"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := tc.req
			req.Endpoint, req.Authentication, req.Now = "https://auth.example.com/token", auth, now
			req.Parameters = map[string]string{"a": "b", tc.parameter: secret}
			hc := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				t.Error("a request was sent")
				return nil, io.EOF
			})}
			_, err := Exchange(t.Context(), hc, req)
			want := Error{Class: ClassTerminal, Detail: fmt.Sprintf("parameter %q must not be set", tc.parameter)}
			if diff := cmp.Diff(want, *asError(t, err), ignoreCause); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestToken(t *testing.T) {
	longest := strings.Repeat("x", maxTokenBytes)
	const form = "application/x-www-form-urlencoded;charset=utf-8"
	for name, tc := range map[string]struct {
		body        string
		contentType string
		want        Token
	}{
		"all members":                     {`{"access_token":"t","token_type":"Bearer","expires_in":3600,"scope":"a b"}`, "", Token{Value: "t", ExpiresIn: time.Hour, Scopes: []string{"a", "b"}, ScopesReturned: true}},
		"only the token":                  {`{"access_token":"t"}`, "", Token{Value: "t"}},
		"members that are null":           {`{"access_token":"t","token_type":null,"expires_in":null,"scope":null,"error":null}`, "", Token{Value: "t"}},
		"an empty error":                  {`{"access_token":"t","error":""}`, "", Token{Value: "t"}},
		"unknown members of any type":     {`{"access_token":"t","refresh_token":7,"x":{"y":[]}}`, "", Token{Value: "t"}},
		"a member twice: the last counts": {`{"access_token":"s","access_token":"t"}`, "", Token{Value: "t"}},
		"members are case-sensitive":      {`{"access_token":"t","ACCESS_TOKEN":"s"}`, "", Token{Value: "t"}},
		"type in lower case":              {`{"access_token":"t","token_type":"bearer"}`, "", Token{Value: "t"}},
		"lifetime as a string":            {`{"access_token":"t","expires_in":"600"}`, "", Token{Value: "t", ExpiresIn: 10 * time.Minute}},
		"lifetime with a fraction":        {`{"access_token":"t","expires_in":600.9}`, "", Token{Value: "t", ExpiresIn: 10 * time.Minute}},
		"lifetime beyond ten years":       {`{"access_token":"t","expires_in":99999999999}`, "", Token{Value: "t", ExpiresIn: maxLifetime}},
		"lifetime beyond any number":      {`{"access_token":"t","expires_in":1e999}`, "", Token{Value: "t", ExpiresIn: maxLifetime}},
		"a lifetime of zero":              {`{"access_token":"t","expires_in":0}`, "", Token{Value: "t"}},
		"a lifetime of a trifle":          {`{"access_token":"t","expires_in":0.5}`, "", Token{Value: "t"}},
		"a negative lifetime":             {`{"access_token":"t","expires_in":"-1"}`, "", Token{Value: "t"}},
		"a lifetime of -infinity":         {`{"access_token":"t","expires_in":-1e999}`, "", Token{Value: "t"}},
		"an empty lifetime":               {`{"access_token":"t","expires_in":""}`, "", Token{Value: "t"}},
		"an empty lifetime in a form":     {`access_token=t&expires_in=`, form, Token{Value: "t"}},
		"a lifetime that is a word":       {`{"access_token":"t","expires_in":"soon"}`, "", Token{Value: "t"}},
		"a lifetime that is a list":       {`{"access_token":"t","expires_in":[1]}`, "", Token{Value: "t"}},
		"scopes as a list":                {`{"access_token":"t","scope":["a","b c"]}`, "", Token{Value: "t", Scopes: []string{"a", "b", "c"}, ScopesReturned: true}},
		"scopes as an empty list":         {`{"access_token":"t","scope":[]}`, "", Token{Value: "t", ScopesReturned: true}},
		"an empty scope":                  {`{"access_token":"t","scope":""}`, "", Token{Value: "t", ScopesReturned: true}},
		"scopes with more spaces":         {`{"access_token":"t","scope":" a  b "}`, "", Token{Value: "t", Scopes: []string{"a", "b"}, ScopesReturned: true}},
		"a lifetime of a second":          {`{"access_token":"t","expires_in":1}`, "", Token{Value: "t", ExpiresIn: time.Second}},
		"the outermost characters":        {`{"access_token":"!~","scope":"! ~"}`, "", Token{Value: "!~", Scopes: []string{"!", "~"}, ScopesReturned: true}},
		"the longest token":               {`{"access_token":"` + longest + `"}`, "", Token{Value: longest}},
		"JSON of another type":            {`{"access_token":"t"}`, "text/html", Token{Value: "t"}},
		"a form":                          {`access_token=t&token_type=bearer&expires_in=60&scope=a+b`, form, Token{Value: "t", ExpiresIn: time.Minute, Scopes: []string{"a", "b"}, ScopesReturned: true}},
		"a form that claims to be text":   {`access_token=t`, "text/plain", Token{Value: "t"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.contentType == "" {
				tc.contentType = "application/json"
			}
			got, err := exchange(t, reply(200, tc.body, "Content-Type", tc.contentType), time.Second, TokenRequest{})
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Type, tc.want.RequestedAt = "Bearer", now
			if diff := cmp.Diff(plain(tc.want), plain(*got), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("token (-want +got):\n%s", diff)
			}
		})
	}
}

// plain is a Token whose value a test's output shows.
type plain Token

func TestRefusals(t *testing.T) {
	const html = "<html><body>Bad gateway s3ntinel</body></html>"
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   Error
		text   string // of Error()
	}{
		"401 invalid_client":       {reply(401, `{"error":"invalid_client","error_description":"bad secret"}`), Error{Class: ClassSlowRetry, Code: "invalid_client", Description: "bad secret"}, "invalid_client (HTTP 401): bad secret"},
		"400 invalid_client":       {reply(400, `{"error":"invalid_client"}`), Error{Class: ClassSlowRetry, Code: "invalid_client"}, "invalid_client (HTTP 400)"},
		"400 invalid_request":      {reply(400, `{"error":"invalid_request","error_description":"client secret has expired"}`), Error{Class: ClassSlowRetry, Code: "invalid_request", Description: "client secret has expired"}, "invalid_request (HTTP 400): client secret has expired"},
		"invalid_grant":            {reply(400, `{"error":"invalid_grant"}`), Error{Class: ClassSlowRetry, Code: "invalid_grant"}, ""},
		"invalid_scope":            {reply(400, `{"error":"invalid_scope"}`), Error{Class: ClassSlowRetry, Code: "invalid_scope"}, ""},
		"invalid_target":           {reply(400, `{"code":"oidc.invalid_target","error":"invalid_target"}`), Error{Class: ClassSlowRetry, Code: "invalid_target"}, ""},
		"unauthorized_client":      {reply(400, `{"error":"unauthorized_client"}`), Error{Class: ClassSlowRetry, Code: "unauthorized_client"}, ""},
		"403 access_denied":        {reply(403, `{"error":"access_denied"}`), Error{Class: ClassSlowRetry, Code: "access_denied"}, ""},
		"a code of the server's":   {reply(400, `{"error":"acme:quota-1.2"}`), Error{Class: ClassSlowRetry, Code: "acme:quota-1.2"}, ""},
		"unsupported_grant_type":   {reply(400, `{"error":"unsupported_grant_type"}`), Error{Class: ClassTerminal, Code: "unsupported_grant_type"}, ""},
		"temporarily_unavailable":  {reply(400, `{"error":"temporarily_unavailable"}`), Error{Class: ClassRetryable, Code: "temporarily_unavailable"}, ""},
		"server_error":             {reply(400, `{"error":"server_error"}`), Error{Class: ClassRetryable, Code: "server_error"}, ""},
		"slow_down":                {reply(400, `{"error":"slow_down"}`), Error{Class: ClassRetryable, Code: "slow_down"}, ""},
		"200 with an error":        {reply(200, `{"access_token":"t","error":"invalid_scope"}`), Error{Class: ClassSlowRetry, Code: "invalid_scope"}, "invalid_scope (HTTP 200)"},
		"200 with a server_error":  {reply(200, `{"error":"server_error"}`), Error{Class: ClassRetryable, Code: "server_error"}, ""},
		"an error as a form":       {reply(400, "error=invalid_scope&error_description=no+such", "Content-Type", "application/x-www-form-urlencoded"), Error{Class: ClassSlowRetry, Code: "invalid_scope", Description: "no such"}, ""},
		"error and no string":      {reply(200, `{"error":{"code":7}}`), Error{Class: ClassRetryable, Detail: "error in the answer is not a string"}, ""},
		"400, error and no string": {reply(400, `{"error":7,"error_description":7}`), Error{Class: ClassSlowRetry}, "HTTP 400"},
		"error that is no code":    {reply(400, `{"error":"it went wrong","error_description":"d"}`), Error{Class: ClassSlowRetry, Detail: "error in the answer is not a well-formed code", Description: "d"}, "HTTP 400: error in the answer is not a well-formed code: d"},
		"error that is too long":   {reply(200, `{"error":"`+strings.Repeat("x", 65)+`"}`), Error{Class: ClassSlowRetry, Detail: "error in the answer is not a well-formed code"}, ""},
		"401 and nothing":          {reply(401, ``), Error{Class: ClassSlowRetry}, "HTTP 401"},
		"403 and HTML":             {reply(403, html, "Content-Type", "text/html"), Error{Class: ClassSlowRetry}, "HTTP 403"},
		"404":                      {reply(404, `not found`, "Content-Type", "text/plain"), Error{Class: ClassSlowRetry}, "HTTP 404"},
		"408":                      {reply(408, ``), Error{Class: ClassRetryable}, "HTTP 408"},
		"500 with a code":          {reply(500, `{"error":"invalid_client"}`), Error{Class: ClassRetryable, Code: "invalid_client"}, "invalid_client (HTTP 500)"},
		"502 and HTML":             {reply(502, html, "Content-Type", "text/html"), Error{Class: ClassRetryable}, "HTTP 502"},
		"503 with seconds":         {reply(503, ``, "Retry-After", "7"), Error{Class: ClassRetryable, RetryAfter: 7 * time.Second}, "HTTP 503"},
		"504 and text":             {reply(504, `%zz`, "Content-Type", "text/plain"), Error{Class: ClassRetryable}, ""},
		"599":                      {reply(599, ``), Error{Class: ClassRetryable}, ""},
		"999":                      {reply(999, ``), Error{Class: ClassRetryable}, ""},
		"429":                      {reply(429, ``), Error{Class: ClassRetryable}, "HTTP 429"},
		"429 with seconds":         {reply(429, ``, "Retry-After", "120"), Error{Class: ClassRetryable, RetryAfter: 2 * time.Minute}, ""},
		"429 with a date":          {reply(429, ``, "Date", now.Format(http.TimeFormat), "Retry-After", now.Add(90*time.Second).Format(http.TimeFormat)), Error{Class: ClassRetryable, RetryAfter: 90 * time.Second}, ""},
		"429 with a date gone by":  {reply(429, ``, "Retry-After", now.Add(-time.Hour).Format(http.TimeFormat)), Error{Class: ClassRetryable}, ""},
		"429 with a far date":      {reply(429, ``, "Retry-After", now.AddDate(9, 0, 0).Format(http.TimeFormat)), Error{Class: ClassRetryable, RetryAfter: time.Hour}, ""},
		"429 with many seconds":    {reply(429, ``, "Retry-After", "86400"), Error{Class: ClassRetryable, RetryAfter: time.Hour}, ""},
		"429 with absurd seconds":  {reply(429, ``, "Retry-After", strings.Repeat("9", 40)), Error{Class: ClassRetryable, RetryAfter: time.Hour}, ""},
		"429 with a negative":      {reply(429, ``, "Retry-After", "-5"), Error{Class: ClassRetryable}, ""},
		"429 with nonsense":        {reply(429, ``, "Retry-After", "soon"), Error{Class: ClassRetryable}, ""},
		"301":                      {reply(301, ``, "Location", "/other"), Error{Class: ClassTerminal, Detail: "answered with a redirect, which is not followed"}, "HTTP 301: answered with a redirect, which is not followed"},
		"307 with a bad location":  {reply(307, `{"access_token":"t"}`, "Location", "http://%zz"), Error{Class: ClassTerminal, Detail: "answered with a redirect, which is not followed"}, ""},
		"308 without location":     {reply(308, `{"error":"server_error"}`), Error{Class: ClassTerminal, Detail: "answered with a redirect, which is not followed"}, ""},
		"304":                      {reply(304, ``), Error{Class: ClassTerminal, Detail: "answered with a redirect, which is not followed"}, ""},
		"200 and nothing":          {reply(200, ``), Error{Class: ClassRetryable, Detail: "answer is empty"}, "HTTP 200: answer is empty"},
		"204":                      {reply(204, ``), Error{Class: ClassRetryable, Detail: "answer is empty"}, ""},
		"200 and HTML":             {reply(200, html, "Content-Type", "text/html"), Error{Class: ClassRetryable, Detail: "answer is not JSON"}, ""},
		"200 and broken JSON":      {reply(200, `{"access_token":"t"`), Error{Class: ClassRetryable, Detail: "answer is not JSON"}, ""},
		"200 and two JSON values":  {reply(200, `{"access_token":"t"}{}`), Error{Class: ClassRetryable, Detail: "answer is not JSON"}, ""},
		"200 and a list":           {reply(200, `["t"]`), Error{Class: ClassRetryable, Detail: "answer is not a JSON object"}, ""},
		"200 and null":             {reply(200, `null`), Error{Class: ClassRetryable, Detail: "answer has no access_token"}, ""},
		"200 and a broken form":    {reply(200, `%zz`, "Content-Type", "text/plain"), Error{Class: ClassRetryable, Detail: "answer of type text/plain is not a form"}, ""},
		"200 and text":             {reply(200, `OK`, "Content-Type", "text/plain"), Error{Class: ClassRetryable, Detail: "answer has no access_token"}, ""},
		"200 and a huge body":      {reply(200, `{"access_token":"`+strings.Repeat("x", 2*egress.MaxBody)+`"}`), Error{Class: ClassRetryable, Detail: "answer is larger than 524288 bytes"}, "HTTP 200: answer is larger than 524288 bytes"},
		"403 and a huge body":      {reply(403, strings.Repeat("x", 2*egress.MaxBody), "Retry-After", "9"), Error{Class: ClassSlowRetry, Detail: "answer is larger than 524288 bytes", RetryAfter: 9 * time.Second}, ""},
		"no access_token":          {reply(200, `{"token_type":"Bearer"}`), Error{Class: ClassRetryable, Detail: "answer has no access_token"}, ""},
		"access_token is empty":    {reply(200, `{"access_token":""}`), Error{Class: ClassSlowRetry, Detail: "answer has no access_token"}, ""},
		"access_token is null":     {reply(200, `{"access_token":null}`), Error{Class: ClassRetryable, Detail: "answer has no access_token"}, ""},
		"access_token in capitals": {reply(200, `{"Access_Token":"t"}`), Error{Class: ClassRetryable, Detail: "answer has no access_token"}, ""},
		"access_token is a number": {reply(200, `{"access_token":7}`), Error{Class: ClassSlowRetry, Detail: "access_token in the answer is not a string"}, ""},
		"access_token, a newline":  {reply(200, `{"access_token":"t\r\nX-Admin: 1"}`), Error{Class: ClassSlowRetry, Detail: "access_token in the answer has characters that are not allowed in a token"}, ""},
		"access_token, a space":    {reply(200, `{"access_token":"t t"}`), Error{Class: ClassSlowRetry, Detail: "access_token in the answer has characters that are not allowed in a token"}, ""},
		"access_token, not ASCII":  {reply(200, `{"access_token":"tü"}`), Error{Class: ClassSlowRetry, Detail: "access_token in the answer has characters that are not allowed in a token"}, ""},
		"access_token is long":     {reply(200, `{"access_token":"`+strings.Repeat("x", maxTokenBytes+1)+`"}`), Error{Class: ClassSlowRetry, Detail: "access_token in the answer is longer than 65536 bytes"}, ""},
		"scope is an object":       {reply(200, `{"access_token":"t","scope":{"a":1}}`), Error{Class: ClassSlowRetry, Detail: "scope in the answer is neither a string nor a list of strings"}, ""},
		"scopes are numbers":       {reply(200, `{"access_token":"t","scope":[1]}`), Error{Class: ClassSlowRetry, Detail: "scope in the answer is neither a string nor a list of strings"}, ""},
		"scopes with a quote":      {reply(200, `{"access_token":"t","scope":["a","a\"b"]}`), Error{Class: ClassSlowRetry, Detail: "scope in the answer has characters that are not allowed in a scope"}, ""},
		"scope with a quote":       {reply(200, `{"access_token":"t","scope":"a\"b"}`), Error{Class: ClassSlowRetry, Detail: "scope in the answer has characters that are not allowed in a scope"}, ""},
		"scope with a line break":  {reply(200, `{"access_token":"t","scope":"a\nb"}`), Error{Class: ClassSlowRetry, Detail: "scope in the answer has characters that are not allowed in a scope"}, ""},
		"scope, not ASCII":         {reply(200, `{"access_token":"t","scope":"ä"}`), Error{Class: ClassSlowRetry, Detail: "scope in the answer has characters that are not allowed in a scope"}, ""},
		"token_type is a number":   {reply(200, `{"access_token":"t","token_type":7}`), Error{Class: ClassSlowRetry, Detail: "token_type in the answer is not a string"}, ""},
		"token_type is DPoP":       {reply(200, `{"access_token":"t","token_type":"DPoP"}`), Error{Class: ClassTerminal, Detail: "token type DPoP is not supported, only Bearer"}, "HTTP 200: token type DPoP is not supported, only Bearer"},
		"token_type is no name":    {reply(200, `{"access_token":"t","token_type":"<b>"}`), Error{Class: ClassTerminal, Detail: "token type is not supported, only Bearer"}, ""},
		"broken gzip":              {reply(200, "this is not gzip at all", "Content-Encoding", "gzip"), Error{Class: ClassRetryable, Detail: "answer broke off: connection failed"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := exchange(t, tc.answer, 2*time.Second, TokenRequest{})
			got := asError(t, err)
			if token != nil || got.Status == 0 {
				t.Errorf("got token %v, status %d", token, got.Status)
			}
			tc.want.Status = got.Status // each row's name has it
			if diff := cmp.Diff(tc.want, *got, ignoreCause); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if tc.text != "" && got.Error() != tc.text {
				t.Errorf("Error() = %q, want %q", got, tc.text)
			}
		})
	}
}

// What a hostile or careless server writes into a description ends up before a person's eyes: in one line, bounded,
// without the credentials, and the same each time.
func TestDescription(t *testing.T) {
	for name, tc := range map[string]struct{ sent, want string }{
		"is trimmed and kept in one line":     {" bad\r\n\tsecret ", "bad secret"},
		"loses control characters and colour": {"a\x1b[31mb\u202ec\x00", "a [31mb c"},
		"is cut at 500 runes":                 {strings.Repeat("ü", 600), strings.Repeat("ü", 499) + "…"},
		"may have 500 runes":                  {strings.Repeat("ü", 500), strings.Repeat("ü", 500)},
		"keeps what Hydra says at the end": {
			"The requested scope is invalid, unknown, or malformed. The OAuth 2.0 Client is not allowed to request scope 'payments:write'. Check that the client's configuration lists the scope and that the request spells it as it is there. Only payments:read is listed.",
			"The requested scope is invalid, unknown, or malformed. The OAuth 2.0 Client is not allowed to request scope 'payments:write'. Check that the client's configuration lists the scope and that the request spells it as it is there. Only payments:read is listed.",
		},
		"loses the secret":                   {"secret " + secret + " is wrong", "secret [redacted] is wrong"},
		"loses the secret at the cut":        {strings.Repeat("x", 490) + secret, strings.Repeat("x", 490) + "[redacted]"},
		"loses the encoded secret":           {"got " + url.QueryEscape(secret), "got [redacted]"},
		"loses the escaped secret":           {"got s3ntinel +/%&amp;=&#34;&lt;ü&gt;", "got [redacted]"},
		"loses the header":                   {"header Basic Y2FydDpzM250aW5lbCslMkIlMkYlMjUlMjYlM0QlMjIlM0MlQzMlQkMlM0U=", "header Basic [redacted]="},
		"loses a secret that is broken up":   {strings.Replace(secret, " ", "\x00", 1), "[redacted]"},
		"loses ids and times of the request": {"AADSTS7000215: Invalid client secret provided. Trace ID: 0d4b2a1c-6a2e-4b7c-9d0e-1f2a3b4c5d6e\r\nCorrelation ID: 5f4e3d2c-1b0a-4c9d-8e7f-6a5b4c3d2e1f\r\nTimestamp: 2026-03-07 20:30:00Z", "AADSTS7000215: Invalid client secret provided."},
		"keeps a time that stays":            {"secret expired at 2026-03-07T20:30:00Z", "secret expired at 2026-03-07T20:30:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(map[string]string{"error": "invalid_client", "error_description": tc.sent})
			if err != nil {
				t.Fatal(err)
			}
			_, err = exchange(t, reply(401, string(body)), time.Second, TokenRequest{})
			if got := asError(t, err); got.Description != tc.want || got.Code != "invalid_client" {
				t.Errorf("got %q, want %q", got.Description, tc.want)
			}
		})
	}
}

// Redaction finds credentials that cleaning would change.
func TestRedactionComesBeforeTidying(t *testing.T) {
	for _, odd := range []string{"two  spaces", "a\x01bell", "request id 0123456789abcdef01"} {
		for _, credentials := range [][]string{{odd, ""}, {"", odd}} {
			if got := Describe("<"+odd+">", credentials...); got != "<[redacted]>" {
				t.Errorf("%q became %q", odd, got)
			}
		}
	}
}

func TestEchoedCredentials(t *testing.T) {
	key := signingKey(t, "ES256")
	for name, a := range map[string]Authentication{
		"basic":           ClientSecretBasic("cart", "S3ntinelS3ntinel"),
		"post":            ClientSecretPost("cart", "S3ntinelS3ntinel"),
		"private key JWT": PrivateKeyJWT("cart", key, "https://auth.example.com"),
		"assertion":       JWTBearerAssertion("", "S3ntinelHeader01.S3ntinelPayload2.S3ntinelSignature"),
	} {
		t.Run(name, func(t *testing.T) {
			var credential string
			for _, body := range []string{
				`{"error":"invalid_client","error_description":"got %s"}`,
				`{"error":"%s"}`,
				`{"access_token":"t","token_type":"%s"}`,
				`{"access_token":"%s "}`,
				`%s`,
			} {
				for _, part := range []func(string) string{
					func(s string) string { return s },
					func(s string) string { return s[strings.LastIndex(s, ".")+1:] },
				} {
					_, err := exchange(t, func(w http.ResponseWriter, r *http.Request) {
						_ = r.ParseForm()
						_, credential, _ = r.BasicAuth()
						credential = part(credential + r.PostForm.Get("client_secret") + r.PostForm.Get("client_assertion"))
						reply(200, fmt.Sprintf(body, credential))(w, r)
					}, time.Second, TokenRequest{Authentication: a})
					if e := asError(t, err); len(credential) < 16 || strings.Contains(e.Error(), credential) {
						t.Errorf("%s: error %q echoes %q", body, e, credential)
					}
				}
			}
		})
	}
}

func TestTokenDoesNotShow(t *testing.T) {
	token := Token{Value: "S3ntinel", Type: "Bearer", ExpiresIn: time.Hour, Scopes: []string{"a"}}
	marshalled, err := json.Marshal(map[string]any{"value": token, "pointer": &token})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "value", token, "pointer", &token, "nested", map[string]any{"t": token})
	for _, s := range []string{
		fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q %x %d", token, token, token, token, token, token, token),
		fmt.Sprintf("%v %+v %#v", &token, []Token{token}, struct{ T *Token }{&token}), token.String(), token.GoString(),
		string(marshalled), log.String(),
	} {
		if strings.Contains(s, "S3ntinel") || strings.Contains(s, fmt.Sprintf("%x", "S3ntinel")) {
			t.Errorf("%q shows the token", s)
		}
	}
	if want := `Bearer token, expires in 1h0m0s, scopes ["a"]`; token.String() != want {
		t.Errorf("String() = %q, want %q", token, want)
	}
}
