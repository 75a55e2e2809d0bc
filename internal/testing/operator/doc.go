// SPDX-License-Identifier: Apache-2.0

// Package operator runs the whole operator for tests, on a real kube-apiserver and
// etcd and against real authorization servers in the test's process.
//
// A package that uses it calls Main in its TestMain, which starts a control plane for
// the package. A test then starts an operator in one of two ways. Start runs it as in
// production, on the real clock, and the test waits with Eventually. StartStepped runs
// only its caches: the test calls the reconcilers with Settle and moves the clock with
// Advance, so nothing happens by itself, and hours take milliseconds.
//
// World is the setting of a test: an authorization server, the payment API, and the
// cart that calls it. A Stage is a world that a stepped operator has settled. A Tenant
// is the same at a Logto, where the operator registers everything.
//
// The functions end the test on anything unexpected, so they return no errors.
package operator
