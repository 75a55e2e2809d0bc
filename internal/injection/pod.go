// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"bytes"
	"fmt"

	"sigs.k8s.io/json"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// maxItems limits the entries of each list of a pod.
const maxItems = 4096

// raw is a part of the request, neither decoded nor copied.
type raw []byte

// UnmarshalJSON keeps a reference to its input: the request's body does not change until
// the request is answered.
func (r *raw) UnmarshalJSON(b []byte) error {
	if *r = nil; string(b) != "null" {
		*r = b
	}
	return nil
}

// pod is the part of a pod that injection needs. Its lists are decoded one at a time:
// a request can have megabytes, most of them of no interest.
type pod struct {
	Metadata struct {
		Annotations raw `json:"annotations"`
	} `json:"metadata"`
	Spec *struct { // nil only if no API server sent it
		Volumes        raw `json:"volumes"`
		InitContainers raw `json:"initContainers"`
		Containers     raw `json:"containers"`
	} `json:"spec"`
}

// container is the part of a container that injection needs.
type container struct {
	path         string // within the pod
	Name         string `json:"name"`
	Env          raw    `json:"env"`
	VolumeMounts raw    `json:"volumeMounts"`
}

// annotations returns our annotations.
func (p *pod) annotations() (map[string]string, error) {
	var ours struct {
		Client     *string `json:"m2m-operator.io/client"`
		Verify     *string `json:"m2m-operator.io/verify"`
		Containers *string `json:"m2m-operator.io/containers"`
		TouchedAt  *string `json:"m2m-operator.io/touched-at"`
		Missing    *string `json:"m2m-operator.io/missing-containers"`
	}
	if err := decode(p.Metadata.Annotations, &ours); err != nil {
		return nil, fmt.Errorf("decode the annotations: %w", err)
	}
	found := map[string]string{}
	for key, value := range map[string]*string{
		v1alpha1.ClientAnnotation: ours.Client, v1alpha1.VerifyAnnotation: ours.Verify,
		v1alpha1.ContainersAnnotation: ours.Containers, v1alpha1.TouchedAtAnnotation: ours.TouchedAt,
		v1alpha1.MissingContainersAnnotation: ours.Missing,
	} {
		if value != nil {
			found[key] = *value
		}
	}
	return found, nil
}

// containers returns the init containers, then the containers.
func (p *pod) containers() (all []container, err error) {
	for _, list := range []struct {
		path string
		raw  raw
	}{{"/spec/initContainers", p.Spec.InitContainers}, {"/spec/containers", p.Spec.Containers}} {
		containers, err := items[container](list.path, list.raw)
		if err != nil {
			return nil, err
		}
		for i := range containers {
			containers[i].path = fmt.Sprintf("%s/%d", list.path, i)
		}
		all = append(all, containers...)
	}
	return all, nil
}

// items decodes the entries of a list, unless it is too long.
func items[T any](path string, list raw) (all []T, err error) {
	if n := count(list); n > maxItems {
		return nil, fmt.Errorf("the pod has %d entries in %s; the limit for a pod with these annotations is %d", n, path, maxItems)
	}
	if err := decode(list, &all); err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	return all, nil
}

// decode decodes JSON; of nothing it decodes nothing. Names are case-sensitive, as they
// are for the API server.
func decode(from raw, into any) error {
	if len(from) == 0 {
		return nil
	}
	return json.UnmarshalCaseSensitivePreserveInts(from, into)
}

// count returns the number of entries of a list in valid JSON, or one more.
func count(list []byte) int {
	if list = bytes.TrimSpace(list); len(list) == 0 || list[0] != '[' {
		return 0
	}
	n, depth, quoted := 1, 0, false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 1:
			n++
		}
	}
	return n
}
