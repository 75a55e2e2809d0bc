// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// turnover is how long a worker waits at most for a place at a quick server.
const turnover = 50 * time.Millisecond

// owner names a server in the gate: another one of its name is another owner.
func owner(obj client.Object) string { return keyOfObject(obj).String() + "/" + string(obj.GetUID()) }

// endpoint returns where a server's token requests go, and what they are accounted
// to. Requests are accounted to the host that gets them, whatever object names it,
// and those of a namespaced server with the issuer of a ClusterAuthorizationServer
// to the host of that. Where ClusterAuthorizationServers name the host, their
// budgets are the ceiling for all: one for each issuer, for hosts serve several.
func (s *servers) endpoint(ctx context.Context, srv *server) (traffic.Endpoint, error) {
	var clusters v1alpha1.ClusterAuthorizationServerList
	if err := s.client.List(ctx, &clusters, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency); err != nil {
		return traffic.Endpoint{}, fmt.Errorf("list ClusterAuthorizationServers: %w", err)
	}
	address := tokenAddress(srv.spec, srv.status)
	e := traffic.Endpoint{Account: hostOf(address), Route: address, Owner: owner(srv.object), Own: s.budget(srv.spec.Requests)}
	if srv.spec.CABundle != (v1alpha1.CABundleSource{}) {
		e.Route += " trusted by " + srv.key.String()
	}
	for i := range clusters.Items {
		c := &clusters.Items[i]
		if c.Spec.Issuer == srv.spec.Issuer && tokenAddress(&c.Spec.AuthorizationServerSpec, &c.Status) != "" {
			e.Account = hostOf(tokenAddress(&c.Spec.AuthorizationServerSpec, &c.Status))
		}
	}
	byIssuer := map[string]traffic.Budget{}
	for i := range clusters.Items {
		c := &clusters.Items[i]
		if hostOf(tokenAddress(&c.Spec.AuthorizationServerSpec, &c.Status)) != e.Account {
			continue
		}
		if b := s.budget(c.Spec.Requests); b.PerSecond > byIssuer[c.Spec.Issuer].PerSecond {
			byIssuer[c.Spec.Issuer] = b
		}
	}
	for _, b := range byIssuer {
		e.Ceiling.PerSecond += b.PerSecond
		e.Ceiling.Burst += b.Burst
	}
	return e, nil
}

func tokenAddress(spec *v1alpha1.AuthorizationServerSpec, status *v1alpha1.AuthorizationServerStatus) string {
	return string(cmp.Or(spec.Endpoints.Token, status.Endpoints.Token))
}

// hostOf returns the host and the port of an address, in one spelling.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[strings.ToLower(u.Scheme)]
	}
	return strings.TrimSuffix(strings.ToLower(u.Hostname()), ".") + ":" + port
}

// budget returns how many requests per second a server gets from this instance,
// and how many at once: its share of what the server's spec allows, and no less
// than one.
func (s *servers) budget(b v1alpha1.RequestBudget) traffic.Budget {
	perSecond := cmp.Or(int(b.PerSecond), s.requestsPerSecond)
	burst := cmp.Or(int(b.Burst), perSecond)
	return traffic.Budget{PerSecond: max(1, float64(perSecond)/float64(s.shares)), Burst: max(1, burst/s.shares)}
}

// admit asks whether a token request may be sent to a server now. If not, it
// returns when to ask again and why. A ticket must be given back with done, or with
// abandon if the request was not sent after all.
//
// Where only a free place is missing, and the server is so quick that places become
// free every moment, it waits for one: with a flood of clients, the workers would
// else turn away every one of them, and look at each again later.
func (s *servers) admit(ctx context.Context, srv *server, n traffic.Need) (ticket *traffic.Ticket, wait time.Duration, p *problem, err error) {
	if s.runtime(srv.object); s.isGone(srv.object) {
		return nil, time.Second, &problem{
			reason: v1alpha1.ReasonAuthorizationServerNotFound, unknown: true,
			message: fmt.Sprintf("%s %q was just deleted", srv.key.kind, srv.key.name),
		}, nil
	}
	e, err := s.endpoint(ctx, srv)
	if err != nil {
		return nil, 0, nil, err
	}
	answer := s.gate.Ask(s.clock.Now(), e, n)
	if answer.Freed != nil {
		ctx, cancel := context.WithTimeout(ctx, turnover)
		defer cancel()
		for answer.Freed != nil && ctx.Err() == nil {
			select {
			case <-answer.Freed:
				answer = s.gate.Ask(s.clock.Now(), e, n)
			case <-ctx.Done():
			}
		}
	}
	if answer.Ticket != nil {
		return answer.Ticket, 0, nil, nil
	}
	return nil, answer.Wait, waiting(answer.Cause, srv, n.Tenant), nil
}

