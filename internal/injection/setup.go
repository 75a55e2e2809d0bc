// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/injection/certificate"
	"github.com/m2m-operator/m2m-operator/internal/serving"
)

// Path is the URL path of the webhook.
const Path = "/inject-pod"

// Options configure the webhook.
type Options struct {
	// Host and Port are the address to listen on. Empty host: all addresses.
	Host string
	Port int

	// CertDir holds tls.crt and tls.key, which another tool renews. Empty: the operator
	// makes and renews a certificate itself.
	CertDir string

	// ClientCA is a file with the certificate authority of the API server's client
	// certificate. Empty: anybody may call, and answers do not say which objects exist.
	ClientCA string
	// ClientNames are the common names that this certificate may have. Empty: any.
	ClientNames []string

	// OperatorNamespace is the namespace of the certificate's Secret and of the Service.
	OperatorNamespace string

	// Service and Configuration are the names of the webhook's Service and
	// MutatingWebhookConfiguration.
	Service, Configuration string

	// WatchNamespaces are the namespaces that the operator works in. Empty: all.
	WatchNamespaces []string

	// Clock tells the certificate's age. Nil: the real clock.
	Clock clock.PassiveClock
}

// Setup adds the webhook to a manager whose cache can watch M2MClients and
// APIResources. It returns a check that passes once the webhook serves.
func Setup(mgr ctrl.Manager, o Options) (healthz.Checker, error) {
	certified := healthz.Ping
	read := []client.Object{&v1alpha1.M2MClient{}, &v1alpha1.APIResource{}}
	serve := func(ctx context.Context) (*tls.Config, error) { return fromFiles(ctx, o.CertDir) }
	if o.CertDir == "" {
		store, err := certificate.Setup(mgr, certificate.Options{
			Secret:        types.NamespacedName{Namespace: o.OperatorNamespace, Name: o.Service + "-certificate"},
			ServerName:    fmt.Sprintf("%s.%s.svc", o.Service, o.OperatorNamespace),
			Configuration: o.Configuration,
			Clock:         o.Clock,
		})
		if err != nil {
			return nil, err
		}
		certified = store.Check
		serve = func(context.Context) (*tls.Config, error) {
			return &tls.Config{GetCertificate: store.GetCertificate}, nil
		}
	}
	if o.ClientCA != "" {
		callers := &callers{file: o.ClientCA, names: sets.New(o.ClientNames...), clock: clock.RealClock{}}
		serve = callers.only(serve)
	}
	server := &serving.Server{
		Address: net.JoinHostPort(o.Host, strconv.Itoa(o.Port)),
		TLS:     serve,
		Handler: (&handler{
			reader:  mgr.GetCache(), // not the client, which waits for its own writes
			watched: sets.New(o.WatchNamespaces...),
		}).http(),
	}
	for _, o := range read { // fill the cache now, not at the first pod
		if _, err := mgr.GetCache().GetInformer(context.Background(), o, cache.BlockUntilSynced(false)); err != nil {
			return nil, fmt.Errorf("watch what pods name: %w", err)
		}
	}
	if err := mgr.Add(server); err != nil {
		return nil, fmt.Errorf("add the webhook server: %w", err)
	}
	return func(req *http.Request) error { return errors.Join(certified(req), server.Check(req)) }, nil
}

// fromFiles serves a certificate that another tool renews.
func fromFiles(ctx context.Context, dir string) (*tls.Config, error) {
	watcher, err := certwatcher.New(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		return nil, fmt.Errorf("read the webhook's certificate: %w", err)
	}
	go func() {
		if err := watcher.Start(ctx); err != nil {
			ctrl.Log.WithName("webhook").Error(err, "Could not watch the webhook's certificate")
		}
	}()
	return &tls.Config{GetCertificate: watcher.GetCertificate}, nil
}
