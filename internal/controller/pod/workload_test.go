// SPDX-License-Identifier: Apache-2.0

package pod_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	podcontroller "github.com/m2m-operator/m2m-operator/internal/controller/pod"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestWhatIsMisplaced: the cache knows about an annotation on a workload that belongs
// on its pods, and about a label that should be an annotation. It keeps nothing else
// of the workload.
func TestWhatIsMisplaced(t *testing.T) {
	const clientKey, containersKey, verifyKey = v1alpha1.ClientAnnotation, v1alpha1.ContainersAnnotation, v1alpha1.VerifyAnnotation
	cart := map[string]string{clientKey: "cart"}
	for name, tc := range map[string]struct {
		labels, annotations, template map[string]string
		onWorkload, onPod             string // what is found on a workload, or on a pod
	}{
		"nothing":                                  {},
		"others' labels and annotations":           {labels: map[string]string{"app": "cart"}, annotations: map[string]string{"team": "shop"}},
		"the client":                               {annotations: cart, onWorkload: "annotation " + clientKey},
		"the client, on the pods, too":             {annotations: cart, template: cart},
		"the client as a label":                    {labels: cart, onWorkload: "label " + clientKey, onPod: "label " + clientKey},
		"the client as a label of annotated pods":  {labels: cart, template: cart, onPod: "label " + clientKey},
		"the client as a label and as annotation":  {labels: cart, annotations: cart, onWorkload: "annotation " + clientKey},
		"what the namespace verifies":              {annotations: map[string]string{verifyKey: "payment-api"}},
		"what the namespace verifies, as a label":  {labels: map[string]string{verifyKey: "payment-api"}, onWorkload: "label " + verifyKey, onPod: "label " + verifyKey},
		"containers, and the client on the pods":   {annotations: map[string]string{containersKey: "app"}, template: cart, onWorkload: "annotation " + containersKey},
		"the client as annotation, APIs as labels": {annotations: cart, labels: map[string]string{verifyKey: "a"}, onWorkload: "annotation " + clientKey + ",label " + verifyKey, onPod: "label " + verifyKey},
	} {
		t.Run(name, func(t *testing.T) {
			objects := map[string]client.Object{}
			for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"} {
				o := operator.Workload(kind, "shop", tc.annotations, tc.template)
				o.SetLabels(tc.labels)
				objects[kind] = o
			}
			pod := cached.Metadata("Pod")
			pod.Labels, pod.Annotations = tc.labels, tc.annotations
			objects["Pod"] = pod
			for kind, o := range objects {
				strip, want := cached.StripWorkload, tc.onWorkload
				if kind == "Pod" {
					strip, want = cached.StripPod, tc.onPod
				}
				for range 2 { // the cache may transform an object twice
					if _, err := strip(o); err != nil {
						t.Fatal(err)
					}
					if got := o.GetAnnotations()[cached.MisplacedMark]; got != want || len(o.GetLabels()) > 0 {
						t.Errorf("%s: misplaced is %q, want %q; labels %v", kind, got, want, o.GetLabels())
					}
				}
			}
		})
	}
}

