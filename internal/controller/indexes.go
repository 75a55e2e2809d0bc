// SPDX-License-Identifier: Apache-2.0

package controller

import (
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
)

// Indexes of the cache: from what an object names to the objects that name it.
const (
	byServer      = "authorizationServer" // APIResource, M2MClient → serverKey
	byAPIResource = "apiResource"         // M2MClient, ConfigMap → "namespace/name"
	byIdentifier  = rules.ByIdentifier    // APIResource → its identifier
	bySecret      = "secret"              // AuthorizationServer → names of Secrets
	bySecretGroup = "secretGroup"         // M2MClient → groups of the names of Secrets
	byConfigMap   = "configMap"           // AuthorizationServer → names of ConfigMaps
	byVerify      = "verify"              // pods and workloads → "namespace/name" of APIResources
	byMounts      = "mounts"              // pods → "secret/name" and "configmap/name" of what injection mounts
	byClient      = "client"              // pods → name of their M2MClient
)

// index is one index of the cache.
type index struct {
	obj   client.Object
	field string
	fn    func(client.Object) []string
}

// addIndexes adds the indexes that an instance looks things up by. What it does
// not, it need not cache.
func addIndexes(indexer client.FieldIndexer, mine shard) error {
	indexes := indexesOfClients()
	if mine == "" {
		indexes = append(indexes, indexesOfAllElse()...)
	}
	for _, i := range indexes {
		if err := indexer.IndexField(context.Background(), i.obj, i.field, i.fn); err != nil {
			return fmt.Errorf("index %T by %s: %w", i.obj, i.field, err)
		}
	}
	return nil
}

// indexesOfClients are those that the controllers of M2MClients need.
func indexesOfClients() []index {
	return []index{
		{&v1alpha1.M2MClient{}, byServer, func(o client.Object) []string {
			return []string{rules.ServerKeyOf(rules.Named(o.(*v1alpha1.M2MClient).Spec.AuthorizationServerRef, o.GetNamespace())).String()}
		}},
		{&v1alpha1.M2MClient{}, byAPIResource, apiResourcesOf},
		{&v1alpha1.M2MClient{}, bySecretGroup, secretGroupsOf},
		{&v1alpha1.APIResource{}, byServer, func(o client.Object) []string {
			return []string{rules.ServerKeyOf(rules.Named(o.(*v1alpha1.APIResource).Spec.AuthorizationServerRef, o.GetNamespace())).String()}
		}},
		{&v1alpha1.APIResource{}, byIdentifier, func(o client.Object) []string {
			return []string{string(o.(*v1alpha1.APIResource).Spec.Identifier)}
		}},
		{&corev1.ConfigMap{}, byAPIResource, func(o client.Object) []string {
			return []string{o.GetAnnotations()[v1alpha1.APIResourceAnnotation]}
		}},
		{metadataOf("Pod"), byVerify, verifies},
	}
}

// indexesOfAllElse are those that the other controllers need besides.
func indexesOfAllElse() []index {
	indexes := []index{
		{metadataOf("Pod"), byMounts, func(o client.Object) []string {
			var keys []string
			for _, m := range mountsOf(o) {
				keys = append(keys, m.String())
			}
			return keys
		}},
		{metadataOf("Pod"), byClient, func(o client.Object) []string {
			if name, ok := o.GetAnnotations()[v1alpha1.ClientAnnotation]; ok {
				return []string{name}
			}
			return nil
		}},
	}
	for _, o := range []client.Object{&v1alpha1.AuthorizationServer{}, &v1alpha1.ClusterAuthorizationServer{}} {
		indexes = append(indexes,
			index{o, bySecret, func(o client.Object) []string {
				spec := specOf(o)
				return []string{
					string(spec.CABundle.SecretRef.Name), string(spec.Provisioning.Logto.CredentialsSecretRef.Name),
					string(spec.Provisioning.DynamicRegistration.InitialAccessTokenSecretRef.Name),
				}
			}},
			index{o, byConfigMap, func(o client.Object) []string {
				return []string{string(specOf(o).CABundle.ConfigMapRef.Name)}
			}})
	}
	for _, o := range workloads() {
		indexes = append(indexes, index{o, byVerify, verifies})
	}
	return indexes
}

// verifies names the APIResources whose bundle an object asks for.
func verifies(o client.Object) []string {
	var keys []string
	for _, ref := range verifyRefs(o) {
		keys = append(keys, ref.String())
	}
	return keys
}

func apiResourcesOf(o client.Object) []string {
	c := o.(*v1alpha1.M2MClient)
	var refs []string
	for i := range c.Spec.Access {
		if a := &c.Spec.Access[i]; a.APIResourceRef.Name != "" {
			refs = append(refs, rules.APIResourceOf(c, a).String())
		}
	}
	return refs
}

// secretsOf names the Secrets that matter to a client: those it reads and the
// one that it writes.
func secretsOf(c *v1alpha1.M2MClient) []string {
	names := []string{c.SecretName()}
	if n := credentialSecret(c).Name; n != "" {
		names = append(names, string(n))
	}
	return names
}

// secretGroups is how many groups the names of Secrets fall into. To index the
// names themselves would cost a kilobyte for each client; a group is shared.
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

// verifiers returns an object of every kind that can carry the verify
// annotation.
func verifiers() []client.Object { return append([]client.Object{metadataOf("Pod")}, workloads()...) }

// workloads returns an object of every kind that makes pods.
func workloads() []client.Object {
	return []client.Object{&appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}}
}

// verifierLists returns an empty list for every kind of verifiers.
func verifierLists() []client.ObjectList {
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	return []client.ObjectList{pods,
		&appsv1.DeploymentList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}, &batchv1.JobList{}, &batchv1.CronJobList{}}
}

// verifyRefs returns the APIResources whose bundle an object asks for. What is
// no valid name is left out.
func verifyRefs(o client.Object) []types.NamespacedName {
	var refs []types.NamespacedName
	for _, annotations := range []map[string]string{o.GetAnnotations(), templateAnnotations(o)} {
		named, _ := v1alpha1.ParseVerify(annotations[v1alpha1.VerifyAnnotation], o.GetNamespace())
		refs = append(refs, named...)
	}
	return refs
}
