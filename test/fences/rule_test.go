// SPDX-License-Identifier: Apache-2.0

package fences

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
)

// boundsPolicy is not a fence: it bounds what any user may write.
const boundsPolicy = "m2m-operator-metadata-bounds"

// harmless are the writes that no policy narrows, and the reasons why none is needed.
var harmless = map[string]string{
	"create authentication.k8s.io tokenreviews":        "a question whose answer is not stored: who a token is",
	"create authorization.k8s.io subjectaccessreviews": "a question whose answer is not stored: what somebody may do",
	"update m2m-operator.io m2mclients/finalizers":     "no request reaches it: the admission plugin OwnerReferencesPermissionEnforcement asks for the right only; what sets an owner is a write of the Secret",
}

// TestEveryWriteIsFenced: for every right to write that an installation gives to the
// operator's ServiceAccounts, there is a policy and an attack that it refuses.
func TestEveryWriteIsFenced(t *testing.T) {
	refused := attack(t)
	unused := sets.KeySet(harmless)
	for name, objects := range installations(t) {
		accounts := accountsOf(objects)
		if len(accounts) == 0 {
			t.Fatalf("%s has no ServiceAccount", name)
		}
		policies := policiesOf(t, objects)
		for account := range accounts {
			for _, w := range writesOf(t, objects, account) {
				unused.Delete(w.String())
				if harmless[w.String()] != "" {
					continue
				}
				if !slices.ContainsFunc(policies, func(p *admissionregistrationv1.ValidatingAdmissionPolicy) bool { return w.matchedBy(p) }) {
					t.Errorf("%s: no policy matches %q of %s", name, w, account)
				}
				if !refused.Has(w.String()) {
					t.Errorf("%s: no attack shows that %q of %s is fenced", name, w, account)
				}
			}
		}
	}
	for w := range unused {
		t.Errorf("%q is granted nowhere and needs no reason", w)
	}
}

// TestTheFencesKnowTheOperator: every policy applies to every ServiceAccount of the
// installation.
func TestTheFencesKnowTheOperator(t *testing.T) {
	for name, objects := range installations(t) {
		for account := range accountsOf(objects) {
			for _, p := range policiesOf(t, objects) {
				_, suffix, _ := strings.Cut(strings.TrimPrefix(account, "system:serviceaccount:"), ":")
				if len(p.Spec.MatchConditions) != 1 || !strings.Contains(p.Spec.MatchConditions[0].Expression, "':"+suffix+"'") {
					t.Errorf("%s: %s does not apply to %s", name, p.Name, account)
				}
			}
		}
	}
}

// write is a right other than a right to read.
type write struct{ verb, group, resource string }

// String returns the right in the form in which requests are logged.
func (w write) String() string {
	return strings.Join(strings.Fields(w.verb+" "+w.group+" "+w.resource), " ")
}

// operations are the admission operations of a verb.
var operations = map[string]admissionregistrationv1.OperationType{
	"create": admissionregistrationv1.Create, "update": admissionregistrationv1.Update, "patch": admissionregistrationv1.Update,
	"delete": admissionregistrationv1.Delete, "deletecollection": admissionregistrationv1.Delete,
}

// matchedBy reports whether a policy sees the write, in any namespace.
func (w write) matchedBy(p *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
	m := p.Spec.MatchConstraints
	if m.NamespaceSelector != nil && len(m.NamespaceSelector.MatchLabels)+len(m.NamespaceSelector.MatchExpressions) > 0 ||
		m.ObjectSelector != nil && len(m.ObjectSelector.MatchLabels)+len(m.ObjectSelector.MatchExpressions) > 0 || len(m.ExcludeResourceRules) > 0 {
		return false
	}
	return slices.ContainsFunc(m.ResourceRules, func(r admissionregistrationv1.NamedRuleWithOperations) bool {
		return slices.Contains(r.APIGroups, w.group) && slices.Contains(r.Resources, w.resource) && slices.Contains(r.Operations, operations[w.verb])
	})
}

