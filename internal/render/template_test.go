// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// checkSecretTemplate reports why src cannot be a template of a token Secret.
func checkSecretTemplate(src string) error {
	_, err := parseTemplate(secretRules, src)
	return err
}

// checkBundleTemplate reports why src cannot be the template of a file of a bundle.
func checkBundleTemplate(name, src string) error {
	_, err := parseTemplate(rulesOf(name), src)
	return err
}

func TestCheckTemplates(t *testing.T) {
	// An empty list of parts means that the template is fine.
	type want struct{ secret, bundle []string }
	fine := []string(nil)
	both := func(parts ...string) want { return want{parts, parts} }

	tests := map[string]struct {
		src  string
		want want
	}{
		"nothing":                 {"", both()},
		"text":                    {"plain { text }", both()},
		"a comment":               {"{{/* why */ -}} x", both()},
		"literals":                {`{{ "a" }}{{ 1 }}{{ true }}`, both()},
		"if and else":             {`{{ if eq (len "a") 1 }}a{{ else if not true }}b{{ else }}c{{ end }}`, both()},
		"a variable":              {`{{ $x := "a" }}{{ $x = "b" }}{{ $x | quote }}`, both()},
		"with and its dot":        {`{{ with "a" }}{{ . }}{{ else with "b" }}{{ . }}{{ end }}`, both()},
		"and, or, ne, index":      {`{{ and true (or false (ne 1 2)) }}{{ index "abc" 1 }}`, both()},
		"a token":                 {`{{ token "a" }}`, want{fine, []string{"line 1, column 4", "function token is not available"}}},
		"a raw string as the key": {"{{ token `a` }}", want{fine, []string{"token"}}},
		"a field":                 {"{{ .Issuer }}", want{[]string{`no field "Issuer"`, `{{ token "key" }}`}, fine}},
		"a field of $":            {"{{ $.Issuer }}", want{[]string{`no field "Issuer"`}, fine}},
		"an unknown field":        {"a\n  {{ .Secret }}", want{[]string{"line 2, column 6"}, []string{"line 2, column 6", `no field "Secret"`, "Algorithms, Audience"}}},
		"range over a list":       {`{{ range .Scopes }}{{ . }} {{ $.Name }}{{ end }}`, want{[]string{"range takes", "none"}, fine}},
		"range with an index":     {`{{ range $i, $s := $.Scopes }}{{ $i }}{{ $s }}{{ end }}`, want{[]string{"range takes"}, fine}},
		"range in a range":        {`{{ range .Scopes }}{{ range $.Algorithms }}{{ . }}{{ end }}{{ end }}`, want{[]string{"range takes"}, fine}},
		"two ranges in a row":     {`{{ range .Scopes }}{{ end }}{{ range .Scopes }}{{ end }}`, want{[]string{"range takes"}, fine}},
		"range over the keys":     {`{{ range .Keys }}{{ .ID }}{{ .Type }}{{ .Algorithm }}{{ .JWK }}{{ .PEM }}{{ .Thumbprint }}{{ $.Name }}{{ end }}`, want{[]string{"range takes"}, fine}},
		"a key as a variable":     {`{{ range $i, $k := $.Keys }}{{ range $.Scopes }}{{ $k.ID }}{{ end }}{{ if $i }}{{ $k.PEM }}{{ end }}{{ end }}`, want{[]string{"range takes"}, fine}},
		"a field of a key's":      {`{{ range .Keys }}{{ with .ID }}{{ . }}{{ end }}{{ end }}{{ len .Keys }}`, want{[]string{"range takes"}, fine}},
		"join and indent":         {`{{ .Scopes | join "," | indent 2 }}`, want{[]string{"no field"}, fine}},

		"range over the same list inside": {`{{ range .Scopes }}{{ range $.Scopes }}{{ end }}{{ end }}`, want{[]string{"range takes"}, []string{"is inside another range over it"}}},
		"three ranges":                    {`{{ range .Scopes }}{{ range $.Algorithms }}{{ range $.Scopes }}{{ end }}{{ end }}{{ end }}`, want{[]string{"range"}, []string{"is inside another range over it"}}},
		"range over a string": {`{{ range .Issuer }}{{ end }}`, want{
			[]string{"range takes one of the lists none, as"},
			[]string{`range takes one of the lists "Algorithms", "AudienceClaims", "AudienceValues", "Keys", "ScopeClaims", "Scopes", as`}}},
		"range over a number":   {`{{ range 1000000000 }}x{{ end }}`, both("range takes")},
		"range over a variable": {`{{ $x := .Scopes }}{{ range $x }}x{{ end }}`, want{[]string{"no field"}, []string{"range takes"}}},
		"range over a pipeline": {`{{ range .Scopes | len }}x{{ end }}`, both("range takes")},
		"range over a field of a variable": {
			`{{ $x := "a" }}{{ range $x.Scopes }}{{ end }}`, want{[]string{"range takes"}, []string{"$x.Scopes is not a field"}}},
		"break":                          {`{{ range .Scopes }}{{ break }}{{ end }}`, want{[]string{"range takes"}, []string{"only text, values"}}},
		"continue":                       {`{{ range .Scopes }}{{ if true }}{{ else }}{{ continue }}{{ end }}{{ end }}`, want{[]string{"range takes"}, []string{"only text, values"}}},
		"a field inside range":           {`{{ range .Scopes }}{{ .Name }}{{ end }}`, want{[]string{"range takes"}, []string{"write $.Name"}}},
		"a field inside with":            {`{{ with "a" }}{{ .Name }}{{ end }}`, want{[]string{"no field"}, []string{"write $.Name"}}},
		"no field of a key":              {`{{ range .Keys }}{{ .Kid }}{{ end }}`, want{[]string{"range takes"}, []string{".Kid is not a field of a key", "Algorithm, ID"}}},
		"no field of a key's variable":   {`{{ range $k := .Keys }}{{ $k.Kid }}{{ end }}`, want{[]string{"range takes"}, []string{"$k.Kid is not a field of a key"}}},
		"a field of a field of a key":    {`{{ range .Keys }}{{ .ID.X }}{{ end }}`, want{[]string{"range takes"}, []string{".ID.X is not a field of a key"}}},
		"the API's field at a key":       {`{{ range .Keys }}{{ .Issuer }}{{ end }}`, want{[]string{"range takes"}, []string{"write other fields as $.Issuer"}}},
		"a key's field inside with":      {`{{ range .Keys }}{{ with .ID }}{{ .PEM }}{{ end }}{{ end }}`, want{[]string{"range takes"}, []string{"write $.PEM"}}},
		"a key's field after the range":  {`{{ range .Keys }}{{ end }}{{ .PEM }}`, want{[]string{"range takes"}, []string{`no field "PEM"`}}},
		"a key's field at a scope":       {`{{ range .Keys }}{{ range $.Scopes }}{{ .PEM }}{{ end }}{{ end }}`, want{[]string{"range takes"}, []string{"write $.PEM"}}},
		"a field of the list of keys":    {`{{ .Keys.PEM }}`, both(".Keys.PEM is not a field")},
		"a method of a key":              {`{{ range .Keys }}{{ .String }}{{ end }}`, want{[]string{"range takes"}, []string{".String is not a field of a key"}}},
		"a key where there is a list":    {`{{ .Key.PEM }}`, both(".Key.PEM is not a field")},
		"a mistake in the else":          {`{{ if true }}{{ else }}{{ .X }}{{ end }}`, both("no field")},
		"a mistake in the condition":     {`{{ if .X }}{{ end }}`, both("no field")},
		"a field of a field":             {`{{ .Issuer.Host }}`, both(".Issuer.Host is not a field")},
		"a field of a call":              {`{{ (quote "a").X }}`, both("cannot be used here")},
		"a field of a variable":          {`{{ $x := "a" }}{{ $x.Y }}`, both("$x.Y is not a field")},
		"a method on the data":           {`{{ .Issuer "a" }}`, both("only functions take arguments")},
		"a pipe into a field":            {`{{ "a" | .Issuer }}`, both("only functions take arguments")},
		"the data as a whole":            {`{{ . }}`, both("a dot alone")},
		"the data as $":                  {`{{ $ }}`, both("$ is not a field")},
		"nil":                            {`{{ eq nil nil }}`, both("nil cannot be used")},
		"define":                         {`{{ define "x" }}a{{ end }}`, both("define and block")},
		"define without content":         {`{{ define "x" }}{{ end }}`, both("define and block")},
		"define of the template itself":  {`{{ define "template" }}{{ template "template" }}{{ end }}`, both("only text, values")},
		"block":                          {`{{ block "x" . }}a{{ end }}`, both("define and block")},
		"template":                       {`{{ template "x" }}`, both("only text, values")},
		"the environment":                {`{{ env "HOME" }}`, both("line 1: ", `"env" not defined`, "the functions are and, base64")},
		"printf":                         {`{{ printf "%1000000000d" 1 }}`, both("function printf is not available", "base64")},
		"print":                          {`{{ print "a" "b" }}`, both("print is not")},
		"println":                        {`{{ println }}`, both("println is not")},
		"html":                           {`{{ html "a" }}`, both("html is not")},
		"js":                             {`{{ "a" | js }}`, both("js is not")},
		"urlquery":                       {`{{ urlquery "a" }}`, both("urlquery is not")},
		"call":                           {`{{ call .Issuer }}`, both("call is not")},
		"slice":                          {`{{ slice "abc" 1 }}`, both("slice is not")},
		"less-than":                      {`{{ lt 1 2 }}`, both("lt is not")},
		"a function inside parentheses":  {`{{ quote (printf "a") }}`, both("printf is not")},
		"a function without parentheses": {`{{ quote len }}`, both("put the call of len in parentheses")},
		"too few arguments":              {`{{ eq 1 }}`, both("eq has 1 arguments, want 2")},
		"too many by a pipe":             {`{{ 3 | eq 1 2 }}`, both("eq has 3 arguments, want 2")},
		"and with nothing":               {`{{ and }}`, both("and has 0 arguments, want 1 to 9")},
		"a token without a key":          {`{{ token }}`, want{[]string{"token has 0"}, []string{"not available"}}},
		"a token by a variable":          {`{{ $x := "a" }}{{ token $x }}`, want{[]string{"token takes a key in quotes"}, []string{"not available"}}},
		"a token by another token":       {`{{ token (token "a") }}`, want{[]string{"token takes a key in quotes"}, []string{"not available"}}},
		"a token by a pipe":              {`{{ "a" | token }}`, want{[]string{"token takes a key in quotes"}, []string{"not available"}}},
		"an open action":                 {`a{{ "x"`, both("line 1: ", "unclosed action")},
		"a long name":                    {"{{ " + strings.Repeat("a", 1000) + " }}", both("…")},
		"too long a source":              {strings.Repeat("a", 4097), both("4097 bytes, more than 4096")},
		"as long as it may be":           {strings.Repeat("a", 4096), both()},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Run("secret", func(t *testing.T) { checkError(t, checkSecretTemplate(tc.src), tc.want.secret...) })
			t.Run("bundle", func(t *testing.T) { checkError(t, checkBundleTemplate("f", tc.src), tc.want.bundle...) })
			if err := checkBundleTemplate("f", tc.src); err != nil && (len(err.Error()) > 500 || strings.Contains(err.Error(), "\n")) {
				t.Errorf("error is no short line: %v", err)
			}
		})
	}
}

