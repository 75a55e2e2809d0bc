// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// save writes an archive to a file. The file exists as a whole or not at all.
func save(file string, reference name.Tag, index v1.ImageIndex) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".image")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	a := &archive{tar: tar.NewWriter(f), written: map[v1.Hash]bool{}}
	err = a.write(reference, index)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}

// archive is an OCI image layout in a tar file. The additional manifest.json is
// for versions of Docker that do not know the layout. It can hold images of one
// platform only, and gets that of this machine.
type archive struct {
	tar     *tar.Writer
	written map[v1.Hash]bool
}

func (a *archive) write(reference name.Tag, index v1.ImageIndex) error {
	list, err := index.IndexManifest()
	if err != nil {
		return err
	}
	docker := map[string]tarball.Descriptor{}
	for _, d := range list.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		described, err := a.image(image)
		if err != nil {
			return err
		}
		described.RepoTags = []string{fullName(reference)}
		docker[d.Platform.Architecture] = described
	}
	top, err := a.top(index, list)
	if err != nil {
		return err
	}
	// containerd names the image by the full name; the specification wants the
	// tag there.
	top.Annotations = map[string]string{
		"io.containerd.image.name":          fullName(reference),
		"org.opencontainers.image.ref.name": reference.TagStr(),
	}
	described, ok := docker[runtime.GOARCH]
	if !ok {
		described = docker[list.Manifests[0].Platform.Architecture]
	}
	for _, document := range []struct {
		name    string
		content any
	}{
		{"index.json", v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*top}}},
		{"manifest.json", tarball.Manifest{described}},
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
	} {
		content, err := json.Marshal(document.content)
		if err != nil {
			return err
		}
		if err := a.put(document.name, content); err != nil {
			return err
		}
	}
	return a.tar.Close()
}

// top describes what the layout's index.json points to: the only image, or the
// index of several.
func (a *archive) top(index v1.ImageIndex, list *v1.IndexManifest) (*v1.Descriptor, error) {
	if len(list.Manifests) == 1 {
		return list.Manifests[0].DeepCopy(), nil
	}
	content, err := index.RawManifest()
	if err != nil {
		return nil, err
	}
	digest, err := index.Digest()
	if err != nil {
		return nil, err
	}
	return &v1.Descriptor{MediaType: types.OCIImageIndex, Digest: digest, Size: int64(len(content))}, a.blob(digest, content)
}

// image writes an image's blobs and describes it in the form of docker save.
func (a *archive) image(image v1.Image) (described tarball.Descriptor, err error) {
	layers, err := image.Layers()
	if err != nil {
		return described, err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return described, err
		}
		r, err := layer.Compressed()
		if err != nil {
			return described, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return described, err
		}
		if err := a.blob(digest, content); err != nil {
			return described, err
		}
		described.Layers = append(described.Layers, blobPath(digest))
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return described, err
	}
	configDigest, err := image.ConfigName()
	if err != nil {
		return described, err
	}
	described.Config = blobPath(configDigest)
	manifest, err := image.RawManifest()
	if err != nil {
		return described, err
	}
	manifestDigest, err := image.Digest()
	if err != nil {
		return described, err
	}
	if err := a.blob(configDigest, config); err != nil {
		return described, err
	}
	return described, a.blob(manifestDigest, manifest)
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

func (a *archive) blob(digest v1.Hash, content []byte) error {
	if a.written[digest] {
		return nil
	}
	a.written[digest] = true
	return a.put(blobPath(digest), content)
}

func (a *archive) put(path string, content []byte) error {
	header := &tar.Header{Name: path, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := a.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := a.tar.Write(content)
	return err
}

// fullName returns the name by which a kubelet looks for an image. It includes
// the registry, which for Docker's is not the same as its address.
func fullName(reference name.Tag) string {
	full := reference.Name()
	if hub, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
		return "docker.io/" + hub
	}
	return full
}
