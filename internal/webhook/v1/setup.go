// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"crypto/tls"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/m2m-operator/m2m-operator/internal/webhook/certificate"
)

// Path is where the webhook is served.
const Path = "/inject-pod"

// Options configure the webhook.
type Options struct {
	// Host and Port are where it is served. No host: all addresses.
	Host string
	Port int

	// CertDir holds tls.crt and tls.key, which somebody else keeps up to date.
	// Empty: the operator keeps a certificate of its own.
	CertDir string

	// OperatorNamespace is where the operator's own certificate and its Service
	// are.
	OperatorNamespace string

	// Service and Configuration are the names of the webhook's Service and
	// MutatingWebhookConfiguration.
	Service, Configuration string

	// WatchNamespaces are the namespaces that the operator works in. Empty: all.
	WatchNamespaces []string

	// Clock is what the certificate's age is judged by. Nil: the real one.
	Clock clock.PassiveClock
}

// Setup adds the webhook to a manager whose cache has M2MClients and
// APIResources. The check that it returns is ready when the webhook is served.
func Setup(mgr ctrl.Manager, o Options) (healthz.Checker, error) {
	so := webhook.Options{Host: o.Host, Port: o.Port, CertDir: o.CertDir}
	certified := healthz.Ping
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
		so.TLSOpts = []func(*tls.Config){func(c *tls.Config) { c.GetCertificate = store.GetCertificate }}
	}
	server := webhook.NewServer(so)
	server.Register(Path, &admission.Webhook{Handler: &handler{
		reader:  mgr.GetCache(), // past what makes the client wait for its own writes
		decoder: admission.NewDecoder(mgr.GetScheme()),
		watched: sets.New(o.WatchNamespaces...),
	}})
	if err := mgr.Add(server); err != nil {
		return nil, fmt.Errorf("add the webhook server: %w", err)
	}
	return func(req *http.Request) error {
		if err := certified(req); err != nil {
			return err
		}
		return server.StartedChecker()(req)
	}, nil
}
