// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	admissionreviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/verification"
	"github.com/m2m-operator/m2m-operator/internal/controller/write"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

// verifyHere has a pod of the API's own namespace verify, and makes it old enough to
// be told what it waits for.
func (s *stage) verifyHere() *corev1.Pod {
	s.t.Helper()
	pod := paymentPod(s, false)
	s.op.catchUp(s.payments, s.shop)
	s.op.advance(time.Minute)
	return pod
}

// rounds reconciles everything several times, where that never comes to rest: what is
// refused is offered again in each round.
func (s *stage) rounds(more ...string) {
	s.t.Helper()
	all := append([]string{s.payments, s.shop}, more...)
	for range 3 {
		s.op.catchUp(all...)
		s.op.round(all...)
	}
}

// TestARefusedBundleIsTold: a policy refuses the bundle in the API's own namespace.
// The API's owner and the pod that waits are told in the API server's words, a
// process that has not tried yet takes nothing back, and the bundle comes as soon as
// it may.
func TestARefusedBundleIsTold(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	events := noteEvents(op)
	name := render.ConfigMapName(s.payments, "payment-api")
	lift := refuse(t, s.payments, "configmaps", "m2m-verify", `'every ConfigMap needs the label team '`+strings.Repeat(" + 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", 20))
	pod := s.verifyHere()
	s.rounds()

	c := hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	hasCondition(t, s.api, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	want := fmt.Sprintf("The API server refuses ConfigMap %q in namespace %q: configmaps %[1]q is forbidden: ", name, s.payments)
	if !strings.HasPrefix(c.Message, want) || !strings.Contains(c.Message, "every ConfigMap needs the label team aaa") {
		t.Errorf("the condition says %q, want %q and the policy's words", c.Message, want)
	}
	if n := utf8.RuneCountInString(c.Message); n > len(want)+verification.MaxRefusal {
		t.Errorf("the condition has %d characters", n)
	}
	wantNote := fmt.Sprintf("payment: VerificationNotReady: Waiting for ConfigMap %q: the API server refuses it in namespace %q: configmaps %[1]q is forbidden: ", name, s.payments)
	if notes := events.take(); len(notes) != 1 || !strings.HasPrefix(notes[0], wantNote) {
		t.Errorf("the pod was told %q, want %q once", notes, wantNote)
	}
	isReady(t, s.cart)

	next := startStepped(t)
	next.clock.SetTime(op.clock.Now())
	if _, err := next.resource.Reconcile(t.Context(), requestOf(client.ObjectKeyFromObject(s.api))); err != nil {
		t.Fatal(err)
	}
	if again := hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused); again.Message != c.Message {
		t.Errorf("a new process says %q", again.Message)
	}
	s.op = next
	lift()
	next.advance(write.RefusalWait)
	s.rounds()
	isReady(t, s.api)
	if s.bundle() == nil {
		t.Error("there is no bundle")
	}
	if wait, err := next.reconcilePod(pod); wait != 0 || err != nil {
		t.Errorf("the pod still waits: %v, %v", wait, err)
	}
}

// TestARefusedUpdateOfABundleIsTold: a bundle is there, and the API server does not
// take a newer one. In another namespace that is a count for the API's owner, and is
// told the pods there.
func TestARefusedUpdateOfABundleIsTold(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	events := noteEvents(op)
	gateway := newNamespace(t, "gateway", nil)
	create(t, annotatedPod(gateway, "gateway", v1alpha1.VerifyAnnotation, s.payments+"/payment-api"))
	s.verifyHere()
	s.rounds(gateway)
	isReady(t, s.api)
	if notes := events.take(); notes != nil {
		t.Errorf("pods with a bundle were told %q", notes)
	}
	lift := refuse(t, gateway, "configmaps", "m2m-verify", "'not here'")
	change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Verification.TokenType = "at+jwt" })
	s.rounds(gateway)
	isReady(t, s.api)
	if got := s.api.Status.Bundle.Undelivered; got != 1 {
		t.Errorf("the status says that %d namespaces lack the bundle, want 1", got)
	}
	want := fmt.Sprintf("gateway: VerificationNotReady: ConfigMap %q is not up to date: the API server refuses it in namespace %q: ",
		render.ConfigMapName(s.payments, "payment-api"), gateway)
	if notes := events.take(); len(notes) != 1 || !strings.HasPrefix(notes[0], want) || !strings.Contains(notes[0], "not here") {
		t.Errorf("the pods were told %q, want %q once", notes, want)
	}
	lift()
	op.advance(write.RefusalWait)
	s.rounds(gateway)
	isReady(t, s.api)
	if got := s.api.Status.Bundle.Undelivered; got != 0 {
		t.Errorf("the status says that %d namespaces lack the bundle, want none", got)
	}
}

