// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// write makes a file with content and returns its path.
func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// makeArchive runs the command with -o and returns the archive.
func makeArchive(t *testing.T, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "deeper", "image.tar")
	if err := run(t.Context(), append(args, "-o", out), io.Discard); err != nil {
		t.Fatal(err)
	}
	return out
}

// unpack returns the archive's OCI layout.
func unpack(t *testing.T, archive string) v1.ImageIndex {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, filepath.FromSlash(header.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// contents lists the files of an image.
func contents(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	if err := validate.Image(image); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	all := mutate.Extract(image)
	defer all.Close()
	for r := tar.NewReader(all); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = fmt.Sprintf("%o %d:%d %d %s", header.Mode, header.Uid, header.Gid, header.ModTime.Unix(), content)
	}
}

func TestTheImageIsWhatTheFlagsSay(t *testing.T) {
	archive := makeArchive(t, "-tag", "example.com/team/cart:1.2", "-platform", "linux/arm64", "-created", "1700000000",
		"-label", "org.opencontainers.image.title=cart", "-file", write(t, "the program")+"=/cart", "-file", write(t, "another")+"=/usr/bin/other")
	// What docker load reads.
	tag, err := name.NewTag("example.com/team/cart:1.2")
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"cart": "755 0:0 1700000000 the program", "usr/bin/other": "755 0:0 1700000000 another",
		"usr": "755 0:0 1700000000 ", "usr/bin": "755 0:0 1700000000 ",
	}
	if got := contents(t, image); !maps.Equal(got, want) {
		t.Errorf("the image has\n%q\nwant\n%q", got, want)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(config.OS, config.Architecture, config.Created.Unix(), config.Config.User, config.Config.Entrypoint, config.Config.Labels)
	if want := "linux arm64 1700000000 65532:65532 [/cart] map[org.opencontainers.image.title:cart]\n"; got != want {
		t.Errorf("its configuration is %s, want %s", got, want)
	}

	// What containerd reads: one image, by the same digest and its full name.
	list, err := unpack(t, archive).IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list.Manifests); n != 1 || !list.Manifests[0].MediaType.IsImage() {
		t.Fatalf("the layout has %d entries: %v", n, list.Manifests)
	}
	if got, want := list.Manifests[0].Annotations["io.containerd.image.name"], "example.com/team/cart:1.2"; got != want {
		t.Errorf("it is named %q, want %q", got, want)
	}
	of, err := unpack(t, archive).Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, of); !maps.Equal(got, want) {
		t.Errorf("the layout's image has\n%q\nwant\n%q", got, want)
	}
	manifest, err := of.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest.Annotations["org.opencontainers.image.title"]; got != "cart" {
		t.Errorf("the manifest is annotated with the title %q", got)
	}
}

func TestAKubeletFindsAShortName(t *testing.T) {
	for tag, want := range map[string]string{
		"cart": "docker.io/library/cart:latest", "team/cart:1": "docker.io/team/cart:1", "localhost:5000/cart:1": "localhost:5000/cart:1",
	} {
		reference, err := name.NewTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		if got := fullName(reference); got != want {
			t.Errorf("%s is %s, want %s", tag, got, want)
		}
	}
}

func TestSeveralPlatformsAreInOneArchive(t *testing.T) {
	archive := makeArchive(t, "-tag", "hello:1", "-platform", "linux/amd64,linux/arm64", "-build", "./testdata/hello=/hello")
	layoutIndex := unpack(t, archive)
	list, err := layoutIndex.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := layoutIndex.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	images, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range images.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		program, err := elf.NewFile(strings.NewReader(strings.SplitN(contents(t, image)["hello"], " ", 4)[3]))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, _ := program.ImportedLibraries(); len(libraries) > 0 || program.Section(".interp") != nil {
			t.Errorf("%s: the program is not static: %v", d.Platform, libraries)
		}
		got = append(got, d.Platform.String()+" "+program.Machine.String())
	}
	if want := []string{"linux/amd64 EM_X86_64", "linux/arm64 EM_AARCH64"}; !slices.Equal(got, want) {
		t.Errorf("the index has %q, want %q", got, want)
	}
	// Docker's older reader finds one of them.
	if _, err := tarball.ImageFromPath(archive, nil); err != nil {
		t.Error(err)
	}
}

