// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// registry is where releases are pushed to.
const registry = "ghcr.io/m2m-operator"

// release is a release that is being built.
type release struct {
	root     string // the repository
	version  string
	commit   commit
	registry string
	// goVersion is that of the compiler, such as go1.26.5.
	goVersion string
	licence   []byte
	only      string // the platform to try it for; empty: all
	work      string // a temporary directory
	out       string // the directory of the files
}

// build makes all files of a release. The directory exists as a whole or not at all.
func build(ctx context.Context, o options, stdout io.Writer) (err error) {
	r, notes, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "release-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	if r.out, err = beside(o.directory()); err != nil {
		return err
	}
	defer os.RemoveAll(r.out)
	if err := r.makeAll(ctx, notes); err != nil {
		return err
	}
	if err := replace(o.directory(), r.out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s of commit %s is in %s\n", r.version, r.commit.hash, o.directory())
	return err
}

// directory returns where the files of the release go.
func (o options) directory() string {
	if o.out == "" {
		return filepath.Join("dist", o.version)
	}
	return o.out
}

// beside makes a temporary directory that can be renamed to another.
func beside(dir string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(filepath.Dir(dir), ".release-")
}

// replace makes a temporary directory the one of the release.
func replace(dir, made string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return errors.Join(os.Chmod(made, 0o755), os.Rename(made, dir))
}

// prepare checks everything that can be wrong before anything is built.
func prepare(ctx context.Context, o options) (*release, []byte, error) {
	if err := validVersion(o.version); err != nil {
		return nil, nil, err
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	if o.only != "" && !o.allowUntagged {
		return nil, nil, errors.New("a release is for all platforms: say ONLY together with ALLOW_UNTAGGED=1, to try it")
	}
	r := &release{root: root, version: o.version, registry: o.registry, only: o.only}
	if r.commit, err = checkout(ctx, root, o.version, o.allowUntagged); err != nil {
		return nil, nil, err
	}
	if !o.allowUntagged {
		if err := upgradable(ctx, root, o.version); err != nil {
			return nil, nil, err
		}
	}
	changelog, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return nil, nil, err
	}
	notes, err := section(changelog, o.version)
	if err != nil && o.allowUntagged {
		notes, err = section(changelog, unreleased)
	}
	if err != nil {
		return nil, nil, err
	}
	if r.licence, err = os.ReadFile(filepath.Join(root, "LICENSE")); err != nil {
		return nil, nil, err
	}
	goVersion, err := command(ctx, root, "go", "env", "GOVERSION")
	r.goVersion = strings.TrimSpace(string(goVersion))
	return r, notes, err
}

// makeAll writes all files.
func (r *release) makeAll(ctx context.Context, notes []byte) error {
	managers, err := r.programs(ctx, "./cmd", imagePlatforms)
	if err != nil {
		return err
	}
	plugins, err := r.programs(ctx, "./cmd/kubectl-m2m", pluginPlatforms)
	if err != nil {
		return err
	}
	programs := slices.Concat(managers, plugins)
	licences, err := r.licences(ctx, programs)
	if err != nil {
		return err
	}
	subjects, err := r.installation(ctx, managers)
	if err != nil {
		return err
	}
	if err := r.plugins(plugins, licences); err != nil {
		return err
	}
	if err := errors.Join(r.write("THIRD_PARTY_LICENSES.txt", licences), r.write("release-notes.md", notes)); err != nil {
		return err
	}
	sums, err := r.sums()
	if err != nil {
		return err
	}
	for _, s := range sums {
		subjects = append(subjects, resource{Name: s.name, Digest: map[string]string{"sha256": s.sum}})
	}
	statement, err := r.provenance(subjects, programs)
	if err != nil {
		return err
	}
	if err := r.write("provenance.json", statement); err != nil {
		return err
	}
	return r.checksums()
}

// programs compiles a package for several platforms.
func (r *release) programs(ctx context.Context, pkg string, platforms []platform) (all []program, err error) {
	for _, p := range platforms {
		if r.only != "" && r.only != p.String() {
			continue
		}
		built, err := r.compile(ctx, pkg, p, r.pathIn(filepath.Base(pkg)+"-"+p.os+"-"+p.arch))
		if err != nil {
			return nil, err
		}
		all = append(all, built)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("nothing is built for %s: choose one of %v", r.only, platforms)
	}
	return all, nil
}

