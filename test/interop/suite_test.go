// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// What all tests share: one control plane and one operator, on the real clock.
var (
	kube         client.WithWatch // bypasses every cache
	egressPolicy = egress.Policy{AllowHTTP: true, AllowLoopback: true}
	subjects     []subject // the servers to test
	operatorLogs logs
)

func TestMain(m *testing.M) {
	// This comes before anything starts: a user should not have to wait half a minute to
	// learn what to correct.
	var err error
	if subjects, err = chooseSubjects(os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
	ctrl.SetLogger(zap.New(zap.WriteTo(&operatorLogs), zap.UseDevMode(true)))
	kubetest.Main(filepath.Join("..", ".."), func(environment *envtest.Environment) (code int, err error) {
		config := environment.Config
		if kube, err = client.NewWithWatch(config, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		stop, err := startOperator(config)
		if err != nil {
			return 1, err
		}
		code = m.Run()
		if hydraTables != "" {
			_ = os.RemoveAll(hydraTables)
		}
		if err := stop(); err != nil {
			return 1, fmt.Errorf("the operator stopped: %w", err)
		}
		if leak := operatorLogs.leak(); leak != "" {
			return 1, fmt.Errorf("a secret or a token is in the operator's log: %s", leak)
		}
		return code, allReports.write(os.Getenv("M2M_INTEROP_OUT"))
	})
}

// startOperator runs the operator as cmd/main.go does, without addresses.
func startOperator(config *rest.Config) (stop func() error, err error) {
	o := controller.Options{Egress: egressPolicy, PromptDelivery: true}
	mo := controller.ManagerOptions(o)
	mo.Metrics = metricsserver.Options{BindAddress: "0"}
	mgr, err := ctrl.NewManager(config, mo)
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	if err := controller.Setup(mgr, o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	return func() error {
		cancel()
		return <-done
	}, nil
}

// logs keeps the operator's log, and the secrets that must not be in it.
type logs struct {
	mu      sync.Mutex
	text    bytes.Buffer
	secrets []string
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if os.Getenv("M2M_TEST_LOG") != "" {
		_, _ = os.Stderr.Write(p)
	}
	return l.text.Write(p)
}

// neverShow adds a secret that must not be in the log.
func (l *logs) neverShow(secret string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets = append(l.secrets, secret)
}

// leak returns the text before the first secret or token in the log, "" if there is none.
func (l *logs) leak() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	if at := kubetest.JWT.FindStringIndex(text); at != nil {
		return text[max(0, at[0]-120):at[0]] + "…"
	}
	for _, s := range l.secrets {
		if i := strings.Index(text, s); i >= 0 {
			return text[max(0, i-120):i] + "…"
		}
	}
	return ""
}

// eventually waits as long as a remote server may take.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	kubetest.Within(t, time.Minute, check)
}
