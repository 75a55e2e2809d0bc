// SPDX-License-Identifier: Apache-2.0

// Command chart makes the Helm chart's templates of what kustomize makes of
// config/chart, which is all that an installation can have. What the values change
// is declared in rules.go. An object without a rule, a rule without an object and
// an edit whose path is not there are errors: nothing that is added to config/ is
// forgotten here.
//
// It is run from the repository's root. What it does not touch: Chart.yaml,
// values.yaml, values.schema.json, and the templates that are no YAML.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
)

func main() {
	if err := run("config/chart", "charts/m2m-operator/templates"); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(config, templates string) error {
	kustomize := exec.Command("hack/tool.sh", "kustomize", "build", config)
	kustomize.Stderr = os.Stderr
	manifests, err := kustomize.Output()
	if err != nil {
		return fmt.Errorf("kustomize build %s: %w", config, err)
	}
	nodes, err := parse(manifests)
	if err != nil {
		return err
	}
	files, err := convert(nodes, rules)
	if err != nil {
		return err
	}
	return write(templates, files)
}

// parse reads a stream of objects.
func parse(manifests []byte) ([]*node, error) {
	var nodes []*node
	for documents := yaml.NewDecoder(bytes.NewReader(manifests)); ; {
		var document yaml.Node
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return nodes, nil
		} else if err != nil {
			return nil, err
		}
		n, err := read(&document)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
}

// write makes a folder contain these YAML files and no others.
func write(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	former, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range former {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o644); err != nil {
			return err
		}
	}
	return nil
}
