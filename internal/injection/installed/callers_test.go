// SPDX-License-Identifier: Apache-2.0

package installed_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/injection"
)

// authority issues client certificates.
type authority struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	file    string // with certPEM
}

func newAuthority() (a authority, err error) {
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return a, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "webhook clients"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return a, err
	}
	a.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

func (a authority) issue(name string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), err
}

// forTheAPIServer makes a replica answer only the API server.
func forTheAPIServer(o *injection.Options) {
	o.ClientCA, o.ClientNames = clientAuthority.file, []string{"kube-apiserver"}
}

// TestOnlyTheAPIServerMayAsk: if the API server presents a certificate, the webhook rejects
// all other callers.
func TestOnlyTheAPIServerMayAsk(t *testing.T) {
	r := start(t, forTheAPIServer)
	configure(t, r) // the API server is answered
	foreign, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		by     *authority
		caller string
		ok     bool
	}{
		"nobody":                    {nil, "", false},
		"another authority's":       {&foreign, "kube-apiserver", false},
		"the authority's, of a pod": {&clientAuthority, "pod", false},
		"the API server":            {&clientAuthority, "kube-apiserver", true},
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{InsecureSkipVerify: true}
			if tc.by != nil {
				certPEM, keyPEM, err := tc.by.issue(tc.caller)
				if err != nil {
					t.Fatal(err)
				}
				certificate, err := tls.X509KeyPair(certPEM, keyPEM)
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
