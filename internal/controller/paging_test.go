// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

// filledConfigMaps is an API server with ConfigMaps that somebody has filled. Like a
// real one, it answers with all of them whoever asks it for what it has at hand.
type filledConfigMaps struct {
	toolscache.ListerWatcherWithContext
	left, largest int
}

func (f *filledConfigMaps) ListWithContext(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	n := f.left
	if o.ResourceVersion != "0" && o.Limit > 0 {
		n = min(n, int(o.Limit))
	}
	f.largest = max(f.largest, n)
	f.left -= n
	list := &corev1.ConfigMapList{}
	for range n {
		list.Items = append(list.Items, corev1.ConfigMap{Data: map[string]string{"filled": strings.Repeat("x", 100<<10)}})
	}
	if f.left > 0 {
		list.Continue = strconv.Itoa(f.left)
	}
	return list, nil
}

// TestListsComeInPages lists as informers do where an API server does not stream.
func TestListsComeInPages(t *testing.T) {
	for name, o := range map[string]metav1.ListOptions{"at first": {ResourceVersion: "0"}, "later": {ResourceVersion: "7"}, "when too late": {}} {
		t.Run(name, func(t *testing.T) {
			there := &filledConfigMaps{left: 430}
			lister := &pagedLister{ListerWatcherWithContext: there, transform: slimConfigMap}
			p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return lister.ListWithContext(ctx, o)
			})
			if o.ResourceVersion == "7" {
				p.PageSize = 0
			}
			list, _, err := p.ListWithAlloc(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := meta.ExtractList(list)
			if err != nil || len(kept) != 430 {
				t.Fatalf("%d objects, %v", len(kept), err)
			}
			if there.largest > pageSize {
				t.Errorf("%d objects came at once", there.largest)
			}
			for _, c := range kept {
				if _, filled := c.(*corev1.ConfigMap).Data["filled"]; filled {
					t.Fatal("the content of a page is kept until the last one has come")
				}
			}
		})
	}
}

// TestCachesFillWithoutStreams starts the operator at an API server of which it does
// not ask for streams, as one before Kubernetes 1.34 has none.
func TestCachesFillWithoutStreams(t *testing.T) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, false)
	shop := newNamespace(t, "shop", nil)
	want := sets.New[string]()
	for i := range 2*pageSize + 1 {
		name := fmt.Sprintf("filled-%d", i)
		meta := metav1.ObjectMeta{Namespace: shop, Name: name, Labels: map[string]string{v1alpha1.ManagedByLabel: v1alpha1.ManagedByValue}}
		create(t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"filled": "x"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name}})
		want.Insert(name)
	}
	op := startStepped(t)
	op.catchUp(shop)
	var got corev1.ConfigMapList
	if err := op.client.List(t.Context(), &got, client.InNamespace(shop)); err != nil {
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
	op.requests.mu.Lock()
	defer op.requests.mu.Unlock()
	for _, r := range op.requests.all {
		path, query, _ := strings.Cut(r, "?")
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if query == "" || q.Has("watch") || !strings.HasPrefix(path, "GET ") {
			continue
		}
		if q.Get("limit") != strconv.Itoa(pageSize) || q.Get("resourceVersion") != "" {
			t.Errorf("%s is not asked for in pages", r)
		}
		pages[path[strings.LastIndex(path, "/")+1:]]++
	}
	if pages["configmaps"] < 4 || pages["secrets"] < 4 || pages["m2mclients"] == 0 {
		t.Errorf("the lists came in so many pages: %v", pages)
	}
}
