// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"context"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
)

// filledConfigMaps is an API server with large ConfigMaps. Like a real one, it ignores
// the page size if a request accepts a cached state.
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

// TestListsComeInPages lists like an informer whose API server does not stream.
func TestListsComeInPages(t *testing.T) {
	for name, o := range map[string]metav1.ListOptions{"at first": {ResourceVersion: "0"}, "later": {ResourceVersion: "7"}, "when too late": {}} {
		t.Run(name, func(t *testing.T) {
			there := &filledConfigMaps{left: 430}
			lister := &PagedLister{ListerWatcherWithContext: there, Transform: SlimConfigMap}
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
			if there.largest > PageSize {
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
