// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// push pushes the image and the chart of a release that was built, byte by byte, with the
// credentials that docker login left. It prints their digests as KEY=VALUE, which a
// workflow can read.
func push(ctx context.Context, o options, stdout io.Writer) error {
	if o.from == "" {
		return errors.New("say with -from where the files of the release are")
	}
	images, err := filepath.Glob(filepath.Join(o.from, "m2m-operator-v*-image.tar"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("%s holds %d images, and not one: build the release first", o.from, len(images))
	}
	if err := asBuilt(o.from); err != nil {
		return err
	}
	version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(images[0]), "m2m-operator-"), "-image.tar")
	r := &release{version: version, registry: o.registry}
	for _, a := range []struct{ what, archive, reference string }{
		{"image", r.imageArchive(), r.image() + ":" + version},
		{"chart", r.chartArchive(), r.chartName() + ":" + chartVersion(version)},
	} {
		digest, err := pushLayout(ctx, filepath.Join(o.from, a.archive), a.reference)
		if err != nil {
			return fmt.Errorf("push %s: %w", a.reference, err)
		}
		repository := a.reference[:strings.LastIndex(a.reference, ":")]
		if _, err := fmt.Fprintf(stdout, "%[1]s=%[2]s\n%[1]s-digest=%[3]s\n", a.what, repository, digest); err != nil {
			return err
		}
	}
	return nil
}

// asBuilt checks that a directory holds what its checksums.txt names, as it was built, and
// nothing else.
func asBuilt(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, checksumsFile))
	if err != nil {
		return err
	}
	want := map[string]string{}
	for line := range strings.Lines(string(content)) {
		hash, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		want[name] = hash
	}
	found, err := sumsIn(dir)
	if err != nil {
		return err
	}
	for _, s := range found {
		if s.name != checksumsFile && want[s.name] != s.sum {
			return fmt.Errorf("%s in %s is not what %s says of it: build the release again", s.name, dir, checksumsFile)
		}
		delete(want, s.name)
	}
	if len(want) > 0 {
		return fmt.Errorf("%s names files that are not in %s: %s", checksumsFile, dir, strings.Join(slices.Sorted(maps.Keys(want)), ", "))
	}
	return nil
}

// pushLayout pushes what the index.json of an OCI image layout in an archive points to.
func pushLayout(ctx context.Context, archive, reference string) (v1.Hash, error) {
	tag, err := name.NewTag(reference)
	if err != nil {
		return v1.Hash{}, err
	}
	dir, err := os.MkdirTemp("", "push-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(dir)
	if err := unpack(archive, dir); err != nil {
		return v1.Hash{}, err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	if len(list.Manifests) != 1 {
		return v1.Hash{}, fmt.Errorf("%s has %d images, and not one", archive, len(list.Manifests))
	}
	top := list.Manifests[0]
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if top.MediaType.IsIndex() {
		images, err := index.ImageIndex(top.Digest)
		if err != nil {
			return top.Digest, err
		}
		return top.Digest, remote.WriteIndex(tag, images, opts...)
	}
	image, err := index.Image(top.Digest)
	if err != nil {
		return top.Digest, err
	}
	return top.Digest, remote.Write(tag, image, opts...)
}

// unpack unpacks the regular files of an archive.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir) // no name leads out of it
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(header.Name, content, 0o644); err != nil {
			return err
		}
	}
}
