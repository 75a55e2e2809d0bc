// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// authority signs every certificate of the node, for servers and clients alike.
type authority struct {
	*pki.Authority
	dir string // of the files
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
		if err := ca.client(name, subject); err != nil {
			return nil, err
		}
		if err := ca.kubeconfig(name, "https://127.0.0.1:6443", filepath.Join(dir, name+".kubeconfig")); err != nil {
			return nil, err
		}
	}
	if err := ca.server("kube-apiserver", "kube-apiserver", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"127.0.0.1", nodeAddress, "10.96.0.1"); err != nil {
		return nil, err
	}
	if err := ca.server("kubelet", "system:node:"+nodeName, nodeName, nodeAddress, "127.0.0.1"); err != nil {
		return nil, err
	}
	// RSA, as installers use it: some relying parties verify nothing else.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	encoded, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return ca, os.WriteFile(filepath.Join(dir, "service-account.key"), encoded, 0o600)
}

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	made, err := pki.NewAuthority("node-ca")
	if err != nil {
		return nil, err
	}
	ca := &authority{Authority: made, dir: dir}
	return ca, ca.write("ca", made.Pair)
}

// client writes the certificate of a client.
func (ca *authority) client(file string, subject pkix.Name) error {
	pair, err := ca.Client(subject)
	if err != nil {
		return err
	}
	return ca.write(file, pair)
}

// server writes the certificate of a server with these names and addresses.
func (ca *authority) server(file, name string, hosts ...string) error {
	pair, err := ca.Server(name, hosts...)
	if err != nil {
		return err
	}
	return ca.write(file, pair)
}

func (ca *authority) write(file string, pair pki.Pair) error {
	path := filepath.Join(ca.dir, file)
	return errors.Join(os.WriteFile(path+".crt", pair.Certificate, 0o600), os.WriteFile(path+".key", pair.Key, 0o600))
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
