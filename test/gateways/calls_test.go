// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// backendHeader is in every answer of the API behind a gateway.
const backendHeader = "Payment"

// door is where callers reach an API: the address of a gateway.
type door string

// Each call has a connection of its own, as the first call of a client does.
var caller = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// call makes a request with a token, or without one, and returns the answer's status.
func (d door) call(method, path, token string) (status int, err error) {
	return d.callBy(caller, method, path, token)
}

// callBy makes a request by a client. It is an error if the API was reached with another
// status than 200, or 200 came from somebody else.
func (d door) callBy(by *http.Client, method, path, token string) (status int, err error) {
	r, err := http.NewRequest(method, "http://"+string(d)+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := by.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil { // or the connection is not used again
		return 0, err
	}
	if reached := resp.Header.Get(backendHeader) != ""; reached != (resp.StatusCode == http.StatusOK) {
		return 0, fmt.Errorf("the API was reached (%t), and the answer is %d", reached, resp.StatusCode)
	}
	return resp.StatusCode, nil
}

// answers returns an error unless a request is answered with a status.
func (d door) answers(want int, method, path, token string) error {
	got, err := d.call(method, path, token)
	if err != nil {
		return err
	}
	if got != want {
		path, _, _ = strings.Cut(path, "?")
		return fmt.Errorf("%s %s is answered with %d, not with %d", method, path, got, want)
	}
	return nil
}

// wants fails the test unless a request is answered with a status.
func (d door) wants(t *testing.T, want int, method, path, token string) {
	t.Helper()
	if err := d.answers(want, method, path, token); err != nil {
		t.Error(err)
	}
}
