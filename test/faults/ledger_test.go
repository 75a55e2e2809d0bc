// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

// ledger follows what a run issues, registers and shows to pods, and notes each breach of what must
// hold at every moment.
type ledger struct {
	run *run

	mu       sync.Mutex
	issued   []issue
	writes   int             // of the API server that had an effect
	atDeath  int             // how many they were when the operator was killed, -1 before
	stored   map[string]bool // tokens that were in a Secret, by hash
	creates  map[string]int  // what the authorization server created, by request
	shown    map[string]map[string]string
	bundles  map[string][]string // the IDs of the keys, by ConfigMap
	kids     []string            // in the order in which the server began to use them
	revoked  []string
	decided  bool // somebody has decided that tokens must go
	breaches []string
}

// issue is a token that the authorization server has issued.
type issue struct {
	hash, access string
	writes       int // of the API server so far
}

func newLedger(r *run) *ledger {
	return &ledger{run: r, atDeath: -1, stored: map[string]bool{}, creates: map[string]int{}, shown: map[string]map[string]string{}, bundles: map[string][]string{}}
}

// observe is the wire's observer.
func (l *ledger) observe(c Call, req *http.Request, resp *http.Response) {
	if !c.Writes() || resp.StatusCode >= http.StatusBadRequest {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Side == AuthorizationServer {
		l.created(c, req, resp)
		return
	}
	l.writes++
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if len(path) < 5 || path[2] != "namespaces" {
		return
	}
	namespace, resource, name := path[3], path[4], ""
	if len(path) > 5 {
		name = path[5]
	} else if object, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(answerOf(resp), nil, nil); err == nil {
		name = object.(client.Object).GetName()
	}
	switch {
	case resource == "secrets" && namespace == l.run.shop:
		l.secret(namespace, name)
	case resource == "configmaps":
		l.configMap(namespace, name)
	}
}

// created records what an authorization server has issued or created.
func (l *ledger) created(c Call, req *http.Request, resp *http.Response) {
	if !strings.HasSuffix(c.Object, "token") {
		if c.Verb == http.MethodPost {
			l.creates[c.Verb+" "+c.Object]++
		}
		return
	}
	form, err := url.ParseQuery(string(bodyOf(req)))
	var answer struct {
		Token string `json:"access_token"`
	}
	if err != nil || json.Unmarshal(answerOf(resp), &answer) != nil || answer.Token == "" {
		l.breach("a token request cannot be read")
		return
	}
	if strings.HasSuffix(form.Get("resource"), ".logto.app/api") {
		return // the operator's own, for the management API
	}
	l.issued = append(l.issued, issue{oidc.Hash(answer.Token), l.run.rename(form.Get("resource")), l.writes})
}

func (l *ledger) breach(format string, args ...any) {
	l.breaches = append(l.breaches, fmt.Sprintf("at %s: ", l.run.clock.Now().UTC().Format(time.TimeOnly))+fmt.Sprintf(format, args...))
}

// secret looks at a Secret of the client's namespace after a write.
func (l *ledger) secret(namespace, name string) {
	var s corev1.Secret
	err := operator.Kube.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, &s)
	if client.IgnoreNotFound(err) != nil {
		l.breach("Secret %q cannot be read: %v", name, err)
		return
	}
	now := map[string]string{}
	for key, value := range s.Data {
		if _, err := jwks.Inspect(string(value)); err == nil {
			now[key] = string(value)
			l.stored[oidc.Hash(string(value))] = true
		}
	}
	if !strings.HasSuffix(name, "-token") {
		return // pods do not see it
	}
	for key, was := range l.shown[name] {
		l.left(name, key, was, now[key])
	}
	for key, is := range now {
		if is != l.shown[name][key] {
			l.appeared(name, key, is)
		}
	}
	l.shown[name] = now
	if apierrors.IsNotFound(err) {
		delete(l.shown, name)
	}
}

// left checks that a token could go: another that works took its place, or somebody has decided it.
func (l *ledger) left(name, key, was, is string) {
	switch old, _ := jwks.Inspect(was); {
	case is == was || l.decided:
	case is == "":
		l.breach("the token %q has left Secret %q and none took its place", key, name)
	case !old.ExpiresAt.After(l.run.clock.Now()) && !slices.Contains(l.revoked, old.KeyID):
		l.breach("the token %q in Secret %q had expired before it was replaced", key, name)
	}
}

// appeared checks that a token works that pods see from now on.
func (l *ledger) appeared(name, key, is string) {
	c, _ := jwks.Inspect(is)
	if !c.ExpiresAt.After(l.run.clock.Now()) {
		l.breach("the token %q came to Secret %q after it had expired", key, name)
	}
	for _, bundle := range slices.Sorted(maps.Keys(l.bundles)) {
		if !slices.Contains(l.bundles[bundle], c.KeyID) && l.bundles[bundle] != nil {
			l.breach("the token %q came to Secret %q before its key to bundle %q", key, name, bundle)
		}
	}
}

// configMap looks at a ConfigMap after a write: no key may go while a token signed by it is out.
func (l *ledger) configMap(namespace, name string) {
	var m corev1.ConfigMap
	err := operator.Kube.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, &m)
	if client.IgnoreNotFound(err) != nil {
		l.breach("ConfigMap %q cannot be read: %v", name, err)
		return
	}
	id := l.run.rename(namespace) + "/" + l.run.rename(name)
	var set struct{ Keys []struct{ Kid string } }
	if text, ok := m.Data["jwks.json"]; ok {
		if err := json.Unmarshal([]byte(text), &set); err != nil {
			l.breach("the keys of bundle %q cannot be read: %v", id, err)
		}
	} else if err == nil {
		return // it is not a bundle
	}
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k.Kid)
	}
	for _, gone := range l.bundles[id] {
		if !slices.Contains(kids, gone) && !slices.Contains(l.revoked, gone) && !l.decided && l.isOut(gone) {
			l.breach("the key %s left bundle %q while a token signed by it is out", gone, id)
		}
	}
	l.bundles[id] = kids
}

// isOut reports whether pods see a token that a key has signed and that has not expired.
func (l *ledger) isOut(kid string) bool {
	for _, tokens := range l.shown {
		for _, t := range tokens {
			if c, err := jwks.Inspect(t); err == nil && c.KeyID == kid && c.ExpiresAt.After(l.run.clock.Now()) {
				return true
			}
		}
	}
	return false
}

// lost returns the issued tokens that no Secret ever held.
func (l *ledger) lost() (lost []issue) {
	for _, i := range l.issued {
		if !l.stored[i.hash] {
			lost = append(lost, i)
		}
	}
	return lost
}

// died notes that the operator was killed.
func (l *ledger) died() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.atDeath = l.writes
}

// decide says that from now on tokens may go because somebody wants it.
func (l *ledger) decide() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decided = true
}

// revoke says that a key is revoked: it leaves bundles, and its tokens are replaced.
func (l *ledger) revoke(kid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revoked = append(l.revoked, kid)
}

// uses says that the server begins to use a key.
func (l *ledger) uses(kid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kids = append(l.kids, kid)
}
