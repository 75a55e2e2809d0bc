// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
)

// FuzzReview: whatever is sent to the webhook, it answers with a review for the same request,
// and a patch is one that can be applied to the pod.
func FuzzReview(f *testing.F) {
	const head = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","operation":"CREATE","namespace":"shop","object":`
	for _, pod := range []string{
		`{}`, `null`, `[]`, `{"metadata":{"annotations":{"m2m-operator.io/client":"cart"}},"spec":{"containers":[{"name":"a"}]}}`,
		`{"metadata":{"annotations":{"m2m-operator.io/client":7}}}`, `{"metadata":{"annotations":{"m2m-operator.io/verify":"a"}},"spec":{"volumes":[{}],"containers":[{}]}}`,
		`{"metadata":{"annotations":{"m2m-operator.io/verify":"a"}}}`,
		`{"metadata":{"annotations":{"m2m-operator.io/verify":"a"}},"spec":{"containers":[{"name":"a","volumeMounts":[{"name":"x","mountPath":"/var/run"}]}],"initContainers":null}}`,
	} {
		f.Add([]byte(head + pod + "}}"))
	}
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, body []byte) {
		h := testHandler(nil)
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal(h.review(httptest.NewRequest(http.MethodPost, Path, http.NoBody), body), &answer); err != nil || answer.Response == nil {
			t.Fatalf("answered %+v: %v", answer, err)
		}
		r := answer.Response
		if !r.Allowed && (r.Result == nil || r.Result.Code < 400 || r.Patch != nil) || r.Allowed && r.Result.Code != http.StatusOK {
			t.Errorf("answered %+v", r)
		}
		if r.Patch == nil {
			return
		}
		var asked struct {
			Request struct {
				UID    string          `json:"uid"`
				Object json.RawMessage `json:"object"`
			} `json:"request"`
		}
		if err := decode(body, &asked); err != nil || asked.Request.UID != string(r.UID) {
			t.Fatalf("asked %q, answered %q: %v", asked.Request.UID, r.UID, err)
		}
		patch, err := jsonpatch.DecodePatch(r.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := patch.Apply(asked.Request.Object); err != nil {
			t.Errorf("%s cannot be applied to %s: %v", r.Patch, asked.Request.Object, err)
		}
	})
}
