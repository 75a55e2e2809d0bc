// SPDX-License-Identifier: Apache-2.0

package provision_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

func TestKindOf(t *testing.T) {
	conflict := &provision.Error{Kind: provision.Conflict, Message: "it exists", Code: "in_use", Status: 422}
	for name, tc := range map[string]struct {
		err  error
		want provision.ErrorKind
	}{
		"no error":          {nil, ""},
		"an error":          {conflict, provision.Conflict},
		"a wrapped one":     {fmt.Errorf("sync: %w", conflict), provision.Conflict},
		"the context's own": {context.DeadlineExceeded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := provision.KindOf(tc.err); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
	if got := conflict.Error(); got != "it exists" {
		t.Errorf("message %q", got)
	}
}

func TestSensitive(t *testing.T) {
	const secret = "sentinel-value"
	c := provision.Credential{Name: "n", Secret: secret, RegistrationToken: secret}
	state := provision.ClientState{Credentials: []provision.Credential{c}}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("text", "secret", c.Secret, "credential", c)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("json", "secret", c.Secret)
	shown := []string{logged.String(), fmt.Errorf("failed with %s: %v", c.Secret, c).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, c.Secret), fmt.Sprintf(verb, c), fmt.Sprintf(verb, state), fmt.Sprintf(verb, &state))
	}
	for _, s := range shown {
		if strings.Contains(s, secret) || strings.Contains(s, fmt.Sprintf("%x", secret)) {
			t.Errorf("shows the secret: %s", s)
		}
	}
	if !strings.Contains(shown[2], "[redacted]") {
		t.Errorf("shows %q", shown[2])
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back provision.Credential
	if err := json.Unmarshal(b, &back); err != nil || back.Secret.Reveal() != secret || back.RegistrationToken.Reveal() != secret {
		t.Errorf("read back %q, %v", back.Secret.Reveal(), err)
	}
}

func TestHash(t *testing.T) {
	if got, want := provision.Hash("a", 1, []string{"b"}), provision.Hash("a", 1, []string{"b"}); got != want || len(got) != 32 {
		t.Errorf("%s and %s", got, want)
	}
	if provision.Hash("a", "b") == provision.Hash("ab") || provision.Hash([]string{"a"}, "b") == provision.Hash("a", []string{"b"}) {
		t.Error("different values have one hash")
	}
}
