// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"

	"sigs.k8s.io/yaml"
)

// krewPlugin is a manifest of krew, as far as it is used here.
type krewPlugin struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   krewMetadata `json:"metadata"`
	Spec       krewSpec     `json:"spec"`
}

type krewMetadata struct {
	Name string `json:"name"`
}

type krewSpec struct {
	Version          string         `json:"version"`
	Homepage         string         `json:"homepage"`
	ShortDescription string         `json:"shortDescription"`
	Description      string         `json:"description"`
	Platforms        []krewPlatform `json:"platforms"`
}

type krewPlatform struct {
	Selector krewSelector `json:"selector"`
	URI      string       `json:"uri"`
	SHA256   string       `json:"sha256"`
	Bin      string       `json:"bin"`
}

type krewSelector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

// plugin is an archive with the plugin for a platform.
type plugin struct {
	program
	file   string
	sha256 string
}

// download returns where a file of the release can be downloaded.
func (r *release) download(file string) string {
	return "https://" + module + "/releases/download/" + r.version + "/" + file
}

// krew returns the manifest with which krew installs the plugin.
func (r *release) krew(plugins []plugin) ([]byte, error) {
	manifest := krewPlugin{
		APIVersion: "krew.googlecontainertools.github.com/v1alpha2", Kind: "Plugin", Metadata: krewMetadata{"m2m"},
		Spec: krewSpec{
			Version: r.version, Homepage: "https://" + module, ShortDescription: "See and ask about the tokens of m2m-operator",
			Description: "Shows servers, APIs, clients and pods as a tree, with what is wrong and what to do\n" +
				"about it. Says who may call what and why, what a pull request would change, what a\n" +
				"token says, and whether m2m-operator is installed soundly.\n",
		},
	}
	for _, p := range plugins {
		manifest.Spec.Platforms = append(manifest.Spec.Platforms, krewPlatform{
			Selector: krewSelector{map[string]string{"os": p.os, "arch": p.arch}}, URI: r.download(p.file), SHA256: p.sha256, Bin: executable(p.platform),
		})
	}
	content, err := yaml.Marshal(manifest)
	return bytes.Join([][]byte{[]byte("# SPDX-License-Identifier: Apache-2.0"), content}, []byte("\n")), err
}

// executable returns the plugin's file name on a platform.
func executable(p platform) string {
	if p.os == "windows" {
		return "kubectl-m2m.exe"
	}
	return "kubectl-m2m"
}
