// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// image returns the name of the release's image, without tag and digest.
func (r *release) image() string { return r.registry + "/m2m-operator" }

// reference returns the name of the release's image, with both.
func (r *release) reference(digest v1.Hash) string {
	return r.image() + ":" + r.version + "@" + digest.String()
}

// makeImage makes the image of programs with hack/image, as an archive, and returns the
// descriptors of its index and of the image of each platform. It runs hack/image as make
// image does, so that both make images the same way. The two share no package: all that is
// alike is main, and importing the other module would make a module that is replaced by a
// directory part of this one.
func (r *release) makeImage(ctx context.Context, programs []program, path string) (index v1.Descriptor, images []v1.Descriptor, err error) {
	tool := r.pathIn("image")
	if _, err := command(ctx, filepath.Join(r.root, "hack", "image"), "go", "build", "-o", tool, "."); err != nil {
		return index, nil, err
	}
	args := []string{
		"-tag=" + r.image() + ":" + r.version, "-o=" + path, "-created=" + strconv.FormatInt(r.commit.at.Unix(), 10),
		"-label=org.opencontainers.image.title=m2m-operator",
		"-label=org.opencontainers.image.version=" + r.version,
		"-label=org.opencontainers.image.revision=" + r.commit.hash,
		"-label=org.opencontainers.image.licenses=Apache-2.0",
		"-label=org.opencontainers.image.source=https://" + module,
	}
	list := "-platform="
	for i, p := range programs {
		if i > 0 {
			list += ","
		}
		list += p.String()
		args = append(args, "-file="+p.String()+":"+p.path+"=/manager")
	}
	if _, err := command(ctx, r.root, tool, append(args, list)...); err != nil {
		return index, nil, err
	}
	return described(path)
}

// described reads an OCI image layout in an archive: what its index.json points to, and
// the images of the index that this is.
func described(path string) (top v1.Descriptor, images []v1.Descriptor, err error) {
	var layout, index v1.IndexManifest
	if err := inLayout(path, "index.json", &layout); err != nil {
		return top, nil, err
	}
	if len(layout.Manifests) != 1 {
		return top, nil, fmt.Errorf("%s has %d images, and not one", path, len(layout.Manifests))
	}
	top = layout.Manifests[0]
	if !top.MediaType.IsIndex() { // of one platform only
		return top, []v1.Descriptor{top}, nil
	}
	if err := inLayout(path, "blobs/sha256/"+top.Digest.Hex, &index); err != nil {
		return top, nil, err
	}
	return top, index.Manifests, nil
}

// inLayout decodes a document in an archive.
func inLayout(path, name string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: there is no %s in it", path, name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if header.Name == name {
			return json.NewDecoder(r).Decode(into)
		}
	}
}
