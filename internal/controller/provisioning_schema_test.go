// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// specs are the manifests into which TestProvisioningSchema inserts a spec.
var specs = map[string]string{
	"server": `{apiVersion: m2m-operator.io/v1alpha1, kind: AuthorizationServer, metadata: {name: auth},
spec: {issuer: "https://auth.example.com", %s}}`,
	"cluster server": `{apiVersion: m2m-operator.io/v1alpha1, kind: ClusterAuthorizationServer, metadata: {name: schema-auth},
spec: {issuer: "https://auth.example.com", allowedNamespaces: {names: [shop]}, %s}}`,
	"api": `{apiVersion: m2m-operator.io/v1alpha1, kind: APIResource, metadata: {name: payment-api},
spec: {authorizationServerRef: {name: auth}, identifier: "https://payment.example.com/api", %s}}`,
	"client": `{apiVersion: m2m-operator.io/v1alpha1, kind: M2MClient, metadata: {name: cart}, spec: {%s}}`,
}

const (
	anAccess       = `access: [{apiResourceRef: {name: payment-api}}]`
	ownCredentials = `credentials: {clientSecret: {secretRef: {name: cart-credentials}}}`
	logtoServer    = `logto: {endpoint: "https://auth.example.com", credentialsSecretRef: {name: management}}`
)

// TestProvisioningSchema checks which values of the provisioning fields the API server
// accepts, and how it refuses the others.
func TestProvisioningSchema(t *testing.T) {
	ns := operator.NewNamespace(t, "schema", nil)
	adopted := func(format string, entries ...string) string {
		return fmt.Sprintf(`provisioning: {%s, adoption: {`+format+`}}`, logtoServer, strings.Join(entries, ", "))
	}
	apis, clients := `apiResources: [%s]`, `clients: [%s]`
	many := make([]string, 129)
	for i := range many {
		many[i] = fmt.Sprintf(`{clientID: "id-%d", namespace: shop, name: cart-%d}`, i, i)
	}
	for _, kind := range []string{"server", "cluster server"} {
		judge(t, ns, kind, map[string]schemaCase{
			"Logto":                                     {`provisioning: {` + logtoServer + `}`, ""},
			"Logto with every field":                    {`provisioning: {resyncInterval: 1m, logto: {endpoint: "https://t.logto.app", managementAPI: "https://t.logto.app/api", credentialsSecretRef: {name: a}}}`, ""},
			"dynamic registration":                      {`provisioning: {dynamicRegistration: {}}`, ""},
			"dynamic registration, closed":              {`provisioning: {dynamicRegistration: {endpoint: "https://auth.example.com/register", authenticationMethod: Post, initialAccessTokenSecretRef: {name: a, key: b}}}`, ""},
			"no driver":                                 {`provisioning: {resyncInterval: 1m}`, "exactly one of the fields in [logto dynamicRegistration] must be set"},
			"two drivers":                               {`provisioning: {dynamicRegistration: {}, ` + logtoServer + `}`, "exactly one of the fields in [logto dynamicRegistration] must be set"},
			"Logto without an endpoint":                 {`provisioning: {logto: {credentialsSecretRef: {name: a}}}`, "spec.provisioning.logto.endpoint: Required value"},
			"Logto without a credential":                {`provisioning: {logto: {endpoint: "https://auth.example.com"}}`, "spec.provisioning.logto.credentialsSecretRef: Required value"},
			"Logto with an endpoint that is not a URL":  {`provisioning: {logto: {endpoint: auth.example.com, credentialsSecretRef: {name: a}}}`, "must be an absolute https:// URL"},
			"an unknown way to authenticate":            {`provisioning: {dynamicRegistration: {authenticationMethod: None}}`, `supported values: "Basic", "Post"`},
			"a resync interval too short":               {`provisioning: {resyncInterval: 9s, ` + logtoServer + `}`, "must be a duration from 10s to 24h"},
			"a resync interval too long":                {`provisioning: {resyncInterval: 25h, ` + logtoServer + `}`, "must be a duration from 10s to 24h"},
			"an API and a client adopted":               {adopted(apis+`, clients: [{clientID: "a b", namespace: shop, name: cart}]`, `{identifier: "https://a.example.com/", namespace: shop}`), ""},
			"as many clients as can be adopted":         {adopted(clients, many[:128]...), ""},
			"one client too many":                       {adopted(clients, many...), "Too many: 129: must have at most 128 items"},
			"an API adopted by two":                     {adopted(apis, `{identifier: "https://a.example.com/", namespace: shop}`, `{identifier: "https://a.example.com/", namespace: bank}`), "spec.provisioning.adoption.apiResources[1]: Duplicate value"},
			"the administration API adopted":            {adopted(apis, `{identifier: "https://default.logto.app/api", namespace: shop}`), "is the administration API of a Logto server"},
			"a client adopted by two":                   {adopted(clients, `{clientID: a, namespace: shop, name: cart}`, `{clientID: a, namespace: shop, name: checkout}`), "only one M2MClient can take over a client"},
			"two clients adopted by one":                {adopted(clients, `{clientID: a, namespace: shop, name: cart}`, `{clientID: b, namespace: shop, name: cart}`), "spec.provisioning.adoption.clients[1]: Duplicate value"},
			"clients of one name adopted":               {adopted(clients, `{clientID: a, namespace: shop, name: cart}`, `{clientID: b, namespace: bank, name: cart}`), ""},
			"a registration endpoint":                   {`endpoints: {registration: "https://auth.example.com/register"}`, ""},
			"a key ID as long as it can be":             {`jwks: {revokedKeyIDs: ["` + strings.Repeat("~", 128) + `"]}`, ""},
			"a key ID too long":                         {`jwks: {revokedKeyIDs: ["` + strings.Repeat("k", 129) + `"]}`, "may not be more than 128"},
			"a key ID with a line break":                {`jwks: {revokedKeyIDs: ["k\nReady"]}`, "should match '^[ -~]+$'"},
			"a key ID with a delete character":          {`jwks: {revokedKeyIDs: ["k\x7f"]}`, "should match '^[ -~]+$'"},
			"a registration endpoint that is not a URL": {`endpoints: {registration: /register}`, "must be an absolute https:// URL"},
		})
	}
	judge(t, ns, "api", map[string]schemaCase{
		"every field":                                  {`accessTokenLifetime: 1h30m, managementPolicy: Observe, deletionPolicy: Delete`, ""},
		"tokens of the shortest lifetime":              {`accessTokenLifetime: 1m`, ""},
		"a token lifetime too short":                   {`accessTokenLifetime: 59s`, "must be a duration of whole seconds from 1m to 24h"},
		"a token lifetime too long":                    {`accessTokenLifetime: 25h`, "must be a duration of whole seconds from 1m to 24h"},
		"a token lifetime with a fraction of a second": {`accessTokenLifetime: 90500ms`, "must be a duration of whole seconds from 1m to 24h"},
		"a management policy of other systems":         {`managementPolicy: ObserveOnly`, `supported values: "Full", "Observe"`},
		"a deletion policy of other systems":           {`deletionPolicy: Orphan`, `supported values: "Retain", "Delete"`},
	})
	judge(t, ns, "client", map[string]schemaCase{
		"neither credentials nor a server":         {anAccess, ""},
		"a server and no credentials":              {anAccess + `, authorizationServerRef: {name: auth}`, ""},
		"credentials and no server":                {anAccess + `, ` + ownCredentials, "authorizationServerRef is required with credentials"},
		"a plain resource, without credentials":    {`access: [{resource: "https://a.example.com/", key: a}]`, "resource requires credentials"},
		"a plain resource, with credentials":       {`access: [{resource: "https://a.example.com/", key: a}], authorizationServerRef: {name: auth}, ` + ownCredentials, ""},
		"a rotation":                               {anAccess + `, credentialRotation: {every: 720h, overlap: 0s}`, ""},
		"a rotation with credentials":              {anAccess + `, credentialRotation: {every: 720h}, authorizationServerRef: {name: auth}, ` + ownCredentials, "credentialRotation is only for clients that the operator registers"},
		"an empty rotation":                        {anAccess + `, credentialRotation: {}`, "should have at least 1 properties"},
		"a rotation interval too short":            {anAccess + `, credentialRotation: {every: 59s}`, "must be a duration from 1m to 8760h"},
		"a rotation interval too long":             {anAccess + `, credentialRotation: {every: 8761h}`, "must be a duration from 1m to 8760h"},
		"an overlap too long":                      {anAccess + `, credentialRotation: {overlap: 721h}`, "must be a duration of at most 720h"},
		"a client that stays when it is deleted":   {anAccess + `, deletionPolicy: Retain`, ""},
		"a client with an unknown deletion policy": {anAccess + `, deletionPolicy: Keep`, `supported values: "Retain", "Delete"`},
	})
}

