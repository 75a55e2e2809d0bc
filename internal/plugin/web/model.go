// SPDX-License-Identifier: Apache-2.0

// Package web makes the page of kubectl m2m ui: a model of what somebody may read, in JSON,
// the page that shows it, and the site that serves both to one user. The page is also written
// as a single file. The package asks nobody: an inventory goes in. It shows no Secret, because
// an inventory has none, and masks what looks like a token wherever it stands.
package web

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// KindResource is the kind of an API that no APIResource describes.
const KindResource = "Resource"

// Model is what the page shows.
type Model struct {
	// Namespace is the one that the page is about, empty for all.
	Namespace string   `json:"namespace,omitempty"`
	Objects   []Object `json:"objects"`
	Edges     []Edge   `json:"edges"`
	// Unused are the grants that no client uses.
	Unused []Grant `json:"unused,omitempty"`
	// Missing are the rights without which the page is incomplete.
	Missing []string `json:"missing,omitempty"`
	// Error says why the objects could not be read again, and ReadAt when they were read. A
	// model that is up to date has neither.
	Error  string       `json:"error,omitempty"`
	ReadAt *metav1.Time `json:"readAt,omitempty"`
}

// Object is an object of the operator, or a resource that clients name without one.
type Object struct {
	ID        string     `json:"id"` // Kind/namespace/name
	Kind      string     `json:"kind"`
	Namespace string     `json:"namespace,omitempty"`
	Name      string     `json:"name"`
	State     tree.State `json:"state"`
	// Wrong reports whether somebody should look at the object.
	Wrong bool `json:"wrong,omitempty"`
	// Sentence says how the object is, Summary what it is.
	Sentence string `json:"sentence"`
	Summary  string `json:"summary,omitempty"`
	// Server is the ID of an API's server.
	Server string `json:"server,omitempty"`
	Details
}

// Details are what is shown of an object that somebody looks at.
type Details struct {
	Problems   []tree.Problem `json:"problems,omitempty"`
	Facts      []Fact         `json:"facts,omitempty"`
	Conditions []Condition    `json:"conditions,omitempty"`
	Pods       []Pod          `json:"pods,omitempty"`
	MorePods   int            `json:"morePods,omitempty"`
}

// Fact is something to know about an object.
type Fact struct {
	Label string       `json:"label"`
	Value string       `json:"value,omitempty"`
	List  []string     `json:"list,omitempty"`
	At    *metav1.Time `json:"at,omitempty"`
}

// Condition is a condition of an object.
type Condition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  string                 `json:"reason"`
	Message string                 `json:"message,omitempty"`
	Since   metav1.Time            `json:"since"`
}

// Pod is a pod that uses an object.
type Pod struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	State     tree.State     `json:"state"`
	Summary   string         `json:"summary,omitempty"`
	Problems  []tree.Problem `json:"problems,omitempty"`
}

// Edge is an access: a client may call an API, or may not.
type Edge struct {
	Client   string     `json:"client"` // an ID
	API      string     `json:"api"`    // an ID
	State    tree.State `json:"state"`
	Sentence string     `json:"sentence"`
	Decision
	Token *tree.Token `json:"token,omitempty"`
}

// Decision is what the tenant rules say of an access.
type Decision struct {
	Key       string           `json:"key"`
	Verdict   decision.Verdict `json:"verdict"`
	Requested []string         `json:"requested,omitempty"`
	Scopes    []string         `json:"scopes,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Message   string           `json:"message,omitempty"`
	Advice    string           `json:"advice,omitempty"`
	By        string           `json:"by,omitempty"`
	// Lines are the lines of YAML that decide.
	Lines []Line `json:"lines,omitempty"`
}

// Line is a line of YAML.
type Line struct {
	Object string `json:"object"` // an ID
	Path   string `json:"path"`
	Value  string `json:"value,omitempty"`
}

// Grant is a grant that no client uses.
type Grant struct {
	API    string   `json:"api"` // an ID
	Path   string   `json:"path"`
	Who    string   `json:"who"`
	Scopes []string `json:"scopes,omitempty"`
}
