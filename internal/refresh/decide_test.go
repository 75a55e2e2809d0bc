// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func TestMintAndUsable(t *testing.T) {
	type verdict struct {
		Reason Reason
		Yes    bool
	}
	working := func() Input {
		return Input{
			Recorded: &Token{
				InputsHash: "inputs", ValueHash: "value",
				IssuedAt: issued, ExpiresAt: issued.Add(time.Hour),
			},
			StoredValueHash: "value", WantInputsHash: "inputs",
			RefreshAt: issued.Add(40 * time.Minute), Now: issued.Add(time.Minute),
		}
	}
	tests := map[string]struct {
		change       func(*Input)
		mint, usable verdict
	}{
		"a fresh token is left alone": {
			func(*Input) {}, verdict{"", false}, verdict{"", true}},
		"a client without a token gets one": {
			func(in *Input) { *in = Input{Now: issued} }, verdict{Missing, true}, verdict{Missing, false}},
		"a token nobody recorded is replaced": {
			func(in *Input) { in.Recorded = nil }, verdict{Missing, true}, verdict{Missing, false}},
		"a deleted token is restored": {
			func(in *Input) { in.StoredValueHash = "" }, verdict{Missing, true}, verdict{Missing, false}},
		"an edited token is replaced": {
			func(in *Input) { in.StoredValueHash = "other" }, verdict{Edited, true}, verdict{Edited, false}},
		"other inputs replace it": {
			func(in *Input) { in.WantInputsHash = "other" }, verdict{InputsChanged, true}, verdict{InputsChanged, false}},
		"a revoked key replaces it": {
			func(in *Input) { in.Revoked = true }, verdict{KeyRevoked, true}, verdict{KeyRevoked, false}},
		"a key that was replaced under its ID replaces it, while it works": {
			func(in *Input) { in.Superseded = true }, verdict{KeyReplaced, true}, verdict{"", true}},
		"a token that its API would refuse by now is replaced": {
			func(in *Input) { in.Refused = true }, verdict{NotVerified, true}, verdict{NotVerified, false}},
		"a nanosecond before it is due": {
			func(in *Input) { in.Now = in.RefreshAt.Add(-1) }, verdict{"", false}, verdict{"", true}},
		"due, and still usable": {
			func(in *Input) { in.Now = in.RefreshAt }, verdict{Due, true}, verdict{"", true}},
		"a nanosecond before it expires": {
			func(in *Input) { in.Now = in.Recorded.ExpiresAt.Add(-1) }, verdict{Due, true}, verdict{"", true}},
		"expired: due and unusable": {
			func(in *Input) { in.Now = in.Recorded.ExpiresAt }, verdict{Due, true}, verdict{Expired, false}},
		"expired before it is due waits, against hot loops": {
			func(in *Input) { in.Recorded.ExpiresAt = issued }, verdict{"", false}, verdict{Expired, false}},
		"without a plan it is due": {
			func(in *Input) { in.RefreshAt = time.Time{} }, verdict{Due, true}, verdict{"", true}},
		"the first violation speaks": {
			func(in *Input) { in.StoredValueHash, in.WantInputsHash, in.Revoked = "other", "other", true },
			verdict{Edited, true}, verdict{Edited, false}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := working()
			tc.change(&in)

			reason, message, yes := Mint(in)
			if diff := cmp.Diff(tc.mint, verdict{reason, yes}); diff != "" {
				t.Errorf("Mint (-want +got):\n%s", diff)
			}
			checkMessage(t, message, yes)

			reason, message, yes = Usable(in)
			if diff := cmp.Diff(tc.usable, verdict{reason, yes}); diff != "" {
				t.Errorf("Usable (-want +got):\n%s", diff)
			}
			checkMessage(t, message, !yes)
		})
	}
}

// checkMessage holds the form of a condition's message.
func checkMessage(t *testing.T, message string, want bool) {
	t.Helper()
	if (message != "") != want {
		t.Errorf("message = %q", message)
	}
	if want && (!unicode.IsUpper(rune(message[0])) || strings.HasSuffix(message, ".")) {
		t.Errorf("message %q is no sentence without a full stop", message)
	}
}

