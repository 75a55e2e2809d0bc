// SPDX-License-Identifier: Apache-2.0

package refresh

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var issued = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestPlan(t *testing.T) {
	tests := map[string]struct {
		policy   Policy
		issued   time.Time
		lifetime time.Duration

		// The refresh lies in [earliest, latest] after the issue, whatever
		// the seed, and the seeds between them use the whole of it.
		earliest, latest time.Duration
		shortLived       bool
	}{
		"an hour, by default: two thirds, less a tenth": {
			lifetime: time.Hour, earliest: 34*time.Minute + 12*time.Second, latest: 40*time.Minute + 12*time.Second},
		"an hour at half": {
			policy: Policy{AtPercent: 50}, lifetime: time.Hour, earliest: 24 * time.Minute, latest: 30 * time.Minute},
		"more than 95 percent is 95": {
			policy: Policy{AtPercent: 200}, lifetime: time.Hour, earliest: 51 * time.Minute, latest: 57 * time.Minute},
		"a negative percentage is the default": {
			policy: Policy{AtPercent: -1}, lifetime: time.Hour, earliest: 34*time.Minute + 12*time.Second, latest: 40*time.Minute + 12*time.Second},
		"a small percentage keeps half of its wait": {
			policy: Policy{AtPercent: 1}, lifetime: time.Hour, earliest: 18 * time.Second, latest: 36 * time.Second},
		"ten minutes at 95 percent keep two minutes": {
			policy: Policy{AtPercent: 95}, lifetime: 10 * time.Minute, earliest: 7 * time.Minute, latest: 8 * time.Minute},
		"exactly four minutes keep two and are not short-lived": {
			policy: Policy{AtPercent: 95}, lifetime: 4 * time.Minute, earliest: 96 * time.Second, latest: 2 * time.Minute},
		"a second less than four minutes keeps half": {
			policy: Policy{AtPercent: 95}, lifetime: 4*time.Minute - time.Second, shortLived: true,
			earliest: 95 * time.Second, latest: 2*time.Minute - time.Second},
		"a minute keeps half": {
			lifetime: time.Minute, shortLived: true, earliest: 24 * time.Second, latest: 30 * time.Second},
		"ten seconds keep half": {
			lifetime: 10 * time.Second, shortLived: true, earliest: 4 * time.Second, latest: 5 * time.Second},
		"two seconds are not due before one has passed": {
			lifetime: 2 * time.Second, shortLived: true, earliest: time.Second, latest: time.Second},
		"one second is due when it expires": {
			lifetime: time.Second, shortLived: true, earliest: time.Second, latest: time.Second},
		"no lifetime at all is due after the floor": {
			lifetime: 0, shortLived: true, earliest: time.Second, latest: time.Second},
		"born expired is due after the floor": {
			lifetime: -time.Hour, shortLived: true, earliest: time.Second, latest: time.Second},
		"the floor holds against the truncation": {
			issued: issued.Add(900 * time.Millisecond), lifetime: 2 * time.Second, shortLived: true,
			earliest: 1100 * time.Millisecond, latest: 1100 * time.Millisecond},
		"ten minutes before the end": {
			policy: Policy{Before: 10 * time.Minute, AtPercent: 10}, lifetime: time.Hour, earliest: 44 * time.Minute, latest: 50 * time.Minute},
		"ten seconds before the end become two minutes": {
			policy: Policy{Before: 10 * time.Second}, lifetime: time.Hour, earliest: 52 * time.Minute, latest: 58 * time.Minute},
		"a lead beyond half is half": {
			policy: Policy{Before: 50 * time.Minute}, lifetime: time.Hour, earliest: 24 * time.Minute, latest: 30 * time.Minute},
		"a lead beyond the lifetime is half": {
			policy: Policy{Before: 50 * time.Hour}, lifetime: time.Hour, earliest: 24 * time.Minute, latest: 30 * time.Minute},
		"a lifetime beyond what a duration holds": {
			policy: Policy{AtPercent: 90}, lifetime: math.MaxInt64, earliest: math.MaxInt64 / 100 * 79, latest: math.MaxInt64 / 100 * 90},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			from := tc.issued
			if from.IsZero() {
				from = issued
			}
			least, most := time.Duration(math.MaxInt64), time.Duration(0)
			for i := range 1000 {
				seed := fmt.Sprintf("uid-%d/payment-api", i)
				got := tc.policy.Plan(from, from.Add(tc.lifetime), seed)
				if again := tc.policy.Plan(from, from.Add(tc.lifetime), seed); !again.RefreshAt.Equal(got.RefreshAt) {
					t.Fatalf("planned %v, then %v from the same", got.RefreshAt, again.RefreshAt)
				}
				if got.ShortLived != tc.shortLived {
					t.Fatalf("ShortLived = %v", got.ShortLived)
				}
				if got.RefreshAt.Nanosecond() != 0 {
					t.Fatalf("RefreshAt = %v, not whole seconds", got.RefreshAt)
				}
				after := got.RefreshAt.Sub(from)
				least, most = min(least, after), max(most, after)
			}
			if least < tc.earliest.Truncate(100*time.Millisecond) || most > tc.latest {
				t.Errorf("planned between %v and %v, want between %v and %v", least, most, tc.earliest, tc.latest)
			}
			// A thousand seeds leave no tenth of the span empty; seconds are whole.
			slack := (tc.latest-tc.earliest)/10 + time.Second
			if least > tc.earliest+slack || most < tc.latest-slack {
				t.Errorf("planned between %v and %v, which leaves room in %v to %v", least, most, tc.earliest, tc.latest)
			}
		})
	}
}

