// SPDX-License-Identifier: Apache-2.0

package bundle_test

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
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// verifyHere creates a verifying pod in the API's own namespace. The pod is old enough for
// an event about what it waits for.
func verifyHere(s *operator.Stage) *corev1.Pod {
	s.T.Helper()
	pod := operator.PaymentPod(s, false)
	s.Op.CatchUp(s.Payments, s.Shop)
	s.Op.Advance(time.Minute)
	return pod
}

// rounds reconciles everything several times. Such a world never settles: each round
// offers a refused object again.
func rounds(s *operator.Stage, more ...string) {
	s.T.Helper()
	all := append([]string{s.Payments, s.Shop}, more...)
	for range 3 {
		s.Op.CatchUp(all...)
		s.Op.Round(all...)
	}
}

// TestARefusedBundleIsTold: a policy refuses the bundle in the API's own namespace.
// The API's condition and the event of the waiting pod contain the API server's
// answer. A process that has not tried yet keeps the condition, and the bundle is
// written as soon as the policy allows it.
func TestARefusedBundleIsTold(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	events := operator.NoteEvents(op)
	name := render.ConfigMapName(s.Payments, "payment-api")
	lift := operator.Refuse(t, s.Payments, "configmaps", "m2m-verify", `'every ConfigMap needs the label team '`+strings.Repeat(" + 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", 20))
	pod := verifyHere(s)
	rounds(s)

	c := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	operator.HasCondition(t, s.API, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	want := fmt.Sprintf("The API server refuses ConfigMap %q in namespace %q: configmaps %[1]q is forbidden: ", name, s.Payments)
	if !strings.HasPrefix(c.Message, want) || !strings.Contains(c.Message, "every ConfigMap needs the label team aaa") {
		t.Errorf("the condition says %q, want %q and the policy's message", c.Message, want)
	}
	if n := utf8.RuneCountInString(c.Message); n > len(want)+verification.MaxRefusal {
		t.Errorf("the condition has %d characters", n)
	}
	wantNote := fmt.Sprintf("payment: VerificationNotReady: Waiting for ConfigMap %q: the API server refuses it in namespace %q: configmaps %[1]q is forbidden: ", name, s.Payments)
	if notes := events.Take(); len(notes) != 1 || !strings.HasPrefix(notes[0], wantNote) {
		t.Errorf("the pod got the event %q, want %q once", notes, wantNote)
	}
	operator.IsReady(t, s.Cart)

	next := operator.StartStepped(t)
	next.Clock.SetTime(op.Clock.Now())
	if _, err := next.APIResources.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(s.API))); err != nil {
		t.Fatal(err)
	}
	if again := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused); again.Message != c.Message {
		t.Errorf("a new process says %q", again.Message)
	}
	s.Op = next
	lift()
	next.Advance(write.RefusalWait)
	rounds(s)
	operator.IsReady(t, s.API)
	if s.Bundle() == nil {
		t.Error("there is no bundle")
	}
	if wait, err := next.ReconcilePod(pod); wait != 0 || err != nil {
		t.Errorf("the pod still waits: %v, %v", wait, err)
	}
}

// TestARefusedUpdateOfABundleIsTold: the API server refuses an update of an existing
// bundle. In another namespace, the API's owner sees a count, and events tell the pods
// there.
func TestARefusedUpdateOfABundleIsTold(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	events := operator.NoteEvents(op)
	gateway := operator.NewNamespace(t, "gateway", nil)
	operator.Create(t, operator.AnnotatedPod(gateway, "gateway", v1alpha1.VerifyAnnotation, s.Payments+"/payment-api"))
	verifyHere(s)
	rounds(s, gateway)
	operator.IsReady(t, s.API)
	if notes := events.Take(); notes != nil {
		t.Errorf("pods with a bundle got the events %q", notes)
	}
	lift := operator.Refuse(t, gateway, "configmaps", "m2m-verify", "'not here'")
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Verification.TokenType = "at+jwt" })
	rounds(s, gateway)
	operator.IsReady(t, s.API)
	if got := s.API.Status.Bundle.Undelivered; got != 1 {
		t.Errorf("the status says that %d namespaces lack the bundle, want 1", got)
	}
	want := fmt.Sprintf("gateway: VerificationNotReady: ConfigMap %q is not up to date: the API server refuses it in namespace %q: ",
		render.ConfigMapName(s.Payments, "payment-api"), gateway)
	if notes := events.Take(); len(notes) != 1 || !strings.HasPrefix(notes[0], want) || !strings.Contains(notes[0], "not here") {
		t.Errorf("the pods got the events %q, want %q once", notes, want)
	}
	lift()
	op.Advance(write.RefusalWait)
	rounds(s, gateway)
	operator.IsReady(t, s.API)
	if got := s.API.Status.Bundle.Undelivered; got != 0 {
		t.Errorf("the status says that %d namespaces lack the bundle, want none", got)
	}
}

// TestPodsAreToldOfARefusedBundle: in a running operator, the refusal alone causes the
// events of the pods.
func TestPodsAreToldOfARefusedBundle(t *testing.T) {
	op := operator.Start(t)
	w := operator.NewWorld(t)
	api, _ := w.Story()
	operator.IsReady(t, api)
	operator.Refuse(t, w.Shop, "configmaps", "m2m-verify", "'not here'")
	pod := operator.AnnotatedPod(w.Shop, "gateway", v1alpha1.VerifyAnnotation, w.Payments+"/payment-api")
	operator.Create(t, pod)
	operator.Eventually(t, func() error {
		if told := operator.EventsOfPod(t, pod); len(told) != 1 || !strings.Contains(told[0], "the API server refuses it") || !strings.Contains(told[0], "not here") {
			return fmt.Errorf("the pod got the event %q", told)
		}
		return nil
	})
	operator.Eventually(t, func() error {
		if err := operator.Kube.Get(t.Context(), client.ObjectKeyFromObject(api), api); err != nil || api.Status.Bundle.Undelivered != 1 {
			return fmt.Errorf("the status counts %d: %w", api.Status.Bundle.Undelivered, err)
		}
		return nil
	})
	op.Stop()
}

