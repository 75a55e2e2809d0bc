// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

const (
	// maxName is the longest name of an M2MClient or APIResource.
	maxName = 63
	// maxMounts is how many mounts a pod gets in all its containers: what an
	// answer can hold is more than what a request does.
	maxMounts = 2048
	// maxMissing is how many bytes of the names of missing containers are told.
	maxMissing = 250
)

// wish is what a pod's annotations ask for.
type wish struct {
	client string                 // an M2MClient of the pod's namespace; "" for none
	apis   []types.NamespacedName // APIResources
}

// wishOf reads the annotations of a pod of a namespace. What is wrong with them
// is said in one line, for whoever wrote them.
func wishOf(annotations map[string]string, namespace string) (w wish, err error) {
	if name, ok := annotations[v1alpha1.ClientAnnotation]; ok {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			return w, fmt.Errorf("annotation %s is empty: name an M2MClient of namespace %q, or remove it", v1alpha1.ClientAnnotation, namespace)
		case strings.Contains(name, "/"):
			return w, fmt.Errorf("annotation %s: %s has a slash; it names an M2MClient of the pod's own namespace only, by its name alone",
				v1alpha1.ClientAnnotation, shown(name))
		case len(name) > maxName || len(validation.IsDNS1123Subdomain(name)) > 0:
			return w, fmt.Errorf("annotation %s: %s is no name of an M2MClient; write the name of one of namespace %q",
				v1alpha1.ClientAnnotation, shown(name), namespace)
		}
		w.client = name
	}
	if value, ok := annotations[v1alpha1.VerifyAnnotation]; ok {
		apis, invalid := v1alpha1.ParseVerify(value, namespace)
		switch {
		case len(value) > v1alpha1.VerifyMaxBytes:
			return w, fmt.Errorf("annotation %s has %d bytes; it can have %d", v1alpha1.VerifyAnnotation, len(value), v1alpha1.VerifyMaxBytes)
		case len(invalid) > 0 && strings.HasPrefix(invalid[0], "(more than "), strings.Count(value, ",") > 2*v1alpha1.VerifyMaxNames:
			return w, fmt.Errorf("annotation %s names too many APIResources; a pod can have %d", v1alpha1.VerifyAnnotation, v1alpha1.VerifyMaxNames)
		case len(invalid) > 0:
			return w, fmt.Errorf("annotation %s: %s is no name of an APIResource; write name or namespace/name, several separated by commas",
				v1alpha1.VerifyAnnotation, shown(invalid[0]))
		case len(apis) == 0:
			return w, fmt.Errorf("annotation %s is empty: name APIResources, or remove it", v1alpha1.VerifyAnnotation)
		}
		w.apis = apis
	}
	return w, nil
}

// shown quotes what a user wrote, so that it fits into one line.
func shown(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// mount is one object that a pod gets to see: a volume, and where it is mounted.
type mount struct {
	object string // as InjectedAnnotation lists it: "secret/name", "configmap/name"
	name   string // of the volume
	path   string
}

func newMount(object, path string) mount { return mount{object, volumeName(object), path} }

// mounts returns what a pod of a namespace gets to see. The Secret is the
// client's.
func (w wish) mounts(namespace, secret string) ([]mount, error) {
	var all []mount
	if w.client != "" {
		all = append(all, newMount(secretPrefix+secret, v1alpha1.TokenDir))
	}
	shared := map[string]int{} // how many APIs have a name
	for _, api := range w.apis {
		shared[api.Name]++
	}
	taken := map[string]types.NamespacedName{}
	for _, api := range w.apis {
		dir := api.Name
		if shared[dir] > 1 && api.Namespace != namespace {
			dir = api.Namespace + "." + api.Name
		}
		if other, ok := taken[dir]; ok {
			return nil, fmt.Errorf("annotation %s: %q and %q would both be mounted at %s; leave one of them out",
				v1alpha1.VerifyAnnotation, other, api, path.Join(v1alpha1.VerifyDir, dir))
		}
		taken[dir] = api
		all = append(all, newMount(configMapPrefix+render.ConfigMapName(api.Namespace, api.Name), path.Join(v1alpha1.VerifyDir, dir)))
	}
	return all, nil
}

const (
	secretPrefix    = "secret/"
	configMapPrefix = "configmap/"
)

// volumeName returns the name of the volume that mounts an object. It says by
// itself that it is ours: nobody else would give a volume the hash of what it
// mounts.
func volumeName(object string) string {
	kind := "verify"
	if strings.HasPrefix(object, secretPrefix) {
		kind = "token"
	}
	sum := sha256.Sum256([]byte(object))
	return "m2m-" + kind + "-" + hex.EncodeToString(sum[:8])
}

// volumeHead is as much of a volume as reports whether it is ours.
type volumeHead struct {
	Name   string `json:"name"`
	Secret *struct {
		SecretName string `json:"secretName"`
	} `json:"secret"`
	ConfigMap *struct {
		Name string `json:"name"`
	} `json:"configMap"`
}

// isOurs reports whether a volume was put into the pod by an earlier injection.
func (v volumeHead) isOurs() bool {
	switch {
	case v.Secret != nil:
		return v.Name == volumeName(secretPrefix+v.Secret.SecretName)
	case v.ConfigMap != nil:
		return v.Name == volumeName(configMapPrefix+v.ConfigMap.Name)
	}
	return false
}

// volume returns the volume of a mount: all of the object, readable by a
// container of whatever user.
func (m mount) volume() corev1.Volume {
	readable := int32(0o444)
	v := corev1.Volume{Name: m.name}
	if name, ok := strings.CutPrefix(m.object, secretPrefix); ok {
		v.Secret = &corev1.SecretVolumeSource{SecretName: name, DefaultMode: &readable}
	} else {
		v.ConfigMap = &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: strings.TrimPrefix(m.object, configMapPrefix)},
			DefaultMode:          &readable,
		}
	}
	return v
}

