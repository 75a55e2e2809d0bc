// SPDX-License-Identifier: Apache-2.0

// The manager runs the operator: it turns flags into a manager and starts the
// controllers. See docs/operations.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	_ "golang.org/x/crypto/x509roots/fallback" // the image is empty but for this program
	"k8s.io/apimachinery/pkg/util/validation"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubeconfigs of developers
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/m2m-operator/m2m-operator/internal/controller"
	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/injection"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "m2m-operator:", err)
		os.Exit(1)
	}
}

// gcPercent is how much garbage there may be beside what is in use before it is
// collected, unless GOGC says otherwise. Most of the memory are caches, which stay:
// Go's 100 would have half of it be garbage.
const gcPercent = 30

// memoryLimit returns what of the container's limit, which its environment tells, Go
// may use before it collects garbage all the time rather than be killed: nine tenths,
// for the kernel counts more than Go does. It is zero where GOMEMLIMIT says so itself.
func memoryLimit(getenv func(string) string) int64 {
	limit, err := strconv.ParseInt(getenv("MEMORY_LIMIT"), 10, 64)
	if err != nil || getenv("GOMEMLIMIT") != "" {
		return 0
	}
	return limit / 10 * 9
}

// options are the flags of the manager.
type options struct {
	controller.Options
	metricsAddress, probeAddress string
	profileAddress               string
	insecureMetrics              bool
	leaderElect                  bool
	leaseDuration, renewDeadline time.Duration
	qps                          float64
	burst                        int
	controllers, inject          bool
	webhook                      injection.Options
	log                          zap.Options
}

func parse(flags *flag.FlagSet, args []string) (*options, error) {
	o := &options{}
	var namespaces, webhookAddress, clientNames string
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "Where metrics are served; 0 serves none.")
	flags.BoolVar(&o.insecureMetrics, "metrics-insecure", false, "Serve metrics over plain HTTP and to everybody. Meant for development.")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "Where /healthz and /readyz are served; 0 serves none.")
	flags.StringVar(&o.profileAddress, "pprof-bind-address", "0", "Loopback address where profiles are served, such as 127.0.0.1:6060, for kubectl port-forward; 0 serves none.")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "Let one of several replicas be active. Without it, run one replica only.")
	flags.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", 15*time.Second, "How long other replicas wait before they take over from a leader that is silent.")
	flags.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", 10*time.Second, "How long the leader tries to renew its lease before it gives up.")
	flags.StringVar(&o.OperatorNamespace, "operator-namespace", os.Getenv("POD_NAMESPACE"),
		"Namespace of the operator: of its lease, of the secrets of the clients that it registers, and of the Secrets and ConfigMaps that a ClusterAuthorizationServer names. Defaults to $POD_NAMESPACE.")
	flags.StringVar(&o.Shard, "shard", "",
		"Serve only the M2MClients with this value of the label m2m-operator.io/shard, and nothing else, no webhook either. Empty: those without the label, and everything else.")
	flags.IntVar(&o.Shards, "shards", 1, "How many instances share each authorization server's budget, this one included; each takes its part.")
	flags.StringVar(&namespaces, "watch-namespaces", "", "Namespaces to work in, separated by commas. Empty: all.")
	flags.IntVar(&o.Workers, "workers", 20, "How many M2MClients, verification bundles and pods are worked on at a time, of each.")
	flags.StringVar(&o.ClusterID, "cluster-id", "",
		"What tells this cluster apart at an authorization server that several clusters provision. Empty: the UID of the namespace kube-system. It should never change.")
	flags.DurationVar(&o.DeletionTimeout, "deletion-timeout", 5*time.Minute,
		"How long a deleted object is held until what was provisioned of it is removed at its authorization server.")
	flags.IntVar(&o.RequestsPerSecond, "default-requests-per-second", 100, "Requests per second to an authorization server that names no budget of its own.")
	flags.BoolVar(&o.PromptDelivery, "prompt-delivery", true, "Touch the pods that must see a change at once. It needs the permission to patch pods.")
	flags.BoolVar(&o.controllers, "controllers", true, "Run the controllers. Without them an instance serves the webhook only, and needs no lease.")
	flags.BoolVar(&o.inject, "webhook", true, "Serve the webhook that injects tokens and verification bundles into annotated pods.")
	flags.StringVar(&webhookAddress, "webhook-bind-address", ":9443", "Where the webhook is served.")
	flags.StringVar(&o.webhook.CertDir, "webhook-cert-dir", "",
		"Directory with the webhook's tls.crt and tls.key, kept up to date by somebody else, such as cert-manager. Empty: the operator keeps a certificate of its own.")
	flags.StringVar(&o.webhook.Service, "webhook-service", "m2m-operator-webhook", "Name of the webhook's Service, for which its certificate is.")
	flags.StringVar(&o.webhook.Configuration, "webhook-configuration", "m2m-operator-pod-injection", "Name of the MutatingWebhookConfiguration whose caBundle the operator writes.")
	flags.StringVar(&o.webhook.ClientCA, "webhook-client-ca", "",
		"File with the certificate authority of the client certificate that the API server shows to the webhook, where it is told to. Nobody else may then ask the webhook. Empty: anybody may.")
	flags.StringVar(&clientNames, "webhook-client-names", "", "Common names that the client certificate may have, separated by commas. Empty: any.")
	flags.Float64Var(&o.qps, "kube-api-qps", 500, "Requests per second to the Kubernetes API server.")
	flags.IntVar(&o.burst, "kube-api-burst", 1000, "Requests at once to the Kubernetes API server, after a pause.")
	flags.BoolVar(&o.Egress.AllowHTTP, "allow-insecure-http", false, "Allow authorization servers with http:// URLs. Secrets and tokens then cross the network in the clear: meant for development.")
	flags.BoolVar(&o.Egress.AllowLoopback, "allow-loopback", false, "Allow authorization servers at loopback addresses.")
	flags.BoolVar(&o.Egress.AllowLinkLocal, "allow-link-local", false, "Allow authorization servers at link-local addresses, where clouds serve their instance metadata.")
	flags.BoolVar(&o.RequireCredentialLabel, "require-credential-label", false,
		"Send only Secrets with the label m2m-operator.io/credentials=true to authorization servers. Without it, whoever may write M2MClients or AuthorizationServers can have every Secret of the namespace sent to a server of theirs.")
	flags.Func("egress-allow",
		"The only hosts and networks to connect to authorization servers at, separated by commas: auth.example.com, *.example.com, auth.example.com:8443, 10.1.0.0/16. Can be repeated. Unset: all that other flags do not forbid.",
		o.allowEgress)
	o.log.BindFlags(flags)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: every option is a flag", flags.Arg(0))
	}
	o.WatchNamespaces, o.webhook.ClientNames = listed(namespaces), listed(clientNames)
	slices.Sort(o.WatchNamespaces)
	o.WatchNamespaces = slices.Compact(o.WatchNamespaces)
	o.inject = o.inject && o.Shard == ""
	o.leaderElect = o.leaderElect && o.controllers
	o.webhook.OperatorNamespace, o.webhook.WatchNamespaces = o.OperatorNamespace, o.WatchNamespaces
	if err := o.validate(); err != nil {
		return nil, err
	}
	var err error
	o.webhook.Host, o.webhook.Port, err = hostPort(webhookAddress)
	return o, err
}

