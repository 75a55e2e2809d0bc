// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// injected injects into a pod of the namespace shop, as the handler does. The clients'
// Secrets have their default names.
func injected(p *corev1.Pod) error {
	before, err := json.Marshal(p)
	if err != nil {
		return err
	}
	reduced := &pod{}
	if err := decode(before, reduced); err != nil {
		return err
	}
	annotations, err := reduced.annotations()
	if err != nil {
		return err
	}
	w, err := wishOf(annotations, "shop")
	if err != nil {
		return err
	}
	operations, err := inject(reduced, annotations, "shop", w, w.client+"-token")
	if err != nil {
		return err
	}
	after, err := patched(before, operations)
	if err != nil {
		return err
	}
	*p = corev1.Pod{}
	return json.Unmarshal(after, p)
}

// patched applies a patch to a pod, as the API server does.
func patched(before []byte, operations []operation) ([]byte, error) {
	text, err := json.Marshal(operations)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	return patch.Apply(before)
}

// TestInject injects into the pods in testdata and compares the result with the golden
// files. A second injection changes nothing.
func TestInject(t *testing.T) {
	inputs, err := filepath.Glob(filepath.Join("testdata", "*.in.yaml"))
	if err != nil || len(inputs) < 8 {
		t.Fatalf("%v: %d pods", err, len(inputs))
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			manifest, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			pod := &corev1.Pod{}
			if err := yaml.UnmarshalStrict(manifest, pod); err != nil {
				t.Fatal(err)
			}
			if err := injected(pod); err != nil {
				t.Fatal(err)
			}
			got, err := yaml.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
			again := pod.DeepCopy()
			if err := injected(again); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(pod, again, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the second injection changes the pod (-first +second):\n%s", diff)
			}
		})
	}
}

// TestRefusals compares the messages of refused pods.
func TestRefusals(t *testing.T) {
	const client, verify, containers = v1alpha1.ClientAnnotation, v1alpha1.VerifyAnnotation, v1alpha1.ContainersAnnotation
	long := strings.Repeat("n", 100)
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        string // "" for none
	}{
		"a client":                  {map[string]string{client: "cart"}, ""},
		"a client with spaces":      {map[string]string{client: " cart "}, ""},
		"the longest name":          {map[string]string{client: long[:63]}, ""},
		"no client":                 {map[string]string{client: " "}, `annotation m2m-operator.io/client is empty: name an M2MClient of namespace "shop", or remove it`},
		"another namespace's":       {map[string]string{client: "payments/cart"}, `annotation m2m-operator.io/client: "payments/cart" has a slash; write the name alone: the M2MClient must be in the pod's own namespace`},
		"its own namespace's":       {map[string]string{client: "shop/cart"}, `annotation m2m-operator.io/client: "shop/cart" has a slash; write the name alone: the M2MClient must be in the pod's own namespace`},
		"two clients":               {map[string]string{client: "cart,reporting"}, `annotation m2m-operator.io/client: "cart,reporting" is not the name of an M2MClient; name one of namespace "shop"`},
		"a name too long":           {map[string]string{client: long[:64]}, `annotation m2m-operator.io/client: "` + long[:64] + `" is not the name of an M2MClient; name one of namespace "shop"`},
		"a name of several lines":   {map[string]string{client: "a\nb"}, `annotation m2m-operator.io/client: "a\nb" is not the name of an M2MClient; name one of namespace "shop"`},
		"an API":                    {map[string]string{verify: "payment-api"}, ""},
		"no API":                    {map[string]string{verify: ","}, `annotation m2m-operator.io/verify is empty: name APIResources, or remove it`},
		"an API that is no name":    {map[string]string{verify: "payment-api,Stock"}, `annotation m2m-operator.io/verify: "Stock" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"an API with two slashes":   {map[string]string{verify: "a/b/c"}, `annotation m2m-operator.io/verify: "a/b/c" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"an API's name too long":    {map[string]string{verify: long}, `annotation m2m-operator.io/verify: "` + long[:80] + `…" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"a letter at the cut":       {map[string]string{verify: strings.Repeat("ä", 50)}, `annotation m2m-operator.io/verify: "` + strings.Repeat("ä", 40) + `…" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"half a letter at the cut":  {map[string]string{verify: "n" + strings.Repeat("ä", 50)}, `annotation m2m-operator.io/verify: "n` + strings.Repeat("ä", 39) + `…" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"the same API twice":        {map[string]string{verify: "payment-api,shop/payment-api"}, ""},
		"many commas":               {map[string]string{verify: strings.Repeat("a,", 200)}, `annotation m2m-operator.io/verify names too many APIResources; a pod can have 64`},
		"an API in parentheses":     {map[string]string{verify: "(a)"}, `annotation m2m-operator.io/verify: "(a)" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"65 APIs":                   {map[string]string{verify: numbered(65)}, `annotation m2m-operator.io/verify names too many APIResources; a pod can have 64`},
		"a long annotation":         {map[string]string{verify: strings.Repeat("a,", 3000)}, `annotation m2m-operator.io/verify has 6000 bytes; the limit is 4096`},
		"64 APIs":                   {map[string]string{verify: numbered(64)}, ""},
		"a collision of two paths":  {map[string]string{verify: "b/x,a/x,b.x"}, `annotation m2m-operator.io/verify: "b/x" and "shop/b.x" would both be mounted at /var/run/secrets/m2m-operator.io/verify/b.x; leave one of them out`},
		"a container":               {map[string]string{client: "cart", containers: "app"}, ""},
		"a container that may come": {map[string]string{client: "cart", containers: "app,proxy"}, ""},
		"no name of a container":    {map[string]string{client: "cart", containers: "app;logs"}, `annotation m2m-operator.io/containers: "app;logs" is not the name of a container; separate names by commas`},
		"no container":              {map[string]string{client: "cart", containers: " ,"}, `annotation m2m-operator.io/containers is empty: name containers, or remove it`},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "init"}}, Containers: []corev1.Container{{Name: "app"}, {Name: "logs"}},
			}}
			pod.Annotations = tc.annotations
			got := ""
			if err := injected(pod); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("refusal (-want +got):\n%s", diff)
			}
		})
	}
}

