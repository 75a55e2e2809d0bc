// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/watch"
	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// Await returns how long changed terms still wait for the tokens in use to be judged by
// them: a token that does not meet them is replaced first, if a new one does. Terms wait at
// most delivery.HoldMax. They do not wait if keys changed too: a new or removed key must
// reach every verifier at once.
func (n *ChangedTerms) Await(
	ctx context.Context, api *v1alpha1.APIResource, srv *rules.Server, before, next render.Contents, now time.Time,
) (time.Duration, error) {
	sameKeys := maps.EqualFunc(before.Keys, next.Keys, func(a, b render.KeyContents) bool { return a.Hash == b.Hash })
	if before.Terms == "" || before.Terms == next.Terms || !sameKeys {
		return 0, nil
	}
	terms := Terms(api, srv)
	judged, err := n.judged(client.ObjectKeyFromObject(api), terms, now, func() (bool, error) { return n.allJudged(ctx, api, terms, now) })
	if judged || err != nil {
		return 0, err
	}
	log.FromContext(ctx).V(1).Info("Other terms wait for the tokens in use")
	return delivery.Poll, nil
}

// allJudged reports whether every token in use for an API was judged by the present terms.
func (n *ChangedTerms) allJudged(ctx context.Context, api *v1alpha1.APIResource, terms string, now time.Time) (bool, error) {
	var clients v1alpha1.M2MClientList
	name := client.ObjectKeyFromObject(api)
	err := n.client.List(ctx, &clients, client.MatchingFields{watch.ByAPIResource: name.String()},
		client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency)
	if err != nil {
		return false, fmt.Errorf("list the clients of an API: %w", err)
	}
	return !slices.ContainsFunc(clients.Items, func(c v1alpha1.M2MClient) bool {
		return slices.ContainsFunc(c.Status.Tokens, func(t v1alpha1.TokenStatus) bool {
			return t.Terms != "" && t.Terms != terms && record.Moment(t.ExpiresAt).After(now) && isFor(&c, string(t.Key), name)
		})
	}), nil
}

// isFor reports whether a client's access with a key is for an API.
func isFor(c *v1alpha1.M2MClient, key string, api types.NamespacedName) bool {
	return slices.ContainsFunc(c.Spec.Access, func(a v1alpha1.Access) bool {
		return rules.KeyOf(&a) == key && rules.APIResourceOf(c, &a) == api
	})
}

// ChangedTerms remembers since when each APIResource has its present terms, and whether the
// tokens in use were judged by them. It is lost on restart; the wait then begins again.
type ChangedTerms struct {
	client client.Reader

	mu sync.Mutex
	of map[types.NamespacedName]*termsSince
}

type termsSince struct {
	terms    string
	since    time.Time
	judged   bool
	lookedAt time.Time // one look serves the bundles of all namespaces
}

// NewChangedTerms returns an empty memory.
func NewChangedTerms(c client.Reader) *ChangedTerms {
	return &ChangedTerms{client: c, of: map[types.NamespacedName]*termsSince{}}
}

// judged reports whether the pods and gateways of an API may get the present terms. It looks at the tokens at
// most once per delivery.Poll.
func (n *ChangedTerms) judged(api types.NamespacedName, terms string, now time.Time, look func() (bool, error)) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.of[api]
	if t == nil || t.terms != terms {
		t = &termsSince{terms: terms, since: now}
		n.of[api] = t
	}
	if t.judged || now.After(t.lookedAt) && now.Before(t.lookedAt.Add(delivery.Poll)) {
		return t.judged, nil
	}
	judged, err := look()
	if err != nil {
		return false, err
	}
	t.lookedAt, t.judged = now, judged || !now.Before(t.since.Add(delivery.HoldMax))
	return t.judged, nil
}

// Forget drops the terms of an APIResource that is gone.
func (n *ChangedTerms) Forget(api types.NamespacedName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.of, api)
}
