// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"os"
	"time"
)

// full is the value of M2M_ATTACKS for attacks in full size.
const full = "full"

// sizes are the sizes of the attacks.
type sizes struct {
	duration time.Duration // of all attacks at once
	// lifetimes are those of the healthy shops' tokens. Each token must be replaced
	// in the meantime: the operator does so in the first half of such a short life.
	lifetimes [shops]time.Duration

	deployments int // whose annotations hold names in 500 KiB
	configMaps  int // of 1 MB, with the operator's label
	clients     int // with annotations of 63 KiB
	churnEvery  time.Duration
	templates   int // APIResources with costly files

	reviews     int // of 6 MB, under way at a time
	connections int // to the webhook, with a body that does not come
	pods        int // of 1.3 MB, created at a time
	junk        int // bearer tokens at the metrics

	verifiers   int // namespaces that have a bundle of 32 large keys
	forged      int // pods that say they are injected
	slowClients int // of a server that takes 9 s, with 16 accesses each
	slowServers int
	oneSecret   int // clients that name one Secret, which changes all the time
}

// wanted returns the full sizes if they are requested, and otherwise sizes at
// which the attacks can run beside other tests.
func wanted() sizes {
	if os.Getenv("M2M_ATTACKS") == full {
		return sizes{
			duration: 10 * time.Minute, lifetimes: [shops]time.Duration{time.Minute, 90 * time.Second, 2 * time.Minute},
			deployments: 60, configMaps: 430, clients: 1500, churnEvery: time.Second, templates: 40,
			reviews: 24, connections: 2500, pods: 24, junk: 6000,
			verifiers: 20, forged: 600, slowClients: 20, slowServers: 40, oneSecret: 60,
		}
	}
	return sizes{
		duration: 45 * time.Second, lifetimes: [shops]time.Duration{45 * time.Second, 50 * time.Second, time.Minute},
		deployments: 12, configMaps: 40, clients: 100, churnEvery: 3 * time.Second, templates: 8,
		reviews: 6, connections: 600, pods: 2, junk: 300,
		verifiers: 4, forged: 100, slowClients: 8, slowServers: 40, oneSecret: 15,
	}
}