// waiting tells what a token request waits for.
func waiting(why traffic.Cause, srv *server, namespace string) *problem {
	p := &problem{reason: v1alpha1.ReasonWaitingForBudget, unknown: true}
	name := fmt.Sprintf("%s %q", srv.key.kind, srv.key.name)
	switch why {
	case traffic.CauseEndpoint:
		p.reason, p.unknown = v1alpha1.ReasonAuthorizationServerUnavailable, false
		p.message = name + " does not answer, or fails for several namespaces; one client at a time tries again, within half a minute, or a minute where it asked for that"
	case traffic.CauseTenant:
		p.reason, p.unknown = v1alpha1.ReasonAuthorizationServerUnavailable, false
		p.message = fmt.Sprintf("%s fails for several clients of namespace %q; one of them at a time tries again, within half a minute, or a minute where it asked for that", name, namespace)
	case traffic.CauseRefusals:
		p.message = fmt.Sprintf("%s refused many clients of namespace %q; until it serves one, those that it never served try one every half a minute", name, namespace)
	case traffic.CausePlaces:
		p.message = fmt.Sprintf("As many token requests of namespace %q, or to slow servers such as %s, are under way as may be", namespace, name)
	default:
		p.message = fmt.Sprintf("The request budget of %s is used up for the moment", name)
	}
	return p
}

// done reports how an admitted request ended.
func (s *servers) done(t *traffic.Ticket, failure *oauth.Error) {
	how, retryAfter := traffic.Served, time.Duration(0)
	if failure != nil {
		how, retryAfter = outcome(failure), failure.RetryAfter
	}
	if how == "" {
		s.abandon(t)
		return
	}
	s.gate.Done(s.clock.Now(), t, how, retryAfter)
}

// outcome returns what a failed request says of the server: nothing if the
// operator's own flags kept it from being sent.
func outcome(e *oauth.Error) traffic.Outcome {
	switch {
	case e.Class == oauth.ClassRetryable && e.Status == 0:
		return traffic.Unanswered
	case e.Class == oauth.ClassRetryable, e.Class == oauth.ClassSlowRetry && e.Status == 0:
		return traffic.Failed // an answer that makes no sense, or a certificate that is not trusted
	case e.Status == 0:
		return ""
	}
	return traffic.Refused
}

// abandon reports that an admitted request was not sent.
func (s *servers) abandon(t *traffic.Ticket) { s.gate.Abandon(s.clock.Now(), t) }

// leave gives up a client's place in every budget.
func (s *servers) leave(who types.UID) { s.gate.Leave(string(who)) }

// fairly makes the queue of a controller in which namespaces take turns. Within one
// of them the request of the lowest rank is first; without ranks, the oldest.
func fairly[request comparable](namespace func(request) string, rank func(request) int64) func(string, workqueue.TypedRateLimiter[request]) workqueue.TypedRateLimitingInterface[request] {
	if rank == nil {
		rank = func(request) int64 { return 0 }
	}
	return func(name string, limiter workqueue.TypedRateLimiter[request]) workqueue.TypedRateLimitingInterface[request] {
		return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[request]{
			Name: name,
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[request]{
				Name: name,
				Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[request]{
					Name: name, Queue: traffic.NewQueue(namespace, rank),
				}),
			}),
		})
	}
}

// namespaceOf returns whose request it is.
func namespaceOf(req reconcile.Request) string { return req.Namespace }

// lastRank is the rank of what has no token: after all that have one.
const lastRank = math.MaxInt64
