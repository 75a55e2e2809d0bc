// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// observer watches the token Secrets of the cluster from outside: when a new
// token appears in one, how long after the old one came due, and how long the
// Secret held an expired one. It takes what it knows of a token from the token
// itself.
type observer struct {
	client client.WithWatch
	policy func(client.ObjectKey) refresh.Policy // of a client

	mu       sync.Mutex
	tokens   map[client.ObjectKey]sighting
	seen     int // tokens that appeared, including first ones
	lateness []lateness
	expired  map[client.ObjectKey]time.Duration // by client
	since    time.Time
	failed   error
}

// sighting is the token that a Secret holds.
type sighting struct {
	value               []byte
	issuedAt, expiresAt time.Time
	refreshAt           time.Time
	client              client.ObjectKey
	seed                string // of the jitter
}

// lateness is how late the token of a client was replaced.
type lateness struct {
	client client.ObjectKey
	by     time.Duration
}

// observed is what was seen over a period.
type observed struct {
	refreshes int
	lateness  []time.Duration // sorted
	expired   time.Duration   // time for which Secrets held expired tokens, summed up
	holders   int             // number of these Secrets
}

func newObserver(c client.WithWatch) *observer {
	return &observer{
		client: c, tokens: map[client.ObjectKey]sighting{}, expired: map[client.ObjectKey]time.Duration{}, since: time.Now(),
		policy: func(client.ObjectKey) refresh.Policy { return refresh.Policy{} },
	}
}

// run watches until the context ends.
func (o *observer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := o.follow(ctx); err != nil && ctx.Err() == nil {
			o.mu.Lock()
			o.failed = errors.Join(o.failed, err)
			o.mu.Unlock()
			return
		}
	}
}

func (o *observer) follow(ctx context.Context) error {
	ours := client.MatchingLabels{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}
	var list corev1.SecretList
	if err := o.client.List(ctx, &list, ours); err != nil {
		return fmt.Errorf("list the token Secrets: %w", err)
	}
	o.listed(list.Items, time.Now())
	w, err := o.client.Watch(ctx, &corev1.SecretList{}, ours, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		return fmt.Errorf("watch the token Secrets: %w", err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		s, ok := e.Object.(*corev1.Secret)
		switch {
		case !ok: // the watch is too old: start again
			return nil
		case e.Type == watch.Deleted:
			o.mu.Lock()
			delete(o.tokens, client.ObjectKeyFromObject(s))
			o.mu.Unlock()
		default:
			o.saw(s, time.Now())
		}
	}
	return nil
}

// listed records all Secrets that there are at a moment. Those that were deleted while
// nobody watched are forgotten.
func (o *observer) listed(all []corev1.Secret, at time.Time) {
	exists := map[client.ObjectKey]bool{}
	for i := range all {
		exists[client.ObjectKeyFromObject(&all[i])] = true
		o.saw(&all[i], at)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.tokens, func(key client.ObjectKey, _ sighting) bool { return !exists[key] })
}

// saw records a Secret as it is at a moment.
func (o *observer) saw(s *corev1.Secret, at time.Time) {
	owner := metav1.GetControllerOf(s)
	if owner == nil {
		return
	}
	key := client.ObjectKeyFromObject(s)
	of := client.ObjectKey{Namespace: s.Namespace, Name: owner.Name}
	for access, value := range s.Data {
		o.mu.Lock()
		before, known := o.tokens[key]
		o.mu.Unlock()
		if known && bytes.Equal(before.value, value) {
			continue
		}
		issuedAt, expiresAt, err := lifetimeOf(value)
		if err != nil {
			o.mu.Lock()
			o.failed = errors.Join(o.failed, fmt.Errorf("read Secret %s: %w", key, err))
			o.mu.Unlock()
			continue
		}
		now := sighting{value: value, issuedAt: issuedAt, expiresAt: expiresAt, client: of, seed: string(owner.UID) + "/" + access}
		o.mu.Lock()
		now.refreshAt = o.policy(of).Plan(issuedAt, expiresAt, now.seed).RefreshAt
		if known {
			o.lateness = append(o.lateness, lateness{of, at.Sub(before.refreshAt)})
			o.addExpired(before, at)
		}
		o.seen++
		o.tokens[key] = now
		o.mu.Unlock()
	}
}

func (o *observer) addExpired(held sighting, until time.Time) {
	from := held.expiresAt
	if from.Before(o.since) {
		from = o.since
	}
	if d := until.Sub(from); d > 0 {
		o.expired[held.client] += d
	}
}

// reset begins a new period.
func (o *observer) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lateness, o.since = nil, time.Now()
	clear(o.expired)
}

// take returns what was seen since the last reset, including tokens that have
// expired and are still there, and begins a new period.
func (o *observer) take() (observed, error) {
	return o.takeOf(func(string) bool { return true })
}

// takeOf is take for the clients of some namespaces.
func (o *observer) takeOf(which func(namespace string) bool) (r observed, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	for _, s := range o.tokens {
		o.addExpired(s, now)
	}
	for _, l := range o.lateness {
		if which(l.client.Namespace) {
			r.lateness = append(r.lateness, l.by)
		}
	}
	r.refreshes = len(r.lateness)
	slices.Sort(r.lateness)
	for key, d := range o.expired {
		if which(key.Namespace) {
			r.expired += d
			r.holders++
		}
	}
	o.lateness, o.since = nil, now
	clear(o.expired)
	return r, o.failed
}

// expiredBy returns how long the Secrets of some clients have held expired tokens
// since the last reset.
func (o *observer) expiredBy(which func(client.ObjectKey) bool) (sum time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, d := range o.expired {
		if which(key) {
			sum += d
		}
	}
	return sum
}

// setPolicy sets when the clients refresh from now on, also for existing
// tokens.
func (o *observer) setPolicy(policy func(client.ObjectKey) refresh.Policy) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.policy = policy
	for key, s := range o.tokens {
		s.refreshAt = policy(s.client).Plan(s.issuedAt, s.expiresAt, s.seed).RefreshAt
		o.tokens[key] = s
	}
}

// count returns how many of the existing tokens match.
func (o *observer) count(which func(sighting) bool) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.tokens {
		if which(s) {
			n++
		}
	}
	return n
}

// holds reports whether a Secret holds a token.
func (o *observer) holds(secret client.ObjectKey) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.tokens[secret]
	return ok
}

// all returns every existing token.
func (o *observer) all() []sighting {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.tokens))
}

// quantile returns the lateness, in seconds, that a share of all does not exceed.
func (r *observed) quantile(share float64) float64 { return quantile(r.lateness, share) }

// quantile returns the duration that a share of the sorted durations does not exceed, in
// seconds.
func quantile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))].Seconds()
}

// lifetimeOf reads from a token when it was issued and when it expires.
func lifetimeOf(token []byte) (issuedAt, expiresAt time.Time, err error) {
	parts := bytes.Split(token, []byte("."))
	if len(parts) != 3 {
		return issuedAt, expiresAt, errors.New("what it holds is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(string(parts[1]))
	if err != nil {
		return issuedAt, expiresAt, errors.New("the token's claims are not base64url")
	}
	var claims struct{ Iat, Exp int64 }
	if err := json.Unmarshal(payload, &claims); err != nil {
		return issuedAt, expiresAt, errors.New("the token's claims are not JSON")
	}
	return time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0), nil
}
