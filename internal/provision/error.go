// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"errors"
	"time"
)

// ErrorKind says what an error means for whoever called a driver.
type ErrorKind string

// The kinds of error.
const (
	// NotFound: what must exist does not, such as an application that is to be adopted. It may come to exist.
	NotFound ErrorKind = "NotFound"
	// Conflict: something exists and is not the owner's. The server's owner can allow to adopt it.
	Conflict ErrorKind = "Conflict"
	// Refused: the server understood and said no (a wrong credential, a missing right, a value that it does not take).
	// It may heal when somebody changes something; trying again soon does not help.
	Refused ErrorKind = "Refused"
	// Unavailable: no answer, or one that says nothing about the request (5xx, 429, a body that makes no sense). It is
	// tried again after RetryAfter, or soon.
	Unavailable ErrorKind = "Unavailable"
	// Forbidden: the operator itself refuses, such as to provision a server's administration API.
	Forbidden ErrorKind = "Forbidden"
)

// Error is why a driver could not do what it was asked for. All of it may be shown to the object's owner: it holds no
// secret, no answer as it came, and nothing that differs between two equal failures.
type Error struct {
	Kind ErrorKind
	// Message is a sentence fragment in our words that says what failed and, where that can be told, what to change. A
	// server's own description may follow, made fit to be shown.
	Message string
	// Code is the server's own word for it, "" for none; printable, at most 64 bytes.
	Code string
	// Status is the HTTP status, 0 without an answer.
	Status int
	// RetryAfter is how long the server asked to wait, 0 if it did not.
	RetryAfter time.Duration
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// KindOf returns the kind of an *Error in the chain, "" for any other error.
func KindOf(err error) ErrorKind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
