// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"cmp"
	"container/heap"
)

// Queue is a work queue in which tenants take turns, however many items each has
// queued. Within a tenant the greatest need comes first, as in the line for a budget, and
// among equal needs the oldest item. It is the storage of a client-go workqueue, whose lock guards it.
type Queue[T any] struct {
	tenant func(T) string
	need   func(T) Need

	tenants map[string]*items[T]
	turns   []*items[T] // the tenants with items; the first is next
	pushed  uint64
	size    int
}

// NewQueue returns an empty queue. It calls tenant and need when an item is pushed. If
// need is nil, all needs are equal.
func NewQueue[T any](tenant func(T) string, need func(T) Need) *Queue[T] {
	if need == nil {
		need = func(T) Need { return Need{} }
	}
	return &Queue[T]{tenant: tenant, need: need, tenants: map[string]*items[T]{}}
}

// Touch is called for an item that is already queued. The item keeps its place.
func (q *Queue[T]) Touch(T) {}

// Push adds an item.
func (q *Queue[T]) Push(item T) {
	tenant := q.tenant(item)
	of := q.tenants[tenant]
	if of == nil {
		of = &items[T]{tenant: tenant}
		q.tenants[tenant] = of
		q.turns = append(q.turns, of)
	}
	heap.Push(of, queued[T]{item, q.need(item), q.pushed})
	q.pushed++
	q.size++
}

// Len returns how many items are queued.
func (q *Queue[T]) Len() int { return q.size }

// Pop removes and returns the next item of the tenant whose turn it is. The queue
// must not be empty.
func (q *Queue[T]) Pop() T {
	of := q.turns[0]
	q.turns[0] = nil
	q.turns = q.turns[1:]
	next := heap.Pop(of).(queued[T])
	if of.Len() > 0 {
		q.turns = append(q.turns, of)
	} else {
		delete(q.tenants, of.tenant)
	}
	q.size--
	return next.item
}

type queued[T any] struct {
	item T
	need Need
	came uint64
}

// items is the heap of one tenant's items.
type items[T any] struct {
	tenant string
	heap   []queued[T]
}

func (h *items[T]) Len() int { return len(h.heap) }
func (h *items[T]) Less(i, j int) bool {
	return cmp.Or(h.heap[i].need.Compare(h.heap[j].need), cmp.Compare(h.heap[i].came, h.heap[j].came)) < 0
}
func (h *items[T]) Swap(i, j int) { h.heap[i], h.heap[j] = h.heap[j], h.heap[i] }
func (h *items[T]) Push(x any)    { h.heap = append(h.heap, x.(queued[T])) }
func (h *items[T]) Pop() any {
	last := h.heap[len(h.heap)-1]
	h.heap[len(h.heap)-1] = queued[T]{}
	h.heap = h.heap[:len(h.heap)-1]
	return last
}