// TestPodsAreToldOfARefusedBundle in a running operator, by nothing but the refusal.
func TestPodsAreToldOfARefusedBundle(t *testing.T) {
	op := startOperator(t)
	w := newWorld(t)
	api, _ := w.story()
	isReady(t, api)
	refuse(t, w.shop, "configmaps", "m2m-verify", "'not here'")
	pod := annotatedPod(w.shop, "gateway", v1alpha1.VerifyAnnotation, w.payments+"/payment-api")
	create(t, pod)
	eventually(t, func() error {
		if told := eventsOfPod(t, pod); len(told) != 1 || !strings.Contains(told[0], "the API server refuses it") || !strings.Contains(told[0], "not here") {
			return fmt.Errorf("the pod was told %q", told)
		}
		return nil
	})
	eventually(t, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil || api.Status.Bundle.Undelivered != 1 {
			return fmt.Errorf("the status counts %d: %w", api.Status.Bundle.Undelivered, err)
		}
		return nil
	})
	op.stop()
}

// TestAWordyRefusalIsNotWrittenEachTime: what an admission webhook says may differ
// each time, and a status that changes has the bundle offered again.
func TestAWordyRefusalIsNotWrittenEachTime(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	reasons := 0
	denyByWebhook(t, s.payments, func() string { reasons++; return fmt.Sprintf("no,\nfor the %dth time", reasons) })
	s.verifyHere()
	s.rounds()
	c := hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	if !strings.Contains(c.Message, "denied the request: no, for the ") {
		t.Errorf("the condition says %q", c.Message)
	}
	before := s.api.ResourceVersion
	s.rounds()
	hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	if s.api.ResourceVersion != before {
		t.Error("the status is written with each attempt")
	}
	op.advance(write.RefusalWait)
	s.rounds()
	if later := hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused); later.Message == c.Message {
		t.Error("after a while the condition still says the first thing")
	}
}

// denyByWebhook has an admission webhook refuse the bundles of a namespace until the
// test ends. It gives a message and no code, as many do.
func denyByWebhook(t *testing.T, namespace string, message func() string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionreviewv1.AdmissionReview
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil {
			t.Error(err)
			return
		}
		review.Response = &admissionreviewv1.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{Message: message()}}
		review.Request = nil
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	configuration := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "deny-" + namespace},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:         "deny.example.com",
			ClientConfig: admissionv1.WebhookClientConfig{URL: &server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			SideEffects:             ptr.To(admissionv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
	create(t, configuration)
	t.Cleanup(func() {
		if err := kube.Delete(context.Background(), configuration); err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() error {
		if kube.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "probe"}}, client.DryRunAll) == nil {
			return errors.New("the webhook is not called yet")
		}
		return nil
	})
}

