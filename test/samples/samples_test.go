// SPDX-License-Identifier: Apache-2.0

// Package samples checks what users copy: the API server must accept everything
// under config/samples and the README's YAML, and the samples must show every
// field that exists.
package samples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/render"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

const (
	root       = "../.."
	samplesDir = root + "/config/samples"
	crdDir     = root + "/config/crd/bases"
	group      = "m2m-operator.io"
)

// kube refuses fields that the API server does not know, as kubectl does.
var kube client.Client

func TestMain(m *testing.M) {
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	kubetest.Main(filepath.Join("..", ".."), func(environment *envtest.Environment) (code int, err error) {
		plain, err := client.New(environment.Config, client.Options{})
		if err != nil {
			return 1, err
		}
		kube = client.WithFieldValidation(plain, metav1.FieldValidationStrict)
		return m.Run(), nil
	})
}

// document is one object of a YAML file.
type document struct {
	file   string
	object *unstructured.Unstructured
}

func (d document) String() string {
	return fmt.Sprintf("%s: %s %s/%s", d.file, d.object.GetKind(), d.object.GetNamespace(), d.object.GetName())
}

// documents parses YAML as strictly as kubectl does: a key that occurs twice is
// an error.
func documents(t *testing.T, file string, content []byte) (all []document) {
	t.Helper()
	reader := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(content)))
	defer reader.Close()
	buffer := make([]byte, len(content)+1)
	for {
		n, err := reader.Read(buffer)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		object := map[string]any{}
		if err := yaml.UnmarshalStrict(buffer[:n], &object); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(object) > 0 {
			all = append(all, document{file, &unstructured.Unstructured{Object: object}})
		}
	}
}

// samples returns all objects of all samples, in the order of the files' names.
func samples(t *testing.T) (all []document) {
	t.Helper()
	for _, file := range files(t) {
		content, err := os.ReadFile(filepath.Join(samplesDir, file))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, documents(t, file, content)...)
	}
	return all
}

func files(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(samplesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "kustomization.yaml" {
			names = append(names, e.Name())
		}
	}
	return names
}

// apply applies an object as kubectl apply --server-side would, as a dry run,
// in a namespace that exists.
func apply(ctx context.Context, object *unstructured.Unstructured) error {
	if ns := object.GetNamespace(); ns != "" {
		err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		if client.IgnoreAlreadyExists(err) != nil {
			return err
		}
	}
	return kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(object.DeepCopy()),
		client.DryRunAll, client.FieldOwner("samples"), client.ForceOwnership)
}

func TestEverySampleIsTaken(t *testing.T) {
	for _, d := range samples(t) {
		if err := apply(t.Context(), d.object); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
}

// TestMistakesAreNoticed makes sure that the test above can fail.
func TestMistakesAreNoticed(t *testing.T) {
	tests := map[string]struct {
		mutate func(spec map[string]any)
		want   string
	}{
		"a field that does not exist": {
			mutate: func(spec map[string]any) { spec["isuer"] = "https://auth.example.com" },
			want:   "isuer",
		},
		"a value that a rule forbids": {
			mutate: func(spec map[string]any) { spec["issuer"] = "auth.example.com" },
			want:   "must be an https:// URL",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": group + "/v1alpha1", "kind": "AuthorizationServer",
				"metadata": map[string]any{"name": "auth", "namespace": "default"},
				"spec":     map[string]any{"issuer": "https://auth.example.com"},
			}}
			if err := apply(t.Context(), object); err != nil {
				t.Fatalf("without the mistake: %v", err)
			}
			tc.mutate(object.Object["spec"].(map[string]any))
			err := apply(t.Context(), object)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that contains %q", err, tc.want)
			}
		})
	}
}

func TestSamplesShowEveryField(t *testing.T) {
	shown := map[string]bool{}
	for _, d := range samples(t) {
		if d.object.GroupVersionKind().Group == group {
			collect(shown, d.object.GetKind()+".spec", d.object.Object["spec"])
		}
	}
	exist := fieldsOfCRDs(t)
	if len(exist) < 50 {
		t.Fatalf("found only %d fields in the CRDs", len(exist))
	}
	missing := slices.DeleteFunc(exist, func(field string) bool { return shown[field] })
	if diff := cmp.Diff([]string{}, missing); diff != "" {
		t.Errorf("no sample shows these fields (-want +got):\n%s", diff)
	}
}

// collect records the fields that a value has, as "Kind.spec.list[].field".
func collect(shown map[string]bool, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			shown[path+"."+name] = true
			collect(shown, path+"."+name, field)
		}
	case []any:
		for _, item := range v {
			collect(shown, path+"[]", item)
		}
	}
}

