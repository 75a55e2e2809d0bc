// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// unreleased is the section of what is in no release yet.
const unreleased = "Unreleased"

var heading = regexp.MustCompile(`(?m)^## \[([^\]]+)\](?: - \d{4}-\d\d-\d\d)?$`)

// section returns what the changelog says of a version, without its heading.
func section(changelog []byte, version string) ([]byte, error) {
	name := strings.TrimPrefix(version, "v")
	all := heading.FindAllSubmatchIndex(changelog, -1)
	for i, at := range all {
		if string(changelog[at[2]:at[3]]) != name {
			continue
		}
		end := len(changelog)
		if i+1 < len(all) {
			end = all[i+1][0]
		}
		text := bytes.TrimSpace(changelog[at[1]:end])
		if len(text) == 0 {
			return nil, fmt.Errorf("the section [%s] of CHANGELOG.md is empty: say there what is new", name)
		}
		return append(text, '\n'), nil
	}
	return nil, fmt.Errorf("CHANGELOG.md has no section [%s]: rename [%s] to \"## [%[1]s] - DATE\", and begin a new [%[2]s] above it", name, unreleased)
}
