// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
)

const (
	// maxClientCA limits the file with the certificate authority, in bytes.
	maxClientCA = 1 << 20
	// readAgain is how often the file is read again: it may come from a ConfigMap.
	readAgain = time.Minute
)

// callers limits the webhook's callers to those with a client certificate of an
// authority: to the API server, if it is configured to present one.
type callers struct {
	file  string
	names sets.Set[string] // common names; empty: any
	clock clock.PassiveClock

	mu      sync.Mutex
	pool    *x509.CertPool
	content []byte
	readAt  time.Time
}

// only adds the limit to a TLS configuration: handshakes with other callers fail.
func (c *callers) only(serve func(context.Context) (*tls.Config, error)) func(context.Context) (*tls.Config, error) {
	return func(ctx context.Context) (*tls.Config, error) {
		if _, err := c.trusted(); err != nil {
			return nil, err
		}
		base, err := serve(ctx)
		if err != nil {
			return nil, err
		}
		base.ClientAuth, base.VerifyConnection = tls.RequireAndVerifyClientCert, c.named
		base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pool, err := c.trusted()
			if err != nil {
				return nil, err
			}
			one := base.Clone()
			one.GetConfigForClient, one.ClientCAs = nil, pool
			return one, nil
		}
		return base, nil
	}
}

// named rejects certificates with other common names, on resumed connections too.
func (c *callers) named(state tls.ConnectionState) error {
	if c.names.Len() == 0 || c.names.Has(state.PeerCertificates[0].Subject.CommonName) {
		return nil
	}
	return fmt.Errorf("the client certificate is for %.80q, who may not call the webhook", state.PeerCertificates[0].Subject.CommonName)
}

// trusted returns the authority. If the file is damaged later, the former content stays
// in use.
func (c *callers) trusted() (*x509.CertPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool != nil && c.clock.Since(c.readAt) < readAgain {
		return c.pool, nil
	}
	content, err := readAtMost(c.file, maxClientCA)
	if err == nil && (c.pool == nil || !bytes.Equal(content, c.content)) {
		if pool := x509.NewCertPool(); pool.AppendCertsFromPEM(content) {
			c.pool, c.content = pool, content
		} else {
			err = fmt.Errorf("%s has no certificate", c.file)
		}
	}
	if c.pool == nil {
		return nil, fmt.Errorf("read the authority of the API server's client certificate: %w", err)
	}
	c.readAt = c.clock.Now()
	return c.pool, nil
}

func readAtMost(file string, n int64) ([]byte, error) {
	f, err := os.Open(file) //nolint:gosec // the name comes from a flag
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, n+1))
	if err == nil && int64(len(content)) > n {
		err = fmt.Errorf("%s has more than %d bytes", file, n)
	}
	return content, err
}
