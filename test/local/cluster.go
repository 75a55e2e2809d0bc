// SPDX-License-Identifier: Apache-2.0

// Package local brings up what the demo, the benchmark and the attacks run on,
// on one machine: a control plane without nodes, the operator as a process
// beside it, and other processes. It ends only processes that it started.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

const (
	// OperatorNamespace is where config/default installs the operator.
	OperatorNamespace = "m2m-operator-system"

	operatorServiceAccount = "m2m-operator-controller-manager"
	operatorLease          = "m2m-operator"
)

// Cluster is a control plane without nodes: kube-apiserver and etcd.
type Cluster struct {
	environment *envtest.Environment
	dir         string // of kubeconfigs
	webhook     string // address of the operator's webhook

	// Manager is the operator's program. Launch is a command that runs it: Manager
	// and its flags follow as arguments. If empty, Manager runs directly.
	Manager string
	Launch  []string
	// KubectlPath is the program, Kubeconfig an administrator's file.
	KubectlPath, Kubeconfig string
	// Client and Clientset may do everything, without a rate limit.
	Client    client.WithWatch
	Clientset kubernetes.Interface
}

// StartCluster starts the control plane and installs the CRDs.
func StartCluster(dir string) (*Cluster, error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS is not set: use make, which brings up a control plane")
	}
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	c := &Cluster{
		environment: &envtest.Environment{CRDDirectoryPaths: []string{"config/crd/bases"}, ErrorIfCRDPathMissing: true},
		Manager:     "bin/manager", KubectlPath: filepath.Join(assets, "kubectl"), dir: dir, Kubeconfig: filepath.Join(dir, "admin.kubeconfig"),
	}
	// Tests write in minutes what a cluster writes in months, and the API server
	// lets etcd compact old revisions only every five minutes.
	c.environment.ControlPlane.Etcd = &envtest.Etcd{}
	c.environment.ControlPlane.Etcd.Configure().Set("quota-backend-bytes", strconv.Itoa(8<<30))
	config, err := c.environment.Start()
	if err != nil {
		return c, fmt.Errorf("start the control plane: %w", err)
	}
	config.QPS = -1
	if err := os.WriteFile(c.Kubeconfig, c.environment.KubeConfig, 0o600); err != nil {
		return c, err
	}
	if c.Client, err = client.NewWithWatch(config, client.Options{Scheme: Scheme()}); err != nil {
		return c, err
	}
	c.Clientset, err = kubernetes.NewForConfig(config)
	return c, err
}

// Scheme returns a scheme with Kubernetes' kinds and the operator's.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// Config returns an administrator's access to the API server, without a limit
// on requests.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.environment.Config) }

// Webhook returns the address at which the operator serves its webhook.
func (c *Cluster) Webhook() string { return c.webhook }

// Stop stops the control plane.
func (c *Cluster) Stop() error { return c.environment.Stop() }

// Kubectl runs kubectl as the administrator and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	return output(ctx, stdin, c.KubectlPath, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
}

// Apply applies objects with kubectl, and returns its report.
func (c *Cluster) Apply(ctx context.Context, objects []*unstructured.Unstructured) (string, error) {
	var manifest bytes.Buffer
	for _, o := range objects {
		b, err := yaml.Marshal(o.Object)
		if err != nil {
			return "", err
		}
		manifest.WriteString("---\n")
		manifest.Write(b)
	}
	return c.Kubectl(ctx, manifest.Bytes(), "apply", "--server-side", "-f", "-")
}

