// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	"github.com/m2m-operator/m2m-operator/test/local"
)

// numberOf returns a number from the environment, or zero.
func numberOf(variable string) int {
	n, _ := strconv.Atoi(os.Getenv(variable))
	return n
}

// seedOf returns the seed of a run: M2M_FAULTS_SEED, or a new one.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64() >> 20
	if n, err := strconv.ParseUint(os.Getenv("M2M_FAULTS_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("M2M_FAULTS_SEED=%d", seed)
	return seed
}

// writeJSON writes what was measured to out.
func writeJSON(t *testing.T, file string, what any) {
	t.Helper()
	raw, err := json.MarshalIndent(what, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(outDir, file), append(raw, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// inTrouble is what TestServersInTrouble has measured of the clients without any trouble.
type inTrouble struct {
	Seed             uint64   `json:"seed"`
	Troubles         []string `json:"troubles"` // of a whole server, one after the other
	OfClients        int      `json:"troublesOfClients"`
	Before           margin   `json:"before"`
	Meanwhile        margin   `json:"meanwhile"`
	NewBefore        float64  `json:"newClientSecondsBefore"`
	NewMeanwhile     float64  `json:"newClientSecondsMeanwhile"`     // the longest
	NewAmongTroubled float64  `json:"newClientSecondsAmongTroubled"` // at the server whose clients are in trouble, the longest
}

// TestServersInTrouble has 200 clients at three servers. Each of the clients of one has a
// trouble of its own there, and so has a whole tenant; the second server is as a whole in
// one trouble after the other; the third is well. All others are as much on time as without
// any trouble, and no token of theirs expires. M2M_TROUBLES says how many troubles of a whole
// server there are, and zero leaves the test out.
func TestServersInTrouble(t *testing.T) {
	count := min(numberOf("M2M_TROUBLES"), len(troubles))
	if count == 0 {
		t.Skip("M2M_TROUBLES says how many troubles to try: make faults does")
	}
	seed := seedOf(t)
	random := rand.New(rand.NewPCG(seed, 0))
	// A token is replaced in the first half of such a short life.
	const lifetime = 2 * time.Minute
	c := startCrowd(t, "troubled", 200, lifetime)
	startOperator(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go c.follow(ctx)
	c.served(t, 2*time.Minute)

	result := inTrouble{Seed: seed, NewBefore: c.newcomer(t, "new-before", 2)}
	c.measure(everybody)
	wait(ctx, lifetime/2+10*time.Second)
	result.Before = c.measure(everybody)

	troubled := c.spoil()
	result.OfClients = len(namesOf(true))
	names := namesOf(false)
	random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	result.Troubles = names[:count]
	window := max(20*time.Second, (lifetime/2+10*time.Second)/time.Duration(count))
	for i, name := range result.Troubles {
		c.issuers[1].ClearFaults()
		fault := troubles[name].fault
		c.issuers[1].AddFault(troubles[name].at, &fault)
		wait(ctx, window)
		if i%4 == 0 {
			result.NewMeanwhile = max(result.NewMeanwhile, c.newcomer(t, "new-"+strconv.Itoa(i), 2))
			result.NewAmongTroubled = max(result.NewAmongTroubled, c.newcomer(t, "among-"+strconv.Itoa(i), 0))
		}
	}
	result.Meanwhile = c.measure(func(m member) bool { return m.server != 1 && !troubled[m.id] })
	writeJSON(t, "troubles.json", result)
	t.Logf("%+v", result)
	if result.Before.Expired > 0 || result.Meanwhile.Expired > 0 {
		t.Errorf("of the clients without trouble, %d had an expired token before and %d meanwhile", result.Before.Expired, result.Meanwhile.Expired)
	}
	if result.Meanwhile.Replaced < 80 {
		t.Errorf("the tokens of %d clients without trouble were replaced", result.Meanwhile.Replaced)
	}
}

func everybody(member) bool { return true }

// spoil gives clients of the first server a trouble each, and all clients of the first
// tenant there the same one. It returns the IDs of all of them.
func (c *crowd) spoil() map[string]bool {
	names, troubled := namesOf(true), map[string]bool{}
	next := 0
	for _, m := range c.members {
		if m.server != 0 {
			continue
		}
		name := "503"
		if m.key.Namespace != c.tenant(0) {
			if next == len(names) {
				continue
			}
			name = names[next]
			next++
		}
		fault := troubles[name].fault
		fault.ClientID = m.id
		c.issuers[0].AddFault(oidc.Token, &fault)
		troubled[m.id] = true
	}
	return troubled
}

// newcomer adds a client of the second tenant at a server, and returns how many seconds its
// token took.
func (c *crowd) newcomer(t *testing.T, name string, server int) float64 {
	t.Helper()
	started := time.Now()
	for _, o := range c.join(t, name, 1, server) {
		if err := cluster.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	key := client.ObjectKey{Namespace: c.tenant(1), Name: name}
	if err := local.Until(t.Context(), breaker+patience, func() error {
		var m v1alpha1.M2MClient
		if err := cluster.Client.Get(t.Context(), key, &m); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ok := c.tokens[key]; !ok {
			return errors.Join(errors.New("it has no token"), conditionsError(m.Status.Conditions))
		}
		return nil
	}); err != nil {
		t.Errorf("%s has no token: %v", name, err)
	}
	return time.Since(started).Seconds()
}
