// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/m2m-operator/m2m-operator/api/v1alpha1"
	"github.com/m2m-operator/m2m-operator/internal/plugin/report"
)

const secret = "s3ntinel"

var at = time.Date(2026, 11, 29, 17, 0, 0, 0, time.UTC)

// fill sets every string in a value to the secret, in lists and maps, too.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(secret)
	case reflect.Pointer:
		if v.Type().Elem().PkgPath() != "time" && v.Type().Elem() != reflect.TypeFor[metav1.Time]() {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() && v.Type().Field(i).Name != "ManagedFields" {
				fill(f)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value)
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	}
}

// shows returns the members in which a filtered value shows the secret.
func shows(path string, v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			all = append(all, shows(path+"."+k, value)...)
		}
	case []any:
		for _, item := range v {
			all = append(all, shows(path, item)...)
		}
	case string:
		if strings.Contains(v, secret) {
			all = append(all, strings.TrimPrefix(path, "."))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestOnlyListedMembersAreShown fills every string of an M2MClient's spec. A new field shows
// up here once somebody lists it.
func TestOnlyListedMembersAreShown(t *testing.T) {
	var c v1alpha1.M2MClient
	fill(reflect.ValueOf(&c.Spec).Elem())
	got, err := report.Shown(c.Spec)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"access.apiResourceRef.name", "access.apiResourceRef.namespace", "access.key", "access.parameters.name", "access.resource", "access.scopes",
		"access.verification.audience.claim", "access.verification.audience.scopePrefix", "access.verification.audience.values",
		"access.verification.carriedIn", "access.verification.claim", "authorizationServerRef.kind", "authorizationServerRef.name",
		"credentialRotation.every", "credentialRotation.overlap", "credentials.clientSecret.clientID", "credentials.clientSecret.clientIDKey",
		"credentials.clientSecret.method", "credentials.clientSecret.secretRef.key", "credentials.clientSecret.secretRef.name",
		"credentials.privateKeyJWT.algorithm", "credentials.privateKeyJWT.audience", "credentials.privateKeyJWT.clientID",
		"credentials.privateKeyJWT.clientIDKey", "credentials.privateKeyJWT.keyID", "credentials.privateKeyJWT.secretRef.key",
		"credentials.privateKeyJWT.secretRef.name", "credentials.serviceAccount.audience", "credentials.serviceAccount.clientID",
		"credentials.serviceAccount.name", "deletionPolicy", "refresh.before", "secret.name",
	}
	if diff := cmp.Diff(want, shows("", got)); diff != "" {
		t.Errorf("the members that are shown (-want +got):\n%s", diff)
	}
}

// TestNoPlaceOfASecretIsShown puts the secret wherever one can be.
func TestNoPlaceOfASecretIsShown(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "x", Annotations: map[string]string{
		corev1.LastAppliedConfigAnnotation: `{"spec":{"password":"` + secret + `"}}`, "m2m-operator.io/unknown": secret, "m2m-operator.io/rotate-credential": secret,
	}, Labels: map[string]string{"team": secret}}
	meta.ManagedFields = []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{}}}
	spec := corev1.PodSpec{
		Containers: []corev1.Container{{
			Name: "manager", Image: "m2m-operator:v1", Args: []string{"--workers=4", "--other=" + secret, secret}, Command: []string{secret},
			Env: []corev1.EnvVar{{Name: "PASSWORD", Value: secret}},
		}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{VolumeAttributes: map[string]string{"a": secret}}}}},
	}
	for name, o := range map[string]client.Object{
		"a Secret":     &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"client-secret": []byte(secret)}, StringData: map[string]string{"a": secret}},
		"a ConfigMap":  &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": secret}},
		"a pod":        &corev1.Pod{ObjectMeta: meta, Spec: spec},
		"a Deployment": &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: meta, Spec: spec}}},
		"a client": &v1alpha1.M2MClient{ObjectMeta: meta, Spec: v1alpha1.M2MClientSpec{
			Access: []v1alpha1.Access{{Parameters: []v1alpha1.RequestParameter{{Name: "a", Value: secret}}}},
			Secret: v1alpha1.TokenSecret{Template: map[string]string{"a": secret}, Labels: map[string]string{"a": secret}, Annotations: map[string]string{"a": secret}},
		}},
		"an API": &v1alpha1.APIResource{ObjectMeta: meta, Spec: v1alpha1.APIResourceSpec{
			Verification: v1alpha1.Verification{Files: []v1alpha1.VerificationFile{{Name: "f", Template: secret}}},
		}},
		"a server": &v1alpha1.AuthorizationServer{ObjectMeta: meta, Spec: v1alpha1.AuthorizationServerSpec{
			Issuer: "https://me:" + secret + "@auth.example.com", Endpoints: v1alpha1.AuthorizationServerEndpoints{Token: "https://auth.example.com/token?apikey=" + secret},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := report.Shown(o)
			if err != nil {
				t.Fatal(err)
			}
			if where := shows("", got); len(where) > 0 {
				t.Errorf("the secret is in %q", where)
			}
			if text := fmt.Sprint(got); strings.Contains(text, "czNudGluZWw") { // in base64
				t.Errorf("the secret is in %s", text)
			}
		})
	}
}

