// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/payment"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// bundleName is the ConfigMap with the payment API's verification bundle.
const bundleName = "m2m-verify.payments.payment-api"

// tokenLog records the tokens that appear in the cart's Secret, by what may be
// shown of them.
type tokenLog struct {
	mu     sync.Mutex
	last   string
	number int
}

// saw records the token that the Secret holds now.
func (l *tokenLog) saw(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if digest := oidc.Hash(token); token != "" && digest != l.last {
		l.last, l.number = digest, l.number+1
	}
}

// count returns how many tokens there were.
func (l *tokenLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// token reads the token of a client's Secret.
func (d *demo) token(ctx context.Context, name types.NamespacedName) (string, error) {
	var s corev1.Secret
	if err := d.cluster.Client.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: name.Name + "-token"}, &s); err != nil {
		return "", err
	}
	token, ok := s.Data[keyName]
	if !ok {
		return "", fmt.Errorf("the Secret %s-token has no key %s", name.Name, keyName)
	}
	return string(token), nil
}

// bundle reads the verification bundle of the payment API.
func (d *demo) bundle(ctx context.Context) (map[string]string, error) {
	var c corev1.ConfigMap
	err := d.cluster.Client.Get(ctx, types.NamespacedName{Namespace: apiName.Namespace, Name: bundleName}, &c)
	return c.Data, err
}

// bundleKeys reads the key IDs of the verification bundle.
func (d *demo) bundleKeys(ctx context.Context) ([]string, error) {
	files, err := d.bundle(ctx)
	if err != nil {
		return nil, err
	}
	return keyIDs(files["jwks.json"])
}

// createPod creates the pod that a Deployment's controller would create, and
// returns it as the API server stored it, after injection.
func (d *demo) createPod(ctx context.Context, deployment types.NamespacedName) (*corev1.Pod, error) {
	var of appsv1.Deployment
	if err := d.cluster.Client.Get(ctx, deployment, &of); err != nil {
		return nil, err
	}
	template := of.Spec.Template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.GenerateName = of.Namespace, of.Name+"-"
	if err := d.cluster.Client.Create(ctx, pod); err != nil {
		return nil, fmt.Errorf("create a pod of %s: %w", deployment, err)
	}
	if pod.Annotations[v1alpha1.InjectedAnnotation] == "" {
		return nil, fmt.Errorf("the pod %s was not injected", pod.Name)
	}
	return pod, nil
}

// startKubelet creates a pod of each Deployment and shows as files what the
// operator has injected into the pods.
func (d *demo) startKubelet(ctx context.Context) error {
	var mounts []mount
	for _, name := range []types.NamespacedName{cartName, {Namespace: "payments", Name: "payment"}} {
		pod, err := d.createPod(ctx, name)
		if err != nil {
			return err
		}
		injected := mountsOf(pod, filepath.Dir(v1alpha1.TokenDir), d.volume(name.Name))
		d.say("pod %s/%s, with one annotation of ours, was injected at admission:", pod.Namespace, pod.Name)
		for _, m := range injected {
			d.block(fmt.Sprintf("%s at %s", m, filepath.Join(filepath.Dir(v1alpha1.TokenDir), strings.TrimPrefix(m.dir, d.volume(name.Name)))))
		}
		mounts = append(mounts, injected...)
	}
	var shown sync.Map
	k := &kubelet{api: apiServer{d.cluster.Clientset}, mounts: mounts, shown: func(m mount, files map[string][]byte) {
		shown.Store(m, true)
		if m.kind == "Secret" {
			d.tokens.saw(string(files[keyName]))
		}
	}}
	// Not ctx: the kubelet runs until the processes that read the files have stopped.
	running, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		k.run(running, func(err error) { d.failed <- err })
	}()
	d.onCleanUp(func() error { cancel(); <-stopped; return nil })

	return local.Until(ctx, 10*time.Second, func() error {
		for _, m := range mounts {
			if _, ok := shown.Load(m); !ok {
				return errors.Join(fmt.Errorf("%s is not shown", m), d.check())
			}
		}
		return nil
	})
}

// startPayment starts the payment process.
func (d *demo) startPayment() error {
	p, err := local.StartSelf("payment", "-bundle", d.volume("payment", "verify", keyName))
	if err != nil {
		return err
	}
	d.runs(p)
	line, err := bufio.NewReader(p.Stdout).ReadString('\n')
	if err != nil {
		return errors.Join(fmt.Errorf("payment does not say where it listens: %w", err), p.Running())
	}
	d.paymentURL = strings.TrimSpace(line)
	return nil
}

// volume returns the directory that stands for the volumes of a Deployment's pod.
func (d *demo) volume(deployment string, below ...string) string {
	return filepath.Join(append([]string{d.dir, "volumes", deployment}, below...)...)
}

// startCart starts a cart process, and counts its calls.
func (d *demo) startCart(more ...string) (*local.Process, error) {
	args := []string{"-url", d.paymentURL, "-token", filepath.Join(d.volume("cart", "token"), keyName)}
	p, err := local.StartSelf("cart", append(args, more...)...)
	if err != nil {
		return nil, err
	}
	if len(more) == 0 {
		d.runs(p)
		go d.calls.read(p.Stdout)
	}
	return p, nil
}

// callOnce starts a cart process for one call.
func (d *demo) callOnce(counted *calls) (payment.Call, error) {
	p, err := d.startCart("-count", "1")
	if err != nil {
		return payment.Call{}, err
	}
	last := counted.read(p.Stdout)
	return last, p.Wait()
}

// relative shortens a path for display.
func relative(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil {
		return rel
	}
	return path
}

// readySince returns when the M2MClient cart became ready.
func (d *demo) readySince(ctx context.Context) (time.Time, error) {
	var cart v1alpha1.M2MClient
	if err := d.cluster.Client.Get(ctx, cartName, &cart); err != nil {
		return time.Time{}, err
	}
	ready := meta.FindStatusCondition(cart.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionTrue {
		return time.Time{}, errors.New("the M2MClient cart is not ready")
	}
	return ready.LastTransitionTime.UTC(), nil
}
