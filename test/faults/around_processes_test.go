// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/m2m-operator/m2m-operator/test/cgroup"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// How processes end.
const (
	OutOfMemory Fault = "out of memory" // the kernel kills it
	Drained     Fault = "drained"       // it is told to end, and so is the replica that would take over
)

// TestTheKernelKills exhausts the memory of the operator's container in the middle of a request: the kernel kills the
// operator, and a fresh one takes over. SHORT=1 takes one case.
func TestTheKernelKills(t *testing.T) {
	group, err := cgroup.LimitMemory(fmt.Sprintf("m2m-faults-%d", os.Getpid()), 128<<20)
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	})
	// The kernel takes the operator rather than what fills the memory.
	launch := append(group.Command(), "/bin/sh", "-c", `echo 1000 >/proc/self/oom_score_adj && exec "$0" "$@"`)
	fill := append(group.Command(), "dd", "if=/dev/zero", "of=/dev/null", "count=1", "bs=126M")
	playEnds(t, OutOfMemory, func(r *run, program string, b *brake) (end func()) {
		r.launch = launch
		b.process = r.replica(program, "operator", b.before)
		r.launch = nil
		return func() {
			for i := 0; i < 10 && b.process.Running() == nil; i++ {
				_ = exec.CommandContext(r.t.Context(), fill[0], fill[1:]...).Run() // it may be killed, too
			}
		}
	})
}

// wasKilled returns an error unless a process was killed.
func wasKilled(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return nil
		}
	}
	return fmt.Errorf("%w, and was not killed", err)
}

// TestADrain tells both replicas to end, in the middle of a request, as the drain of a node does on which both of them
// are. Others are started on another node. SHORT=1 takes one case.
func TestADrain(t *testing.T) {
	playEnds(t, Drained, func(r *run, program string, b *brake) (end func()) {
		b.process = r.replica(program, "first", b.before)
		r.leads("")
		second := r.replica(program, "second", nil)
		return func() {
			for _, p := range []*local.Process{b.process, second} {
				if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			}
			if err := second.Wait(); err != nil {
				t.Errorf("the replica that does not lead ended with %v", err)
			}
		}
	})
}

// playEnds plays the cases in which processes end at a request. begin starts them, and returns what ends them.
func playEnds(t *testing.T, how Fault, begin func(*run, string, *brake) (end func())) {
	t.Helper()
	atEachStop(t, how, func(t *testing.T, p *place, s stop, program string, free *outcome) {
		t.Helper()
		playEnd(t, p, s, how, free, program, begin)
	})
}

func playEnd(t *testing.T, p *place, s stop, how Fault, free *outcome, program string, begin func(*run, string, *brake) (end func())) {
	t.Helper()
	r := newRun(t, p, s.scenario)
	defer r.clean()
	r.tick()
	r.forgetLeader()
	b := newBrake(s, r.rename)
	r.wire.Live()
	r.wire.Observe = func(c Call, req *http.Request, resp *http.Response) {
		r.log.observe(c, req, resp)
		b.meet(c, false)
	}
	b.halt = begin(r, program, b)
	former := r.leads("")
	for _, step := range s.scenario.before {
		step.do(r)
		r.atRest()
	}
	b.arm()
	for _, step := range s.scenario.steps {
		step.do(r)
	}
	r.soon("the operator has ended", func() bool { return b.process.Running() != nil })
	err := b.process.Wait()
	if how == OutOfMemory {
		err = wasKilled(err)
	}
	if err != nil {
		t.Errorf("the leader ended with %v", err)
	}
	for i := range 2 {
		r.replica(program, fmt.Sprintf("fresh %d", i+1), nil)
	}
	r.leads(former)
	state, _ := r.atRest()
	more := 0
	if how == OutOfMemory && s.side == AuthorizationServer {
		more = 1 // nothing knows what the server answered
	}
	r.judgeLeaders(free, state, more)
}
