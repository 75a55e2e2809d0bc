// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// reader answers every question with the same error.
type reader struct {
	client.Reader
	err error
}

func (r reader) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return r.err
}

func testHandler(t *testing.T, err error, watched ...string) *handler {
	t.Helper()
	s := runtime.NewScheme()
	if err := corev1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	return &handler{reader: reader{err: err}, decoder: admission.NewDecoder(s), watched: sets.New(watched...)}
}

func request(pod string) admission.Request {
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		Operation: admissionv1.Create, Namespace: "shop", Object: runtime.RawExtension{Raw: []byte(pod)},
	}}
}

const annotatedPod = `{"metadata":{"annotations":{"m2m-operator.io/client":"cart"}},"spec":{"containers":[{"name":"app"}]}}`

var notFound = apierrors.NewNotFound(schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "m2mclients"}, "cart")

// TestAnswers are those that the API server does not get by itself in the tests
// with one.
func TestAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		err     error // of the cache
		watched []string
		change  func(*admission.Request)
		want    int32
		message string
	}{
		"a pod":               {err: notFound, want: http.StatusOK},
		"a cache that cannot": {err: errors.New("not filled"), want: http.StatusInternalServerError, message: `look up M2MClient "cart": not filled`},
		"an API that the cache cannot look up": {
			err: errors.New("not filled"), change: func(r *admission.Request) {
				r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/verify":"payments/api"}}}`)
			}, want: http.StatusInternalServerError, message: `look up APIResource "payments/api": not filled`,
		},
		"a pod that is none":          {change: func(r *admission.Request) { r.Object.Raw = []byte(`[]`) }, want: http.StatusBadRequest},
		"nothing":                     {change: func(r *admission.Request) { r.Object.Raw = nil }, want: http.StatusBadRequest, message: "there is no content to decode"},
		"an update":                   {err: errors.New("not asked"), change: func(r *admission.Request) { r.Operation = admissionv1.Update }, want: http.StatusOK},
		"a namespace that is watched": {err: notFound, watched: []string{"shop"}, want: http.StatusOK},
		"a namespace that is not":     {err: errors.New("not asked"), watched: []string{"other"}, want: http.StatusOK},
		"a pod that asks for nothing": {err: errors.New("not asked"), change: func(r *admission.Request) { r.Object.Raw = []byte(`{}`) }, want: http.StatusOK},
		"an annotation that is no name": {change: func(r *admission.Request) {
			r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/verify":"A"}}}`)
		}, want: http.StatusForbidden, message: `annotation m2m-operator.io/verify: "A" is no name of an APIResource; write name or namespace/name, several separated by commas`},
		"a container that is not there": {err: notFound, change: func(r *admission.Request) {
			r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/client":"cart","m2m-operator.io/containers":"x"}},"spec":{"containers":[{"name":"app"}]}}`)
		}, want: http.StatusForbidden, message: `annotation m2m-operator.io/containers: the pod has no container "x"; it has app`},
	} {
		t.Run(name, func(t *testing.T) {
			req := request(annotatedPod)
			if tc.change != nil {
				tc.change(&req)
			}
			w := &admission.Webhook{Handler: testHandler(t, tc.err, tc.watched...)}
			resp := w.Handle(t.Context(), req)
			if resp.Result.Code != tc.want || resp.Allowed != (tc.want == http.StatusOK) {
				t.Errorf("answered %d %q, allowed %v; want %d", resp.Result.Code, resp.Result.Message, resp.Allowed, tc.want)
			}
			if tc.message != "" && resp.Result.Message != tc.message {
				t.Errorf("message %q, want %q", resp.Result.Message, tc.message)
			}
			patched := len(resp.Patches) > 0
			if want := errors.Is(tc.err, notFound) && tc.want == http.StatusOK; patched != want {
				t.Errorf("patched: %v, want %v", patched, want)
			}
		})
	}
}

// TestWhatWeDoNotKnowStays: a newer API server has fields in a pod that we do
// not know.
func TestWhatWeDoNotKnowStays(t *testing.T) {
	req := request(`{
		"metadata": {"annotations": {"m2m-operator.io/client": "cart"}, "fromTheFuture": 1},
		"spec": {
			"fromTheFuture": {"a": 1},
			"volumes": [{"name": "own", "fromTheFuture": {}}],
			"containers": [{
				"name": "app", "fromTheFuture": true,
				"env": [{"name": "A", "valueFrom": {"fromTheFuture": {}}}],
				"volumeMounts": [{"name": "own", "mountPath": "/own", "fromTheFuture": "x"}]
			}]
		}}`)
	resp := testHandler(t, notFound).Handle(t.Context(), req)
	var got []string
	for _, p := range resp.Patches {
		got = append(got, p.Operation+" "+p.Path)
	}
	slices.Sort(got)
	want := []string{
		"add /metadata/annotations/m2m-operator.io~1injected",
		"add /spec/containers/0/env/1",
		"add /spec/containers/0/volumeMounts/1",
		"add /spec/volumes/1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b, _ := json.Marshal(resp.Patches)
		t.Errorf("operations (-want +got):\n%s\n%s", diff, b)
	}
}
