// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"testing"
	"time"
)

var changed = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return changed.Add(d) }

func TestWhenAPodSeesAChange(t *testing.T) {
	old := at(-time.Hour)
	for name, tc := range map[string]struct {
		pod  Pod
		now  time.Duration
		want time.Time
	}{
		"it was created since":                      {Pod{Created: at(ClockSkew + time.Millisecond)}, time.Minute, time.Time{}},
		"it came with the change, for all we know":  {Pod{Created: at(ClockSkew)}, time.Minute, at(KubeletDelay)},
		"nobody touches it":                         {Pod{Created: old}, time.Minute, at(KubeletDelay)},
		"it was touched before":                     {Pod{Created: old, Touched: at(-time.Millisecond)}, time.Minute, at(KubeletDelay)},
		"it was touched with the change":            {Pod{Created: old, Touched: at(0)}, time.Second, at(TouchDelay)},
		"it was touched since":                      {Pod{Created: old, Touched: at(10 * time.Second), Touchable: true}, 11 * time.Second, at(10*time.Second + TouchDelay)},
		"a touch when it had seen it anyway":        {Pod{Created: old, Touched: at(KubeletDelay)}, KubeletDelay, at(KubeletDelay)},
		"it is about to be touched":                 {Pod{Created: old, Touchable: true}, time.Second, at(time.Second + Poll)},
		"it was not touched, and has seen it":       {Pod{Created: old, Touchable: true}, KubeletDelay, at(KubeletDelay)},
		"a touch in the future keeps it no longer":  {Pod{Created: old, Touched: at(3 * time.Minute)}, 90 * time.Second, at(KubeletDelay)},
		"a touch far in the future is not believed": {Pod{Created: old, Touched: at(365 * 24 * time.Hour), Touchable: true}, time.Second, at(time.Second + Poll)},
		"nor is it where nobody touches":            {Pod{Created: old, Touched: at(365 * 24 * time.Hour)}, time.Second, at(KubeletDelay)},
	} {
		if got := tc.pod.Sees(changed, at(tc.now)); !got.Equal(tc.want) {
			t.Errorf("%s: it sees it at %s, want %s", name, got, tc.want)
		}
	}
}

func TestWhenAGatewaySeesAChange(t *testing.T) {
	for name, tc := range map[string]struct{ changed, now, want time.Time }{
		"it was there from the beginning":     {time.Time{}, at(0), time.Time{}},
		"it has just been written":            {changed, at(0), at(GatewayDelay)},
		"a moment is missing":                 {changed, at(GatewayDelay - time.Millisecond), at(GatewayDelay)},
		"it was written long enough ago":      {changed, at(GatewayDelay), time.Time{}},
		"another clock is a little ahead":     {at(ClockSkew), at(0), at(ClockSkew + GatewayDelay)},
		"a time far ahead is not believed in": {at(time.Hour), at(0), time.Time{}},
	} {
		for _, drain := range []time.Duration{0, time.Minute} {
			now, want := tc.now, tc.want
			if now.After(changed) {
				now = now.Add(drain)
			}
			if !want.IsZero() {
				want = want.Add(drain)
			}
			if got := GatewaySees(tc.changed, now, drain); !got.Equal(want) {
				t.Errorf("%s, with a drain of %s: %s, want %s", name, drain, got, want)
			}
		}
	}
}

func TestWhenAPodMustBeTouched(t *testing.T) {
	old := at(-time.Hour)
	for name, tc := range map[string]struct {
		pod   Pod
		since time.Time
		now   time.Duration
		want  bool
	}{
		"it mounts nothing urgent":         {Pod{Created: old}, time.Time{}, 0, false},
		"it has not seen the change":       {Pod{Created: old}, changed, time.Second, true},
		"it was touched before":            {Pod{Created: old, Touched: at(-time.Second)}, changed, time.Second, true},
		"it was touched since":             {Pod{Created: old, Touched: changed}, changed, time.Second, false},
		"it was created since":             {Pod{Created: at(time.Minute)}, changed, time.Minute, false},
		"a touch far in the future":        {Pod{Created: old, Touched: at(time.Hour)}, changed, time.Second, true},
		"a touch by a clock that is ahead": {Pod{Created: old, Touched: at(time.Minute)}, changed, time.Second, false},
		"its kubelet has looked again":     {Pod{Created: old}, changed, KubeletDelay, false},
		"the moment is ahead of the clock": {Pod{Created: old}, at(time.Minute), 0, true},
		"the moment is nobody's clock":     {Pod{Created: old}, at(KubeletDelay), 0, false},
	} {
		if got := tc.pod.MustTouch(tc.since, at(tc.now)); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
}

func TestWhenAChangeIsSettled(t *testing.T) {
	for name, tc := range map[string]struct {
		changed time.Time
		now     time.Duration
		want    bool
	}{
		"never made":                    {time.Time{}, 0, true},
		"just made":                     {changed, 0, false},
		"almost seen":                   {changed, KubeletDelay - time.Millisecond, false},
		"seen":                          {changed, KubeletDelay, true},
		"made by a clock that is ahead": {at(ClockSkew), 0, false},
		"made by nobody, in the future": {at(ClockSkew + time.Millisecond), 0, true},
	} {
		if got := Settled(tc.changed, at(tc.now)); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
}

func TestPublishBy(t *testing.T) {
	for name, tc := range map[string]struct{ expires, want time.Duration }{
		"a predecessor that lasts":       {time.Hour, HoldMax},
		"a predecessor near its end":     {time.Minute, 30 * time.Second},
		"whole seconds":                  {61 * time.Second, 30 * time.Second},
		"a predecessor that has expired": {-time.Minute, -30 * time.Second},
	} {
		if got := PublishBy(changed, at(tc.expires)); !got.Equal(at(tc.want)) {
			t.Errorf("%s: %s, want %s", name, got, at(tc.want))
		}
	}
}

func TestSooner(t *testing.T) {
	var none time.Time
	for _, tc := range []struct{ a, b, want time.Time }{
		{none, none, none}, {changed, none, changed}, {none, changed, changed}, {changed, at(1), changed}, {at(1), changed, changed},
	} {
		if got := Sooner(tc.a, tc.b); !got.Equal(tc.want) {
			t.Errorf("of %s and %s: %s", tc.a, tc.b, got)
		}
	}
}

func TestMoments(t *testing.T) {
	moment := time.Date(2026, 5, 1, 14, 0, 0, 123456789, time.FixedZone("CEST", 7200))
	if got := Moment(moment); got != "2026-05-01T12:00:00.123Z" || !ParseMoment(got).Equal(moment.Truncate(time.Millisecond)) {
		t.Errorf("%s, read as %s", got, ParseMoment(got))
	}
	for _, s := range []string{"", "yesterday", "1777636800"} {
		if got := ParseMoment(s); !got.IsZero() {
			t.Errorf("%q is read as %s", s, got)
		}
	}
}
