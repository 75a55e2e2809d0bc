// SPDX-License-Identifier: Apache-2.0

// Command celcheck reads ValidatingAdmissionPolicies from its input, several YAML
// documents, and compiles their expressions with what CEL can do in an API server of
// the Kubernetes version that its argument names, such as 1.30. It prints what does
// not compile and then fails. Other kinds are passed over.
//
// It is a module of its own for the API server's packages, which the operator does
// not need.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/version"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "celcheck:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: celcheck VERSION")
	}
	oldest, err := version.ParseGeneric(args[0])
	if err != nil {
		return err
	}
	policies, wrong := 0, 0
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(in)); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var p admissionregistrationv1.ValidatingAdmissionPolicy
		if err := yaml.Unmarshal(document, &p.TypeMeta); err != nil {
			return err
		}
		if p.Kind != "ValidatingAdmissionPolicy" {
			continue
		}
		if err := yaml.UnmarshalStrict(document, &p); err != nil {
			return err
		}
		policies++
		errs, err := compile(&p, oldest)
		if err != nil {
			return err
		}
		for _, e := range errs {
			wrong++
			fmt.Fprintf(out, "%s: %v\n", p.Name, e)
		}
	}
	if policies == 0 || wrong > 0 {
		return fmt.Errorf("%d policies, %d expressions that do not compile", policies, wrong)
	}
	return nil
}

// compile returns what is wrong with a policy's expressions. As new ones they may use
// only what that version knows; those that are stored already may use more.
func compile(p *admissionregistrationv1.ValidatingAdmissionPolicy, oldest *version.Version) ([]error, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(oldest))
	if err != nil {
		return nil, err
	}
	options := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	var errs []error
	for _, v := range p.Spec.Variables {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, options, environment.NewExpressions)
		if result.Error != nil {
			errs = append(errs, result.Error)
		}
	}
	var expressions []cel.ExpressionAccessor
	for i := range p.Spec.MatchConditions {
		expressions = append(expressions, (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i]))
	}
	for _, v := range p.Spec.Validations {
		expressions = append(expressions, &validating.ValidationCondition{Expression: v.Expression})
	}
	return append(errs, compiler.CompileCondition(expressions, options, environment.NewExpressions).CompilationErrors()...), nil
}
