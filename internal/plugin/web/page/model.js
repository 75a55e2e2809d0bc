// SPDX-License-Identifier: Apache-2.0
//
// What there is, what is wanted of it, and the address that says so.

let model = { objects: [], edges: [] };
let byID = new Map();
let edgesOf = new Map(); // by the ID of either end

// view is what the user chose. The address has it, so that it can be passed on.
const view = { q: "", ns: "", kind: "", state: "", wrong: false, selected: "" };

function setModel(next) {
  model = next;
  byID = new Map(model.objects.map((o) => [o.id, o]));
  edgesOf = new Map();
  for (const e of model.edges) {
    for (const id of [e.client, e.api]) {
      if (!edgesOf.has(id)) edgesOf.set(id, []);
      edgesOf.get(id).push(e);
    }
  }
  for (const o of model.objects) {
    const mine = edgesOf.get(o.id) ?? [];
    o.words = [
      o.name, o.namespace, `${o.namespace ?? ""}/${o.name}`, o.kind, kindOf(o), o.summary, o.state,
      ...(o.facts ?? []).flatMap((f) => [f.value, ...(f.list ?? [])]),
      ...(o.problems ?? []).map((p) => p.reason),
      ...mine.flatMap((e) => [...(e.requested ?? []), e.reason, e.key, afterKind(o.id === e.client ? e.api : e.client)]),
    ].filter(Boolean).join("\n").toLowerCase();
    const ends = mine.filter((e) => e.client === o.id && e.token?.expiresAt).map((e) => e.token.expiresAt).sort();
    o.expires = ends[0];
  }
}

const afterKind = (id) => id.slice(id.indexOf("/") + 1);
const edgesFor = (id) => edgesOf.get(id) ?? [];
const serverKind = (kind) => kind === "AuthorizationServer" || kind === "ClusterAuthorizationServer";

// wanted reports whether an object matches what the user chose.
function wanted(o) {
  if (view.ns && o.namespace !== view.ns) return false;
  if (view.kind === "server" ? !serverKind(o.kind) : view.kind && o.kind !== view.kind) return false;
  if (view.state && o.state !== view.state) return false;
  if (view.wrong && !o.wrong) return false;
  return view.q.toLowerCase().split(/\s+/).every((word) => o.words.includes(word));
}

const filtered = () => Boolean(view.q || view.ns || view.kind || view.state || view.wrong);

// address returns the fragment for a selection and what the user chose.
function address(selected) {
  const query = new URLSearchParams();
  for (const name of ["q", "ns", "kind", "state"]) if (view[name]) query.set(name, view[name]);
  if (view.wrong) query.set("wrong", "1");
  const path = encodeURIComponent(selected).replaceAll("%2F", "/").replaceAll("%3A", ":");
  const text = query.toString();
  return `#${path}${text ? `?${text}` : ""}`;
}

// readAddress takes over what the address says.
function readAddress() {
  const [path, text] = location.hash.slice(1).split("?");
  const query = new URLSearchParams(text ?? "");
  for (const name of ["q", "ns", "kind", "state"]) view[name] = query.get(name) ?? "";
  view.wrong = query.get("wrong") === "1";
  try {
    view.selected = decodeURIComponent(path);
  } catch {
    view.selected = ""; // an address that somebody mistyped
  }
}

// changes says in a sentence what became of objects since before, or nothing.
function changes(before) {
  const texts = [];
  for (const o of model.objects) {
    const was = before.get(o.id);
    if (!was) texts.push(`${o.name} is new: ${o.state}`);
    else if (was.state !== o.state) texts.push(`${o.name} is now ${o.state}`);
  }
  for (const o of before.values()) if (!byID.has(o.id)) texts.push(`${o.name} is gone`);
  if (texts.length > 3) return `${texts.length} objects changed`;
  return texts.join(". ");
}