// listed takes a list apart.
func listed(value string) (all []string) {
	for s := range strings.SplitSeq(value, ",") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// allowEgress reads one --egress-allow.
func (o *options) allowEgress(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		a, err := egress.ParseAllowed(strings.TrimSpace(s))
		if err != nil {
			return err
		}
		o.Egress.Allow = append(o.Egress.Allow, a)
	}
	return nil
}

func (o *options) validate() error {
	for _, n := range o.WatchNamespaces {
		if len(validation.IsDNS1123Label(n)) > 0 {
			return fmt.Errorf("--watch-namespaces: %q is no name of a namespace; several are separated by commas", n)
		}
	}
	switch {
	case !off(o.profileAddress) && !loopback(o.profileAddress):
		return fmt.Errorf("--pprof-bind-address: %q is no loopback address with a port, such as 127.0.0.1:6060; profiles are for nobody else", o.profileAddress)
	case !o.controllers && !o.inject:
		return errors.New("--controllers=false leaves nothing to do without the webhook, which a shard does not have")
	case o.inject && o.webhook.CertDir == "" && o.OperatorNamespace == "":
		return errors.New("--operator-namespace is needed for the webhook's certificate; set it, or POD_NAMESPACE, or --webhook=false")
	case o.inject && o.webhook.CertDir == "" && (o.webhook.Service == "" || o.webhook.Configuration == ""):
		return errors.New("--webhook-service and --webhook-configuration are needed for the webhook's certificate")
	case len(o.webhook.ClientNames) > 0 && o.webhook.ClientCA == "":
		return errors.New("--webhook-client-names needs --webhook-client-ca")
	case o.leaderElect && o.OperatorNamespace == "":
		return errors.New("--operator-namespace is needed for the leader's lease; set it, or POD_NAMESPACE, or --leader-elect=false")
	case o.leaderElect && (o.renewDeadline < time.Second || o.leaseDuration <= o.renewDeadline):
		return errors.New("--leader-elect-renew-deadline must be at least 1s and less than --leader-elect-lease-duration")
	case o.ClusterID != "" && (len(o.ClusterID) > 63 || len(validation.IsDNS1123Subdomain(o.ClusterID)) > 0):
		return fmt.Errorf("--cluster-id: %q must have at most 63 lowercase letters, digits, '-' and '.', with a letter or digit at both ends", o.ClusterID)
	case o.DeletionTimeout < time.Second:
		return errors.New("--deletion-timeout must be at least 1s")
	case o.Shard != "" && len(validation.IsDNS1123Label(o.Shard)) > 0:
		return fmt.Errorf("--shard: %q must have at most 63 lowercase letters, digits and '-', with a letter or digit at both ends", o.Shard)
	case o.Shards < 1:
		return errors.New("--shards must be at least 1: this instance is one of them")
	case o.Shard != "" && o.Shards < 2:
		return errors.New("--shards must be at least 2 with --shard: the instance without a shard is one of them")
	case o.RequestsPerSecond < 1 || o.RequestsPerSecond > 10000:
		return errors.New("--default-requests-per-second must be from 1 to 10000")
	case o.Workers < 1:
		return errors.New("--workers must be at least 1")
	case o.qps <= 0 || o.burst < 1:
		return errors.New("--kube-api-qps and --kube-api-burst must be positive")
	}
	return nil
}

