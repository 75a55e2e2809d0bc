// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// platform is an operating system and an architecture.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// The image's platforms, and the plugin's.
var (
	imagePlatforms  = []platform{{"linux", "amd64"}, {"linux", "arm64"}}
	pluginPlatforms = []platform{
		{"darwin", "amd64"}, {"darwin", "arm64"}, {"linux", "amd64"}, {"linux", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"},
	}
)

// program is a compiled program.
type program struct {
	platform
	path string
	info *debug.BuildInfo
}

// module is the module that the programs are of.
const module = "github.com/m2m-operator/m2m-operator"

// compile builds a package for a platform, into a file. The version and the commit are
// those of the release; nothing else of the checkout gets into the program.
func (r *release) compile(ctx context.Context, pkg string, p platform, path string) (program, error) {
	flags := fmt.Sprintf("-s -w -X %[1]s/internal/build.Version=%[2]s -X %[1]s/internal/build.Revision=%[3]s", module, r.version, r.commit.hash)
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags="+flags, "-o", path, pkg)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off",
		"GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return program{}, fmt.Errorf("build %s for %s: %w\n%s", pkg, p, err, out)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return program{}, fmt.Errorf("read what %s for %s was built from: %w", pkg, p, err)
	}
	return program{p, path, info}, nil
}

// licences returns the licences and notices of all modules that programs are built from,
// and Go's own. Each text occurs once, after the names of all files that have it.
func (r *release) licences(ctx context.Context, programs []program) ([]byte, error) {
	out, err := command(ctx, r.root, "go", "list", "-m", "-f", "{{.Path}} {{.Version}} {{.Dir}}", "all")
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 {
			dirs[f[0]+"@"+f[1]] = f[2]
		}
	}
	goroot, err := command(ctx, r.root, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	texts := newTexts()
	if err := texts.add("Go "+r.goVersion, strings.TrimSpace(string(goroot)), false); err != nil {
		return nil, err
	}
	for _, name := range modules(programs) {
		dir, ok := dirs[name]
		if !ok {
			return nil, fmt.Errorf("go list does not know where module %s is", name)
		}
		if err := texts.add(name, dir, true); err != nil {
			return nil, err
		}
	}
	return texts.bytes(), nil
}

// pathIn returns a path in the release's temporary directory.
func (r *release) pathIn(names ...string) string {
	return filepath.Join(append([]string{r.work}, names...)...)
}
