// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
)

// Indexes of the cache, from a name to the objects that use it.
const (
	ByServer      = "authorizationServer" // APIResource, M2MClient → access.ServerKey
	ByAPIResource = "apiResource"         // M2MClient, ConfigMap → "namespace/name"
	ByIdentifier  = rules.ByIdentifier    // APIResource → its identifier
	BySecret      = "secret"              // AuthorizationServer → names of Secrets
	bySecretGroup = "secretGroup"         // M2MClient → groups of the names of Secrets
	ByConfigMap   = "configMap"           // AuthorizationServer → names of ConfigMaps
	ByVerify      = "verify"              // pods and workloads → "namespace/name" of APIResources
	ByMounts      = "mounts"              // pods → "secret/name" and "configmap/name" of injected volumes
	ByClient      = "client"              // pods → name of their M2MClient
)

// Index is one index of the cache.
// Index is how the cache finds objects by a value.
type Index struct {
	Obj   client.Object
	Field string
	Fn    func(client.Object) []string
}

// AddIndexes adds the indexes that an instance uses. A shard does without the others, and so
// need not cache their objects.
func AddIndexes(indexer client.FieldIndexer, mine Shard) error {
	indexes := IndexesOfClients()
	if mine == "" {
		indexes = append(indexes, IndexesOfAllElse()...)
	}
	for _, i := range indexes {
		if err := indexer.IndexField(context.Background(), i.Obj, i.Field, i.Fn); err != nil {
			return fmt.Errorf("index %T by %s: %w", i.Obj, i.Field, err)
		}
	}
	return nil
}

// IndexesOfClients returns the indexes that the controllers of M2MClients need.
func IndexesOfClients() []Index {
	return []Index{
		{&v1alpha1.M2MClient{}, ByServer, func(o client.Object) []string {
			return []string{rules.ServerKeyOf(rules.Named(o.(*v1alpha1.M2MClient).Spec.AuthorizationServerRef, o.GetNamespace())).String()}
		}},
		{&v1alpha1.M2MClient{}, ByAPIResource, APIResourcesOf},
		{&v1alpha1.M2MClient{}, bySecretGroup, secretGroupsOf},
		{&v1alpha1.APIResource{}, ByServer, func(o client.Object) []string {
			return []string{rules.ServerKeyOf(rules.Named(o.(*v1alpha1.APIResource).Spec.AuthorizationServerRef, o.GetNamespace())).String()}
		}},
		{&v1alpha1.APIResource{}, ByIdentifier, func(o client.Object) []string {
			return []string{string(o.(*v1alpha1.APIResource).Spec.Identifier)}
		}},
		{&corev1.ConfigMap{}, ByAPIResource, func(o client.Object) []string {
			return []string{o.GetAnnotations()[v1alpha1.APIResourceAnnotation]}
		}},
		{cached.Metadata("Pod"), ByVerify, verifies},
	}
}

// IndexesOfAllElse returns the indexes that only the other controllers need.
func IndexesOfAllElse() []Index {
	indexes := []Index{
		{cached.Metadata("Pod"), ByMounts, func(o client.Object) []string {
			var keys []string
			for _, m := range MountsOf(o) {
				keys = append(keys, m.String())
			}
			return keys
		}},
		{cached.Metadata("Pod"), ByClient, func(o client.Object) []string {
			if name, ok := o.GetAnnotations()[v1alpha1.ClientAnnotation]; ok {
				return []string{name}
			}
			return nil
		}},
	}
	for _, o := range []client.Object{&v1alpha1.AuthorizationServer{}, &v1alpha1.ClusterAuthorizationServer{}} {
		indexes = append(indexes,
			Index{o, BySecret, func(o client.Object) []string {
				spec := record.SpecOf(o)
				return []string{
					string(spec.CABundle.SecretRef.Name), string(spec.Provisioning.Logto.CredentialsSecretRef.Name),
					string(spec.Provisioning.DynamicRegistration.InitialAccessTokenSecretRef.Name),
				}
			}},
			Index{o, ByConfigMap, func(o client.Object) []string {
				return []string{string(record.SpecOf(o).CABundle.ConfigMapRef.Name)}
			}})
	}
	for _, o := range Workloads() {
		indexes = append(indexes, Index{o, ByVerify, verifies})
	}
	return indexes
}

// verifies returns the index keys of the APIResources whose bundles an object needs.
func verifies(o client.Object) []string {
	var keys []string
	for _, ref := range VerifyRefs(o) {
		keys = append(keys, ref.String())
	}
	return keys
}

// APIResourcesOf returns the APIResources that an M2MClient's access names, as
// "namespace/name".
func APIResourcesOf(o client.Object) []string {
	c := o.(*v1alpha1.M2MClient)
	var refs []string
	for i := range c.Spec.Access {
		if a := &c.Spec.Access[i]; a.APIResourceRef.Name != "" {
			refs = append(refs, rules.APIResourceOf(c, a).String())
		}
	}
	return refs
}

// secretsOf returns the names of the Secrets that a client reads or writes.
func secretsOf(c *v1alpha1.M2MClient) []string {
	names := []string{c.SecretName()}
	if n := CredentialSecret(c).Name; n != "" {
		names = append(names, string(n))
	}
	return names
}

// secretGroups is the number of groups into which the names of Secrets are hashed. An index
// by name would cost a kilobyte for each client; clients share an entry of a group.
const secretGroups = 32

func secretGroup(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return strconv.Itoa(int(h.Sum32() % secretGroups))
}

func secretGroupsOf(o client.Object) []string {
	groups := sets.New[string]()
	for _, name := range secretsOf(o.(*v1alpha1.M2MClient)) {
		groups.Insert(secretGroup(name))
	}
	return sets.List(groups)
}

// Verifiers returns an empty object of every kind that can carry the verify annotation.
func Verifiers() []client.Object {
	return append([]client.Object{cached.Metadata("Pod")}, Workloads()...)
}

// Workloads returns an empty object of every kind that creates pods.
func Workloads() []client.Object {
	return []client.Object{&appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}}
}

// VerifierLists returns an empty list for every kind of Verifiers.
func VerifierLists() []client.ObjectList {
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	return []client.ObjectList{pods,
		&appsv1.DeploymentList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}, &batchv1.JobList{}, &batchv1.CronJobList{}}
}

// VerifyRefs returns the APIResources whose bundles an object needs. It leaves out invalid
// names.
func VerifyRefs(o client.Object) []types.NamespacedName {
	var refs []types.NamespacedName
	for _, annotations := range []map[string]string{o.GetAnnotations(), cached.TemplateAnnotations(o)} {
		named, _ := v1alpha1.ParseVerify(annotations[v1alpha1.VerifyAnnotation], o.GetNamespace())
		refs = append(refs, named...)
	}
	return refs
}

// CredentialSecret returns the reference to the Secret with a client's own credentials, with
// the default key filled in. It has no name if the client needs no such Secret.
func CredentialSecret(c *v1alpha1.M2MClient) v1alpha1.SecretKeyReference {
	ref, key := c.Spec.Credentials.ClientSecret.SecretRef, v1alpha1.ClientSecretKey
	if r := c.Spec.Credentials.PrivateKeyJWT.SecretRef; r.Name != "" {
		ref, key = r, v1alpha1.PrivateKeyKey
	}
	ref.Key = cmp.Or(ref.Key, v1alpha1.FileName(key))
	return ref
}
