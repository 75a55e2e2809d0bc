// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// logs are the lines that the operator's pods have logged, including pods that are
// gone.
type logs struct {
	since metav1.Time

	mu    sync.Mutex
	lines []string
}

// followLogs follows the logs of every present and future container of the
// operator, until the test ends.
func followLogs(t *testing.T) *logs {
	t.Helper()
	l := &logs{since: metav1.Now()}
	dir := filepath.Join(outDir, "e2e")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	t.Cleanup(func() { cancel(); following.Wait() })
	following.Go(func() {
		seen := map[string]bool{}
		poll := time.NewTicker(200 * time.Millisecond)
		defer poll.Stop()
		for {
			var pods corev1.PodList
			_ = kube.List(ctx, &pods, client.InNamespace(operatorNamespace))
			for _, pod := range pods.Items {
				for _, status := range pod.Status.ContainerStatuses {
					if status.State.Running == nil || seen[status.ContainerID] {
						continue
					}
					seen[status.ContainerID] = true
					following.Go(func() { l.follow(ctx, filepath.Join(dir, pod.Name+".log"), pod.Name) })
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-poll.C:
			}
		}
	})
	return l
}

// follow reads a container's log to its end.
func (l *logs) follow(ctx context.Context, path, pod string) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		l.add(fmt.Sprintf("e2e: %v", err))
		return
	}
	defer file.Close()
	stream, err := clientset.CoreV1().Pods(operatorNamespace).GetLogs(pod, &corev1.PodLogOptions{Follow: true, SinceTime: &l.since}).Stream(ctx)
	if err != nil {
		return // it was gone before it could be read
	}
	defer stream.Close()
	scanner := bufio.NewScanner(stream)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		l.add(scanner.Text())
		_, _ = fmt.Fprintln(file, scanner.Text())
	}
}

func (l *logs) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// all returns the lines so far.
func (l *logs) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// errors returns the lines that report an error. If two replicas want the lease at
// once, one of them finds that the other made or took it, which client-go calls an
// error.
func (l *logs) errors() (found []string) {
	for _, line := range l.all() {
		if strings.Contains(line, "Error initially creating lease lock") && strings.Contains(line, "already exists") ||
			strings.Contains(line, "Failed to update lease") && strings.Contains(line, "the object has been modified") {
			continue
		}
		if strings.Contains(line, `"level":"error"`) || strings.HasPrefix(line, "panic") || strings.HasPrefix(line, "m2m-operator:") {
			found = append(found, line)
		}
	}
	return found
}
