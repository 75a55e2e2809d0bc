// SPDX-License-Identifier: Apache-2.0

// Package kube brings up the control plane that a suite tests against: a
// real kube-apiserver and etcd, with the operator's kinds installed. It also
// builds the operator for suites that run it as a process.
package kube

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Main is a suite's TestMain. It starts the control plane, calls the suite, stops the
// control plane and exits the process with the code that the suite returned. root is
// the path from the suite's folder to the repository's. A suite may change the
// environment before it starts the control plane. The environment's Config has no
// limit on requests, and a token instead of a certificate.
func Main(root string, suite func(*envtest.Environment) (code int, err error), change ...func(*envtest.Environment) error) {
	os.Exit(run(os.Stderr, root, suite, change...))
}

func run(stderr io.Writer, root string, suite func(*envtest.Environment) (int, error), change ...func(*envtest.Environment) error) int {
	code, err := within(root, suite, change...)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		code = 1
	}
	return code
}

func within(root string, suite func(*envtest.Environment) (int, error), change ...func(*envtest.Environment) error) (code int, err error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return 1, errors.New("KUBEBUILDER_ASSETS is not set: run the tests with make test, which brings up a control plane")
	}
	environment := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		// On a busy machine the default of 20 s is too short.
		ControlPlaneStartTimeout: time.Minute,
	}
	for _, f := range change {
		if err := f(environment); err != nil {
			return 1, err
		}
	}
	token, forget, err := withToken(environment)
	if err != nil {
		return 1, err
	}
	defer forget()
	// Stop it even if it started only halfway.
	defer func() {
		if stopErr := environment.Stop(); stopErr != nil {
			err = errors.Join(err, fmt.Errorf("stop the control plane: %w", stopErr))
		}
	}()
	restore := frugal(environment)
	config, err := environment.Start()
	restore()
	// The suites, too, keep little and throw much away. What they start is not affected.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if err != nil {
		return 1, fmt.Errorf("start the control plane: %w", err)
	}
	config.QPS, config.Burst = -1, 0
	config.DisableCompression = true // there is no network to spare
	config.BearerToken, config.CertData, config.KeyData = token, nil, nil
	if dir := os.Getenv(recordIn); dir != "" {
		if err := record(config, dir); err != nil {
			return 1, err
		}
	}
	return suite(environment)
}

// withToken lets a cluster administrator in with a token. The API server verifies a
// client's certificate anew for each request, which takes a twentieth of its processor
// time. forget removes the file with the token.
func withToken(environment *envtest.Environment) (token string, forget func(), err error) {
	dir, err := os.MkdirTemp("", "m2m-control-plane-")
	if err != nil {
		return "", nil, err
	}
	token, file := rand.Text(), filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(file, []byte(token+",suite,suite,system:masters\n"), 0o600); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	environment.ControlPlane.GetAPIServer().Configure().Set("token-auth-file", file)
	return token, func() { _ = os.RemoveAll(dir) }, nil
}

// frugal makes a control plane cost less processor time, which is what limits suites
// that run side by side. Its programs collect garbage less often, and each uses one
// processor: with more, they look for work in time that other suites need. There is
// nobody to be fair to, so the API server has no queues of requests. It serves no groups
// that concern neither the operator nor its installation, and has no admission plugins
// that read them: with these, it starts with a fifth more processor time. The programs
// inherit the process's environment. restore removes what was added to it; what was
// set before stays.
func frugal(environment *envtest.Environment) (restore func()) {
	environment.ControlPlane.GetAPIServer().Configure().
		Set("enable-priority-and-fairness", "false").
		Set("runtime-config", "autoscaling/v1=false", "autoscaling/v2=false", "certificates.k8s.io/v1=false",
			"flowcontrol.apiserver.k8s.io/v1=false", "node.k8s.io/v1=false", "resource.k8s.io/v1=false", "storage.k8s.io/v1=false").
		// ServiceAccount is what envtest disables: nobody makes the accounts that it wants.
		Set("disable-admission-plugins", "ServiceAccount", "RuntimeClass", "DefaultStorageClass",
			"PersistentVolumeClaimResize", "StorageObjectInUseProtection")
	var ours []string
	for name, value := range map[string]string{"GOMAXPROCS": "1", "GOGC": "400"} {
		if _, ok := os.LookupEnv(name); !ok && os.Setenv(name, value) == nil {
			ours = append(ours, name)
		}
	}
	return func() {
		for _, name := range ours {
			_ = os.Unsetenv(name)
		}
	}
}
