// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// statement is an in-toto statement about what was built, and how.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     predicate  `json:"predicate"`
}

// resource is what was built, or what it was built from.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// predicate is SLSA's provenance, version 1.
type predicate struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string            `json:"buildType"`
	ExternalParameters   map[string]string `json:"externalParameters"`
	InternalParameters   map[string]string `json:"internalParameters"`
	ResolvedDependencies []resource        `json:"resolvedDependencies"`
}

type runDetails struct {
	Builder builder `json:"builder"`
}

type builder struct {
	ID string `json:"id"`
}

// provenance states what was built from what. It holds no time and no machine, so that
// it can be made again. It is not signed: the workflow attests to the files it built.
func (r *release) provenance(subjects []resource, programs []program) ([]byte, error) {
	from := []resource{{
		URI:    "git+https://" + module + "@refs/tags/" + r.version,
		Digest: map[string]string{"gitCommit": r.commit.hash},
	}}
	sums := map[string]string{}
	for _, p := range programs {
		for _, m := range p.info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			sums["pkg:golang/"+m.Path+"@"+m.Version] = m.Sum
		}
	}
	for _, uri := range slices.Sorted(maps.Keys(sums)) {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sums[uri], "h1:"))
		if err != nil || len(sum) != 32 {
			return nil, fmt.Errorf("%s has no checksum that is known here: %q", uri, sums[uri])
		}
		from = append(from, resource{URI: uri, Digest: map[string]string{"dirHash": hex.EncodeToString(sum)}})
	}
	content, err := json.MarshalIndent(statement{
		Type: "https://in-toto.io/Statement/v1", Subject: subjects, PredicateType: "https://slsa.dev/provenance/v1",
		Predicate: predicate{
			BuildDefinition: buildDefinition{
				BuildType:            "https://" + module + "/blob/" + r.version + "/docs/releasing.md#what-is-built",
				ExternalParameters:   map[string]string{"repository": "https://" + module, "version": r.version},
				InternalParameters:   map[string]string{"go": r.goVersion, "command": "make release VERSION=" + r.version},
				ResolvedDependencies: from,
			},
			RunDetails: runDetails{builder{"https://" + module + "/blob/" + r.version + "/hack/release"}},
		},
	}, "", "  ")
	return append(content, '\n'), err
}
