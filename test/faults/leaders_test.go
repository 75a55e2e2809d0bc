// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// Stopped is what happens to a leader: it is stopped for longer than its lease, and then goes on.
const Stopped Fault = "stopped leader"

// stop is where a leader is stopped.
type stop struct {
	name     string
	scenario *scenario
	verb     string
	object   string // how the call's object begins
	side     Side
	early    bool // before the request is executed: it is still on its way while another one leads
}

// stops returns where leaders are stopped: in the middle of a token request, of the write of a Secret, of a
// registration and of the rotation of a credential.
func stops() []stop {
	registration := &oidc.DynamicRegistration{RotateTokens: true}
	mint := &scenario{name: "first token", steps: []step{{do: story}}}
	again := &scenario{name: "other scopes", before: []step{{do: story}}, steps: []step{{do: otherScopes}}}
	register := &scenario{name: "registration", registration: registration, steps: []step{{do: register}}}
	rotate := &scenario{name: "registered rotation", registration: registration, before: []step{{do: register.steps[0].do}}, steps: []step{{do: rotateCredential}}}
	return []stop{
		{"token request", mint, http.MethodPost, "token", AuthorizationServer, false},
		{"new Secret", mint, http.MethodPost, "secrets shop", APIServer, true},
		{"token of other scopes", again, http.MethodPost, "token", AuthorizationServer, false},
		{"changed Secret", again, http.MethodPut, "secrets shop/cart-token", APIServer, true},
		{"status of a client", again, http.MethodPatch, "m2mclients/status shop/cart", APIServer, true},
		{"request to register", register, http.MethodPost, "register", AuthorizationServer, false},
		{"credentials of a registration", register, http.MethodPut, "secrets operator/", APIServer, true},
		{"request to rotate", rotate, http.MethodPost, "register", AuthorizationServer, false},
		{"rotated credentials", rotate, http.MethodPut, "secrets operator/", APIServer, true},
	}
}

// brake stops a process at a call.
type brake struct {
	stop
	rename  func(string) string
	halt    func() // what stops it
	process *local.Process
	frozen  chan struct{}
	thawed  chan struct{}

	mu    sync.Mutex
	armed bool
}

func newBrake(s stop, rename func(string) string) *brake {
	b := &brake{stop: s, rename: rename, frozen: make(chan struct{}), thawed: make(chan struct{})}
	b.halt = b.freeze
	return b
}

// arm makes the brake stop the process at the next call.
func (b *brake) arm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = true
}

// meet stops the process if this is the call, and returns once it goes on. It reports whether that was so.
func (b *brake) meet(c Call, early bool) bool {
	b.mu.Lock()
	mine := b.armed && early == b.early && c.Side == b.side && c.Verb == b.verb && strings.HasPrefix(c.Object, b.object)
	b.armed = b.armed && !mine
	b.mu.Unlock()
	if mine {
		b.halt()
	}
	return mine
}

// freeze stops the process, and returns once it goes on.
func (b *brake) freeze() {
	_ = syscall.Kill(b.process.PID(), syscall.SIGSTOP)
	close(b.frozen)
	<-b.thawed
}

// thaw lets the process and its request go on.
func (b *brake) thaw() {
	_ = syscall.Kill(b.process.PID(), syscall.SIGCONT)
	close(b.thawed)
}

