// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What config/default calls everything, and its namespace.
const (
	prefix    = "m2m-operator-"
	namespace = "m2m-operator-system"
)

// Templates that the chart's _helpers.tpl defines.
const (
	fullname = `{{ include "m2m-operator.fullname" $ }}-`
	instance = `{{ $.Release.Name | quote }}`

	releaseNamespace  = `include "m2m-operator.namespace" $`
	commonAnnotations = "$.Values.commonAnnotations"
	commonLabels      = "$.Values.commonLabels"
)

// object is one of config's objects, on its way into the chart.
type object struct {
	*node
	kind, name string // without the prefix
	when       string
	perNS      string // a template of namespaces: where they are named, a RoleBinding in each replaces this
	perShard   bool   // there is one for each shard, which is $shard in its templates
}

func newObject(n *node) (*object, error) {
	o := &object{node: n, kind: n.child("kind").value()}
	name := n.child("metadata").child("name").value()
	var ok bool
	if o.name, ok = strings.CutPrefix(name, prefix); !ok && !o.unprefixed() {
		return nil, fmt.Errorf("%s %s: its name does not begin with %s", o.kind, name, prefix)
	}
	return o, nil
}

// unprefixed objects have the same names in every installation.
func (o *object) unprefixed() bool {
	return o.kind == "CustomResourceDefinition" || o.kind == "Namespace"
}

func (o *object) id() string { return o.kind + "/" + o.name }

// edit changes an object into a template. It fails if the path that it changes does not exist.
type edit func(*object) error

// when leaves an object out unless a condition holds.
func when(condition string) edit {
	return func(o *object) error {
		o.when = condition
		return nil
	}
}

// perNamespace turns a ClusterRoleBinding into a RoleBinding in each of some
// namespaces, if there are any.
func perNamespace(namespaces string) edit {
	return func(o *object) error {
		if o.kind != "ClusterRoleBinding" {
			return errors.New("only a ClusterRoleBinding can be one for each namespace")
		}
		o.perNS = namespaces
		return nil
	}
}

// perShard makes one object per shard from the single one in config: it appends
// the shard's name to the object's name, and adds the shard's label next to the
// pods' labels.
func perShard(o *object) error {
	o.perShard = true
	if err := set("metadata.name", fullname+"shard-{{ $shard }}")(o); err != nil {
		return err
	}
	o.walk("", func(_ string, n *node) {
		if strings.HasSuffix(n.child("app.kubernetes.io/component").value(), "shard") {
			n.sub = append(n.sub, &node{key: "m2m-operator.io/shard", text: "{{ $shard | quote }}"})
		}
	})
	return add("metadata.labels", "m2m-operator.io/shard: {{ $shard | quote }}")(o)
}

// set replaces a scalar with a template.
func set(path, text string) edit {
	return func(o *object) error {
		n, err := o.at(path)
		if err == nil && n.kind != scalar {
			err = fmt.Errorf("%s is no scalar", path)
		}
		if err != nil {
			return err
		}
		n.text = text
		return nil
	}
}

// replace changes part of a string.
func replace(path, old, text string) edit {
	return func(o *object) error {
		n, err := o.at(path)
		if err == nil && (n.kind != scalar || strings.Count(n.text, old) != 1) {
			err = fmt.Errorf("%s does not have %q once", path, old)
		}
		if err != nil {
			return err
		}
		n.text = strings.Replace(n.text, old, text, 1)
		return nil
	}
}

// block replaces the whole content of a mapping or list with the lines of a template.
func block(path, text string) edit {
	return func(o *object) error {
		n, err := o.at(path)
		if err == nil && n.kind == scalar {
			err = fmt.Errorf("%s is a scalar", path)
		}
		if err != nil {
			return err
		}
		n.sub = []*node{{kind: template, text: text}}
		return nil
	}
}

// only leaves an entry or item out unless a condition holds.
func only(path, condition string) edit {
	return func(o *object) error {
		n, err := o.at(path)
		if err != nil {
			return err
		}
		n.when = condition
		return nil
	}
}

// remove leaves out an entry of a mapping, where a value decides about it.
func remove(path, key string) edit {
	return func(o *object) error {
		n, err := o.at(path)
		if err == nil && n.child(key) == nil {
			err = fmt.Errorf("%s has no %s", path, key)
		}
		if err != nil {
			return err
		}
		n.sub = slices.DeleteFunc(n.sub, func(s *node) bool { return s.key == key })
		return nil
	}
}

// add appends the lines of a template to a mapping or list; path "" is the
// object itself.
func add(path, text string) edit {
	return func(o *object) error {
		n := o.node
		if path != "" {
			var err error
			if n, err = o.at(path); err != nil {
				return err
			}
		}
		if n.kind == scalar {
			return fmt.Errorf("%s is a scalar", path)
		}
		n.sub = append(n.sub, &node{kind: template, text: text})
		return nil
	}
}

// general makes the edits that every object needs: names, namespaces, labels and
// the selectors on them become the release's.
func general(o *object, names map[string]bool) error {
	metadata := o.child("metadata")
	if ns := metadata.child("namespace"); ns != nil && ns.value() != namespace {
		return fmt.Errorf("it is in the namespace %q", ns.value())
	}
	labels := metadata.child("labels")
	if labels.child("app.kubernetes.io/name") == nil {
		return errors.New("it has no label app.kubernetes.io/name")
	}
	labels.sub = slices.DeleteFunc(labels.sub, func(n *node) bool { return n.key == "app.kubernetes.io/name" })
	labels.sub = append([]*node{{kind: template, text: `{{- include "m2m-operator.labels" $ | nindent <indent> }}`}}, labels.sub...)
	annotate(metadata)
	if o.unprefixed() {
		return nil
	}
	o.walk("", func(path string, n *node) {
		switch {
		case n.child("app.kubernetes.io/name") != nil:
			n.sub = append(n.sub, &node{key: "app.kubernetes.io/instance", text: instance})
		case n.value() == namespace:
			n.text = "{{ " + releaseNamespace + " | quote }}"
		case names[n.value()]:
			n.text = fullname + strings.TrimPrefix(n.value(), prefix)
		}
	})
	return nil
}

