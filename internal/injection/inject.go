// SPDX-License-Identifier: Apache-2.0

package injection

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

const (
	// maxName is the longest name of an M2MClient.
	maxName = 63
	// maxMounts limits the mounts in all containers of a pod together: the answer can be
	// much larger than the request.
	maxMounts = 2048
	// maxMissing limits the list of missing containers, in bytes.
	maxMissing = 250
)

// wish is what the annotations of a pod ask for.
type wish struct {
	client string                 // an M2MClient of the pod's namespace; "" for none
	apis   []types.NamespacedName // APIResources
}

// wishOf parses the annotations of a pod in a namespace. Its errors are one line, for
// whoever wrote the annotations.
func wishOf(annotations map[string]string, namespace string) (w wish, err error) {
	if name, ok := annotations[v1alpha1.ClientAnnotation]; ok {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
			return w, fmt.Errorf("annotation %s is empty: name an M2MClient of namespace %q, or remove it", v1alpha1.ClientAnnotation, namespace)
		case strings.Contains(name, "/"):
			return w, fmt.Errorf("annotation %s: %s has a slash; write the name alone: the M2MClient must be in the pod's own namespace",
				v1alpha1.ClientAnnotation, shown(name))
		case len(name) > maxName || len(validation.IsDNS1123Subdomain(name)) > 0:
			return w, fmt.Errorf("annotation %s: %s is not the name of an M2MClient; name one of namespace %q",
				v1alpha1.ClientAnnotation, shown(name), namespace)
		}
		w.client = name
	}
	if value, ok := annotations[v1alpha1.VerifyAnnotation]; ok {
		apis, invalid := v1alpha1.ParseVerify(value, namespace)
		switch {
		case len(value) > v1alpha1.VerifyMaxBytes:
			return w, fmt.Errorf("annotation %s has %d bytes; the limit is %d", v1alpha1.VerifyAnnotation, len(value), v1alpha1.VerifyMaxBytes)
		case len(invalid) > 0 && strings.HasPrefix(invalid[0], "(more than "), strings.Count(value, ",") > 2*v1alpha1.VerifyMaxNames:
			return w, fmt.Errorf("annotation %s names too many APIResources; a pod can have %d", v1alpha1.VerifyAnnotation, v1alpha1.VerifyMaxNames)
		case len(invalid) > 0:
			return w, fmt.Errorf("annotation %s: %s is not the name of an APIResource; write name or namespace/name, several separated by commas",
				v1alpha1.VerifyAnnotation, shown(invalid[0]))
		case len(apis) == 0:
			return w, fmt.Errorf("annotation %s is empty: name APIResources, or remove it", v1alpha1.VerifyAnnotation)
		}
		w.apis = apis
	}
	return w, nil
}

// maxShown is the most bytes of an annotation that a message quotes.
const maxShown = 80 + len("…")

// shown quotes what a user wrote, cut to fit into one line. Unlike text.Quote it leaves letters beyond ASCII readable.
func shown(s string) string { return strconv.Quote(text.CutBytes(s, maxShown)) }

// mount is an object to mount: the volume, and the path in the containers.
type mount struct {
	object string // as InjectedAnnotation lists it: "secret/name", "configmap/name"
	name   string // of the volume
	path   string
}

func newMount(object, path string) mount { return mount{object, volumeName(object), path} }

// mounts returns what to mount into a pod in a namespace. The Secret is the client's.
func (w wish) mounts(namespace, secret string) ([]mount, error) {
	var all []mount
	if w.client != "" {
		all = append(all, newMount(secretPrefix+secret, v1alpha1.TokenDir))
	}
	shared := map[string]int{} // name → how many APIs have it
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

// volumeName returns the name of the volume for an object. It marks the volume as ours:
// nobody else would name a volume by a hash of its source.
func volumeName(object string) string {
	kind := "verify"
	if strings.HasPrefix(object, secretPrefix) {
		kind = "token"
	}
	sum := sha256.Sum256([]byte(object))
	return "m2m-" + kind + "-" + hex.EncodeToString(sum[:8])
}

// volumeHead is the part of a volume that shows whether it is ours.
type volumeHead struct {
	Name   string `json:"name"`
	Secret *struct {
		SecretName string `json:"secretName"`
	} `json:"secret"`
	ConfigMap *struct {
		Name string `json:"name"`
	} `json:"configMap"`
}

// isOurs reports whether an earlier injection added the volume.
func (v volumeHead) isOurs() bool {
	switch {
	case v.Secret != nil:
		return v.Name == volumeName(secretPrefix+v.Secret.SecretName)
	case v.ConfigMap != nil:
		return v.Name == volumeName(configMapPrefix+v.ConfigMap.Name)
	}
	return false
}

// volume returns the volume of a mount. It contains the whole object, and every user can
// read it.
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

// inject returns the patch that injects what the annotations of a pod ask for. It does
// not touch the user's own volumes and mounts. It corrects what an earlier injection
// added, to this pod or to the one it was copied from.
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
	if _, ok := annotations[v1alpha1.TouchedAtAnnotation]; ok { // copied from another pod
		patch = append(patch, operation{Op: "remove", Path: annotation(v1alpha1.TouchedAtAnnotation)})
	}
	if missing != "" {
		patch = append(patch, operation{"add", annotation(v1alpha1.MissingContainersAnnotation), missing})
	} else if _, ok := annotations[v1alpha1.MissingContainersAnnotation]; ok { // they exist now
		patch = append(patch, operation{Op: "remove", Path: annotation(v1alpha1.MissingContainersAnnotation)})
	}
	return patch, nil
}

// injectVolumes makes our volumes in a pod exactly those of the mounts. It also returns
// the names of the volumes of an earlier injection.
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

// is reports whether a part of the request equals a value.
func is[T any](text raw, want T) bool {
	var got T
	return decode(text, &got) == nil && equality.Semantic.DeepEqual(got, want)
}

// chosenOf returns the names of the containers to inject into, nil for all, and a list of
// those that the pod does not have. If another webhook adds them, the API server calls
// this one again.
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
			return nil, "", fmt.Errorf("annotation %s: %s is not the name of a container; separate names by commas",
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

// inject makes our mounts in a container exactly these. The former volumes are those of an
// earlier injection.
func (c *container) inject(mounts []mount, former sets.Set[string]) ([]operation, error) {
	patch, before, err := c.injectMounts(mounts, former)
	if err != nil {
		return nil, err
	}
	variables, err := c.injectVariables(mounts, before)
	return append(patch, variables...), err
}

// injectMounts changes the mounts. It also returns the paths of the mounts of an earlier
// injection.
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

// injectVariables sets the variables of the mounted directories, and removes those of an
// earlier injection.
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

// volumeMount mounts the whole object: with a subPath, containers would never see a
// change.
func (m mount) volumeMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: m.name, MountPath: m.path, ReadOnly: true}
}