// TestBundlesCarryLabelsAndAnnotations of the spec, in the API's own namespace only.
func TestBundlesCarryLabelsAndAnnotations(t *testing.T) {
	op := startStepped(t)
	s := newStage(t, op)
	gateway := newNamespace(t, "gateway", nil)
	create(t, annotatedPod(gateway, "gateway", v1alpha1.VerifyAnnotation, s.payments+"/payment-api"))
	all := []string{s.payments, s.shop, gateway}
	change(t, s.api, func(a *v1alpha1.APIResource) {
		a.Spec.Bundle = v1alpha1.BundleMetadata{Labels: map[string]string{"team": "payments", "tier": "one"}, Annotations: map[string]string{"example.com/contact": "payments"}}
	})
	s.verifyHere()
	op.settle(all...)
	carries := func(namespace string, labels, annotations map[string]string) {
		t.Helper()
		bundle := bundleIn(t, namespace, s.api)
		if bundle == nil {
			t.Fatal("there is no bundle")
		}
		labels = write.Merged(labels, nil, map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue})
		if diff := cmp.Diff(labels, bundle.Labels); diff != "" {
			t.Errorf("the labels (-want +got):\n%s", diff)
		}
		got := maps.Clone(bundle.Annotations)
		maps.DeleteFunc(got, func(k, _ string) bool { return strings.HasPrefix(k, "m2m-operator.io/") })
		if diff := cmp.Diff(annotations, got); diff != "" {
			t.Errorf("the annotations (-want +got):\n%s", diff)
		}
	}
	none := map[string]string{}
	carries(s.payments, map[string]string{"team": "payments", "tier": "one"}, map[string]string{"example.com/contact": "payments"})
	carries(gateway, nil, none)

	change(t, s.bundle(), func(m *corev1.ConfigMap) { m.Labels["backup"], m.Labels["team"] = "daily", "mine" })
	change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Bundle.Labels = map[string]string{"team": "payments"} })
	op.settle(all...)
	carries(s.payments, map[string]string{"team": "payments", "backup": "daily"}, map[string]string{"example.com/contact": "payments"})

	change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Bundle = v1alpha1.BundleMetadata{} })
	op.settle(all...)
	carries(s.payments, map[string]string{"backup": "daily"}, none)
	if _, there := s.bundle().Annotations[v1alpha1.MetadataAnnotation]; there {
		t.Error("the bundle still says what was set on it")
	}

	// What cannot be a label holds up nothing, and is told.
	change(t, s.api, func(a *v1alpha1.APIResource) {
		a.Spec.Bundle.Labels = map[string]string{"team": "the payments"}
		a.Spec.Verification.TokenType = "at+jwt"
	})
	op.settle(all...)
	carries(s.payments, map[string]string{"backup": "daily"}, none)
	c := hasCondition(t, s.api, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if !strings.HasPrefix(c.Message, `spec.bundle.labels: Invalid value: "the payments"`) {
		t.Errorf("the condition says %q", c.Message)
	}
	if !strings.Contains(s.bundle().Data["verification.json"], "at+jwt") {
		t.Error("the bundle waits for its labels")
	}
}

// TestALabelKeepsNoRevokedKey: a policy refuses a label that comes while a revoked
// key leaves the bundle. The key goes all the same, and the bundle stays.
func TestALabelKeepsNoRevokedKey(t *testing.T) {
	s := newStage(t, startStepped(t))
	change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Bundle.Labels = map[string]string{"team": "payments"} })
	s.settle()
	s.verifies()
	refuseUpdates(t, s.payments, "configmaps", "has(object.metadata.labels) && object.metadata.labels[?'team'].orValue('') == 'payments'")
	change(t, s.api, func(a *v1alpha1.APIResource) { a.Spec.Bundle.Labels = map[string]string{"team": "other"} })
	eventuallyCached(t, s.op, s.api)
	old, _ := s.revokedOne()
	bundle := s.bundle()
	if bundle == nil {
		t.Fatal("the bundle was deleted")
	}
	for _, kid := range bundledKeys(t, bundle) {
		if kid == old {
			t.Error("the revoked key is in the bundle")
		}
	}
	if bundle.Labels["team"] != "payments" {
		t.Errorf("the bundle has the label %q", bundle.Labels["team"])
	}
}
