// SPDX-License-Identifier: Apache-2.0

// Package pki makes the keys and certificates for tests, for the servers that tests
// run against, and for the test node. An Authority issues certificates for servers and
// for clients. All are valid by the real clock, which TLS uses.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Pair is a certificate and its private key (PKCS #8), both in PEM.
type Pair struct{ Certificate, Key []byte }

// TLS returns the pair as a server or a client presents it.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Certificate, p.Key) }

// Authority issues certificates. Its own certificate is the pair.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority with its own certificate.
func NewAuthority(name string) (*Authority, error) {
	a := &Authority{}
	return a, a.sign(&a.Pair, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
}

// Server issues a certificate for a server with these host names and addresses.
func (a *Authority) Server(name string, hosts ...string) (p Pair, err error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return p, a.sign(&p, template)
}

// Client issues a certificate for a client.
func (a *Authority) Client(subject pkix.Name) (p Pair, err error) {
	return p, a.sign(&p, &x509.Certificate{
		Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// sign makes a key and, from a template, a certificate. The first certificate is the
// authority's own.
func (a *Authority) sign(p *Pair, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return err
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = template.NotBefore.AddDate(1, 0, 0)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", template.Subject.CommonName, err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
		a.key = key
	}
	p.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p.Key, err = EncodeKey(key)
	return err
}

// ServerAt makes an authority and, from it, the certificate of a server on the loopback addresses and at the hosts of
// the given URLs. It returns the certificate, and the authority's in PEM.
func ServerAt(name string, urls ...string) (certificate tls.Certificate, caPEM []byte, err error) {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			return certificate, nil, err
		}
		hosts = append(hosts, u.Hostname())
	}
	a, err := NewAuthority(name + " CA")
	if err != nil {
		return certificate, nil, err
	}
	pair, err := a.Server(name, hosts...)
	if err != nil {
		return certificate, nil, err
	}
	certificate, err = pair.TLS()
	return certificate, a.Certificate, err
}

// EncodeKey returns a private key in PEM (PKCS #8).
func EncodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
