// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// All tests share one control plane. Each scenario runs its own operator, for its
// namespaces.
var (
	kubeConfig   *rest.Config
	kube         client.WithWatch // bypasses every cache
	subjects     []*subject       // the servers to test
	operatorLogs = &kubetest.Log{}

	// runID is part of the name of everything that the run creates at a server.
	runID = "m2m" + strings.ToLower(rand.Text()[:8])
)

// sideBySide is how many scenarios run at a time, unless -parallel sets another number. They wait more than they
// work.
const sideBySide = "8"

func TestMain(m *testing.M) {
	// This comes before anything starts: a user should not have to wait half a minute to
	// learn what to correct.
	var err error
	if subjects, err = chooseSubjects(os.Getenv, os.ReadFile); err == nil {
		err = flag.Set("test.parallel", sideBySide)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "provision:", err)
		os.Exit(1)
	}
	ctrl.SetLogger(zap.New(zap.WriteTo(operatorLogs), zap.UseDevMode(true)))
	kubetest.Main(filepath.Join("..", ".."), func(environment *envtest.Environment) (code int, err error) {
		kubeConfig = environment.Config
		if kube, err = client.NewWithWatch(kubeConfig, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if err := theSecrets.watch(ctx, kube); err != nil {
			return 1, err
		}
		fmt.Printf("everything at the servers carries the ID of this run, %s\n", runID)
		code = m.Run()
		err = second.stop()
		families, gatherErr := metrics.Registry.Gather()
		err = errors.Join(err, gatherErr, theSecrets.findIn("the operator's log", operatorLogs.String()), theSecrets.findIn("its metrics", fmt.Sprint(families)),
			theSecrets.findInObjects(context.Background()))
		report.fail(err)
		return code, errors.Join(err, report.write(os.Getenv("M2M_PROVISION_OUT")))
	})
}

// operator is a running operator.
type operator struct {
	die, cancel context.CancelFunc
	done        chan error
}

// startOperator runs the operator as cmd/main.go does, without addresses.
func startOperator(config *rest.Config, o controller.Options) (*operator, error) {
	mo := controller.ManagerOptions(o)
	mo.Metrics = metricsserver.Options{BindAddress: "0"}
	skip := true
	mo.Controller.SkipNameValidation = &skip
	op := &operator{done: make(chan error, 1)}
	var life, ctx context.Context
	life, op.die = context.WithCancel(context.Background())
	ctx, op.cancel = context.WithCancel(context.Background())
	o.Egress.MayAct = life.Err
	config = rest.CopyConfig(config)
	config.Wrap(during(life))
	mgr, err := ctrl.NewManager(config, mo)
	if err != nil {
		return nil, fmt.Errorf("make the manager: %w", err)
	}
	if err := controller.Setup(mgr, o); err != nil {
		return nil, err
	}
	go func() { op.done <- mgr.Start(ctx) }()
	return op, nil
}

// during wraps a transport. Its requests break off when a life ends, and it sends none after that.
func during(life context.Context) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			ctx, cancel := context.WithCancel(req.Context())
			context.AfterFunc(life, cancel)
			return next.RoundTrip(req.WithContext(ctx))
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// kill ends the operator: everything in progress breaks off, and nothing more is sent. It returns when all of it
// has ended, so that two operators never run together.
func (o *operator) kill() error {
	o.die()
	o.cancel()
	return <-o.done
}

// operatorOptions returns the options of a scenario's operator.
func operatorOptions(policy egress.Policy, system string, watched ...string) controller.Options {
	return controller.Options{
		Egress: policy, OperatorNamespace: system, WatchNamespaces: watched, PromptDelivery: true, ClusterID: runID, DeletionTimeout: time.Minute,
	}
}

// eventually waits as long as a remote server and a resync every 10 s may take.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	kubetest.Every(t, 100*time.Millisecond, time.Minute, check)
}
