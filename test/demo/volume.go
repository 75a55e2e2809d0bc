// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// dataLink is the link in a mounted volume that points to the directory with
// the present files.
const dataLink = "..data"

// showFiles replaces the content of a directory with the files the way a
// kubelet does for a Secret or ConfigMap volume: it writes them into a fresh
// directory beside the link ..data and moves the link in one step; each name is
// a link through it. A reader sees all of the old files or all of the new ones.
// If the files are there already, it does nothing.
func showFiles(dir string, files map[string][]byte) error {
	link := filepath.Join(dir, dataLink)
	previous, err := os.Readlink(link)
	if err == nil {
		if same, err := holds(filepath.Join(dir, previous), files); err != nil || same {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(dir, "..")
	if err != nil {
		return err
	}
	for name, content := range files {
		if filepath.Base(name) != name || strings.HasPrefix(name, "..") {
			return fmt.Errorf("%q is not the name of a file", name)
		}
		if err := os.WriteFile(filepath.Join(fresh, name), content, 0o600); err != nil {
			return err
		}
	}

	moving := link + "_tmp"
	if err := os.Symlink(filepath.Base(fresh), moving); err != nil {
		return err
	}
	if err := os.Rename(moving, link); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !os.IsExist(err) {
			return err
		}
	}
	return tidy(dir, previous, files)
}

// tidy removes the links of files that are gone, and the previous directory.
func tidy(dir, previous string, files map[string][]byte) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, there := files[e.Name()]; !there && !strings.HasPrefix(e.Name(), "..") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if previous == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(dir, previous))
}

// holds reports whether a directory consists of exactly these files.
func holds(dir string, files map[string][]byte) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(files) {
		return false, err
	}
	for name, content := range files {
		there, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if string(there) != string(content) {
			return false, nil
		}
	}
	return true, nil
}
