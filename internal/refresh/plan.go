// SPDX-License-Identifier: Apache-2.0

// Package refresh decides over time: when a token is to be replaced, whether
// it must be minted now, whether pods may go on using it, how long to wait
// after a failure, and whether an authorization server may be asked at all. It
// reads no clock and does no I/O: the present moment is an argument, what it
// knows about a token is a value, and what it answers is the same after every
// restart.
package refresh

import (
	"encoding/binary"
	"time"
)

const (
	// DefaultAtPercent is where in its lifetime a token is refreshed when its
	// owner does not say.
	DefaultAtPercent = 67

	// maxAtPercent leaves some room for a refresh that fails at first.
	maxAtPercent = 95

	// MinLead is the least time between a refresh and the expiry of the old
	// token, where its lifetime is at least twice as long: a kubelet takes up
	// to a minute and a half to show a changed Secret.
	MinLead = 2 * time.Minute

	// MinInterval is the floor under every plan: no token is due sooner after
	// its issue, however short its lifetime is and whatever its owner asked
	// for. It comes before every other rule, so that a token that lives for a
	// second, or is born expired, is due after it has expired rather than at
	// once.
	MinInterval = time.Second

	// jitterShare is the divisor of the lifetime that bounds the jitter: 10 %.
	jitterShare = 10
)

// Policy says when in its lifetime a token is refreshed. The zero value
// refreshes at DefaultAtPercent.
type Policy struct {
	// AtPercent is the share of the lifetime after which to refresh, 1 to 95.
	// Zero and less mean DefaultAtPercent, more than 95 means 95.
	AtPercent int

	// Before, when positive, is how long before its expiry to refresh, and
	// replaces AtPercent. More than half of the lifetime is cut to half: a
	// token that is refreshed earlier is mostly wasted.
	Before time.Duration
}

// Plan is when to refresh a token.
type Plan struct {
	// RefreshAt is the moment from which the token is due, in whole seconds.
	RefreshAt time.Time

	// ShortLived says that the lifetime is shorter than twice MinLead, so that
	// pods may see the token expire before its successor reaches them.
	ShortLived bool
}

// Plan says when a token that was issued at issuedAt and expires at expiresAt
// is due.
//
// That is the moment the policy names, brought forward so that MinLead remains
// before the expiry; where the lifetime is shorter than four minutes half of
// it remains, and the plan is ShortLived. From there a jitter is taken that
// spreads tokens minted together: it is derived from seed (the object's UID
// and the token's key), hence stable, only ever makes the refresh earlier, and
// is at most 10 % of the lifetime and at most half of the wait. Last comes the
// floor, MinInterval after the issue. The result is in whole seconds, rounded
// down, save where that would break the floor.
func (p Policy) Plan(issuedAt, expiresAt time.Time, seed string) Plan {
	lifetime := max(expiresAt.Sub(issuedAt), 0)

	lead := min(MinLead, lifetime/2)
	wait := min(p.wait(lifetime), lifetime-lead)
	// Without the second bound a small AtPercent would be eaten up whole, and
	// the token would be due as soon as it is there.
	jitter := min(lifetime/jitterShare, wait/2)
	wait -= time.Duration(float64(jitter) * fraction(seed))

	at := issuedAt.Add(wait).Truncate(time.Second)
	if floor := issuedAt.Add(MinInterval); at.Before(floor) {
		at = floor.Add(time.Second - time.Nanosecond).Truncate(time.Second)
	}
	return Plan{RefreshAt: at, ShortLived: lifetime < 2*MinLead}
}

// wait is how long after its issue the owner wants a token refreshed.
func (p Policy) wait(lifetime time.Duration) time.Duration {
	if p.Before > 0 {
		return lifetime - min(p.Before, lifetime/2)
	}
	percent := p.AtPercent
	if percent <= 0 {
		percent = DefaultAtPercent
	}
	// Divided first: a lifetime of many years times 95 would overflow.
	return lifetime / 100 * time.Duration(min(percent, maxAtPercent))
}

// fraction maps a seed evenly onto [0, 1).
func fraction(parts ...string) float64 {
	sum := digest(parts...)
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}
