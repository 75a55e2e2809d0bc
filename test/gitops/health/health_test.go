// SPDX-License-Identifier: Apache-2.0

// Package health judges objects in every state with the health checks for Argo CD and Flux
// in docs/examples, as these tools do: with a Lua interpreter and with CEL. The objects are
// in ../testdata/states, where the tests of the parent directory keep what a real API server
// has of them. It is a module of its own, so that the operator does not depend on Lua and CEL.
package health

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

const (
	states   = "../testdata/states"
	examples = "../../../docs/examples"
)

// judgement is what each tool must make of an object.
type judgement struct{ argo, flux string }

// wanted is by the name of a state's file.
var wanted = map[string]judgement{
	"apiresource-changed":              {"Progressing", "InProgress"},
	"apiresource-claimed":              {"Degraded", "Failed"},
	"apiresource-deleting":             {"Progressing", "InProgress"},
	"apiresource-new":                  {"Progressing", "InProgress"},
	"apiresource-ready":                {"Healthy", "Current"},
	"apiresource-server-missing":       {"Progressing", "InProgress"},
	"authorizationserver-changed":      {"Progressing", "InProgress"},
	"authorizationserver-deleting":     {"Progressing", "InProgress"},
	"authorizationserver-keys-stale":   {"Healthy", "Current"},
	"authorizationserver-new":          {"Progressing", "InProgress"},
	"authorizationserver-ready":        {"Healthy", "Current"},
	"authorizationserver-unreachable":  {"Degraded", "InProgress"}, // it may come back within the timeout
	"clusterauthorizationserver-new":   {"Progressing", "InProgress"},
	"clusterauthorizationserver-ready": {"Healthy", "Current"},
	"m2mclient-api-missing":            {"Progressing", "InProgress"},
	"m2mclient-changed":                {"Progressing", "InProgress"},
	"m2mclient-credentials-missing":    {"Progressing", "InProgress"},
	"m2mclient-credentials-refused":    {"Degraded", "Failed"},
	"m2mclient-deleting":               {"Progressing", "InProgress"},
	"m2mclient-expired":                {"Degraded", "InProgress"},
	"m2mclient-new":                    {"Progressing", "InProgress"},
	"m2mclient-not-granted":            {"Degraded", "Failed"},
	"m2mclient-not-refreshed":          {"Healthy", "Current"},
	"m2mclient-not-verified":           {"Degraded", "Failed"},
	"m2mclient-ready":                  {"Healthy", "Current"},
	"m2mclient-scope-not-granted":      {"Degraded", "Failed"},
	"m2mclient-server-missing":         {"Progressing", "InProgress"},
}

func TestEveryState(t *testing.T) {
	files, err := filepath.Glob(states + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	argo, flux := argoChecks(t), fluxChecks(t)
	var names []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		names = append(names, name)
		t.Run(name, func(t *testing.T) {
			obj := load(t, file)
			kind := obj["kind"].(string)
			status, message := runLua(t, argo[kind], obj)
			if status != wanted[name].argo {
				t.Errorf("Argo CD says %s, want %s", status, wanted[name].argo)
			}
			if ready := readyOf(obj); ready["reason"] != "Pending" && current(obj) && message != ready["message"] {
				t.Errorf("Argo CD says %q, want the message of the condition Ready, %q", message, ready["message"])
			}
			if message == "" {
				t.Error("Argo CD shows no message")
			}
			if got := flux[kind].judge(t, obj); got != wanted[name].flux {
				t.Errorf("Flux says %s, want %s", got, wanted[name].flux)
			}
		})
	}
	if want := slices.Sorted(maps.Keys(wanted)); !slices.Equal(names, want) {
		t.Errorf("the states are\n%v\nwant\n%v", names, want)
	}
}

// TestWhatPassesIsNoFailure gives the health checks each reason for which an object is not
// ready while others are applied. Argo CD would end a sync with waves if it took one of
// them for a failure, and Flux the whole reconciliation.
func TestWhatPassesIsNoFailure(t *testing.T) {
	var passing map[string][]string
	parse(t, "../testdata/passing.yaml", &passing)
	if len(passing) < 3 {
		t.Fatalf("reasons of only %d kinds", len(passing))
	}
	argo, flux := argoChecks(t), fluxChecks(t)
	for kind, reasons := range passing {
		for _, reason := range reasons {
			obj := map[string]any{
				"kind": kind, "metadata": map[string]any{"generation": int64(1)},
				"status": map[string]any{"observedGeneration": int64(1), "conditions": []any{
					map[string]any{"type": "Ready", "status": "False", "reason": reason, "message": "It has to wait"},
				}},
			}
			if status, _ := runLua(t, argo[kind], obj); status != "Progressing" {
				t.Errorf("%s %s: Argo CD says %s", kind, reason, status)
			}
			if status := flux[kind].judge(t, obj); status != "InProgress" {
				t.Errorf("%s %s: Flux says %s", kind, reason, status)
			}
		}
	}
}

