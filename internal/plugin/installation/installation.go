// SPDX-License-Identifier: Apache-2.0

// Package installation judges whether the operator is installed soundly. It is pure: what was
// found in the cluster and the time are arguments.
package installation

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// label marks what the installation consists of.
const label = "app.kubernetes.io/name=m2m-operator"

// Result is the result of a check.
type Result string

// The results of checks.
const (
	OK      Result = "OK"
	Warning Result = "Warning" // it works, and something should be looked at
	Failed  Result = "Failed"
	Unknown Result = "Unknown" // a right is missing
)

// Finding is the result of one check.
type Finding struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// Found is what was found in the cluster.
type Found struct {
	Version     string // of the API server
	Kinds       []apiextensionsv1.CustomResourceDefinition
	Deployments []appsv1.Deployment
	Lease       *coordinationv1.Lease // nil if there is none
	Webhooks    []admissionv1.MutatingWebhookConfiguration
	Endpoints   []discoveryv1.EndpointSlice // of the webhook's Service
	Policies    []admissionv1.ValidatingAdmissionPolicy
	Bindings    []admissionv1.ValidatingAdmissionPolicyBinding
	Roles       []rbacv1.ClusterRoleBinding
	Objects     *inventory.Inventory
	Tried       Tried
	// GatewayPolicies are those that APIResources control.
	GatewayPolicies []metav1.PartialObjectMetadata
	// Hidden are the missing rights, by check.
	Hidden map[string]inventory.Right
}

// Names are the CRDs of the operator.
var Names = []string{
	string(inventory.ClusterServers), string(inventory.Servers), string(inventory.APIs), string(inventory.Clients),
}

// The checks.
const (
	Server    = "API server"
	Kinds     = "kinds"
	Operator  = "operator"
	Leader    = "leader"
	Roles     = "roles"
	Webhook   = "webhook"
	Endpoints = "webhook's pods"
	Policies  = "policies"
	Watched   = "namespaces"
)

type check struct {
	name  string
	judge func(Found, time.Time) Finding
}

// Check judges an installation.
func Check(f Found, now time.Time) []Finding {
	checks := []check{
		{Server, server}, {Kinds, kinds}, {Operator, operator}, {Leader, leader}, {Roles, roles},
		{Webhook, webhook}, {Endpoints, endpoints}, {Injection, injection}, {Policies, policies}, {Watched, watched}, {Clocks, clocks}, {Issuers, issuers},
	}
	if f.Tried.Probes != nil {
		checks = append(checks, check{FromHere, fromHere})
	}
	return judged(f, now, checks)
}

// judged answers questions whose rights are not missing.
func judged(f Found, now time.Time, checks []check) []Finding {
	var all []Finding
	for _, c := range checks {
		if right, ok := f.Hidden[c.name]; ok {
			all = append(all, Finding{Check: c.name, Result: Unknown, Detail: "you may not " + right.String()})
			continue
		}
		finding := c.judge(f, now)
		finding.Check = c.name
		all = append(all, finding)
	}
	return all
}

// ok and bad make findings of one line: what they quote may be a tenant's.
func ok(format string, args ...any) Finding {
	return Finding{Result: OK, Detail: text.Line(fmt.Sprintf(format, args...))}
}

func bad(result Result, advice, format string, args ...any) Finding {
	return Finding{Result: result, Detail: text.Line(fmt.Sprintf(format, args...)), Advice: text.Line(advice)}
}

func server(f Found, _ time.Time) Finding { return ok("Kubernetes %s", f.Version) }

func kinds(f Found, _ time.Time) Finding {
	for _, name := range Names {
		i := slices.IndexFunc(f.Kinds, func(c apiextensionsv1.CustomResourceDefinition) bool { return c.Name == name })
		if i < 0 {
			return bad(Failed, "Install the operator's CRDs", "CustomResourceDefinition %q does not exist", name)
		}
		established := slices.ContainsFunc(f.Kinds[i].Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
			return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
		})
		if !established {
			return bad(Failed, "See the conditions of the CustomResourceDefinition", "CustomResourceDefinition %q is not established", name)
		}
	}
	return ok("%d kinds are established", len(Names))
}

