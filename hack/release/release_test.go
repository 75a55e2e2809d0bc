// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	containers "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	spdxjson "github.com/spdx/tools-golang/json"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"
)

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// a returns a release of this repository, whatever its commit.
func a(t *testing.T) *release {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return &release{
		root: root, version: "v0.1.0", commit: commit{strings.Repeat("c0", 20), at}, registry: "registry.example.com/m2m",
		goVersion: "go1.26.5", licence: []byte("a licence"), work: t.TempDir(), out: t.TempDir(),
	}
}

// this is the program under test, compiled as a release compiles programs.
var this = sync.OnceValues(func() (program, error) {
	dir, err := os.MkdirTemp("", "release-test-")
	if err != nil {
		return program{}, err
	}
	defer os.RemoveAll(dir) // what it was built from is in memory
	r := &release{root: ".", version: "v0.1.0", commit: commit{"c0ffee", at}}
	return r.compile(context.Background(), ".", platform{"linux", "amd64"}, filepath.Join(dir, "release"))
})

func compiled(t *testing.T) program {
	t.Helper()
	p, err := this()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheSBOMListsEveryModule(t *testing.T) {
	r, p := a(t), compiled(t)
	content, err := r.sbom("x.spdx.json", artifact{name: "x.tar.gz", sha256: digest[7:], purpose: "ARCHIVE", purl: "pkg:generic/x"}, p.info)
	if err != nil {
		t.Fatal(err)
	}
	document, err := spdxjson.Read(strings.NewReader(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	want = append(want, "x.tar.gz@v0.1.0", module+"/hack/release@v0.1.0", "stdlib@1.26.5")
	for _, m := range p.info.Deps {
		want = append(want, m.Path+"@"+m.Version)
	}
	if len(want) < 10 {
		t.Fatalf("there are only %d modules to list", len(want))
	}
	ids := map[string]bool{"DOCUMENT": true}
	for _, pack := range document.Packages {
		got = append(got, pack.PackageName+"@"+pack.PackageVersion)
		ids[string(pack.PackageSPDXIdentifier)] = true
		if len(pack.PackageExternalReferences) != 1 || !strings.HasPrefix(pack.PackageExternalReferences[0].Locator, "pkg:") {
			t.Errorf("%s has no package URL", pack.PackageName)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	kinds := map[string]int{}
	for _, r := range document.Relationships {
		kinds[r.Relationship]++
		if !ids[string(r.RefA.ElementRefID)] || !ids[string(r.RefB.ElementRefID)] {
			t.Errorf("%v names what is not there", r)
		}
	}
	if diff := cmp.Diff(map[string]int{"DESCRIBES": 1, "CONTAINS": 1, "DEPENDS_ON": len(want) - 2}, kinds); diff != "" {
		t.Error(diff)
	}
	if document.SPDXVersion != "SPDX-2.3" || document.CreationInfo.Created != "2026-11-29T17:00:00Z" {
		t.Errorf("it is %s of %s", document.SPDXVersion, document.CreationInfo.Created)
	}
}

func TestTheProvenanceIsInTotosAndSLSAs(t *testing.T) {
	p := compiled(t)
	content, err := a(t).provenance([]resource{{Name: "x", Digest: map[string]string{"sha256": digest[7:]}}}, []program{p, p})
	if err != nil {
		t.Fatal(err)
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(content, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := json.Marshal(s.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	var provenance slsa.Provenance
	if err := protojson.Unmarshal(predicate, &provenance); err != nil {
		t.Fatal(err)
	}
	if err := provenance.Validate(); err != nil {
		t.Error(err)
	}
	from := provenance.BuildDefinition.ResolvedDependencies
	if len(from) != len(p.info.Deps)+1 || from[0].Digest["gitCommit"] != a(t).commit.hash {
		t.Errorf("it names %d sources, the first is %v", len(from), from[0])
	}
}

func TestLicencesAreNotForgotten(t *testing.T) {
	r, p := a(t), compiled(t)
	r.root = "."
	content, err := r.licences(t.Context(), []program{p})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nGo go1.26.5: LICENSE\n", "Apache License", "Redistribution and use", "\ngithub.com/spdx/tools-golang@"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if err := newTexts().add("none", t.TempDir(), true); err == nil {
		t.Error("a module without a licence is no error")
	}
}

func TestKrewFindsAnArchiveForEachPlatform(t *testing.T) {
	var all []plugin
	for _, p := range pluginPlatforms {
		all = append(all, plugin{program{platform: p}, "kubectl-m2m-v0.1.0-" + p.os + "-" + p.arch + ".tar.gz", digest[7:]})
	}
	content, err := a(t).krew(all)
	if err != nil {
		t.Fatal(err)
	}
	var m krewPlugin
	if err := yaml.UnmarshalStrict(content, &m); err != nil {
		t.Fatal(err)
	}
	if m.Metadata.Name != "m2m" || m.Spec.Version != "v0.1.0" || len(m.Spec.ShortDescription) > 50 || len(m.Spec.Platforms) != 6 {
		t.Errorf("it is %+v", m)
	}
	want := krewPlatform{
		krewSelector{map[string]string{"os": "windows", "arch": "arm64"}},
		"https://github.com/m2m-operator/m2m-operator/releases/download/v0.1.0/kubectl-m2m-v0.1.0-windows-arm64.tar.gz", digest[7:], "kubectl-m2m.exe",
	}
	if diff := cmp.Diff(want, m.Spec.Platforms[5]); diff != "" {
		t.Error(diff)
	}
}

func TestTheImageIsThatOfThePrograms(t *testing.T) {
	r := a(t)
	hello := filepath.Join(r.work, "hello")
	if err := os.WriteFile(hello, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	programs := []program{{platform: imagePlatforms[0], path: hello}, {platform: imagePlatforms[1], path: hello}}
	archive := filepath.Join(r.out, r.imageArchive())
	top, images, err := r.makeImage(t.Context(), programs, archive)
	if err != nil {
		t.Fatal(err)
	}
	if !top.MediaType.IsIndex() || len(images) != 2 || images[1].Platform.Architecture != "arm64" {
		t.Errorf("the image is %v of %v", top, images)
	}
	r.registry = serve(t)
	pushed, err := pushLayout(t.Context(), archive, r.image()+":v0.1.0")
	if err != nil || pushed != top.Digest {
		t.Fatalf("pushed %s, %v, want %s", pushed, err, top.Digest)
	}
	index, err := remote.Index(reference(t, r.image()+"@"+top.Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	if list, err := index.IndexManifest(); err != nil || list.Annotations["org.opencontainers.image.version"] != "v0.1.0" {
		t.Errorf("the registry has %v, %v", list, err)
	}
}

// serve starts a registry and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(containers.New(containers.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func reference(t *testing.T, of string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(of)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// helm runs Helm without anything of the user's.
func helm(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join("..", "tool.sh"), append([]string{"helm"}, args...)...)
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_REGISTRY_CONFIG="+filepath.Join(t.TempDir(), "none"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestHelmInstallsTheReleasedImage pulls the chart from a registry, and renders it.
func TestHelmInstallsTheReleasedImage(t *testing.T) {
	r := a(t)
	c, err := r.packChart(digest)
	if err != nil {
		t.Fatal(err)
	}
	layout, chartDigest, err := c.layout(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.write(r.chartArchive(), layout); err != nil {
		t.Fatal(err)
	}
	var index v1.IndexManifest
	if err := inLayout(filepath.Join(r.out, r.chartArchive()), "index.json", &index); err != nil || index.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "0.1.0" {
		t.Errorf("the layout names %v, %v", index.Manifests, err)
	}
	registry := serve(t)
	pushed, err := pushLayout(t.Context(), filepath.Join(r.out, r.chartArchive()), registry+"/charts/m2m-operator:0.1.0")
	if err != nil || pushed != chartDigest {
		t.Fatalf("pushed %s, %v, want %s", pushed, err, chartDigest)
	}
	out := helm(t, "pull", "oci://"+registry+"/charts/m2m-operator", "--version=0.1.0", "--plain-http", "--destination="+r.work)
	if !strings.Contains(out, chartDigest.String()) {
		t.Errorf("helm pulled something else: %s", out)
	}
	archive := filepath.Join(r.work, "m2m-operator-0.1.0.tgz")
	for name, tc := range map[string]struct{ set, want string }{
		"the release":        {"replicas=1", "registry.example.com/m2m/m2m-operator:v0.1.0@" + digest},
		"a mirror of it":     {"image.repository=mirror/m2m", "mirror/m2m:v0.1.0@" + digest},
		"another tag":        {"image.tag=dev", "registry.example.com/m2m/m2m-operator:dev"},
		"another digest":     {"image.digest=sha256:" + strings.Repeat("0", 64), "registry.example.com/m2m/m2m-operator@sha256:" + strings.Repeat("0", 64)},
		"a tag and a mirror": {"image.tag=dev,image.repository=mirror/m2m", "mirror/m2m:dev"},
	} {
		t.Run(name, func(t *testing.T) {
			out := helm(t, "template", "x", archive, "--set="+tc.set)
			if want := "image: " + tc.want + "\n"; !strings.Contains(strings.ReplaceAll(out, "\"", ""), want) {
				t.Errorf("it has no %q", want)
			}
			if !strings.Contains(out, "app.kubernetes.io/version: \"v0.1.0\"") {
				t.Error("the objects have another version")
			}
		})
	}
	names := []string{}
	for _, e := range untar(t, c.content) {
		names = append(names, e.Name)
	}
	if !slices.Contains(names, "m2m-operator/LICENSE") || !slices.Contains(names, "m2m-operator/templates/NOTES.txt") || slices.ContainsFunc(names, func(s string) bool { return !strings.HasPrefix(s, "m2m-operator/") }) {
		t.Errorf("the chart has the files %q", names)
	}
}

func TestThePluginsArchives(t *testing.T) {
	r, p := a(t), compiled(t)
	p.path = filepath.Join(r.work, "plugin")
	if err := os.WriteFile(p.path, []byte("the plugin"), 0o600); err != nil {
		t.Fatal(err)
	}
	windows := p
	windows.platform = platform{"windows", "arm64"}
	if err := r.plugins([]program{p, windows}, []byte("licences of others")); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	want := []entry{
		{"LICENSE", "a licence", 0o644, at, 0}, {"THIRD_PARTY_LICENSES.txt", "licences of others", 0o644, at, 0}, {"kubectl-m2m", "the plugin", 0o755, at, 0},
	}
	if diff := cmp.Diff(want, untar(t, read("kubectl-m2m-v0.1.0-linux-amd64.tar.gz"))); diff != "" {
		t.Error(diff)
	}
	want[2].Name = "kubectl-m2m.exe"
	if diff := cmp.Diff(want, unzip(t, read("kubectl-m2m-v0.1.0-windows-arm64.zip"))); diff != "" {
		t.Error(diff)
	}
	if manifest := string(read("m2m.yaml")); !strings.Contains(manifest, hexOf(read("kubectl-m2m-v0.1.0-windows-arm64.zip"))) {
		t.Errorf("krew is not told the archive's checksum:\n%s", manifest)
	}
	if err := r.checksums(); err != nil {
		t.Fatal(err)
	}
	check := exec.Command("sha256sum", "--check", "--strict", "checksums.txt")
	check.Dir = r.out
	if out, err := check.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != 5 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTwoBuildsAreCompared(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	write := func(dir, name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same := func(want ...string) {
		t.Helper()
		if got, err := compare(one, two); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	write(one, "a", "a")
	write(two, "a", "a")
	same()
	write(one, "b", "1")
	write(two, "b", "2")
	write(two, "c", "")
	same("b", "c")
}

func TestAWrongCommandLineIsToldInOneLine(t *testing.T) {
	for want, args := range map[string][]string{
		"say what to do":                    nil,
		"there is no command \"publish\"":   {"publish"},
		"every option is a flag":            {"build", "v0.1.0"},
		"is no version such as v0.1.0":      {"build", "-version=0.1"},
		"a release is for all platforms":    {"build", "-version=v0.1.0", "-only=linux/amd64"},
		"which version?":                    {"verify"},
		"say with -from where":              {"push"},
		"holds 0 images, and not one":       {"push", "-from=" + t.TempDir()},
		"flag provided but not defined: -x": {"build", "-x"},
	} {
		if err := run(t.Context(), args, os.Stderr); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: want %q, got %v", args, want, err)
		}
	}
}