// FuzzPlan holds what must hold for any lifetime, policy and seed.
func FuzzPlan(f *testing.F) {
	f.Add(int64(0), int64(time.Hour), 67, int64(0), "seed")
	f.Add(int64(1), int64(time.Second), 1, int64(time.Minute), "")
	f.Add(int64(999_999_999), int64(-time.Second), -5, int64(-1), "x")
	f.Fuzz(func(t *testing.T, offset, lifetime int64, percent int, before int64, seed string) {
		from := issued.Add(time.Duration(offset % int64(time.Hour)))
		life := time.Duration(lifetime)
		got := Policy{AtPercent: percent, Before: time.Duration(before)}.Plan(from, from.Add(life), seed)

		if got.RefreshAt.Before(from.Add(MinInterval)) {
			t.Errorf("issued %v, due %v: a hot loop", from, got.RefreshAt)
		}
		if life < 4*time.Second {
			return // the floor rules
		}
		lead := from.Add(life).Sub(got.RefreshAt)
		if want := min(MinLead, life/2); lead < want {
			t.Errorf("lifetime %v leaves %v, want %v", life, lead, want)
		}
	})
}

func TestBackoff(t *testing.T) {
	tests := map[string]struct {
		backoff    Backoff
		failures   int
		retryAfter time.Duration
		min, max   time.Duration
	}{
		"the first failure waits for the base":      {RetryBackoff, 1, 0, 800 * time.Millisecond, 1200 * time.Millisecond},
		"no failure counts as one":                  {RetryBackoff, 0, 0, 800 * time.Millisecond, 1200 * time.Millisecond},
		"the third waits four times as long":        {RetryBackoff, 3, 0, 3200 * time.Millisecond, 4800 * time.Millisecond},
		"the seventh is capped":                     {RetryBackoff, 7, 0, 48 * time.Second, 72 * time.Second},
		"the millionth still waits the cap":         {RetryBackoff, 1_000_000, 0, 48 * time.Second, 72 * time.Second},
		"slow failures begin at ten seconds":        {SlowBackoff, 1, 0, 8 * time.Second, 12 * time.Second},
		"slow failures end at five minutes":         {SlowBackoff, 10, 0, 4 * time.Minute, 6 * time.Minute},
		"a token with little left is not let go":    {RetryBackoff.Within(40 * time.Second), 7, 0, 16 * time.Second, 24 * time.Second},
		"one about to expire hurries nobody much":   {RetryBackoff.Within(time.Second), 7, 0, 4 * time.Second, 6 * time.Second},
		"one with much left changes nothing":        {RetryBackoff.Within(time.Hour), 7, 0, 48 * time.Second, 72 * time.Second},
		"one that has expired changes nothing":      {RetryBackoff.Within(0), 7, 0, 48 * time.Second, 72 * time.Second},
		"the server asks for longer":                {RetryBackoff, 1, 30 * time.Second, 30 * time.Second, 36 * time.Second},
		"the server asks for less":                  {SlowBackoff, 1, time.Second, 8 * time.Second, 12 * time.Second},
		"the server asks for a year":                {RetryBackoff, 1, 365 * 24 * time.Hour, time.Hour, 72 * time.Minute},
		"the server asks for the past":              {RetryBackoff, 1, -time.Hour, 800 * time.Millisecond, 1200 * time.Millisecond},
		"the zero backoff is a second":              {Backoff{}, 5, 0, 800 * time.Millisecond, 1200 * time.Millisecond},
		"a cap below the base is the base":          {Backoff{Base: time.Minute, Max: time.Second}, 5, 0, 48 * time.Second, 72 * time.Second},
		"a cap that is no multiple is reached":      {Backoff{Base: 2 * time.Second, Max: 5 * time.Second}, 3, 0, 4 * time.Second, 6 * time.Second},
		"a cap near what a duration holds is found": {Backoff{Base: time.Second, Max: math.MaxInt64 / 2}, 1000, 0, math.MaxInt64 / 10 * 3, math.MaxInt64 / 10 * 7},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			least, most := time.Duration(math.MaxInt64), time.Duration(0)
			for i := range 1000 {
				seed := fmt.Sprint("uid-", i)
				got := tc.backoff.Next(tc.failures, tc.retryAfter, seed)
				if again := tc.backoff.Next(tc.failures, tc.retryAfter, seed); again != got {
					t.Fatalf("waits %v, then %v from the same", got, again)
				}
				least, most = min(least, got), max(most, got)
			}
			if least < tc.min || most > tc.max {
				t.Errorf("waits %v to %v, want %v to %v", least, most, tc.min, tc.max)
			}
			if spread := tc.max - tc.min; most-least < spread*9/10 {
				t.Errorf("a thousand seeds spread over %v, want about %v", most-least, spread)
			}
		})
	}
}

