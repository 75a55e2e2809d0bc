// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode/utf8"

	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Templates come from tenants, so they may use only a small part of text/template:
// text, actions, variables, if, with, and range over a list in the data. The
// elements of the list of keys have fields. The parse tree is checked before a
// template runs; a machine bounds the cost while it runs.

const (
	// MaxTemplate bounds the source of a template.
	MaxTemplate = 4 << 10
	// MaxSecretOutput bounds a rendered file of a token Secret, and every
	// intermediate value.
	MaxSecretOutput = 64 << 10
	// MaxBundleOutput does the same for a file of a verification bundle.
	MaxBundleOutput = 128 << 10

	// maxCost bounds the steps that a template can take, to a few milliseconds'
	// worth. Each value and each action is one step, and a call is callCost steps.
	// The body of a range counts as often as its list can be long, whatever the
	// data. So the cost is known before the template runs, and a new scope does not
	// make it too costly.
	maxCost  = 40_000
	callCost = 10

	// templateName is at the beginning of every error of text/template.
	templateName = "template"
)

// rules list what a kind of template may use.
type rules struct {
	funcs     map[string]arity
	fields    map[string]int // name → how long the list can be, 0 for a field that is not a list
	records   []string       // the fields that are keys, or lists of keys
	times     int            // how often the template runs
	maxOutput int
}

// arity is how many arguments a function takes, including a piped one.
type arity struct{ min, max int }

var (
	secretRules = rules{
		funcs: map[string]arity{
			"token": {1, 1}, "base64": {1, 1}, "json": {1, 1}, "quote": {1, 1},
			"and": {1, 9}, "or": {1, 9}, "not": {1, 1}, "eq": {2, 2}, "ne": {2, 2}, "len": {1, 1}, "index": {2, 2},
		},
		times:     1,
		maxOutput: MaxSecretOutput,
	}
	bundleRules = rules{
		funcs: map[string]arity{
			"base64": {1, 1}, "json": {1, 1}, "quote": {1, 1}, "join": {2, 2}, "indent": {2, 2},
			"and": {1, 9}, "or": {1, 9}, "not": {1, 1}, "eq": {2, 2}, "ne": {2, 2}, "len": {1, 1}, "index": {2, 2},
		},
		fields: map[string]int{
			"Name": 0, "Namespace": 0, "Issuer": 0, "Audience": 0, "JWKS": 0, "JWKSURI": 0,
			"Algorithms": maxAlgorithms, "Scopes": MaxScopes, "ScopeClaims": maxScopeClaims, "ClockSkewSeconds": 0, "TokenType": 0, fieldKeys: MaxKeys,
			"AudienceClaims": maxNamedClaims, "AudienceValues": maxNamedValues, "AudiencePrefix": 0,
		},
		records:   []string{fieldKeys},
		times:     1,
		maxOutput: MaxBundleOutput,
	}
	perKeyRules = forEachKey(bundleRules)
)

// The fields of the data that hold keys.
const (
	fieldKeys = "Keys"
	fieldKey  = "Key" // in a file for each key: the key of the file
)

// forEachKey returns the rules of a template that is rendered for each key.
func forEachKey(r rules) rules {
	r.fields = maps.Clone(r.fields)
	r.fields[fieldKey] = 0
	r.records = append(slices.Clip(r.records), fieldKey)
	r.times = MaxKeys
	return r
}

// rulesOf returns the rules for a file of a bundle.
func rulesOf(name string) rules {
	if strings.Contains(name, eachKey) {
		return perKeyRules
	}
	return bundleRules
}

// checked is a template that passed its rules.
type checked struct {
	rules
	src      string
	template *template.Template
	tokens   []string // the keys of the tokens that it shows
	cost     int      // the most steps that it can take
}

// parseTemplate checks src against rules.
func parseTemplate(r rules, src string) (*checked, error) {
	if len(src) > MaxTemplate {
		return nil, fmt.Errorf("template has %d bytes, more than %d", len(src), MaxTemplate)
	}
	t, err := template.New(templateName).Funcs((&machine{}).funcs()).Parse(src)
	if err != nil {
		return nil, r.parseError(err)
	}
	if len(t.Templates()) > 1 {
		return nil, errors.New("define and block are not available")
	}
	c := checker{&checked{rules: r, src: src, template: t}}
	if err := c.node(t.Root, scope{times: r.times}); err != nil {
		return nil, err
	}
	return c.checked, nil
}

// parsePrefix matches the beginning of a parse error of text/template.
var parsePrefix = regexp.MustCompile(`^template: ` + templateName + `:(\d+): `)

