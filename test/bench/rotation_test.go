// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

func TestBundleNamespaces(t *testing.T) {
	for clients, want := range map[int]int{1: 20, 500: 50, 3000: 300, fullSize: 1000, 10 * fullSize: 1000} {
		b := &bench{n: clients}
		if got := b.bundleNamespaces(); got != want {
			t.Errorf("with %d clients there are %d namespaces, want %d", clients, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for name, tc := range map[string]struct {
		of   []float64
		want float64
	}{
		"one":             {[]float64{4}, 4},
		"in the middle":   {[]float64{9, 1, 3}, 3},
		"the lesser of 2": {[]float64{9, 1}, 1},
	} {
		if got := median(tc.of); got != tc.want {
			t.Errorf("%s: the median of %v is %v, want %v", name, tc.of, got, tc.want)
		}
	}
}

func TestUnaskedRequestsForKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		requests int
		took     time.Duration
		want     int
	}{
		"the one that brought the key":        {1, 2 * time.Second, 1},
		"another in between":                  {2, 2 * time.Second, 2},
		"and one that was due":                {2, keysEvery + time.Second, 1},
		"two that were due, one that was not": {4, 2*keysEvery + time.Second, 2},
	} {
		if got := unasked(tc.requests, tc.took); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}
