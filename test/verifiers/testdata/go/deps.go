// SPDX-License-Identifier: Apache-2.0

//go:build deps

// Package main names the libraries that docs/verifying/go.md shows, so that go.mod keeps them. The test puts the
// page's code beside this file.
package main

import (
	_ "github.com/MicahParks/keyfunc/v3"
	_ "github.com/coreos/go-oidc/v3/oidc"
	_ "github.com/go-jose/go-jose/v4"
	_ "github.com/golang-jwt/jwt/v5"
	_ "github.com/lestrrat-go/jwx/v3/jwk"
	_ "github.com/lestrrat-go/jwx/v3/jws"
	_ "github.com/lestrrat-go/jwx/v3/jwt"
)
