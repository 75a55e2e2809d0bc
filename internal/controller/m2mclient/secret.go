// SPDX-License-Identifier: Apache-2.0

package m2mclient

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/m2m-operator/m2m-operator/internal/controller/tokensecret"
)

// ReadSecret finds the client's Secret.
func (r *Reconciler) readSecret(ctx context.Context, p *pass) (err error) {
	keys := make([]string, 0, len(p.Accesses))
	for _, a := range p.Accesses {
		keys = append(keys, a.key)
	}
	p.secret, p.secretProblem, err = r.secrets.Find(ctx, p.Client, keys)
	return err
}

// readWaiting takes up the tokens that wait in their Secret.
func (r *Reconciler) readWaiting(ctx context.Context, p *pass) (err error) {
	if p.secretProblem != nil {
		return nil
	}
	if p.waiting, err = r.secrets.FindWaiting(ctx, p.Client); err != nil {
		return err
	}
	name := client.ObjectKeyFromObject(p.Client)
	for _, a := range p.Accesses {
		if _, have := r.held.Get(name, a.key); have {
			continue
		}
		if t, ok := p.waiting.Token(a.key, p.Now); ok {
			r.held.Put(name, a.key, t)
		}
	}
	return nil
}

// writeSecret brings the Secret to what the accesses ask for.
func (r *Reconciler) writeSecret(ctx context.Context, p *pass) error {
	if p.secretProblem != nil || p.stale {
		return nil
	}
	var err error
	p.written, err = r.secrets.Write(ctx, p.secret, p.desired(), func() (bool, error) { return r.stillAllowed(ctx, p) })
	if p.written.Refused != nil {
		r.unpublish(p)
	}
	if !p.written.Stored {
		return err
	}
	name := client.ObjectKeyFromObject(p.Client)
	for _, a := range p.Accesses {
		if a.issued != "" {
			r.held.Drop(name, a.key)
			r.written.Put(name, a.key, a.Record.Digest())
			log.FromContext(ctx).Info("Issued access token", "access", a.key, "reason", a.issued, "expiresAt", a.Record.ExpiresAt)
		}
	}
	return err
}

// desired returns what the Secret should hold.
func (p *pass) desired() *tokensecret.Desired {
	d := &tokensecret.Desired{Client: p.Client, Now: p.Now, Entries: make([]tokensecret.Entry, 0, len(p.Accesses))}
	if p.credentials != nil {
		d.Credential = p.credentials.Record
	}
	for _, a := range p.Accesses {
		e := tokensecret.Entry{Key: a.key, Withdrawn: a.withdraw, Issued: a.issued}
		if a.token != "" && !a.withdraw {
			e.Token, e.Record = a.token, a.Record
		}
		d.Entries = append(d.Entries, e)
	}
	return d
}

// stillAllowed reports whether every access that gets a token by this pass may
// still have it. What was issued stays held for the next pass.
func (r *Reconciler) stillAllowed(ctx context.Context, p *pass) (bool, error) {
	for _, a := range p.Accesses {
		if a.issued == "" {
			continue
		}
		if ok, err := r.stillHas(ctx, p, a); !ok {
			return false, err
		}
	}
	return true, nil
}

// unpublish goes back to what lies in the Secret, for the API server does not take
// another one. What was issued stays held.
func (r *Reconciler) unpublish(p *pass) {
	p.events = nil
	for _, a := range p.Accesses {
		if a.issued != "" {
			a.issued, a.token, a.Record = "", "", nil
			a.broken = p.judge(a, r.present(p, a))
			r.noteTerms(p, a)
		}
	}
}

// writeWaiting keeps the tokens that wait for the next process.
func (r *Reconciler) writeWaiting(ctx context.Context, p *pass) error {
	if p.secretProblem != nil || p.stale {
		return nil
	}
	tokens := map[string]tokensecret.Token{}
	for _, a := range p.Accesses {
		if a.pending.Since == nil {
			continue
		}
		if h, ok := r.held.Get(client.ObjectKeyFromObject(p.Client), a.key); ok {
			tokens[a.key] = h
		}
	}
	return r.secrets.WriteWaiting(ctx, p.Client, p.waiting, tokens)
}
