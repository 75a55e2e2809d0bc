// SPDX-License-Identifier: Apache-2.0

// Package write holds what the reconcilers share when they write to the API server:
// the provisioning finalizer, preconditions, labels and annotations that are set
// and taken back, and whether a refused write will be refused again. It does not
// decide what is written.
package write

import (
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// Preconditions have exactly the observed object deleted.
func Preconditions(o client.Object) client.Preconditions {
	return client.Preconditions{UID: ptr.To(o.GetUID()), ResourceVersion: ptr.To(o.GetResourceVersion())}
}

// RefusalWait is how long a refused Secret is not offered again.
const RefusalWait = time.Minute

// Refused reports whether the API server will go on refusing a write: a quota, an
// admission policy, its validation or the operator's role forbid it. An admission
// webhook that gives no code is answered for with 400.
func Refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsRequestEntityTooLargeError(err)
}

// InvalidMetadata reports which label or annotation of a spec an object cannot
// have. The schema cannot: its rules may not read so much.
func InvalidMetadata(path *field.Path, labels, annotations map[string]string) *rules.Problem {
	errs := slices.Concat(
		metav1validation.ValidateLabels(labels, path.Child("labels")),
		apivalidation.ValidateAnnotations(annotations, path.Child("annotations")))
	if len(errs) == 0 {
		return nil
	}
	messages := make([]string, len(errs))
	for i, err := range errs {
		messages[i] = err.Error()
	}
	// They come in the order of a map: the same one is told in each pass.
	return &rules.Problem{Reason: v1alpha1.ReasonInvalidTemplate, Message: text.CutRunes(slices.Min(messages), 1024)}
}

// Merged returns what is there without what was set formerly and with what is
// set now.
func Merged(there map[string]string, formerly []string, now ...map[string]string) map[string]string {
	m := map[string]string{}
	maps.Copy(m, there)
	for _, k := range formerly {
		delete(m, k)
	}
	for _, set := range now {
		maps.Copy(m, set)
	}
	return m
}
