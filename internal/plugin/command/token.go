// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/access"
	"github.com/m2m-operator/m2m-operator/internal/plugin/draw"
	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
	"github.com/m2m-operator/m2m-operator/internal/plugin/judge"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/render"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

func (p *plugin) token() *cobra.Command {
	var raw bool
	var format string
	c := &cobra.Command{
		Use:   "token [NAMESPACE/]CLIENT [API]",
		Short: "Show the claims of a client's tokens, their age, and whether their API would accept them",
		Long: `Show the claims of a client's tokens, their age, and whether their API would accept them.

It reads the client's Secret, so you need the right to get it. The token itself is shown
with --raw only. API is the name of the APIResource, or the key of the token in the Secret.`,
		Example: `  kubectl m2m token shop/cart
  curl -H "Authorization: Bearer $(kubectl m2m token shop/cart payment-api --raw)" https://payment.example.com/api`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usage{fmt.Errorf("token takes a client and perhaps an API, but got %d arguments", len(args))}
			}
			return oneOf(format, "", "json", "yaml")
		},
		ValidArgsFunction: p.complete(clientNames, apiNames),
		RunE: func(c *cobra.Command, args []string) error {
			ns, err := p.namespace()
			if err != nil {
				return err
			}
			name, err := parseName(args[0], ns)
			if err != nil {
				return err
			}
			api := ""
			if len(args) > 1 {
				api = args[1]
			}
			return p.showTokens(c.Context(), name, api, raw, format)
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "Write the token, and nothing else. Keep it out of logs and files.")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of text.")
	return c
}

// explained turns an error of the API server into one that says the next step.
func explained(err error, right inventory.Right) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("you may not %s: ask for that right", right)
	case apierrors.IsNotFound(err):
		in := ""
		if right.Namespace != "" {
			in = fmt.Sprintf(" in namespace %q; choose another with -n or as NAMESPACE/NAME", right.Namespace)
		}
		return fmt.Errorf("%s %q does not exist%s", right.Resource, right.Name, in)
	}
	return fmt.Errorf("%s: %w", right, err)
}

// secrets is the resource of Secrets, which no inventory holds.
const secrets inventory.Resource = "secrets"

func (p *plugin) showTokens(ctx context.Context, name types.NamespacedName, api string, raw bool, format string) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	var m v1alpha1.M2MClient
	if err := c.Get(ctx, name, &m); err != nil {
		return explained(err, inventory.Right{Verb: "get", Resource: inventory.Clients, Namespace: name.Namespace, Name: name.Name})
	}
	var chosen []int
	var keys []string
	for i := range m.Spec.Access {
		a := &m.Spec.Access[i]
		keys = append(keys, access.KeyOf(a))
		if api == "" || api == access.KeyOf(a) || api == string(a.APIResourceRef.Name) || a.APIResourceRef.Name != "" && api == access.APIResourceOf(&m, a).String() {
			chosen = append(chosen, i)
		}
	}
	switch {
	case len(chosen) == 0:
		return fmt.Errorf("M2MClient %q has no access for %q; its keys are %s", name, api, strings.Join(keys, ", "))
	case raw && len(chosen) > 1:
		return usage{fmt.Errorf("--raw writes one token: name one of %s", strings.Join(keys, ", "))}
	}
	var secret corev1.Secret
	switch err := c.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: m.SecretName()}, &secret); {
	case apierrors.IsNotFound(err): // the client has no token yet, and its conditions say why
	case err != nil:
		return explained(err, inventory.Right{Verb: "get", Resource: secrets, Namespace: name.Namespace, Name: m.SecretName()})
	case secret.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue || secret.Annotations[v1alpha1.OwnerAnnotation] != name.String():
		return fmt.Errorf("secret %q is not the operator's, and its contents are not shown", m.SecretName())
	}
	if raw {
		return p.writeToken(&m, access.KeyOf(&m.Spec.Access[chosen[0]]), secret.Data)
	}
	var all []draw.Token
	for _, i := range chosen {
		t, err := p.describe(ctx, c, &m, i, string(secret.Data[access.KeyOf(&m.Spec.Access[i])]))
		if err != nil {
			return err
		}
		all = append(all, t)
	}
	if format != "" {
		err = write(p.Out, format, map[string]any{"tokens": all})
	} else {
		err = draw.Tokens(p.Out, all, p.style())
	}
	if err == nil && slices.ContainsFunc(all, func(t draw.Token) bool { return t.Missing || t.Judgement != nil && !t.Judgement.Accepted }) {
		err = &Exit{CodeNo}
	}
	return err
}

// writeToken writes a token and nothing else. If there is none, it says why.
func (p *plugin) writeToken(m *v1alpha1.M2MClient, key string, data map[string][]byte) error {
	if len(data[key]) == 0 {
		why, advice := whyNone(m)
		_, _ = fmt.Fprintf(p.ErrOut, "There is no token %q: %s\n→ %s\n", key, text.Line(why), advice)
		return &Exit{CodeNo}
	}
	_, err := p.Out.Write(data[key])
	return err
}

// whyNone returns why a client has no token, by its conditions, and what to do about it.
func whyNone(m *v1alpha1.M2MClient) (why, advice string) {
	advice = fmt.Sprintf("kubectl m2m status -n %s m2mclient/%s says more", m.Namespace, m.Name)
	problems := tree.ProblemsOf(m.Status.Conditions)
	switch {
	case len(problems) > 0 && problems[0].Advice != "":
		return problems[0].Reason + ": " + problems[0].Message, problems[0].Advice
	case len(problems) > 0:
		return problems[0].Reason + ": " + problems[0].Message, advice
	}
	return "its conditions do not say why; the operator may just be writing it", advice
}