// TestArguments: an argument is shown if it is a flag of the operator.
func TestArguments(t *testing.T) {
	args := []string{
		"--workers=4", "--leader-elect", "-workers=4", "-phunter2", "-HAuthorization: Bearer abc", "-HAuthorization: Basic dXNl==",
		"--token", "-abc", "--proxy=abc", "workers", "--workers=4\nabc",
	}
	want := []any{
		"--workers=4", "--leader-elect", "-workers=4", "(9 characters)", "(27 characters)", "(29 characters)",
		"(7 characters)", "(4 characters)", "(11 characters)", "(7 characters)", "(15 characters)",
	}
	got, err := report.Shown(map[string]any{"args": args, "command": args})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"args": want, "command": want}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// maps sets every map of strings in a value to entries with the names of listed members, and all other strings to "x".
func maps(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.String:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"key", "audience", "values", "path", "token", "args", "message"} {
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), reflect.ValueOf(secret).Convert(v.Type().Elem()))
		}
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.Kind() == reflect.Pointer && v.Type().Elem() != reflect.TypeFor[metav1.Time]():
		v.Set(reflect.New(v.Type().Elem()))
		maps(v.Elem())
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() && v.Type().Field(i).Name != "ManagedFields" {
				maps(f)
			}
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		maps(v.Index(0))
	}
}

