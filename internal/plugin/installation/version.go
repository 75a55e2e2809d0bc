// SPDX-License-Identifier: Apache-2.0

package installation

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/version"
)

// Running is an operator and the version that it runs: a Deployment of the cluster, or else the holder of the lease.
type Running struct {
	Namespace  string `json:"namespace"`
	Deployment string `json:"deployment,omitempty"`
	Image      string `json:"image,omitempty"`
	Holder     string `json:"holder,omitempty"` // of the lease, if there is no Deployment
	Version    string `json:"version"`
}

// Versions returns what Deployments of the operator run, as far as their images tell.
func Versions(deployments []appsv1.Deployment) (all []Running) {
	for i := range deployments {
		d := &deployments[i]
		all = append(all, Running{Namespace: d.Namespace, Deployment: d.Name, Image: image(d), Version: tag(image(d))})
	}
	return all
}

// tag returns the tag of an image, and "unknown" if it has only a digest or nothing.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	name := image[strings.LastIndex(image, "/")+1:] // a registry may have a port
	if _, tag, ok := strings.Cut(name, ":"); ok {
		return tag
	}
	return "unknown"
}

// Skew returns advice if the plugin and the operator are of different minor versions,
// and nothing if one of the two is no release.
func Skew(plugin, operator string) string {
	p, err := version.ParseSemantic(plugin)
	if err != nil {
		return ""
	}
	o, err := version.ParseSemantic(operator)
	if err != nil || p.Major() == o.Major() && p.Minor() == o.Minor() {
		return ""
	}
	return fmt.Sprintf("Install the plugin of %s: it may judge by rules that the operator does not follow", operator)
}
