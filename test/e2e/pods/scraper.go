// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

// runScraper reads metrics the way Prometheus does, with the token of its own
// ServiceAccount. It has no certificate to verify the operator's.
func runScraper(ctx context.Context, _ []string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // self-signed, as docs/operations.md says
	}}
	mux := report()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		metrics, err := scrape(r.Context(), client, "https://"+r.FormValue("address")+"/metrics")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write(metrics)
	})
	return serve(ctx, map[int]http.Handler{wire.ReportPort: mux})
}

func scrape(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	token, err := os.ReadFile(serviceAccountToken)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}