// parseError shortens an error of text/template, which shows nothing but parts of
// the source.
func (r rules) parseError(err error) error {
	msg := text.CutBytes(parsePrefix.ReplaceAllString(err.Error(), "line $1: "), 200)
	if strings.HasPrefix(msg[strings.Index(msg, ": ")+1:], " function ") {
		msg += "; the functions are " + r.functions()
	}
	return errors.New(msg)
}

func (r rules) functions() string {
	return strings.Join(slices.Sorted(maps.Keys(r.funcs)), ", ")
}

// checker walks a parse tree.
type checker struct{ *checked }

// scope is what a node has from the nodes around it.
type scope struct {
	rebound bool     // dot is not the data, but what with or range set it to
	key     bool     // dot is a key
	keys    []string // the variables that are keys
	ranges  []string // the fields that enclosing ranges walk
	times   int      // how often the node can run
}

// charge counts the steps of a node.
func (c checker) charge(n parse.Node, steps int, s scope) error {
	if c.cost += steps * s.times; c.cost > maxCost {
		return c.errAt(n, "up to here the template can take more than %d steps; shorten it, above all inside range", maxCost)
	}
	return nil
}

// errAt returns an error at a node.
func (c checker) errAt(n parse.Node, format string, args ...any) error {
	before := c.src[:min(int(n.Position()), len(c.src))]
	line := 1 + strings.Count(before, "\n")
	column := len(before) - strings.LastIndexByte(before, '\n')
	return fmt.Errorf("line %d, column %d: %s", line, column, fmt.Sprintf(format, args...))
}

// node checks a node against an allow-list of kinds.
func (c checker) node(n parse.Node, s scope) error {
	if list, ok := n.(*parse.ListNode); ok && list == nil { // no else
		return nil
	}
	if err := c.charge(n, 1, s); err != nil {
		return err
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, n := range n.Nodes {
			if err := c.node(n, s); err != nil {
				return err
			}
		}
		return nil
	case *parse.TextNode:
		return nil
	case *parse.ActionNode:
		return c.pipe(n.Pipe, s)
	case *parse.IfNode:
		return c.branch(&n.BranchNode, s, s)
	case *parse.WithNode:
		inside := s
		inside.rebound, inside.key = true, false
		return c.branch(&n.BranchNode, s, inside)
	case *parse.RangeNode:
		field := c.listField(n.Pipe)
		if field == "" {
			return c.errAt(n, "range takes one of the lists %s, as in {{ range $.Scopes }}", quoted(c.lists()))
		}
		// Only nested ranges over the same list make the work grow with its square.
		if slices.Contains(s.ranges, field) {
			return c.errAt(n, "range over %s is inside another range over it", field)
		}
		inside := scope{
			rebound: true, key: slices.Contains(c.records, field), keys: s.keys,
			ranges: append(slices.Clip(s.ranges), field), times: s.times * c.fields[field],
		}
		if declared := n.Pipe.Decl; inside.key && len(declared) > 0 {
			inside.keys = append(slices.Clip(s.keys), declared[len(declared)-1].Ident[0])
		}
		return c.branch(&n.BranchNode, s, inside)
	default:
		return c.errAt(n, "only text, values, if, with and range are available")
	}
}

func (c checker) branch(n *parse.BranchNode, outside, inside scope) error {
	if err := c.pipe(n.Pipe, outside); err != nil {
		return err
	}
	if err := c.node(n.List, inside); err != nil {
		return err
	}
	return c.node(n.ElseList, outside)
}

// listField returns the list in the data that a range walks, or "".
func (c checker) listField(p *parse.PipeNode) string {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return ""
	}
	var name string
	switch n := p.Cmds[0].Args[0].(type) {
	case *parse.FieldNode:
		name = n.Ident[0]
	case *parse.VariableNode:
		name = n.Ident[len(n.Ident)-1]
	}
	if c.fields[name] == 0 {
		return ""
	}
	return name
}

func (c checker) lists() (names []string) {
	for name, length := range c.fields {
		if length > 0 {
			names = append(names, name)
		}
	}
	return names
}

