// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// EnforcementName names an entry of spec.enforcement.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=40
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be lowercase letters, digits and '-', with a letter or digit at both ends"
// +kubebuilder:validation:XValidation:rule="self != 'spare-1' && self != 'spare-2'",message="must not be spare-1 or spare-2, which name the policies of spare targets"
type EnforcementName string

// Enforcement says where tokens for the API are checked.
//
// +kubebuilder:validation:ExactlyOneOf=envoyGateway;istio;envoy
// +kubebuilder:validation:XValidation:rule="!has(self.rules) || !has(self.istio) || self.rules.all(r, !has(r.scopes) || r.scopes.all(s, !s.startsWith('*') && !s.endsWith('*')))",message="Istio takes an asterisk at either end of a scope for a wildcard, so such a scope cannot be required there",fieldPath=".rules"
type Enforcement struct {
	// name names the entry, and the objects that the operator writes for it:
	// m2m.<APIResource>.<name>. At most 40 characters, and not spare-1 or spare-2.
	//
	// +required
	Name EnforcementName `json:"name,omitempty"`

	// envoyGateway lets Envoy Gateway, 1.9 or later, check tokens, with a
	// SecurityPolicy. The installation must allow it.
	//
	// +optional
	EnvoyGateway EnvoyGatewayEnforcement `json:"envoyGateway,omitzero"`

	// istio lets Istio's proxies check tokens, with a RequestAuthentication
	// and an AuthorizationPolicy. The installation must allow it.
	//
	// +optional
	Istio IstioEnforcement `json:"istio,omitzero"`

	// envoy is for an Envoy that checks tokens with filters from the files
	// of the verification bundle. It is written as {}.
	//
	// +optional
	Envoy *EnvoyEnforcement `json:"envoy,omitempty"`

	// drain is how long the gateway keeps connections that it had before a
	// change of the keys, from 0s to 2m: spec.shutdown.drainTimeout of an
	// EnvoyProxy, drainDuration of Istio's ProxyConfig. New keys, or the tokens
	// that they signed, wait that long for such connections. Defaults to 60s at
	// Envoy Gateway, and 45s at Istio, as they do.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && duration(self) <= duration('2m')",message="must be a duration of at most 2m, such as 60s"
	Drain Duration `json:"drain,omitempty"`

	// rules say which requests a valid token permits. A request passes if one
	// rule permits it; all other requests are refused. If unset, every request
	// with a valid token of the API passes. At most 16.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Rules []EnforcementRule `json:"rules,omitempty"`
}

// EnvoyGatewayEnforcement names what Envoy Gateway protects.
//
// +kubebuilder:validation:XValidation:rule="!has(self.spareTargetRefs) || self.targetRefs.all(t, t.kind != 'Gateway')",message="spareTargetRefs work only if all targetRefs are routes"
type EnvoyGatewayEnforcement struct {
	// targetRefs are the Gateways and routes in the APIResource's namespace
	// whose requests need a token. At most 16.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []EnvoyGatewayTarget `json:"targetRefs,omitempty"`

	// spareTargetRefs let the keys change without refusing a call. They are two
	// routes, or two rules of routes, in the APIResource's namespace that get no
	// requests and have the parents of the routes in targetRefs. The operator
	// writes policies for them that refuse every request. If unset, Envoy
	// Gateway refuses one call of each open connection whenever keys change.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=2
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.kind != 'Gateway')",message="must be routes, because a Gateway has other requests"
	// +kubebuilder:validation:XValidation:rule="self.size() != 2 || self[0] != self[1]",message="must be two different targets"
	SpareTargetRefs []EnvoyGatewayTarget `json:"spareTargetRefs,omitempty"`
}

// EnvoyGatewayTargetKind is a kind of the group gateway.networking.k8s.io.
//
// +kubebuilder:validation:Enum=Gateway;HTTPRoute;GRPCRoute
type EnvoyGatewayTargetKind string

