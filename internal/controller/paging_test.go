// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/controller/cached"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// TestCachesFillWithoutStreams starts the operator without streaming lists, as API
// servers before Kubernetes 1.34 require.
func TestCachesFillWithoutStreams(t *testing.T) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	shop := operator.NewNamespace(t, "shop", nil)
	want := sets.New[string]()
	for i := range 2*cached.PageSize + 1 {
		name := fmt.Sprintf("filled-%d", i)
		meta := metav1.ObjectMeta{Namespace: shop, Name: name, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}}
		operator.Create(t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"filled": "x"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name}})
		want.Insert(name)
	}
	op := operator.StartStepped(t)
	op.CatchUp(shop)
	var got corev1.ConfigMapList
	if err := op.Client.List(t.Context(), &got, client.InNamespace(shop)); err != nil {
		t.Fatal(err)
	}
	names := sets.New[string]()
	for i := range got.Items {
		names.Insert(got.Items[i].Name)
	}
	if !names.Equal(want) {
		t.Errorf("the cache has %d ConfigMaps of %d", len(names), len(want))
	}
	pages := map[string]int{}
	for _, r := range op.Requests.Sent() {
		path, query, _ := strings.Cut(r, "?")
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if query == "" || q.Has("watch") || !strings.HasPrefix(path, "GET ") {
			continue
		}
		if q.Get("limit") != strconv.Itoa(cached.PageSize) || q.Get("resourceVersion") != "" {
			t.Errorf("%s is not listed in pages", r)
		}
		pages[path[strings.LastIndex(path, "/")+1:]]++
	}
	if pages["configmaps"] < 4 || pages["secrets"] < 4 || pages["m2mclients"] == 0 {
		t.Errorf("pages of each list: %v", pages)
	}
}
