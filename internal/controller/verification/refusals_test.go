// SPDX-License-Identifier: Apache-2.0

package verification

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// TestRefusalsAreBounded checks their number and length.
func TestRefusalsAreBounded(t *testing.T) {
	r := NewRefusals(clock.RealClock{})
	api := &v1alpha1.APIResource{}
	for i := range 2 * maxRefusals {
		r.Refused(Request{Namespace: fmt.Sprint(i), API: types.NamespacedName{Namespace: "payments", Name: "api"}}, api, &corev1.ConfigMap{}, errors.New(strings.Repeat("x", 4*MaxRefusal)))
	}
	if n := r.said.Len(); n != maxRefusals {
		t.Errorf("%d refusals are kept", n)
	}
	last, _ := r.Of(Request{Namespace: fmt.Sprint(2*maxRefusals - 1), API: types.NamespacedName{Namespace: "payments", Name: "api"}})
	if n := utf8.RuneCountInString(last); n != MaxRefusal {
		t.Errorf("a refusal of %d characters is kept", n)
	}
}
