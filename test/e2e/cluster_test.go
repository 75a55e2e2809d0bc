// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/test/e2e/wire"
)

// run runs a command at the repository's root, against the cluster, and returns
// its output.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin = root, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func mustRun(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	out, err := run(t.Context(), stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply applies a file of testdata as a user would, after replacing what only the
// suite knows.
func apply(t *testing.T, file string, replace ...string) {
	t.Helper()
	content, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, strings.NewReplacer(replace...).Replace(string(content)), "kubectl", "apply", "--server-side", "-f", "-")
}

// ask sends a request to the report port of a pod, through the API server.
func ask(ctx context.Context, pod client.ObjectKey, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	request := clientset.CoreV1().RESTClient().Verb(method).Namespace(pod.Namespace).Resource("pods").
		Name(fmt.Sprintf("http:%s:%d", pod.Name, wire.ReportPort)).SubResource("proxy")
	path, query, _ := strings.Cut(path, "?")
	request = request.Suffix(path)
	if name, value, ok := strings.Cut(query, "="); ok {
		request = request.Param(name, value)
	}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		request = request.Body(body).SetHeader("Content-Type", "application/json")
	}
	body, err := request.Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("%s %s of pod %s: %w: %.200s", method, path, pod, err, body)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *string:
		*out = string(body)
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s %s of pod %s: %w: %.200s", method, path, pod, err, body)
	}
	return nil
}

func mustAsk(t *testing.T, pod client.ObjectKey, method, path string, in, out any) {
	t.Helper()
	if err := ask(t.Context(), pod, method, path, in, out); err != nil {
		t.Fatal(err)
	}
}

func get[T any](t *testing.T, pod client.ObjectKey, path string) (answer T) {
	t.Helper()
	mustAsk(t, pod, http.MethodGet, path, nil, &answer)
	return answer
}

// podsOf lists the ready pods of an app that are not being deleted.
func podsOf(ctx context.Context, namespace, app string) ([]client.ObjectKey, error) {
	var list corev1.PodList
	if err := kube.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{"app": app}); err != nil {
		return nil, err
	}
	var ready []client.ObjectKey
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil && isReady(&pod) {
			ready = append(ready, client.ObjectKeyFromObject(&pod))
		}
	}
	return ready, nil
}

// running waits until an app has this many ready pods, and returns them.
func running(t *testing.T, namespace, app string, want int) (pods []client.ObjectKey) {
	t.Helper()
	eventually(t, time.Minute, func() (err error) {
		if pods, err = podsOf(t.Context(), namespace, app); err == nil && len(pods) != want {
			err = fmt.Errorf("%s/%s has %d ready pods, want %d", namespace, app, len(pods), want)
		}
		return err
	})
	return pods
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := kube.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %s: %v", o, client.ObjectKeyFromObject(o), err)
		}
	}
}

// update changes an object, and tries again after a conflict.
func update[T client.Object](t *testing.T, obj T, change func(T)) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		change(obj)
		return kube.Update(t.Context(), obj)
	})
}

// removeNamespaces deletes namespaces that an earlier run of the suite left
// behind, and no others.
func removeNamespaces(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		var ns corev1.Namespace
		err := kube.Get(t.Context(), client.ObjectKey{Name: name}, &ns)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil && ns.Labels[suiteLabel] == "" {
			err = fmt.Errorf("there is a namespace %s which is not of this suite", name)
		}
		if err == nil {
			err = kube.Delete(t.Context(), &ns)
		}
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		eventually(t, 2*time.Minute, func() error {
			err := kube.Get(t.Context(), client.ObjectKey{Name: name}, &corev1.Namespace{})
			if err == nil {
				return fmt.Errorf("the namespace %s is still there", name)
			}
			return client.IgnoreNotFound(err)
		})
	}
}

// becomeReady waits for the condition Ready of objects of ours, as kubectl wait
// does.
func becomeReady(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		eventually(t, time.Minute, func() error {
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			conditions, err := conditionsOf(o)
			if err != nil {
				return err
			}
			ready := meta.FindStatusCondition(conditions, "Ready")
			if ready == nil || ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != o.GetGeneration() {
				return fmt.Errorf("%T %s is not ready: %+v", o, client.ObjectKeyFromObject(o), conditions)
			}
			return nil
		})
	}
}

func conditionsOf(o client.Object) ([]metav1.Condition, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(content["status"])
	if err != nil {
		return nil, err
	}
	var status struct {
		Conditions []metav1.Condition `json:"conditions"`
	}
	err = json.Unmarshal(raw, &status)
	return status.Conditions, err
}
