// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"errors"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

// Plan decides when an object is next compared with its server. Its caller keeps what the last comparisons left, in a
// status for example, and gives it back here, so that a restart compares nothing that is not due.
type Plan struct {
	// Wants identifies what is declared now, and Tries that together with all else on which an attempt depends, such as
	// the server's configuration.
	Wants, Tries string
	// SyncedAt is when the server last agreed with what was declared, which Synced identifies; zero for never.
	SyncedAt time.Time
	Synced   string
	// Failure is how the last attempt failed; the zero value after a success.
	Failure Failure
	// Interval is how long a server is trusted to keep what it has.
	Interval time.Duration
	// CredentialsDue is when a credential is next replaced or revoked; zero for never.
	CredentialsDue time.Time
	// Requested asks for a comparison now: somebody has seen that the server differs.
	Requested bool
	// Seed differs from object to object, and spreads their comparisons.
	Seed string
}

// Failure is a series of failed attempts of which nothing changed in between.
type Failure struct {
	// Attempts counts them; 0 if the last attempt did not fail.
	Attempts int
	// Tried is Plan.Tries of the attempts.
	Tried string
	// NextAt is when to try again, in whole seconds.
	NextAt time.Time
}

// mostAttempts bounds the count of attempts, which a status keeps in 32 bits.
const mostAttempts = 1<<30 + 1

// Agrees reports whether the server was found or made to agree with what is declared now.
func (p Plan) Agrees() bool {
	return !p.SyncedAt.IsZero() && p.Failure.Attempts == 0 && p.Synced == p.Wants
}

// Wait returns how long nothing needs to be done, zero for now.
func (p Plan) Wait(now time.Time) time.Duration {
	switch {
	case p.Failure.Attempts > 0 && p.Failure.Tried != p.Tries:
		return 0 // what failed was something else
	case p.Failure.Attempts > 0:
		return max(0, p.Failure.NextAt.Sub(now))
	case !p.Agrees(), p.Requested:
		return 0
	}
	// Earlier by up to a tenth: objects that were made together shall not be compared together for ever.
	next := p.SyncedAt.Add(p.Interval - refresh.Spread(p.Seed, p.Interval/10))
	if !p.CredentialsDue.IsZero() && p.CredentialsDue.Before(next) {
		next = p.CredentialsDue
	}
	return max(0, next.Sub(now))
}

// Failed returns the failure to keep after an attempt that failed with err. The next attempt is in whole seconds,
// rounded up, because a status keeps no parts of one and must not ask for an attempt too early.
func (p Plan) Failed(now time.Time, err error) Failure {
	f := Failure{Attempts: 1, Tried: p.Tries}
	if p.Failure.Tried == p.Tries {
		f.Attempts = min(p.Failure.Attempts+1, mostAttempts)
	}
	f.NextAt = now.Add(RetryIn(err, f.Attempts, p.Seed) + time.Second - 1).Truncate(time.Second)
	return f
}

// RetryIn returns how long to wait after so many failures in a row, of which err is the last: not long where the server
// gave no answer, longer where somebody has to change something first, and never less than the server asked for.
func RetryIn(err error, attempts int, seed string) time.Duration {
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		return refresh.RetryBackoff.Next(attempts, 0, seed)
	case e.Kind == Unavailable:
		return refresh.RetryBackoff.Next(attempts, e.RetryAfter, seed)
	}
	return refresh.SlowBackoff.Next(attempts, e.RetryAfter, seed)
}
