// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	rules "github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/controller/conditions"
	"github.com/m2m-operator/m2m-operator/internal/controller/record"
	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
)

// verificationReasons are the reasons of a failure that say that a token was
// issued and would be refused by its API.
var verificationReasons = []string{
	jwks.ReasonAlgorithm, jwks.ReasonBadSignature, jwks.ReasonExpired, jwks.ReasonMalformed, jwks.ReasonMissingScopes,
	jwks.ReasonNotYetValid, jwks.ReasonUnknownKey, jwks.ReasonUnusableKey, jwks.ReasonWrongAudience, jwks.ReasonWrongIssuer, jwks.ReasonWrongType,
}

// verificationHints say what to change.
var verificationHints = map[string]string{
	jwks.ReasonAlgorithm:     "compare the APIResource's spec.verification.algorithms with the server's keys",
	jwks.ReasonExpired:       "compare the clocks of the server and the cluster",
	jwks.ReasonNotYetValid:   "compare the clocks of the server and the cluster",
	jwks.ReasonUnknownKey:    "check that the JWKS endpoint in the server's status serves the keys that the server signs with",
	jwks.ReasonUnusableKey:   "configure the server to sign with another key",
	jwks.ReasonWrongAudience: "compare the API's identifier with the one at the server, and check the server's spec.audienceParameter; if its tokens have no aud, set spec.verification.audience of the APIResource, or verification.audience of an access with a plain resource",
	jwks.ReasonWrongIssuer:   "configure the server to name the same issuer in its metadata and its tokens",
	jwks.ReasonWrongType:     "change the APIResource's spec.verification.tokenType, or the type that the server issues",
}

// notVerified says of a token why it is not published.
func notVerified(p *rules.Problem) string {
	return hinted("The server issued a token that the API would refuse: ", p)
}

// notAccepted says of the token in the Secret why it is no good any more.
func notAccepted(p *rules.Problem) string {
	return hinted("The API would refuse the token that the client has: ", p)
}

func hinted(what string, p *rules.Problem) string {
	message := what + p.Message
	if hint := verificationHints[p.Reason]; hint != "" && !strings.HasSuffix(message, hint) {
		message += "; " + hint
	}
	return message
}

// summarize writes the client's status from what a pass found. A client's conditions are
// decided only here.
func summarize(p *pass) {
	status := &p.Client.Status
	granted, fresh, verified := p.isGranted(), p.isFresh(), p.isVerified()
	conditions.SetOrRemove(&status.Conditions, p.Client.Generation, v1alpha1.ConditionProvisioned, p.provisioned)
	conditions.Set(&status.Conditions, p.Client.Generation, p.isReady(granted, fresh), granted, fresh, verified)
	status.ObservedGeneration = p.Client.Generation
	p.noteRequest()
	if p.credentials != nil {
		status.ClientID = v1alpha1.ClientID(p.credentials.ClientID)
	}
	if p.secretProblem == nil {
		status.SecretName = v1alpha1.ObjectName(p.secret.Name)
	}

	status.Tokens, status.ExpiresAt = nil, nil
	var first time.Time
	for _, a := range p.Accesses {
		t := v1alpha1.TokenStatus{Key: v1alpha1.AccessKey(a.key), Terms: a.judgedBy, Pending: a.pending}
		if a.failure != nil {
			t.Failure = *a.failure
		}
		if a.token != "" && !a.withdraw {
			for _, s := range a.Record.Scopes {
				t.Scopes = append(t.Scopes, v1alpha1.ScopeName(s))
			}
			t.IssuedAt, t.ExpiresAt, t.RefreshAt = record.Time(a.Record.IssuedAt), record.Time(a.Record.ExpiresAt), record.Time(a.plan.RefreshAt)
			if jwks.ValidKeyID(a.Record.KeyID) { // the record may be forged
				t.KeyID = a.Record.KeyID
			}
			if isThumbprint(a.Record.Thumbprint) && slices.Contains(jwks.Algorithms(), a.Record.Algorithm) {
				t.KeyThumbprint, t.Algorithm = a.Record.Thumbprint, a.Record.Algorithm
			}
			if first.IsZero() || a.Record.ExpiresAt.Before(first) {
				first = a.Record.ExpiresAt
			}
		}
		status.Tokens = append(status.Tokens, t)
	}
	status.ExpiresAt = record.Time(first)
}

// isThumbprint reports whether a string can be a SHA-256 thumbprint in base64url.
func isThumbprint(s string) bool {
	sum, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && len(sum) == sha256.Size && !strings.ContainsAny(s, "\r\n")
}

// about says of which access a problem is, if there are several.
func (p *pass) about(a *access, message string) string {
	if len(p.Accesses) == 1 {
		return message
	}
	return fmt.Sprintf("Access %q: %s", a.key, message)
}

func (p *pass) isGranted() conditions.Condition {
	for _, a := range p.Accesses {
		for _, pr := range []*rules.Problem{a.denied, a.reduced} {
			if pr != nil {
				return conditions.False(v1alpha1.ConditionGranted, pr.Reason, p.about(a, pr.Message))
			}
		}
	}
	if p.serverProblem != nil {
		return conditions.Condition{Type: v1alpha1.ConditionGranted, Status: metav1.ConditionUnknown, Reason: p.serverProblem.Reason, Message: p.serverProblem.Message}
	}
	return conditions.True(v1alpha1.ConditionGranted, v1alpha1.ReasonGranted, "Every access is allowed")
}