// before stops the process before a request is executed.
func (b *brake) before(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		c, _ := describe(APIServer, req)
		c.Object = b.rename(c.Object)
		if b.meet(c, true) {
			req = req.WithContext(context.WithoutCancel(req.Context())) // it is on its way, whatever its sender does
		}
		return next.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// replica starts a replica of the operator, as a process. Its calls to the API server pass its own wire, and
// over, if that is not nil.
func (r *run) replica(program, name string, over func(http.RoundTripper) http.RoundTripper) *local.Process {
	r.t.Helper()
	proxy, listener, err := NewProxy()
	if err != nil {
		r.t.Fatal(err)
	}
	to, err1 := url.Parse(operator.RESTConfig.Host)
	next, err2 := rest.TransportFor(rest.CopyConfig(operator.RESTConfig))
	if err := errors.Join(err1, err2); err != nil {
		r.t.Fatal(err)
	}
	if over != nil {
		next = over(next)
	}
	wire := &Wire{Rename: r.rename, Observe: r.log.observe}
	wire.Live()
	proxy.Serve(listener, to, wire.Through(APIServer, next))
	r.t.Cleanup(proxy.Close)
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: proxy.URL}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c"}
	c.CurrentContext = "x"
	dir := r.t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	err1 = clientcmd.WriteToFile(*c, kubeconfig)
	log, err2 := os.Create(filepath.Join(dir, "log"))
	if err := errors.Join(err1, err2); err != nil {
		r.t.Fatal(err)
	}
	defer log.Close() // the process has its own
	command := append(slices.Clone(r.launch), program)
	command = append(command, "--kubeconfig="+kubeconfig, "--operator-namespace="+operator.Namespace,
		"--metrics-bind-address=0", "--health-probe-bind-address=0", "--webhook=false", "--allow-insecure-http", "--allow-loopback",
		"--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s")
	p, err := local.Start(name, log, false, command[0], command[1:]...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		p.Kill()
		if r.t.Failed() {
			r.t.Logf("%s wrote\n%s", name, local.LastLines(log.Name(), 30))
		}
	})
	return p
}

// forgetLeader removes the lease that a former leader may have left.
func (r *run) forgetLeader() {
	r.t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "m2m-operator"}}
	if err := operator.Kube.Delete(r.t.Context(), lease); client.IgnoreNotFound(err) != nil {
		r.t.Fatal(err)
	}
}

// leads waits until a lease is held by another holder than before, and returns that.
func (r *run) leads(not string) (holder string) {
	r.t.Helper()
	r.soon("somebody leads", func() bool {
		var l coordinationv1.Lease
		err := operator.Kube.Get(r.t.Context(), client.ObjectKey{Namespace: operator.Namespace, Name: "m2m-operator"}, &l)
		if err != nil || l.Spec.HolderIdentity == nil {
			return false
		}
		holder = *l.Spec.HolderIdentity
		return holder != "" && holder != not
	})
	return holder
}