func load(t *testing.T, file string) (obj map[string]any) {
	t.Helper()
	parse(t, file, &obj)
	return obj
}

func parse(t *testing.T, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func readyOf(obj map[string]any) map[string]any {
	for _, c := range obj["status"].(map[string]any)["conditions"].([]any) {
		if c := c.(map[string]any); c["type"] == "Ready" {
			return c
		}
	}
	return nil
}

// current reports whether the status is about the object as it is, and it is to stay.
func current(obj map[string]any) bool {
	metadata := obj["metadata"].(map[string]any)
	return metadata["deletionTimestamp"] == nil && obj["status"].(map[string]any)["observedGeneration"] == metadata["generation"]
}

// argoChecks returns the scripts of the ConfigMap by kind. They must all be health.lua.
func argoChecks(t *testing.T) map[string]string {
	t.Helper()
	script, err := os.ReadFile(examples + "/argo-cd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	var configMap struct{ Data map[string]string }
	parse(t, examples+"/argo-cd/argocd-cm.yaml", &configMap)
	checks := map[string]string{}
	for key, value := range configMap.Data {
		if kind, ok := strings.CutPrefix(key, "resource.customizations.health.m2m-operator.io_"); ok {
			checks[kind] = value
			if value != string(script) {
				t.Errorf("the script for %s is not health.lua", kind)
			}
		}
	}
	if len(checks) != 4 {
		t.Fatalf("scripts for %v", slices.Sorted(maps.Keys(checks)))
	}
	return checks
}

// runLua runs a health check with the libraries that Argo CD gives it.
func runLua(t *testing.T, script string, obj map[string]any) (status, message string) {
	t.Helper()
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable, lua.StringLibName: lua.OpenString, lua.MathLibName: lua.OpenMath,
	} {
		l.Push(l.NewFunction(open))
		l.Push(lua.LString(name))
		l.Call(1, 0)
	}
	l.SetGlobal("obj", toLua(l, obj))
	if err := l.DoString(script); err != nil {
		t.Fatal(err)
	}
	result, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script returned %s", l.Get(-1).Type())
	}
	return l.GetField(result, "status").String(), l.GetField(result, "message").String()
}

func toLua(l *lua.LState, value any) lua.LValue {
	switch v := value.(type) {
	case map[string]any:
		table := l.NewTable()
		for k, member := range v {
			table.RawSetString(k, toLua(l, member))
		}
		return table
	case []any:
		table := l.NewTable()
		for _, member := range v {
			table.Append(toLua(l, member))
		}
		return table
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case int64:
		return lua.LNumber(v)
	}
	return lua.LNil
}

// check holds the expressions of Flux for a kind, in the order in which it evaluates them.
type check struct{ Kind, InProgress, Failed, Current string }

func fluxChecks(t *testing.T) map[string]check {
	t.Helper()
	var kustomization struct {
		Spec struct{ HealthCheckExprs []check }
	}
	parse(t, examples+"/flux/clients.yaml", &kustomization)
	checks := map[string]check{}
	for _, c := range kustomization.Spec.HealthCheckExprs {
		checks[c.Kind] = c
	}
	if len(checks) != 4 {
		t.Fatalf("expressions for %v", slices.Sorted(maps.Keys(checks)))
	}
	return checks
}

// judge does what Flux does: an object that was not observed is in progress, then the
// expressions decide, and if none holds, the object is in progress.
func (c check) judge(t *testing.T, obj map[string]any) string {
	t.Helper()
	status := obj["status"].(map[string]any)
	if observed := status["observedGeneration"]; observed != nil && observed != obj["metadata"].(map[string]any)["generation"] {
		return "InProgress"
	}
	for _, e := range []struct{ expression, result string }{{c.InProgress, "InProgress"}, {c.Failed, "Failed"}, {c.Current, "Current"}} {
		if e.expression != "" && evaluate(t, e.expression, obj) {
			return e.result
		}
	}
	return "InProgress"
}

func evaluate(t *testing.T, expression string, obj map[string]any) bool {
	t.Helper()
	env, err := cel.NewEnv(cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true), cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Encoders())
	if err != nil {
		t.Fatal(err)
	}
	parsed, issues := env.Parse(expression) // without types: Flux does not declare the object's fields
	if issues.Err() != nil {
		t.Fatal(issues.Err())
	}
	program, err := env.Program(parsed)
	if err != nil {
		t.Fatal(err)
	}
	value, _, err := program.Eval(obj)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	holds, ok := value.Value().(bool)
	if !ok {
		t.Fatalf("%s is %v", expression, value)
	}
	return holds
}
