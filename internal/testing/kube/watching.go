// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"os"
	"sync"
	"testing"
	"time"
)

// Eventually waits until a check passes, for longer than a busy machine needs. After two
// minutes it fails the test with the check's last error.
func Eventually(t *testing.T, check func() error) {
	t.Helper()
	Within(t, 2*time.Minute, check)
}

// Within is Eventually with another time limit. What takes long is checked less and less
// often, because checks cost processor time on both sides.
func Within(t *testing.T, patience time.Duration, check func() error) {
	t.Helper()
	start := time.Now()
	poll(t, patience, check, func() time.Duration {
		return min(max(time.Since(start)/5, 20*time.Millisecond), 100*time.Millisecond)
	})
}

// Every is Within for checks that must not disturb what they check: it also takes the interval
// between two checks.
func Every(t *testing.T, every, patience time.Duration, check func() error) {
	t.Helper()
	poll(t, patience, check, func() time.Duration { return every })
}

func poll(t *testing.T, patience time.Duration, check func() error, pause func() time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", patience, err)
		case <-time.After(pause()):
		}
	}
}

// Log keeps everything that is written to it, and copies it to standard error if
// M2M_TEST_LOG is set. Its zero value is empty.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if os.Getenv("M2M_TEST_LOG") != "" {
		_, _ = os.Stderr.Write(p)
	}
	return l.b.Write(p)
}

// String returns what was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
