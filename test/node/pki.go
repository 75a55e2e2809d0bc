// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs every certificate of the node, for servers and clients alike.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// writePKI makes all keys, certificates and kubeconfigs that the node's parts need.
func writePKI(dir string) (*authority, error) {
	ca, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	for name, subject := range map[string]pkix.Name{
		"admin":                   {CommonName: "admin", Organization: []string{"system:masters"}},
		"apiserver-kubelet":       {CommonName: "apiserver-kubelet", Organization: []string{"system:masters"}},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"kubelet-client":          {CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}},
	} {
		if err := ca.issue(name, subject); err != nil {
			return nil, err
		}
		if err := ca.kubeconfig(name, "https://127.0.0.1:6443", filepath.Join(dir, name+".kubeconfig")); err != nil {
			return nil, err
		}
	}
	if err := ca.issue("kube-apiserver", pkix.Name{CommonName: "kube-apiserver"}, "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"127.0.0.1", nodeAddress, "10.96.0.1"); err != nil {
		return nil, err
	}
	if err := ca.issue("kubelet", pkix.Name{CommonName: "system:node:" + nodeName}, nodeName, nodeAddress, "127.0.0.1"); err != nil {
		return nil, err
	}
	// RSA, as installers use it: some relying parties verify nothing else.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return ca, writeKey(filepath.Join(dir, "service-account.key"), key)
}

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca := &authority{dir: dir}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "node-ca"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, key, err := ca.sign("ca", template)
	ca.cert, ca.key = cert, key
	return ca, err
}

// issue writes a certificate for a client, or for a server if names are given.
func (ca *authority) issue(file string, subject pkix.Name, names ...string) error {
	template := &x509.Certificate{Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(names) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	_, _, err := ca.sign(file, template)
	return err
}

// sign makes a key and, from a template, a certificate, and writes both. The
// first certificate it makes is the authority's own.
func (ca *authority) sign(file string, template *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, nil, err
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().AddDate(1, 0, 0)
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of %s: %w", file, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(ca.dir, file)
	if err := writePEM(path+".crt", "CERTIFICATE", der); err != nil {
		return nil, nil, err
	}
	return cert, key, writeKey(path+".key", key)
}

// kubeconfig writes a kubeconfig for the client certificate of the given name.
func (ca *authority) kubeconfig(name, server, path string) error {
	var data [3]string
	for i, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		raw, err := os.ReadFile(filepath.Join(ca.dir, file))
		if err != nil {
			return err
		}
		data[i] = base64.StdEncoding.EncodeToString(raw)
	}
	return os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: node
clusters:
- name: node
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %s
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: node
  context: {cluster: node, user: %s}
`, server, data[0], name, data[1], data[2], name), 0o600)
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
