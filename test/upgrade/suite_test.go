// SPDX-License-Identifier: Apache-2.0

// Package upgrade holds what the API server of a cluster with an earlier release holds:
// the objects of users, and all that the operator of that release wrote. It gives them to
// an API server with today's CRDs and starts today's operator, which must leave all of it
// as it is. make upgrade-data writes the data of the operator in the checkout.
package upgrade

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// The authorization servers of the data. Their names resolve nowhere: the operator
// reaches them through a proxy in this process.
const (
	authHost  = "auth.example.com"
	logtoHost = "logto.example.com"
)

// servers answers the operator's requests to authorization servers.
var servers network

// network is an HTTP proxy to whatever a test runs.
type network struct {
	mu sync.Mutex
	to http.Handler
}

func (n *network) lead(to http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = to
}

// ServeHTTP answers a request in its absolute form.
func (n *network) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	to := n.to
	n.mu.Unlock()
	if to == nil {
		http.Error(w, "no test runs", http.StatusBadGateway)
		return
	}
	to.ServeHTTP(w, r)
}

func TestMain(m *testing.M) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		go func() { _ = http.Serve(l, &servers) }()
		err = os.Setenv("HTTP_PROXY", "http://"+l.Addr().String())
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	operator.Main(m, "../..")
}
