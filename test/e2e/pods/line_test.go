// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"testing"
	"time"
)

func TestALineThatIsCut(t *testing.T) {
	l, err := openLine("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: report(), ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer server.Close()

	there, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	get := func() error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + l.address + "/healthy")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatalf("before it is cut: %v", err)
	}
	if err := l.cutFor(time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := get(); err == nil {
		t.Error("a connection was made while it is cut")
	}
	if _, err := there.Read(make([]byte, 1)); err == nil {
		t.Error("a connection has survived the cut")
	}
	if err := l.cutFor(time.Hour); err == nil {
		t.Error("it can be cut twice")
	}
	l.mend()
	if err := get(); err != nil {
		t.Errorf("after it was mended: %v", err)
	}
	if err := l.cutFor(time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err == nil {
		t.Error("the server goes on after the line's end")
	}
}
