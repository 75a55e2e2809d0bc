// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// What the figures call these cases.
const (
	policed    Fault = "a policy"
	outOfQuota Fault = "a quota"
)

// TestRefusals lets an admission policy of the platform refuse each kind of object that the operator writes into a
// tenant's namespace, and a quota each that it creates there. When the policy or the quota goes, the operator ends as
// if nothing had happened. A short run takes a few scenarios, which a seed selects.
func TestRefusals(t *testing.T) {
	all, seed := newPlaces(t, 4), seedOf(t)
	var cases []*deprived
	for _, s := range someScenarios(seed ^ 1) {
		cases = append(cases, objections(deprivations(t, all, s))...)
	}
	playAll(t, all, oneOfEach(cases, seed))
}

// objections returns the cases in which somebody objects to what needs a right.
func objections(cases []*deprived) (all []*deprived) {
	seen := map[string]bool{}
	add := func(c *deprived, by Fault, verb string) {
		another := *c
		another.by, another.verb = by, verb
		if name := another.String(); !seen[name] {
			seen[name] = true
			all = append(all, &another)
		}
	}
	for _, c := range cases {
		switch c.verb {
		case "create":
			// A quota would refuse what the first step of a scenario itself creates.
			if (c.resource == "secrets" || c.resource == "configmaps") && len(c.scenario.before) > 0 {
				add(c, outOfQuota, "create")
			}
			add(c, policed, "write")
		case "update", "patch":
			add(c, policed, "write")
		}
	}
	return all
}

// police makes a policy of the platform refuse what a user creates or changes of a resource, except in the
// operator's namespace.
func police(r *run, l *licence, of string) (said string, lift func()) {
	r.t.Helper()
	name := "refuse-" + l.role.Name
	plain, sub, _ := strings.Cut(of, "/")
	rule := func(resource string) admissionv1.NamedRuleWithOperations {
		return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{resource}},
		}}
	}
	policy := &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{rule(of), rule("configmaps")}},
			Validations: []admissionv1.Validation{{
				Expression: fmt.Sprintf("object.metadata.name != %[1]q && !(request.userInfo.username == %[2]q && request.namespace != %[3]q && "+
					"request.resource.resource == %[4]q && (has(request.subResource) ? request.subResource : '') == %[5]q)", name, l.role.Name, operator.Namespace, plain, sub),
				Message: name + " objects",
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	return name + " objects", obstruct(r, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.shop, Name: name}}, policy, binding)
}

// exhaust gives the namespaces of a run quotas for a resource that are used up. The controller that keeps count does
// not run here, so what they say of use is written by hand.
func exhaust(r *run, of string) (said string, lift func()) {
	r.t.Helper()
	const name = "used-up"
	key, none := corev1.ResourceName(of), resource.MustParse("0")
	var quotas []client.Object
	for _, ns := range r.all() {
		quotas = append(quotas, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{key: none}},
		})
	}
	var probe client.Object = &corev1.ConfigMap{}
	if of == "secrets" {
		probe = &corev1.Secret{}
	}
	probe.SetNamespace(r.all()[len(r.all())-1])
	probe.SetName("probe")
	return "exceeded quota: " + name, obstruct(r, probe, quotas...)
}

// obstruct creates objects that make the API server refuse a probe, and waits until it does. lift removes them.
func obstruct(r *run, probe client.Object, objects ...client.Object) (lift func()) {
	r.t.Helper()
	operator.Create(r.t, objects...)
	for _, o := range objects {
		if q, ok := o.(*corev1.ResourceQuota); ok {
			q.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: q.Spec.Hard}
			if err := operator.Kube.Status().Update(context.Background(), q); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	try := func() error {
		return operator.Kube.Create(context.Background(), probe.DeepCopyObject().(client.Object), client.DryRunAll)
	}
	operator.Eventually(r.t, func() error {
		if try() == nil {
			return errors.New("nothing is refused yet")
		}
		return nil
	})
	remove := sync.OnceFunc(func() {
		for _, o := range objects {
			if err := operator.Kube.Delete(context.Background(), o); err != nil {
				r.t.Error(err)
			}
		}
	})
	r.t.Cleanup(remove)
	return func() {
		remove()
		operator.Eventually(r.t, try)
	}
}
