// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"os"
	"syscall"
	"testing"
)

// TestALogThatCannotBeWritten runs the operator with a log that nobody reads any more, and with
// one on a full disk. It works as with any other log, and ends when it is told to.
func TestALogThatCannotBeWritten(t *testing.T) {
	for name, open := range map[string]func() (*os.File, error){
		"a closed pipe": func() (*os.File, error) {
			r, w, err := os.Pipe()
			if err != nil {
				return nil, err
			}
			return w, r.Close()
		},
		"a full disk": func() (*os.File, error) { return os.OpenFile("/dev/full", os.O_WRONLY, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			log, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = log.Close() }()
			as, cart := story(t)
			op := prepare(t, "controller-manager")
			op.cmd.Stdout, op.cmd.Stderr = log, log
			op.run()
			op.answers("/readyz", http.StatusOK)
			eventually(t, ready(cart))
			if n := len(as.TokenRequests()); n != 1 {
				t.Errorf("%d token requests were sent, want 1", n)
			}
			if err := op.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := op.ends(); err != nil {
				t.Errorf("after SIGTERM it ended with %v, want exit code 0", err)
			}
		})
	}
}
