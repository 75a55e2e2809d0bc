// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var at = time.Date(2026, 11, 29, 17, 0, 0, 0, time.UTC)

func packed() []file {
	return []file{{name: "b", content: []byte("two")}, {name: "a", content: []byte("one"), program: true}}
}

func TestAnArchiveDoesNotDependOnTheOrderOfItsFiles(t *testing.T) {
	for name, pack := range map[string]func([]file, time.Time) ([]byte, error){"tar": tarball, "tar.gz": tgz, "zip": zipped} {
		t.Run(name, func(t *testing.T) {
			files := packed()
			one, err := pack(files, at)
			if err != nil {
				t.Fatal(err)
			}
			slices.Reverse(files)
			two, err := pack(files, at)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one, two) {
				t.Error("the same files make different archives")
			}
		})
	}
}

// entry is what an archive says of a file.
type entry struct {
	Name, Content string
	Mode          int64
	At            time.Time
	Owner         int
}

var entries = []entry{{"a", "one", 0o755, at, 0}, {"b", "two", 0o644, at, 0}}

func TestTheFilesOfATarball(t *testing.T) {
	content, err := tgz(packed(), at)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, untar(t, content)); diff != "" {
		t.Error(diff)
	}
}

// untar lists a compressed archive.
func untar(t *testing.T, content []byte) (all []entry) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip's header has the name %q and the time %s", z.Name, z.ModTime)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{h.Name, string(b), h.Mode, h.ModTime.UTC(), h.Uid + h.Gid})
	}
}

func TestTheFilesOfAZipArchive(t *testing.T) {
	content, err := zipped(packed(), at)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, unzip(t, content)); diff != "" {
		t.Error(diff)
	}
}

func unzip(t *testing.T, content []byte) (all []entry) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{f.Name, string(b), int64(f.Mode().Perm()), f.Modified.UTC(), 0})
	}
	return all
}
