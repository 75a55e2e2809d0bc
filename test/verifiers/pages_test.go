// SPDX-License-Identifier: Apache-2.0

package verifiers

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

const pages = "../../docs/verifying"

// program is the code of a page of docs/verifying.
type program struct {
	page     string
	variants []string   // the libraries of which the page lets choose one
	needs    []string   // programs
	probe    []string   // a command that fails if a library is not installed
	prepare  [][]string // commands that build it
	start    []string   // the command that starts it
	signs    []string
	// oneKeyPerID are the variants that know only one key of an id.
	oneKeyPerID []string
}

// programs are what the pages show, each with each of its libraries.
func programs() (list []verifier) {
	all := []string{"rs256", "ps256", "es256", "es384", "eddsa"}
	for _, p := range []program{
		{page: "go", variants: []string{"go-oidc", "golang-jwt", "jwx"}, needs: []string{"go"}, signs: all, oneKeyPerID: []string{"golang-jwt"},
			prepare: [][]string{{"go", "build", "-o", "payment", "."}}, start: []string{"./payment"}},
		{page: "nodejs", variants: []string{""}, needs: []string{"node", "npm"}, signs: all,
			prepare: [][]string{{"npm", "ci", "--no-audit", "--no-fund"}}, start: []string{"node", "server.mjs"}},
		{page: "python", variants: []string{"PyJWT", "joserfc"}, needs: []string{"python3"}, signs: all, probe: []string{"python3", "-m", "pip", "--version"},
			prepare: [][]string{{"python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target=.", "--requirement=requirements.txt"}},
			start:   []string{"python3", "server.py"}},
		{page: "java", variants: []string{"Nimbus", "Spring"}, needs: []string{"java", "javac", "mvn"}, signs: all[:4],
			prepare: [][]string{{"mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"},
				{"javac", "-cp", "lib/*", "-d", "classes", "src/Bundle.java", "src/Checks.java", "src/Server.java"}},
			start: []string{"java", "-cp", "classes:lib/*", "Server"}},
		{page: "ruby", variants: []string{""}, needs: []string{"ruby"}, probe: []string{"ruby", "-rjwt", "-rwebrick", "-e", ""},
			signs: all[:4], start: []string{"ruby", "server.rb"}},
		{page: "perl", variants: []string{""}, needs: []string{"plackup"}, probe: []string{"perl", "-MCrypt::JWT", "-e", "1"},
			signs: all, start: []string{"sh", "-c", `exec plackup --env deployment --host 127.0.0.1 --port "$PORT" app.psgi`}},
		{page: "php", variants: []string{""}, needs: []string{"php"}, probe: []string{"php", "-r", "require 'phpseclib3/autoload.php';"},
			signs: all, start: []string{"sh", "-c", `exec php -S "127.0.0.1:$PORT" payments.php`}},
		{page: "rust", variants: []string{""}, needs: []string{"cargo"}, signs: all,
			prepare: [][]string{{"cargo", "build", "--quiet", "--locked"}}, start: []string{"cargo", "run", "--quiet", "--locked"}},
	} {
		for _, variant := range p.variants {
			name := p.page
			if variant != "" {
				name += "-" + variant
			}
			list = append(list, verifier{
				name: name, needs: p.needs, probe: p.probe, signs: p.signs,
				start: func(t *testing.T, _ verifier, dir, _ string) (string, *os.Process) {
					return startProgram(t, p, variant, dir)
				},
				can: capabilities{lists: true, types: true, sameIDs: !slices.Contains(p.oneKeyPerID, variant)},
			})
		}
	}
	return list
}

// codeBlock is a block of code that a page gives the name of a file, perhaps with the library that it is for.
var codeBlock = regexp.MustCompile("(?ms)^<!-- file: (\\S+?)(?: \\(([^)]+)\\))? -->\n```[a-z]*\n(.*?)^```$")

// filesOf returns the files that a page shows.
func filesOf(t *testing.T, page, variant string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(pages, page+".md"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, m := range codeBlock.FindAllStringSubmatch(string(text), -1) {
		if m[2] == "" || m[2] == variant {
			files[m[1]] = m[3]
		}
	}
	if len(files) < 2 {
		t.Fatalf("the page %s shows %d files", page, len(files))
	}
	return files
}

// startProgram builds and starts what a page shows.
func startProgram(t *testing.T, p program, variant, dir string) (address string, process *os.Process) {
	t.Helper()
	home := t.TempDir()
	if len(p.prepare) > 0 {
		if err := os.CopyFS(home, os.DirFS(filepath.Join("testdata", p.page))); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range filesOf(t, p.page, variant) {
		if err := os.MkdirAll(filepath.Join(home, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, home, map[string]string{name: content})
	}
	env := append(os.Environ(), builds(t)...)
	for _, command := range p.prepare {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Dir, cmd.Env = home, env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}
	address = ports.Free(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.start[0], p.start[1:]...)
	cmd.Dir, cmd.Env = home, append(env, "PORT="+port, "M2M_VERIFY_DIR="+filepath.Dir(dir))
	return address, run(t, address, cmd)
}

// builds returns where compilers keep what does not change from run to run.
func builds(t *testing.T) []string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"CARGO_TARGET_DIR=" + filepath.Join(cache, "m2m-operator", "verifiers", "rust")}
}
