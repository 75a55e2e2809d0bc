// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// reader returns the same error for everything.
type reader struct {
	client.Reader
	err error
}

func (r reader) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	if r.err == nil {
		o.SetName(key.Name)
	}
	return r.err
}

func testHandler(err error, watched ...string) *handler {
	return &handler{reader: reader{err: err}, watched: sets.New(watched...)}
}

func requestFor(pod string) *admissionv1.AdmissionRequest {
	return &admissionv1.AdmissionRequest{
		UID: "123", Operation: admissionv1.Create, Namespace: "shop", Object: runtime.RawExtension{Raw: []byte(pod)},
	}
}

// ask calls the handler as the API server does, with or without its certificate.
func ask(t *testing.T, h http.Handler, verified bool, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	review := admissionv1.AdmissionReview{TypeMeta: reviewType, Request: req}
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
	if verified {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		t.Fatalf("answered %d %q: %v", w.Code, w.Body, err)
	}
	if answer.TypeMeta != reviewType || answer.Response.UID != req.UID {
		t.Errorf("the answer is a %v for %q", answer.TypeMeta, answer.Response.UID)
	}
	return answer.Response
}

const annotatedPod = `{"metadata":{"annotations":{"m2m-operator.io/client":"cart"}},"spec":{"containers":[{"name":"app"}]}}`

var notFound = apierrors.NewNotFound(schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "m2mclients"}, "cart")

// TestAnswers covers what the tests with a real API server do not.
func TestAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		err     error // of the cache
		watched []string
		change  func(*admissionv1.AdmissionRequest)
		want    int32
		message string
	}{
		"a pod":               {err: notFound, want: http.StatusOK},
		"a cache that cannot": {err: errors.New("not filled"), want: http.StatusInternalServerError, message: `look up M2MClient "cart": not filled`},
		"an API that the cache cannot look up": {
			err: errors.New("not filled"), change: func(r *admissionv1.AdmissionRequest) {
				r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/verify":"payments/api"}},"spec":{}}`)
			}, want: http.StatusInternalServerError, message: `look up APIResource "payments/api": not filled`,
		},
		"a pod that is none": {change: func(r *admissionv1.AdmissionRequest) { r.Object.Raw = []byte(`[]`) }, want: http.StatusBadRequest},
		"nothing":            {change: func(r *admissionv1.AdmissionRequest) { r.Object.Raw = nil }, want: http.StatusBadRequest, message: "there is no pod in the request"},
		"an update":          {err: errors.New("not asked"), change: func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Update }, want: http.StatusOK},
		"a pod without a spec": {change: func(r *admissionv1.AdmissionRequest) {
			r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/verify":"api"}}}`)
		}, want: http.StatusBadRequest, message: "the pod has no spec"},
		"a namespace that is watched": {err: notFound, watched: []string{"shop"}, want: http.StatusOK},
		"a namespace that is not":     {err: errors.New("not asked"), watched: []string{"other"}, want: http.StatusOK},
		"a pod that asks for nothing": {err: errors.New("not asked"), change: func(r *admissionv1.AdmissionRequest) { r.Object.Raw = []byte(`{}`) }, want: http.StatusOK},
		"an annotation that is no name": {change: func(r *admissionv1.AdmissionRequest) {
			r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/verify":"A"}}}`)
		}, want: http.StatusForbidden, message: `annotation m2m-operator.io/verify: "A" is not the name of an APIResource; write name or namespace/name, several separated by commas`},
		"a container that is not there": {err: notFound, change: func(r *admissionv1.AdmissionRequest) {
			r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/client":"cart","m2m-operator.io/containers":"x"}},"spec":{"containers":[{"name":"app"}]}}`)
		}, want: http.StatusOK}, // it may come
		"what is not the name of a container": {err: notFound, change: func(r *admissionv1.AdmissionRequest) {
			r.Object.Raw = []byte(`{"metadata":{"annotations":{"m2m-operator.io/client":"cart","m2m-operator.io/containers":"x y"}},"spec":{"containers":[{"name":"app"}]}}`)
		}, want: http.StatusForbidden, message: `annotation m2m-operator.io/containers: "x y" is not the name of a container; separate names by commas`},
	} {
		t.Run(name, func(t *testing.T) {
			req := requestFor(annotatedPod)
			if tc.change != nil {
				tc.change(req)
			}
			resp := ask(t, testHandler(tc.err, tc.watched...).http(), true, req)
			if resp.Result.Code != tc.want || resp.Allowed != (tc.want == http.StatusOK) {
				t.Errorf("answered %d %q, allowed %v; want %d", resp.Result.Code, resp.Result.Message, resp.Allowed, tc.want)
			}
			if tc.message != "" && resp.Result.Message != tc.message {
				t.Errorf("message %q, want %q", resp.Result.Message, tc.message)
			}
			patched := len(resp.Patch) > 0
			if want := errors.Is(tc.err, notFound) && tc.want == http.StatusOK; patched != want {
				t.Errorf("patched: %v, want %v", patched, want)
			}
		})
	}
}

