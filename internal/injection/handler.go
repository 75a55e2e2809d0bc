// SPDX-License-Identifier: Apache-2.0

// Package injection injects tokens and verification bundles into pods at admission: it
// adds volumes and read-only mounts for what the pod's annotations name. The function
// inject is pure and decides how the pod changes. The handler around it looks up the
// names; it never refuses a pod because one of them does not exist yet.
package injection

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// handler answers the API server's admission requests.
type handler struct {
	reader  client.Reader    // M2MClients and APIResources, from the cache
	watched sets.Set[string] // namespaces; empty: all
}

// request is the part of an admission request that the answer depends on.
type request struct {
	UID       types.UID             `json:"uid"`
	Operation admissionv1.Operation `json:"operation"`
	Namespace string                `json:"namespace"`
	Object    raw                   `json:"object"`

	// fromAPIServer is set if the API server presented its client certificate. Other
	// callers are not told which objects exist.
	fromAPIServer bool
}

// answer injects into a pod that is being created. All else it allows unchanged.
func (h *handler) answer(ctx context.Context, req request) *admissionv1.AdmissionResponse {
	if req.Operation != admissionv1.Create {
		return allowed(nil)
	}
	if !h.watches(req.Namespace) {
		return allowed([]string{fmt.Sprintf(
			"m2m-operator does not watch namespace %q (--watch-namespaces); nothing was injected into the pod", req.Namespace)})
	}
	p := &pod{}
	if len(req.Object) == 0 {
		return refused(http.StatusBadRequest, "there is no pod in the request")
	}
	if err := decode(req.Object, p); err != nil {
		return refused(http.StatusBadRequest, err.Error())
	}
	annotations, err := p.annotations()
	if err != nil {
		return refused(http.StatusBadRequest, err.Error())
	}
	wish, err := wishOf(annotations, req.Namespace)
	if err != nil {
		return refused(http.StatusForbidden, err.Error())
	}
	if wish.client == "" && len(wish.apis) == 0 {
		return allowed(nil)
	}
	if p.Spec == nil {
		return refused(http.StatusBadRequest, "the pod has no spec")
	}
	secret, warnings, err := h.lookUp(ctx, wish, req)
	if err != nil {
		return refused(http.StatusInternalServerError, err.Error())
	}
	operations, err := inject(p, annotations, req.Namespace, wish, secret)
	if err != nil {
		return refused(http.StatusForbidden, err.Error())
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return refused(http.StatusInternalServerError, err.Error())
	}
	log.FromContext(ctx).V(1).Info("Injected into a pod", "namespace", req.Namespace,
		"client", wish.client, "apis", len(wish.apis), "warnings", len(warnings))
	response := allowed(warnings)
	response.Patch, response.PatchType = patch, ptr.To(admissionv1.PatchTypeJSONPatch)
	return response
}

func allowed(warnings []string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true, Warnings: warnings, Result: &metav1.Status{Code: http.StatusOK}}
}

// refused returns the answer that refuses the pod. Whoever creates it reads the message.
func refused(code int32, message string) *admissionv1.AdmissionResponse {
	status := &metav1.Status{Code: code, Message: message}
	if code == http.StatusForbidden {
		status.Reason = metav1.StatusReasonForbidden
	}
	return &admissionv1.AdmissionResponse{Result: status}
}

// lookUp returns the name of the Secret with the client's tokens. If the API server asks,
// it also returns warnings about the objects that the pod will have to wait for.
func (h *handler) lookUp(ctx context.Context, w wish, req request) (secret string, warnings []string, err error) {
	if w.client != "" {
		c := &v1alpha1.M2MClient{}
		exists, err := h.get(ctx, types.NamespacedName{Namespace: req.Namespace, Name: w.client}, c)
		if err != nil {
			return "", nil, fmt.Errorf("look up M2MClient %q: %w", w.client, err)
		}
		if !exists {
			c.Name = w.client
			warnings = append(warnings, fmt.Sprintf("M2MClient %q does not exist in namespace %q yet; the pod starts when it has a token", w.client, req.Namespace))
		}
		secret = c.SecretName()
	}
	if !req.fromAPIServer {
		return secret, nil, nil
	}
	for _, api := range w.apis {
		exists, err := h.get(ctx, api, &v1alpha1.APIResource{})
		if err != nil {
			return "", nil, fmt.Errorf("look up APIResource %q: %w", api, err)
		}
		if !exists {
			warnings = append(warnings, fmt.Sprintf("APIResource %q does not exist in namespace %q yet; the pod starts when it does", api.Name, api.Namespace))
		}
	}
	return secret, warnings, nil
}

// get reports whether an object exists in the watched namespaces.
func (h *handler) get(ctx context.Context, name types.NamespacedName, obj client.Object) (bool, error) {
	if !h.watches(name.Namespace) {
		return false, nil
	}
	err := h.reader.Get(ctx, name, obj)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (h *handler) watches(namespace string) bool {
	return h.watched.Len() == 0 || h.watched.Has(namespace)
}
