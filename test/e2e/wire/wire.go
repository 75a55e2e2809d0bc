// SPDX-License-Identifier: Apache-2.0

// Package wire is what the programs that run as pods (test/e2e/pods) and the suite
// exchange over HTTP, as JSON. It contains no token, and no secrets but those that
// the suite gives to the authorization server.
package wire

import (
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
)

// Ports of the programs.
const (
	ServicePort = 8080 // of the service itself; 8443 for the authorization server
	TLSPort     = 8443
	ReportPort  = 8081 // of what the suite asks and orders
)

// Resource is an API to register at the authorization server.
type Resource struct {
	ID     string
	Scopes []string
}

// Rotation orders another signing key.
type Rotation struct {
	// Hard removes the former key from the published ones at the same moment.
	Hard bool
}

// Outage makes the authorization server refuse all connections for a while.
type Outage struct{ Seconds float64 }

// Key is the authorization server's answer to a rotation: the key that signs now.
type Key struct {
	ID string
	At time.Time
}

// TokenRequest is a request that has reached the authorization server.
type TokenRequest struct {
	At        time.Time // of its arrival
	ClientID  string
	Status    int
	Error     string `json:",omitempty"`
	TokenHash string `json:",omitempty"` // of the token issued
}

// Token is a token that a pod found in its file, without the token itself.
type Token struct {
	At                  time.Time // when the pod saw it
	Hash                string
	KeyID               string
	IssuedAt, ExpiresAt time.Time
}

// Failure is a call that was not answered with 200.
type Failure struct {
	At time.Time
	payment.Call
	Token Token // the token that the call was made with
}

// Calls are the calls that a pod has made.
type Calls struct {
	Total, Failed int
	Failures      []Failure // the first thousand of them
	// Longest is the longest time between the starts of two successive calls.
	Longest time.Duration
}

// Bundle is a state of the verification bundle that a pod has found.
type Bundle struct {
	At     time.Time
	KeyIDs []string
}

// Inside is what a program finds in its container.
type Inside struct {
	UID, GID int
	Env      map[string]string // the variables that begin with M2M_
	Files    []File            // below the directories that these name
	// ServiceAccountToken reports whether the pod has credentials for the API server.
	ServiceAccountToken bool
}

// File is a mounted file.
type File struct {
	Path     string
	Mode     string // such as -rw-r-----
	UID, GID uint32
	Error    string `json:",omitempty"` // of reading it
}
