// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"strconv"
	"time"
)

// MaxRetryAfter caps what a server may ask for with Retry-After (RFC 9110
// section 10.2.3): retries never stop, whatever it answers.
const MaxRetryAfter = time.Hour

var (
	// RetryBackoff is for errors that pass by themselves: a server that is
	// down, overloaded or unreachable.
	RetryBackoff = Backoff{Base: time.Second, Max: time.Minute}

	// SlowBackoff is for refusals that may heal when the server catches up,
	// such as invalid_client or invalid_scope.
	SlowBackoff = Backoff{Base: 10 * time.Second, Max: 5 * time.Minute}

	// RefusalBackoff is for token requests that are refused, or bring what cannot be
	// used: each counts at the server, which may lock out whoever is refused often.
	// It is to begin anew when anything changes on which the attempt depends.
	RefusalBackoff = Backoff{Base: 10 * time.Second, Max: time.Hour}
)

// Backoff is how long to wait between attempts: Base after the first failure,
// twice as long after each further one, up to Max. A Base of zero or less
// means a second, a Max below Base means Base.
type Backoff struct{ Base, Max time.Duration }

// Next is how long to wait after so many failures in a row (less than one
// counts as one). It never says to stop.
//
// The wait is spread by ±20 %, evenly and derived from seed and failures, so
// that objects that failed together do not come back together; it may exceed
// Max by that much. It is at least retryAfter, what the server asked for,
// capped at MaxRetryAfter and spread by up to 20 % upwards only.
func (b Backoff) Next(failures int, retryAfter time.Duration, seed string) time.Duration {
	spread := fraction(seed, strconv.Itoa(failures))

	wait := double(b.Base, b.Max, failures-1)
	wait = time.Duration(float64(wait) * (0.8 + 0.4*spread))

	asked := min(max(retryAfter, 0), MaxRetryAfter)
	asked = time.Duration(float64(asked) * (1 + 0.2*spread))
	return max(wait, asked)
}

// Within is the backoff for replacing a token that works for so long: it waits
// no longer than half of that, so that there is an attempt before the token
// expires, and no less than five times Base. A token that has expired hurries
// nobody.
func (b Backoff) Within(left time.Duration) Backoff {
	if left > 0 {
		b.Max = min(b.Max, max(5*b.Base, left/2))
	}
	return b
}

// double is base doubled so many times, up to limit.
func double(base, limit time.Duration, times int) time.Duration {
	if base <= 0 {
		base = time.Second
	}
	limit = max(limit, base)
	for ; times > 0 && base < limit; times-- {
		// Compared before it is doubled: a huge limit must not overflow.
		if base > limit/2 {
			return limit
		}
		base *= 2
	}
	return base
}

// Spread maps a seed evenly onto [0, most): a wait that differs from seed to
// seed and is the same for one of them, so that those who wait for the same
// moment do not come at once.
func Spread(seed string, most time.Duration) time.Duration {
	return time.Duration(float64(most) * fraction(seed))
}
