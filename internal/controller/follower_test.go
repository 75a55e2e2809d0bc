// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// follower is a lock that this replica never gets.
type follower struct{ resourcelock.Interface }

func (follower) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	return nil, nil, errors.New("held elsewhere")
}
func (follower) Identity() string { return "follower" }
func (follower) Describe() string { return "a lock held elsewhere" }

// TestCachesFillBeforeAReplicaLeads covers all caches, including that of foreign
// Secrets if only some namespaces are watched.
func TestCachesFillBeforeAReplicaLeads(t *testing.T) {
	for name, namespaces := range map[string][]string{"all namespaces": nil, "two namespaces": {"default", "kube-system"}} {
		t.Run(name, func(t *testing.T) {
			o := operator.DefaultOptions()
			o.WatchNamespaces = namespaces
			mo := controller.ManagerOptions(o)
			mo.Metrics = metricsserver.Options{BindAddress: "0"}
			mo.LeaderElection, mo.LeaderElectionResourceLockInterface = true, follower{}
			mgr, err := ctrl.NewManager(rest.CopyConfig(operator.RESTConfig), mo)
			if err != nil {
				t.Fatal(err)
			}
			r, err := controller.New(mgr, o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- mgr.Start(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Errorf("the manager stopped: %v", err)
				}
			}()
			patience, stop := context.WithTimeout(ctx, 20*time.Second)
			defer stop()
			if !r.Shared.Foreign.WaitForCacheSync(patience) {
				t.Error("the cache of foreign Secrets and ConfigMaps is not filled")
			}
		})
	}
}
