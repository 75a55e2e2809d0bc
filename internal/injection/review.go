// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"encoding/json"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/m2m-operator/m2m-operator/internal/serving"
)

const (
	// maxReview is how long a review may be. The API server takes objects of 3 MiB,
	// which grow on their way through JSON.
	maxReview = 7 << 20
	// maxUID is how long its identifier may be. The API server's are UUIDs.
	maxUID = 128
)

var reviewType = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}

// http returns the handler of the webhook's one path, which is counted as those of
// controller-runtime are.
func (h *handler) http() http.Handler {
	mux := http.NewServeMux()
	webhook.NewServer(webhook.Options{WebhookMux: mux}).Register(Path, serving.Buffered(maxReview, h.review))
	return mux
}

// review answers an AdmissionReview with another.
func (h *handler) review(req *http.Request, body []byte) []byte {
	var asked struct {
		metav1.TypeMeta `json:",inline"`
		Request         *request `json:"request"`
	}
	var response *admissionv1.AdmissionResponse
	switch err := decode(body, &asked); {
	case err != nil:
		response = refused(http.StatusBadRequest, "the AdmissionReview cannot be decoded")
	case asked.TypeMeta != reviewType || asked.Request == nil || len(asked.Request.UID) > maxUID:
		response = refused(http.StatusBadRequest, "the request is no AdmissionReview of "+reviewType.APIVersion)
	default:
		asked.Request.fromAPIServer = req.TLS != nil && len(req.TLS.VerifiedChains) > 0
		response = h.answer(req.Context(), *asked.Request)
		response.UID = asked.Request.UID
	}
	answer, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Response: response})
	if err != nil { // of strings and bytes
		log.FromContext(req.Context()).Error(err, "Could not encode an AdmissionReview")
	}
	return answer
}
