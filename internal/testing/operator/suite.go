// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

var (
	// RESTConfig connects to the control plane of the package's tests: a real
	// kube-apiserver and etcd.
	RESTConfig *rest.Config
	// Environment is that control plane.
	Environment *envtest.Environment
	// Kube is the test's own client. It bypasses every cache.
	Kube client.Client
	// Logs holds everything that the operators of the package's tests have logged.
	Logs = &kubetest.Log{}

	root string // path from the package under test to the repository
)

// Sentinel is in every client secret of the suite. Nothing that the operator
// writes anywhere may contain it.
const Sentinel = "s3ntinel"

// Main runs a package's tests against their own control plane, and then looks for
// leaked secrets. TestMain calls it with the path from the package to the repository.
func Main(m *testing.M, repository string) {
	root = repository
	ctrl.SetLogger(zap.New(zap.WriteTo(Logs), zap.UseDevMode(true)))
	kubetest.Main(root, func(environment *envtest.Environment) (code int, err error) {
		Environment, RESTConfig = environment, environment.Config
		RESTConfig.Wrap(written.observed)
		if Kube, err = client.New(RESTConfig, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		code = m.Run()
		if leaks := findSentinel(); len(leaks) > 0 {
			return 1, fmt.Errorf("a client secret has leaked:\n%s", strings.Join(leaks, "\n"))
		}
		return code, nil
	})
}

var sentinels = regexp.MustCompile(regexp.QuoteMeta(Sentinel))

// findSentinel looks for the sentinel secret, and for anything that looks like a
// token, in everything that the operator writes: logs, events, statuses, metrics,
// ConfigMaps, and the annotations of Secrets.
func findSentinel() (leaks []string) {
	suspect := func(where, what string) {
		for _, s := range []*regexp.Regexp{sentinels, kubetest.JWT} {
			if at := s.FindStringIndex(what); at != nil {
				leaks = append(leaks, fmt.Sprintf("%s: …%s…", where, what[max(0, at[0]-80):min(len(what), at[0]+40)]))
			}
		}
	}
	suspect("logs", Logs.String())
	families, err := metrics.Registry.Gather()
	if err != nil {
		return []string{err.Error()}
	}
	for _, f := range families {
		suspect("metrics", f.String())
	}
	ctx := context.Background()
	var secrets corev1.SecretList
	for _, list := range []client.ObjectList{
		&eventsv1.EventList{}, &corev1.ConfigMapList{}, &v1alpha1.M2MClientList{}, &v1alpha1.APIResourceList{},
		&v1alpha1.AuthorizationServerList{}, &v1alpha1.ClusterAuthorizationServerList{}, &secrets,
	} {
		if err := Kube.List(ctx, list); err != nil {
			return []string{err.Error()}
		}
		for i := range secrets.Items {
			secrets.Items[i].Data = nil
		}
		b, err := json.Marshal(list)
		if err != nil {
			return []string{err.Error()}
		}
		suspect(fmt.Sprintf("%T", list), string(b))
	}
	return leaks
}
