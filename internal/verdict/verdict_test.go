// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

var issued = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return issued.Add(d) }

func refusedFor(reason string) *jwks.VerifyError { return &jwks.VerifyError{Reason: reason} }

func TestVerdict(t *testing.T) {
	// Half of what the predecessor has left is shorter than delivery.HoldMax.
	works := Predecessor{ExpiresAt: at(2 * time.Minute), Works: true}
	revoked := Predecessor{ExpiresAt: at(2 * time.Minute), Revoked: true}
	attempt := Attempt{Number: 3, Seed: "uid/payment-api"}
	next := func(now time.Duration) time.Time {
		return at(now).Add(refresh.RefusalBackoff.Next(3, 0, "uid/payment-api") + time.Second - 1)
	}
	for name, tc := range map[string]struct {
		now         time.Duration
		refused     *jwks.VerifyError
		predecessor Predecessor
		last        Failure
		look        time.Time // the answer to what is awaited
		awaits      Awaited
		want        Verdict
	}{
		"the first token is published at once": {want: Verdict{Action: Publish}},
		"no token works: the new one is published at once": {
			predecessor: Predecessor{ExpiresAt: at(-time.Minute)}, want: Verdict{Action: Publish},
		},
		"a former failure does not matter to a good token": {
			last: Failure{Reason: jwks.ReasonUnknownKey, Stands: true}, want: Verdict{Action: Publish},
		},
		"the API's pods have the key": {predecessor: works, awaits: Delivery, want: Verdict{Action: Publish}},
		"the API's pods lack the key": {
			predecessor: works, look: at(time.Second), awaits: Delivery,
			want: Verdict{Action: Hold, Until: at(time.Second), PublishAt: at(time.Minute)},
		},
		"the pods take longer than the predecessor lasts": {
			now: 59 * time.Second, predecessor: works, look: at(90 * time.Second), awaits: Delivery,
			want: Verdict{Action: Hold, Until: at(time.Minute), PublishAt: at(time.Minute)},
		},
		"the predecessor has waited long enough": {now: time.Minute, predecessor: works, want: Verdict{Action: Publish}},
		"a predecessor that lasts is not worth waiting for ever": {
			now:         delivery.HoldMax,
			predecessor: Predecessor{ExpiresAt: at(24 * time.Hour), Works: true}, want: Verdict{Action: Publish},
		},
		"the predecessor is revoked and the bundles have the key": {predecessor: revoked, awaits: Bundle, want: Verdict{Action: Publish}},
		"the predecessor is revoked and a bundle lacks the key": {
			predecessor: revoked, look: at(RevokedPoll), awaits: Bundle,
			want: Verdict{Action: Hold, Until: at(RevokedPoll), PublishAt: at(time.Minute)},
		},
		"the predecessor is revoked and the bundle does not come": {now: RevokedHold, predecessor: revoked, want: Verdict{Action: Publish}},

		"an unknown key is waited for": {
			refused: refusedFor(jwks.ReasonUnknownKey),
			want:    Verdict{Action: Hold, Until: at(delivery.Poll), PublishAt: at(KeyPatience), NoKey: true},
		},
		"an unknown key is waited for while the predecessor works": {
			refused: refusedFor(jwks.ReasonUnknownKey), predecessor: works,
			want: Verdict{Action: Hold, Until: at(delivery.Poll), PublishAt: at(time.Minute)},
		},
		"an unknown key is waited for after another failure": {
			refused: refusedFor(jwks.ReasonUnknownKey), last: Failure{Reason: jwks.ReasonWrongAudience, Stands: true},
			want: Verdict{Action: Hold, Until: at(delivery.Poll), PublishAt: at(KeyPatience), NoKey: true},
		},
		"the key stays unknown": {
			now: KeyPatience, refused: refusedFor(jwks.ReasonUnknownKey),
			want: Verdict{Action: Retry, Until: next(KeyPatience)},
		},
		"the key stays unknown while the predecessor works": {
			now: KeyPatience, refused: refusedFor(jwks.ReasonUnknownKey), predecessor: works,
			want: Verdict{Action: Retry, Until: next(KeyPatience)},
		},
		"the key was unknown before": {
			refused: refusedFor(jwks.ReasonUnknownKey), last: Failure{Reason: jwks.ReasonUnknownKey},
			want: Verdict{Action: Retry, Until: next(0)},
		},
		"the key was unknown a moment ago": {
			refused: refusedFor(jwks.ReasonUnknownKey), last: Failure{Reason: jwks.ReasonUnknownKey, Stands: true},
			want: Verdict{Action: Wait},
		},
		"the key stays unknown and another failure stands": {
			now: KeyPatience, refused: refusedFor(jwks.ReasonUnknownKey), last: Failure{Reason: jwks.ReasonWrongAudience, Stands: true},
			want: Verdict{Action: Wait},
		},
		"a token for another API is discarded": {
			refused: refusedFor(jwks.ReasonWrongAudience), want: Verdict{Action: Discard, Until: next(0)},
		},
		"a wrong token is discarded while the predecessor works": {
			refused: refusedFor(jwks.ReasonWrongAudience), predecessor: works, want: Verdict{Action: Discard, Until: next(0)},
		},
		"a wrong token is discarded although the predecessor is revoked": {
			refused: refusedFor(jwks.ReasonBadSignature), predecessor: revoked, want: Verdict{Action: Discard, Until: next(0)},
		},
		"a token that is refused again is discarded again": {
			refused: refusedFor(jwks.ReasonMissingScopes), last: Failure{Reason: jwks.ReasonMissingScopes, Stands: true},
			want: Verdict{Action: Discard, Until: next(0)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Candidate{
				Now: at(tc.now), IssuedAt: issued, Refused: tc.refused,
				Predecessor: tc.predecessor, Last: tc.last, Attempt: attempt,
			}
			if got := c.Awaits(); got != tc.awaits {
				t.Errorf("awaits %d, want %d", got, tc.awaits)
			}
			c.Look = tc.look
			if diff := cmp.Diff(tc.want, Of(c)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNextAttempt(t *testing.T) {
	for name, tc := range map[string]struct {
		attempt    Attempt
		retryAfter time.Duration
		least      time.Duration
		most       time.Duration
	}{
		"after the first failure":             {Attempt{Number: 1}, 0, 8 * time.Second, 13 * time.Second},
		"after many":                          {Attempt{Number: 30}, 0, 48 * time.Minute, 73 * time.Minute},
		"after many, while a token works":     {Attempt{Number: 30, Left: 10 * time.Minute}, 0, 4 * time.Minute, 6*time.Minute + time.Second},
		"after many, since the token expired": {Attempt{Number: 30, Left: -time.Minute}, 0, 48 * time.Minute, 73 * time.Minute},
		"when the server asks for longer":     {Attempt{Number: 1}, 5 * time.Minute, 5 * time.Minute, 6*time.Minute + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.attempt.Next(issued, refresh.RefusalBackoff, tc.retryAfter).Sub(issued)
			if got < tc.least || got > tc.most {
				t.Errorf("the next attempt is in %s, want %s to %s", got, tc.least, tc.most)
			}
		})
	}
}
