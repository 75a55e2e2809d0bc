// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// judge compares a disturbed run with the one without a fault. What must hold at every moment, the ledger
// has noted, and play has reported it.
func judge(t *testing.T, free *outcome, r *run, o *outcome, c disturbance) {
	t.Helper()
	if !r.wire.Met() {
		t.Errorf("the request did not come: %v", o.calls)
	}
	want, got := free.state, o.state
	if c.mayLeaveBehind() {
		want, got = withoutLeftBehind(want), withoutLeftBehind(got)
	}
	if d := diff(want, got); d != "" {
		t.Errorf("it ends differently (-without +with the fault):\n%s", d)
	}
	if strings.Contains(o.state, operator.Sentinel) || kubetest.JWT.MatchString(o.state) {
		t.Error("an object holds a secret where none may be")
	}
	issuedOnce(t, free, o, c)
	createdOnce(t, free, o, c)
	if t.Failed() {
		t.Logf("the requests were\n%s", strings.Join(describeAll(r.wire.Calls()), "\n"))
	}
}

// issuedOnce checks that no token is issued twice. One more is legal for each access, and only if no Secret
// could ever hold the first: its answer was lost or cut, or the operator was killed between the answer and the
// write of the Secret.
func issuedOnce(t *testing.T, free, o *outcome, c disturbance) {
	t.Helper()
	// A client that had to be registered once more has another credential, which is tried.
	again := c.mayLeaveBehind() && o.creates["POST register"] > free.creates["POST register"]
	for access, n := range o.issued {
		lost := o.lost[access] - free.lost[access] // in a run without a fault, those that only try a credential
		switch {
		case n-o.lost[access] != free.issued[access]-free.lost[access]:
			t.Errorf("%d tokens for %s came to a Secret, want %d", n-o.lost[access], access, free.issued[access]-free.lost[access])
		case lost > 1, lost > 0 && !again && !c.mayLoseToken(), lost > 0 && !again && c.fault.Kills() && o.cutDown[access] == 0:
			t.Errorf("%d tokens for %s were issued for nothing", lost, access)
		}
	}
}

// mayLoseToken reports whether a token may be issued for nothing: the operator was killed, or the answer was lost
// or cut, or what a token was issued for was not stored, which is that a new credential works.
func (d disturbance) mayLoseToken() bool {
	return d.fault.Kills() || d.at.issues() && (d.fault == LoseAnswer || d.fault == CutBody) || d.at.stores()
}

// createdOnce checks that nothing is created twice at the authorization server. A registration may be, if the
// answer with the credentials was lost or cut, or the operator was killed before it had stored them: nothing can
// find such a registration again.
func createdOnce(t *testing.T, free, o *outcome, c disturbance) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(o.creates)) {
		extra := o.creates[what] - free.creates[what]
		lost := c.mayLeaveBehind() && what == "POST register" && (c.fault.Kills() || c.fault.Executes())
		if extra != 0 && (extra != 1 || !lost) {
			t.Errorf("%s had success %d times, want %d", what, o.creates[what], free.creates[what])
		}
	}
}

// mayLeaveBehind reports whether a registration may remain that nobody knows how to use. The request to register,
// or to update with another registration access token, had no answer that says what became of it, or the operator
// was killed before it had stored the answer.
func (d disturbance) mayLeaveBehind() bool {
	asks := d.at.Side == AuthorizationServer && d.at.Writes() && strings.HasPrefix(d.at.Object, "register") && d.at.Verb != http.MethodDelete
	return asks || d.fault.Kills() && d.at.stores()
}

// stores reports whether a request writes the credentials of a registered client.
func (c Call) stores() bool {
	return c.Side == APIServer && c.Writes() && strings.HasPrefix(c.Object, "secrets operator/")
}

// issues reports whether a request asks for a token.
func (c Call) issues() bool {
	return c.Side == AuthorizationServer && strings.HasSuffix(c.Object, "token")
}

// diff returns the lines that differ.
func diff(want, got string) string {
	if want == got {
		return ""
	}
	return cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n"))
}

func describeAll(calls []Call) (all []string) {
	for i, c := range calls {
		all = append(all, fmt.Sprintf("%3d %s", i, c))
	}
	return all
}
