// SPDX-License-Identifier: Apache-2.0

// Package certificate makes, stores and rotates the serving certificate of the webhook.
// It is self-signed and lies in a Secret that all replicas share; the caBundle of the
// webhook configuration makes the API server trust it. Replicas serve a successor only
// after it has been in the caBundle for a while, so that no request fails during a
// rotation.
package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"
)

// Keys of the Secret.
const (
	servedCert    = "tls.crt"  // the serving pair
	servedKey     = "tls.key"  //
	successorCert = "next.crt" // its successor, already trusted
	successorKey  = "next.key" //
	trusted       = "ca.crt"   // every certificate that some replica may serve
)

const (
	lifetime = 365 * 24 * time.Hour
	// backdated is how long before its creation a certificate becomes valid, because
	// clocks differ.
	backdated = time.Hour
	// published is how long a successor is trusted before replicas serve it. API servers
	// learn of a new caBundle within seconds, unless they are cut off.
	published = time.Hour
	// mostTrusted limits the trusted certificates, in case somebody damages the Secret
	// again and again.
	mostTrusted = 10
)

// pair is a certificate with its key.
type pair struct {
	certPEM, keyPEM []byte
	tls             tls.Certificate
}

// cert returns the parsed certificate.
func (p *pair) cert() *x509.Certificate { return p.tls.Leaf }

// parsePair returns the pair, or nil if it cannot be served under the name at the given
// time.
func parsePair(certPEM, keyPEM []byte, name string, now time.Time) *pair {
	parsed, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil || !valid(parsed.Leaf, name, now) {
		return nil
	}
	return &pair{certPEM: certPEM, keyPEM: keyPEM, tls: parsed}
}

func valid(c *x509.Certificate, name string, now time.Time) bool {
	return c.VerifyHostname(name) == nil && !now.Before(c.NotBefore) && now.Before(c.NotAfter)
}

// newPair makes a self-signed pair for a name.
func newPair(name string, now time.Time) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "m2m-operator webhook"},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-backdated),
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	p := parsePair(certPEM, keyPEM, name, now)
	if p == nil {
		return nil, fmt.Errorf("the certificate made for %q is not valid for it", name)
	}
	return p, nil
}

// certificates returns the certificates in PEM data and skips all else.
func certificates(bundle []byte) (all []*x509.Certificate) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			all = append(all, c)
		}
	}
	return all
}

// trusts reports whether a certificate is in a bundle.
func trusts(bundle []byte, c *x509.Certificate) bool {
	return slices.ContainsFunc(certificates(bundle), c.Equal)
}

// rotate returns the new content of the Secret. Its input is the present content, the pair
// that this replica serves (nil if none yet), and the caBundle in the configuration.
//
//   - If the Secret has no usable pair (it is new, deleted, damaged, or made for another
//     name), the pair that this replica serves stays in use and gets a successor. If there
//     is none, the successor in the Secret or a new pair is served at once.
//   - If somebody put another pair into the Secret that is not trusted yet, it becomes the
//     successor.
//   - When a third of the lifetime is left, rotate makes a successor. It becomes the
//     serving pair once it is an hour old and in the caBundle.
//   - A pair that was served stays trusted until it expires, because replicas may lag.
func rotate(data map[string][]byte, serving *pair, caBundle []byte, name string, now time.Time) (map[string][]byte, error) {
	served := parsePair(data[servedCert], data[servedKey], name, now)
	next := parsePair(data[successorCert], data[successorKey], name, now)
	var err error

	works := serving != nil && valid(serving.cert(), name, now)
	if works && served != nil && trusts(caBundle, serving.cert()) &&
		!trusts(caBundle, served.cert()) && !trusts(data[trusted], served.cert()) {
		served, next = serving, served
	}
	renew := false
	if served == nil {
		switch {
		case works:
			served, renew = serving, true
		case next != nil:
			served, next = next, nil
		default:
			if served, err = newPair(name, now); err != nil {
				return nil, err
			}
		}
	}
	life := served.cert().NotAfter.Sub(served.cert().NotBefore)
	if renew = renew || served.cert().NotAfter.Sub(now) <= life/3; next == nil && renew {
		if next, err = newPair(name, now); err != nil {
			return nil, err
		}
	}
	if next != nil && now.Sub(next.cert().NotBefore) >= backdated+published && trusts(caBundle, next.cert()) {
		served, next = next, nil
	}

	want := maps.Clone(data)
	if want == nil {
		want = map[string][]byte{}
	}
	delete(want, successorCert)
	delete(want, successorKey)
	want[servedCert], want[servedKey] = served.certPEM, served.keyPEM
	former, needed := certificates(data[trusted]), []*x509.Certificate{served.cert()}
	if serving != nil {
		former = append(former, serving.cert())
	}
	if next != nil {
		want[successorCert], want[successorKey] = next.certPEM, next.keyPEM
		needed = append(needed, next.cert())
	}
	want[trusted] = bundle(former, needed, name, now)
	return want, nil
}

// bundle returns the needed certificates and the former ones that are still valid, the
// oldest first.
func bundle(former, needed []*x509.Certificate, name string, now time.Time) []byte {
	former = slices.DeleteFunc(former, func(c *x509.Certificate) bool {
		return !valid(c, name, now) || slices.ContainsFunc(needed, c.Equal)
	})
	byAge := func(a, b *x509.Certificate) int { return a.NotBefore.Compare(b.NotBefore) }
	slices.SortStableFunc(former, byAge)
	former = slices.CompactFunc(former, (*x509.Certificate).Equal)
	all := slices.Concat(former[max(0, len(former)+len(needed)-mostTrusted):], needed)
	slices.SortStableFunc(all, byAge)
	var b bytes.Buffer
	for _, c := range all {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // cannot fail: it writes to memory
	}
	return b.Bytes()
}
