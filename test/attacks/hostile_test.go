// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// attack is something that a hostile tenant does while the test runs.
type attack struct {
	name string
	run  func(context.Context, *attacker)
}

// attacks are all of them.
var attacks = []attack{
	{"deployments that verify names in half a megabyte", deployments},
	{"config maps of a megabyte with the operator's label and forged contents", labelledConfigMaps},
	{"clients with annotations as long as they may be", longAnnotations},
	{"certificates of a megabyte, made and deleted", churnCertificates},
	{"credentials of a megabyte, made and deleted", churnCredentials},
	{"costly templates", costlyTemplates},
	{"large reviews from a pod", largeReviews},
	{"slow connections from a pod", slowConnections},
	{"large pods through the API server", largePods},
	{"junk tokens at the metrics", junkTokens},
	{"thirty-two new large keys each time", largeKeys},
	{"forged pods and a forged change", forgedPods},
	{"another's bundle deleted again and again", deletedBundles},
	{"a slow token endpoint", slowTokens},
	{"slow authorization servers", slowDiscovery},
	{"clients that the shared issuer fails", failedClients},
	{"a server of one's own with the shared issuer", ownBudget},
}

// attacker is the tenant who carries out one attack, in a namespace of his own.
type attacker struct {
	t         *testing.T
	client    client.Client // with his rights
	namespace string
	sizes     sizes
	healthy   *healthy
	operator  *operator

	mu      sync.Mutex
	done    int
	refused int
	last    error // that something was refused with
}

// did records the outcome of one attempt.
func (a *attacker) did(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		a.done++
	case !errors.Is(err, context.Canceled):
		a.refused++
		a.last = err
	}
}

// create creates objects, one after the other.
func (a *attacker) create(ctx context.Context, objects ...client.Object) {
	for _, o := range objects {
		if ctx.Err() != nil {
			return
		}
		a.did(a.client.Create(ctx, o))
	}
}

// often calls a function repeatedly until the attacks are over.
func often(ctx context.Context, every time.Duration, f func(round int)) {
	for round := 0; ; round++ {
		f(round)
		if !wait(ctx, every) {
			return
		}
	}
}

// together calls a function with 0 to n-1 at the same time.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// hostilePrefix is the beginning of the names of the attackers' namespaces, and of
// their clients at the shared issuer.
const hostilePrefix = "hostile-"

// attackers makes a namespace for each attack, and gives mallory rights in it.
func attackers(t *testing.T, s sizes, h *healthy, o *operator) []*attacker {
	t.Helper()
	c, err := asMallory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []*attacker
	for i := range attacks {
		a := &attacker{t: t, client: c, namespace: fmt.Sprintf("%s%02d", hostilePrefix, i), sizes: s, healthy: h, operator: o}
		for _, o := range []client.Object{namespace(a.namespace), binding(a.namespace)} {
			if err := cluster.Client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, a)
	}
	return all
}
