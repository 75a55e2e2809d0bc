// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/traffic"
)

// Admission decides when a request may be sent to a server. It finds the account that a
// request counts against, and asks the gate.
type Admission struct {
	lives  *Lives
	client client.Reader
	clock  clock.PassiveClock
	gate   *traffic.Gate

	// shares is how many instances of the operator share each server's budget.
	shares int
	// requestsPerSecond is the budget of a server that names none.
	requestsPerSecond int
}

// NewAdmission returns an admission that forgets a server when its life ends. shares is how
// many instances of the operator share each budget.
func NewAdmission(l *Lives, reader client.Reader, c clock.PassiveClock, workers, shares, requestsPerSecond int) *Admission {
	a := &Admission{lives: l, client: reader, clock: c, gate: traffic.NewGate(workers), shares: shares, requestsPerSecond: requestsPerSecond}
	l.OnEnd(func(key rules.ServerKey, uid types.UID) { a.gate.Forget(OwnerOf(key, uid)) })
	return a
}

// turnover is how long a worker waits at most for a place at a fast server.
const turnover = 50 * time.Millisecond

// Owner names a server in the gate. A server that was created again under the same name is
// another owner.
func Owner(obj client.Object) string { return OwnerOf(rules.ServerKeyOf(obj), obj.GetUID()) }

// OwnerOf is Owner for a server of which only key and UID are known.
func OwnerOf(key rules.ServerKey, uid types.UID) string { return key.String() + "/" + string(uid) }

// endpoint returns where a server's token requests go, and which account they count against.
// The account is the host that receives them, whatever object names it. If a
// ClusterAuthorizationServer has the same issuer, the account is its host. The budgets of
// the ClusterAuthorizationServers that name the host are the ceiling for everybody: one
// budget per issuer, because a host may serve several.
func (a *Admission) endpoint(ctx context.Context, srv *rules.Server) (traffic.Endpoint, error) {
	var clusters v1alpha1.ClusterAuthorizationServerList
	if err := a.client.List(ctx, &clusters, client.UnsafeDisableDeepCopy, client.DisableReadYourWritesConsistency); err != nil {
		return traffic.Endpoint{}, fmt.Errorf("list ClusterAuthorizationServers: %w", err)
	}
	address := TokenAddress(srv.Spec, srv.Status)
	e := traffic.Endpoint{Account: hostOf(address), Route: address, Owner: Owner(srv.Object), Own: a.Budget(srv.Spec.Requests)}
	if srv.Spec.CABundle != (v1alpha1.CABundleSource{}) {
		e.Route += " trusted by " + srv.Key().String()
	}
	for i := range clusters.Items {
		c := &clusters.Items[i]
		if c.Spec.Issuer == srv.Spec.Issuer && TokenAddress(&c.Spec.AuthorizationServerSpec, &c.Status) != "" {
			e.Account = hostOf(TokenAddress(&c.Spec.AuthorizationServerSpec, &c.Status))
		}
	}
	byIssuer := map[string]traffic.Budget{}
	for i := range clusters.Items {
		c := &clusters.Items[i]
		if hostOf(TokenAddress(&c.Spec.AuthorizationServerSpec, &c.Status)) != e.Account {
			continue
		}
		if b := a.Budget(c.Spec.Requests); b.PerSecond > byIssuer[c.Spec.Issuer].PerSecond {
			byIssuer[c.Spec.Issuer] = b
		}
	}
	for _, b := range byIssuer {
		e.Ceiling.PerSecond += b.PerSecond
		e.Ceiling.Burst += b.Burst
	}
	return e, nil
}

// TokenAddress returns the token endpoint of a server, "" if it is not known.
func TokenAddress(spec *v1alpha1.AuthorizationServerSpec, status *v1alpha1.AuthorizationServerStatus) string {
	return string(cmp.Or(spec.Endpoints.Token, status.Endpoints.Token))
}

// hostOf returns the host and port of an address in a normal form.
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

// Budget returns how many requests this instance may send to a server per second and at
// once: its share of what the server's spec allows, at least one.
func (a *Admission) Budget(b v1alpha1.RequestBudget) traffic.Budget {
	perSecond := cmp.Or(int(b.PerSecond), a.requestsPerSecond)
	burst := cmp.Or(int(b.Burst), perSecond)
	return traffic.Budget{PerSecond: max(1, float64(perSecond)/float64(a.shares)), Burst: max(1, burst/a.shares)}
}

