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
	// maxReview limits a review, in bytes. The API server accepts objects of 3 MiB,
	// which grow when they are encoded as JSON.
	maxReview = 7 << 20
	// maxUID limits the length of a review's UID. The API server's are UUIDs.
	maxUID = 128
)

var reviewType = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}

// http returns the handler of the webhook's only path. It has controller-runtime's
// metrics.
func (h *handler) http() http.Handler {
	mux := http.NewServeMux()
	webhook.NewServer(webhook.Options{WebhookMux: mux}).Register(Path, serving.Buffered(maxReview, h.review))
	return mux
}

// review answers an AdmissionReview.
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
		response = refused(http.StatusBadRequest, "the request is not an AdmissionReview of "+reviewType.APIVersion)
	default:
		asked.Request.fromAPIServer = req.TLS != nil && len(req.TLS.VerifiedChains) > 0
		response = h.answer(req.Context(), *asked.Request)
		response.UID = asked.Request.UID
	}
	answer, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Response: response})
	if err != nil { // impossible: strings and bytes only
		log.FromContext(req.Context()).Error(err, "Could not encode an AdmissionReview")
	}
	return answer
}
