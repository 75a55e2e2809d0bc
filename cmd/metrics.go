// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/m2m-operator/m2m-operator/internal/metricsauth"
	"github.com/m2m-operator/m2m-operator/internal/serving"
)

// maxScrapes limits the scrapes in progress.
const maxScrapes = 4

// serveMetrics adds a metrics server to a manager.
func serveMetrics(mgr ctrl.Manager, address string, insecure bool) error {
	handler := promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxScrapes,
	})
	server := &serving.Server{Address: address}
	if !insecure {
		reviewer, err := metricsauth.NewReviewer(mgr.GetConfig(), mgr.GetHTTPClient())
		if err != nil {
			return err
		}
		handler = metricsauth.New(reviewer, clock.RealClock{}).Around(handler)
		server.TLS = selfSigned
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", handler)
	server.Handler = mux
	return mgr.Add(server)
}

// selfSigned returns a certificate that is new at every start. It protects against
// eavesdroppers; scrapers do not verify it.
func selfSigned(context.Context) (*tls.Config, error) {
	certPEM, keyPEM, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{{127, 0, 0, 1}}, nil)
	if err != nil {
		return nil, fmt.Errorf("make the metrics' certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("make the metrics' certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
}