// schemaCase is a part of a spec and the error of the API server, "" if it accepts the
// spec.
type schemaCase struct{ spec, says string }

func judge(t *testing.T, ns, kind string, cases map[string]schemaCase) {
	t.Helper()
	for name, tc := range cases {
		t.Run(kind+": "+name, func(t *testing.T) {
			err := operator.Kube.Create(t.Context(), manifestOf(t, ns, kind, tc.spec), client.DryRunAll, client.FieldValidation("Strict"))
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("was refused: %v", err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("got %v, want an error that contains %q", err, tc.says)
			}
		})
	}
}

func manifestOf(t *testing.T, ns, kind, spec string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(fmt.Appendf(nil, specs[kind], spec), &o.Object); err != nil {
		t.Fatal(err)
	}
	if kind != "cluster server" {
		o.SetNamespace(ns)
	}
	return o
}

// TestProvisioningDefaults checks the defaults that the API server sets for policies.
func TestProvisioningDefaults(t *testing.T) {
	ns := operator.NewNamespace(t, "schema", nil)
	for name, tc := range map[string]struct {
		kind, spec string
		path       []string
		want       string
	}{
		"an API is managed":                {"api", ``, []string{"spec", "managementPolicy"}, "Full"},
		"an API is retained":               {"api", ``, []string{"spec", "deletionPolicy"}, "Retain"},
		"a client is deleted":              {"client", anAccess, []string{"spec", "deletionPolicy"}, "Delete"},
		"a registered client uses Basic":   {"server", `provisioning: {dynamicRegistration: {}}`, []string{"spec", "provisioning", "dynamicRegistration", "authenticationMethod"}, "Basic"},
		"a server of the cluster does too": {"cluster server", `provisioning: {dynamicRegistration: {}}`, []string{"spec", "provisioning", "dynamicRegistration", "authenticationMethod"}, "Basic"},
	} {
		t.Run(name, func(t *testing.T) {
			o := manifestOf(t, ns, tc.kind, tc.spec)
			if err := operator.Kube.Create(t.Context(), o, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if got, _, _ := unstructured.NestedString(o.Object, tc.path...); got != tc.want {
				t.Errorf("%s is %q, want %q", strings.Join(tc.path, "."), got, tc.want)
			}
		})
	}
}