func (p *pass) isFresh() conditions.Condition {
	for _, pr := range []*rules.Problem{p.secretProblem, p.written.Refused, p.written.Invalid} {
		if pr != nil {
			return conditions.Of(v1alpha1.ConditionFresh, pr)
		}
	}
	for _, a := range p.Accesses {
		if c, ok := p.overdue(a); ok {
			return c
		}
	}
	return conditions.True(v1alpha1.ConditionFresh, v1alpha1.ReasonTokensFresh, "No token is overdue")
}

// overdue returns why the token of an access was not replaced, and reports whether it should
// have been.
func (p *pass) overdue(a *access) (conditions.Condition, bool) {
	switch {
	case a.withdraw && p.serverProblem != nil:
		return conditions.Of(v1alpha1.ConditionFresh, p.serverProblem), true
	case a.withdraw:
		return conditions.False(v1alpha1.ConditionFresh, v1alpha1.ReasonNotGranted, p.about(a, a.denied.Message)), true
	case a.problem == nil:
		return conditions.Condition{}, false
	case slices.Contains(verificationReasons, a.problem.Reason):
		return conditions.False(v1alpha1.ConditionFresh, v1alpha1.ReasonTokenNotVerified, p.about(a, notVerified(a.problem))), true
	}
	c := conditions.Of(v1alpha1.ConditionFresh, a.problem)
	if a.problem != p.credProblem && a.problem != p.serverProblem { // these are the client's
		c.Message = p.about(a, c.Message)
	}
	return c, true
}

func (p *pass) isVerified() conditions.Condition {
	c := conditions.True(v1alpha1.ConditionVerified, v1alpha1.ReasonTokensVerified, "Every token passes verification with its API's bundle")
	for _, a := range p.Accesses {
		switch {
		case a.problem != nil && slices.Contains(verificationReasons, a.problem.Reason):
			return conditions.False(v1alpha1.ConditionVerified, a.problem.Reason, p.about(a, notVerified(a.problem)))
		case a.refused != nil && !a.withdraw:
			return conditions.False(v1alpha1.ConditionVerified, a.refused.Reason, p.about(a, notAccepted(a.refused)))
		case c.Status != metav1.ConditionTrue:
		case a.token == "" || a.withdraw:
			c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonNoToken, p.about(a, "There is no token to verify")
		case a.Record.Opaque:
			c.Status, c.Reason = metav1.ConditionUnknown, v1alpha1.ReasonOpaqueToken
			c.Message = p.about(a, "The token is not a JWT, so the operator cannot verify it")
			if a.server != nil && a.server.Opaque() {
				c.Message = p.about(a, fmt.Sprintf("The token was not verified, because the tokens of %s %q are opaque", a.server.Key().Kind, a.server.Key().Name))
			}
		}
	}
	return c
}

// isReady reports whether every access has a token that works, and says in its message if
// one of them is not being replaced.
func (p *pass) isReady(granted, fresh conditions.Condition) conditions.Condition {
	switch {
	case p.secretProblem != nil || p.written.Invalid != nil:
		return fresh.AsReady()
	case slices.ContainsFunc(p.Accesses, func(a *access) bool { return a.withdraw }):
		return granted.AsReady()
	}
	for _, a := range p.Accesses {
		if a.broken == nil {
			continue
		}
		c := conditions.Of(v1alpha1.ConditionReady, a.broken)
		// Why there is none says more than that there is none.
		if a.broken.Reason == v1alpha1.ReasonTokenMissing && fresh.Status != metav1.ConditionTrue {
			return fresh.AsReady()
		}
		c.Message = p.about(a, c.Message)
		return c
	}
	ready := conditions.True(v1alpha1.ConditionReady, v1alpha1.ReasonReady, "Every access has a token that works")
	if fresh.Status == metav1.ConditionTrue {
		return ready
	}
	return p.notReplaced(ready, fresh)
}

// notReplaced adds to the condition Ready how long the tokens work, and why they are not
// replaced: while there is still time, that is worth more than that they work. Of several
// tokens it names the one that expires first.
func (p *pass) notReplaced(ready, fresh conditions.Condition) conditions.Condition {
	var first *tokensecret.Record
	for _, a := range p.Accesses {
		why, overdue := p.overdue(a)
		switch {
		case a.Record == nil, !overdue && p.written.Refused == nil, first != nil && !a.Record.ExpiresAt.Before(first.ExpiresAt):
			continue
		case overdue && p.written.Refused == nil:
			fresh = why
		}
		first = a.Record
	}
	if first == nil {
		return ready
	}
	which := "The token"
	if len(p.Accesses) > 1 {
		which = "A token"
	}
	return ready.Though(fmt.Sprintf("%s works until %s, but is not being replaced", which, clockTime(first.IssuedAt, first.ExpiresAt)), fresh)
}

// clockTime returns when a token expires, to the minute. The date is left out if the token
// lives for less than a day, because the time is then unambiguous.
func clockTime(issuedAt, expiresAt time.Time) string {
	if expiresAt.Sub(issuedAt) < 24*time.Hour {
		return expiresAt.UTC().Format("15:04 UTC")
	}
	return expiresAt.UTC().Format("2006-01-02 15:04 UTC")
}
