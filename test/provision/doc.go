// SPDX-License-Identifier: Apache-2.0

// Package provision runs the whole operator, on a real API server and by the real clock, against authorization servers
// where it creates and keeps APIs and clients: a Logto, and a server with dynamic client registration. [TestProvision]
// has a table of scenarios for each and checks every one at the server itself, with a small client of its own.
//
// Without any variable both servers are stand-ins in this process (internal/testing/logto and internal/testing/oidc, over HTTPS).
// A real one is named by
//
//	M2M_PROVISION_LOGTO_ENDPOINT        its base URL, such as https://auth.example.com
//	M2M_PROVISION_LOGTO_CLIENT_ID       a machine-to-machine application with the Management API role,
//	M2M_PROVISION_LOGTO_CLIENT_SECRET   and its secret
//	M2M_PROVISION_LOGTO_ISSUER          default: {endpoint}/oidc
//	M2M_PROVISION_LOGTO_MANAGEMENT_API  default: https://{tenant}.logto.app/api for Logto Cloud, else
//	                                    https://default.logto.app/api
//
// and by
//
//	M2M_PROVISION_REGISTRATION_ISSUER                its issuer identifier
//	M2M_PROVISION_REGISTRATION_INITIAL_ACCESS_TOKEN  default: none, where registration is open
//	M2M_PROVISION_REGISTRATION_RESOURCES             the identifiers of two APIs, where the server must know them
//	M2M_PROVISION_REGISTRATION_SCOPES                three scopes of each, where the server must know them
//	M2M_PROVISION_REGISTRATION_AUDIENCE_PARAMETER    Resource (the default), Audience or None
//
// M2M_PROVISION_CA_FILE is a file with the certificates of the CAs of those real servers. The one that is not named is a
// stand-in, which the report says.
//
// Everything that is made carries the run's ID, which is printed at the start: identifiers are
// https://<run>-<scenario>.example.com/…, and the names of applications and roles hold the namespaces, which hold it. A
// scenario deletes what it made through the operator, and then whatever else carries its ID by the server's own API:
// what that finds fails it, and is listed in the report as left. The report goes to provision.json in the folder that
// M2M_PROVISION_OUT names; make provision-test sets it to out.
package provision
