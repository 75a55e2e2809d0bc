// SPDX-License-Identifier: Apache-2.0

package main

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
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/yaml"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
)

const (
	operatorNamespace      = "m2m-operator-system"
	operatorServiceAccount = "m2m-operator-controller-manager"
	operatorLease          = "m2m-operator"
)

// cluster is a control plane without nodes: kube-apiserver and etcd.
type cluster struct {
	environment *envtest.Environment
	kubectlPath string
	dir         string // of kubeconfigs
	kubeconfig  string // an administrator's
	webhook     string // address of the operator's webhook
	client      client.Client
	clientset   kubernetes.Interface
}

// startCluster starts the control plane and installs the CRDs.
func startCluster(dir string) (*cluster, error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS is not set: run the demo with make demo, which brings up a control plane")
	}
	ctrl.SetLogger(zap.New(zap.WriteTo(io.Discard)))
	c := &cluster{
		environment: &envtest.Environment{CRDDirectoryPaths: []string{"config/crd/bases"}, ErrorIfCRDPathMissing: true},
		kubectlPath: filepath.Join(assets, "kubectl"), dir: dir, kubeconfig: filepath.Join(dir, "admin.kubeconfig"),
	}
	config, err := c.environment.Start()
	if err != nil {
		return c, fmt.Errorf("start the control plane: %w", err)
	}
	if err := os.WriteFile(c.kubeconfig, c.environment.KubeConfig, 0o600); err != nil {
		return c, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return c, err
	}
	if c.client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return c, err
	}
	c.clientset, err = kubernetes.NewForConfig(config)
	return c, err
}

func (c *cluster) stop() error { return c.environment.Stop() }

// kubectl runs kubectl as the administrator and returns what it printed.
func (c *cluster) kubectl(ctx context.Context, stdin []byte, args ...string) (string, error) {
	return output(ctx, stdin, c.kubectlPath, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

// apply has kubectl apply objects, and returns its report.
func (c *cluster) apply(ctx context.Context, objects []*unstructured.Unstructured) (string, error) {
	var manifest bytes.Buffer
	for _, o := range objects {
		b, err := yaml.Marshal(o.Object)
		if err != nil {
			return "", err
		}
		manifest.WriteString("---\n")
		manifest.Write(b)
	}
	return c.kubectl(ctx, manifest.Bytes(), "apply", "--server-side", "-f", "-")
}

// objectsOf parses YAML documents.
func objectsOf(content []byte) (all []*unstructured.Unstructured, err error) {
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

// installOperator applies what an installation consists of, save for the CRDs,
// which are there, and for the Deployment, which no node would run. The webhook's
// Service leads to the process of the operator.
func (c *cluster) installOperator(ctx context.Context) (string, error) {
	rendered, err := c.kubectl(ctx, nil, "kustomize", "config/default")
	if err != nil {
		return "", err
	}
	objects, err := objectsOf([]byte(rendered))
	if err != nil {
		return "", err
	}
	if c.webhook, err = freeAddress(); err != nil {
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
	return c.apply(ctx, wanted)
}

// reachAt has the API server call the webhooks of a configuration at the port of
// an address.
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

// operatorKubeconfig writes a kubeconfig with a token of the operator's
// ServiceAccount: the process may do what its pod would be allowed to do.
func (c *cluster) operatorKubeconfig(ctx context.Context) (string, error) {
	aDay := int64(24 * 60 * 60)
	token, err := c.clientset.CoreV1().ServiceAccounts(operatorNamespace).CreateToken(ctx, operatorServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &aDay}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("request a token of the operator's ServiceAccount: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["demo"] = &clientcmdapi.Cluster{
		Server: c.environment.Config.Host, CertificateAuthorityData: c.environment.Config.CAData,
	}
	config.AuthInfos["operator"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["demo"] = &clientcmdapi.Context{Cluster: "demo", AuthInfo: "operator"}
	config.CurrentContext = "demo"
	path := filepath.Join(c.dir, "operator.kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

// startOperator starts bin/manager. Its log goes to logPath.
func (c *cluster) startOperator(ctx context.Context, logPath string) (p *process, probe string, err error) {
	kubeconfig, err := c.operatorKubeconfig(ctx)
	if err != nil {
		return nil, "", err
	}
	log, err := os.Create(logPath)
	if err != nil {
		return nil, "", err
	}
	defer log.Close() // the process has its own
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	p, err = start("operator", log, false, "bin/manager",
		"--kubeconfig="+kubeconfig, "--operator-namespace="+operatorNamespace, "--leader-elect=true",
		"--webhook-bind-address="+c.webhook,
		"--allow-insecure-http", "--allow-loopback", "--health-probe-bind-address="+address, "--metrics-bind-address=0")
	return p, "http://" + address, err
}

// freeAddress returns a loopback address that nobody listens at now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

var httpClient = &http.Client{Timeout: 5 * time.Second}

// healthy asks the operator's probes.
func healthy(probe string) error {
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

// leader returns who holds the operator's lease.
func (c *cluster) leader(ctx context.Context) (string, error) {
	var lease coordinationv1.Lease
	err := c.client.Get(ctx, types.NamespacedName{Namespace: operatorNamespace, Name: operatorLease}, &lease)
	if err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody holds the lease")
	}
	return *lease.Spec.HolderIdentity, nil
}

// secretData returns what a Secret holds.
func (c *cluster) secretData(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	var s corev1.Secret
	err := c.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &s)
	return s.Data, err
}

// until asks again and again until check has nothing to object.
func until(ctx context.Context, limit time.Duration, check func() error) error {
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

// replaceStrings replaces text in all strings of an object.
func replaceStrings(value any, replacer *strings.Replacer) any {
	switch v := value.(type) {
	case string:
		return replacer.Replace(v)
	case []any:
		for i := range v {
			v[i] = replaceStrings(v[i], replacer)
		}
	case map[string]any:
		for name := range v {
			v[name] = replaceStrings(v[name], replacer)
		}
	}
	return value
}
