// SPDX-License-Identifier: Apache-2.0

package build

import (
	"runtime/debug"
	"testing"
)

func TestBuilt(t *testing.T) {
	recorded := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "GOOS", Value: "linux"}, {Key: "vcs.revision", Value: "abc"}}}
	for name, tc := range map[string]struct {
		version, revision string
		info              *debug.BuildInfo
		want              [2]string
	}{
		"a release":              {"v2.0.0", "def", recorded, [2]string{"v2.0.0", "def"}},
		"a checkout":             {"", "", recorded, [2]string{"v1.2.3", "abc"}},
		"a program without both": {"", "", &debug.BuildInfo{}, [2]string{"unknown", "unknown"}},
		"no information":         {"", "", nil, [2]string{"unknown", "unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			Version, Revision = tc.version, tc.revision
			defer func() { Version, Revision = "", "" }()
			if version, revision := built(tc.info); [2]string{version, revision} != tc.want {
				t.Errorf("got %q and %q, want %q", version, revision, tc.want)
			}
		})
	}
}

func TestAProgramIsDescribedInOneLine(t *testing.T) {
	i := Info{Version: "v1.2.3", Revision: "abc", Go: "go1.26", Platform: "linux/arm64"}
	if got, want := i.String(), "v1.2.3 (commit abc, go1.26, linux/arm64)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
