// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// objects is a reader of a fixed set of objects.
type objects []client.Object

func resolver(os ...client.Object) Resolver {
	return Resolver{
		Reader: objects(os), Watches: func(namespace string) bool { return namespace != "unwatched" },
		Cut: func(o client.Object) bool { return o.GetName() == "cut" },
	}
}

func (os objects) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	for _, o := range os {
		if client.ObjectKeyFromObject(o) != name || fmt.Sprintf("%T", o) != fmt.Sprintf("%T", into) {
			continue
		}
		switch o := o.(type) {
		case *v1alpha1.APIResource:
			*into.(*v1alpha1.APIResource) = *o
		case *v1alpha1.AuthorizationServer:
			*into.(*v1alpha1.AuthorizationServer) = *o
		case *v1alpha1.ClusterAuthorizationServer:
			*into.(*v1alpha1.ClusterAuthorizationServer) = *o
		case *v1alpha1.M2MClient:
			*into.(*v1alpha1.M2MClient) = *o
		case *metav1.PartialObjectMetadata:
			*into.(*metav1.PartialObjectMetadata) = *o
		}
		return nil
	}
	return apierrors.NewNotFound(schema.GroupResource{}, name.String())
}

func (os objects) List(_ context.Context, into client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	for _, obj := range os {
		switch list := into.(type) {
		case *v1alpha1.APIResourceList:
			if api, ok := obj.(*v1alpha1.APIResource); ok && o.FieldSelector.Matches(identifiers{api}) {
				list.Items = append(list.Items, *api)
			}
		case *v1alpha1.ClusterAuthorizationServerList:
			if c, ok := obj.(*v1alpha1.ClusterAuthorizationServer); ok {
				list.Items = append(list.Items, *c)
			}
		}
	}
	return nil
}

// identifiers implements the index that a Resolver needs.
type identifiers struct{ api *v1alpha1.APIResource }

func (i identifiers) Has(field string) bool { return field == ByIdentifier }
func (i identifiers) Get(string) string     { return string(i.api.Spec.Identifier) }
