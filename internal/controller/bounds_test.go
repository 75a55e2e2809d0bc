// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestSpecsAreBounded checks how large a spec the API server accepts. The cache keeps
// specs uncut.
func TestSpecsAreBounded(t *testing.T) {
	ns := operator.NewNamespace(t, "bounds", nil)
	list := func(n int, format string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(all, ", ")
	}
	scopes := func(n int) string { return "scopes: [" + list(n, "s-%d") + "]" }
	accesses := func(last int) string {
		return "access: [" + list(4, "{apiResourceRef: {name: api-%d}, "+scopes(64)+"}") + ", {apiResourceRef: {name: another}" + scopesOrNone(last, scopes) + "}], " + ownServer
	}
	secret := func(field string, n int) string {
		return anAccess + ", " + ownServer + ", secret: {" + field + ": {" + list(8, `"example.com/%d": "`+strings.Repeat("x", n/8-13)+`"`) + "}}"
	}
	judge(t, ns, "client", map[string]schemaCase{
		"as many scopes as there can be":      {accesses(0), ""},
		"one scope too many":                  {accesses(1), "the accesses together must have at most 256 scopes"},
		"labels of the greatest length":       {secret("labels", 8192), ""},
		"labels whose total is too long":      {secret("labels", 8200), "labels must have at most 8192 characters together"},
		"annotations of the greatest length":  {secret("annotations", 8192), ""},
		"annotations whose total is too long": {secret("annotations", 8200), "annotations must have at most 8192 characters together"},
	})
	grants := func(more string) string {
		grant := "{clients: {namespaces: {names: [" + list(50, "n-%d") + "]}, names: [" + list(28, "c-%d") + "]}, " + scopes(50) + "}"
		return "scopes: [" + list(50, "{name: s-%d}") + "], grants: [" + strings.Repeat(grant+", ", 4) + more + "]"
	}
	judge(t, ns, "api", map[string]schemaCase{
		"grants with as many names as there can be": {grants(""), ""},
		"one namespace too many":                    {grants("{clients: {namespaces: {names: [a]}}}"), "the grants together must have at most 512 names and scopes"},
	})
}

// ownServer is the reference that a client with its own credentials also needs.
const ownServer = ownCredentials + ", authorizationServerRef: {name: auth}"

func scopesOrNone(n int, scopes func(int) string) string {
	if n == 0 {
		return ""
	}
	return ", " + scopes(n)
}
