// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
	"github.com/m2m-operator/m2m-operator/internal/testing/pki"
)

// plane is a control plane of the test's own, which can restart.
type plane struct {
	t           *testing.T
	environment *envtest.Environment
	authority   *pki.Authority // of the certificate after the restart
	certDir     string
}

// startPlane starts a control plane, and makes it that of the package until the test ends. Its clients trust the
// authority of its first certificate and another one, as clients in a cluster do before certificates are replaced.
func startPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, certDir: t.TempDir()}
	var err error
	if p.authority, err = pki.NewAuthority("the next authority"); err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens.csv")
	if err := os.WriteFile(tokens, []byte("token,suite,suite,system:masters\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.environment = &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: mercy,
	}
	p.environment.ControlPlane.Etcd = &envtest.Etcd{DataDir: t.TempDir()}
	api := p.environment.ControlPlane.GetAPIServer()
	api.CertDir = p.certDir
	api.Configure().Set("token-auth-file", tokens)
	t.Cleanup(func() {
		if err := p.environment.Stop(); err != nil && !slow(err) {
			t.Error(err)
		}
	})
	cfg, err := p.environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	cfg.CAData = append(append(cfg.CAData, '\n'), p.authority.Certificate...)
	cfg.BearerToken, cfg.CertData, cfg.KeyData = "token", nil, nil
	p.use(cfg)
	return p
}

// use makes the package's clients use the plane until the test ends.
func (p *plane) use(cfg *rest.Config) {
	p.t.Helper()
	kube, err := client.New(cfg, client.Options{Scheme: controller.Scheme()})
	if err != nil {
		p.t.Fatal(err)
	}
	formerConfig, formerKube := operator.RESTConfig, operator.Kube
	p.t.Cleanup(func() { operator.RESTConfig, operator.Kube = formerConfig, formerKube })
	operator.RESTConfig, operator.Kube = cfg, kube
}

// mercy is how long a program may take to stop before it is killed. With watches open, both take longer.
const mercy = time.Second

// slow reports whether a program was killed because it took too long to stop.
func slow(err error) bool { return strings.Contains(err.Error(), "timeout waiting for process") }

// stop stops a program, and waits until it no longer listens.
func (p *plane) stop(stop func() error, address string) {
	p.t.Helper()
	if err := stop(); err != nil && !slow(err) {
		p.t.Fatal(err)
	}
	operator.Eventually(p.t, func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil
		}
		return errors.Join(c.Close(), fmt.Errorf("%s still answers", address))
	})
}

// restartEtcd stops etcd for a moment.
func (p *plane) restartEtcd() {
	p.t.Helper()
	etcd := p.environment.ControlPlane.Etcd
	p.stop(etcd.Stop, etcd.URL.Host)
	time.Sleep(2 * time.Second)
	if err := etcd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.answers()
}

// restartAPIServer stops the API server, and starts it with a certificate of the other authority.
func (p *plane) restartAPIServer() {
	p.t.Helper()
	api := p.environment.ControlPlane.GetAPIServer()
	p.stop(api.Stop, api.SecureServing.URL("https", "").Host)
	pair, err := p.authority.Server("the API server", "localhost", "127.0.0.1")
	if err != nil {
		p.t.Fatal(err)
	}
	for name, b := range map[string][]byte{"apiserver.crt": pair.Certificate, "apiserver.key": pair.Key} {
		if err := os.WriteFile(filepath.Join(p.certDir, name), b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := api.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.answers()
}

// answers waits until the API server reads from etcd.
func (p *plane) answers() {
	p.t.Helper()
	operator.Eventually(p.t, func() error { return operator.Kube.List(p.t.Context(), &corev1.NamespaceList{}) })
}

// TestTheControlPlaneRestarts restarts etcd, and then the API server with another certificate, under an operator that
// runs on the real clock. Each time it goes on by itself: it requests no token for that, puts a Secret back that
// somebody deletes, and serves a new client.
func TestTheControlPlaneRestarts(t *testing.T) {
	p, f := startPlane(t), newFigures(t)
	operator.CreateNamespace(t)
	w := operator.NewWorld(t)
	_, cart := w.Story()
	operator.Start(t)
	operator.IsReady(t, cart)
	for i, c := range []struct {
		of string
		do func()
	}{{"etcd", p.restartEtcd}, {"the API server, another certificate", p.restartAPIServer}} {
		start := time.Now()
		c.do()
		goesOn(t, w, c.of, 1+2*i)
		f.add("restarts", Fault(c.of), t.Failed(), time.Since(start))
	}
}

// goesOn checks that a restart has cost no token, and that the operator then does what there is to do: two tokens more.
func goesOn(t *testing.T, w *operator.World, restarted string, tokens int) {
	t.Helper()
	if n := len(w.AS.TokenRequests()); n != tokens {
		t.Errorf("after the restart of %s, %d token requests were sent, want %d", restarted, n, tokens)
	}
	operator.Remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Shop, Name: "cart-token"}})
	operator.Eventually(t, func() error {
		return operator.Kube.Get(t.Context(), client.ObjectKey{Namespace: w.Shop, Name: "cart-token"}, &corev1.Secret{})
	})
	operator.IsReady(t, w.Another(fmt.Sprintf("another-%d", tokens)))
	if n := len(w.AS.TokenRequests()); n != tokens+2 {
		t.Errorf("after the restart of %s, for a Secret and a client, %d token requests were sent, want %d", restarted, n, tokens+2)
	}
}
