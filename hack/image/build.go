// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// program is a file of the image.
type program struct {
	source   string // a Go package or a file
	build    bool
	platform string // the only platform that it is for; empty: all
	target   string // its path in the image
}

// spec says what an image consists of.
type spec struct {
	programs []program
	user     string
	created  time.Time
	labels   map[string]string
}

// add reads [PLATFORM:]SOURCE=/PATH.
func (s *spec) add(arg string, build bool) error {
	source, target, ok := strings.Cut(arg, "=")
	p := program{source: source, build: build, target: target}
	if platform, file, ok := strings.Cut(source, ":"); ok && !build {
		p.platform, p.source = platform, file
	}
	if !ok || p.source == "" || target == "/" || !path.IsAbs(target) || path.Clean(target) != target {
		return errors.New("want SOURCE=/PATH")
	}
	s.programs = append(s.programs, p)
	return nil
}

// index makes an image for each platform, and the index of all of them.
func (s *spec) index(ctx context.Context, platforms []v1.Platform) (v1.ImageIndex, error) {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range platforms {
		image, err := s.image(ctx, dir, platform)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return mutate.Annotations(index, s.labels).(v1.ImageIndex), nil
}

func (s *spec) image(ctx context.Context, dir string, platform v1.Platform) (v1.Image, error) {
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	folders := map[string]bool{}
	var entrypoint string
	for _, p := range s.programs {
		if p.platform != "" && p.platform != platform.String() {
			continue
		}
		file := p.source
		if p.build {
			file = filepath.Join(dir, "program")
			if err := compile(ctx, p.source, platform, file); err != nil {
				return nil, err
			}
		}
		if err := s.put(w, folders, file, p.target); err != nil {
			return nil, err
		}
		if entrypoint == "" {
			entrypoint = p.target
		}
	}
	if entrypoint == "" {
		return nil, errors.New("there is no program for it")
	}
	if err := w.Close(); err != nil {
		return nil, err
	}

	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: s.created}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(base, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: created, CreatedBy: "hack/image"},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = created
	config.Config = v1.Config{User: s.user, Entrypoint: []string{entrypoint}, WorkingDir: "/", Labels: s.labels}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(image, s.labels).(v1.Image), nil
}

// put adds a file that belongs to root and that everyone may run and nobody else
// may change, and the folders above it that do not exist yet.
func (s *spec) put(w *tar.Writer, folders map[string]bool, file, target string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	header := tar.Header{Mode: 0o755, ModTime: s.created, Format: tar.FormatUSTAR}
	for i := 1; i < len(target); i++ {
		if above := target[1 : i+1]; target[i] == '/' && !folders[above] {
			folders[above] = true
			folder := header
			folder.Typeflag, folder.Name = tar.TypeDir, above
			if err := w.WriteHeader(&folder); err != nil {
				return err
			}
		}
	}
	header.Typeflag, header.Name, header.Size = tar.TypeReg, target[1:], int64(len(content))
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}

// compile builds a static program. The commit is a label of the image: inside the
// program, it would make another program in every checkout.
func compile(ctx context.Context, pkg string, platform v1.Platform, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	if platform.Architecture == "arm" {
		cmd.Env = append(cmd.Env, "GOARM="+strings.TrimPrefix(platform.Variant, "v"))
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w", pkg, err)
	}
	return nil
}