// accountsOf returns the user names of the installation's ServiceAccounts.
func accountsOf(objects []*unstructured.Unstructured) sets.Set[string] {
	all := sets.New[string]()
	for _, o := range objects {
		if o.GetKind() == "ServiceAccount" {
			all.Insert("system:serviceaccount:" + o.GetNamespace() + ":" + o.GetName())
		}
	}
	return all
}

// policiesOf returns the fences that a binding enforces everywhere.
func policiesOf(t *testing.T, objects []*unstructured.Unstructured) []*admissionregistrationv1.ValidatingAdmissionPolicy {
	t.Helper()
	var policies []*admissionregistrationv1.ValidatingAdmissionPolicy
	enforced := sets.New[string]()
	for _, o := range objects {
		switch o.GetKind() {
		case "ValidatingAdmissionPolicy":
			policies = append(policies, as[admissionregistrationv1.ValidatingAdmissionPolicy](t, o))
		case "ValidatingAdmissionPolicyBinding":
			b := as[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, o)
			if b.Spec.MatchResources == nil && b.Spec.ParamRef == nil && slices.Contains(b.Spec.ValidationActions, admissionregistrationv1.Deny) {
				enforced.Insert(b.Spec.PolicyName)
			}
		}
	}
	policies = slices.DeleteFunc(policies, func(p *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
		return !enforced.Has(p.Name) || p.Name == boundsPolicy
	})
	for _, p := range policies {
		if p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admissionregistrationv1.Fail {
			t.Errorf("%s allows requests that it cannot evaluate", p.Name)
		}
	}
	return policies
}

// writesOf returns the rights to write that the installation's bindings give to a
// ServiceAccount.
func writesOf(t *testing.T, objects []*unstructured.Unstructured, account string) []write {
	t.Helper()
	roles := map[string][]rbacv1.PolicyRule{}
	for _, o := range objects {
		if o.GetKind() == "Role" || o.GetKind() == "ClusterRole" {
			roles[o.GetKind()+"/"+o.GetName()] = as[rbacv1.ClusterRole](t, o).Rules
		}
	}
	all := map[string]write{}
	for _, o := range objects {
		if o.GetKind() != "RoleBinding" && o.GetKind() != "ClusterRoleBinding" {
			continue
		}
		binding := as[rbacv1.ClusterRoleBinding](t, o)
		if !slices.ContainsFunc(binding.Subjects, func(s rbacv1.Subject) bool {
			return "system:serviceaccount:"+s.Namespace+":"+s.Name == account
		}) {
			continue
		}
		rules, ok := roles[binding.RoleRef.Kind+"/"+binding.RoleRef.Name]
		if !ok {
			t.Errorf("%s binds %s %s, which the installation does not have", o.GetName(), binding.RoleRef.Kind, binding.RoleRef.Name)
		}
		for _, rule := range rules {
			for _, w := range expand(t, rule) {
				all[w.String()] = w
			}
		}
	}
	return slices.Collect(maps.Values(all))
}

func expand(t *testing.T, rule rbacv1.PolicyRule) []write {
	t.Helper()
	var all []write
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				if strings.Contains(group+resource+verb, "*") {
					t.Errorf("a role grants %q of %q in %q: name them", verb, resource, group)
				}
				if !slices.Contains([]string{"get", "list", "watch"}, verb) {
					all = append(all, write{verb, group, resource})
				}
			}
		}
	}
	return all
}

// requested returns the write that a request makes, in the authorizer's terms.
func requested(req *http.Request) write {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	var w write
	if parts[0] == "api" {
		parts = parts[2:]
	} else {
		w.group, parts = parts[1], parts[3:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	w.resource = parts[0]
	if len(parts) > 2 {
		w.resource += "/" + parts[2]
	}
	w.verb = map[string]string{
		http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodGet: "get",
	}[req.Method]
	if w.verb == "delete" && len(parts) == 1 {
		w.verb = "deletecollection"
	}
	return w
}
