// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
)

// visible returns the files that a pod sees in a mounted directory.
func visible(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := look(dir)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// look reads what a container sees in a directory. It fails if the kubelet is
// between moving the files and removing the links of files that are gone.
func look(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files[e.Name()] = string(content)
	}
	return files, nil
}

func bytesOf(files map[string]string) map[string][]byte {
	b := map[string][]byte{}
	for name, content := range files {
		b[name] = []byte(content)
	}
	return b
}

func TestShowFiles(t *testing.T) {
	tests := map[string][]map[string]string{
		"a first file":                   {{"a": "1"}},
		"no files":                       {{}},
		"a file that changes":            {{"a": "1", "b": "1"}, {"a": "2", "b": "1"}},
		"a file that comes":              {{"a": "1"}, {"a": "1", "b": "1"}},
		"a file that goes":               {{"a": "1", "b": "1"}, {"a": "1"}},
		"the last file goes":             {{"a": "1"}, {}},
		"a file that goes and is back":   {{"a": "1"}, {}, {"a": "2"}},
		"a file with another's contents": {{"a": "1", "b": "2"}, {"a": "2", "b": "1"}},
	}
	for name, states := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "mount")
			for _, want := range states {
				if err := showFiles(dir, bytesOf(want)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, visible(t, dir)); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
			}
			if hidden, err := filepath.Glob(dir + "/..*"); err != nil || len(hidden) != 2 {
				t.Errorf("beside the files there are %v, want ..data and its target: %v", hidden, err)
			}
		})
	}
}

func TestShowFilesLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	var targets []string
	for range 2 {
		if err := showFiles(dir, bytesOf(map[string]string{"a": "1"})); err != nil {
			t.Fatal(err)
		}
		target, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, target)
	}
	if targets[0] != targets[1] {
		t.Error("showing the same files again replaced them")
	}
}

func TestShowFilesRefusesPaths(t *testing.T) {
	for _, name := range []string{"../a", "a/b", "..a", "..", "/a"} {
		if err := showFiles(t.TempDir(), map[string][]byte{name: nil}); err == nil {
			t.Errorf("%q was taken for the name of a file", name)
		}
	}
}

// TestShowFilesAtOnce reads two files that always change together.
func TestShowFilesAtOnce(t *testing.T) {
	dir := t.TempDir()
	show := func(n int) {
		v := strconv.Itoa(n)
		if err := showFiles(dir, bytesOf(map[string]string{"a": v, "b": v})); err != nil {
			t.Error(err)
		}
	}
	show(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 300 {
			show(n)
		}
	}()
	for reads := 0; ; reads++ {
		select {
		case <-done:
			if reads == 0 {
				t.Error("nothing was read in the meantime")
			}
			return
		default:
		}
		target, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil {
			t.Fatalf("the link was away: %v", err)
		}
		a, errA := os.ReadFile(filepath.Join(dir, target, "a"))
		b, errB := os.ReadFile(filepath.Join(dir, target, "b"))
		if err := errors.Join(errA, errB); errors.Is(err, fs.ErrNotExist) {
			continue // replaced while we read
		} else if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Fatalf("read %s and %s: of two states", a, b)
		}
	}
}

// rotating is an API server on which anything may happen between any two reads:
// first the bundle gets the next key, then the server signs the token with it.
type rotating struct {
	mu            sync.Mutex
	key, token    int
	writesPerRead int
}

func (r *rotating) write() {
	if r.key == r.token {
		r.key++
	} else {
		r.token++
	}
}

