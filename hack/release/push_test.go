// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// pushable returns a release with what is pushed, and its checksums.
func pushable(t *testing.T) (r *release, image, chart v1.Hash) {
	t.Helper()
	r = a(t)
	hello := filepath.Join(r.work, "hello")
	if err := os.WriteFile(hello, []byte("a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	top, _, err := r.makeImage(t.Context(), []program{{platform: imagePlatforms[0], path: hello}}, filepath.Join(r.out, r.imageArchive()))
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.packChart(top.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	layout, chart, err := c.layout(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.write(r.chartArchive(), layout); err != nil {
		t.Fatal(err)
	}
	if err := r.checksums(); err != nil {
		t.Fatal(err)
	}
	return r, top.Digest, chart
}

// TestTheImageAndTheChartArePushed reads the answer as a workflow does.
func TestTheImageAndTheChartArePushed(t *testing.T) {
	r, image, chart := pushable(t)
	registry := serve(t)
	var out bytes.Buffer
	if err := run(t.Context(), []string{"push", "-from=" + r.out, "-registry=" + registry}, &out); err != nil {
		t.Fatal(err)
	}
	want := "image=" + registry + "/m2m-operator\nimage-digest=" + image.String() +
		"\nchart=" + registry + "/charts/m2m-operator\nchart-digest=" + chart.String() + "\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	for name, digest := range map[string]v1.Hash{"/m2m-operator:v0.1.0": image, "/charts/m2m-operator:0.1.0": chart} {
		if found, err := remote.Head(reference(t, registry+name)); err != nil || found.Digest != digest {
			t.Errorf("the registry has %v as %s, %v, want %s", found, name, err, digest)
		}
	}
}

func TestOnlyWhatWasBuiltIsPushed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(r *release) error
		want   string
	}{
		"a changed chart": {func(r *release) error { return r.write(r.chartArchive(), []byte("another")) }, "chart.tar in"},
		"a lost chart":    {func(r *release) error { return os.Remove(filepath.Join(r.out, r.chartArchive())) }, "are not in"},
		"a file more":     {func(r *release) error { return r.write("more", nil) }, "more in"},
		"no checksums":    {func(r *release) error { return os.Remove(filepath.Join(r.out, checksumsFile)) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, _ := pushable(t)
			if err := tc.change(r); err != nil {
				t.Fatal(err)
			}
			registry := serve(t)
			var out bytes.Buffer
			err := run(t.Context(), []string{"push", "-from=" + r.out, "-registry=" + registry}, &out)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
			if _, err := remote.Head(reference(t, registry+"/m2m-operator:v0.1.0")); err == nil || out.Len() > 0 {
				t.Errorf("something was pushed: %s", &out)
			}
		})
	}
}
