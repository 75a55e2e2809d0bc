// SPDX-License-Identifier: Apache-2.0

package installed_test

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/injection"
	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// forTheAPIServer makes a replica answer only the API server.
func forTheAPIServer(o *injection.Options) {
	o.ClientCA, o.ClientNames = clientAuthorityFile, []string{"kube-apiserver"}
}

// TestOnlyTheAPIServerMayAsk: if the API server presents a certificate, the webhook rejects
// all other callers.
func TestOnlyTheAPIServerMayAsk(t *testing.T) {
	r := start(t, forTheAPIServer)
	configure(t, r) // the API server is answered
	foreign, err := newClientAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		by     *pki.Authority
		caller string
		ok     bool
	}{
		"nobody":                    {nil, "", false},
		"another authority's":       {foreign, "kube-apiserver", false},
		"the authority's, of a pod": {clientAuthority, "pod", false},
		"the API server":            {clientAuthority, "kube-apiserver", true},
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{InsecureSkipVerify: true}
			if tc.by != nil {
				pair, err := tc.by.Client(pkix.Name{CommonName: tc.caller})
				if err != nil {
					t.Fatal(err)
				}
				certificate, err := pair.TLS()
				if err != nil {
					t.Fatal(err)
				}
				// Whatever the server says it accepts.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
			}
			c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
			if err := asks(c, r.address()); (err == nil) != tc.ok {
				t.Errorf("answered: %v", err)
			}
		})
	}
}

// asks sends an incomplete review; even that gets an answer.
func asks(c *http.Client, address string) error {
	resp, err := c.Post("https://"+address+injection.Path, "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return errors.Join(err, fmt.Errorf("answered %d %s", resp.StatusCode, body))
	}
	return nil
}

// TestNoAuthority: a replica does not start if it cannot verify its callers.
func TestNoAuthority(t *testing.T) {
	r := launch(t, func(o *injection.Options) { o.ClientCA = "/does/not/exist" })
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), "read the authority of the API server's client certificate") {
		t.Errorf("it ended with %v", err)
	}
}
