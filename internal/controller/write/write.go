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

// Preconditions returns preconditions under which only the observed version of an object is
// deleted.
func Preconditions(o client.Object) client.Preconditions {
	return client.Preconditions{UID: ptr.To(o.GetUID()), ResourceVersion: ptr.To(o.GetResourceVersion())}
}

// RefusalWait is how long the operator waits before it offers a refused object again.
const RefusalWait = time.Minute

// Refused reports whether the API server will go on refusing a write, because of a quota, an
// admission policy, validation or the operator's role. The status is 400 if an admission
// webhook refuses without a code.
func Refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsRequestEntityTooLargeError(err)
}

// InvalidMetadata returns the problem with labels or annotations of a spec that an object
// cannot have, nil if there is none. The schema cannot check them: its rules have a cost
// limit.
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
	// The errors are in the random order of a map: report the same one in each pass.
	return &rules.Problem{Reason: v1alpha1.ReasonInvalidTemplate, Message: text.CutRunes(slices.Min(messages), 1024)}
}

// Merged returns a copy of a map without the keys that were set formerly, and with the
// entries that are set now.
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
