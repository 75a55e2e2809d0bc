// SPDX-License-Identifier: Apache-2.0

// Package manifest reads the objects of files that somebody proposes. It finds each object that
// kubectl would apply, however a file packs it, and refuses a file that readers of YAML
// understand differently: a review that passes over an object says that nothing would change.
// The package is pure.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// Parse reads the objects of the operator's kinds, and Namespaces, from YAML or JSON. Objects
// without a namespace are in the given one. In what it reads, fields that do not exist and
// fields that are there twice are errors.
func Parse(b []byte, namespace string) ([]client.Object, error) {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b)))
	var objects []client.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		found, err := parseDocument(document, namespace)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
}

func parseDocument(document []byte, namespace string) ([]client.Object, error) {
	if err := alone(document); err != nil {
		return nil, err
	}
	j, err := yaml.YAMLToJSON(document)
	if err != nil {
		return nil, err
	}
	objects, err := flatten(j, schema.GroupVersionKind{}, namespace)
	if err != nil || len(objects) == 0 {
		return nil, err
	}
	_, err = yaml.YAMLToJSONStrict(document) // the JSON has no field twice any more
	return objects, err
}

// alone refuses a document with another one behind it, which some readers pass over and others
// do not: after "...", after a carriage return and "---", or after an object of JSON.
func alone(document []byte) error {
	d := yamlv3.NewDecoder(bytes.NewReader(document))
	for n := 0; ; n++ {
		var node yamlv3.Node
		switch err := d.Decode(&node); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n > 0:
			return errors.New(`more than one document, not separated by a line with "---"`)
		}
	}
}

// flatten returns the objects of a list, or the one object, as kubectl does: any kind is a list
// if it has items, and an item without a kind has that of its list.
func flatten(j []byte, kind schema.GroupVersionKind, namespace string) ([]client.Object, error) {
	var head struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Items      json.RawMessage `json:"items"`
	}
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(j, &head); err != nil {
		return nil, err
	}
	if head.APIVersion != "" || head.Kind != "" {
		kind = schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
	}
	if o := objectOf(kind); o != nil {
		return one(j, o, kind, namespace)
	}
	var items []json.RawMessage
	if json.Unmarshal(head.Items, &items) != nil {
		return nil, nil // the items of something else
	}
	kind.Kind = strings.TrimSuffix(kind.Kind, "List")
	var objects []client.Object
	for _, item := range items {
		if !bytes.HasPrefix(item, []byte("{")) {
			continue
		}
		found, err := flatten(item, kind, namespace)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// objectOf returns an empty object of a kind that the tenant rules know, nil for any other.
func objectOf(kind schema.GroupVersionKind) client.Object {
	switch kind {
	case v1alpha1.GroupVersion.WithKind("APIResource"):
		return &v1alpha1.APIResource{}
	case v1alpha1.GroupVersion.WithKind("M2MClient"):
		return &v1alpha1.M2MClient{}
	case v1alpha1.GroupVersion.WithKind("AuthorizationServer"):
		return &v1alpha1.AuthorizationServer{}
	case v1alpha1.GroupVersion.WithKind("ClusterAuthorizationServer"):
		return &v1alpha1.ClusterAuthorizationServer{}
	case namespaces:
		return inventory.Metadata("Namespace")
	}
	return nil
}

var namespaces = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}

// one reads an object of a kind.
func one(j []byte, o client.Object, kind schema.GroupVersionKind, namespace string) ([]client.Object, error) {
	if kind == namespaces { // only its metadata is read
		if err := strictjson.UnmarshalCaseSensitivePreserveInts(j, o); err != nil {
			return nil, fmt.Errorf("%s: %w", kind.Kind, err)
		}
	} else if wrong, err := strictjson.UnmarshalStrict(j, o); err != nil || len(wrong) > 0 {
		return nil, fmt.Errorf("%s: %w", kind.Kind, errors.Join(append(wrong, err)...))
	}
	switch {
	case o.GetName() == "":
		return nil, fmt.Errorf("%s: metadata.name is not set", kind.Kind)
	case kind == namespaces || kind.Kind == "ClusterAuthorizationServer":
		o.SetNamespace("") // kubectl ignores it, too
	case o.GetNamespace() == "":
		o.SetNamespace(namespace)
	}
	return []client.Object{o}, nil
}