// pipe checks commands joined by "|".
func (c checker) pipe(p *parse.PipeNode, s scope) error {
	for i, cmd := range p.Cmds {
		first := cmd.Args[0]
		args := cmd.Args[1:]
		count := len(args) + min(i, 1) // the piped argument comes last
		if id, ok := first.(*parse.IdentifierNode); ok {
			if err := c.charge(id, callCost, s); err != nil {
				return err
			}
			if err := c.call(id, args, count); err != nil {
				return err
			}
		} else if count > 0 {
			return c.errAt(first, "only functions take arguments; the functions are %s", c.functions())
		} else {
			args = cmd.Args
		}
		for _, arg := range args {
			if err := c.operand(arg, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// call checks a function's name and the number of its arguments.
func (c checker) call(id *parse.IdentifierNode, args []parse.Node, count int) error {
	a, ok := c.funcs[id.Ident]
	if !ok {
		return c.errAt(id, "function %s is not available; the functions are %s", id.Ident, c.functions())
	}
	if count < a.min || count > a.max {
		return c.errAt(id, "function %s has %d arguments, want %s", id.Ident, count, a)
	}
	if id.Ident != "token" {
		return nil
	}
	// The key must be readable without running the template, which tells a template
	// that waits for a token from a wrong one.
	if len(args) == 1 {
		if key, ok := args[0].(*parse.StringNode); ok {
			c.tokens = append(c.tokens, key.Text)
			return nil
		}
	}
	return c.errAt(id, `token takes a key in quotes, as in {{ token "payment-api" }}`)
}

func (a arity) String() string {
	if a.min == a.max {
		return fmt.Sprint(a.min)
	}
	return fmt.Sprintf("%d to %d", a.min, a.max)
}

// operand checks a value against another allow-list of kinds.
func (c checker) operand(n parse.Node, s scope) error {
	if err := c.charge(n, 1, s); err != nil {
		return err
	}
	switch n := n.(type) {
	case *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
		return nil
	case *parse.PipeNode:
		return c.pipe(n, s)
	case *parse.DotNode:
		if !s.rebound {
			return c.errAt(n, "a dot alone has a meaning only inside with and range; %s", c.fieldHint())
		}
		return nil
	case *parse.VariableNode:
		switch path := n.Ident[1:]; {
		case n.Ident[0] == "$" && len(path) > 0:
			return c.field(n, path)
		case n.Ident[0] != "$" && len(path) == 0:
			return nil
		case slices.Contains(s.keys, n.Ident[0]):
			return c.keyField(n, path)
		}
		return c.errAt(n, "%.60s is not a field; %s", n, c.fieldHint())
	case *parse.FieldNode:
		switch {
		case s.key:
			return c.keyField(n, n.Ident)
		case s.rebound && len(c.fields) > 0 && len(n.Ident) == 1:
			return c.errAt(n, "inside with and range write $.%.60s", n.Ident[0])
		}
		return c.field(n, n.Ident)
	case *parse.IdentifierNode:
		return c.errAt(n, "put the call of %.60s in parentheses", n.Ident)
	default:
		return c.errAt(n, "%.60s cannot be used here", n)
	}
}

// field checks the path to a field of the data.
func (c checker) field(n parse.Node, path []string) error {
	name := path[0]
	switch _, ok := c.fields[name]; {
	case len(path) > 1 && c.fields[name] == 0 && slices.Contains(c.records, name):
		return c.keyField(n, path[1:])
	case len(path) > 1:
		return c.errAt(n, "%.60s is not a field; %s", n, c.fieldHint())
	case !ok:
		return c.errAt(n, "there is no field %.60q; %s", name, c.fieldHint())
	}
	return nil
}

// keyField checks the path to a field of a key.
func (c checker) keyField(n parse.Node, path []string) error {
	if len(path) > 1 || !slices.Contains(keyFields, path[0]) {
		return c.errAt(n, "%.60s is not a field of a key, which has %s; write other fields as $.%.60s",
			n, strings.Join(keyFields, ", "), path[0])
	}
	return nil
}

func (c checker) fieldHint() string {
	if len(c.fields) == 0 {
		return `a token is shown by {{ token "key" }}`
	}
	return "the fields are " + strings.Join(slices.Sorted(maps.Keys(c.fields)), ", ")
}

// execPosition matches the beginning of an execution error of text/template.
var execPosition = regexp.MustCompile(`^template: ` + templateName + `:(\d+):(\d+): `)

// execute runs the template once. An error never holds a value: errors of
// text/template do, so only the position is kept.
func (c *checked) execute(data map[string]any, token func(key string) string) (string, error) {
	return c.executeOn(&machine{limit: c.maxOutput, token: token}, data)
}

// executeOn runs the template on a machine, which adds the cost to that of its
// earlier runs.
func (c *checked) executeOn(m *machine, data map[string]any) (string, error) {
	m.out.Reset()
	if err := c.template.Option("missingkey=error").Funcs(m.funcs()).Execute(m, data); err != nil {
		why := errArgument
		errors.As(err, &why)
		if at := execPosition.FindStringSubmatch(err.Error()); at != nil {
			return "", fmt.Errorf("line %s, column %s: %w", at[1], at[2], why)
		}
		return "", why
	}
	out := m.out.String()
	if !utf8.ValidString(out) {
		return "", errEncoding
	}
	return out, nil
}