func (r *rotating) Read(_ context.Context, m mount) (map[string][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.key
	if m.kind == "Secret" {
		n = r.token
	}
	for range r.writesPerRead {
		r.write()
	}
	return map[string][]byte{"n": []byte(strconv.Itoa(n))}, nil
}

func (*rotating) Watch(context.Context, mount) (watch.Interface, error) {
	return nil, errors.New("not needed")
}

// TestSecretsNeverOvertakeConfigMaps: at no time may a token be visible whose
// key is not.
func TestSecretsNeverOvertakeConfigMaps(t *testing.T) {
	for writesPerRead := range 4 {
		dir := t.TempDir()
		api := &rotating{writesPerRead: writesPerRead}
		// With these names, neither the order of the list nor that of the names helps.
		k := &kubelet{api: api, mounts: []mount{
			{kind: "Secret", name: "a", dir: dir + "/a"}, {kind: "ConfigMap", name: "b", dir: dir + "/b"},
			{kind: "Secret", name: "c", dir: dir + "/c"},
		}}
		k.shown = func(mount, map[string][]byte) { // after each single step
			key, err := os.ReadFile(dir + "/b/n")
			if err != nil {
				t.Fatalf("a Secret was shown before the ConfigMap: %v", err)
			}
			for _, secret := range []string{"/a/n", "/c/n"} {
				token, err := os.ReadFile(dir + secret)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if number(t, token) > number(t, key) {
					t.Fatalf("with %d writes per read: a token of key %s is shown with the bundle of key %s", writesPerRead, token, key)
				}
			}
		}
		for range 20 {
			if err := k.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			api.mu.Lock()
			api.write()
			api.mu.Unlock()
		}
	}
}

func number(t *testing.T, b []byte) int {
	t.Helper()
	n, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKubeletFollowsTheAPIServer(t *testing.T) {
	root := t.TempDir()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "t", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "cart-token"}}},
		{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "bundle"},
		}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	pod.Spec.Containers = []corev1.Container{{VolumeMounts: []corev1.VolumeMount{
		{Name: "t", MountPath: "/ours/token"}, {Name: "v", MountPath: "/ours/verify/api"},
		{Name: "scratch", MountPath: "/ours/scratch"}, {Name: "t", MountPath: "/theirs"},
	}}}
	mounts := mountsOf(pod, "/ours", root+"/cart")
	want := []mount{
		{"Secret", "shop", "cart-token", root + "/cart/token"},
		{"ConfigMap", "shop", "bundle", root + "/cart/verify/api"},
	}
	if diff := cmp.Diff(want, mounts, cmp.AllowUnexported(mount{})); diff != "" {
		t.Fatalf("mounts (-want +got):\n%s", diff)
	}

	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	kube := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: meta("bundle"), Data: map[string]string{"issuer": "i"}})
	passes := make(chan struct{}, 100)
	k := &kubelet{api: apiServer{kube}, mounts: mounts, shown: func(mount, map[string][]byte) { passes <- struct{}{} }}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		k.run(ctx, func(err error) { t.Error(err) })
	}()

	// soon waits for the kubelet, and fails with its error if it takes too long.
	soon := func(dir string, want map[string]string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			if files, err := look(dir); err == nil && cmp.Equal(want, files) {
				return
			}
			select {
			case <-passes:
			case <-deadline:
				t.Fatalf("%s (-want +got):\n%s", dir, cmp.Diff(want, visible(t, dir)))
			}
		}
	}
	soon(root+"/cart/verify/api", map[string]string{"issuer": "i"})
	if _, err := os.Stat(root + "/cart/token"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a directory for a Secret that does not exist: %v", err)
	}
	secret := &corev1.Secret{ObjectMeta: meta("cart-token"), Data: map[string][]byte{"payment-api": []byte("one")}}
	secrets := kube.CoreV1().Secrets("shop")
	if _, err := secrets.Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(root+"/cart/token", map[string]string{"payment-api": "one"})
	secret.Data = nil
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(root+"/cart/token", map[string]string{})
	cancel()
	<-stopped
}

// broken is an API server that fails every read.
type broken struct{ rotating }

func (*broken) Read(context.Context, mount) (map[string][]byte, error) {
	return nil, errors.New("no answer")
}

func TestKubeletReportsWhatItCannotDo(t *testing.T) {
	k := &kubelet{api: &broken{}, mounts: []mount{{kind: "Secret", name: "a", dir: t.TempDir()}}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got error
	k.run(ctx, func(err error) { got = err; cancel() })
	if got == nil || !strings.Contains(got.Error(), "no answer") {
		t.Errorf("got %v, want the reason", got)
	}
}
