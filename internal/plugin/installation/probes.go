// SPDX-License-Identifier: Apache-2.0

package installation

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// The checks of what was tried.
const (
	Injection = "injection"
	Clocks    = "clocks"
	Issuers   = "issuers"
	FromHere  = "issuers from here"
)

// Tried is what was tried besides reading.
type Tried struct {
	// Injected reports whether the webhook has changed an annotated pod in a dry run in
	// Namespace; Refused is what the API server said instead of accepting the pod.
	Namespace string
	Injected  bool
	Refused   string
	// Labels are the labels of Namespace, nil if they may not be read.
	Labels map[string]string
	// ServerTime is the API server's time, LocalTime that of the machine that asked; zero if
	// the API server does not say.
	ServerTime, LocalTime time.Time
	// Probes are the authorization servers that were asked from the machine of whoever checks; nil if that
	// was not wanted.
	Probes []Probe
}

// Probe is how the issuer of a server answered.
type Probe struct {
	Server  string // the object that names the issuer
	Issuer  string
	Failure string // empty: it answered
	Skipped string // why it was not asked
}

// TrialPod returns an annotated pod, for a dry run only. It asks for nothing that a restricted
// namespace refuses.
func TrialPod(namespace string) *corev1.Pod {
	no, yes := false, true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "kubectl-m2m-check-", Namespace: namespace,
			Annotations: map[string]string{v1alpha1.ClientAnnotation: "kubectl-m2m-check"},
		},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "check", Image: "kubectl-m2m-check",
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
		},
	}
}

// refusedBy finds the webhook that the API server names when it refuses an object.
var refusedBy = regexp.MustCompile(`(?:failed calling webhook|admission webhook) "([^"]+)"`)

// injection judges whether the API server calls the webhook.
func injection(f Found, _ time.Time) Finding {
	const advice = "See the webhook's and the operator's checks above, and whether the API server reaches the webhook's Service"
	const elsewhere = "Choose another namespace with -n, in which you may create pods"
	if len(f.Webhooks) == 0 {
		return ok("there is no webhook to call")
	}
	if !selected(f) {
		return bad(Warning, elsewhere, "the webhook leaves out namespace %q: see its namespaceSelector, and the label %s of the namespace", f.Tried.Namespace, v1alpha1.InjectionLabel)
	}
	by := refusedBy.FindStringSubmatch(f.Tried.Refused)
	switch {
	case by != nil && isOurs(f, by[1]):
		return bad(Failed, advice, "an annotated pod cannot be created: %s", f.Tried.Refused)
	case f.Tried.Refused != "":
		return bad(Warning, elsewhere, "the webhook cannot be tried in namespace %q: %s", f.Tried.Namespace, f.Tried.Refused)
	case !f.Tried.Injected && f.Tried.Labels == nil:
		return bad(Unknown, "", "the webhook was not called for namespace %q, whose labels you may not read: they may be the reason", f.Tried.Namespace)
	case !f.Tried.Injected:
		return bad(Failed, "See the objectSelector and matchConditions of the webhook",
			"the API server creates annotated pods of namespace %q without calling the webhook", f.Tried.Namespace)
	}
	return ok("the webhook injects an annotated pod of namespace %q (dry run)", f.Tried.Namespace)
}

func isOurs(f Found, name string) bool {
	for i := range f.Webhooks {
		if slices.ContainsFunc(f.Webhooks[i].Webhooks, func(w admissionv1.MutatingWebhook) bool { return w.Name == name }) {
			return true
		}
	}
	return false
}

// selected reports whether a webhook is for the namespace of the trial. Of a namespace whose labels are hidden, the
// name is known.
func selected(f Found) bool {
	all := labels.Set{corev1.LabelMetadataName: f.Tried.Namespace}
	if f.Tried.Labels != nil {
		all = f.Tried.Labels
	}
	for i := range f.Webhooks {
		for _, w := range f.Webhooks[i].Webhooks {
			selector, err := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
			if w.NamespaceSelector == nil || err != nil || selector.Matches(all) {
				return true
			}
		}
	}
	return false
}

