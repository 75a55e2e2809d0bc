// SPDX-License-Identifier: Apache-2.0

// Package interop runs the whole operator, on a real API server, against authorization servers that share no code with
// it. [TestInterop] has one table of what must work and runs it against each server: the one of the other tests
// (internal/testing/oidc), the npm package oidc-provider where M2M_INTEROP_NODE=1 is set and Ory Hydra where
// M2M_INTEROP_HYDRA names its program (make interop-local), and with M2M_INTEROP_NAMED=1 (make interop) only the one
// that M2M_INTEROP_ISSUER and its relatives name, of which nothing is asked that needs control over the server. The driver for dynamic registration is run against the same servers of
// ours, and against the one that M2M_PROVISION_REGISTRATION_ISSUER and its relatives name. What the servers do goes to
// the folder that M2M_INTEROP_OUT names. See docs/guides/interoperability.md.
package interop
