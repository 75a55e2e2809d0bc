// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

// files are the parts of the page. Nothing builds them: they are joined as they are.
//
//go:embed page
var files embed.FS

// scripts are the parts of the page's script in order. They share one scope.
var scripts = []string{"base.js", "model.js", "list.js", "map.js", "draw.js", "detail.js", "live.js", "app.js"}

// mostYAML is how many bytes of YAML a file holds for all its objects.
const mostYAML = 8 << 20

// icon is a small mark for the browser's tab.
const icon = `<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M4 8h8' stroke='%238b93a7' stroke-width='1.6'/%3E%3Ccircle cx='3.5' cy='8' r='2.5' fill='%235e6ad2'/%3E%3Ccircle cx='12.5' cy='8' r='2.5' fill='%232f9e6b'/%3E%3C/svg%3E">`

// common is the part of the policies that the site and the file share. Trusted Types make the
// browser itself refuse to read a text as HTML.
const common = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// livePolicy is the policy of the page as the site serves it.
const livePolicy = common + "; frame-ancestors 'none'; connect-src 'self'; script-src 'self'; style-src 'self'"

func part(name string) string {
	b, err := files.ReadFile("page/" + name)
	if err != nil {
		panic(err) // it is compiled in
	}
	return string(b)
}

// style returns the style sheet.
var style = sync.OnceValue(func() string { return part("page.css") })

// script returns the whole script.
var script = sync.OnceValue(func() string {
	var b strings.Builder
	b.WriteString("\"use strict\";\n(() => {\n")
	for _, name := range scripts {
		b.WriteString(part(name))
	}
	b.WriteString("})();\n")
	return b.String()
})

// page returns the page with what belongs into its head and at its end.
func page(head, end string) []byte {
	return []byte(strings.NewReplacer("<!-- head -->", icon+head, "<!-- end -->", end).Replace(part("index.html")))
}

// livePage returns the page as the site serves it.
var livePage = sync.OnceValue(func() []byte {
	return page(`<link rel="stylesheet" href="page.css">`, `<script src="page.js"></script>`)
})

// contents are the data in a file.
type contents struct {
	Model *Model            `json:"model"`
	YAML  map[string]string `json:"yaml"`
}

// File writes the page as one file, with the model of an inventory in it. It asks for nothing,
// and its policy lets nothing be asked for.
func File(w io.Writer, inv *inventory.Inventory, m *Model) error {
	c := contents{Model: m, YAML: map[string]string{}}
	objects, left := objectsOf(inv), mostYAML
	for i := range m.Objects {
		id := m.Objects[i].ID
		y, ok := yamlOf(objects[id])
		if ok && len(y) <= left {
			c.YAML[id] = y
			left -= len(y)
		}
	}
	// encoding/json escapes <, > and &, so that no text ends the element.
	var data bytes.Buffer
	e := json.NewEncoder(&data)
	e.SetEscapeHTML(true)
	if err := e.Encode(c); err != nil {
		return err
	}
	policy := fmt.Sprintf("%s; script-src %s; style-src %s", common, hashOf(script()), hashOf(style()))
	head := `<meta http-equiv="Content-Security-Policy" content="` + policy + `"><meta name="referrer" content="no-referrer"><style>` + style() + `</style>`
	end := `<script type="application/json" id="data">` + data.String() + `</script><script>` + script() + `</script>`
	_, err := w.Write(page(head, end))
	return err
}

// hashOf returns the source expression of a policy that allows a text.
func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