// soon waits by the real clock.
func (r *run) soon(what string, so func() bool) {
	r.t.Helper()
	for range 600 {
		if so() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Fatalf("not within a minute: %s", what)
}

// isServed reports whether the cart has what it asks for.
func (r *run) isServed() bool {
	c := r.cart()
	ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == c.Generation &&
		len(c.Status.Tokens) == 1 && len(c.Status.Tokens[0].Scopes) == len(c.Spec.Access[0].Scopes)
}

// atRest waits until the operator has nothing to do, and returns the state and the versions of the Secrets.
func (r *run) atRest() (state string, secrets map[string]string) {
	r.t.Helper()
	still := 0
	r.soon("the operator is at rest", func() bool {
		now := r.state()
		if still++; now != state || !r.isServed() {
			state, still = now, 0
		}
		return still == 10
	})
	secrets = map[string]string{}
	for _, u := range r.objects() {
		if u.GetKind() == "Secret" {
			secrets[u.GetNamespace()+"/"+u.GetName()] = u.GetResourceVersion()
		}
	}
	return state, secrets
}

// TestTwoLeaders stops the leader of two processes in the middle of a request for longer than its lease. The other
// one takes over, and then the first one goes on. What the second one has written stays. On the real clock; SHORT=1
// takes one case.
func TestTwoLeaders(t *testing.T) { atEachStop(t, Stopped, twoLeaders) }

// atEachStop plays a case at each request at which processes are stopped, for a short run at one of them. free is how
// the scenario ends without.
func atEachStop(t *testing.T, how Fault, play func(t *testing.T, p *place, s stop, program string, free *outcome)) {
	t.Helper()
	all, f := newPlaces(t, 1), newFigures(t)
	program := filepath.Join(t.TempDir(), "manager")
	if err := kubetest.BuildOperator("../..", program); err != nil {
		t.Fatal(err)
	}
	p, cases := <-all, stops()
	if os.Getenv("SHORT") != "" {
		random := rand.New(rand.NewPCG(seedOf(t), uint64(len(how))))
		n := random.IntN(len(cases))
		if how == Stopped { // there two leaders fought
			n = slices.IndexFunc(cases, func(s stop) bool { return s.name == "token of other scopes" })
		}
		cases = cases[n:][:1]
	}
	for _, s := range cases {
		t.Run(strings.ReplaceAll(s.name, " ", "_"), func(t *testing.T) {
			start := time.Now()
			defer func() { f.add(s.scenario.name, how, t.Failed(), time.Since(start)) }()
			_, free := playLate(t, p, s.scenario, "", "")
			play(t, p, s, program, free)
		})
	}
}

func twoLeaders(t *testing.T, p *place, s stop, program string, free *outcome) {
	t.Helper()
	r := newRun(t, p, s.scenario)
	defer r.clean()
	r.tick()
	b := newBrake(s, r.rename)
	r.wire.Live()
	r.wire.Observe = func(c Call, req *http.Request, resp *http.Response) {
		r.log.observe(c, req, resp)
		b.meet(c, false)
	}
	r.forgetLeader()
	b.process = r.replica(program, "first", b.before)
	first := r.leads("")
	r.replica(program, "second", nil)
	for _, step := range s.scenario.before {
		step.do(r)
		r.atRest()
	}
	b.arm()
	for _, step := range s.scenario.steps {
		step.do(r)
	}
	r.soon("the leader is stopped", func() bool {
		select {
		case <-b.frozen:
			return true
		default:
			return false
		}
	})
	r.leads(first)
	state, secrets := r.atRest()
	b.thaw()
	if err := b.process.Wait(); err == nil {
		t.Error("the first leader has ended without saying why")
	}
	after, now := r.atRest()
	if d := diff(state, after); d != "" {
		t.Errorf("the first leader has changed what the second one made (-before +after):\n%s", d)
	}
	for name, version := range secrets {
		if now[name] != version {
			t.Errorf("Secret %q was written after the second leader had taken over", name)
		}
	}
	r.judgeLeaders(free, after, 1)
}

// judgeLeaders compares what several leaders have made with what one makes. They may request some more tokens for an
// access, and make as many more registrations.
func (r *run) judgeLeaders(free *outcome, state string, more int) {
	r.t.Helper()
	if d := diff(withoutLeftBehind(free.state), withoutLeftBehind(state)); d != "" {
		r.t.Errorf("it ends differently (-one leader +several):\n%s", d)
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	issued := map[string]int{}
	for _, i := range r.log.issued {
		issued[i.access]++
	}
	for access, n := range issued {
		// One more registration tries its own credential.
		if n-free.issued[access] > more+r.log.creates["POST register"]-free.creates["POST register"] {
			r.t.Errorf("%d tokens for %s were issued, and one leader needs %d", n, access, free.issued[access])
		}
	}
	if n := r.log.creates["POST register"] - free.creates["POST register"]; n > more {
		r.t.Errorf("%d registrations more than one leader makes", n)
	}
	for _, breach := range r.log.breaches {
		r.t.Error(breach)
	}
}

// tick moves the run's clock with the real one.
func (r *run) tick() {
	ticker, done := time.NewTicker(50*time.Millisecond), make(chan struct{})
	go func() {
		for {
			select {
			case now := <-ticker.C:
				r.clock.SetTime(now)
			case <-done:
				return
			}
		}
	}()
	r.t.Cleanup(func() { ticker.Stop(); close(done) })
}
