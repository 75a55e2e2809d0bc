// SPDX-License-Identifier: Apache-2.0

package cached

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// PageSize is how many whole objects, of up to 1.5 MB each, are in memory at once.
const PageSize = 25

// PagedLister lists in pages. It cuts the objects of a page to what the cache keeps before
// it asks for the next page. API servers before 1.34 do not stream lists; without pages they
// would answer from their cache with all objects at once.
type PagedLister struct {
	toolscache.ListerWatcherWithContext
	Transform toolscache.TransformFunc // nil: none
}

// ListWithContext implements toolscache.ListerWithContext.
func (l *PagedLister) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.Limit = PageSize
	if o.Continue == "" { // only the latest state comes in pages
		o.ResourceVersion, o.ResourceVersionMatch = "", ""
	}
	list, err := l.ListerWatcherWithContext.ListWithContext(ctx, o)
	if err != nil || l.Transform == nil {
		return list, err
	}
	return list, meta.EachListItem(list, func(o runtime.Object) error {
		_, err := l.Transform(o) // changes the object in place
		return err
	})
}

// List implements toolscache.Lister.
func (l *PagedLister) List(o metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), o)
}

// Watch implements toolscache.Watcher.
func (l *PagedLister) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), o)
}

// pagedInformer is an informer over a PagedLister.
type pagedInformer struct {
	toolscache.SharedIndexInformer
	lister *PagedLister
}

// NewPagedInformer returns an informer that lists in pages, for cache.Options.
func NewPagedInformer(lw toolscache.ListerWatcher, example runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	lister := &PagedLister{ListerWatcherWithContext: toolscache.ToListerWatcherWithContext(lw)}
	return pagedInformer{toolscache.NewSharedIndexInformer(lister, example, resync, indexers), lister}
}

// SetTransform implements toolscache.SharedInformer.
func (i pagedInformer) SetTransform(t toolscache.TransformFunc) error {
	i.lister.Transform = t
	return i.SharedIndexInformer.SetTransform(t)
}
