// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/internal/plugin/command"
	kubetest "github.com/m2m-operator/m2m-operator/internal/testing/kube"
	"github.com/m2m-operator/m2m-operator/internal/testing/operator"
)

func TestMain(m *testing.M) { operator.Main(m, "../../..") }

// kubeconfig writes a file that leads to the control plane.
func kubeconfig(t testing.TB) string {
	t.Helper()
	c := api.NewConfig()
	c.Clusters["c"] = &api.Cluster{Server: operator.RESTConfig.Host, CertificateAuthorityData: operator.RESTConfig.CAData}
	if !strings.HasPrefix(c.Clusters["c"].Server, "http") {
		c.Clusters["c"].Server = "https://" + operator.RESTConfig.Host
	}
	c.AuthInfos["u"] = &api.AuthInfo{Token: operator.RESTConfig.BearerToken}
	c.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// answer is what a command wrote, and how it ended.
type answer struct {
	out, err string
	code     int
	message  string
}

// run runs kubectl m2m. Nothing that it writes may look like a secret or a token.
func run(t *testing.T, now time.Time, args ...string) answer {
	t.Helper()
	a := runRaw(t.Context(), t, now, "", args...)
	hidesSecrets(t, a)
	return a
}

// hidesSecrets fails if an answer shows anything that looks like a secret or a token.
func hidesSecrets(t *testing.T, a answer) {
	t.Helper()
	for _, s := range []string{a.out, a.err, a.message} {
		if strings.Contains(s, operator.Sentinel) || kubetest.JWT.MatchString(s) {
			t.Errorf("it shows a secret:\n%s", s)
		}
	}
}

// silent is a test that does not log what a command writes.
type silent struct{ testing.TB }

// Logf logs nothing.
func (silent) Logf(string, ...any) {}

// runCompletion runs kubectl m2m __complete, which wants the flags after the command.
func runCompletion(t *testing.T, now time.Time, args ...string) answer {
	t.Helper()
	t.Setenv("KUBECONFIG", kubeconfig(t))
	var out, errOut bytes.Buffer
	c := command.New(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut}, func() time.Time { return now })
	c.SetArgs(args)
	code, message := command.Code(c.ExecuteContext(t.Context()))
	return answer{out.String(), errOut.String(), code, message}
}

// runRaw runs kubectl m2m with a standard input.
func runRaw(ctx context.Context, t testing.TB, now time.Time, stdin string, args ...string) answer {
	t.Helper()
	var out, errOut bytes.Buffer
	c := command.New(genericiooptions.IOStreams{In: strings.NewReader(stdin), Out: &out, ErrOut: &errOut}, func() time.Time { return now })
	c.SetArgs(append([]string{"--kubeconfig", kubeconfig(t)}, args...))
	code, message := command.Code(c.ExecuteContext(ctx))
	a := answer{out.String(), errOut.String(), code, message}
	t.Logf("$ kubectl m2m %s\n%s%s%s\n(exit code %d)", strings.Join(args, " "), a.out, a.err, a.message, a.code)
	return a
}

// says fails unless a text has all parts.
func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("it does not say %q:\n%s", p, text)
		}
	}
}

// ends fails unless a command ended with a code.
func (a answer) ends(t *testing.T, code int) {
	t.Helper()
	if a.code != code {
		t.Errorf("exit code %d, want %d; %s%s", a.code, code, a.err, a.message)
	}
}

// reader lets a user read one namespace, as a developer may.
func reader(t *testing.T, user, namespace string) {
	t.Helper()
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "developer"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"m2m-operator.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{""}, Resources: []string{"pods", "configmaps", "secrets"}, Verbs: []string{"get", "list"}},
		},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "developer"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "developer"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}
	operator.Create(t, role, binding)
	t.Cleanup(func() {
		for _, o := range []client.Object{role, binding} {
			if err := operator.Kube.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		}
	})
}

// normal replaces what differs from run to run.
func normal(text string, w *operator.World) string {
	text = strings.NewReplacer(w.AS.Issuer(), "https://auth.example.com", w.Shop, "shop", w.Payments, "payments").Replace(text)
	text = regexp.MustCompile(`\d\d:\d\d:\d\dZ`).ReplaceAllString(text, "hh:mm:ssZ")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]hh`).ReplaceAllString(text, "hh")
	text = regexp.MustCompile(`\((in [0-9smh]+|[0-9smh]+ ago)\)`).ReplaceAllString(text, "(…)")
	text = regexp.MustCompile(`(! Fresh: \w+: ).*`).ReplaceAllString(text, "$1…") // the operator's own words
	return regexp.MustCompile(`key "[^"]*"`).ReplaceAllString(text, `key "K"`)
}

// golden compares a text with a file. UPDATE_GOLDEN=1 writes the file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("want\n%s\ngot\n%s", want, text)
	}
}