// EnvoyGatewayTarget is a Gateway or a route.
type EnvoyGatewayTarget struct {
	// kind is Gateway, HTTPRoute or GRPCRoute.
	//
	// +required
	Kind EnvoyGatewayTargetKind `json:"kind,omitempty"`

	// name is its name.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`

	// sectionName is the name of one listener of the Gateway, or of one rule of
	// the route. If unset, all of them.
	//
	// +optional
	SectionName ObjectName `json:"sectionName,omitempty"`
}

// IstioEnforcement names what Istio protects.
//
// +kubebuilder:validation:ExactlyOneOf=selector;targetRefs
type IstioEnforcement struct {
	// selector selects the pods in the APIResource's namespace whose proxies
	// check tokens. Waypoints ignore it: name them, or a Service, in targetRefs.
	//
	// +optional
	Selector IstioSelector `json:"selector,omitzero"`

	// targetRefs are the Gateways, Services and ServiceEntries in the
	// APIResource's namespace whose requests need a token. Services and
	// ServiceEntries need a waypoint. At most 16.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []IstioTarget `json:"targetRefs,omitempty"`
}

// IstioSelector selects pods.
type IstioSelector struct {
	// matchLabels are the labels that the pods must have. At most 16, of 2048
	// characters together.
	//
	// +required
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.map(k, size(k) + size(self[k])).sum() <= 2048",message="labels must have at most 2048 characters together"
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
}

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// IstioTargetKind is a kind of object that Istio's policies can name.
//
// +kubebuilder:validation:Enum=Gateway;Service;ServiceEntry
type IstioTargetKind string

// IstioTarget is an object that Istio's proxies stand before.
type IstioTarget struct {
	// kind is Gateway (of gateway.networking.k8s.io), Service or ServiceEntry.
	//
	// +required
	Kind IstioTargetKind `json:"kind,omitempty"`

	// name is its name.
	//
	// +required
	Name ObjectName `json:"name,omitempty"`
}

// EnvoyEnforcement has no fields yet.
type EnvoyEnforcement struct{}

// EnforcementRule permits requests.
type EnforcementRule struct {
	// name tells the rule from others, also where the gateway shows it.
	//
	// +required
	Name EnforcementName `json:"name,omitempty"`

	// methods are the HTTP methods that the rule permits. If unset, all.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=9
	Methods []HTTPMethod `json:"methods,omitempty"`

	// paths are the paths that the rule permits. If unset, all. At most 8.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Paths []EnforcementPath `json:"paths,omitempty"`

	// scopes are the scopes, out of spec.scopes, that the token must have, all
	// of them. If unset, none. At most 8.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Scopes []ScopeName `json:"scopes,omitempty"`
}

// HTTPMethod is a method of an HTTP request.
//
// +kubebuilder:validation:Enum=GET;HEAD;POST;PUT;DELETE;CONNECT;OPTIONS;TRACE;PATCH
type HTTPMethod string

// PathMatchType says how a path is compared.
//
// +kubebuilder:validation:Enum=Exact;PathPrefix
type PathMatchType string

// The values of PathMatchType.
const (
	// PathExact compares the whole path.
	PathExact PathMatchType = "Exact"
	// PathPrefix compares whole segments: /v1 permits /v1 and /v1/x, but not
	// /v10.
	PathPrefix PathMatchType = "PathPrefix"
)

// EnforcementPath is a path of a request, without its query.
type EnforcementPath struct {
	// type is Exact for the path itself, or PathPrefix for the path and all
	// below it, as in Gateway API: /v1 is a prefix of /v1/x, but not of /v10.
	//
	// +required
	Type PathMatchType `json:"type,omitempty"`

	// value is the path. It begins with a slash, and is written as the gateway
	// sees it after it has normalized the request's path: without "//", "/./",
	// "/../" and percent-encoding.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^(/([-.A-Za-z0-9_~!$&()+,;=:@]*[-A-Za-z0-9_~!$&()+,;=:@][-.A-Za-z0-9_~!$&()+,;=:@]*|[.]{3,}))*/?$')",message="must be a path that begins with '/', without '//', '/./', '/../', '?', '#', '%', '*' and spaces"
	Value string `json:"value,omitempty"`
}
