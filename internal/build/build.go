// SPDX-License-Identifier: Apache-2.0

// Package build knows which program is running: its version, and the commit and the Go
// version that it was built with.
package build

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is set by make and by a release, with -ldflags=-X. If it is empty, what Go
// recorded in the program counts; an image records nothing, so that it is the same in
// every checkout.
var Version string

// Revision is the commit, set like Version.
var Revision string

// Info describes a program.
type Info struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"goVersion"`
	Platform string `json:"platform"`
}

// Read describes the running program.
func Read() Info {
	info, _ := debug.ReadBuildInfo()
	version, revision := built(info)
	return Info{version, revision, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
}

// String returns the description in one line.
func (i Info) String() string {
	return fmt.Sprintf("%s (commit %s, %s, %s)", i.Version, i.Revision, i.Go, i.Platform)
}

// built returns the version of the program, and the commit that it was built from.
func built(info *debug.BuildInfo) (version, revision string) {
	version, revision = Version, Revision
	if info != nil {
		version = cmp.Or(version, info.Main.Version)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = cmp.Or(revision, s.Value)
			}
		}
	}
	return cmp.Or(version, "unknown"), cmp.Or(revision, "unknown")
}