// ObjectsOf parses YAML documents.
func ObjectsOf(content []byte) (all []*unstructured.Unstructured, err error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// InstallOperator applies everything that an installation consists of, except the
// CRDs, which are there already, and the Deployment, which no node would run. The
// webhook's Service leads to the operator's process.
func (c *Cluster) InstallOperator(ctx context.Context) (string, error) {
	return c.InstallOperatorOf(ctx, "config/default")
}

// InstallOperatorOf is InstallOperator with another kustomization.
func (c *Cluster) InstallOperatorOf(ctx context.Context, kustomization string) (string, error) {
	rendered, err := c.Kubectl(ctx, nil, "kustomize", kustomization)
	if err != nil {
		return "", err
	}
	objects, err := ObjectsOf([]byte(rendered))
	if err != nil {
		return "", err
	}
	if c.webhook, err = ports.FreeAddress(); err != nil {
		return "", err
	}
	var wanted []*unstructured.Unstructured
	for _, o := range objects {
		switch o.GetKind() {
		case "CustomResourceDefinition", "Deployment", "PodDisruptionBudget":
			continue
		case "Service":
			o.Object["spec"] = map[string]any{"type": "ExternalName", "externalName": "localhost"}
		case "MutatingWebhookConfiguration":
			if err := reachAt(o, c.webhook); err != nil {
				return "", err
			}
		}
		wanted = append(wanted, o)
	}
	return c.Apply(ctx, wanted)
}

// reachAt makes the API server call a configuration's webhooks at the port of an
// address.
func reachAt(configuration *unstructured.Unstructured, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return err
	}
	webhooks, _, err := unstructured.NestedSlice(configuration.Object, "webhooks")
	if err != nil {
		return err
	}
	for _, w := range webhooks {
		if err := unstructured.SetNestedField(w.(map[string]any), number, "clientConfig", "service", "port"); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(configuration.Object, webhooks, "webhooks")
}

// OperatorKubeconfig writes a kubeconfig with a token of the operator's
// ServiceAccount: the process has the permissions of the operator's pod, and no
// more.
func (c *Cluster) OperatorKubeconfig(ctx context.Context) (string, error) {
	aDay := int64(24 * 60 * 60)
	token, err := c.Clientset.CoreV1().ServiceAccounts(OperatorNamespace).CreateToken(ctx, operatorServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &aDay}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("request a token of the operator's ServiceAccount: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["local"] = &clientcmdapi.Cluster{
		Server: c.environment.Config.Host, CertificateAuthorityData: c.environment.Config.CAData,
	}
	config.AuthInfos["operator"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["local"] = &clientcmdapi.Context{Cluster: "local", AuthInfo: "operator"}
	config.CurrentContext = "local"
	path := filepath.Join(c.dir, "operator.kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

// StartOperator starts the operator with the flags that a cluster without nodes
// needs, followed by the given ones. Its log goes to logPath. It returns the URL
// of the operator's probes.
func (c *Cluster) StartOperator(ctx context.Context, logPath string, flags ...string) (p *Process, probe string, err error) {
	kubeconfig, err := c.OperatorKubeconfig(ctx)
	if err != nil {
		return nil, "", err
	}
	log, err := os.Create(logPath)
	if err != nil {
		return nil, "", err
	}
	defer log.Close() // the process has its own
	address, err := ports.FreeAddress()
	if err != nil {
		return nil, "", err
	}
	command := append(slices.Clone(c.Launch), c.Manager,
		"--kubeconfig="+kubeconfig, "--operator-namespace="+OperatorNamespace, "--leader-elect=true",
		"--webhook-bind-address="+c.webhook,
		"--allow-insecure-http", "--allow-loopback", "--health-probe-bind-address="+address, "--metrics-bind-address=0",
	)
	command = append(command, flags...)
	p, err = Start("operator", log, false, command[0], command[1:]...)
	return p, "http://" + address, err
}

var httpClient = &http.Client{Timeout: 5 * time.Second}

// Healthy returns an error unless the operator's probes succeed.
func Healthy(probe string) error {
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := httpClient.Get(probe + path)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %d", path, resp.StatusCode)
		}
	}
	return nil
}

// Leader returns the holder of the operator's lease.
func (c *Cluster) Leader(ctx context.Context) (string, error) {
	var lease coordinationv1.Lease
	err := c.Client.Get(ctx, types.NamespacedName{Namespace: OperatorNamespace, Name: operatorLease}, &lease)
	if err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody holds the lease")
	}
	return *lease.Spec.HolderIdentity, nil
}

// SecretData returns the data of a Secret.
func (c *Cluster) SecretData(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	var s corev1.Secret
	err := c.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &s)
	return s.Data, err
}

// Until repeats check until it returns no error, for limit at most.
func Until(ctx context.Context, limit time.Duration, check func() error) error {
	deadline := time.After(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ReplaceStrings replaces text in all strings of an object, names of fields excepted.
func ReplaceStrings(value any, replacer *strings.Replacer) any {
	switch v := value.(type) {
	case string:
		return replacer.Replace(v)
	case []any:
		for i := range v {
			v[i] = ReplaceStrings(v[i], replacer)
		}
	case map[string]any:
		for name := range v {
			v[name] = ReplaceStrings(v[name], replacer)
		}
	}
	return value
}
