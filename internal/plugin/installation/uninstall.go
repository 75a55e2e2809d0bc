// SPDX-License-Identifier: Apache-2.0

package installation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// What an uninstallation concerns.
const (
	Pods       = "pods"
	Tokens     = "tokens"
	Finalizers = "finalizers"
	Bundles    = "bundles"
	Gateways   = "gateways"
)

// keepPolicy is Helm's annotation of objects that stay when their release goes.
const keepPolicy = "helm.sh/resource-policy"

// Uninstall says what would stop working, and what would be left behind, without the operator.
func Uninstall(f Found, now time.Time) []Finding {
	return judged(f, now, []check{
		{Pods, needers}, {Tokens, expiring}, {Finalizers, held}, {Bundles, left}, {Gateways, enforced}, {Kinds, going},
	})
}

// needers finds the pods whose annotations ask for tokens or bundles.
func needers(f Found, _ time.Time) Finding {
	var owners []string
	pods := 0
	for _, pod := range f.Objects.Pods {
		if pod.Annotations[v1alpha1.ClientAnnotation] == "" && pod.Annotations[v1alpha1.VerifyAnnotation] == "" {
			continue
		}
		pods++
		if owner := ownerOf(pod); !slices.Contains(owners, owner) {
			owners = append(owners, owner)
		}
	}
	if pods == 0 {
		return ok("no pod is annotated")
	}
	slices.Sort(owners)
	return bad(Warning, "Mount the Secrets and ConfigMaps by name and remove the annotations first: nothing refuses such pods once the webhook's configuration is gone",
		"%s annotated, whose successors would start without tokens and bundles: %s", count(pods, "pod is", "pods are"), text.List(owners, ", ", most))
}

// ownerOf names what creates a pod anew.
func ownerOf(pod *metav1.PartialObjectMetadata) string {
	kind, name := "Pod", pod.Name
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		kind, name = owner.Kind, owner.Name
	}
	// A ReplicaSet is named by its Deployment and a hash.
	if hash := pod.Labels["pod-template-hash"]; kind == "ReplicaSet" && hash != "" && strings.HasSuffix(name, "-"+hash) {
		kind, name = "Deployment", strings.TrimSuffix(name, "-"+hash)
	}
	return fmt.Sprintf("%s %s/%s", kind, pod.Namespace, name)
}

// expiring says until when running pods have tokens.
func expiring(f Found, now time.Time) Finding {
	var first time.Time
	tokens := 0
	for _, c := range f.Objects.Clients {
		for i := range c.Status.Tokens {
			if at := c.Status.Tokens[i].ExpiresAt; at != nil && at.After(now) {
				tokens++
				if first.IsZero() || at.Time.Before(first) {
					first = at.Time
				}
			}
		}
	}
	if tokens == 0 {
		return ok("there are no tokens")
	}
	return bad(Warning, "Install the operator again before that, or let the clients request their tokens themselves",
		"nobody would replace %s; the first expires at %s", count(tokens, "token", "tokens"), first.UTC().Format(time.RFC3339))
}

// held finds the objects that only the operator lets go: it first removes what it provisioned.
func held(f Found, _ time.Time) Finding {
	var all []string
	add := func(kind string, o metav1.Object) {
		if slices.Contains(o.GetFinalizers(), v1alpha1.ProvisioningFinalizer) {
			all = append(all, strings.Replace(fmt.Sprintf("%s %s/%s", kind, o.GetNamespace(), o.GetName()), " /", " ", 1))
		}
	}
	for _, c := range f.Objects.Clients {
		add("M2MClient", c)
	}
	for _, a := range f.Objects.APIs {
		add("APIResource", a)
	}
	for _, s := range f.Objects.Servers {
		add("AuthorizationServer", s)
	}
	for _, s := range f.Objects.ClusterServers {
		add("ClusterAuthorizationServer", s)
	}
	if len(all) == 0 {
		return ok("nothing is registered at a server")
	}
	return bad(Warning, "Delete them while the operator runs, or set deletionPolicy to Retain to keep what is at the server; otherwise they could not be deleted any more",
		"%s a part at an authorization server that only the operator removes: %s", count(len(all), "object has", "objects have"), text.List(all, ", ", most))
}

// left finds the ConfigMaps that nobody would update or remove.
func left(f Found, _ time.Time) Finding {
	if n := len(f.Objects.ConfigMaps); n > 0 {
		return bad(Warning, "Delete the APIResources while the operator runs; it then removes them. Otherwise APIs go on trusting the keys of today",
			"%s with verification bundles would stay, and not follow the servers' keys any more", count(n, "ConfigMap", "ConfigMaps"))
	}
	return ok("there are no bundles")
}

// enforced finds the policies by which gateways check tokens, and which nobody would update.
func enforced(f Found, _ time.Time) Finding {
	var all []string
	for _, p := range f.GatewayPolicies {
		all = append(all, fmt.Sprintf("%s %s/%s", p.Kind, p.Namespace, p.Name))
	}
	if len(all) == 0 {
		return ok("no gateway checks tokens by a policy of the operator")
	}
	slices.Sort(all)
	return bad(Warning, "Replace them by policies of your own first, then remove spec.enforcement while the operator runs. They go with their APIResources, also if the CRDs are deleted: then nothing checks tokens there",
		"%s would stay with the keys of today, refuse the tokens of the servers' next keys, and go on accepting revoked ones: %s",
		count(len(all), "policy of a gateway", "policies of gateways"), text.List(all, ", ", most))
}

// going reports whether the CRDs go with their release.
func going(f Found, _ time.Time) Finding {
	objects := len(f.Objects.Clients) + len(f.Objects.APIs) + len(f.Objects.Servers) + len(f.Objects.ClusterServers)
	for i := range f.Kinds {
		k := &f.Kinds[i]
		if k.Labels["app.kubernetes.io/managed-by"] == "Helm" && k.Annotations[keepPolicy] != "keep" {
			return bad(Warning, "Set crds.keep=true with helm upgrade first, to keep them", "helm uninstall would delete the CRDs, and with them %s and all tokens", count(objects, "object", "objects"))
		}
	}
	if len(f.Kinds) == 0 {
		return ok("there are no CRDs")
	}
	return ok("helm uninstall keeps the CRDs and %s; kubectl delete -f with the whole installation would delete them and all tokens", count(objects, "object", "objects"))
}

// count is a number with what is counted.
func count(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}

// most is how many objects a finding lists.
const most = 10

// uses are the resources that a check of an uninstallation reads.
var uses = map[string][]inventory.Resource{
	Pods: {inventory.Pods}, Tokens: {inventory.Clients}, Bundles: {inventory.ConfigMaps},
	Finalizers: {inventory.Clients, inventory.APIs, inventory.Servers, inventory.ClusterServers},
}

// Hide notes the missing rights with the checks that need them.
func (f *Found) Hide(missing []inventory.Right) {
	for check, resources := range uses {
		for _, right := range missing {
			if slices.Contains(resources, right.Resource) {
				f.Hidden[check] = right
			}
		}
	}
}
