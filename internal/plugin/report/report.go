// SPDX-License-Identifier: Apache-2.0

// Package report puts together what a maintainer needs to see of an installation, with no
// secret in it. Nothing gets into a report but through the package's lists of what may be
// shown: of objects the strings of listed members, of a log the listed members of its lines,
// and prose only after what looks like a secret was masked. The package is pure.
package report

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Report holds files by name, and what could not be read. The zero value is empty.
type Report struct {
	files   map[string][]byte
	missing []string
}

// Add adds a value as YAML.
func (r *Report) Add(name string, v any) error {
	filtered, err := Shown(v)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b, err := yaml.Marshal(filtered)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.put(name, b)
	return nil
}

// AddObject adds an object under its kind, namespace and name.
func (r *Report) AddObject(kind string, o client.Object) error {
	namespace := o.GetNamespace()
	if namespace == "" {
		namespace = "(cluster)"
	}
	return r.Add(fmt.Sprintf("objects/%s/%s/%s.yaml", strings.ToLower(kind), namespace, o.GetName()), o)
}

// AddLog adds a log in JSON.
func (r *Report) AddLog(name, log string) {
	lines, left := LogLines(log)
	if left > 0 {
		lines = append(lines, fmt.Sprintf("(%d lines that are not JSON were left out)", left))
	}
	r.put(name, []byte(strings.Join(lines, "\n")+"\n"))
}

// Miss notes what could not be read, and why.
func (r *Report) Miss(what, why string) {
	r.missing = append(r.missing, text.Line(what+": "+Text(why)))
}

func (r *Report) put(name string, b []byte) {
	if r.files == nil {
		r.files = map[string][]byte{}
	}
	r.files[name] = b
}

// Names returns the names of the files, in order.
func (r *Report) Names() []string { return slices.Sorted(maps.Keys(r.files)) }

// Missing returns what could not be read, in order.
func (r *Report) Missing() []string { return slices.Sorted(slices.Values(r.missing)) }

// Write writes the report as an archive. It always has the same files in the same order for
// the same content.
func (r *Report) Write(w io.Writer, at time.Time) error {
	r.put("missing.txt", []byte(strings.Join(append(r.Missing(), ""), "\n")))
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, name := range r.Names() {
		h := &tar.Header{Name: "m2m-report/" + name, Mode: 0o644, Size: int64(len(r.files[name])), ModTime: at.UTC().Truncate(time.Second)}
		if err := archive.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := archive.Write(r.files[name]); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if err := zip.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}
