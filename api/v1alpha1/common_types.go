// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Duration is a length of time in hours, minutes, seconds and milliseconds,
// such as "90s", "5m" or "1h30m". Each field has a rule for its form and range.
//
// +kubebuilder:validation:Type=string
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=32
type Duration string

// Or returns the duration, or def if it is unset or cannot be parsed. The
// schema admits no value that cannot be parsed.
func (d Duration) Or(def time.Duration) time.Duration {
	if v, err := time.ParseDuration(string(d)); err == nil {
		return v
	}
	return def
}

// FileName is a key of a Secret or ConfigMap, and the name of the file when it
// is mounted.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$') && !self.startsWith('..') && self != '.'",message="must be a plain file name: letters, digits, '-', '_' and '.', not '.' and not starting with '..'"
type FileName string

// EndpointURL is an absolute http or https URL without user information and
// fragment. The operator refuses http unless it runs with
// --allow-insecure-http.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=2048
// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^/?#@ ]+([/?][^# ]*)?$')",message="must be an absolute https:// URL without user information, fragment and spaces"
type EndpointURL string

// ClientID is a client identifier of RFC 6749 section 2.2: printable ASCII.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:XValidation:rule="self.matches('^[ -~]+$')",message="must be printable ASCII (RFC 6749)"
type ClientID string

// TokenFailure describes failed attempts at the server.
type TokenFailure struct {
	// reason is the reason in one word, as in the conditions.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`

	// message says what is wrong.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`

	// attempts is the number of failed attempts in a row.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	Attempts int32 `json:"attempts,omitempty"`

	// nextAttemptAt is when the next attempt is made.
	//
	// +required
	NextAttemptAt *metav1.Time `json:"nextAttemptAt,omitempty"`

	// inputs identifies the inputs of the attempts. When the inputs change, the
	// operator tries again at once.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Inputs string `json:"inputs,omitempty"`
}
