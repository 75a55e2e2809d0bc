// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"slices"
	"strconv"
	"time"
)

// MaxRetryAfter caps what a server may ask for with Retry-After (RFC 9110
// section 10.2.3): retries never stop, whatever it answers.
const MaxRetryAfter = time.Hour

var (
	// RetryBackoff is for errors that pass by themselves: the server is down,
	// overloaded or unreachable.
	RetryBackoff = Backoff{Base: time.Second, Max: time.Minute}

	// SlowBackoff is for refusals that may heal when the server catches up,
	// such as invalid_client or invalid_scope.
	SlowBackoff = Backoff{Base: 10 * time.Second, Max: 5 * time.Minute}

	// RefusalBackoff is for token requests that are refused or bring an unusable
	// token. Servers count them, and may lock out a client that is refused often.
	// The caller starts over when anything changes on which the attempt depends.
	RefusalBackoff = Backoff{Base: 10 * time.Second, Max: time.Hour}
)

// Backoff is an exponential back-off: Base after the first failure, twice as long
// after each further one, up to Max. A Base of zero or less means a second, a Max
// below Base means Base.
type Backoff struct{ Base, Max time.Duration }

// Next returns how long to wait after a number of failures in a row (less than one
// counts as one). There is always a next attempt.
//
// The wait is spread evenly by ±20 %, so that objects that failed together do not
// come back together, and may exceed Max by that much. The spread is derived from
// seed and failures. The wait is at least retryAfter, what the server asked for,
// which is capped at MaxRetryAfter and spread upwards by up to 20 %.
func (b Backoff) Next(failures int, retryAfter time.Duration, seed string) time.Duration {
	spread := fraction(seed, strconv.Itoa(failures))

	wait := double(b.Base, b.Max, failures-1)
	wait = time.Duration(float64(wait) * (0.8 + 0.4*spread))

	asked := min(max(retryAfter, 0), MaxRetryAfter)
	asked = time.Duration(float64(asked) * (1 + 0.2*spread))
	return max(wait, asked)
}

// Within returns the back-off for replacing a token that still works for left. It
// waits at most half of that, so that there is another attempt before the token
// expires, but not less than five times Base. It does not change for a token that
// has expired.
func (b Backoff) Within(left time.Duration) Backoff {
	if left > 0 {
		b.Max = min(b.Max, max(5*b.Base, left/2))
	}
	return b
}

// double returns base doubled a number of times, up to limit.
func double(base, limit time.Duration, times int) time.Duration {
	if base <= 0 {
		base = time.Second
	}
	limit = max(limit, base)
	for ; times > 0; times-- {
		// Compare before doubling: a huge limit must not overflow.
		if base > limit/2 {
			return limit
		}
		base *= 2
	}
	return base
}

// Spread maps a seed evenly onto [0, most). The result is always the same for one
// seed and differs between seeds, so that objects that wait for the same moment do
// not come all at once.
func Spread(seed string, most time.Duration) time.Duration {
	return time.Duration(float64(most) * fraction(seed))
}

// Between is Spread onto [least, most).
func Between(seed string, least, most time.Duration) time.Duration {
	return least + Spread(seed, most-least)
}

// Soonest returns the shortest of the waits that are set, and at least least; zero if
// none is.
func Soonest(least time.Duration, waits ...time.Duration) time.Duration {
	waits = slices.DeleteFunc(waits, func(d time.Duration) bool { return d == 0 })
	if len(waits) == 0 {
		return 0
	}
	return max(least, slices.Min(waits))
}