func operator(f Found, now time.Time) Finding {
	holder, outside := Outside(f.Deployments, f.Lease, now)
	right, hidden := f.Hidden[Leader]
	switch {
	case outside:
		return bad(Warning, "If that is intended, as in make demo, all is well; its version, its flags and its rights cannot be checked here",
			"it runs outside of the cluster, or without the label %s: %s holds the lease, and there is no Deployment", label, holder)
	case len(f.Deployments) == 0 && hidden:
		return bad(Unknown, "", "there is no Deployment of the operator, and it is not known whether one runs outside of the cluster: you may not %s", right)
	case len(f.Deployments) == 0:
		return bad(Failed, "Install the operator, or name its namespace with --operator-namespace", "there is no Deployment of the operator")
	}
	var details []string
	for i := range f.Deployments {
		d := &f.Deployments[i]
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		detail := fmt.Sprintf("Deployment %s/%s: %d of %s ready, image %s",
			d.Namespace, d.Name, d.Status.ReadyReplicas, count(int(want), "replica is", "replicas are"), image(d))
		advice := fmt.Sprintf("See kubectl -n %s describe deployment %s, and the log of its pods", d.Namespace, d.Name)
		switch {
		case d.Status.ReadyReplicas == 0:
			return bad(Failed, advice, "%s", detail)
		case d.Status.ReadyReplicas < want:
			return bad(Warning, advice, "%s", detail)
		}
		details = append(details, detail)
	}
	return ok("%s", strings.Join(details, "; "))
}

func image(d *appsv1.Deployment) string {
	for _, c := range d.Spec.Template.Spec.Containers {
		return c.Image
	}
	return "unknown"
}

func leader(f Found, now time.Time) Finding {
	const advice = "See the log of the operator's pods; nothing is refreshed without a leader"
	holder, age, fresh := leads(f.Lease, now)
	switch {
	case holder == "":
		return bad(Failed, advice, "no replica leads")
	case !fresh:
		return bad(Failed, advice, "%s led, and has not renewed the lease for %s", holder, age)
	}
	return ok("%s leads", holder)
}

// leads returns the holder of a lease, or "" if there is none, how long ago they renewed it, and whether it is still
// theirs.
func leads(l *coordinationv1.Lease, now time.Time) (holder string, age time.Duration, fresh bool) {
	if l == nil || l.Spec.HolderIdentity == nil || l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return "", 0, false
	}
	age = now.Sub(l.Spec.RenewTime.Time).Truncate(time.Second)
	return *l.Spec.HolderIdentity, age, age <= time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second
}

// Outside reports whether an operator runs without a Deployment of the cluster, and returns the holder of its lease.
func Outside(deployments []appsv1.Deployment, lease *coordinationv1.Lease, now time.Time) (holder string, outside bool) {
	holder, _, fresh := leads(lease, now)
	return holder, len(deployments) == 0 && holder != "" && fresh
}

func roles(f Found, now time.Time) Finding {
	if _, outside := Outside(f.Deployments, f.Lease, now); outside {
		return ok("not checked: an operator outside of the cluster has an identity of its own")
	}
	if len(f.Deployments) == 0 {
		return bad(Unknown, "", "there is no Deployment whose ServiceAccount could have roles")
	}
	for i := range f.Deployments {
		d := &f.Deployments[i]
		account := cmp.Or(d.Spec.Template.Spec.ServiceAccountName, "default")
		var names []string
		for _, b := range f.Roles {
			if slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
				return s.Kind == "ServiceAccount" && s.Namespace == d.Namespace && s.Name == account
			}) {
				names = append(names, b.RoleRef.Name)
			}
		}
		if len(names) == 0 {
			return bad(Failed, "Apply the installation's ClusterRoleBindings again", "no ClusterRoleBinding names ServiceAccount %s/%s", d.Namespace, account)
		}
	}
	return ok("%s of the operator", count(len(f.Roles), "ClusterRoleBinding", "ClusterRoleBindings"))
}

// soon is how long a certificate should still be valid. The operator renews when a third of
// its year is left.
const soon = 14 * 24 * time.Hour

func webhook(f Found, now time.Time) Finding {
	if len(f.Webhooks) == 0 {
		return bad(Warning, "Install the webhook, or mount Secrets and ConfigMaps yourself", "there is no webhook: annotated pods start without tokens and bundles")
	}
	for _, config := range f.Webhooks {
		for _, w := range config.Webhooks {
			until, err := validUntil(w.ClientConfig.CABundle)
			switch {
			case err != nil:
				return bad(Failed, "See the operator's log: it writes the caBundle", "MutatingWebhookConfiguration %q: %v", config.Name, err)
			case !until.After(now):
				return bad(Failed, "See the operator's log: it renews the certificate", "the certificate of MutatingWebhookConfiguration %q expired at %s", config.Name, until.UTC().Format(time.RFC3339))
			case until.Before(now.Add(soon)):
				return bad(Warning, "See the operator's log: it renews the certificate", "the certificate of MutatingWebhookConfiguration %q expires at %s", config.Name, until.UTC().Format(time.RFC3339))
			case w.FailurePolicy != nil && *w.FailurePolicy == admissionv1.Ignore:
				return bad(Warning, "Set failurePolicy to Fail, unless a pod without tokens is better than none", "while the webhook does not answer, pods start without tokens (failurePolicy Ignore)")
			}
		}
	}
	return ok("the certificate is valid")
}

