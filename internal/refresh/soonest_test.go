// SPDX-License-Identifier: Apache-2.0

package refresh_test

import (
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

func TestSoonest(t *testing.T) {
	for name, tc := range map[string]struct {
		waits []time.Duration
		want  time.Duration
	}{
		"none":               {nil, 0},
		"none that is set":   {[]time.Duration{0, 0}, 0},
		"the shortest":       {[]time.Duration{0, 3 * time.Second, 2 * time.Second}, 2 * time.Second},
		"one that is over":   {[]time.Duration{-time.Minute, time.Minute}, time.Second},
		"shorter than least": {[]time.Duration{time.Millisecond}, time.Second},
	} {
		if got := refresh.Soonest(time.Second, tc.waits...); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestBetween(t *testing.T) {
	for _, seed := range []string{"a", "b", "c", "d"} {
		if got := refresh.Between(seed, time.Minute, time.Hour); got < time.Minute || got >= time.Hour || got != time.Minute+refresh.Spread(seed, 59*time.Minute) {
			t.Errorf("%s: %s", seed, got)
		}
	}
}
