// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseHierarchies(t *testing.T) {
	cases := map[string]struct {
		memberships, mounts string
		want                []Hierarchy
	}{
		"a machine with both versions has the mounts of version 1": {
			memberships: "9:name=systemd:/\n4:memory:/shell/one\n1:cpu,cpuacct:/\n0::/user.slice\n",
			mounts: `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`,
			want: []Hierarchy{
				{"name=systemd", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd"},
				{"memory", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/shell/one"},
				{"cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
			},
		},
		"a container that sees only its own part finds itself at the mount": {
			memberships: "4:memory:/docker/abc/sub\n",
			mounts:      "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			want:        []Hierarchy{{"memory", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/sub"}},
		},
		"a machine with version 2 alone has none": {
			memberships: "0::/user.slice\n",
			mounts:      "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := parse(tc.memberships, tc.mounts)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
