// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) *metav1.Time {
	t := metav1.NewTime(noon.Add(d))
	return &t
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func story() tree.Tree {
	return tree.Tree{Issuers: []*tree.Node{
		{Kind: tree.KindIssuer, State: tree.Waiting, Children: []*tree.Node{{Kind: "AuthorizationServer", Namespace: "shop", Name: "auht", State: tree.Failing, Summary: "does not exist"}}},
		{Kind: tree.KindIssuer, Name: "https://auth.example.com", State: tree.Ready, Children: []*tree.Node{
			{Kind: "ClusterAuthorizationServer", Name: "company", State: tree.Ready, Summary: "2 keys"},
			{Kind: "APIResource", Namespace: "payments", Name: "payment-api", State: tree.Ready, Summary: "https://payment.example.com/api", Children: []*tree.Node{
				{
					Kind: tree.KindPod, Namespace: "payments", Name: "payment-0", State: tree.Failing, Summary: "verifies tokens",
					Mounts: []tree.Mount{{From: "ConfigMap/m2m-verify.payments.payment-api", Path: "/verify", Containers: []string{"main", "sidecar"}}},
					Keys: []tree.Key{
						{KeyID: "new", Clients: []string{"a/a", "a/b", "a/c", "a/d", "a/e", "a/f", "a/g"}, Has: tree.No},
						{KeyID: "old", Clients: []string{"shop/cart"}, Has: tree.Yes},
						{KeyID: "next", Clients: []string{"shop/stock"}, Has: tree.Soon, At: after(time.Minute)},
						{KeyID: "any", Clients: []string{"shop/any"}, Has: tree.Unknown},
					},
					Problems: []tree.Problem{{Message: "The pod does not have the key", Advice: "See the APIResource"}},
				},
				{Kind: "M2MClient", Namespace: "shop", Name: "cart", State: tree.Warning, Tokens: []tree.Token{
					{Key: "payment-api", Scopes: []string{"payments:read", "payments:write"}, ExpiresAt: after(50 * time.Minute), RefreshAt: after(30 * time.Minute), KeyID: "old", HaveKey: new(2), Verifiers: new(3), WaitsForKey: "new", WaitsUntil: after(2 * time.Minute)},
					{Key: "due", ExpiresAt: after(5 * time.Minute), RefreshAt: after(-time.Minute), KeyID: "old", HaveKey: new(0), Verifiers: new(0)},
					{Key: "expired", ExpiresAt: after(-48 * time.Hour), RefreshAt: after(-50 * time.Hour)},
				}, Problems: []tree.Problem{{Condition: "Fresh", Reason: "TokenRequestRefused", Message: "The server refused", Advice: "Correct the credentials"}}},
			}},
		}},
	}}
}

func TestTree(t *testing.T) {
	var b strings.Builder
	if err := Tree(&b, story(), Style{Now: noon}); err != nil {
		t.Fatal(err)
	}
	golden(t, "tree.txt", b.String())
}

// TestColours: only states have colours, and only on a terminal.
func TestColours(t *testing.T) {
	var plain, coloured strings.Builder
	if err := Tree(&plain, story(), Style{Now: noon}); err != nil {
		t.Fatal(err)
	}
	if err := Tree(&coloured, story(), Style{Now: noon, Colour: true}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Error("there is colour without being asked for")
	}
	if !strings.Contains(coloured.String(), "\x1b[31mFailing\x1b[0m") {
		t.Errorf("failures are not red:\n%s", coloured.String())
	}
}

// TestPodsThatLookAlike: of many pods, the first few are drawn, and each that looks different.
func TestPodsThatLookAlike(t *testing.T) {
	api := &tree.Node{Kind: "APIResource", Namespace: "payments", Name: "payment-api", State: tree.Ready}
	for i := range 40 {
		n := &tree.Node{Kind: tree.KindPod, Namespace: "payments", Name: fmt.Sprintf("payment-%d", i), State: tree.Ready}
		if i == 30 {
			n.State = tree.Failing
		}
		api.Children = append(api.Children, n)
	}
	api.Children = append(api.Children, &tree.Node{Kind: "M2MClient", Namespace: "shop", Name: "cart", State: tree.Ready})
	var b strings.Builder
	if err := Tree(&b, tree.Tree{Issuers: []*tree.Node{{Kind: tree.KindIssuer, Name: "https://auth.example.com", Children: []*tree.Node{api}}}}, Style{Now: noon}); err != nil {
		t.Fatal(err)
	}
	golden(t, "pods.txt", b.String())
}

func TestMissing(t *testing.T) {
	var b strings.Builder
	err := Missing(&b, []inventory.Right{
		{Verb: "list", Resource: inventory.Pods, Namespace: "payments"},
		{Verb: "list", Resource: inventory.Clients},
		{Verb: "get", Resource: inventory.ClusterServers, Name: "company"},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "missing.txt", b.String())
	b.Reset()
	if err := Missing(&b, nil); err != nil || b.Len() > 0 {
		t.Errorf("nothing is missing, and it says %q (%v)", b.String(), err)
	}
}