// inject returns what puts into a pod of a namespace what its annotations ask for.
// It leaves what is the user's alone, and what an earlier injection put there, into
// this pod or into the one that it was copied from, it puts right.
func inject(p *pod, annotations map[string]string, namespace string, w wish, secret string) ([]operation, error) {
	mounts, err := w.mounts(namespace, secret)
	if err != nil {
		return nil, err
	}
	containers, err := p.containers()
	if err != nil {
		return nil, err
	}
	chosen, missing, err := chosenOf(annotations, containers)
	if err != nil {
		return nil, err
	}
	into := 0
	for _, c := range containers {
		if chosen == nil || chosen.Has(c.Name) {
			into++
		}
	}
	if n := len(mounts) * into; n > maxMounts {
		return nil, fmt.Errorf("the annotations ask for %d mounts, %d in each of %d containers; a pod can have %d", n, len(mounts), into, maxMounts)
	}
	patch, former, err := injectVolumes(p.Spec.Volumes, mounts)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		wanted := mounts
		if chosen != nil && !chosen.Has(c.Name) {
			wanted = nil
		}
		operations, err := c.inject(wanted, former)
		if err != nil {
			return nil, err
		}
		patch = append(patch, operations...)
	}
	var objects []string
	for _, m := range mounts {
		objects = append(objects, m.object)
	}
	patch = append(patch, operation{"add", annotation(v1alpha1.InjectedAnnotation), strings.Join(objects, ",")})
	if _, ok := annotations[v1alpha1.TouchedAtAnnotation]; ok { // of the pod that it was copied from
		patch = append(patch, operation{Op: "remove", Path: annotation(v1alpha1.TouchedAtAnnotation)})
	}
	if missing != "" {
		patch = append(patch, operation{"add", annotation(v1alpha1.MissingContainersAnnotation), missing})
	} else if _, ok := annotations[v1alpha1.MissingContainersAnnotation]; ok { // they have come
		patch = append(patch, operation{Op: "remove", Path: annotation(v1alpha1.MissingContainersAnnotation)})
	}
	return patch, nil
}

// injectVolumes gives a pod the volumes of these mounts and no others of ours. The
// former ones are those of an earlier injection.
func injectVolumes(list raw, mounts []mount) (patch []operation, former sets.Set[string], err error) {
	volumes, err := items[raw]("/spec/volumes", list)
	if err != nil {
		return nil, nil, err
	}
	former = sets.New[string]()
	e := edit{path: "/spec/volumes", missing: volumes == nil, length: len(volumes), replaced: map[int]any{}}
	for i, text := range volumes {
		var v volumeHead
		if err := decode(text, &v); err != nil {
			return nil, nil, fmt.Errorf("decode a volume: %w", err)
		}
		if !v.isOurs() {
			continue
		}
		former.Insert(v.Name)
		j := slices.IndexFunc(mounts, func(m mount) bool { return m.name == v.Name })
		if j < 0 {
			e.removed = append(e.removed, i)
		} else if want := mounts[j].volume(); !is(text, want) {
			e.replaced[i] = want
		}
	}
	for _, m := range mounts {
		if !former.Has(m.name) {
			e.added = append(e.added, m.volume())
		}
	}
	return e.operations(), former, nil
}

// is reports whether a part of the request is a value.
func is[T any](text raw, want T) bool {
	var got T
	return decode(text, &got) == nil && equality.Semantic.DeepEqual(got, want)
}

