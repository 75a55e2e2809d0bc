// SPDX-License-Identifier: Apache-2.0

// Package metricsauth lets callers reach a handler only if the API server allows it, as
// Kubernetes' own components do: a TokenReview identifies the caller, and a
// SubjectAccessReview decides. Any pod can send tokens, and each unknown token costs
// the API server a review. So the guard caches answers and limits reviews, per caller
// and in total.
package metricsauth

import (
	"context"
	"crypto/sha256"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// maxToken is the longest token in bytes.
	maxToken = 8 << 10
	// maxKnown and maxRefused limit the cached tokens. Refused tokens have a cache of
	// their own, so that they evict no allowed one.
	maxKnown   = 64
	maxRefused = 1024
	// reviewAgain is how long an answer is valid. For knownFor after it was allowed, a
	// token is reviewed again without counting against the limits below.
	reviewAgain = time.Minute
	knownFor    = time.Hour
	// perAddress and perSecond limit the reviews of unknown tokens per second, for one
	// address and in total, with their bursts.
	perAddress, burst  = 1, 5
	perSecond, bursts  = 10, 20
	maxAddresses       = 1024
	maxReviews         = 8 // at a time
	reviewTimeout      = 10 * time.Second
	retryAfterSeconds  = "1"
	authenticateScheme = "bearer "
)

// Reviewer asks the API server.
type Reviewer interface {
	// Authenticate returns the user of a token, nil if the token is invalid.
	Authenticate(ctx context.Context, token string) (*authenticationv1.UserInfo, error)
	// Authorize reports whether a user may use a verb on a path.
	Authorize(ctx context.Context, user *authenticationv1.UserInfo, verb, path string) (bool, error)
}

// Guard protects a handler.
type Guard struct {
	reviewer       Reviewer
	clock          clock.PassiveClock
	known, refused *cache.LRUExpireCache // key → answer
	addresses      *cache.LRUExpireCache // address → *rate.Limiter
	all            *rate.Limiter
	reviews        chan struct{}
}

// New returns a guard with a reviewer.
func New(reviewer Reviewer, c clock.Clock) *Guard {
	return &Guard{
		reviewer: reviewer, clock: c,
		known:     cache.NewLRUExpireCacheWithClock(maxKnown, c),
		refused:   cache.NewLRUExpireCacheWithClock(maxRefused, c),
		addresses: cache.NewLRUExpireCacheWithClock(maxAddresses, c),
		all:       rate.NewLimiter(perSecond, bursts),
		reviews:   make(chan struct{}, maxReviews),
	}
}

// key is a hash of the question, so that no token is kept in memory.
type key [sha256.Size]byte

func keyOf(token, verb, path string) key {
	return sha256.Sum256([]byte(verb + " " + path + " " + token))
}

// Around returns a handler that calls next for authorized requests only.
func (g *Guard) Around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch status := g.judge(req); status {
		case http.StatusOK:
			next.ServeHTTP(w, req)
		default:
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", retryAfterSeconds)
			}
			http.Error(w, http.StatusText(status), status)
		}
	})
}

// judge returns the HTTP status for a request: 200 if it may pass.
func (g *Guard) judge(req *http.Request) int {
	token, ok := bearer(req)
	if !ok {
		return http.StatusUnauthorized
	}
	verb := strings.ToLower(req.Method)
	k := keyOf(token, verb, req.URL.Path)
	if status, ok := g.refused.Get(k); ok {
		return status.(int)
	}
	until, known := g.known.Get(k)
	switch {
	case known && g.clock.Now().Before(until.(time.Time)):
		return http.StatusOK
	case known:
	case !g.limiter(req.RemoteAddr).AllowN(g.clock.Now(), 1), !g.all.AllowN(g.clock.Now(), 1):
		return http.StatusTooManyRequests
	}
	status := g.review(req.Context(), token, verb, req.URL.Path)
	switch status {
	case http.StatusOK:
		g.known.Add(k, g.clock.Now().Add(reviewAgain), knownFor)
	case http.StatusUnauthorized, http.StatusForbidden:
		g.known.Remove(k)
		g.refused.Add(k, status, reviewAgain)
	}
	return status
}

func bearer(req *http.Request) (token string, ok bool) {
	value := req.Header.Get("Authorization")
	if len(value) <= len(authenticateScheme) || !strings.EqualFold(value[:len(authenticateScheme)], authenticateScheme) {
		return "", false
	}
	token = strings.TrimSpace(value[len(authenticateScheme):])
	return token, token != "" && len(token) <= maxToken
}

// limiter returns the rate limiter of a remote address.
func (g *Guard) limiter(remote string) *rate.Limiter {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	if l, ok := g.addresses.Get(host); ok {
		return l.(*rate.Limiter)
	}
	l := rate.NewLimiter(perAddress, burst)
	g.addresses.Add(host, l, knownFor)
	return l
}

// review asks the API server.
func (g *Guard) review(ctx context.Context, token, verb, path string) int {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case g.reviews <- struct{}{}:
		defer func() { <-g.reviews }()
	case <-ctx.Done():
		return http.StatusTooManyRequests
	}
	user, err := g.reviewer.Authenticate(ctx, token)
	if err != nil {
		log.FromContext(ctx).Error(err, "Could not review a token")
		return http.StatusInternalServerError
	}
	if user == nil {
		return http.StatusUnauthorized
	}
	allowed, err := g.reviewer.Authorize(ctx, user, verb, path)
	switch {
	case err != nil:
		log.FromContext(ctx).Error(err, "Could not review an access", "user", user.Username)
		return http.StatusInternalServerError
	case !allowed:
		return http.StatusForbidden
	}
	return http.StatusOK
}

// apiServer is a Reviewer that asks the API server.
type apiServer struct {
	tokens   authenticationclient.TokenReviewInterface
	accesses authorizationclient.SubjectAccessReviewInterface
}

// NewReviewer returns a Reviewer that asks a cluster's API server.
func NewReviewer(config *rest.Config, c *http.Client) (Reviewer, error) {
	authentication, err := authenticationclient.NewForConfigAndClient(config, c)
	if err != nil {
		return nil, err
	}
	authorization, err := authorizationclient.NewForConfigAndClient(config, c)
	if err != nil {
		return nil, err
	}
	return apiServer{authentication.TokenReviews(), authorization.SubjectAccessReviews()}, nil
}

func (a apiServer) Authenticate(ctx context.Context, token string) (*authenticationv1.UserInfo, error) {
	review, err := a.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		return nil, err
	}
	return &review.Status.User, nil
}

func (a apiServer) Authorize(ctx context.Context, user *authenticationv1.UserInfo, verb, path string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := a.accesses.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: verb, Path: path},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}
