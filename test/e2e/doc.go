// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the whole on a real node: the operator as a pod, installed as
// the README says, and services that get tokens and keys by two annotations. It
// runs where M2M_E2E=1 is set, against the cluster that KUBECONFIG names, as make
// e2e does; what it measures goes to the folder that M2M_E2E_OUT names. See
// docs/measurements.md.
package e2e
