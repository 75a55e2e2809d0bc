// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

func TestAuthority(t *testing.T) {
	a, err := pki.NewAuthority("CA")
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewAuthority("CA")
	if err != nil {
		t.Fatal(err)
	}
	server, err := a.Server("payment", "payment.example.com", "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.Client(pkix.Name{CommonName: "cart", Organization: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pair  pki.Pair
		roots *pki.Authority
		host  string
		usage x509.ExtKeyUsage
		valid bool
	}{
		"the server by its name":        {server, a, "payment.example.com", x509.ExtKeyUsageServerAuth, true},
		"the server by its address":     {server, a, "192.0.2.1", x509.ExtKeyUsageServerAuth, true},
		"the server by another name":    {server, a, "cart.example.com", x509.ExtKeyUsageServerAuth, false},
		"the server as a client":        {server, a, "", x509.ExtKeyUsageClientAuth, false},
		"the client":                    {client, a, "", x509.ExtKeyUsageClientAuth, true},
		"the client as a server":        {client, a, "", x509.ExtKeyUsageServerAuth, false},
		"the client, by another's root": {client, other, "", x509.ExtKeyUsageClientAuth, false},
		"the authority itself":          {a.Pair, a, "", x509.ExtKeyUsageAny, true},
	} {
		t.Run(name, func(t *testing.T) {
			certificate, err := tc.pair.TLS() // the key fits
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(tc.roots.Certificate)
			_, err = certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: tc.host, KeyUsages: []x509.ExtKeyUsage{tc.usage}})
			if (err == nil) != tc.valid {
				t.Errorf("got %v, want valid=%v", err, tc.valid)
			}
		})
	}
	certificate, err := client.TLS()
	if err != nil {
		t.Fatal(err)
	}
	if got := certificate.Leaf.Subject.String(); got != "CN=cart,O=shop" {
		t.Errorf("the client's subject is %s", got)
	}
}

func TestServerAt(t *testing.T) {
	certificate, caPEM, err := pki.ServerAt("server", "https://auth.example.com:8443/oidc", "https://192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caPEM)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "auth.example.com", "192.0.2.1"} {
		if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, _, err := pki.ServerAt("server", "https://a b"); err == nil {
		t.Error("a string that is not a URL is accepted")
	}
}

func TestSigningKeys(t *testing.T) {
	for _, alg := range pki.Algorithms {
		key, err := pki.NewSigningKey(string(alg), 0)
		if err != nil {
			t.Fatal(err)
		}
		thumbprint, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if want := base64.RawURLEncoding.EncodeToString(thumbprint); key.KeyID != want || key.IsPublic() || !key.Valid() || key.Algorithm != string(alg) {
			t.Errorf("%s: the key is %q for %s, want %s", alg, key.KeyID, key.Algorithm, want)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if signed, err := signer.Sign([]byte("x")); err != nil {
			t.Errorf("%s: %v", alg, err)
		} else if _, err := signed.Verify(key.Public()); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	key, err := pki.NewSigningKey("RS256", 1024)
	if err != nil || key.Key.(*rsa.PrivateKey).N.BitLen() != 1024 {
		t.Errorf("no key of 1024 bits: %v", err)
	}
	if _, err := pki.NewSigningKey("HS256", 0); err == nil || !strings.Contains(err.Error(), `"HS256"`) {
		t.Errorf("for a symmetric algorithm: %v", err)
	}
}