// TestWhatWeDoNotKnowStays: pods of a newer API server have fields that we do not know.
func TestWhatWeDoNotKnowStays(t *testing.T) {
	req := requestFor(`{
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
	resp := ask(t, testHandler(notFound).http(), false, req)
	var operations []operation
	if err := json.Unmarshal(resp.Patch, &operations); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range operations {
		got = append(got, p.Op+" "+p.Path)
	}
	slices.Sort(got)
	want := []string{
		"add /metadata/annotations/m2m-operator.io~1injected",
		"add /spec/containers/0/env/1",
		"add /spec/containers/0/volumeMounts/1",
		"add /spec/volumes/1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-want +got):\n%s\n%s", diff, resp.Patch)
	}
}

// TestWhatACopyHasStays: injection removes what an earlier injection added before entries
// with unknown fields, and those entries stay as they are.
func TestWhatACopyHasStays(t *testing.T) {
	former := volumeName("secret/former-token")
	before := []byte(`{
		"metadata": {"annotations": {"m2m-operator.io/client": "cart", "m2m-operator.io/touched-at": "then"}},
		"spec": {
			"volumes": [{"name": "` + former + `", "secret": {"secretName": "former-token"}}, {"name": "own", "fromTheFuture": {"a": 1}}],
			"containers": [{"name": "app", "volumeMounts": [{"name": "` + former + `", "mountPath": "/x"}, {"name": "own", "mountPath": "/own", "fromTheFuture": 1}]}]
		}}`)
	resp := ask(t, testHandler(notFound).http(), false, requestFor(string(before)))
	patch, err := jsonpatch.DecodePatch(resp.Patch)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	ours := volumeName("secret/cart-token")
	want := `{
		"metadata": {"annotations": {"m2m-operator.io/client": "cart", "m2m-operator.io/injected": "secret/cart-token"}},
		"spec": {
			"volumes": [{"name": "own", "fromTheFuture": {"a": 1}}, {"name": "` + ours + `", "secret": {"secretName": "cart-token", "defaultMode": 292}}],
			"containers": [{"name": "app",
				"env": [{"name": "M2M_TOKEN_DIR", "value": "/var/run/secrets/m2m-operator.io/token"}],
				"volumeMounts": [{"name": "own", "mountPath": "/own", "fromTheFuture": 1},
					{"name": "` + ours + `", "readOnly": true, "mountPath": "/var/run/secrets/m2m-operator.io/token"}]}]
		}}`
	var got, wanted any
	if err := errors.Join(json.Unmarshal(after, &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWhatExistsIsToldTheAPIServerOnly: a pod that calls the webhook itself does not learn
// whether a client or an API exists.
func TestWhatExistsIsToldTheAPIServerOnly(t *testing.T) {
	const pod = `{"metadata":{"annotations":{"m2m-operator.io/client":"cart","m2m-operator.io/verify":"payments/api"}},"spec":{"containers":[{"name":"app"}]}}`
	existing, missing := testHandler(nil).http(), testHandler(notFound).http()
	if diff := cmp.Diff(ask(t, existing, false, requestFor(pod)), ask(t, missing, false, requestFor(pod))); diff != "" {
		t.Errorf("anybody is answered otherwise where they exist (-existing +missing):\n%s", diff)
	}
	if n := len(ask(t, missing, true, requestFor(pod)).Warnings); n != 2 {
		t.Errorf("the API server is told of %d that are missing, want 2", n)
	}
}

// TestBoundsOfAPod: a small request cannot cause a huge answer, and no request can cause
// the decoding of too many entries.
func TestBoundsOfAPod(t *testing.T) {
	list := func(n int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	pod := func(spec string) string {
		return `{"metadata":{"annotations":{"m2m-operator.io/client":"cart","m2m-operator.io/verify":"` + numbered(64) + `"}},"spec":{` + spec + `}}`
	}
	const containers = `"containers":[{"name":"app"}]`
	for name, tc := range map[string]struct{ spec, want string }{
		"what is needed":         {containers, ""},
		"as many volumes":        {`"volumes":` + list(4096, `{"name":"a,[b"}`) + `,` + containers, ""},
		"too many volumes":       {`"volumes":` + list(4097, `{}`) + `,` + containers, "the pod has 4097 entries in /spec/volumes; the limit for a pod with these annotations is 4096"},
		"too many of nothing":    {`"volumes":` + list(1<<20, `0`) + `,` + containers, "the pod has 1048576 entries in /spec/volumes; the limit for a pod with these annotations is 4096"},
		"too many variables":     {`"containers":[{"name":"app","env":` + list(5000, `{}`) + `}]`, "the pod has 5000 entries in /spec/containers/0/env; the limit for a pod with these annotations is 4096"},
		"too many mounts":        {`"containers":[{"name":"app","volumeMounts":` + list(5000, `{}`) + `}]`, "the pod has 5000 entries in /spec/containers/0/volumeMounts; the limit for a pod with these annotations is 4096"},
		"too much to answer":     {`"containers":` + list(32, `{"name":"a"}`), "the annotations ask for 2080 mounts, 65 in each of 32 containers; a pod can have 2048"},
		"as much as is answered": {`"containers":` + list(31, `{"name":"a"}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			resp := ask(t, testHandler(notFound).http(), false, requestFor(pod(tc.spec)))
			if resp.Result.Message != tc.want || resp.Allowed != (tc.want == "") {
				t.Errorf("allowed %v: %q, want %q", resp.Allowed, resp.Result.Message, tc.want)
			}
			if len(resp.Patch) > 2<<20 {
				t.Errorf("the patch has %d bytes", len(resp.Patch))
			}
		})
	}
}