// chosenOf returns the names of the containers to inject into, nil for all, and a list
// of those that the pod does not have. Another webhook may add them, and then the pod
// comes once more.
func chosenOf(annotations map[string]string, containers []container) (chosen sets.Set[string], missing string, err error) {
	value, ok := annotations[v1alpha1.ContainersAnnotation]
	if !ok {
		return nil, "", nil
	}
	existing := sets.New[string]()
	for _, c := range containers {
		existing.Insert(c.Name)
	}
	chosen = sets.New[string]()
	for name := range strings.SplitSeq(value, ",") {
		switch name = strings.TrimSpace(name); {
		case name == "" || chosen.Has(name):
			continue
		case len(validation.IsDNS1123Label(name)) > 0:
			return nil, "", fmt.Errorf("annotation %s: %s is no name of a container; separate names by commas",
				v1alpha1.ContainersAnnotation, shown(name))
		case !existing.Has(name) && len(missing)+len(name) < maxMissing:
			missing = strings.TrimPrefix(missing+","+name, ",")
		}
		chosen.Insert(name)
	}
	if len(chosen) == 0 {
		return nil, "", fmt.Errorf("annotation %s is empty: name containers, or remove it", v1alpha1.ContainersAnnotation)
	}
	return chosen, missing, nil
}

// inject gives a container these mounts and no others of ours. The former volumes
// are those of an earlier injection.
func (c *container) inject(mounts []mount, former sets.Set[string]) ([]operation, error) {
	patch, before, err := c.injectMounts(mounts, former)
	if err != nil {
		return nil, err
	}
	variables, err := c.injectVariables(mounts, before)
	return append(patch, variables...), err
}

// injectMounts returns the paths that an earlier injection mounted something at, too.
func (c *container) injectMounts(mounts []mount, former sets.Set[string]) (patch []operation, before []string, err error) {
	list := c.path + "/volumeMounts"
	entries, err := items[raw](list, c.VolumeMounts)
	if err != nil {
		return nil, nil, err
	}
	type head struct {
		Name      string `json:"name"`
		MountPath string `json:"mountPath"`
	}
	heads := make([]head, len(entries))
	users := sets.New[string]()
	for i, text := range entries {
		if err := decode(text, &heads[i]); err != nil {
			return nil, nil, fmt.Errorf("decode a mount: %w", err)
		}
		heads[i].MountPath = path.Clean(heads[i].MountPath)
		if former.Has(heads[i].Name) {
			before = append(before, heads[i].MountPath)
		} else {
			users.Insert(heads[i].MountPath)
		}
	}
	wanted := slices.DeleteFunc(slices.Clone(mounts), func(m mount) bool { return users.Has(m.path) })

	e := edit{path: list, missing: entries == nil, length: len(entries), replaced: map[int]any{}}
	placed := sets.New[string]()
	for i, h := range heads {
		if !former.Has(h.Name) {
			continue
		}
		j := slices.IndexFunc(wanted, func(w mount) bool { return w.name == h.Name && w.path == h.MountPath })
		if j < 0 || placed.Has(wanted[j].path) {
			e.removed = append(e.removed, i)
			continue
		}
		placed.Insert(wanted[j].path)
		if want := wanted[j].volumeMount(); !is(entries[i], want) {
			e.replaced[i] = want
		}
	}
	for _, m := range wanted {
		if !placed.Has(m.path) {
			e.added = append(e.added, m.volumeMount())
		}
	}
	return e.operations(), before, nil
}

// injectVariables sets the variables of the directories that are mounted, and
// takes those of an earlier injection away.
func (c *container) injectVariables(mounts []mount, before []string) ([]operation, error) {
	list := c.path + "/env"
	env, err := items[struct {
		Name      string `json:"name"`
		Value     string `json:"value"`
		ValueFrom raw    `json:"valueFrom"`
	}](list, c.Env)
	if err != nil {
		return nil, err
	}
	e := edit{path: list, missing: env == nil, length: len(env)}
	for _, v := range []struct{ name, dir string }{
		{v1alpha1.TokenDirVariable, v1alpha1.TokenDir}, {v1alpha1.VerifyDirVariable, v1alpha1.VerifyDir},
	} {
		below := func(p string) bool { return p == v.dir || strings.HasPrefix(p, v.dir+"/") }
		want := slices.ContainsFunc(mounts, func(m mount) bool { return below(m.path) })
		i := 0
		for i < len(env) && env[i].Name != v.name {
			i++
		}
		switch {
		case want && i == len(env):
			e.added = append(e.added, corev1.EnvVar{Name: v.name, Value: v.dir})
		case !want && i < len(env) && env[i].Value == v.dir && env[i].ValueFrom == nil && slices.ContainsFunc(before, below):
			e.removed = append(e.removed, i)
		}
	}
	slices.Sort(e.removed)
	return e.operations(), nil
}

// volumeMount mounts all of the object: a subPath would never see a change.
func (m mount) volumeMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: m.name, MountPath: m.path, ReadOnly: true}
}
