// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
)

// What all parts share.
var (
	kube      client.WithWatch
	clientset *kubernetes.Clientset
	config    *rest.Config
	figures   = newFigures()

	kubeconfig    = os.Getenv("KUBECONFIG")
	operatorImage = os.Getenv("M2M_E2E_IMAGE")
	podsImage     = os.Getenv("M2M_E2E_PODS_IMAGE") // of test/e2e/pods
	outDir        = os.Getenv("M2M_E2E_OUT")
)

const root = "../.."

func TestMain(m *testing.M) {
	if os.Getenv("M2M_E2E") != "1" {
		os.Exit(0) // make test has no node
	}
	if err := connect(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	start := time.Now()
	code := m.Run()
	figures.set("suite_seconds", time.Since(start).Seconds())
	figures.set("ok", code == 0)
	if err := figures.write(outDir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func connect() (err error) {
	for name, value := range map[string]*string{
		"KUBECONFIG": &kubeconfig, "M2M_E2E_IMAGE": &operatorImage, "M2M_E2E_PODS_IMAGE": &podsImage, "M2M_E2E_OUT": &outDir,
	} {
		if *value == "" {
			return fmt.Errorf("%s is not set: run the suite with make e2e", name)
		}
	}
	if kubeconfig, err = filepath.Abs(kubeconfig); err != nil {
		return err
	}
	if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return err
	}
	config.QPS, config.Burst = -1, 0
	if kube, err = client.NewWithWatch(config, client.Options{Scheme: controller.Scheme()}); err != nil {
		return err
	}
	if clientset, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	version, err := clientset.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask the cluster of %s: %w", kubeconfig, err)
	}
	figures.set("kubernetes_version", version.GitVersion)
	return nil
}

// TestE2E has one part for each of the things that must hold. Each needs only what
// is set up before the first, except for the last two: one examines the operator
// after all the others, and one replaces it.
func TestE2E(t *testing.T) {
	w := bringUp(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"story", testStory},
		{"delivery", testDelivery},
		{"webhook", testWebhook},
		{"gap", testGap},
		{"operator", testOperator},
		{"helm", testHelm},
	} {
		t.Run(part.name, func(t *testing.T) {
			start := time.Now()
			defer func() { figures.set("part_"+part.name+"_seconds", time.Since(start).Seconds()) }()
			part.run(t, w)
		})
	}
}

// eventually waits until a check passes. Otherwise it fails with the check's last error.
func eventually(t *testing.T, patience time.Duration, check func() error) {
	t.Helper()
	eventuallyEvery(t, 100*time.Millisecond, patience, check)
}

var eventuallyEvery = kubetest.Every
