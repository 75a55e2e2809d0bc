// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// node is part of an object: YAML that may contain templates.
type node struct {
	key  string  // its name, in a mapping
	kind kind    //
	text string  // of a scalar, its YAML or a template of it; of a template, its lines, with <indent> for their indentation and <deeper> for one level more
	sub  []*node // content of a mapping or list
	when string  // a template's condition: unless it holds, this node is left out
}

type kind int

const (
	scalar kind = iota
	mapping
	list
	template // lines that stand for entries or items
)

// read turns a YAML document into a node.
func read(y *yaml.Node) (*node, error) {
	switch y.Kind {
	case yaml.DocumentNode:
		return read(y.Content[0])
	case yaml.MappingNode:
		n := &node{kind: mapping}
		for i := 0; i < len(y.Content); i += 2 {
			value, err := read(y.Content[i+1])
			if err != nil {
				return nil, err
			}
			value.key = y.Content[i].Value
			n.sub = append(n.sub, value)
		}
		return n, nil
	case yaml.SequenceNode:
		n := &node{kind: list}
		for _, item := range y.Content {
			value, err := read(item)
			if err != nil {
				return nil, err
			}
			n.sub = append(n.sub, value)
		}
		return n, nil
	case yaml.ScalarNode:
		text, err := yaml.Marshal(&yaml.Node{Kind: yaml.ScalarNode, Tag: y.Tag, Value: y.Value, Style: y.Style})
		if err != nil {
			return nil, err
		}
		// What looks like a template, in a description for example, is not one.
		return &node{kind: scalar, text: strings.ReplaceAll(strings.TrimSuffix(string(text), "\n"), "{{", `{{ "{{" }}`)}, nil
	}
	return nil, fmt.Errorf("line %d: a YAML node of kind %d", y.Line, y.Kind)
}

// value returns a scalar's text without quotes.
func (n *node) value() string {
	if n == nil || n.kind != scalar {
		return ""
	}
	var value string
	if yaml.Unmarshal([]byte(n.text), &value) != nil {
		return n.text
	}
	return value
}

// child returns a mapping's entry.
func (n *node) child(key string) *node {
	if n == nil || n.kind != mapping {
		return nil
	}
	for _, c := range n.sub {
		if c.key == key {
			return c
		}
	}
	return nil
}

// steps of a path: names, and selectors in brackets.
var steps = regexp.MustCompile(`\[[^]]+\]|[^.[]+`)

// at follows a path such as spec.containers[name=manager].args[--leader-elect] to a
// node. Brackets hold an entry's name with dots in it, an item's number, the value
// of one of its fields, or the beginning of an item that is a scalar.
func (n *node) at(path string) (*node, error) {
	for _, step := range steps.FindAllString(path, -1) {
		selector, bracketed := strings.CutPrefix(strings.TrimSuffix(step, "]"), "[")
		next := n.child(selector)
		if bracketed && n.kind == list {
			next = n.item(selector)
		}
		if next == nil {
			return nil, fmt.Errorf("%s: there is no %s", path, step)
		}
		n = next
	}
	return n, nil
}

func (n *node) item(selector string) *node {
	if i, err := strconv.Atoi(selector); err == nil && i < len(n.sub) {
		return n.sub[i]
	}
	field, want, _ := strings.Cut(selector, "=")
	for _, item := range n.sub {
		if item.kind == scalar && strings.HasPrefix(item.value(), selector) || want != "" && item.child(field).value() == want {
			return item
		}
	}
	return nil
}

// walk calls f with every node below, and its path.
func (n *node) walk(path string, f func(path string, n *node)) {
	f(path, n)
	for i, c := range n.sub {
		if n.kind == list {
			c.walk(fmt.Sprintf("%s[%d]", path, i), f)
		} else {
			c.walk(strings.TrimPrefix(path+"."+c.key, "."), f)
		}
	}
}

// clone copies a node with everything below it.
func (n *node) clone() *node {
	c := *n
	c.sub = make([]*node, len(n.sub))
	for i, s := range n.sub {
		c.sub[i] = s.clone()
	}
	return &c
}

// write adds a mapping's entries or a list's items, each on lines of its own.
func (n *node) write(b *strings.Builder, indent int) {
	pad, condition := strings.Repeat(" ", indent), ""
	for _, c := range n.sub {
		if condition != c.when && condition != "" {
			fmt.Fprintf(b, "%s{{- end }}\n", pad)
		}
		if condition != c.when && c.when != "" {
			fmt.Fprintf(b, "%s{{- if %s }}\n", pad, c.when)
		}
		condition = c.when
		if c.kind == template {
			depth := strings.NewReplacer("<indent>", strconv.Itoa(indent), "<deeper>", strconv.Itoa(indent+2))
			b.WriteString(indented(depth.Replace(c.text), indent) + "\n")
			continue
		}
		head := pad + "-"
		if n.kind == mapping {
			head = pad + keyText(c.key) + ":"
		}
		below := indent + 2
		if n.kind == mapping && c.kind == list {
			below = indent
		}
		var content strings.Builder
		c.write(&content, below)
		switch {
		case len(c.sub) == 0:
			fmt.Fprintf(b, "%s %s\n", head, c.inline(indent))
		case n.kind == list && c.sub[0].kind != template && c.sub[0].when == "":
			fmt.Fprintf(b, "%s %s", head, strings.TrimLeft(content.String(), " "))
		default:
			fmt.Fprintf(b, "%s\n%s", head, content.String())
		}
	}
	if condition != "" {
		fmt.Fprintf(b, "%s{{- end }}\n", pad)
	}
}

// inline returns a value that begins on the line of its key.
func (n *node) inline(indent int) string {
	switch n.kind {
	case mapping:
		return "{}"
	case list:
		return "[]"
	}
	first, rest, several := strings.Cut(n.text, "\n")
	if !several {
		return first
	}
	return first + "\n" + indented(rest, indent) // a block, already indented by four
}

func keyText(key string) string {
	text, err := yaml.Marshal(key)
	if err != nil {
		panic(err) // a string is always one
	}
	return strings.TrimSuffix(string(text), "\n")
}

func indented(text string, n int) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = strings.Repeat(" ", n) + line
		}
	}
	return strings.Join(lines, "\n")
}