// ahead is how far a clock may be ahead of the API server's, or behind it.
const ahead = 10 * time.Second

// clocks compares the clocks of the API server, of whoever checks and of the operator. What
// the operator wrote must not be of the future.
func clocks(f Found, _ time.Time) Finding {
	at := f.Tried.ServerTime
	if at.IsZero() {
		return bad(Unknown, "", "the API server does not say its time")
	}
	if l := f.Lease; l != nil && l.Spec.RenewTime != nil && l.Spec.RenewTime.After(at.Add(ahead)) {
		return bad(Failed, "Set the clock of the operator's node, for instance with NTP",
			"the operator's clock is %s ahead of the API server's: it renewed its lease in the future", l.Spec.RenewTime.Sub(at).Truncate(time.Second))
	}
	for _, c := range f.Objects.Clients {
		for _, t := range c.Status.Tokens {
			if t.IssuedAt != nil && t.IssuedAt.After(at.Add(ahead)) {
				return bad(Failed, "Set the clock of the operator's node, for instance with NTP",
					"the operator's clock is %s ahead of the API server's: it issued a token of M2MClient %s/%s in the future", t.IssuedAt.Sub(at).Truncate(time.Second), c.Namespace, c.Name)
			}
		}
	}
	if off := f.Tried.LocalTime.Sub(at); off.Abs() > ahead {
		return bad(Warning, "Set the clock of this machine: what kubectl m2m says of times is wrong",
			"this machine's clock differs by %s from the API server's", off.Truncate(time.Second))
	}
	return ok("the clocks of the API server, the operator and this machine agree")
}

// listed is how many servers a finding names.
const listed = 5

// issuers finds which authorization servers the operator cannot reach, or read.
func issuers(f Found, _ time.Time) Finding {
	var failing []string
	n := 0
	add := func(o client.Object, conditions []metav1.Condition) {
		n++
		name := o.GetName()
		if ns := o.GetNamespace(); ns != "" {
			name = ns + "/" + name
		}
		for _, t := range []string{v1alpha1.ConditionDiscovered, v1alpha1.ConditionKeysFresh, v1alpha1.ConditionProvisioningReady} {
			if c := meta.FindStatusCondition(conditions, t); c != nil && c.Status == metav1.ConditionFalse {
				failing = append(failing, fmt.Sprintf("%s: %s since %s: %s", name, c.Reason, c.LastTransitionTime.UTC().Format(time.RFC3339), c.Message))
				return
			}
		}
		if !meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionDiscovered) {
			failing = append(failing, name+": the operator has not asked it yet")
		}
	}
	for _, s := range f.Objects.Servers {
		add(s, s.Status.Conditions)
	}
	for _, s := range f.Objects.ClusterServers {
		add(s, s.Status.Conditions)
	}
	slices.Sort(failing)
	switch {
	case n == 0:
		return ok("there is no authorization server yet")
	case len(failing) == 0:
		return ok("%s the operator", count(n, "authorization server answers", "authorization servers answer"))
	}
	return bad(Warning, "kubectl m2m status -A says what to do; with --probe, this command asks them from your machine", "%s", text.List(failing, "; ", listed))
}

// fromHere finds which issuers do not answer the machine of whoever checks.
func fromHere(f Found, _ time.Time) Finding {
	var failing, skipped []string
	for _, p := range f.Tried.Probes {
		who := strings.TrimSpace(p.Server + " " + p.Issuer)
		switch {
		case p.Skipped != "":
			skipped = append(skipped, who+": not asked, "+p.Skipped)
		case p.Failure != "":
			failing = append(failing, who+": "+p.Failure)
		}
	}
	if len(failing) > 0 {
		return bad(Warning, "If the operator reaches them, all is well: what counts is the network of its pods", "%s", text.List(append(failing, skipped...), "; ", listed))
	}
	if len(skipped) > 0 {
		return ok("%s this machine; %s", count(len(f.Tried.Probes)-len(skipped), "authorization server answers", "authorization servers answer"), text.List(skipped, "; ", listed))
	}
	return ok("%s this machine", count(len(f.Tried.Probes), "authorization server answers", "authorization servers answer"))
}
