// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// meaning says which values of a field mean something, where the schema alone does not tell. In an item of a list,
// # stands for its number.
type meaning struct {
	path   *regexp.Regexp // after the kind and a space
	values []string
}

func (m meaning) of(f field) bool { return m.path.MatchString(f.kind + " " + f.path) }

// meant returns a meaning.
func meant(path string, values ...string) meaning {
	return meaning{regexp.MustCompile(path + "$"), values}
}

const selectors = `(identifierClaims\[\]\.namespaces|grants\[\]\.clients\.namespaces|verification\.namespaces|allowedNamespaces)`

// meaningful are references to what exists, what is missing and what belongs to another tenant, and values of one kind
// that others depend on. The first that matches counts.
var meaningful = []meaning{
	// Identity: it never changes, and what is refused is tested with the invalid values.
	meant(`spec\.(issuer|identifier)`),
	// Unions and objects: their fields are set, within what frames say.
	meant(`M2MClient spec\.access`, `[{"apiResourceRef":{"name":"payment-api","namespace":"$payments"},"scopes":["payments:write"]},{"apiResourceRef":{"name":"orders-api","namespace":"$payments"}}]`,
		`[{"apiResourceRef":{"name":"orders-api","namespace":"$payments"},"key":"payment-api"}]`,
		`[{"resource":"https://payment.example.com/api","key":"payment-api","scopes":["payments:read"]},{"apiResourceRef":{"name":"private-api","namespace":"$more"}}]`),
	meant(`access\[\]\.apiResourceRef`, `{"name":"orders-api","namespace":"$payments"}`, `{"name":"private-api","namespace":"$more"}`, `{"name":"payment-api"}`),
	meant(`access\[\]\.apiResourceRef\.name`, `"orders-api"`, `"missing"`),
	meant(`access\[\]\.apiResourceRef\.namespace`, `"$shop"`, `"$more"`, `"missing"`),
	meant(`access\[\]\.resource`, `"https://payment.example.com/api"`, `"https://orders.example.com/api"`, `"urn:unknown"`),
	meant(`access\[\]\.scopes`, `["payments:read"]`, `["payments:read","payments:write"]`, `["payments:unknown"]`, numbered("payments:", 64)),
	meant(`access\[\]\.parameters`, `[{"name":"audience","value":"x"}]`),
	meant(`credentials`, `{"clientSecret":{"secretRef":{"name":"cart-credentials"},"method":"Post"}}`, `{"privateKeyJWT":{"secretRef":{"name":"cart-key"}}}`, `{"serviceAccount":{"name":"default"}}`),
	meant(`spec\.authorizationServerRef`, `{"name":"missing"}`, `{"name":"auth-$shop","kind":"ClusterAuthorizationServer"}`, `{"name":"elsewhere"}`),
	meant(`spec\.authorizationServerRef\.name`, `"missing"`, `"elsewhere"`),
	meant(`secretRef\.name`, `"missing"`, `"cart-key"`, `"cart-token"`),
	meant(`(SecretRef|configMapRef)\.name`, `"missing"`),
	meant(`secretRef\.key`, `"other-id"`, `"missing"`),
	meant(`clientIDKey`, `"other-id"`, `"missing"`),
	meant(`clientID`, `"cart-app"`, `"cart-key-app"`, `"unknown"`),
	meant(`secret\.name`, `"another"`, `"cart-credentials"`, quote(strings.Repeat("a", 253))),
	meant(`secret\.template`, `{"header":"Bearer {{ token \"payment-api\" }}"}`, `{"broken":"{{"}`, `{"unknown":"{{ token \"unknown\" }}"}`),
	meant(`istio\.selector`, `{"matchLabels":{"app":"payment"}}`),
	meant(`selector`, `{"matchLabels":{"kubernetes.io/metadata.name":"$shop"}}`, `{"matchExpressions":[{"key":"team","operator":"DoesNotExist"}]}`,
		`{"matchExpressions":[{"key":"team","operator":"Nonsense"}]}`, `{"matchLabels":{"not a label!":"x"}}`, `{}`),
	meant(selectors+`\.names`, `["missing"]`, `["$shop","$payments"]`, `["$more"]`, numbered("a", 64)),
	meant(selectors, `{"names":["$shop"]}`, `{"names":["missing"]}`, `{"names":["$shop","$payments","$more"]}`, `{"selector":{}}`),
	meant(`grants\[\]\.clients`, `{"namespaces":{"names":["$shop"]},"names":["cart"]}`, `{"namespaces":{"selector":{}},"names":["other"]}`),
	meant(`grants\[\]\.clients\.names`, `["cart"]`, `["other"]`, numbered("a", 64)),
	meant(`grants\[\]\.scopes`, `["payments:read"]`, `["payments:write"]`),
	meant(`grants`, `[{"clients":{"namespaces":{"names":["$more"]}}}]`, `[{"clients":{"namespaces":{"selector":{}}},"scopes":["payments:read"]},{"clients":{"namespaces":{"names":["$shop"]}},"scopes":["payments:write"]}]`),
	meant(`spec\.scopes`, `[{"name":"payments:write"}]`, `[{"name":"payments:read","description":"Read"},{"name":"payments:write"},{"name":"payments:admin"}]`),
	meant(`spec\.scopes\[\]\.name`, `"payments:admin"`, quote(strings.Repeat("a", 128))),
	meant(`enforcement`, `[{"name":"public","envoyGateway":{"targetRefs":[{"kind":"HTTPRoute","name":"payment"}]}}]`,
		`[{"name":"one","envoyGateway":{"targetRefs":[{"kind":"Gateway","name":"a"}]}},{"name":"two","istio":{"targetRefs":[{"kind":"Gateway","name":"b"}]}},{"name":"three","envoy":{}}]`),
	meant(`envoyGateway`, `{"targetRefs":[{"kind":"Gateway","name":"other"}]}`),
	meant(`istio`, `{"targetRefs":[{"kind":"Service","name":"payment"}]}`, `{"selector":{"matchLabels":{"app":"payment"}}}`),
	meant(`\.envoy`, `{}`),
	meant(`spareTargetRefs`, `[{"kind":"HTTPRoute","name":"spare-a"},{"kind":"HTTPRoute","name":"spare-b"}]`),
	meant(`targetRefs`, `[{"kind":"Gateway","name":"a"}]`, `[{"kind":"Gateway","name":"a"},{"kind":"Gateway","name":"b"}]`),
	meant(`spareTargetRefs\[\]\.kind`, `"GRPCRoute"`, `"HTTPRoute"`),
	meant(`rules\[\]\.paths`, `[{"type":"Exact","value":"/a"}]`, `[{"type":"PathPrefix","value":"/a/"},{"type":"Exact","value":"/b"}]`),
	meant(`rules\[\]\.scopes`, `["payments:read"]`, `["payments:read","payments:write"]`),
	meant(`rules`, `[{"name":"all"}]`, `[{"name":"read","methods":["GET"],"scopes":["payments:read"]},{"name":"write","scopes":["payments:write"]}]`),
	meant(`verification\.audience`, `{"scopePrefix":"payments:"}`, `{"claim":"roles","values":["a"]}`),
	meant(`verification\.files`, `[{"name":"a.txt","template":"{{ .issuer }}"}]`, `[{"name":"key-*.txt","template":"x"},{"name":"b","template":"{{"}]`),
	meant(`files\[\]\.template`, `"x"`, `"{{"`, quote(strings.Repeat("a", 4096))),
	meant(`M2MClient spec\.access\[\]\.verification`, `{"carriedIn":"Nowhere"}`, `{"audience":{"scopePrefix":"payments:"}}`),
	meant(`APIResource spec\.verification`, `{"formats":["PEM"],"algorithms":["ES256"]}`, `{"algorithms":["RS256"]}`),
	meant(`spec\.(bundle|secret)`, `{"labels":{"team":"a"},"annotations":{"note":"b"}}`),
	meant(`spec\.refresh`, `{"atPercent":50}`, `{"before":"1h"}`),
	meant(`spec\.credentialRotation`, `{"every":"720h","overlap":"1h"}`),
	meant(`spec\.endpoints`, `{"token":"$issuer/token"}`, `{"jwks":"$issuer/jwks"}`),
	meant(`endpoints\.token`, `"$issuer/token"`, `"http://127.0.0.1:9/token"`),
	meant(`endpoints\.jwks`, `"$issuer/jwks"`, `"$issuer/nothing"`),
	meant(`spec\.jwks`, `{"refreshInterval":"10s"}`, `{"retention":"0s","refreshInterval":"24h"}`),
	meant(`revokedKeyIDs`, `["unknown"]`, `["$kid"]`, numbered("key-", 64)),
	meant(`spec\.requests`, `{"perSecond":1}`, `{"perSecond":10000,"burst":10000}`),
	meant(`spec\.caBundle`, `{"configMapRef":{"name":"missing"}}`, `{"secretRef":{"name":"missing"}}`),
	meant(`identifierClaims`, `[{"prefixes":["https://payment.example.com/"],"namespaces":{"names":["$payments"]}}]`, `[{"prefixes":["https://"],"namespaces":{"names":["$more"]}}]`),
	meant(`identifierClaims\[\]\.prefixes`, `["https://payment.example.com/"]`, `["https://"]`, numbered("urn:", 16)),
	meant(`adoption`, `{"apiResources":[{"identifier":"https://a.example.com","namespace":"$payments"}]}`),
	meant(`adoption\.apiResources`, `[{"identifier":"https://a.example.com","namespace":"$payments"}]`),
	meant(`adoption\.clients`, `[{"clientID":"a","name":"cart","namespace":"$shop"}]`),
	meant(`spec\.provisioning`, `{"dynamicRegistration":{"authenticationMethod":"Post"}}`, `{"logto":{"endpoint":"http://127.0.0.1:9","credentialsSecretRef":{"name":"missing"}}}`),
	meant(`spec\.provisioning\.logto`, `{"endpoint":"http://127.0.0.1:9","credentialsSecretRef":{"name":"missing"}}`),
	meant(`spec\.provisioning\.dynamicRegistration`, `{"authenticationMethod":"Post"}`),
}