// describe says what there is to know of one token.
func (p *plugin) describe(ctx context.Context, c client.Client, m *v1alpha1.M2MClient, i int, token string) (draw.Token, error) {
	a := &m.Spec.Access[i]
	t := draw.Token{Key: access.KeyOf(a), Client: client.ObjectKeyFromObject(m).String(), Secret: m.SecretName(), Missing: token == "", Claims: judge.Inspect(token)}
	var scopes []string
	if s := slices.IndexFunc(m.Status.Tokens, func(s v1alpha1.TokenStatus) bool { return string(s.Key) == t.Key }); s >= 0 {
		status := m.Status.Tokens[s]
		t.IssuedAt, t.ExpiresAt, t.RefreshAt = status.IssuedAt, status.ExpiresAt, status.RefreshAt
		for _, scope := range status.Scopes {
			scopes = append(scopes, string(scope))
		}
	}
	switch {
	case t.Missing:
		t.NotJudged, t.Advice = whyNone(m)
		return t, nil
	case a.APIResourceRef.Name == "":
		t.NotJudged = "no APIResource describes the API"
		return t, nil
	case t.Claims == nil:
		t.NotJudged = "the token is no JWT, so only its server can judge it"
		return t, nil
	}
	name := access.APIResourceOf(m, a)
	t.API = name.String()
	bundle, why, err := p.bundle(ctx, c, name, name.Namespace)
	if err != nil || bundle == nil {
		t.NotJudged = why
		return t, err
	}
	j, err := judge.Judge(token, bundle, scopes, p.now())
	t.Judgement = &j
	return t, err
}

// bundle returns the files of an API's bundle in a namespace, or why there are none.
func (p *plugin) bundle(ctx context.Context, c client.Client, api types.NamespacedName, namespace string) (files map[string]string, why string, err error) {
	name := types.NamespacedName{Namespace: namespace, Name: render.ConfigMapName(api.Namespace, api.Name)}
	var m corev1.ConfigMap
	err = c.Get(ctx, name, &m)
	switch {
	case apierrors.IsForbidden(err):
		return nil, "you may not " + inventory.Right{Verb: "get", Resource: inventory.ConfigMaps, Namespace: namespace, Name: name.Name}.String(), nil
	case apierrors.IsNotFound(err):
		return nil, fmt.Sprintf("namespace %q has no bundle of APIResource %q: annotate the pods there that verify with %s", namespace, api, v1alpha1.VerifyAnnotation), nil
	case err != nil:
		return nil, "", fmt.Errorf("get ConfigMap %q: %w", name, err)
	case m.Labels[v1alpha1.ManagedByLabel] != v1alpha1.ManagedByValue:
		return nil, fmt.Sprintf("ConfigMap %q is not the operator's", name), nil
	}
	return m.Data, "", nil
}

// maxToken is how much of standard input may be a token.
const maxToken = 64 << 10

func (p *plugin) verify() *cobra.Command {
	var scopes []string
	var in, format string
	c := &cobra.Command{
		Use:   "verify [NAMESPACE/]API < TOKEN",
		Short: "Say what an API would say to a token, step by step",
		Long: `Say what an API would say to a token, step by step.

It reads a token from standard input and checks it with the verification bundle that the
API's pods have: signature, type, issuer, audience, times and scopes. The token is not shown.`,
		Example: `  kubectl m2m token shop/cart payment-api --raw | kubectl m2m verify payments/payment-api --scope payments:write`,
	}
	p.aboutAPI(c, &format, func(ctx context.Context, api types.NamespacedName) error {
		return p.showVerdict(ctx, api, in, scopes, format)
	})
	c.Flags().StringSliceVar(&scopes, "scope", nil, "A scope that the API requires. Several are possible.")
	c.Flags().StringVar(&in, "in", "", "The namespace whose copy of the bundle counts. Unset: that of the API.")
	c.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of text.")
	return c
}

func (p *plugin) showVerdict(ctx context.Context, api types.NamespacedName, in string, scopes []string, format string) error {
	b, err := io.ReadAll(io.LimitReader(p.In, maxToken+1))
	if err != nil {
		return fmt.Errorf("read the token from standard input: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if kind, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(kind, "Bearer") {
		token = strings.TrimSpace(rest)
	}
	switch {
	case len(b) > maxToken:
		return fmt.Errorf("standard input has more than %d bytes, which is no token", maxToken)
	case token == "":
		return errors.New("there is no token on standard input: pipe one, for instance from kubectl m2m token CLIENT API --raw")
	}
	c, err := p.client()
	if err != nil {
		return err
	}
	if in == "" {
		in = api.Namespace
	}
	bundle, why, err := p.bundle(ctx, c, api, in)
	if err != nil {
		return err
	}
	if bundle == nil {
		_, _ = fmt.Fprintf(p.ErrOut, "Not known: %s\n", text.Line(why))
		return &Exit{CodeUnknown}
	}
	j, err := judge.Judge(token, bundle, scopes, p.now())
	if err != nil {
		return err
	}
	if format != "" {
		err = write(p.Out, format, j)
	} else {
		err = draw.Judgement(p.Out, j, p.style())
	}
	if err == nil && !j.Accepted {
		err = &Exit{CodeNo}
	}
	return err
}
