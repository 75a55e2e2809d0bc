// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// inside looks around in the container.
func inside() wire.Inside {
	seen := wire.Inside{UID: os.Getuid(), GID: os.Getgid(), Env: map[string]string{}}
	for _, variable := range os.Environ() {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "M2M_") {
			seen.Env[name] = value
		}
	}
	for _, variable := range []string{v1alpha1.TokenDirVariable, v1alpha1.VerifyDirVariable} {
		if dir, ok := seen.Env[variable]; ok {
			seen.Files = append(seen.Files, files(dir)...)
		}
	}
	_, err := os.Stat(serviceAccountToken)
	seen.ServiceAccountToken = err == nil
	return seen
}

// files lists what is mounted below a directory, by the names that a program uses.
func files(dir string) (all []wire.File) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			all = append(all, wire.File{Path: path, Error: err.Error()})
			return nil
		}
		if strings.HasPrefix(entry.Name(), "..") { // the kubelet's own
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path) // through the link
		if err != nil {
			all = append(all, wire.File{Path: path, Error: err.Error()})
			return nil
		}
		if info.IsDir() {
			return nil
		}
		file := wire.File{Path: path, Mode: info.Mode().String()}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			file.UID, file.GID = owner.Uid, owner.Gid
		}
		if _, err := os.ReadFile(path); err != nil {
			file.Error = err.Error()
		}
		all = append(all, file)
		return nil
	})
	return all
}
