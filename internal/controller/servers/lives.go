// SPDX-License-Identifier: Apache-2.0

// Package servers holds what this process knows of the authorization servers: which
// exist, which of their endpoints may be trusted, the HTTP connections, the request
// budgets, and the requests to fetch keys. The reconcilers share it, and it is safe
// for concurrent use. Everything here is lost on restart: the package writes no
// object, and what must survive belongs in a status.
package servers

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// maxGone bounds the remembered deleted servers: more than are deleted during one pass.
const maxGone = 4096

// Lives knows which authorization servers exist. The in-memory state of a server ends when
// the server is deleted; a pass that began before must not bring it back.
type Lives struct {
	mu   sync.Mutex
	uids map[rules.ServerKey]types.UID
	gone *lru.Cache // the UIDs of the servers that went last
	ends []func(rules.ServerKey, types.UID)
}

// NewLives returns lives that know no server yet.
func NewLives() *Lives {
	return &Lives{uids: map[rules.ServerKey]types.UID{}, gone: lru.New(maxGone)}
}

// OnEnd registers a function to call with each server that is gone.
func (l *Lives) OnEnd(f func(rules.ServerKey, types.UID)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = append(l.ends, f)
}

// IsGone reports whether a server was deleted a moment ago.
func (l *Lives) IsGone(obj client.Object) bool {
	_, gone := l.gone.Get(obj.GetUID())
	return gone
}

// meet records that a server exists. A former server of the same name is gone then.
func (l *Lives) meet(obj client.Object) {
	if l.IsGone(obj) {
		return
	}
	key := rules.ServerKeyOf(obj)
	l.mu.Lock()
	defer l.mu.Unlock()
	if former, ok := l.uids[key]; ok && former != obj.GetUID() {
		l.end(key, former)
	}
	l.uids[key] = obj.GetUID()
}

// Forget ends a server that is gone.
func (l *Lives) Forget(key rules.ServerKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid, ok := l.uids[key]; ok {
		l.end(key, uid)
	}
}

// end calls the registered functions for a server that is gone. l.mu must be held.
func (l *Lives) end(key rules.ServerKey, uid types.UID) {
	l.gone.Add(uid, nil)
	delete(l.uids, key)
	for _, f := range l.ends {
		f(key, uid)
	}
}

// Each keeps an in-memory value for each server; it is lost on restart. A server that was
// deleted and created again under the same name has another value.
type Each[T any] struct {
	lives  *Lives
	begin  func(client.Object) *T
	finish func(*T)

	mu     sync.Mutex
	values map[rules.ServerKey]kept[T]
}

type kept[T any] struct {
	uid   types.UID
	value *T
}

// NewEach returns an empty Each. It calls begin for a server without a value, and end, if
// not nil, with the value of a server that is gone.
func NewEach[T any](l *Lives, begin func(client.Object) *T, end func(*T)) *Each[T] {
	e := &Each[T]{lives: l, begin: begin, finish: end, values: map[rules.ServerKey]kept[T]{}}
	l.OnEnd(e.end)
	return e
}

// Get returns a server's value, and makes one if there is none.
func (e *Each[T]) Get(obj client.Object) *T {
	e.lives.meet(obj)
	key := rules.ServerKeyOf(obj)
	e.mu.Lock()
	defer e.mu.Unlock()
	if k, ok := e.values[key]; ok && k.uid == obj.GetUID() {
		return k.value
	}
	v := e.begin(obj)
	if !e.lives.IsGone(obj) { // end may have been called already
		e.values[key] = kept[T]{obj.GetUID(), v}
	}
	return v
}

// Find returns the value of the server with a key, nil if there is none.
func (e *Each[T]) Find(key rules.ServerKey) *T {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.values[key].value
}

// Len returns the number of servers that have a value.
func (e *Each[T]) Len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.values)
}

func (e *Each[T]) end(key rules.ServerKey, uid types.UID) {
	e.mu.Lock()
	k, ok := e.values[key]
	if ok = ok && k.uid == uid; ok {
		delete(e.values, key)
	}
	e.mu.Unlock()
	if ok && e.finish != nil {
		e.finish(k.value)
	}
}
