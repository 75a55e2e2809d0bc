// SPDX-License-Identifier: Apache-2.0

// Package operator runs the whole operator for tests, on a real kube-apiserver and etcd
// and against real authorization servers in the test's process.
//
// A package that uses it calls Main in its TestMain, which starts a control plane for the
// package. A test then starts an operator in one of two ways:
//
//   - Start runs it as in production, on the real clock. The test waits with Eventually.
//   - StartStepped runs its caches only. The test calls the reconcilers with Settle and
//     moves the clock with Advance, so nothing happens by itself, and hours take
//     milliseconds.
//
// World is what a test plays in: an authorization server, the payment API, and the cart
// that calls it. A Stage is a world that a stepped operator has brought to rest. A Tenant
// is the same at a Logto, where the operator registers everything.
//
// The functions end the test when something unexpected happens, so they return no errors.
package operator