func TestBackoffSpreadsAnewAfterEachFailure(t *testing.T) {
	b := Backoff{Base: time.Minute, Max: time.Minute}
	seen := map[time.Duration]bool{}
	for failures := 1; failures <= 10; failures++ {
		seen[b.Next(failures, 0, "uid")] = true
	}
	if diff := cmp.Diff(10, len(seen)); diff != "" {
		t.Errorf("distinct waits of one object (-want +got):\n%s", diff)
	}
}

// TestDouble: the limit is reached, and never exceeded, whatever it is.
func TestDouble(t *testing.T) {
	for name, tc := range map[string]struct {
		base, limit time.Duration
		times       int
		want        time.Duration
	}{
		"not at all":                {1, 3, 0, 1},
		"less than not at all":      {1, 3, -1, 1},
		"just below an odd limit":   {1, 3, 1, 2},
		"beyond an odd limit":       {1, 3, 2, 3},
		"onto an even limit":        {1, 4, 2, 4},
		"beyond an even limit":      {1, 4, 9, 4},
		"the limit is the base":     {5, 5, 3, 5},
		"the limit is below it":     {5, 2, 3, 5},
		"nothing is a second":       {0, 3 * time.Second, 1, 2 * time.Second},
		"as far as a time can go":   {1, 1<<63 - 1, 1 << 40, 1<<63 - 1},
		"beyond half of such a one": {1<<62 + 1, 1<<63 - 1, 1, 1<<63 - 1},
	} {
		if got := double(tc.base, tc.limit, tc.times); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}
