// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// good are the reasons for which a condition is True, and nothing needs to be done.
var good = []string{
	"Ready", "Discovered", "EndpointsConfigured", "KeysFetched", "Accepted", "Distributed", "Granted", "TokensFresh", "TokensVerified",
	"Provisioned", "ProvisioningReady", "NotApplicable", "Enforced",
}

// TestEveryReasonHasAdvice reads the reasons that the API documents for each condition.
func TestEveryReasonHasAdvice(t *testing.T) {
	b, err := os.ReadFile("../../../api/v1alpha1/conditions.go")
	if err != nil {
		t.Fatal(err)
	}
	text, _, ok := strings.Cut(string(b), "// Reasons of events that are not reasons of conditions.")
	if !ok {
		t.Fatal("the reasons of events begin nowhere")
	}
	var documented []string
	for _, m := range regexp.MustCompile(`Reason\w+ += "(\w+)"`).FindAllStringSubmatch(text, -1) {
		documented = append(documented, m[1])
	}
	// The reasons of Verified have no constants; its comment lists them.
	_, verified, _ := strings.Cut(text, "Unknown: OpaqueToken, NoToken; to be False: ")
	verified, _, _ = strings.Cut(verified, ". ")
	documented = append(documented, regexp.MustCompile(`\w+`).FindAllString(verified, -1)...)
	if len(documented) < 60 {
		t.Fatalf("only %d reasons were found", len(documented))
	}
	for _, reason := range documented {
		if has := Advice(reason) != ""; has == slices.Contains(good, reason) {
			t.Errorf("reason %s: has advice: %t", reason, has)
		}
	}
	for reason, text := range advice {
		if !slices.Contains(documented, reason) {
			t.Errorf("there is advice on %s, which no condition has", reason)
		}
		if strings.HasSuffix(text, ".") || text[:1] != strings.ToUpper(text[:1]) {
			t.Errorf("the advice on %s is not written as the messages of conditions are: %s", reason, text)
		}
	}
}
