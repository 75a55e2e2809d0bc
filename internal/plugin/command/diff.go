// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/draw"
	"github.com/m2m-operator/m2m-operator/internal/plugin/manifest"
)

func (p *plugin) accessDiff() *cobra.Command {
	var files []string
	var format string
	c := &cobra.Command{
		Use:   "diff -f FILE|DIR",
		Short: "Show which access would change if files were applied",
		Long: `Show which access would change if files were applied.

It compares the cluster with the cluster after the files: the operator's kinds and the
labels of Namespaces count, other objects do not. Nothing is applied. An object that the
files do not have stays. The exit code is 0 if no access would change, and 3 if some would.`,
		Example: `  kubectl m2m access diff -f manifests/
  kustomize build | kubectl m2m access diff -f -`,
		Args: func(c *cobra.Command, args []string) error {
			if len(files) == 0 {
				return usage{errors.New("name the files with -f FILE, -f DIR, or -f - for standard input")}
			}
			if err := noArguments(c, args); err != nil {
				return err
			}
			return oneOf(format, "", "json", "yaml")
		},
		RunE: func(c *cobra.Command, _ []string) error { return p.showDiff(c.Context(), files, format) },
	}
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, "A file, a directory with everything below it, or - for standard input.")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of text.")
	return c
}

func (p *plugin) showDiff(ctx context.Context, files []string, format string) error {
	ns, err := p.namespace()
	if err != nil {
		return err
	}
	var objects []client.Object
	for _, f := range files {
		found, err := p.objectsIn(f, ns)
		if err != nil {
			return err
		}
		objects = append(objects, found...)
	}
	if len(objects) == 0 {
		return errors.New("the files have no object of the operator and no Namespace")
	}
	namespaces := []string{}
	for _, o := range objects {
		if o.GetNamespace() != "" && !slices.Contains(namespaces, o.GetNamespace()) {
			namespaces = append(namespaces, o.GetNamespace())
		}
	}
	inv, missing, err := p.read(ctx, namespaces...)
	if err != nil {
		return err
	}
	d, err := decision.Compare(ctx, inv, objects, p.now())
	if err != nil {
		return err
	}
	d.Missing = each(append(d.Missing, missing...))
	if format != "" {
		err = write(p.Out, format, d)
	} else if err = draw.Diff(p.Out, d, p.style()); err == nil {
		err = draw.Uncertain(p.ErrOut, d.Missing)
	}
	if err == nil && !d.Empty() {
		err = &Exit{CodeNo}
	}
	return err
}

// objectsIn reads the objects of a file, of all files below a directory, or of standard input.
func (p *plugin) objectsIn(path, namespace string) ([]client.Object, error) {
	if path == "-" {
		b, err := io.ReadAll(p.In)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		objects, err := manifest.Parse(b, namespace)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return objects, nil
	}
	var objects []client.Object
	err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		named := file == path // on the command line
		if entry.IsDir() || !named && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(file)) {
			return nil
		}
		b, err := os.ReadFile(file) //nolint:gosec // the user names the file, to read it with the user's own rights
		if err != nil {
			return err
		}
		found, err := manifest.Parse(b, namespace)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, found...)
		return nil
	})
	return objects, err
}
