// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// right is one verb for one resource.
type right struct{ verb, group, resource string }

// String names a right as the API server does when it refuses a request.
func (r right) String() string { return r.verb + " " + r.resource }

// licence is a user with the operator's rights, who can lose one of them.
type licence struct {
	t    *testing.T
	role *rbacv1.ClusterRole
	all  []right
}

var licences atomic.Int32

// newLicence creates a user with everything that the installation allows the operator cluster-wide.
func newLicence(t *testing.T) *licence {
	t.Helper()
	l := &licence{t: t, role: operator.ManagerRole(t)}
	l.role.Rules = append(l.role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"patch"}}) // prompt delivery
	for _, more := range operator.EnforcementRoles(t) {
		l.role.Rules = append(l.role.Rules, more.Rules...)
	}
	for _, rule := range l.role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					l.all = append(l.all, right{verb, group, resource})
				}
			}
		}
	}
	l.role.ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprintf("faults-%d", licences.Add(1))}
	l.role.Rules = rulesOf(l.all)
	name := l.role.Name
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}},
	}
	operator.Create(t, l.role, binding)
	t.Cleanup(func() {
		for _, o := range []client.Object{binding, l.role} {
			if err := operator.Kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
	l.await(l.all[0], true)
	return l
}

func rulesOf(all []right) (rules []rbacv1.PolicyRule) {
	for _, r := range all {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{r.group}, Resources: []string{r.resource}, Verbs: []string{r.verb}})
	}
	return rules
}

// bear makes an operator's connection that of the user.
func (l *licence) bear(cfg *rest.Config) { cfg.Impersonate.UserName = l.role.Name }

// take takes a right away.
func (l *licence) take(r right) {
	l.t.Helper()
	l.grant(slices.DeleteFunc(slices.Clone(l.all), func(other right) bool { return other == r }))
	l.await(r, false)
}

// giveBack gives a right back.
func (l *licence) giveBack(r right) {
	l.t.Helper()
	l.grant(l.all)
	l.await(r, true)
}

func (l *licence) grant(all []right) {
	l.t.Helper()
	operator.Change(l.t, l.role, func(role *rbacv1.ClusterRole) { role.Rules = rulesOf(all) })
}

// await waits until the API server decides by what was written.
func (l *licence) await(r right, want bool) {
	l.t.Helper()
	resource, sub, _ := strings.Cut(r.resource, "/")
	operator.Eventually(l.t, func() error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               l.role.Name,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: r.verb, Group: r.group, Resource: resource, Subresource: sub},
		}}
		if err := operator.Kube.Create(context.Background(), review); err != nil {
			return err
		}
		if review.Status.Allowed != want {
			return fmt.Errorf("the right to %s: %t", r, review.Status.Allowed)
		}
		return nil
	})
}

// rightOf returns the right that a request to the API server needs.
func (l *licence) rightOf(c Call) (right, bool) {
	resource, object, _ := strings.Cut(c.Object, " ")
	verb := map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodGet: "get"}[c.Verb]
	if _, name, _ := strings.Cut(object, "/"); verb == "get" && name == "" {
		verb = "list"
	}
	i := slices.IndexFunc(l.all, func(r right) bool { return r.verb == verb && r.resource == resource })
	if c.Side != APIServer || i < 0 {
		return right{}, false
	}
	return l.all[i], true
}

// deprivation is a step of a scenario whose writes the API server refuses in part: for want of a right that the step
// needs, or because somebody objects.
type deprivation struct {
	step int
	right
	by Fault
}

// String names the case as a part of a test's name.
func (d deprivation) String() string {
	return strings.NewReplacer("/", ":", " ", "_").Replace(fmt.Sprintf("step %d, %s to %s", d.step+1, d.by, d.right))
}

// lacking names the cases of a missing right in the figures.
const lacking Fault = "no right"

// TestRights takes each right away that a step of a scenario needs, lets the operator try for some time, and gives
// the right back. Meanwhile the operator says what is refused, and it ends as if nothing had happened. A short run
// takes a few scenarios, which a seed selects, and each of their rights once.
func TestRights(t *testing.T) {
	all, seed := newPlaces(t, 4), seedOf(t)
	var cases []*deprived
	for _, s := range someScenarios(seed) {
		cases = append(cases, deprivations(t, all, s)...)
	}
	playAll(t, all, oneOfEach(cases, seed))
}

func playAll(t *testing.T, all places, cases []*deprived) {
	t.Helper()
	f := newFigures(t)
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.scenario.name, " ", "_")+"/"+c.String(), func(t *testing.T) {
			t.Parallel()
			p := <-all
			defer func() { all <- p }()
			start := time.Now()
			defer func() { f.add(c.scenario.name, c.by, t.Failed(), time.Since(start)) }()
			c.play(t, p)
		})
	}
}

// deprived is a case: a scenario with a deprivation.
type deprived struct {
	deprivation
	scenario *scenario
	free     *outcome
}

// deprivations runs a scenario with all rights, and returns what it can lack.
func deprivations(t *testing.T, all places, s *scenario) (cases []*deprived) {
	t.Helper()
	s.urgent = false // a change that pods have seen meanwhile needs no touch
	p := <-all
	defer func() { all <- p }()
	l := newLicence(t)
	r := newRun(t, p, s)
	r.connect = l.bear
	r.start()
	defer r.clean()
	for _, step := range s.before {
		step.take(r)
	}
	past := len(r.wire.Calls())
	for i, step := range s.steps {
		from := len(r.wire.Calls())
		step.take(r)
		r.settle(aftermath)
		var seen []right
		for _, c := range r.wire.Calls()[from:] {
			if need, ok := l.rightOf(c); ok && !slices.Contains(seen, need) {
				seen = append(seen, need)
				cases = append(cases, &deprived{deprivation: deprivation{i, need, lacking}, scenario: s})
			}
		}
	}
	free := r.conclude(past)
	for _, c := range cases {
		c.free = free
	}
	return cases
}

