// SPDX-License-Identifier: Apache-2.0

// Package certificate makes, keeps and rotates the serving certificate of the
// webhook: self-signed, in a Secret that all replicas share, and trusted by the
// API server through the webhook configuration's caBundle. A certificate is
// served only after the API server has been told of it, so that no request fails
// while one takes the place of another.
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
	servedCert    = "tls.crt"  // the pair that is served
	servedKey     = "tls.key"  //
	successorCert = "next.crt" // the pair that is served next, and trusted already
	successorKey  = "next.key" //
	trusted       = "ca.crt"   // every certificate that a replica may serve
)

const (
	lifetime = 365 * 24 * time.Hour
	// backdated is how much earlier than it is made a certificate is valid from:
	// clocks differ.
	backdated = time.Hour
	// published is how long a successor is trusted before it is served. API
	// servers learn of a changed caBundle within seconds, unless they are cut off.
	published = time.Hour
	// mostTrusted bounds the certificates that are trusted, should somebody
	// damage the Secret again and again.
	mostTrusted = 10
)

// pair is a certificate with its key.
type pair struct {
	certPEM, keyPEM []byte
	tls             tls.Certificate
}

// cert is the parsed certificate.
func (p *pair) cert() *x509.Certificate { return p.tls.Leaf }

// parsePair returns a pair that can be served under a name at a time, nil where
// it is none.
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

// certificates parses PEM and skips what is none.
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

// rotate decides what the Secret shall hold. It is given what it holds, the pair
// that this replica serves (nil before the first), and the caBundle that the API
// server has.
//
//   - Without a usable pair, because the Secret is new, deleted, damaged or of
//     another name, what this replica serves goes on being served, and gets a
//     successor. With nothing to go on with, the successor or a new pair is
//     served at once.
//   - A pair that somebody else has put there, and that nobody trusts yet, becomes
//     the successor.
//   - A successor is made when a third of the life is left. It takes its
//     predecessor's place when it has been in the caBundle for an hour.
//   - What has been served stays trusted until it expires: a replica may be late.
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

// bundle returns those of the former certificates that are still valid, and the
// needed ones, the oldest first.
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
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // into memory
	}
	return b.Bytes()
}
