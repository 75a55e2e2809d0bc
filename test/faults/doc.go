// SPDX-License-Identifier: Apache-2.0

// Package faults kills and disturbs the operator at each of its requests. A Wire is
// between one operator and both of its servers, the API server and the authorization
// server. It names every request by its verb and its object, so that two runs compare,
// and at a chosen request it does a Fault. A scenario is a list of steps on a stepped
// clock. The campaign runs each scenario once without a fault and records its requests;
// then it runs it again for each request and each kind of fault, in a pair of
// namespaces of its own, with a fresh operator after each kill. The oracles, all in
// one place, know no scenario: the end is that of the run without the fault, nothing
// is issued or registered twice, no working token leaves a Secret before its time, no
// key leaves a bundle before its tokens, no reconcile fails for ever, and nothing
// secret is written anywhere.
package faults