// TestAnswersAreLines: a refusal quotes only the beginning of what is wrong.
func TestAnswersAreLines(t *testing.T) {
	h := testHandler(notFound).http()
	var names []string
	for i := range 4096 {
		names = append(names, fmt.Sprintf(`{"name":"%064d"}`, i))
	}
	req := requestFor(`{"metadata":{"annotations":{"m2m-operator.io/client":"cart","m2m-operator.io/containers":"x"}},"spec":{"containers":[` + strings.Join(names, ",") + `]}}`)
	if m := ask(t, h, false, req).Result.Message; len(m) > 1000 {
		t.Errorf("the refusal has %d bytes", len(m))
	}
}

// TestNoReview: what is not a review is refused, and not echoed.
func TestNoReview(t *testing.T) {
	long := strings.Repeat("u", 1000)
	for name, body := range map[string]string{
		"no JSON":           "{",
		"nothing":           "{}",
		"another kind":      `{"apiVersion":"v1","kind":"Pod","request":{"uid":"1"}}`,
		"no request":        `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`,
		"a long identifier": `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"` + long + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			testHandler(notFound).http().ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path, strings.NewReader(body)))
			var answer admissionv1.AdmissionReview
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatal(err)
			}
			if answer.Response.Allowed || answer.Response.Result.Code != http.StatusBadRequest || strings.Contains(w.Body.String(), "uuu") {
				t.Errorf("answered %s", w.Body)
			}
		})
	}
}