// TestOwnersChooseKeys: an entry of a map whose keys its owner chooses is masked, whatever its key.
func TestOwnersChooseKeys(t *testing.T) {
	for _, o := range []any{
		&corev1.PodSpec{}, &appsv1.Deployment{}, &corev1.ConfigMap{}, &v1alpha1.M2MClient{}, &v1alpha1.APIResource{}, &v1alpha1.AuthorizationServer{}, &v1alpha1.ClusterAuthorizationServer{},
	} {
		maps(reflect.ValueOf(o).Elem())
		got, err := report.Shown(o)
		if err != nil {
			t.Fatal(err)
		}
		if where := shows("", got); len(where) > 0 {
			t.Errorf("%T shows the secret in %q", o, where)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		`AuthorizationServer "auth" refused the token request: invalid_client (HTTP 401)`: `AuthorizationServer "auth" refused the token request: invalid_client (HTTP 401)`,
		"https://auth.example.com/oauth2/token answered with status 503":                  "https://auth.example.com/oauth2/token answered with status 503",
		"Authorization: Bearer abc123":                                                    "Authorization: Bearer (masked)",
		"Authorization: Basic swordfish":                                                  "Authorization: Basic (masked)",
		"password=swordfish":                                                              "password=(masked)",
		"client_secret: correcthorse":                                                     "client_secret: (masked)",
		`{"password":"correct horse"}`:                                                    `{"password":(masked)}`,
		`"{\"token\":\"swordfish\"}"`:                                                     `"{\"token\":(masked)}"`,
		"it was q83vEjRWeJ/Sq83v/EjRWeJCrze8S and no more":                                "it was (29 characters) and no more",
		"https://me:swordfish@auth.example.com/x answered":                                "https://(masked)@auth.example.com/x answered",
		"https://auth.example.com/Zm9vYmFyMTIzNDU2Nzg5MA/keys answered":                   "https://auth.example.com/(22 characters)/keys answered",
		"client_secret=hunter2&x=1":                                                       "client_secret=(masked)&x=1",
		"it was Zm9vYmFyMTIzNDU2Nzg5MA and no more":                                       "it was (22 characters) and no more",
		"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovLzEifQ.c2lnbmF0dXJlMTIzNDU":             "(20 characters).(26 characters).(19 characters)",
		"object 01234567-89ab-cdef-0123-456789abcdef":                                     "object 01234567-89ab-cdef-0123-456789abcdef",
		"credentials-of-the-cart are missing":                                             "credentials-of-the-cart are missing",
	} {
		if got := report.Text(in); got != want {
			t.Errorf("%q\nbecame %q\nwant   %q", in, got, want)
		}
	}
}

func TestLogLines(t *testing.T) {
	lines, left := report.LogLines(`{"level":"info","ts":"2026-11-29T17:00:00Z","msg":"Issued access token","controller":"m2mclient","namespace":"shop","name":"cart","token":"` + secret + `","stacktrace":"` + secret + `"}
panic: ` + secret + `

{"level":"error","msg":"Failed","error":"the password: ` + secret + `"}
`)
	if len(lines) != 2 || left != 1 {
		t.Fatalf("%d lines, and %d left out: %q", len(lines), left, lines)
	}
	for _, part := range []string{`"msg":"Issued access token"`, `"namespace":"shop"`, `"stacktrace":"(8 characters)"`} {
		if !strings.Contains(lines[0], part) {
			t.Errorf("the line does not have %s: %s", part, lines[0])
		}
	}
	if all := strings.Join(lines, ""); strings.Contains(all, secret) {
		t.Errorf("the log shows the secret: %s", all)
	}
}

// TestArchive: the same content makes the same archive, whatever the order in which it came.
func TestArchive(t *testing.T) {
	a := &v1alpha1.M2MClient{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}}
	b := &v1alpha1.ClusterAuthorizationServer{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	write := func(fill func(*report.Report)) []byte {
		t.Helper()
		var r report.Report
		fill(&r)
		var out bytes.Buffer
		if err := r.Write(&out, at); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one := write(func(r *report.Report) {
		must(r.AddObject("M2MClient", a))
		must(r.AddObject("ClusterAuthorizationServer", b))
		r.AddLog("operator/logs/x.log", "not JSON")
		r.Miss("list pods", "forbidden")
		r.Miss("list events", "forbidden")
	})
	two := write(func(r *report.Report) {
		r.Miss("list events", "forbidden")
		r.Miss("list pods", "forbidden")
		r.AddLog("operator/logs/x.log", "not JSON")
		must(r.AddObject("ClusterAuthorizationServer", b))
		must(r.AddObject("M2MClient", a))
	})
	if !bytes.Equal(one, two) {
		t.Error("two archives of the same content differ")
	}
	zip, err := gzip.NewReader(bytes.NewReader(one))
	must(err)
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(err)
		text, err := io.ReadAll(archive)
		must(err)
		if !h.ModTime.Equal(at) {
			t.Errorf("%s is of %s", h.Name, h.ModTime)
		}
		files[h.Name] = string(text)
	}
	want := map[string]string{
		"m2m-report/missing.txt":                                         "list events: forbidden\nlist pods: forbidden\n",
		"m2m-report/operator/logs/x.log":                                 "(1 lines that are not JSON were left out)\n",
		"m2m-report/objects/m2mclient/shop/a.yaml":                       files["m2m-report/objects/m2mclient/shop/a.yaml"],
		"m2m-report/objects/clusterauthorizationserver/(cluster)/b.yaml": files["m2m-report/objects/clusterauthorizationserver/(cluster)/b.yaml"],
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
