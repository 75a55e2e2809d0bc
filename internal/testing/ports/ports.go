// SPDX-License-Identifier: Apache-2.0

// Package ports finds addresses for programs that tests start and that cannot choose
// a port themselves.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// The ports that are tried. Linux gives outgoing connections ports from 32768 on, so that
// on a busy machine one of those is often taken before the program listens.
const first, last = 10_000, 32_767

// FreeAddress returns an address, host and port, at which nobody listens. It returns an
// error if a hundred ports are taken, or if loopback cannot be used at all.
func FreeAddress() (string, error) {
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first+1)))
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		return address, l.Close()
	}
	return "", fmt.Errorf("no free port was found between %d and %d", first, last)
}

// Free returns a free address, or ends the test.
func Free(t testing.TB) string {
	t.Helper()
	address, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}