// fieldsOfCRDs lists the fields that a spec can have, sorted.
func fieldsOfCRDs(t *testing.T) (all []string) {
	t.Helper()
	paths, err := filepath.Glob(crdDir + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(content, &crd); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		all = append(all, fieldsOf(crd.Spec.Names.Kind+".spec", &spec)...)
	}
	slices.Sort(all)
	return all
}

func fieldsOf(path string, schema *apiextensionsv1.JSONSchemaProps) (all []string) {
	for name, field := range schema.Properties {
		all = append(all, path+"."+name)
		all = append(all, fieldsOf(path+"."+name, &field)...)
	}
	if schema.Items != nil && schema.Items.Schema != nil {
		all = append(all, fieldsOf(path+"[]", schema.Items.Schema)...)
	}
	return all
}

// TestTemplatesOfSamples: the API server cannot tell whether a template can be
// rendered; a condition does.
func TestTemplatesOfSamples(t *testing.T) {
	checked := 0
	for _, d := range samples(t) {
		switch d.object.GetKind() {
		case "M2MClient":
			templates, _, _ := unstructured.NestedStringMap(d.object.Object, "spec", "secret", "template")
			access, _, _ := unstructured.NestedSlice(d.object.Object, "spec", "access")
			tokens := map[string]string{}
			for _, a := range access {
				if key, _, _ := unstructured.NestedString(a.(map[string]any), "key"); key != "" {
					tokens[key] = "e30.e30.c2ln"
				}
			}
			if len(templates) == 0 {
				continue
			}
			data, waiting, err := render.TokenSecret(tokens, templates, slices.Sorted(maps.Keys(tokens)))
			if err != nil || len(waiting) > 0 || len(data) != len(tokens)+len(templates) {
				t.Errorf("%s: rendered %d keys, waiting for %v: %v", d, len(data), waiting, err)
			}
			checked += len(templates)
		case "APIResource":
			extra, _, _ := unstructured.NestedSlice(d.object.Object, "spec", "verification", "files")
			templates := map[string]string{}
			for _, file := range extra {
				f := file.(map[string]any)
				templates[f["name"].(string)] = f["template"].(string)
			}
			bundle := render.Bundle{
				Namespace: d.object.GetNamespace(), Name: d.object.GetName(), Issuer: "https://auth.example.com",
				Audience: "https://api.example.com", Algorithms: []string{"ES256", "RS256"}, Scopes: []render.Scope{{Name: "a"}, {Name: "b"}},
			}
			rendered, err := render.Verification(bundle, templates)
			if err != nil {
				t.Errorf("%s: %v", d, err)
			}
			for name := range templates {
				if err := yaml.Unmarshal([]byte(rendered[name]), new(any)); strings.HasSuffix(name, ".yaml") && err != nil {
					t.Errorf("%s: %s is not YAML: %v\n%s", d, name, err, rendered[name])
				}
			}
			checked += len(templates)
		}
	}
	if checked == 0 {
		t.Error("no sample has a template")
	}
}

func TestKustomizationNamesEverySample(t *testing.T) {
	content, err := os.ReadFile(samplesDir + "/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var kustomization struct {
		Resources []string `json:"resources"`
	}
	if err := yaml.Unmarshal(content, &kustomization); err != nil {
		t.Fatal(err)
	}
	slices.Sort(kustomization.Resources)
	if diff := cmp.Diff(files(t), kustomization.Resources); diff != "" {
		t.Errorf("kustomization.yaml does not name the files there are (-files +named):\n%s", diff)
	}
}

// yamlBlock is a fenced block of Markdown.
var yamlBlock = regexp.MustCompile("(?ms)^```yaml[^\n]*\n(.*?)^```")

func TestREADMEIsTaken(t *testing.T) {
	content, err := os.ReadFile(root + "/README.md")
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for i, block := range yamlBlock.FindAllSubmatch(content, -1) {
		for _, d := range documents(t, fmt.Sprintf("README.md, YAML block %d", i+1), block[1]) {
			if d.object.GetKind() == "" {
				continue // a part of an object, such as a pod template's annotations
			}
			if err := apply(t.Context(), d.object); err != nil {
				t.Errorf("%s: %v", d, err)
			}
			kinds[d.object.GetKind()] = true
		}
	}
	for _, kind := range []string{"AuthorizationServer", "APIResource", "M2MClient"} {
		if !kinds[kind] {
			t.Errorf("README.md shows no %s", kind)
		}
	}
}
