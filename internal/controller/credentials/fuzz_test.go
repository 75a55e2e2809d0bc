// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/base64"
	"strings"
	"testing"
)

// FuzzClaimsOf: a token is read as three parts, whose second is JSON, or not at all.
func FuzzClaimsOf(f *testing.F) {
	for _, payload := range []string{"", "{}", `{"iss":"a","aud":"b"}`, `{"aud":["a","b"]}`, `{"aud":[7]}`, `{"iss":7}`, `null`} {
		f.Add("e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln")
	}
	f.Add("..")
	f.Add("e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":["a"]}`))) // two parts
	f.Fuzz(func(t *testing.T, token string) {
		claims := claimsOf(token)
		if (claims.Issuer != "" || claims.Audience != nil) && strings.Count(token, ".") != 2 {
			t.Errorf("read %+v of %q", claims, token)
		}
		if longer := claimsOf(token + ".x.x"); longer.Issuer != "" || longer.Audience != nil {
			t.Errorf("read %+v of %q and two parts more", longer, token)
		}
	})
}