// TestMisplacedAnnotationsAreTold: in a running operator, an event about the workload
// or pod reports them until they are corrected.
func TestMisplacedAnnotationsAreTold(t *testing.T) {
	op := operator.Start(t)
	ns := operator.NewVerifiers(t)
	told := func(kind string) (notes []string) {
		t.Helper()
		var list eventsv1.EventList
		if err := operator.Kube.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == "payment" {
				notes = append(notes, e.Type+" "+e.Reason+": "+e.Note)
			}
		}
		slices.Sort(notes)
		return notes
	}
	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"} {
		o := operator.Workload(kind, ns, map[string]string{v1alpha1.ClientAnnotation: "cart"}, nil)
		o.SetLabels(map[string]string{v1alpha1.VerifyAnnotation: "payment-api"})
		operator.Create(t, o)
		path := "spec.template.metadata.annotations"
		if kind == "CronJob" {
			path = "spec.jobTemplate." + path
		}
		want := []string{
			"Warning Misplaced: No effect here: annotation m2m-operator.io/client, label m2m-operator.io/verify; write it on the pod template, in " + path,
		}
		operator.Eventually(t, func() error {
			if diff := cmp.Diff(want, told(kind)); diff != "" {
				return fmt.Errorf("events of %s (-want +got):\n%s", kind, diff)
			}
			return nil
		})
	}
	pod := operator.AnnotatedPod(ns, "payment")
	pod.Labels[v1alpha1.ClientAnnotation] = "cart"
	operator.Create(t, pod)
	operator.Eventually(t, func() error {
		notes := told("Pod")
		if diff := cmp.Diff([]string{"Warning Misplaced: No effect here: label m2m-operator.io/client; write an annotation on the pod template"}, notes); diff != "" {
			return fmt.Errorf("events of the pod (-want +got):\n%s", diff)
		}
		return nil
	})
	op.Stop()
}

// TestMisplacedAnnotationsAreNotToldForEver: each is reported once, and forgotten when
// it is corrected.
func TestMisplacedAnnotationsAreNotToldForEver(t *testing.T) {
	op := operator.StartStepped(t)
	ns := operator.NewVerifiers(t)
	r := op.Workloads[0]
	notes := &operator.NotedEvents{EventRecorder: r.Events}
	r.Events = notes
	o := operator.Workload(r.Kind, ns, map[string]string{v1alpha1.ClientAnnotation: "cart"}, nil)
	operator.Create(t, o)
	again := func(want time.Duration, told int) {
		t.Helper()
		op.CatchUp(ns)
		result, err := r.Reconcile(t.Context(), operator.RequestOf(client.ObjectKeyFromObject(o)))
		if err != nil || result.RequeueAfter != want {
			t.Errorf("it is reconciled again after %v (%v), want %v", result.RequeueAfter, err, want)
		}
		if got := notes.Take(); len(got) != told {
			t.Errorf("it got the events %q, want %d", got, told)
		}
	}
	again(podcontroller.TellEvery, 1)
	op.Advance(time.Minute)
	again(podcontroller.TellEvery-time.Minute, 0)
	operator.Change(t, o, func(o client.Object) { o.SetAnnotations(nil) })
	again(0, 0)
	if n := len(r.Told.Pods); n != 0 {
		t.Errorf("%d workloads are remembered", n)
	}
	operator.Change(t, o, func(o client.Object) { o.SetAnnotations(map[string]string{v1alpha1.ClientAnnotation: "cart"}) })
	again(podcontroller.TellEvery, 1)
	if err := operator.Kube.Delete(t.Context(), o, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	again(0, 0)
	if n := len(r.Told.Pods); n != 0 {
		t.Errorf("%d workloads are remembered", n)
	}
}

// TestContainersThatNeverComeAreTold: an event of the pod reports what the webhook
// noted at admission.
func TestContainersThatNeverComeAreTold(t *testing.T) {
	op := operator.StartStepped(t)
	notes := operator.NoteEvents(op)
	ns := operator.NewNamespace(t, "shop", nil)
	pod := operator.AnnotatedPod(ns, "pod", v1alpha1.MissingContainersAnnotation, "mesh-proxy,late")
	operator.Create(t, pod)
	op.CatchUp(ns)
	op.Advance(time.Minute)
	if _, err := op.ReconcilePod(pod); err != nil {
		t.Fatal(err)
	}
	want := []string{`pod: ContainersNotFound: The annotation m2m-operator.io/containers names containers that the pod did not have when it was created, so nothing was injected into them: ["mesh-proxy" "late"]`}
	if diff := cmp.Diff(want, notes.Take()); diff != "" {
		t.Errorf("events of the pod (-want +got):\n%s", diff)
	}
}
