// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

func TestClaim(t *testing.T) {
	owner := provision.Owner{Cluster: "c", Kind: "APIResource", Namespace: "payments", Name: "payment-api", UID: "1"}
	other := owner
	other.Cluster = "d"
	for name, tc := range map[string]struct {
		name     string // of the API
		recorded provision.Origin
		adopt    bool
		want     provision.Origin // "" for a conflict
	}{
		"nothing recorded, no mark":                         {name: "Payments"},
		"nothing recorded, and it may be adopted":           {name: "Payments", adopt: true, want: provision.Adopted},
		"nothing recorded, the owner's mark":                {name: owner.DisplayName(), want: provision.Created},
		"nothing recorded, the owner's mark, to be adopted": {name: owner.DisplayName(), adopt: true, want: provision.Created},
		"nothing recorded, another's mark":                  {name: other.DisplayName()},
		"created":                                           {name: owner.DisplayName(), recorded: provision.Created, want: provision.Created},
		"created, and to be adopted later":                  {name: owner.DisplayName(), recorded: provision.Created, adopt: true, want: provision.Created},
		"created and renamed":                               {name: "Payments", recorded: provision.Created, want: provision.Created},
		"created and renamed, to be adopted later":          {name: "Payments", recorded: provision.Created, adopt: true, want: provision.Created},
		"created, and another's now":                        {name: other.DisplayName(), recorded: provision.Created},
		"adopted":                                           {name: "Payments", recorded: provision.Adopted, adopt: true, want: provision.Adopted},
		"adopted, with the owner's mark":                    {name: owner.DisplayName(), recorded: provision.Adopted, adopt: true, want: provision.Adopted},
		"adopted, and no longer to be adopted":              {name: "Payments", recorded: provision.Adopted},
		"observed, and to be adopted":                       {name: "Payments", recorded: provision.Observed, adopt: true, want: provision.Adopted},
		"observed":                                          {name: "Payments", recorded: provision.Observed},
	} {
		s := &apiSync{
			want: provision.API{Owner: owner, Adopt: tc.adopt}, state: &provision.APIState{Origin: tc.recorded},
			api: &resource{ID: "r", Name: tc.name}, recorded: tc.recorded != "",
		}
		if got, err := s.claim(); got != tc.want || (err != nil) != (tc.want == "") || err != nil && provision.KindOf(err) != provision.Conflict {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// What is recorded is of another API.
	s := &apiSync{
		want: provision.API{Owner: owner, Adopt: true}, state: &provision.APIState{Origin: provision.Adopted}, api: &resource{Name: owner.DisplayName()},
	}
	if got, err := s.claim(); got != provision.Created || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExpiryOfASecret(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(ms int64) *float64 { f := float64(ms); return &f }
	for name, tc := range map[string]struct {
		expires *float64
		want    bool
	}{
		"never":             {nil, false},
		"never, in another": {at(0), false},
		"now":               {at(now.UnixMilli()), true},
		"before":            {at(now.UnixMilli() - 1), true},
		"after":             {at(now.UnixMilli() + 1), false},
	} {
		if got := (secret{ExpiresAt: tc.expires}).expired(now); got != tc.want {
			t.Errorf("%s: expired is %t", name, got)
		}
	}
}

// A credential that was never issued to a known application has nothing to be revoked, and a request would fail.
func TestRevokeOfWhatWasNeverIssued(t *testing.T) {
	d := New(Config{Endpoint: "https://auth.example.com", ClientSecret: "s", HTTP: &http.Client{Transport: nobody{}}, Now: func() time.Time { return time.Time{} }})
	if err := d.Revoke(t.Context(), provision.Client{}, &provision.ClientState{}, &provision.Credential{Name: "x"}); err != nil {
		t.Error(err)
	}
	if err := d.Revoke(t.Context(), provision.Client{}, &provision.ClientState{ID: "a"}, &provision.Credential{Name: "x"}); err == nil {
		t.Error("nothing was asked")
	}
}

// nobody answers no request.
type nobody struct{}

func (nobody) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("nobody") }
