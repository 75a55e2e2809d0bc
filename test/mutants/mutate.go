// SPDX-License-Identifier: Apache-2.0

// Package mutants asks of each clause of the admission policies in config/admission and of
// the CEL rules in config/crd whether a test would notice its absence. It takes one clause
// away, or turns it round, and judges again all writes that the suites of test/fences,
// test/docs and test/samples have recorded: a mutant that decides all of them as the
// original does has survived. It is a module of its own, so that the operator does not
// depend on the API server's packages.
package mutants

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/parser"
)

// mutant is an expression with one change.
type mutant struct {
	was, is    string // the part that was changed
	expression string // the whole
}

var factory = ast.NewExprFactory()

// mutate returns the mutants of an expression. Some of them do not compile.
func mutate(expression string) ([]mutant, error) {
	p, err := parser.NewParser(parser.Macros(), parser.EnableOptionalSyntax(true)) // all and exists stay what they are
	if err != nil {
		return nil, err
	}
	tree, errs := p.Parse(common.NewTextSource(expression))
	if len(errs.GetErrors()) > 0 {
		return nil, fmt.Errorf("parse %q: %s", expression, errs.ToDisplayString())
	}
	m := &mutator{root: tree.Expr(), info: tree.SourceInfo(), seen: map[string]bool{}}
	if m.whole, err = m.text(m.root); err != nil {
		return nil, err
	}
	m.seen[m.whole] = true
	m.boolean(m.root)
	m.visit(m.root)
	return m.mutants, m.err
}

type mutator struct {
	root    ast.Expr
	info    *ast.SourceInfo
	whole   string
	seen    map[string]bool // by the whole expression
	mutants []mutant
	err     error
}

func (m *mutator) text(e ast.Expr) (string, error) { return parser.Unparse(e, m.info) }

// replace adds the mutant in which a part of the expression is another.
func (m *mutator) replace(part, by ast.Expr) {
	was, err := m.text(part)
	if err != nil {
		m.err = err
		return
	}
	before, after := factory.NewUnspecifiedExpr(0), factory.CopyExpr(by)
	before.SetKindCase(part) // with the same operands: they are mutated, too
	is, err := m.text(after)
	if err != nil {
		m.err = err
		return
	}
	part.SetKindCase(after)
	whole, err := m.text(m.root)
	part.SetKindCase(before)
	if err != nil {
		m.err = err
		return
	}
	if !m.seen[whole] {
		m.seen[whole] = true
		m.mutants = append(m.mutants, mutant{was: was, is: is, expression: whole})
	}
}

func call(function string, args ...ast.Expr) ast.Expr {
	for i, a := range args {
		args[i] = factory.CopyExpr(a)
	}
	return factory.NewCall(0, function, args...)
}

// opposites are the functions that are replaced by one another.
var opposites = map[string][]string{
	operators.LogicalAnd: {operators.LogicalOr}, operators.LogicalOr: {operators.LogicalAnd},
	operators.Less: {operators.LessEquals}, operators.LessEquals: {operators.Less},
	operators.Greater: {operators.GreaterEquals}, operators.GreaterEquals: {operators.Greater},
	"all": {"exists"}, "exists": {"all"}, "exists_one": {"exists"},
}

// visit mutates what is below a part, and the part itself as far as that does not depend on
// where it is.
func (m *mutator) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.CallKind:
		m.call(e)
	case ast.ListKind:
		elements := e.AsList().Elements()
		for i := range elements {
			fewer := append(append([]ast.Expr{}, elements[:i]...), elements[i+1:]...)
			m.replace(e, factory.NewList(0, fewer, nil))
		}
		for _, x := range elements {
			m.visit(x)
		}
	case ast.SelectKind:
		m.visit(e.AsSelect().Operand())
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			m.visit(entry.AsMapEntry().Value())
		}
	}
}

func (m *mutator) call(e ast.Expr) {
	c := e.AsCall()
	args := c.Args()
	for _, other := range opposites[c.FunctionName()] {
		if c.IsMemberFunction() {
			m.replace(e, factory.NewMemberCall(0, other, factory.CopyExpr(c.Target()), args...))
		} else {
			m.replace(e, call(other, args[0], args[1]))
		}
	}
	switch c.FunctionName() {
	case operators.LogicalAnd, operators.LogicalOr:
		for _, a := range args {
			m.replace(e, a)
			m.boolean(a)
		}
	case operators.LogicalNot:
		m.replace(e, args[0])
		// What it negates is not negated once more.
	case operators.Conditional:
		m.replace(e, args[1])
		m.replace(e, args[2])
		m.boolean(args[0])
	case operators.Add:
		m.replace(e, args[0])
		m.replace(e, args[1])
	case "all", "exists", "exists_one":
		m.boolean(args[1])
	case "filter":
		m.replace(e, c.Target())
		m.boolean(args[1])
	}
	if c.IsMemberFunction() {
		m.visit(c.Target())
	}
	for _, a := range args {
		m.visit(a)
	}
}

// boolean negates a condition. The operands of a conjunction or disjunction are negated one
// at a time.
func (m *mutator) boolean(e ast.Expr) {
	if e.Kind() == ast.CallKind {
		switch e.AsCall().FunctionName() {
		case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot:
			return
		case operators.Equals:
			m.replace(e, call(operators.NotEquals, e.AsCall().Args()...))
			return
		case operators.NotEquals:
			m.replace(e, call(operators.Equals, e.AsCall().Args()...))
			return
		}
	}
	m.replace(e, call(operators.LogicalNot, e))
}

// short cuts a part of an expression for a report and a list.
func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 160 {
		return string(r[:100]) + " … " + string(r[len(r)-57:])
	}
	return s
}