// someScenarios returns all scenarios, or for a short run a few.
func someScenarios(seed uint64) []*scenario {
	all := scenarios()
	if os.Getenv("SHORT") == "" {
		return all
	}
	rand.New(rand.NewPCG(seed, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:3]
}

// oneOfEach returns all cases, or for a short run one for each right and kind of refusal.
func oneOfEach(all []*deprived, seed uint64) []*deprived {
	if os.Getenv("SHORT") == "" {
		return all
	}
	random := rand.New(rand.NewPCG(seed, 1))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortStableFunc(all, func(a, b *deprived) int {
		return cmp.Compare(a.right.String()+string(a.by), b.right.String()+string(b.by))
	})
	return slices.CompactFunc(all, func(a, b *deprived) bool { return a.right == b.right && a.by == b.by })
}

// play runs the case and judges it.
func (c *deprived) play(t *testing.T, p *place) {
	t.Helper()
	l := newLicence(t)
	r := newRun(t, p, c.scenario)
	r.connect = l.bear
	r.start()
	defer r.clean()
	for _, step := range c.scenario.before {
		step.take(r)
	}
	past := len(r.wire.Calls())
	for i, step := range c.scenario.steps {
		if i != c.step {
			step.take(r)
			r.settle(aftermath)
			continue
		}
		from := len(r.wire.Calls())
		said, lift := c.refuse(l, r)
		step.take(r)
		if slices.ContainsFunc(r.wire.Calls()[from:], func(call Call) bool { return c.meets(l, call) }) {
			c.says(r, said)
		}
		lift()
		r.settle(aftermath)
	}
	r.log.breaches = slices.DeleteFunc(r.log.breaches, c.mayBreach)
	o := r.conclude(past)
	if d := diff(c.free.state, o.state); d != "" && !c.mayDelete() {
		t.Errorf("it ends differently (-without +with the fault):\n%s", d)
	}
	c.issuedOnce(t, o)
	createdOnce(t, c.free, o, disturbance{})
	if t.Failed() {
		t.Logf("the requests were\n%s", strings.Join(describeAll(r.wire.Calls()[past:]), "\n"))
	}
}

// aftermath is how long the operator has after a step. It includes the time for which a former credential stays valid.
const aftermath = 40 * time.Minute

// issuedOnce checks that no token is issued twice. There may be fewer than in the run with all rights, if it replaced
// some whose terms the case knew from the beginning. Without the right to store what it has learnt of a server, the
// operator knows no key of it, and requests other tokens now and then.
func (c *deprived) issuedOnce(t *testing.T, o *outcome) {
	t.Helper()
	more := 0
	if c.resource == "authorizationservers/status" {
		more = 6
	}
	for access, n := range c.free.issued {
		want, got := n-c.free.lost[access], o.issued[access]-o.lost[access]
		if got > want+more || got == 0 && want > 0 {
			t.Errorf("%d tokens for %s came to a Secret, want %d", got, access, want)
		}
		if lost := o.lost[access] - c.free.lost[access]; lost > more {
			t.Errorf("%d tokens for %s were issued for nothing", lost, access)
		}
	}
}

// mayBreach reports whether a breach is what the operator promises without a right: a token that waits for bundles
// waits only for some minutes.
func (c *deprived) mayBreach(breach string) bool {
	return c.resource == "configmaps" && strings.Contains(breach, "before its key")
}

// mayDelete reports whether an object may end deleted instead of empty: a withdrawal goes through without the right
// to update the Secret.
func (c *deprived) mayDelete() bool {
	return c.scenario.name == "withdrawal" && c.resource == "secrets"
}

// refuse makes the API server refuse what the case is about. It returns what a refusal says.
func (c *deprived) refuse(l *licence, r *run) (said string, lift func()) {
	r.t.Helper()
	switch c.by {
	case policed:
		return police(r, l, c.resource)
	case outOfQuota:
		return exhaust(r, c.resource)
	}
	l.take(c.right)
	return fmt.Sprintf("User %q cannot %s resource %q", l.role.Name, c.verb, c.resource), func() { l.giveBack(c.right) }
}

// meets reports whether a request was refused.
func (c *deprived) meets(l *licence, call Call) bool {
	need, ok := l.rightOf(call)
	_, object, _ := strings.Cut(call.Object, " ")
	switch {
	case !ok || need.resource != c.resource:
		return false
	case c.by == policed:
		return need.verb != "delete" && call.Writes() && !strings.HasPrefix(object, "operator")
	case c.by == outOfQuota:
		return need.verb == "create" && !strings.HasPrefix(object, "operator")
	}
	return need == c.right
}

// says checks that a refusal is named: by the error of a reconcile, by an object's condition or in the log.
func (c *deprived) says(r *run, what string) {
	r.t.Helper()
	said := strings.Join(r.said, "\n") + r.conditions() + operator.Logs.String()
	// The Secret with tokens that wait is only a copy for the next process: a line of the log has the reason.
	kept := c.resource == "secrets" && strings.Contains(said, "Could not keep the tokens that wait")
	if !strings.Contains(strings.ReplaceAll(said, `\"`, `"`), what) && !kept {
		r.t.Errorf("nothing says %q", what)
	}
}

// conditions returns the messages of all conditions, as they are.
func (r *run) conditions() string {
	r.t.Helper()
	var all []string
	for _, u := range r.objects() {
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range conditions {
			all = append(all, fmt.Sprint(c))
		}
	}
	return strings.Join(all, "\n")
}
