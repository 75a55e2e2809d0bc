// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
	"github.com/m2m-operator/m2m-operator/test/faults"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// sample holds the resources that a quiet operator uses.
type sample struct {
	Minute      float64 `json:"minute"`
	Goroutines  int     `json:"goroutines"`
	ResidentMiB float64 `json:"residentMiB"`
	Files       int     `json:"openFiles"`            // connections, too
	API         float64 `json:"apiRequestsPerSecond"` // since the last sample
	Tokens      float64 `json:"tokenRequestsPerSecond"`
}

// soaked is the result of TestSoak.
type soaked struct {
	Seed    uint64               `json:"seed"`
	Clients int                  `json:"clients"`
	Minutes float64              `json:"minutes"`
	Events  map[string]int       `json:"events"`
	Faults  map[faults.Fault]int `json:"faultsAtTheAPIServer"`
	Tokens  int                  `json:"tokens"`
	All     margin               `json:"tokensLeft"`
	Samples []sample             `json:"samples"`
}

// soak is a running TestSoak.
type soak struct {
	*crowd
	t       *testing.T
	random  *rand.Rand
	weather *faults.Weather
	process *local.Process
	profile string // address
	begun   time.Time
	log     *os.File
	events  map[string]int

	counted        time.Time // the last time
	api, requested int       // until then
}

// TestSoak lets M2M_SOAK_CLIENTS clients live for the time that M2M_SOAK says, while random
// things fail and change. In between there are quiet times. In the last one the operator uses
// what it used in the first: goroutines, memory, connections, requests. No token expires.
func TestSoak(t *testing.T) {
	duration, err := time.ParseDuration(os.Getenv("M2M_SOAK"))
	if err != nil {
		t.Skip("M2M_SOAK says how long: make soak sets it")
	}
	result := soaked{Seed: seedOf(t), Clients: max(numberOf("M2M_SOAK_CLIENTS"), crowdServers*crowdTenants)}
	s := startSoak(t, result.Seed, result.Clients)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.follow(ctx)
	s.served(t, 10*time.Minute)
	s.measure(everybody)

	s.begun, s.counted = time.Now(), time.Now()
	s.api, s.requested = s.asked()
	period := min(10*time.Minute, duration/3)
	for time.Since(s.begun) < duration {
		for until := time.Now().Add(period * 3 / 4); time.Now().Before(until); {
			s.happen(ctx)
		}
		s.calm()
		wait(ctx, period/4)
		if err := s.process.Running(); err != nil {
			t.Fatal(err)
		}
		result.Samples = append(result.Samples, s.sample(ctx))
		s.say("%+v", result.Samples[len(result.Samples)-1])
	}
	result.Minutes, result.Events, result.Faults = time.Since(s.begun).Minutes(), s.events, s.weather.Faults()
	result.All = s.measure(everybody)
	result.Tokens = s.came
	writeJSON(t, "soak.json", result)
	t.Logf("%+v", result)
	if result.All.Expired > 0 {
		t.Errorf("%d clients had an expired token, these have one now: %v", result.All.Expired, s.late())
	}
	result.judge(t)
	s.settled()
}

// judge compares the last quiet time with the first. In the first period all tokens were new, so there were fewer
// requests than ever after: those are compared with the second.
func (r soaked) judge(t *testing.T) {
	t.Helper()
	first, second, last := r.Samples[0], r.Samples[1], r.Samples[len(r.Samples)-1]
	for _, one := range []struct {
		name        string
		first, last float64
		part, more  float64 // that it may have grown by
	}{
		{"goroutines", float64(first.Goroutines), float64(last.Goroutines), 0.1, 20},
		{"MiB of memory", first.ResidentMiB, last.ResidentMiB, 0.2, 16},
		{"open files and connections", float64(first.Files), float64(last.Files), 0.1, 10},
		{"requests per second to the API server", second.API, last.API, 0.2, 2},
		{"token requests per second", second.Tokens, last.Tokens, 0.2, 1},
	} {
		if one.last > one.first*(1+one.part)+one.more {
			t.Errorf("%s: %.1f at first, and %.1f in the end", one.name, one.first, one.last)
		}
	}
}