// off reports whether an address is that of a server that is not wanted.
func off(address string) bool { return address == "" || address == "0" }

func loopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().IsLoopback() && at.Port() != 0
}

// lease is the name of what the leader holds: each shard has its own.
func (o *options) lease() string {
	if o.Shard == "" {
		return "m2m-operator"
	}
	return "m2m-operator-" + o.Shard
}

// hostPort takes the address of the webhook apart.
func hostPort(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("--webhook-bind-address: %q is no address, such as :9443", address)
	}
	return host, port, nil
}

func run() error {
	// controller-runtime brings --kubeconfig along.
	o, err := parse(flag.CommandLine, os.Args[1:])
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if limit := memoryLimit(os.Getenv); limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&o.log)))
	// Go's HTTP server says there which TLS handshakes failed.
	stdlog.SetFlags(0)
	stdlog.SetOutput(toLogger{})

	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the Kubernetes API server: %w", err)
	}
	config.QPS, config.Burst = float32(o.qps), o.burst

	mo := controller.ManagerOptions(o.Options)
	mo.Metrics = metricsserver.Options{BindAddress: "0"} // they are served within bounds
	mo.HealthProbeBindAddress = o.probeAddress
	if !off(o.profileAddress) {
		mo.PprofBindAddress = o.profileAddress
	}
	mo.LeaderElection = o.leaderElect
	mo.LeaderElectionID = o.lease()
	mo.LeaderElectionNamespace = o.OperatorNamespace
	mo.LeaderElectionReleaseOnCancel = true
	retryPeriod := o.renewDeadline / 5
	mo.LeaseDuration, mo.RenewDeadline, mo.RetryPeriod = &o.leaseDuration, &o.renewDeadline, &retryPeriod

	mgr, err := ctrl.NewManager(config, mo)
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	if o.controllers {
		if err := controller.Setup(mgr, o.Options); err != nil {
			return err
		}
	}
	if o.inject {
		served, err := injection.Setup(mgr, o.webhook)
		if err != nil {
			return fmt.Errorf("set up the webhook: %w", err)
		}
		if err := mgr.AddReadyzCheck("webhook", served); err != nil {
			return err
		}
	}
	if !off(o.metricsAddress) {
		if err := serveMetrics(mgr, o.metricsAddress, o.insecureMetrics); err != nil {
			return fmt.Errorf("set up the metrics: %w", err)
		}
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	var filled cachesFilled
	if err := mgr.Add(&filled); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("caches", filled.check); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}

// toLogger has what is written to Go's own logger appear as a structured log.
type toLogger struct{}

func (toLogger) Write(line []byte) (int, error) {
	ctrl.Log.WithName("go").Info(strings.TrimSpace(string(line)))
	return len(line), nil
}

// cachesFilled is ready once the manager's caches are filled, of a replica that
// is not the leader too: it can then take over at once.
type cachesFilled struct{ done atomic.Bool }

// Start is called by the manager when its caches are filled.
func (c *cachesFilled) Start(context.Context) error {
	c.done.Store(true)
	return nil
}

// NeedLeaderElection says that Start is called on every replica.
func (c *cachesFilled) NeedLeaderElection() bool { return false }

func (c *cachesFilled) check(*http.Request) error {
	if !c.done.Load() {
		return errors.New("the caches are not filled yet")
	}
	return nil
}