func TestChainsDifferInTheLastEntryOnly(t *testing.T) {
	in := Input{
		Recorded: &Token{InputsHash: "i", ValueHash: "v"}, StoredValueHash: "v", WantInputsHash: "i", Now: issued,
	}
	if len(mintChecks) != len(usableChecks) {
		t.Fatalf("%d and %d checks", len(mintChecks), len(usableChecks))
	}
	for i := range mintChecks {
		mint, _, _ := mintChecks[i](in)
		usable, _, _ := usableChecks[i](in)
		if last := i == len(mintChecks)-1; (mint != usable) != last {
			t.Errorf("entry %d: %s and %s", i, mint, usable)
		}
	}
}

func TestHashInputs(t *testing.T) {
	base := func() Inputs {
		return Inputs{
			Issuer: "https://auth.example.com", TokenEndpoint: "https://auth.example.com/token", ClientID: "cart",
			Credential: "uid/7", Resource: "https://payment.example.com", Audience: "",
			Scopes: []string{"payments:read", "payments:write"},
		}
	}
	tests := map[string]struct {
		change func(*Inputs)
		same   bool
	}{
		"nothing":               {func(*Inputs) {}, true},
		"the order of scopes":   {func(in *Inputs) { in.Scopes = []string{"payments:write", "payments:read"} }, true},
		"a scope twice":         {func(in *Inputs) { in.Scopes = append(in.Scopes, "payments:read") }, true},
		"the issuer":            {func(in *Inputs) { in.Issuer += "/" }, false},
		"the endpoint":          {func(in *Inputs) { in.TokenEndpoint += "2" }, false},
		"the client":            {func(in *Inputs) { in.ClientID = "cart2" }, false},
		"the credential":        {func(in *Inputs) { in.Credential = "uid/8" }, false},
		"the resource":          {func(in *Inputs) { in.Resource = "https://other.example.com" }, false},
		"resource for audience": {func(in *Inputs) { in.Resource, in.Audience = in.Audience, in.Resource }, false},
		"a scope less":          {func(in *Inputs) { in.Scopes = in.Scopes[:1] }, false},
		"no scope":              {func(in *Inputs) { in.Scopes = nil }, false},
		"two scopes joined":     {func(in *Inputs) { in.Scopes = []string{"payments:read payments:write"} }, false},
		"a parameter":           {func(in *Inputs) { in.Parameters = map[string]string{"tenant": "shop"} }, false},
		"no parameters":         {func(in *Inputs) { in.Parameters = map[string]string{} }, true},
		"a character that moves from one field to the next": {
			func(in *Inputs) { in.ClientID, in.Credential = "car", "tuid/7" }, false},
		"a scope that moves into the audience": {
			func(in *Inputs) { in.Audience, in.Scopes = "payments:read", in.Scopes[1:] }, false},
	}
	want := HashInputs(base())
	if len(want) != 32 {
		t.Errorf("hash %q has %d characters", want, len(want))
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			tc.change(&in)
			before := append([]string(nil), in.Scopes...)
			if got := HashInputs(in); (got == want) != tc.same {
				t.Errorf("same hash: %v, want %v", got == want, tc.same)
			}
			if diff := cmp.Diff(before, append([]string(nil), in.Scopes...)); diff != "" {
				t.Errorf("the caller's scopes changed (-before +after):\n%s", diff)
			}
		})
	}
	with := func(scopes []string, parameters map[string]string) string {
		in := base()
		in.Scopes, in.Parameters = scopes, parameters
		return HashInputs(in)
	}
	if with(nil, map[string]string{"a": "bc"}) == with(nil, map[string]string{"ab": "c"}) {
		t.Error("a character that moves from a parameter's name to its value changes nothing")
	}
	if with(nil, map[string]string{"a": "b"}) == with([]string{"a", "b"}, nil) {
		t.Error("a parameter and two scopes are the same")
	}
	empty := base()
	empty.Scopes = []string{}
	none := base()
	none.Scopes = nil
	if HashInputs(empty) != HashInputs(none) {
		t.Error("an empty and a nil list of scopes differ")
	}
}

// TestHashesAreStable guards what is persisted: another encoding would mint
// every token of a cluster anew on an upgrade.
func TestHashesAreStable(t *testing.T) {
	got := []string{HashInputs(Inputs{Issuer: "i", Scopes: []string{"s"}}), HashValue("token")}
	want := []string{"bf2ad33ff984f88e43a9059b15bb8775", "3c469e9d6c5875d37a43f353d4f88e61"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHashValue(t *testing.T) {
	if HashValue("a") == HashValue("b") {
		t.Error("two tokens share a hash")
	}
	if got := HashValue("a"); len(got) != 32 || strings.Contains(HashValue("sentinel"), "sentinel") {
		t.Errorf("HashValue = %q", got)
	}
}