// annotate gives an object the annotations that all get. Without these an object
// that has none of its own gets no annotations.
func annotate(metadata *node) {
	annotations := metadata.child("annotations")
	if annotations == nil {
		annotations = &node{key: "annotations", kind: mapping, when: commonAnnotations}
		metadata.sub = append(metadata.sub, annotations)
	}
	annotations.sub = append(annotations.sub, &node{kind: template, text: withValues(commonAnnotations)})
}

// annotated adds an annotation, the lines of a template, under a condition.
func annotated(condition, text string) edit {
	return annotations(condition, &node{kind: template, text: "{{- if " + condition + " }}\n" + text + "\n{{- end }}"})
}

// annotatedWith adds annotations of a value. They win over those that all get.
func annotatedWith(value string) edit {
	return annotations(value, &node{kind: template, text: withValues(merged(value, commonAnnotations))})
}

func annotations(condition string, added *node) edit {
	return func(o *object) error {
		n, err := o.at("metadata.annotations")
		if err != nil {
			return err
		}
		if n.when != "" {
			n.when = "or (" + n.when + ") (" + condition + ")"
		}
		if strings.Contains(added.text, commonAnnotations) {
			n.sub = slices.DeleteFunc(n.sub, func(s *node) bool { return s.text == withValues(commonAnnotations) })
		}
		n.sub = append(n.sub, added)
		return nil
	}
}

// labelledWith adds labels of a value. They win over those that all get.
func labelledWith(value string) edit {
	return func(o *object) error {
		labels, err := o.at("metadata.labels")
		if err != nil {
			return err
		}
		labels.sub[0].text = `{{- include "m2m-operator.labelsWith" (list $ ` + value + `) | nindent <indent> }}`
		return nil
	}
}

// merged are the entries of two values; the first wins.
func merged(first, second string) string { return "(merge (dict) " + first + " " + second + ")" }

// withValues are the entries of a mapping, if it has any.
func withValues(mapping string) string {
	return "{{- with " + mapping + " }}\n{{- toYaml . | nindent <indent> }}\n{{- end }}"
}

// leftover reports names that no rule has replaced with the release's.
func leftover(o *object) error {
	if o.unprefixed() {
		return nil
	}
	var found error
	o.walk("", func(path string, n *node) {
		if n.kind == scalar && strings.Contains(n.text, prefix) {
			found = fmt.Errorf("%s has %s in every release", path, n.text)
		}
	})
	return found
}

// convert applies the rules and returns the chart's templates by file name. Every
// object must have a rule and every rule an object.
func convert(nodes []*node, rules map[string][]edit) (map[string]string, error) {
	names := map[string]bool{}
	var objects []*object
	for _, n := range nodes {
		o, err := newObject(n)
		if err != nil {
			return nil, err
		}
		names[prefix+o.name] = !o.unprefixed()
		objects = append(objects, o)
	}
	files, used := map[string]string{}, map[string]bool{}
	for _, o := range objects {
		rule := o.id()
		edits, ok := rules[rule]
		if !ok {
			rule = o.kind
			edits, ok = rules[rule]
		}
		used[rule] = true
		if !ok {
			return nil, fmt.Errorf("%s: no rule says what the chart makes of it", o.id())
		}
		if edits == nil {
			continue
		}
		for _, e := range append([]edit{func(o *object) error { return general(o, names) }}, append(edits, leftover)...) {
			if err := e(o); err != nil {
				return nil, fmt.Errorf("%s: %w", o.id(), err)
			}
		}
		files[fileName(o)] = o.render()
	}
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		if !used[rule] {
			return nil, fmt.Errorf("there is no %s that the rule could be for", rule)
		}
	}
	return files, nil
}

func fileName(o *object) string {
	if o.kind == "CustomResourceDefinition" {
		plural, _, _ := strings.Cut(o.child("metadata").child("name").value(), ".")
		return "crd-" + plural + ".yaml"
	}
	return strings.ToLower(o.kind) + "-" + o.name + ".yaml"
}

// render returns the object's file.
func (o *object) render() string {
	var b strings.Builder
	b.WriteString("{{- /* Made from config/ by make chart. Change it there, or in hack/chart. */}}\n")
	if o.when != "" {
		fmt.Fprintf(&b, "{{- if %s }}\n", o.when)
	}
	if o.perNS != "" {
		in := o.clone()
		in.child("kind").text = "RoleBinding"
		metadata := in.child("metadata")
		metadata.sub = append(metadata.sub, &node{key: "namespace", text: "{{ . | quote }}"})
		fmt.Fprintf(&b, "{{- range %s }}\n---\n", o.perNS)
		in.write(&b, 0)
		b.WriteString("{{- else }}\n")
	}
	if o.perShard {
		b.WriteString("{{- range $shard := $.Values.shards }}\n---\n")
	}
	o.write(&b, 0)
	if o.perShard {
		b.WriteString("{{- end }}\n")
	}
	if o.perNS != "" {
		b.WriteString("{{- end }}\n")
	}
	if o.when != "" {
		b.WriteString("{{- end }}\n")
	}
	return b.String()
}
