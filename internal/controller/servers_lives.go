// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"

	rules "github.com/m2m-operator/m2m-operator/internal/access"
)

// maxGone is how many servers may go while a pass lasts that knows one of them.
const maxGone = 4096

// lives knows which authorization servers exist. What the process keeps of a server
// ends with it: a pass that began before must not bring it back.
type lives struct {
	mu   sync.Mutex
	uids map[rules.ServerKey]types.UID
	gone *lru.Cache // the UIDs of the servers that went last
	ends []func(rules.ServerKey, types.UID)
}

func newLives() *lives {
	return &lives{uids: map[rules.ServerKey]types.UID{}, gone: lru.New(maxGone)}
}

// onEnd has a function called with each server that is gone.
func (l *lives) onEnd(f func(rules.ServerKey, types.UID)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = append(l.ends, f)
}

// isGone reports whether a server was deleted a moment ago.
func (l *lives) isGone(obj client.Object) bool {
	_, gone := l.gone.Get(obj.GetUID())
	return gone
}

// meet notes that a server exists. Another one of its name is gone then.
func (l *lives) meet(obj client.Object) {
	if l.isGone(obj) {
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

// forget ends a server that is gone.
func (l *lives) forget(key rules.ServerKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid, ok := l.uids[key]; ok {
		l.end(key, uid)
	}
}

// end tells of a server that is gone. l.mu must be held.
func (l *lives) end(key rules.ServerKey, uid types.UID) {
	l.gone.Add(uid, nil)
	delete(l.uids, key)
	for _, f := range l.ends {
		f(key, uid)
	}
}

// each keeps a value for each server, in memory: it is lost on restart. A server that
// was deleted and created again under the same name has another one.
type each[T any] struct {
	lives *lives
	make  func(client.Object) *T
	close func(*T) // of a server that is gone; nil: nothing to do

	mu sync.Mutex
	of map[rules.ServerKey]kept[T]
}

type kept[T any] struct {
	uid   types.UID
	value *T
}

func newEach[T any](l *lives, make func(client.Object) *T, close func(*T)) *each[T] {
	e := &each[T]{lives: l, make: make, close: close, of: map[rules.ServerKey]kept[T]{}}
	l.onEnd(e.end)
	return e
}

// get returns a server's value, made anew for a server that it has none of.
func (e *each[T]) get(obj client.Object) *T {
	e.lives.meet(obj)
	key := rules.ServerKeyOf(obj)
	e.mu.Lock()
	defer e.mu.Unlock()
	if k, ok := e.of[key]; ok && k.uid == obj.GetUID() {
		return k.value
	}
	v := e.make(obj)
	if !e.lives.isGone(obj) { // end may have been called already
		e.of[key] = kept[T]{obj.GetUID(), v}
	}
	return v
}

// find returns the value of the server of a name, nil if there is none.
func (e *each[T]) find(key rules.ServerKey) *T {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.of[key].value
}

func (e *each[T]) end(key rules.ServerKey, uid types.UID) {
	e.mu.Lock()
	k, ok := e.of[key]
	if ok = ok && k.uid == uid; ok {
		delete(e.of, key)
	}
	e.mu.Unlock()
	if ok && e.close != nil {
		e.close(k.value)
	}
}
