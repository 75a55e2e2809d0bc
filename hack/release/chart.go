// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"
)

// The media types by which Helm finds a chart in a registry.
const (
	chartConfig types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	chartLayer  types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// imageDigest is the annotation of Chart.yaml with the digest of the release's image.
const imageDigest = "m2m-operator.io/image-digest"

// chart is the packaged chart.
type chart struct {
	content  []byte
	metadata []byte // Chart.yaml as JSON, as Helm stores it in a registry
}

// chartVersion returns the version of the chart: Helm's have no v.
func chartVersion(version string) string { return strings.TrimPrefix(version, "v") }

// packChart packages the chart with the release's versions and image.
func (r *release) packChart(digest string) (chart, error) {
	dir := filepath.Join(r.root, "charts", "m2m-operator")
	var files []file
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == ".helmignore" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, file{name: "m2m-operator/" + filepath.ToSlash(name), content: content})
		return err
	})
	if err != nil {
		return chart{}, err
	}
	var c chart
	for i := range files {
		switch files[i].name {
		case "m2m-operator/Chart.yaml":
			if files[i].content, err = r.released(files[i].content, digest); err != nil {
				return c, fmt.Errorf("chart: Chart.yaml: %w", err)
			}
			if c.metadata, err = yaml.YAMLToJSON(files[i].content); err != nil {
				return c, fmt.Errorf("chart: Chart.yaml: %w", err)
			}
		case "m2m-operator/values.yaml":
			if files[i].content, err = replaceLine(files[i].content, "  repository: ", r.image()); err != nil {
				return c, fmt.Errorf("chart: values.yaml: %w", err)
			}
		}
	}
	files = append(files, file{name: "m2m-operator/LICENSE", content: r.licence})
	c.content, err = tgz(files, r.commit.at)
	return c, err
}

// released returns a Chart.yaml with the release's versions and its image's digest.
func (r *release) released(metadata []byte, digest string) ([]byte, error) {
	metadata, err := replaceLine(metadata, "version: ", chartVersion(r.version))
	if err != nil {
		return nil, err
	}
	if metadata, err = replaceLine(metadata, "appVersion: ", r.version); err != nil {
		return nil, err
	}
	return replaceLine(metadata, "  "+imageDigest+": ", digest)
}

// replaceLine replaces what follows a prefix, which exactly one line has.
func replaceLine(text []byte, prefix, value string) ([]byte, error) {
	line := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(prefix) + ".*$")
	if n := len(line.FindAll(text, -1)); n != 1 {
		return nil, fmt.Errorf("%d lines begin with %q, and not one", n, prefix)
	}
	return line.ReplaceAllLiteral(text, []byte(prefix+value)), nil
}

// layout returns the chart as an OCI image layout in an archive, and its digest.
func (c chart) layout(r *release) (archive []byte, digest v1.Hash, err error) {
	var described struct {
		Description string `json:"description"`
	}
	if err := json.Unmarshal(c.metadata, &described); err != nil {
		return nil, digest, err
	}
	config, layer := blob(chartConfig, c.metadata), blob(chartLayer, c.content)
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer},
		Annotations: map[string]string{
			"org.opencontainers.image.title":       "m2m-operator",
			"org.opencontainers.image.description": described.Description,
			"org.opencontainers.image.version":     chartVersion(r.version),
			"org.opencontainers.image.revision":    r.commit.hash,
			"org.opencontainers.image.source":      "https://" + module,
			"org.opencontainers.image.created":     r.commit.at.Format("2006-01-02T15:04:05Z"),
		},
	})
	if err != nil {
		return nil, digest, err
	}
	top := blob(types.OCIManifestSchema1, manifest)
	top.Annotations = map[string]string{"org.opencontainers.image.ref.name": chartVersion(r.version)}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{top}})
	if err != nil {
		return nil, digest, err
	}
	archive, err = tarball([]file{
		{name: "oci-layout", content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", content: index},
		{name: "blobs/sha256/" + config.Digest.Hex, content: c.metadata},
		{name: "blobs/sha256/" + layer.Digest.Hex, content: c.content},
		{name: "blobs/sha256/" + top.Digest.Hex, content: manifest},
	}, r.commit.at)
	return archive, top.Digest, err
}

// blob describes content.
func blob(mediaType types.MediaType, content []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Size: int64(len(content)), Digest: v1.Hash{Algorithm: "sha256", Hex: hexOf(content)}}
}

// hexOf returns the SHA-256 of content.
func hexOf(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }
