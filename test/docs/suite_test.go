// SPDX-License-Identifier: Apache-2.0

// Package docs holds the tests of the documentation. They compare README.md and
// docs/ with the code and, for what the API server or a condition answers, with
// a real API server and the running operator.
package docs

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

const root = "../.."

// The suite's control plane: a real kube-apiserver and etcd.
var (
	environment *envtest.Environment
	restConfig  *rest.Config
	kube        client.Client
)

func TestMain(m *testing.M) {
	logs := io.Discard
	if os.Getenv("M2M_TEST_LOG") != "" {
		logs = os.Stderr
	}
	ctrl.SetLogger(zap.New(zap.UseDevMode(true), zap.WriteTo(logs)))
	kubetest.Main(root, func(started *envtest.Environment) (code int, err error) {
		environment, restConfig = started, started.Config
		if kube, err = client.New(restConfig, client.Options{Scheme: controller.Scheme()}); err != nil {
			return 1, err
		}
		if err := installRoles(context.Background()); err != nil {
			return 1, err
		}
		return m.Run(), nil
	})
}

// page is a Markdown file of the repository.
type page struct {
	path string // from the root
	text string
}

// pages returns README.md and every page below docs/.
func pages(t *testing.T) []page {
	t.Helper()
	paths := []string{filepath.Join(root, "README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []page
	for _, path := range paths {
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page{filepath.ToSlash(name), read(t, path)})
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// row is a row of a table whose first cell is a name in backquotes.
type row struct {
	id    string
	cells []string // the others
}

var (
	rowStart = regexp.MustCompile("^\\| `([^`]+)` \\|")
	barCell  = regexp.MustCompile(`(?:[^|\\]|\\.)*`)
)

// rowsOf returns the named rows of all tables below a heading, up to the next
// heading of the same or a higher level.
func rowsOf(t *testing.T, path, heading string) []row {
	t.Helper()
	level := strings.IndexByte(heading, ' ')
	var rows []row
	inside := false
	for line := range strings.Lines(read(t, filepath.Join(root, path))) {
		line = strings.TrimRight(line, "\n")
		if n := strings.IndexByte(line, ' '); n > 0 && n <= level && strings.Trim(line[:n], "#") == "" {
			inside = line == heading
			continue
		}
		m := rowStart.FindStringSubmatch(line)
		if !inside || m == nil {
			continue
		}
		var cells []string
		for rest := line[len(m[0]):]; rest != ""; {
			cell := barCell.FindString(rest)
			cells = append(cells, strings.ReplaceAll(strings.TrimSpace(cell), `\|`, "|"))
			rest = strings.TrimPrefix(rest[len(cell):], "|")
		}
		rows = append(rows, row{m[1], cells})
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table below %q", path, heading)
	}
	return rows
}

// code returns the text between a cell's first and last backquotes.
func code(cell string) string {
	return strings.TrimSpace(strings.Trim(strings.TrimSpace(cell), "`"))
}

// sameSet fails if two lists of names differ.
func sameSet(t *testing.T, what string, documented, existing []string) {
	t.Helper()
	for _, name := range documented {
		if !slices.Contains(existing, name) {
			t.Errorf("%s %q is documented and does not exist", what, name)
		}
	}
	for _, name := range existing {
		if !slices.Contains(documented, name) {
			t.Errorf("%s %q exists and is not documented", what, name)
		}
	}
}
