// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// FuzzParse: what is read of a registration can be sent in a header or form, and is what
// anybody else reads of it.
func FuzzParse(f *testing.F) {
	for _, body := range []string{
		"", "{}", "null", `{"client_id":"a"}`, `{"client_id":"a","client_secret":"b","client_secret_expires_at":0,"scope":"x y","grant_types":["client_credentials"]}`,
		`{"client_id":"a\n"}`, `{"client_id":"a","client_secret_expires_at":-1}`, `{"client_id":"a","registration_access_token":7,"registration_client_uri":[]}`,
		`{"client_id":"a","audience":"one","Client_ID":"b"}`, `{"client_id":"a","client_id":"b"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body)
		if err != nil {
			if r != nil {
				t.Errorf("%v with %+v", err, r)
			}
			return
		}
		if r.id == "" || strings.ContainsAny(r.id+r.secret+r.token, "\x00\r\n\t") || strings.Contains(r.token, " ") {
			t.Errorf("read %q, %q, %q", r.id, r.secret, r.token)
		}
		var members map[string]any
		if json.Unmarshal(body, &members) != nil || members["client_id"] != r.id {
			t.Errorf("read %q of %q", r.id, body)
		}
		if r.expires != nil && *r.expires < 0 {
			t.Errorf("expires at %d", *r.expires)
		}
	})
}

// FuzzErrorAnswer: what is told of an error is short, printable, and none of the secrets.
func FuzzErrorAnswer(f *testing.F) {
	const secret = "correct-horse-battery"
	for _, body := range []string{"", `{"error":"invalid_token","error_description":"no"}`, `{"error":"` + secret + `","error_description":"` + secret + ` is wrong"}`, `{"error_description":"a\n\u001b[31m"}`} {
		f.Add(body, 400)
	}
	f.Fuzz(func(t *testing.T, body string, status int) {
		a := &answer{status: status, body: []byte(body), secrets: []string{secret, url.QueryEscape(secret)}}
		for _, said := range []string{a.code(), a.description()} {
			if strings.Contains(said, secret) || strings.ContainsAny(said, "\n\r\x00\x1b") || len(said) > 2048 {
				t.Errorf("says %q", said)
			}
		}
		if a.absent() && a.busy() {
			t.Error("absent and busy")
		}
	})
}