// startSoak starts the crowd and the operator, with weather between it and the API server.
func startSoak(t *testing.T, seed uint64, clients int) *soak {
	t.Helper()
	s := &soak{
		crowd: startCrowd(t, "soaked", clients, 10*time.Minute), t: t, random: rand.New(rand.NewPCG(seed, 1)),
		weather: faults.NewWeather(seed), profile: ports.Free(t), events: map[string]int{},
	}
	kubeconfig, err := s.throughWeather()
	if err != nil {
		t.Fatal(err)
	}
	// A process that stood still when its renewals had met faults for seconds would lose a shorter lease, and end.
	o := startOperator(t, "--kubeconfig="+kubeconfig, "--pprof-bind-address="+s.profile,
		"--leader-elect-lease-duration=1m", "--leader-elect-renew-deadline=50s")
	s.process = o.process
	if s.log, err = os.Create(filepath.Join(outDir, "soak.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.log.Close() })
	return s
}

// throughWeather returns a kubeconfig with a way through the weather, which adds the
// operator's token: client-go sends none without TLS.
func (s *soak) throughWeather() (path string, err error) {
	operators, err := cluster.OperatorKubeconfig(s.t.Context())
	if err != nil {
		return "", err
	}
	config, err := clientcmd.BuildConfigFromFlags("", operators)
	if err != nil {
		return "", err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return "", err
	}
	to, err := url.Parse(config.Host)
	if err != nil {
		return "", err
	}
	proxy, listener, err := faults.NewProxy()
	if err != nil {
		return "", err
	}
	proxy.Serve(listener, to, s.weather.Through(faults.APIServer, transport))
	s.t.Cleanup(proxy.Close)
	way := clientcmdapi.NewConfig()
	way.Clusters["weather"] = &clientcmdapi.Cluster{Server: proxy.URL}
	way.Contexts["weather"] = &clientcmdapi.Context{Cluster: "weather"}
	way.CurrentContext = "weather"
	path = filepath.Join(s.t.TempDir(), "kubeconfig")
	return path, clientcmd.WriteToFile(*way, path)
}

func (s *soak) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.log, "%8.1f s  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

// calm ends all troubles. What was done stays done.
func (s *soak) calm() {
	s.weather.Set(0)
	for _, issuer := range s.issuers {
		issuer.ClearFaults()
	}
}

// happen lets something happen, and some seconds pass.
func (s *soak) happen(ctx context.Context) {
	one := happenings[s.random.IntN(len(happenings))]
	s.events[one.name]++
	if err := one.do(ctx, s); err != nil {
		s.say("%s: %v", one.name, err)
	}
	wait(ctx, time.Duration(1+s.random.IntN(5))*time.Second)
	s.calm()
}

// passing returns the names of the troubles that pass. A client that its server told to wait for an hour does so, and
// its token expires.
func passing(ofClients bool) []string {
	return slices.DeleteFunc(namesOf(ofClients), func(name string) bool { return name == "429 for an hour" })
}

// anyone returns a random member.
func (s *soak) anyone() member { return s.members[s.random.IntN(len(s.members))] }

// happenings are what may happen.
var happenings = []struct {
	name string
	do   func(context.Context, *soak) error
}{
	{"faults at the API server", func(_ context.Context, s *soak) error {
		part := 0.02 + 0.5*s.random.Float64()
		s.say("%.2f of the requests to the API server meet a fault", part)
		s.weather.Set(part)
		return nil
	}},
	{"watches cut", func(_ context.Context, s *soak) error {
		s.say("%d watches cut", s.weather.CutWatches())
		return nil
	}},
	{"a client in trouble", func(_ context.Context, s *soak) error {
		names, m := passing(true), s.anyone()
		name := names[s.random.IntN(len(names))]
		fault := troubles[name].fault
		fault.ClientID = m.id
		s.say("%s: %s", m.id, name)
		s.issuers[m.server].AddFault(oidc.Token, &fault)
		return nil
	}},
	{"a server in trouble", func(_ context.Context, s *soak) error {
		names, server := passing(false), s.random.IntN(crowdServers)
		name := names[s.random.IntN(len(names))]
		s.say("server %d: %s", server, name)
		fault := troubles[name].fault
		s.issuers[server].AddFault(troubles[name].at, &fault)
		return nil
	}},
	{"a new signing key", func(_ context.Context, s *soak) error {
		server := s.random.IntN(crowdServers)
		kid, err := s.issuers[server].RotateKey()
		s.say("server %d: key %s", server, kid)
		return err
	}},
	{"a token Secret deleted", func(ctx context.Context, s *soak) error {
		m := s.anyone()
		s.say("%s: its Secret is deleted", m.key)
		s.gone(m)
		return cluster.Client.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.key.Namespace, Name: m.key.Name + "-token"}})
	}},
	{"another client secret", func(ctx context.Context, s *soak) error {
		m, secret := s.anyone(), oidc.NewSecret()
		s.say("%s: another client secret", m.key)
		registered := oidc.Client{ID: m.id, Secret: secret, Scopes: map[string][]string{s.identifier(m.server): {scope}}}
		changed := credential(m.key.Namespace, m.key.Name, m.id, secret)
		return errors.Join(s.issuers[m.server].SetClient(registered), cluster.Client.Update(ctx, changed))
	}},
	{"a client made again", func(ctx context.Context, s *soak) error {
		m := s.anyone()
		s.say("%s: deleted, and made again", m.key)
		var o v1alpha1.M2MClient
		if err := cluster.Client.Get(ctx, m.key, &o); err != nil {
			return err
		}
		if err := cluster.Client.Delete(ctx, &o); err != nil {
			return err
		}
		again := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name}, Spec: o.Spec}
		return local.Until(ctx, time.Minute, func() error { return cluster.Client.Create(ctx, again) })
	}},
	{"the process stands still", func(ctx context.Context, s *soak) error {
		d := time.Duration(1+s.random.IntN(8)) * time.Second // much less than its lease
		s.say("it stands still for %s", d)
		if err := syscall.Kill(s.process.PID(), syscall.SIGSTOP); err != nil {
			return err
		}
		wait(ctx, d)
		return syscall.Kill(s.process.PID(), syscall.SIGCONT)
	}},
}