// TestContainersThatAreNotThere: an annotation may name a container that another webhook
// will add. The pod lists it as missing until it exists.
func TestContainersThatAreNotThere(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, {Name: "logs"}}}}
	pod.Annotations = map[string]string{
		v1alpha1.ClientAnnotation: "cart", v1alpha1.ContainersAnnotation: "mesh-proxy, app, late, mesh-proxy",
		v1alpha1.MissingContainersAnnotation: "of the pod that it was copied from",
	}
	for _, step := range []struct {
		adds, missing string
		injected      []string
	}{
		{"", "mesh-proxy,late", []string{"app"}},
		{"mesh-proxy", "late", []string{"app", "mesh-proxy"}},
		{"late", "", []string{"app", "mesh-proxy", "late"}},
		{"other", "", []string{"app", "mesh-proxy", "late"}},
	} {
		if step.adds != "" {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: step.adds})
		}
		if err := injected(pod); err != nil {
			t.Fatal(err)
		}
		var with []string
		for _, c := range pod.Spec.Containers {
			if len(c.VolumeMounts) > 0 {
				with = append(with, c.Name)
			}
		}
		if diff := cmp.Diff(step.injected, with); diff != "" {
			t.Errorf("after %q: injected into (-want +got):\n%s", step.adds, diff)
		}
		if got := pod.Annotations[v1alpha1.MissingContainersAnnotation]; got != step.missing {
			t.Errorf("after %q: missing are %q, want %q", step.adds, got, step.missing)
		}
	}

	pod.Annotations[v1alpha1.ContainersAnnotation] = strings.ReplaceAll(numbered(1000), "api", "container")
	if err := injected(pod); err != nil {
		t.Fatal(err)
	}
	if got := pod.Annotations[v1alpha1.MissingContainersAnnotation]; len(got) == 0 || len(got) > maxMissing {
		t.Errorf("of 1000 missing containers %d bytes are noted", len(got))
	}
}

func numbered(n int) string {
	var all []string
	for i := range n {
		all = append(all, "api-"+strconv.Itoa(i))
	}
	return strings.Join(all, ",")
}

// FuzzInject: whatever the annotations say, the API server accepts the admitted pod, and a
// second injection does not change it.
func FuzzInject(f *testing.F) {
	f.Add("cart", "payment-api,stock/api", "app", "/var/run/secrets/m2m-operator.io/token")
	f.Add("a/b", "x/a,y/a,a", "", "/var/run/secrets/m2m-operator.io/verify/a/")
	f.Add("", ",,", "app,init", "/")
	f.Fuzz(func(t *testing.T, client, verify, containers, mountPath string) {
		pod := &corev1.Pod{Spec: corev1.PodSpec{
			Volumes:        []corev1.Volume{{Name: "own"}},
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers:     []corev1.Container{{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "own", MountPath: mountPath}}}},
		}}
		pod.Annotations = map[string]string{v1alpha1.ClientAnnotation: client, v1alpha1.VerifyAnnotation: verify}
		if containers != "" {
			pod.Annotations[v1alpha1.ContainersAnnotation] = containers
		}
		if err := injected(pod); err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 1000 {
				t.Errorf("the refusal is no line: %q", err)
			}
			return
		}
		volumes := map[string]bool{}
		for _, v := range pod.Spec.Volumes {
			if volumes[v.Name] || len(validation.IsDNS1123Label(v.Name)) > 0 {
				t.Errorf("volume %q", v.Name)
			}
			volumes[v.Name] = true
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			paths := map[string]bool{}
			for _, m := range c.VolumeMounts {
				if paths[m.MountPath] || !volumes[m.Name] || m.SubPath != "" || strings.Contains(m.Name, "m2m-") && !m.ReadOnly {
					t.Errorf("mount %+v", m)
				}
				paths[m.MountPath] = true
			}
		}
		again := pod.DeepCopy()
		if err := injected(again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pod, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the second injection changes the pod (-first +second):\n%s", diff)
		}
	})
}