// TestAWordyRefusalIsNotWrittenEachTime: the message of an admission webhook may
// differ each time, and each change of the status offers the bundle again.
func TestAWordyRefusalIsNotWrittenEachTime(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	reasons := 0
	denyByWebhook(t, s.Payments, func() string { reasons++; return fmt.Sprintf("no,\nfor the %dth time", reasons) })
	verifyHere(s)
	rounds(s)
	c := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	if !strings.Contains(c.Message, "denied the request: no, for the ") {
		t.Errorf("the condition says %q", c.Message)
	}
	before := s.API.ResourceVersion
	rounds(s)
	operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused)
	if s.API.ResourceVersion != before {
		t.Error("the status is written with each attempt")
	}
	op.Advance(write.RefusalWait)
	rounds(s)
	if later := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonBundleRefused); later.Message == c.Message {
		t.Error("after a while the condition still has the first message")
	}
}

// denyByWebhook makes an admission webhook refuse the bundles of a namespace until the
// test ends. Like many, it gives a message and no code.
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
	operator.Create(t, configuration)
	t.Cleanup(func() {
		if err := operator.Kube.Delete(context.Background(), configuration); err != nil {
			t.Error(err)
		}
	})
	operator.Eventually(t, func() error {
		if operator.Kube.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "probe"}}, client.DryRunAll) == nil {
			return errors.New("the webhook is not called yet")
		}
		return nil
	})
}

// TestBundlesCarryLabelsAndAnnotations checks the labels and annotations of the spec,
// which only the bundle in the API's own namespace gets.
func TestBundlesCarryLabelsAndAnnotations(t *testing.T) {
	op := operator.StartStepped(t)
	s := operator.NewStage(t, op)
	gateway := operator.NewNamespace(t, "gateway", nil)
	operator.Create(t, operator.AnnotatedPod(gateway, "gateway", v1alpha1.VerifyAnnotation, s.Payments+"/payment-api"))
	all := []string{s.Payments, s.Shop, gateway}
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
		a.Spec.Bundle = v1alpha1.BundleMetadata{Labels: map[string]string{"team": "payments", "tier": "one"}, Annotations: map[string]string{"example.com/contact": "payments"}}
	})
	verifyHere(s)
	op.Settle(all...)
	carries := func(namespace string, labels, annotations map[string]string) {
		t.Helper()
		bundle := operator.BundleIn(t, namespace, s.API)
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
	carries(s.Payments, map[string]string{"team": "payments", "tier": "one"}, map[string]string{"example.com/contact": "payments"})
	carries(gateway, nil, none)

	operator.Change(t, s.Bundle(), func(m *corev1.ConfigMap) { m.Labels["backup"], m.Labels["team"] = "daily", "mine" })
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Bundle.Labels = map[string]string{"team": "payments"} })
	op.Settle(all...)
	carries(s.Payments, map[string]string{"team": "payments", "backup": "daily"}, map[string]string{"example.com/contact": "payments"})

	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Bundle = v1alpha1.BundleMetadata{} })
	op.Settle(all...)
	carries(s.Payments, map[string]string{"backup": "daily"}, none)
	if _, there := s.Bundle().Annotations[v1alpha1.MetadataAnnotation]; there {
		t.Error("the bundle still has the former labels and annotations")
	}

	// An invalid label delays nothing, and the condition reports it.
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) {
		a.Spec.Bundle.Labels = map[string]string{"team": "the payments"}
		a.Spec.Verification.TokenType = "at+jwt"
	})
	op.Settle(all...)
	carries(s.Payments, map[string]string{"backup": "daily"}, none)
	c := operator.HasCondition(t, s.API, v1alpha1.ConditionDistributed, metav1.ConditionFalse, v1alpha1.ReasonInvalidTemplate)
	if !strings.HasPrefix(c.Message, `spec.bundle.labels: Invalid value: "the payments"`) {
		t.Errorf("the condition says %q", c.Message)
	}
	if !strings.Contains(s.Bundle().Data["verification.json"], "at+jwt") {
		t.Error("the bundle waits for its labels")
	}
}

// TestALabelKeepsNoRevokedKey: a policy refuses a label that is added while a revoked
// key leaves the bundle. The key goes all the same, and the bundle stays.
func TestALabelKeepsNoRevokedKey(t *testing.T) {
	s := operator.NewStage(t, operator.StartStepped(t))
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Bundle.Labels = map[string]string{"team": "payments"} })
	s.Settle()
	s.Verifies()
	refuseUpdates(t, s.Payments, "configmaps", "has(object.metadata.labels) && object.metadata.labels[?'team'].orValue('') == 'payments'")
	operator.Change(t, s.API, func(a *v1alpha1.APIResource) { a.Spec.Bundle.Labels = map[string]string{"team": "other"} })
	operator.EventuallyCached(t, s.Op, s.API)
	old, _ := revokeOne(s)
	bundle := s.Bundle()
	if bundle == nil {
		t.Fatal("the bundle was deleted")
	}
	for _, kid := range operator.BundledKeys(t, bundle) {
		if kid == old {
			t.Error("the revoked key is in the bundle")
		}
	}
	if bundle.Labels["team"] != "payments" {
		t.Errorf("the bundle has the label %q", bundle.Labels["team"])
	}
}