func TestTheSameInputMakesTheSameBytes(t *testing.T) {
	archive := func() []byte {
		content, err := os.ReadFile(makeArchive(t, "-tag", "hello:1", "-platform", "linux/amd64,linux/arm64",
			"-label", "a=1", "-label", "b=2", "-label", "c=3", "-build", "./testdata/hello=/hello"))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	if !bytes.Equal(archive(), archive()) {
		t.Error("two archives of the same differ")
	}
}

// TestPush sends an image to a registry that asks for the password left by
// docker login, and fetches it back from there.
func TestPush(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "sesame" {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	args := []string{"-tag", host + "/hello:1", "-push", "-platform", "linux/amd64,linux/arm64",
		"-file", "linux/amd64:" + write(t, "for amd64") + "=/hello", "-file", "linux/arm64:" + write(t, "for arm64") + "=/hello"}

	t.Setenv("DOCKER_CONFIG", t.TempDir())
	if err := run(t.Context(), args, io.Discard); err == nil {
		t.Error("the registry took it without a password")
	}

	config, err := json.Marshal(map[string]any{"auths": map[string]any{
		host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("me:sesame"))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if err := run(t.Context(), args, &said); err != nil {
		t.Fatal(err)
	}
	pulled := httptest.NewServer(inner)
	defer pulled.Close()
	reference, err := name.NewTag(strings.TrimPrefix(pulled.URL, "http://") + "/hello:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		image, err := remote.Image(reference, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(t, image)["hello"]; !strings.HasSuffix(got, "for "+arch) {
			t.Errorf("for %s the registry has %q", arch, got)
		}
	}
	index, err := remote.Index(reference)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("pushed %s/hello:1@%s\n", host, digest); said.String() != want {
		t.Errorf("it said %q, want %q", said.String(), want)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	file := write(t, "program") + "=/program"
	tests := map[string]struct {
		args []string
		want string
	}{
		"no name":                        {[]string{"-file", file, "-o", "x"}, "-tag"},
		"a name with a capital":          {[]string{"-tag", "Cart", "-file", file, "-o", "x"}, "-tag"},
		"no program":                     {[]string{"-tag", "cart", "-o", "x"}, "nothing to put in"},
		"no destination":                 {[]string{"-tag", "cart", "-file", file}, "nowhere to put it"},
		"half a platform":                {[]string{"-tag", "cart", "-file", file, "-o", "x", "-platform", "linux"}, `"linux" is none`},
		"a path that is relative":        {[]string{"-tag", "cart", "-file", "a=b", "-o", "x"}, "SOURCE=/PATH"},
		"a path that climbs":             {[]string{"-tag", "cart", "-file", "a=/../b", "-o", "x"}, "SOURCE=/PATH"},
		"a label without a value":        {[]string{"-tag", "cart", "-file", file, "-o", "x", "-label", "a"}, "KEY=VALUE"},
		"an argument too many":           {[]string{"-tag", "cart", "-file", file, "-o", "x", "y"}, `"y"`},
		"a file that is not there":       {[]string{"-tag", "cart", "-file", "/nowhere=/a", "-o", "x"}, "/nowhere"},
		"a package that does not exist":  {[]string{"-tag", "cart", "-build", "./nowhere=/a", "-o", "x"}, "./nowhere"},
		"a platform without its program": {[]string{"-tag", "cart", "-file", "linux/arm64:" + file, "-o", "x"}, "linux/amd64: there is no program"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			err := run(t.Context(), tc.args, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that contains %q", err, tc.want)
			}
			if left, _ := os.ReadDir("."); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}
