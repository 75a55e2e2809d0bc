// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestCompletion asks for names as a shell does.
func TestCompletion(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	reader(t, "dora", s.Shop)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"a kind and name":             {[]string{"status", "m2m"}, "m2mclient/cart\n:4\n"},
		"a client":                    {[]string{"why", "-n", s.Shop, "ca"}, "cart\n:4\n"},
		"an API of another namespace": {[]string{"why", "-n", s.Shop, "cart", s.Payments + "/"}, s.Payments + "/payment-api\n:4\n"},
		"a scope":                     {[]string{"why", "-n", s.Shop, "cart", s.Payments + "/payment-api", "payments:w"}, "payments:write\n:4\n"},
		"what to refresh":             {[]string{"refresh", ""}, "cart\nauthorizationserver/auth\n:4\n"},
		"what else to refresh":        {[]string{"refresh", "cart", ""}, "authorizationserver/auth\n:4\n"},
		"whose secret to rotate":      {[]string{"rotate", "c"}, "cart\n:4\n"},
		"nothing after the last":      {[]string{"verify", "a/b", ""}, ":4\n"},
		"without rights":              {[]string{"token", "-n", s.Payments, "--as", "dora", ""}, ":4\n"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"__complete"}, tc.args...)
			args = append(args[:2:2], append([]string{"--namespace", s.Shop}, args[2:]...)...)
			a := runCompletion(t, op.Clock.Now(), args...)
			if diff := cmp.Diff(tc.want, a.out); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