// secretTemplate renders one template with one token, "a".
func secretTemplate(src, token string) (string, error) {
	data, _, err := TokenSecret(map[string]string{"a": token}, map[string]string{"f": src}, []string{"a"})
	return string(data["f"]), err
}

func TestSecretTemplateOutput(t *testing.T) {
	tests := map[string]struct {
		src, token, want string
		wantErr          []string
	}{
		"base64":            {src: `{{ token "a" | base64 }}`, token: "user:pass?", want: "dXNlcjpwYXNzPw=="},
		"json":              {src: `{{ json (token "a") }}`, token: "<\"\n", want: `"<\"\n"`},
		"json of a number":  {src: `{{ json 1 }}{{ json true }}`, token: "t", want: "1true"},
		"quote":             {src: `{{ quote (token "a") }}`, token: `a"b`, want: `"a\"b"`},
		"equal":             {src: `{{ if eq (token "a") "t" }}yes{{ end }}{{ ne "a" "a" }}{{ eq 1 1 }}{{ eq true false }}`, token: "t", want: "yesfalsetruefalse"},
		"length and index":  {src: `{{ len (token "a") }} {{ index (token "a") 0 }}`, token: "A", want: "1 65"},
		"with":              {src: `{{ with token "a" }}[{{ . }}]{{ end }}`, token: "t", want: "[t]"},
		"no HTML escaping":  {src: `<a>{{ token "a" }}`, token: "<&>", want: "<a><&>"},
		"white space trims": {src: "a  {{- token \"a\" -}}  b", token: "t", want: "atb"},

		// text/template would print the value in most of these.
		"index with a token":           {src: "x\n{{ token \"a\" | index \"abc\" }}", token: sentinel, wantErr: []string{"line 2, column 15", "cannot work with its arguments"}},
		"index out of range":           {src: `{{ index (token "a") 4000 }}`, token: sentinel, wantErr: []string{"out of range"}},
		"length of a number":           {src: `{{ len 3 }}`, token: sentinel, wantErr: []string{"cannot work"}},
		"equal of different kinds":     {src: `{{ eq (token "a") 1 }}`, token: sentinel, wantErr: []string{"eq and ne compare"}},
		"unequal of different kinds":   {src: `{{ ne 1 (token "a") }}`, token: sentinel, wantErr: []string{"eq and ne compare"}},
		"equal of bytes":               {src: `{{ eq true (token "a") }}`, token: sentinel, wantErr: []string{"eq and ne compare"}},
		"equal of fractions":           {src: `{{ eq 1.5 1.5 }}`, token: sentinel, wantErr: []string{"eq and ne compare"}},
		"json of a fraction":           {src: `{{ json 1.5 }}`, token: sentinel, wantErr: []string{"json takes"}},
		"quote of a number":            {src: `{{ quote 1 }}`, token: sentinel, wantErr: []string{"cannot work"}},
		"base64 of a boolean":          {src: `{{ base64 true }}`, token: sentinel, wantErr: []string{"cannot work"}},
		"a shadowed $":                 {src: `{{ $ := token "a" }}x`, token: sentinel, want: "x"},
		"output that is no text":       {src: `{{ "\xff" }}`, token: sentinel, wantErr: []string{"not valid UTF-8"}},
		"a token beyond the limit":     {src: `{{ token "a" }}`, token: strings.Repeat("S", MaxSecretOutput+1), wantErr: []string{"a value becomes too long"}},
		"a token as long as the limit": {src: `{{ token "a" }}`, token: strings.Repeat("S", MaxSecretOutput), want: strings.Repeat("S", MaxSecretOutput)},
		"two tokens beyond the limit":  {src: `{{ token "a" }}{{ token "a" }}`, token: strings.Repeat("S", MaxSecretOutput), wantErr: []string{"the output is too long"}},
		"base64 beyond the limit":      {src: `{{ token "a" | base64 }}`, token: strings.Repeat("S", MaxSecretOutput), wantErr: []string{"a value becomes too long"}},
		"json beyond the limit":        {src: `{{ token "a" | json }}`, token: strings.Repeat("\x01", MaxSecretOutput/2), wantErr: []string{"a value becomes too long"}},
		"base64 of base64 of base64": {
			src: `{{ token "a"` + strings.Repeat(" | base64", 100) + ` }}`, token: "S", wantErr: []string{"a value becomes too long"}},
		"quotes of quotes double": {
			src: `{{ token "a"` + strings.Repeat(" | quote", 100) + ` }}`, token: `"`, wantErr: []string{"a value becomes too long"}},
		"much work for nothing": {
			src: `{{ $x := token "a" }}` + strings.Repeat(`{{$y:=json $x}}`, 250), token: strings.Repeat("S", MaxSecretOutput-2), wantErr: []string{"too much work"}},
		"much comparing for nothing": {
			src: `{{ $x := token "a" }}` + strings.Repeat(`{{$y:=eq $x $x}}`, 250), token: strings.Repeat("S", MaxSecretOutput), wantErr: []string{"too much work"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := secretTemplate(tc.src, tc.token)
			checkError(t, err, tc.wantErr...)
			if got != tc.want && err == nil {
				t.Errorf("got %.100q, want %.100q", got, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "SENTINEL") {
				t.Errorf("the error shows a token: %v", err)
			}
		})
	}
}

func bundleTemplate(b Bundle, src string) (string, error) {
	files, err := Verification(b, map[string]string{"f": src})
	return files["f"], err
}

func TestBundleTemplateOutput(t *testing.T) {
	tests := map[string]struct {
		src, want string
		wantErr   []string
	}{
		"all plain fields": {
			src:  `{{ .Namespace }}/{{ .Name }} {{ .Issuer }} {{ .Audience }} {{ .JWKSURI }} {{ .ClockSkewSeconds }} {{ .TokenType }}`,
			want: "payments/payment-api https://auth.example.com/oidc https://payment.example.com/api https://auth.example.com/oidc/jwks 30 at+jwt"},
		"lists": {
			src:  `{{ .Scopes | join "," }} {{ json .Scopes }} {{ range $i, $a := .Algorithms }}{{ if $i }};{{ end }}{{ $a }}{{ end }} {{ len .Scopes }}`,
			want: `payments:read,payments:write ["payments:read","payments:write"] ES256;RS256 2`},
		"claims": {
			src:  `{{ join " " .ScopeClaims }} {{ range .AudienceClaims }}x{{ end }}{{ .AudiencePrefix }}{{ json .AudienceValues }}`,
			want: "scope scp []"},
		"range in range": {
			src:  `{{ range $s := .Scopes }}{{ range $.Algorithms }}{{ $s }}={{ . }} {{ end }}{{ end }}`,
			want: "payments:read=ES256 payments:read=RS256 payments:write=ES256 payments:write=RS256 "},
		"indented": {
			src: "a: |\n{{ indent 2 \"x\\n\\ny\\n\" }}b", want: "a: |\n  x\n\n  y\nb"},
		"keys": {
			src:  `{{ range $i, $k := .Keys }}{{ if ne $k.Type "OKP" }}{{ $i }} {{ .ID }} {{ .Type }} {{ .Algorithm }} {{ . }}; {{ end }}{{ end }}{{ len .Keys }}`,
			want: "0 2026-01 RSA RS256 2026-01; 1 2026-02 EC ES256 2026-02; 2"},
		"a list of keys as JSON": {src: `{{ json .Keys }}`, wantErr: []string{"json takes"}},
		"no indentation":         {src: `{{ indent 0 "x" }}`, want: "x"},
		"too deep":               {src: `{{ indent 33 "x" }}`, wantErr: []string{`extra file "f"`, "indent takes 0 to 32"}},
		"negative indentation":   {src: `{{ indent -1 "x" }}`, wantErr: []string{"indent takes"}},
		"join of a string":       {src: `{{ join "," "a" }}`, wantErr: []string{"cannot work"}},
		"a field inside loops":   {src: `{{ range .Scopes }}{{ with $.JWKS }}{{ eq . $.JWKS }}{{ end }}{{ end }}`, want: "truetrue"},
		"an indent that grows beyond the limit": {
			src: `{{ $x := "` + strings.Repeat(`a\n`, 1000) + `" }}{{ $x` + strings.Repeat(` | indent 32`, 9) + ` }}`, wantErr: []string{"a value becomes too long"}},
		"a separator that grows beyond the limit": {
			src: `{{ $x := "` + strings.Repeat(`a\n`, 1000) + `" | indent 32 | indent 32 | indent 32 }}{{ join ($x | indent 32 | indent 32) (.Scopes) }}`, wantErr: []string{"a value becomes too long"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := bundleTemplate(payment(), tc.src)
			checkError(t, err, tc.wantErr...)
			if err == nil && got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestBundleTemplateIsQuick runs the costliest templates known on the largest
// data allowed.
func TestBundleTemplateIsQuick(t *testing.T) {
	b := payment()
	b.Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	b.Keys = slices.Repeat(b.Keys, MaxKeys/len(b.Keys))
	for i, k := range b.Keys {
		b.Keys[i].ID, b.Keys[i].JWK = fmt.Sprint(i), strings.Replace(k.JWK, `"kid":"`+k.ID, `"kid":"`+fmt.Sprint(i), 1)
	}
	b.Scopes = nil
	for i := range MaxScopes {
		b.Scopes = append(b.Scopes, Scope{Name: fmt.Sprintf("%d:%s", i, strings.Repeat("s", 200))})
	}
	full := func(loops, body, ends string) string {
		return `{{ $x := "a" }}` + loops + strings.Repeat(body, (MaxTemplate-200)/len(body)) + ends
	}
	nested := func(body string) string {
		return full(`{{ range .Scopes }}{{ range $.Algorithms }}`, body, `{{ end }}{{ end }}`)
	}
	flat := func(body string) string { // as much as may be said
		for n := 1; ; n++ {
			src := `{{ $x := "a" }}{{ $all := join "," .Scopes }}{{ range .Scopes }}` + strings.Repeat(body, n) + `{{ end }}`
			if checkBundleTemplate("f", strings.Replace(src, body, body+body, 1)) != nil {
				return src
			}
		}
	}
	const steps = "can take more than 40000 steps"
	tests := map[string]struct {
		src     string
		wantErr []string
	}{
		"nested assignments":  {nested(`{{$x = .}}`), []string{steps}},
		"nested conditions":   {nested(`{{if .}}{{end}}`), []string{steps}},
		"nested alternatives": {nested(`{{if .}}{{else}}{{if .}}{{end}}{{end}}`), []string{steps}},
		"nested comparisons":  {nested(`{{$x = eq $.Name $.Name}}`), []string{steps}},
		"nested lengths":      {nested(`{{$x = len .}}`), []string{steps}},
		"nested logic":        {nested(`{{$x = and . . .}}`), []string{steps}},
		"nested text":         {nested(`a{{/**/}}`), []string{steps}},
		"nested with":         {nested(`{{with .}}{{end}}`), []string{steps}},
		"parentheses":         {nested(`{{$x = ((((((.))))))}}`), []string{steps}},

		"assignments":  {flat(`{{$x = .}}`), nil},
		"conditions":   {flat(`{{if .}}{{end}}`), nil},
		"lengths":      {flat(`{{$x = len .}}`), nil},
		"keys":         {flat(`{{range $.Keys}}{{$x = .PEM}}{{end}}`), nil},
		"encoded keys": {`{{range .Keys}}` + strings.Repeat(`{{$x := base64 $.JWKS}}`, 80) + `{{end}}`, []string{"too much work"}},
		"indexes":      {flat(`{{$x = index $.Scopes 1}}`), nil},
		"comparisons":  {flat(`{{$x = eq $all $all}}`), []string{"too much work"}},
		"equal starts": {flat(`{{$x = eq . $.JWKS}}`), nil},
		"encodings":    {flat(`{{$x = base64 $.JWKS}}`), []string{"too much work"}},
		"joins":        {flat(`{{$x = join $.Issuer $.Scopes}}`), []string{"too much work"}},
		"output":       {flat(`{{$.JWKS}}`), []string{"the output is too long"}},
		"a whole list": {flat(`{{$.Scopes}}`), []string{"the output is too long"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := bundleTemplate(b, tc.src)
			checkError(t, err, tc.wantErr...)
			if took := time.Since(start); took > time.Second { // a few milliseconds where nothing else runs
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestTemplateCostIsOfTheLongestData: whether a template is allowed does not
// depend on how many scopes there are today.
func TestTemplateCostIsOfTheLongestData(t *testing.T) {
	for src, want := range map[string]int{
		``:                                     1,
		`a`:                                    2,
		`{{ .Name }}`:                          3,
		`{{ len .Name }}`:                      3 + callCost,
		`{{ range .Scopes }}{{ end }}`:         3 + MaxScopes,
		`{{ range .Keys }}{{ .PEM }}{{ end }}`: 3 + 3*MaxKeys,
		`{{ range .Scopes }}a{{ else }}b{{ end }}`:                                      5 + 2*MaxScopes,
		`{{ range .Scopes }}{{ range $.Algorithms }}{{ . }}{{ end }}{{ end }}`:          3 + MaxScopes*(3+3*maxAlgorithms),
		`{{ if .Name }}{{ range .Algorithms }}a{{ end }}{{ else }}{{ .Name }}{{ end }}`: 9 + 2*maxAlgorithms,
	} {
		c, err := parseTemplate(bundleRules, src)
		if err != nil {
			t.Fatal(err)
		}
		if c.cost != want {
			t.Errorf("%s costs %d, want %d", src, c.cost, want)
		}
	}
	if n := len(slices.Concat(slices.Collect(maps.Values(algorithmsOf))...)); n != maxAlgorithms {
		t.Errorf("there are %d algorithms", n)
	}
}

// TestTheCostliestTemplate has exactly as many steps as are allowed.
func TestTheCostliestTemplate(t *testing.T) {
	cost := func(src string) int {
		c, err := parseTemplate(bundleRules, src)
		if err != nil {
			t.Fatal(err)
		}
		return c.cost
	}
	src := `{{ range .Scopes }}` + strings.Repeat(`{{ 1 }}`, maxCost/MaxScopes/2-1) + `{{ end }}`
	if (maxCost-cost(src))%2 == 1 {
		src += "x"
	}
	src += strings.Repeat(`{{1}}`, (maxCost-cost(src))/2)
	if got := cost(src); got != maxCost {
		t.Fatalf("it costs %d", got)
	}
	_, err := parseTemplate(bundleRules, "x"+src)
	checkError(t, err, "more than 40000 steps")
}

// TestValuesAreMeasuredBeforeTheyAreMade asks for values of exactly the limit, and of one byte
// more. The measure of join counts a separator for each element.
func TestValuesAreMeasuredBeforeTheyAreMade(t *testing.T) {
	for name, tc := range map[string]struct {
		size int
		do   func(*machine) (string, error)
		want string
	}{
		"join":   {9, func(m *machine) (string, error) { return m.join(", ", []string{"a", "b", "c"}) }, "a, b, c"},
		"indent": {11, func(m *machine) (string, error) { return m.indent(4, "a\nb") }, "    a\n    b"},
		"base64": {8, func(m *machine) (string, error) { return m.base64("user") }, "dXNlcg=="},
		"json":   {6, func(m *machine) (string, error) { return m.json("user") }, `"user"`},
	} {
		if got, err := tc.do(&machine{limit: tc.size}); got != tc.want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if got, err := tc.do(&machine{limit: tc.size - 1}); got != "" || !errors.Is(err, errValue) {
			t.Errorf("%s of %d bytes: %q, %v", name, tc.size-1, got, err)
		}
	}
}

// TestWorkIsCounted: a call costs something although it reads nothing.
func TestWorkIsCounted(t *testing.T) {
	m := &machine{}
	if err := m.spend(maxWork - callWork); err != nil {
		t.Errorf("all that is allowed: %v", err)
	}
	if err := m.spend(0); !errors.Is(err, errWork) {
		t.Errorf("one call more: %v", err)
	}
}

func fuzzSeeds(f *testing.F) {
	for _, src := range []string{
		"", "text", `Bearer {{ token "a" }}`, `{{ token "a" | base64 | quote }}`, `{{ with token "a" }}{{ . }}{{ end }}`,
		`{{ range $i, $s := .Scopes }}{{ if $i }},{{ end }}{{ $s | json }}{{ end }}`, `{{ .JWKS | indent 4 }}`,
		`{{ define "x" }}{{ template "x" }}{{ end }}`, `{{ $x := "a" }}{{ $x = index $x 0 }}`, `{{ index (token "a") 99 }}`,
		`{{ eq (len .Scopes) 2 }}{{ join "," .Scopes }}`, `{{ break }}`, "{{ (token `a`).X }}", `{{ printf "%s" . }}`, `{{- /* c */ -}}`,
		`{{ range $i, $k := .Keys }}{{ $k.PEM }}{{ .ID | json }}{{ $k }}{{ end }}{{ index .Keys 0 }}`, `{{ $ := 1 }}{{ $.Name }}`, `{{ "\xff" }}`, `{{ 'a' }}{{ 1i }}{{ 0x1p-2 }}{{ json 1e3 }}`,
	} {
		f.Add(src)
	}
}

func FuzzSecretTemplate(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, src string) {
		const token = "\x00SENTINEL\x00"
		checked := checkSecretTemplate(src)
		got, err := secretTemplate(src, token)
		checkFuzzed(t, checked, got, err, MaxSecretOutput)
	})
}

func FuzzBundleTemplate(f *testing.F) {
	fuzzSeeds(f)
	b := payment()
	f.Fuzz(func(t *testing.T, src string) {
		checked := checkBundleTemplate("f", src)
		got, err := bundleTemplate(b, src)
		checkFuzzed(t, checked, got, err, MaxBundleOutput)
	})
}

func checkFuzzed(t *testing.T, checked error, got string, err error, limit int) {
	t.Helper()
	if checked != nil && err == nil {
		t.Errorf("rendered what the check refuses: %v", checked)
	}
	if len(got) > limit || !utf8.ValidString(got) {
		t.Errorf("%d bytes of output, valid %v", len(got), utf8.ValidString(got))
	}
	for _, err := range []error{checked, err} {
		if err != nil && (strings.Contains(err.Error(), "\x00SENTINEL") || len(err.Error()) > 1000) {
			t.Errorf("error %q", err)
		}
	}
}