// validUntil returns until when the last certificate of a bundle is valid.
func validUntil(bundle []byte) (until time.Time, err error) {
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return until, fmt.Errorf("the caBundle has a certificate that cannot be read")
		}
		if c.NotAfter.After(until) {
			until = c.NotAfter
		}
	}
	if until.IsZero() {
		return until, fmt.Errorf("there is no certificate in the caBundle")
	}
	return until, nil
}

func endpoints(f Found, _ time.Time) Finding {
	if len(f.Webhooks) == 0 {
		return ok("none are needed")
	}
	if byURL(f) {
		return ok("none are needed: the API server calls the webhook at a URL")
	}
	ready := 0
	for _, s := range f.Endpoints {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready++
			}
		}
	}
	switch {
	case ready == 0 && f.Tried.Injected:
		return bad(Warning, "If the webhook is served outside of the cluster, all is well; otherwise see the EndpointSlices of its Service",
			"no pod is ready behind the webhook's Service, although the webhook answers (see injection)")
	case ready == 0:
		return bad(Failed, "See the check of the operator: no annotated pod can be created", "no pod serves the webhook")
	}
	return ok("%s the webhook", count(ready, "pod serves", "pods serve"))
}

// byURL reports whether the API server calls every webhook at a URL, without a Service.
func byURL(f Found) bool {
	for _, config := range f.Webhooks {
		if slices.ContainsFunc(config.Webhooks, func(w admissionv1.MutatingWebhook) bool { return w.ClientConfig.URL == nil }) {
			return false
		}
	}
	return true
}

func policies(f Found, _ time.Time) Finding {
	if len(f.Policies) == 0 {
		return bad(Warning, "Apply the installation's ValidatingAdmissionPolicies: they limit what the operator may change", "there is no policy")
	}
	for _, p := range f.Policies {
		action := admissionv1.Deny
		if p.Spec.FailurePolicy != nil && *p.Spec.FailurePolicy == admissionv1.Ignore {
			action = admissionv1.Warn // it gives advice
		}
		bound := slices.ContainsFunc(f.Bindings, func(b admissionv1.ValidatingAdmissionPolicyBinding) bool {
			return b.Spec.PolicyName == p.Name && slices.Contains(b.Spec.ValidationActions, action)
		})
		if !bound {
			return bad(Failed, "Apply the installation's ValidatingAdmissionPolicyBindings again", "ValidatingAdmissionPolicy %q is not bound with %s", p.Name, action)
		}
	}
	return ok("%s bound", count(len(f.Policies), "policy is", "policies are"))
}

// watched finds objects that the operator does not look at, because of its flag.
func watched(f Found, now time.Time) Finding {
	if _, outside := Outside(f.Deployments, f.Lease, now); outside {
		return ok("not checked: the flags of an operator outside of the cluster are not known")
	}
	limited, isLimited := []string{}, false
	for i := range f.Deployments {
		for _, c := range f.Deployments[i].Spec.Template.Spec.Containers {
			for _, arg := range c.Args {
				if list, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "watch-namespaces="); ok && list != "" {
					isLimited = true
					limited = append(limited, strings.Split(list, ",")...)
				}
			}
		}
	}
	if !isLimited {
		return ok("the operator watches all")
	}
	var outside []string
	add := func(namespace string) {
		if !slices.Contains(limited, namespace) && !slices.Contains(outside, namespace) {
			outside = append(outside, namespace)
		}
	}
	for _, c := range f.Objects.Clients {
		add(c.Namespace)
	}
	for _, a := range f.Objects.APIs {
		add(a.Namespace)
	}
	for _, s := range f.Objects.Servers {
		add(s.Namespace)
	}
	if len(outside) > 0 {
		slices.Sort(outside)
		return bad(Warning, "Add them to --watch-namespaces, or delete the objects: their conditions do not change any more",
			"the operator does not watch these namespaces with objects of its kinds: %s", strings.Join(outside, ", "))
	}
	return ok("the operator watches %s", strings.Join(limited, ", "))
}
