// SPDX-License-Identifier: Apache-2.0

package mutants

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

type policy = admissionregistrationv1.ValidatingAdmissionPolicy

// readPolicies reads the policies of a folder.
func readPolicies(dir string) (all []*policy, err error) {
	err = each(dir, "*.yaml", func(_ string, text []byte) error {
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			p := &policy{}
			if err := yaml.Unmarshal([]byte(document), &p.TypeMeta); err != nil {
				return err
			}
			if p.Kind != "ValidatingAdmissionPolicy" {
				continue
			}
			if err := yaml.UnmarshalStrict([]byte(document), p); err != nil {
				return err
			}
			all = append(all, p)
		}
		return nil
	})
	return all, err
}

// judge is a policy, compiled as the API server does.
type judge struct {
	policy    *policy
	validator validating.Validator
}

func compile(p *policy) (*judge, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, err
	}
	options := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	var errs []error
	for _, v := range p.Spec.Variables {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, options, environment.StoredExpressions)
		if result.Error != nil {
			errs = append(errs, result.Error)
		}
	}
	conditions := func(all []cel.ExpressionAccessor) cel.ConditionEvaluator {
		evaluator := compiler.CompileCondition(all, options, environment.StoredExpressions)
		errs = append(errs, evaluator.CompilationErrors()...)
		return evaluator
	}
	var matches, validations, messages []cel.ExpressionAccessor
	for i := range p.Spec.MatchConditions {
		matches = append(matches, (*matchconditions.MatchCondition)(&p.Spec.MatchConditions[i]))
	}
	for _, v := range p.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
		var message cel.ExpressionAccessor
		if v.MessageExpression != "" {
			message = &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}
		}
		messages = append(messages, message)
	}
	var matcher matchconditions.Matcher
	if len(matches) > 0 {
		matcher = matchconditions.NewMatcher(conditions(matches), p.Spec.FailurePolicy, "policy", "validate", p.Name)
	}
	validator := validating.NewValidator(conditions(validations), matcher, conditions(nil), conditions(messages), p.Spec.FailurePolicy, nil)
	return &judge{p, validator}, errors.Join(errs...)
}

// matches reports whether the policy is asked about a write.
func (j *judge) matches(a admission.Attributes) bool {
	return slices.ContainsFunc(j.policy.Spec.MatchConstraints.ResourceRules, func(r admissionregistrationv1.NamedRuleWithOperations) bool {
		matcher := rules.Matcher{Rule: r.RuleWithOperations, Attr: a}
		return matcher.Matches()
	})
}

// verdict returns why the policy refuses a write, or what it warns of.
func (j *judge) verdict(v *admission.VersionedAttributes) (reasons []string) {
	if !j.matches(v) {
		return nil
	}
	result := j.validator.Validate(context.Background(), v.GetResource(), v, nil, nil, celconfig.RuntimeCELCostBudget, nil)
	for _, d := range result.Decisions {
		if d.Action == validating.ActionDeny {
			reasons = append(reasons, d.Message)
		}
	}
	return reasons
}

// changed is a policy with one change.
type changed struct {
	at, was, is string
	policy      *policy
}

func (c changed) String() string {
	return fmt.Sprintf("%s %s: %s → %s", c.policy.Name, c.at, c.was, c.is)
}

// mutantsOf returns a policy's mutants. Some of them do not compile.
func mutantsOf(p *policy) (all []changed, err error) {
	expression := func(at, text string, field func(*policy) *string) {
		mutants, mutateErr := mutate(text)
		err = errors.Join(err, mutateErr)
		for _, m := range mutants {
			other := p.DeepCopy()
			*field(other) = m.expression
			all = append(all, changed{at, short(m.was), short(m.is), other})
		}
	}
	remove := func(at, what string, f func(*policy)) {
		other := p.DeepCopy()
		f(other)
		all = append(all, changed{at, short(what), "nothing", other})
	}
	for i, c := range p.Spec.MatchConditions {
		at := "matchConditions." + c.Name
		remove(at, c.Expression, func(o *policy) { o.Spec.MatchConditions = slices.Delete(o.Spec.MatchConditions, i, i+1) })
		expression(at, c.Expression, func(o *policy) *string { return &o.Spec.MatchConditions[i].Expression })
	}
	for i, v := range p.Spec.Variables {
		expression("variables."+v.Name, v.Expression, func(o *policy) *string { return &o.Spec.Variables[i].Expression })
	}
	for i, v := range p.Spec.Validations {
		at := fmt.Sprintf("validations[%d]", i)
		remove(at, v.Expression, func(o *policy) { o.Spec.Validations = slices.Delete(o.Spec.Validations, i, i+1) })
		expression(at, v.Expression, func(o *policy) *string { return &o.Spec.Validations[i].Expression })
		if v.MessageExpression != "" {
			expression(at+".message", v.MessageExpression, func(o *policy) *string { return &o.Spec.Validations[i].MessageExpression })
		}
	}
	for i, r := range p.Spec.MatchConstraints.ResourceRules {
		at := fmt.Sprintf("resourceRules[%d]", i)
		rule := func(o *policy) *admissionregistrationv1.NamedRuleWithOperations {
			return &o.Spec.MatchConstraints.ResourceRules[i]
		}
		for j, group := range r.APIGroups {
			remove(at, "group "+group, func(o *policy) { rule(o).APIGroups = slices.Delete(rule(o).APIGroups, j, j+1) })
		}
		for j, resource := range r.Resources {
			remove(at, "resource "+resource, func(o *policy) { rule(o).Resources = slices.Delete(rule(o).Resources, j, j+1) })
		}
		for j, operation := range r.Operations {
			remove(at, "operation "+string(operation), func(o *policy) { rule(o).Operations = slices.Delete(rule(o).Operations, j, j+1) })
		}
	}
	return all, err
}
