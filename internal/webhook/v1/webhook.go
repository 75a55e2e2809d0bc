// SPDX-License-Identifier: Apache-2.0

// Package v1 injects tokens and verification bundles into pods, at admission:
// volumes and read-only mounts for what the pod's annotations name. The function
// inject decides what a pod looks like afterwards; the handler around it looks up
// the names, and never refuses a pod because one does not exist yet.
package v1

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// handler answers the API server's question what a new pod shall look like.
type handler struct {
	reader  client.Reader // M2MClients and APIResources, from the cache
	decoder admission.Decoder
	watched sets.Set[string] // namespaces; empty: all
}

// Handle injects into a pod that is being created.
func (h *handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	if req.Operation != admissionv1.Create {
		return admission.Allowed("")
	}
	if !h.watches(req.Namespace) {
		return admission.Allowed("").WithWarnings(fmt.Sprintf(
			"m2m-operator does not watch namespace %q (--watch-namespaces); nothing was injected into the pod", req.Namespace))
	}
	pod := &corev1.Pod{}
	if err := h.decoder.Decode(req, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	wish, err := wishOf(pod.Annotations, req.Namespace)
	if err != nil {
		return admission.Denied(err.Error())
	}
	if wish.client == "" && len(wish.apis) == 0 {
		return admission.Allowed("")
	}
	secret, warnings, err := h.lookUp(ctx, wish, req.Namespace)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}

	// The patch is made of the pod as we know it, before and after: what a newer
	// API server put into it and we do not know stays as it is.
	before, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	if err := inject(pod, req.Namespace, wish, secret); err != nil {
		return admission.Denied(err.Error())
	}
	after, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	log.FromContext(ctx).V(1).Info("Injected into a pod", "generateName", pod.GenerateName,
		"objects", pod.Annotations[v1alpha1.InjectedAnnotation], "warnings", len(warnings))
	return admission.PatchResponseFromRaw(before, after).WithWarnings(warnings...)
}

// lookUp returns the name of the Secret with the client's tokens, and what the
// pod will have to wait for.
func (h *handler) lookUp(ctx context.Context, w wish, namespace string) (secret string, warnings []string, err error) {
	if w.client != "" {
		c := &v1alpha1.M2MClient{}
		exists, err := h.get(ctx, types.NamespacedName{Namespace: namespace, Name: w.client}, c)
		if err != nil {
			return "", nil, fmt.Errorf("look up M2MClient %q: %w", w.client, err)
		}
		if !exists {
			c.Name = w.client
			warnings = append(warnings, fmt.Sprintf("M2MClient %q does not exist in namespace %q yet; the pod starts when it has a token", w.client, namespace))
		}
		secret = c.SecretName()
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

// get says whether an object exists, as far as the operator can see.
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
