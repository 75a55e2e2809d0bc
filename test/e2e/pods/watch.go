// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// lookEvery is how often a mounted directory is checked, and so by how much a
// change may be seen late.
const lookEvery = 5 * time.Millisecond

// watch signals when the content of a mounted directory has changed, and once at
// first. The kubelet replaces all of it at once, by pointing the link ..data
// elsewhere.
func watch(ctx context.Context, dir string, changed func(at time.Time)) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	last := ""
	for {
		if target, err := os.Readlink(filepath.Join(dir, "..data")); err == nil && target != last {
			last = target
			changed(time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
