// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/render"
)

const (
	// maxName is the longest name of an M2MClient or APIResource.
	maxName = 63
	// maxAPIs is how many APIs a pod may verify tokens of.
	maxAPIs = 64
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
		if strings.Count(value, ",") > 2*maxAPIs { // before it is taken apart
			return w, fmt.Errorf("annotation %s names too many APIResources; a pod can have %d", v1alpha1.VerifyAnnotation, maxAPIs)
		}
		apis, invalid := v1alpha1.ParseVerify(value, namespace)
		switch {
		case len(invalid) > 0:
			return w, fmt.Errorf("annotation %s: %s is no name of an APIResource; write name or namespace/name, several separated by commas",
				v1alpha1.VerifyAnnotation, shown(invalid[0]))
		case len(apis) == 0:
			return w, fmt.Errorf("annotation %s is empty: name APIResources, or remove it", v1alpha1.VerifyAnnotation)
		case len(apis) > maxAPIs:
			return w, fmt.Errorf("annotation %s names %d APIResources; a pod can have %d", v1alpha1.VerifyAnnotation, len(apis), maxAPIs)
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
	path   string
}

// mounts returns what a pod of a namespace gets to see. The Secret is the
// client's.
func (w wish) mounts(namespace, secret string) ([]mount, error) {
	var all []mount
	if w.client != "" {
		all = append(all, mount{object: secretPrefix + secret, path: v1alpha1.TokenDir})
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
		all = append(all, mount{
			object: configMapPrefix + render.ConfigMapName(api.Namespace, api.Name),
			path:   path.Join(v1alpha1.VerifyDir, dir),
		})
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

// isOurs says whether a volume was put into the pod by an earlier injection.
func isOurs(v corev1.Volume) bool {
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
	v := corev1.Volume{Name: volumeName(m.object)}
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

// inject puts into a pod of a namespace what its annotations ask for. It leaves
// what is the user's alone, and what an earlier injection put there, into this
// pod or into the one that it was copied from, it puts right.
func inject(pod *corev1.Pod, namespace string, w wish, secret string) error {
	mounts, err := w.mounts(namespace, secret)
	if err != nil {
		return err
	}
	containers := containersOf(pod)
	chosen, err := chosenOf(pod.Annotations, containers)
	if err != nil {
		return err
	}

	former := sets.New[string]() // volumes of an earlier injection
	var volumes []corev1.Volume
	for _, v := range pod.Spec.Volumes {
		if isOurs(v) {
			former.Insert(v.Name)
			i := slices.IndexFunc(mounts, func(m mount) bool { return volumeName(m.object) == v.Name })
			if i < 0 {
				continue
			}
			v = mounts[i].volume()
		}
		volumes = append(volumes, v)
	}
	for _, m := range mounts {
		if !former.Has(volumeName(m.object)) {
			volumes = append(volumes, m.volume())
		}
	}
	pod.Spec.Volumes = volumes

	var objects []string
	for _, m := range mounts {
		objects = append(objects, m.object)
	}
	for _, c := range containers {
		if chosen == nil || chosen.Has(c.Name) {
			injectContainer(c, mounts, former)
		} else {
			injectContainer(c, nil, former)
		}
	}
	pod.Annotations[v1alpha1.InjectedAnnotation] = strings.Join(objects, ",")
	delete(pod.Annotations, v1alpha1.TouchedAtAnnotation) // of the pod that it was copied from
	return nil
}

// containersOf returns a pod's containers and init containers.
func containersOf(pod *corev1.Pod) []*corev1.Container {
	var all []*corev1.Container
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	return all
}

// chosenOf returns the containers to inject into, nil for all.
func chosenOf(annotations map[string]string, containers []*corev1.Container) (sets.Set[string], error) {
	value, ok := annotations[v1alpha1.ContainersAnnotation]
	if !ok {
		return nil, nil
	}
	var existing []string
	for _, c := range containers {
		existing = append(existing, c.Name)
	}
	chosen := sets.New[string]()
	for name := range strings.SplitSeq(value, ",") {
		switch name = strings.TrimSpace(name); {
		case name == "":
		case slices.Contains(existing, name):
			chosen.Insert(name)
		default:
			return nil, fmt.Errorf("annotation %s: the pod has no container %s; it has %s",
				v1alpha1.ContainersAnnotation, shown(name), strings.Join(existing, ", "))
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("annotation %s is empty: name containers (the pod has %s), or remove it",
			v1alpha1.ContainersAnnotation, strings.Join(existing, ", "))
	}
	return chosen, nil
}

// injectContainer gives a container these mounts and no others of ours. The
// former volumes are those of an earlier injection.
func injectContainer(c *corev1.Container, mounts []mount, former sets.Set[string]) {
	var users, before []string // paths that the user mounts something at, and we did before
	for _, m := range c.VolumeMounts {
		if former.Has(m.Name) {
			before = append(before, path.Clean(m.MountPath))
		} else {
			users = append(users, path.Clean(m.MountPath))
		}
	}
	wanted := slices.DeleteFunc(slices.Clone(mounts), func(m mount) bool { return slices.Contains(users, m.path) })

	var kept []corev1.VolumeMount
	placed := sets.New[string]()
	for _, m := range c.VolumeMounts {
		if former.Has(m.Name) {
			i := slices.IndexFunc(wanted, func(w mount) bool { return volumeName(w.object) == m.Name && w.path == path.Clean(m.MountPath) })
			if i < 0 || placed.Has(wanted[i].path) {
				continue
			}
			m = wanted[i].volumeMount()
			placed.Insert(m.MountPath)
		}
		kept = append(kept, m)
	}
	for _, m := range wanted {
		if !placed.Has(m.path) {
			kept = append(kept, m.volumeMount())
		}
	}
	c.VolumeMounts = kept

	for _, v := range []struct{ name, dir string }{
		{v1alpha1.TokenDirVariable, v1alpha1.TokenDir}, {v1alpha1.VerifyDirVariable, v1alpha1.VerifyDir},
	} {
		below := func(p string) bool { return p == v.dir || strings.HasPrefix(p, v.dir+"/") }
		want := slices.ContainsFunc(mounts, func(m mount) bool { return below(m.path) })
		ours := corev1.EnvVar{Name: v.name, Value: v.dir}
		switch i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == v.name }); {
		case want && i < 0:
			// At the end: in the midst, what a newer API server knows of the others
			// and we do not would be lost.
			c.Env = append(c.Env, ours)
		case !want && i >= 0 && c.Env[i] == ours && slices.ContainsFunc(before, below):
			c.Env = slices.Delete(c.Env, i, i+1)
		}
	}
}

// volumeMount mounts all of the object: a subPath would never see a change.
func (m mount) volumeMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: volumeName(m.object), MountPath: m.path, ReadOnly: true}
}
