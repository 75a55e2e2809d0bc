// SPDX-License-Identifier: Apache-2.0
//
// The list of objects, by namespace. Rows are kept from one drawing to the next, so that focus
// and scrolling stay where they are.

const rows = new Map(); // by ID
const groups = new Map(); // by namespace
let cursor = ""; // the row that Tab leads to
let shown = []; // the IDs of rows in order

// No namespace has a capital in its name.
const groupName = (o) => o.namespace ?? (o.kind === "Resource" ? "Elsewhere" : "Cluster");

// drawList shows the objects that are wanted.
function drawList() {
  const objects = model.objects.filter(wanted);
  const byGroup = new Map();
  for (const o of objects) {
    const name = groupName(o);
    if (!byGroup.has(name)) byGroup.set(name, []);
    byGroup.get(name).push(o);
  }
  const names = [...byGroup.keys()].sort();
  shown = names.flatMap((name) => byGroup.get(name).map((o) => o.id));
  if (!shown.includes(cursor)) cursor = shown.includes(view.selected) ? view.selected : shown[0] ?? "";

  const list = $("list");
  place(list, names.map((name) => group(name, byGroup.get(name))));
  keep(groups, new Set(names));
  keep(rows, new Set(shown));
  list.hidden = shown.length === 0;
  $("none").hidden = shown.length > 0;
  if (!shown.length) {
    $("none").textContent = model.objects.length ? "Nothing matches." : "There is nothing of the operator here.";
  }
}

// place makes elements the children of a parent, moving as few as it can.
function place(parent, children) {
  let at = parent.firstChild;
  for (const c of children) {
    if (c === at) at = at.nextSibling;
    else parent.insertBefore(c, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// keep forgets the elements of what is no longer shown.
function keep(elements, wantedKeys) {
  for (const key of elements.keys()) if (!wantedKeys.has(key)) elements.delete(key);
}

function group(name, objects) {
  let g = groups.get(name);
  if (!g) {
    g = el("div", { class: "group", role: "group", "aria-label": name }, el("div", { class: "group-name", "aria-hidden": "true" }));
    groups.set(name, g);
  }
  const head = g.firstChild;
  const text = `${name} · ${objects.length}`;
  if (head.textContent !== text) head.replaceChildren(el("span", {}, name), el("span", { class: "dim" }, ` · ${objects.length}`));
  place(g, [head, ...objects.map(row)]);
  return g;
}

// row returns the row of an object, drawn again only if it shows something else.
function row(o) {
  const troubled = o.state === "Ready" && o.wrong ? "Warning" : o.state;
  const why = o.wrong ? reasonOf(o) : "";
  const looks = JSON.stringify([o.name, o.kind, troubled, why, o.expires]);
  let r = rows.get(o.id);
  if (!r) {
    r = el("div", { class: "row", role: "option", "data-id": o.id });
    rows.set(o.id, r);
  }
  if (r.looks !== looks) {
    if (r.looks) flash(r);
    r.looks = looks;
    r.replaceChildren(
      glyph(troubled),
      el("span", { class: "row-name" }, offscreen(`${troubled}: `), o.name),
      el("span", { class: "row-kind" }, kindOf(o)),
      o.expires && el("span", { class: "row-when" }, offscreen(" first token expires in "), moment(o.expires, "short")) || "",
      why && el("span", { class: "row-why" }, why) || "",
    );
  }
  r.setAttribute("aria-selected", String(o.id === view.selected));
  r.tabIndex = o.id === cursor ? 0 : -1;
  return r;
}

// reasonOf says in a few words what is wrong with an object.
function reasonOf(o) {
  const p = (o.problems ?? [])[0];
  if (p) return p.reason ? `${p.reason}: ${p.message}` : p.message;
  const e = edgesFor(o.id).find((x) => x.client === o.id && x.state !== "Ready");
  if (e) return `${e.key}: ${e.sentence}`;
  const pod = (o.pods ?? []).find((x) => x.state !== "Ready");
  return pod ? `Pod ${pod.name} is ${pod.state}` : o.sentence;
}

function flash(r) {
  r.classList.remove("changed");
  requestAnimationFrame(() => r.classList.add("changed"));
}

// moveTo puts the cursor on a row, and the focus with it.
function moveTo(id, focus = true) {
  if (!id) return;
  rows.get(cursor)?.setAttribute("tabindex", "-1");
  cursor = id;
  const r = rows.get(id);
  if (!r) return;
  r.tabIndex = 0;
  if (focus) r.focus({ preventScroll: true });
  r.scrollIntoView({ block: "nearest" });
}

function listKeys(event) {
  const i = shown.indexOf(cursor);
  const page = 10;
  const to = {
    ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: shown.length - 1, PageDown: Math.min(i + page, shown.length - 1), PageUp: Math.max(i - page, 0),
  }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    if (to < 0) $("search").focus();
    else moveTo(shown[Math.min(to, shown.length - 1)]);
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    select(cursor, true);
  }
}
