// SPDX-License-Identifier: Apache-2.0

package verifiers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/m2m-operator/m2m-operator/internal/testing/ports"
)

// example returns an example's file, changed to listen and to find its files elsewhere. Every text to be replaced
// must be there.
func example(t *testing.T, v verifier, name string, replace ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(examples, v.example, name))
	if err != nil {
		t.Fatal(err)
	}
	content := string(raw)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(content, replace[i]) {
			t.Fatalf("%s has no %q", name, replace[i])
		}
		content = strings.ReplaceAll(content, replace[i], replace[i+1])
	}
	return content
}

func startNginx(t *testing.T, v verifier, dir, backend string) (string, *os.Process) {
	t.Helper()
	address, home := ports.Free(t), t.TempDir()
	config := example(t, v, "nginx.conf", "load_module modules/", "load_module /usr/lib/nginx/modules/", "listen 8080", "listen "+address,
		"/etc/nginx/njs", home, mounted, dir, "127.0.0.1:8081", backend)
	if os.Getuid() == 0 {
		config = "user root;\n" + config // it would run as another user, who may not read the bundle here
	}
	config = "pid " + home + "/pid;\ndaemon off;\nerror_log stderr info;\n" + regexp.MustCompile(`(?m)^http \{`).ReplaceAllString(config,
		"http {\naccess_log off;\nclient_body_temp_path "+home+"/body;\nproxy_temp_path "+home+"/proxy;\nfastcgi_temp_path "+home+"/fastcgi;\n"+
			"uwsgi_temp_path "+home+"/uwsgi;\nscgi_temp_path "+home+"/scgi;")
	write(t, home, map[string]string{"nginx.conf": config, "m2m.js": example(t, v, "m2m.js")})
	return address, run(t, address, exec.Command("nginx", "-c", filepath.Join(home, "nginx.conf"), "-p", home))
}

func startHAProxy(t *testing.T, v verifier, dir, backend string) (string, *os.Process) {
	t.Helper()
	address := ports.Free(t)
	write(t, dir, map[string]string{"haproxy.cfg": example(t, v, "haproxy.cfg", ":8080", address, "127.0.0.1:8081", backend)})
	return address, run(t, address, exec.Command("haproxy", "-W", "-db", "-f", filepath.Join(dir, "haproxy-rules.cfg"), "-f", filepath.Join(dir, "haproxy.cfg")))
}

func startApache(t *testing.T, v verifier, dir, backend string) (string, *os.Process) {
	t.Helper()
	address, home := ports.Free(t), t.TempDir()
	config := ""
	if os.Getuid() == 0 {
		config = "User www-data\nGroup www-data\n"
	}
	config += fmt.Sprintf("ServerRoot %q\nServerName localhost\nPidFile %q\nDefaultRuntimeDir %q\nErrorLog /dev/stderr\nListen %s\n", home, home+"/pid", home, address)
	for _, module := range []string{"mpm_event", "authn_core", "authz_core", "proxy", "proxy_http", "rewrite", "oauth2"} {
		config += fmt.Sprintf("LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", module, module)
	}
	write(t, home, map[string]string{"apache2.conf": config + example(t, v, "apache.conf", mounted, dir, "127.0.0.1:8081", backend)})
	return address, run(t, address, exec.Command("apache2", "-D", "FOREGROUND", "-f", filepath.Join(home, "apache2.conf")))
}
