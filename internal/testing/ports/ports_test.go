// SPDX-License-Identifier: Apache-2.0

package ports

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestFree: the kernel gives the port to no outgoing connection.
func TestFree(t *testing.T) {
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip(err)
	}
	lowest, err := strconv.Atoi(strings.Fields(string(raw))[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		address := Free(t)
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(port); err != nil || n >= lowest {
			t.Errorf("%s is among the ports that outgoing connections get, from %d on", address, lowest)
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}