// Admit asks whether a token request may be sent to a server now. If not, it returns when to
// ask again and why. The caller must give a ticket back with Done, or with Abandon if it did
// not send the request after all.
//
// If only a place is missing, and the server is so fast that places become free every
// moment, Admit waits for one. Otherwise, when many clients are due at once, the workers
// would turn each of them away and look at it again later.
func (a *Admission) Admit(ctx context.Context, srv *rules.Server, n traffic.Need) (ticket *traffic.Ticket, wait time.Duration, p *rules.Problem, err error) {
	if a.lives.meet(srv.Object); a.lives.IsGone(srv.Object) {
		return nil, time.Second, &rules.Problem{
			Reason: v1alpha1.ReasonAuthorizationServerNotFound, Unknown: true,
			Message: fmt.Sprintf("%s %q was just deleted", srv.Key().Kind, srv.Key().Name),
		}, nil
	}
	e, err := a.endpoint(ctx, srv)
	if err != nil {
		return nil, 0, nil, err
	}
	answer := a.gate.Ask(a.clock.Now(), e, n)
	if answer.Freed != nil {
		ctx, cancel := context.WithTimeout(ctx, turnover)
		defer cancel()
		for answer.Freed != nil && ctx.Err() == nil {
			select {
			case <-answer.Freed:
				answer = a.gate.Ask(a.clock.Now(), e, n)
			case <-ctx.Done():
			}
		}
	}
	if answer.Ticket != nil {
		return answer.Ticket, 0, nil, nil
	}
	return nil, answer.Wait, waiting(answer.Cause, srv, n.Tenant), nil
}

// waiting returns the problem that says what a token request waits for.
func waiting(why traffic.Cause, srv *rules.Server, namespace string) *rules.Problem {
	p := &rules.Problem{Reason: v1alpha1.ReasonWaitingForBudget, Unknown: true}
	name := fmt.Sprintf("%s %q", srv.Key().Kind, srv.Key().Name)
	switch why {
	case traffic.CauseEndpoint:
		p.Reason, p.Unknown = v1alpha1.ReasonAuthorizationServerUnavailable, false
		p.Message = name + " does not answer, or fails for several namespaces; one client at a time tries again, within half a minute, or within a minute if the server asks for it"
	case traffic.CauseTenant:
		p.Reason, p.Unknown = v1alpha1.ReasonAuthorizationServerUnavailable, false
		p.Message = fmt.Sprintf("%s fails for several clients of namespace %q; one of them at a time tries again, within half a minute, or within a minute if the server asks for it", name, namespace)
	case traffic.CauseRefusals:
		p.Message = fmt.Sprintf("%s refused many clients of namespace %q; until it serves one of them, clients that it never served try one at a time, every half minute", name, namespace)
	case traffic.CausePlaces:
		p.Message = fmt.Sprintf("The limit of concurrent token requests is reached, for namespace %q or for slow servers such as %s", namespace, name)
	default:
		p.Message = fmt.Sprintf("The request budget of %s is used up for the moment", name)
	}
	return p
}

// Done reports how an admitted request ended.
func (a *Admission) Done(t *traffic.Ticket, failure *oauth.Error) {
	how, retryAfter := traffic.Served, time.Duration(0)
	if failure != nil {
		how, retryAfter = outcome(failure), failure.RetryAfter
	}
	if how == "" {
		a.Abandon(t)
		return
	}
	a.gate.Done(a.clock.Now(), t, how, retryAfter)
}

// outcome returns what a failed request says about the server. It is empty if the
// operator's own flags kept the request from being sent.
func outcome(e *oauth.Error) traffic.Outcome {
	switch {
	case e.Class == oauth.ClassRetryable && e.Status == 0:
		return traffic.Unanswered
	case e.Class == oauth.ClassRetryable, e.Class == oauth.ClassSlowRetry && e.Status == 0:
		return traffic.Failed // a malformed answer, or an untrusted certificate
	case e.Status == 0:
		return ""
	}
	return traffic.Refused
}

// Abandon reports that an admitted request was not sent.
func (a *Admission) Abandon(t *traffic.Ticket) { a.gate.Abandon(a.clock.Now(), t) }

// Leave gives up a client's places in all queues.
func (a *Admission) Leave(who types.UID) { a.gate.Leave(string(who)) }

// Turn returns how long a request has to wait for its turn in a server's budget. Zero means
// that it may be sent now.
func (a *Admission) Turn(ctx context.Context, srv *rules.Server, n traffic.Need) (time.Duration, error) {
	e, err := a.endpoint(ctx, srv)
	if err != nil {
		return 0, err
	}
	return a.gate.Turn(a.clock.Now(), e, n), nil
}

// GiveUp gives up the place in the queue that Turn assigned to a request.
func (a *Admission) GiveUp(n traffic.Need) { a.gate.LeaveAsker(n.Asker) }

// Loads returns the load of each server that was asked for something, by its name in metrics.
func (a *Admission) Loads() map[string]traffic.Load {
	loads := map[string]traffic.Load{}
	for owner, l := range a.gate.Loads(a.clock.Now()) {
		server, _ := path.Split(owner) // without the UID
		loads[strings.TrimSuffix(server, "/")] = l
	}
	return loads
}

// Forget drops what the gate knows of a server.
func (a *Admission) Forget(obj client.Object) { a.gate.Forget(Owner(obj)) }
