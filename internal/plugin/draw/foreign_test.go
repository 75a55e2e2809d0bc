// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"io"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/m2m-operator/m2m-operator/internal/plugin/decision"
	"github.com/m2m-operator/m2m-operator/internal/plugin/judge"
	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
)

// forged is what a tenant can write where the API server takes any text: the kind of an owner, or a message.
const forged = "x\nforged\tline \x1b[2J"

// forge sets every text in a value to the forged one, and every state to a given one.
func forge(v reflect.Value, state string, depth int) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(forged)
		if v.Type() != reflect.TypeFor[string]() {
			v.SetString(state)
		}
	case reflect.Pointer:
		if v.Type() == reflect.TypeFor[*metav1.Time]() {
			v.Set(reflect.ValueOf(after(0)))
		} else if depth > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			forge(v.Elem(), state, depth-1)
		}
	case reflect.Slice:
		if depth > 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			forge(v.Index(0), state, depth-1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				forge(f, state, depth)
			}
		}
	case reflect.Bool:
		v.SetBool(state == string(decision.Allowed))
	}
}

func forgedOf[T any](state string) (v T) {
	forge(reflect.ValueOf(&v).Elem(), state, 8)
	return v
}

// TestNothingForeignForgesALine writes all that the package can write, with forged texts in every place.
func TestNothingForeignForgesALine(t *testing.T) {
	s := Style{Now: noon}
	for _, state := range []string{
		string(decision.Allowed), string(decision.Partly), string(decision.Denied), string(decision.Unknown), string(tree.Failing), string(judge.Failed), string(judge.NotChecked),
	} {
		all, unused := []decision.Access{forgedOf[decision.Access](state)}, []decision.Grant{forgedOf[decision.Grant](state)}
		judged := forgedOf[Token](state)
		judged.Missing = false
		notJudged := judged
		notJudged.Judgement = nil
		answer := forgedOf[decision.Answer](state)
		answer.Message = forged
		unexplained := answer
		unexplained.Reason = ""
		for name, draw := range map[string]func(io.Writer) error{
			"a tree":                func(w io.Writer) error { return Tree(w, forgedOf[tree.Tree](state), s) },
			"users":                 func(w io.Writer) error { return Users(w, forgedOf[decision.Users](state), s) },
			"no users":              func(w io.Writer) error { return Users(w, decision.Users{API: forged}, s) },
			"an access":             func(w io.Writer) error { return AccessTable(w, all, unused) },
			"a flowchart":           func(w io.Writer) error { return Mermaid(w, all) },
			"a graph":               func(w io.Writer) error { return Dot(w, all) },
			"an answer":             func(w io.Writer) error { return Why(w, answer, s) },
			"an unexplained answer": func(w io.Writer) error { return Why(w, unexplained, s) },
			"a difference":          func(w io.Writer) error { return Diff(w, forgedOf[decision.Diff](state), s) },
			"tokens":                func(w io.Writer) error { return Tokens(w, []Token{judged, notJudged}, s) },
			"a judgement":           func(w io.Writer) error { return Judgement(w, forgedOf[judge.Judgement](state), s) },
		} {
			b := &strings.Builder{}
			if err := draw(b); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), "forged") {
				t.Errorf("%s that is %s has nothing forged:\n%s", name, state, b)
			}
			if strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), "x\n") {
				t.Errorf("%s that is %s has a forged line:\n%q", name, state, b)
			}
		}
	}
}