// installation writes the image, the chart, the manifests, and what describes them. It
// returns what is pushed to a registry.
func (r *release) installation(ctx context.Context, managers []program) ([]resource, error) {
	top, images, err := r.makeImage(ctx, managers, filepath.Join(r.out, r.imageArchive()))
	if err != nil {
		return nil, err
	}
	for i, image := range images {
		p := managers[i]
		name := fmt.Sprintf("m2m-operator-%s-%s-%s-image.spdx.json", r.version, p.os, p.arch)
		document, err := r.sbom(name, artifact{
			name: r.image() + "@" + image.Digest.String(), sha256: image.Digest.Hex, purpose: "CONTAINER",
			purl: "pkg:oci/m2m-operator@sha256%3A" + image.Digest.Hex + "?repository_url=" + r.image() + "&arch=" + p.arch + "&tag=" + r.version,
		}, p.info)
		if err != nil {
			return nil, err
		}
		if err := r.write(name, document); err != nil {
			return nil, err
		}
	}
	chart, err := r.packChart(top.Digest.String())
	if err != nil {
		return nil, err
	}
	layout, chartDigest, err := chart.layout(r)
	if err != nil {
		return nil, err
	}
	manifests, err := r.manifests(ctx, r.reference(top.Digest))
	if err != nil {
		return nil, err
	}
	err = errors.Join(r.write("m2m-operator-"+chartVersion(r.version)+".tgz", chart.content), r.write(r.chartArchive(), layout), r.write("install.yaml", manifests))
	return []resource{
		{Name: r.image(), Digest: map[string]string{"sha256": top.Digest.Hex}},
		{Name: r.chartName(), Digest: map[string]string{"sha256": chartDigest.Hex}},
	}, err
}

func (r *release) imageArchive() string { return "m2m-operator-" + r.version + "-image.tar" }
func (r *release) chartArchive() string { return "m2m-operator-" + r.version + "-chart.tar" }

// chartName returns the name of the chart in the registry.
func (r *release) chartName() string { return r.registry + "/charts/m2m-operator" }

// manifests returns what kubectl installs.
func (r *release) manifests(ctx context.Context, image string) ([]byte, error) {
	built, err := command(ctx, r.root, filepath.Join("hack", "tool.sh"), "kustomize", "build", "config/default")
	if err != nil {
		return nil, err
	}
	const placeholder = "image: controller:latest\n"
	if !bytes.Contains(built, []byte(placeholder)) {
		return nil, fmt.Errorf("config/default has no line %q", strings.TrimSpace(placeholder))
	}
	built = bytes.ReplaceAll(built, []byte(placeholder), []byte("image: "+image+"\n"))
	return append([]byte("# SPDX-License-Identifier: Apache-2.0\n# m2m-operator "+r.version+": kubectl apply --server-side -f install.yaml\n"), built...), nil
}

// plugins writes the plugin's archives, and what describes them.
func (r *release) plugins(programs []program, licences []byte) error {
	var all []plugin
	for _, p := range programs {
		content, err := os.ReadFile(p.path)
		if err != nil {
			return err
		}
		files := []file{
			{name: executable(p.platform), content: content, program: true},
			{name: "LICENSE", content: r.licence}, {name: "THIRD_PARTY_LICENSES.txt", content: licences},
		}
		name := fmt.Sprintf("kubectl-m2m-%s-%s-%s", r.version, p.os, p.arch)
		pack, extension := tgz, ".tar.gz"
		if p.os == "windows" {
			pack, extension = zipped, ".zip"
		}
		archive, err := pack(files, r.commit.at)
		if err != nil {
			return err
		}
		packed := plugin{p, name + extension, hexOf(archive)}
		all = append(all, packed)
		document, err := r.sbom(name+".spdx.json", artifact{
			name: packed.file, sha256: packed.sha256, purpose: "ARCHIVE",
			purl: "pkg:generic/kubectl-m2m@" + r.version + "?download_url=" + r.download(packed.file),
		}, p.info)
		if err != nil {
			return err
		}
		if err := errors.Join(r.write(packed.file, archive), r.write(name+".spdx.json", document)); err != nil {
			return err
		}
	}
	manifest, err := r.krew(all)
	if err != nil {
		return err
	}
	return r.write("m2m.yaml", manifest)
}

func (r *release) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), content, 0o644)
}

// sum is the SHA-256 of a file.
type sum struct{ name, sum string }

// sums returns the checksums of all files so far.
func (r *release) sums() ([]sum, error) { return sumsIn(r.out) }

func sumsIn(dir string) (all []sum, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		all = append(all, sum{path, hexOf(content)})
		return err
	})
	return all, err
}

// checksumsFile is the file with the checksums of all others.
const checksumsFile = "checksums.txt"

// checksums writes the checksums of all other files, as sha256sum --check reads them.
func (r *release) checksums() error {
	sums, err := r.sums()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, s := range sums {
		fmt.Fprintf(&b, "%s  %s\n", s.sum, s.name)
	}
	return r.write(checksumsFile, b.Bytes())
}
