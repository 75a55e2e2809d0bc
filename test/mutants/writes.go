// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
)

// write is a recorded write: see Write in internal/testing/kube.
type write struct {
	User, Operation, Group, Version, Resource, Subresource, Namespace, Name, Refusal string

	Object, OldObject json.RawMessage
	Warnings          []string

	suite       string // the file
	object, old *unstructured.Unstructured
}

func (w *write) String() string {
	return fmt.Sprintf("%s %s/%s %s/%s by %s", w.Operation, w.Resource, w.Subresource, w.Namespace, w.Name, w.User)
}

// readWrites reads what the suites have recorded in a folder.
func readWrites(dir string) (all []*write, err error) {
	err = each(dir, "*.jsonl", func(file string, text []byte) error {
		for lines := bufio.NewReader(bytes.NewReader(text)); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return nil // its text is all there
			}
			w := &write{suite: file}
			if err := json.Unmarshal(line, w); err != nil {
				return err
			}
			if w.object, err = parse(w.Object); err != nil {
				return err
			}
			if w.old, err = parse(w.OldObject); err != nil {
				return err
			}
			all = append(all, w)
		}
	})
	return all, err
}

// each calls a function with the name and the text of each file of a folder that matches a
// pattern, until one returns an error.
func each(dir, pattern string, read func(file string, text []byte) error) error {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Clean(file))
		if err == nil {
			err = read(file, text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func parse(text []byte) (*unstructured.Unstructured, error) {
	if len(text) == 0 {
		return nil, nil
	}
	u := &unstructured.Unstructured{}
	return u, utiljson.Unmarshal(text, &u.Object) // integers are integers
}

// byPolicy reports whether a policy refused the write.
func (w *write) byPolicy(name string) bool {
	return strings.Contains(w.Refusal, "ValidatingAdmissionPolicy '"+name)
}

// attributes are the write as admission sees it.
func (w *write) attributes() *admission.VersionedAttributes {
	var object, old runtime.Object
	var kind schema.GroupVersionKind
	if w.old != nil {
		old, kind = w.old, w.old.GroupVersionKind()
	}
	if w.object != nil {
		object, kind = w.object, w.object.GroupVersionKind()
	}
	attributes := admission.NewAttributesRecord(object, old, kind, w.Namespace, w.Name,
		schema.GroupVersionResource{Group: w.Group, Version: w.Version, Resource: w.Resource}, w.Subresource,
		admission.Operation(w.Operation), nil, false, &user.DefaultInfo{Name: w.User})
	v := &admission.VersionedAttributes{Attributes: attributes, VersionedKind: kind}
	if object != nil {
		v.VersionedObject.Set(object)
	}
	if old != nil {
		v.VersionedOldObject.Set(old)
	}
	return v
}