// wrong are values that break a rule of a field which other wrong values do not break.
var wrong = []meaning{
	meant(`serviceAccount\.audience`, `"https://kubernetes.default.svc"`, `"api"`),
	meant(`(identifier|resource)`, `"https://tenant.logto.app/api"`, `"https://a.example.com/#fragment"`),
	meant(`parameters\[\]\.name`, `"scope"`, `"CLIENT_SECRET"`),
	meant(`enforcement\[\]\.name`, `"spare-1"`),
	meant(`(secret|bundle)\.(labels|annotations)`, `{"m2m-operator.io/a":"b"}`),
	meant(`verification\.files\[\]\.name`, `"issuer"`, `"*-*"`, `".."`),
	meant(`audience\.claim`, `"iss"`, `"scope"`),
	meant(`secret\.template`, `{"..":"x"}`, `{"payment-api":"x"}`),
	meant(`spec\.issuer`, `"http://127.0.0.1:9/other"`),
	meant(`spec\.identifier`, `"urn:other"`),
}

// numbered returns a list of many names.
func numbered(prefix string, n int) string {
	var all []string
	for i := range n {
		all = append(all, prefix+strconv.Itoa(i))
	}
	b, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// frame is what else a change of a field needs: values at other paths, nil for none.
type frame struct {
	change *regexp.Regexp // kind, path and value
	set    []string       // paths and values, one after the other
}

func framed(change string, set ...string) frame { return frame{regexp.MustCompile("^" + change), set} }

const (
	audienceClaim = `{"claim":"roles","values":["a"]}`
	oneGrant      = `[{"clients":{"namespaces":{"names":["$shop"]}}}]`
	oneGateway    = `[{"name":"public","rules":[{"name":"write","scopes":["payments:write"]}],"envoyGateway":{"targetRefs":[{"kind":"HTTPRoute","name":"payment"}]}}]`
)

// frames apply in their order, each if it matches.
var frames = []frame{
	framed(`M2MClient spec\.access\[\]\.(resource|verification)`, `spec.access`, `[{"resource":"https://payment.example.com/api","key":"payment-api","scopes":["payments:write"]}]`),
	framed(`M2MClient spec\.access\[\]\.verification.* "OtherClaim"`, `spec.access[].verification.claim`, `"a"`),
	framed(`M2MClient spec\.access\[\]\.verification\.claim`, `spec.access[].verification`, `{"carriedIn":"OtherClaim"}`),
	framed(`M2MClient spec\.access\[\]\.verification\.audience\.(claim|values)`, `spec.access[].verification.audience`, audienceClaim),
	framed(`M2MClient spec\.access\[\]\.parameters\[\]`, `spec.access[].parameters`, `[{"name":"audience","value":"x"}]`),
	framed(`M2MClient spec\.credentials\.privateKeyJWT`, `spec.credentials`, `{"privateKeyJWT":{"secretRef":{"name":"cart-key"}}}`),
	framed(`M2MClient spec\.credentials\.serviceAccount`, `spec.credentials`, `{"serviceAccount":{"name":"default"}}`),
	framed(`M2MClient spec\.refresh\.`, `spec.refresh`, `null`),
	framed(`M2MClient spec\.credentialRotation\.every`, `spec.credentialRotation`, `{"overlap":"0s"}`),
	framed(`M2MClient spec\.credentialRotation\.overlap`, `spec.credentialRotation`, `{"every":"8760h"}`),
	framed(`APIResource spec\.scopes`, `spec.grants`, oneGrant),
	framed(`APIResource spec\.scopes\[\]\.claim`, `spec.scopes`, `[{"name":"payments:write","carriedIn":"OtherClaim"}]`),
	framed(`APIResource spec\.scopes\[\]\.carriedIn "OtherClaim"`, `spec.scopes`, `[{"name":"payments:write","claim":"a"}]`),
	framed(`APIResource spec\.enforcement\[\]`, `spec.enforcement`, oneGateway),
	framed(`APIResource spec\.enforcement\[\]\.envoyGateway\.spare`, `spec.enforcement[].envoyGateway.spareTargetRefs`, `[{"kind":"HTTPRoute","name":"spare-a"},{"kind":"HTTPRoute","name":"spare-b"}]`),
	framed(`APIResource spec\.enforcement\[\]\.(envoy|istio)( |\.)`, `spec.enforcement[].envoyGateway`, `null`),
	framed(`APIResource spec\.enforcement\[\]\.istio\.(targetRefs|selector)`, `spec.enforcement[].istio`, `null`),
	framed(`APIResource spec\.enforcement\[\]\.istio\.targetRefs\[\]`, `spec.enforcement[].istio`, `{"targetRefs":[{"kind":"Gateway","name":"a"}]}`),
	framed(`APIResource spec\.enforcement\[\]\.rules\[\]\.paths\[\]`, `spec.enforcement[].rules[].paths`, `[{"type":"Exact","value":"/a"}]`),
	framed(`APIResource spec\.verification\.audience\.(claim|values)`, `spec.verification.audience`, audienceClaim),
	framed(`APIResource spec\.verification\.files\[\]`, `spec.verification.files`, `[{"name":"a.txt","template":"x"}]`),
	framed(`\w+ spec\.tokenFormat "Opaque"`, `spec.jwks`, `null`),
	framed(`\w+ spec\.requests\.burst`, `spec.requests`, `{"perSecond":5}`),
	framed(`\w+ spec\.caBundle\.configMapRef\.key`, `spec.caBundle`, `{"configMapRef":{"name":"missing"}}`),
	framed(`\w+ spec\.caBundle\.secretRef\.key`, `spec.caBundle`, `{"secretRef":{"name":"missing"}}`),
	framed(`\w+ spec\.provisioning\.(logto|adoption|resync)`, `spec.provisioning`, `{"logto":{"endpoint":"http://127.0.0.1:9","credentialsSecretRef":{"name":"missing"}}}`),
	framed(`\w+ spec\.provisioning\.adoption\.apiResources\[\]`, `spec.provisioning.adoption`, `{"apiResources":[{"identifier":"https://a.example.com","namespace":"$payments"}]}`),
	framed(`\w+ spec\.provisioning\.adoption\.clients\[\]`, `spec.provisioning.adoption`, `{"clients":[{"clientID":"a","name":"cart","namespace":"$shop"}]}`),
	framed(`\w+ spec\.provisioning\.dynamicRegistration\.`, `spec.provisioning.dynamicRegistration`, `{"authenticationMethod":"Basic"}`),
	framed(`\w+ spec\.provisioning\.dynamicRegistration\.initialAccessTokenSecretRef\.key`, `spec.provisioning.dynamicRegistration`, `{"initialAccessTokenSecretRef":{"name":"missing"}}`),
	framed(`ClusterAuthorizationServer spec\.identifierClaims\[\]`, `spec.identifierClaims`, `[{"prefixes":["https://payment.example.com/"],"namespaces":{"names":["$payments"]}}]`),
	framed(`ClusterAuthorizationServer spec\.identifierClaims\[\]\.namespaces`, `spec.identifierClaims[].namespaces`, `null`),
	framed(`ClusterAuthorizationServer spec\.allowedNamespaces\.selector`, `spec.allowedNamespaces`, `null`),
}

// change sets a field of a manifest, and what the change needs.
func change(manifest map[string]any, kind, path, value string) {
	for _, f := range frames {
		if f.change.MatchString(fmt.Sprintf("%s %s %s", kind, path, value)) {
			for i := 0; i < len(f.set); i += 2 {
				set(manifest, f.set[i], f.set[i+1])
			}
		}
	}
	set(manifest, path, value)
}

// set sets the field at a path, in the first item of lists. It creates what is above the field.
func set(in map[string]any, path, value string) {
	var v any
	if err := json.Unmarshal([]byte(value), &v); err != nil {
		panic(fmt.Sprintf("%s: %v", value, err))
	}
	name, rest, deeper := strings.Cut(path, ".")
	list, isList := strings.CutSuffix(name, "[]")
	switch {
	case !deeper && isList:
		in[list] = []any{v}
	case !deeper && v == nil:
		delete(in, name)
	case !deeper:
		in[name] = v
	case isList:
		items, _ := in[list].([]any)
		if len(items) == 0 {
			items = []any{map[string]any{}}
		}
		set(items[0].(map[string]any), rest, value)
		in[list] = items
	default:
		child, _ := in[name].(map[string]any)
		if child == nil {
			child = map[string]any{}
		}
		set(child, rest, value)
		in[name] = child
	}
}
