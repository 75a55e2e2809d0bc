// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"errors"
	"time"
)

// ErrorKind is what an error means for the caller of a driver.
type ErrorKind string

// The kinds of error.
const (
	// NotFound: something that must exist does not, such as an application to adopt. Somebody may create it.
	NotFound ErrorKind = "NotFound"
	// Conflict: something exists but is not the owner's. The server's owner can allow adopting it.
	Conflict ErrorKind = "Conflict"
	// Refused: the server understood and said no (a wrong credential, a missing right, an unacceptable value). It may
	// heal when somebody changes something; trying again soon does not help.
	Refused ErrorKind = "Refused"
	// Unavailable: there is no answer, or one that says nothing about the request (5xx, 429, a body that makes no
	// sense). Try again after RetryAfter, or soon.
	Unavailable ErrorKind = "Unavailable"
	// Forbidden: the operator itself refuses, such as to provision a server's administration API.
	Forbidden ErrorKind = "Forbidden"
)

// Error is why a driver could not do its task. The object's owner may see all of it: it holds no secret, no raw answer,
// and nothing that differs between two equal failures.
type Error struct {
	Kind ErrorKind
	// Message is a sentence fragment in our words that says what failed and, if possible, what to change. The server's
	// own description may follow, made fit to be shown.
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