// gone forgets the token of a member whose Secret is taken away.
func (c *crowd) gone(m member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tokens, m.key)
}

// asked returns how many requests there were so far.
func (s *soak) asked() (api, tokens int) {
	for _, issuer := range s.issuers {
		tokens += issuer.Count(oidc.Token)
	}
	return s.weather.Requests(), tokens
}

// sample measures the operator. Requests are counted since the last sample: clients that got
// their tokens together replace them together.
func (s *soak) sample(ctx context.Context) sample {
	s.t.Helper()
	api, tokens := s.asked()
	d := time.Since(s.counted)
	rates := [2]float64{float64(api-s.api) / d.Seconds(), float64(tokens-s.requested) / d.Seconds()}
	s.counted, s.api, s.requested = time.Now(), api, tokens
	usage, err1 := local.UsageOf(s.process.PID())
	files, err2 := os.ReadDir(filepath.Join("/proc", strconv.Itoa(s.process.PID()), "fd"))
	goroutines, err3 := s.goroutines(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		s.t.Fatal(err)
	}
	return sample{
		Minute: time.Since(s.begun).Minutes(), Goroutines: goroutines, ResidentMiB: usage.Resident, Files: len(files),
		API: rates[0], Tokens: rates[1],
	}
}

func (s *soak) goroutines(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.profile+"/debug/pprof/goroutine?debug=1", http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
}

// settled waits until every member has a token and is ready.
func (s *soak) settled() {
	s.t.Helper()
	if err := local.Until(s.t.Context(), 5*time.Minute, func() error {
		var list v1alpha1.M2MClientList
		if err := cluster.Client.List(s.t.Context(), &list); err != nil {
			return err
		}
		var errs []error
		for i := range list.Items {
			for _, c := range list.Items[i].Status.Conditions {
				if (c.Type == v1alpha1.ConditionReady || c.Type == v1alpha1.ConditionFresh) && c.Status != metav1.ConditionTrue {
					errs = append(errs, fmt.Errorf("%s: %s: %s", client.ObjectKeyFromObject(&list.Items[i]), c.Reason, c.Message))
				}
			}
		}
		return errors.Join(errs...)
	}); err != nil {
		s.t.Error(err)
	}
}
