// SPDX-License-Identifier: Apache-2.0
//
// The panel of one object: how it is, what to do, its accesses, conditions and YAML.

let detailLooks = ""; // what the panel shows
let yamlOpen = false;

function drawDetail() {
  const panel = $("detail");
  const o = byID.get(view.selected);
  document.body.classList.toggle("detailed", Boolean(view.selected));
  panel.hidden = !view.selected;
  if (!view.selected) {
    detailLooks = "";
    return;
  }
  const looks = JSON.stringify([view.selected, o, edgesFor(view.selected), model.unused]);
  if (looks === detailLooks) return;
  const same = detailLooks && JSON.parse(detailLooks)[0] === view.selected;
  const top = panel.scrollTop;
  const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.keep : undefined;
  detailLooks = looks;
  panel.replaceChildren(...(o ? contents(o) : gone()));
  tick();
  if (same) panel.scrollTop = top;
  else panel.scrollTop = 0;
  if (focused) panel.querySelector(`[data-keep="${focused}"]`)?.focus({ preventScroll: true });
}

const closer = () => el("button", { type: "button", class: "close", "data-keep": "close", "aria-label": "Close", title: "Close (Esc)", onclick: () => closeDetail() }, "×");

const gone = () => [el("div", { class: "detail-head" }, el("h2", { id: "detail-name", tabindex: -1, "data-keep": "name" }, "Not here"), closer()),
  el("p", { class: "sentence" }, "The object of this address does not exist, or is not on this page.")];

function contents(o) {
  const calls = edgesFor(o.id);
  return [
    el("div", { class: "detail-head" },
      el("div", {},
        el("p", { class: "kicker" }, o.kind, o.namespace ? ` in ${o.namespace}` : ""),
        el("h2", { id: "detail-name", tabindex: -1, "data-keep": "name" }, o.name)),
      closer()),
    el("p", { class: `sentence ${o.state}` }, glyph(o.state), el("span", {}, el("strong", {}, o.state), ` ${o.sentence}.`)),
    ...(o.problems ?? []).map(problem),
    ...part("Access", calls.filter((e) => e.client === o.id).map((e) => accessOf(e, byID.get(e.api), true))),
    ...part("Callers", calls.filter((e) => e.api === o.id).map((e) => accessOf(e, byID.get(e.client), false))),
    ...part("Grants that no client uses", (model.unused ?? []).filter((g) => g.api === o.id).map(unusedGrant)),
    ...part("APIs", model.objects.filter((x) => x.server === o.id && column(x.kind) === 1).map((x) => el("p", { class: "plain" }, link(x)))),
    ...factsOf(o),
    ...part("Pods", podsOf(o)),
    ...part("Conditions", (o.conditions ?? []).length ? [conditionList(o.conditions)] : []),
    ...yamlOf(o),
  ];
}

// part returns a titled part of the panel, unless it is empty.
function part(title, children) {
  if (!children.length) return [];
  return [el("section", { class: "part" }, el("h3", {}, title, children.length > 1 ? el("span", { class: "dim" }, ` ${children.length}`) : ""), ...bounded(children))];
}

// bounded shows the first of many, and the others on request.
function bounded(children) {
  const first = 25;
  if (children.length <= first) return children;
  const more = el("button", { type: "button", class: "more", onclick: () => more.replaceWith(...children.slice(first)) }, `${children.length - first} more`);
  return [...children.slice(0, first), more];
}

const problem = (p) => el("div", { class: "problem" },
  el("p", {}, p.reason ? el("strong", {}, p.reason) : "", p.reason ? " " : "", p.message),
  p.advice ? el("p", { class: "advice" }, p.advice) : "");

const link = (o) => el("a", { href: address(o.id), class: "object", "data-id": o.id }, glyph(o.state), offscreen(`${o.state}: `), el("span", { class: "dim" }, o.namespace ? `${o.namespace} / ` : ""), o.name);

const chips = (list) => el("span", { class: "chips" }, list.map((s) => el("code", { class: "chip" }, s)));

function accessOf(e, other, outgoing) {
  const missing = (e.requested ?? []).filter((s) => !(e.scopes ?? []).includes(s));
  return el("article", { class: `access ${e.state}` },
    el("p", { class: "access-head" }, other ? link(other) : e.api, el("span", { class: `state ${e.state}` }, glyph(e.state), e.state)),
    el("p", { class: "scopes" }, chips(e.scopes ?? []), missing.length && e.scopes?.length ? el("span", { class: "dim" }, " without ") : "", chips(missing)),
    el("p", { class: "dim" }, e.sentence, e.verdict === "Allowed" && e.by ? [", by ", el("code", {}, e.by)] : "", "."),
    e.reason && e.verdict !== "Allowed" ? problem(e) : "",
    ...(e.token ? tokenOf(e.token) : []),
    (outgoing || e.verdict !== "Allowed") && e.lines?.length ? linesOf(e) : "");
}

// tokenOf shows the life of a token: when it was issued, is replaced and expires.
function tokenOf(t) {
  const life = el("div", { class: "life", "aria-hidden": "true", "data-from": t.issuedAt ? Date.parse(t.issuedAt) : undefined, "data-due": t.refreshAt ? Date.parse(t.refreshAt) : undefined, "data-to": Date.parse(t.expiresAt) }, el("span", { class: "done" }), el("span", { class: "due" }));
  return [
    t.issuedAt ? life : "",
    el("dl", { class: "times" },
      el("div", {}, el("dt", {}, "expires"), el("dd", {}, moment(t.expiresAt, "expires", true))),
      t.refreshAt ? el("div", {}, el("dt", {}, "next"), el("dd", {}, moment(t.refreshAt, "due", true))) : "",
      t.keyID ? el("div", {}, el("dt", {}, "key"), el("dd", {}, t.keyID, t.verifiers !== undefined ? el("span", { class: "dim" }, t.verifiers ? ` ${t.haveKey} of ${count(t.verifiers, ["pod", "pods"])}` : " no pod verifies") : "")) : ""),
    t.waitsForKey ? el("p", { class: "held" }, glyph("Waiting"), el("span", {}, "A newer token waits until the API's pods have key ", el("code", {}, t.waitsForKey), t.waitsUntil ? [", at the latest ", moment(t.waitsUntil, "due")] : "")) : "",
  ];
}

function placeLife(life) {
  const { from, due, to } = life.dataset;
  if (!from) return;
  const share = (at) => `${Math.max(0, Math.min(100, ((at - from) / (to - from)) * 100))}%`;
  life.style.setProperty("--now", share(Date.now()));
  if (due) life.style.setProperty("--due", share(due));
}

// linesOf shows the lines of YAML that decide.
function linesOf(e) {
  return el("details", { class: "lines-of" }, el("summary", {}, e.lines.length === 1 ? "The line that decides" : `The ${e.lines.length} lines that decide`),
    e.lines.map((l) => el("p", { class: "line-of" }, el("code", {}, l.path), " ", el("span", { class: "dim" }, l.value ?? "(not set)"))));
}

const unusedGrant = (g) => el("p", { class: "plain" }, el("code", {}, g.path), ` ${g.who} `, chips(g.scopes ?? []));

function factsOf(o) {
  if (!(o.facts ?? []).length) return [];
  return [el("section", { class: "part" }, el("h3", {}, "About"), el("dl", { class: "facts" },
    o.facts.map((f) => el("div", {}, el("dt", {}, f.label), el("dd", {}, f.list ? chips(f.list) : f.value, f.at ? el("span", { class: "dim" }, " ", moment(f.at, "since")) : "")))))];
}

function podsOf(o) {
  const pods = (o.pods ?? []).map((p) => el("div", { class: "pod" },
    el("p", {}, glyph(p.state), offscreen(`${p.state}: `), el("span", {}, el("span", { class: "dim" }, `${p.namespace} / `), p.name), el("span", { class: "dim" }, ` ${p.summary ?? ""}`)),
    (p.problems ?? []).map(problem)));
  if (o.morePods) pods.push(el("p", { class: "dim" }, `and ${count(o.morePods, ["pod", "pods"])} more`));
  return pods;
}

function conditionList(conditions) {
  return el("dl", { class: "conditions" }, conditions.map((c) => {
    const state = c.status === "True" ? "Ready" : c.status === "False" ? "Failing" : "Waiting";
    return el("div", {},
      el("dt", {}, glyph(state), c.type),
      el("dd", {}, el("p", {}, `${c.status} · ${c.reason} `, el("span", { class: "dim" }, moment(c.since, "since"))), c.message ? el("p", { class: "dim" }, c.message) : ""));
  }));
}

// yamlOf shows the object's YAML, which is asked for when it is opened.
function yamlOf(o) {
  if (!o.conditions && !o.facts) return []; // nobody has it
  const pre = el("pre", { tabindex: 0, "aria-label": `YAML of ${o.name}` });
  const load = async () => pre.replaceChildren(await yaml(o.id));
  const details = el("details", { class: "yaml", open: yamlOpen, ontoggle: () => {
    yamlOpen = details.open;
    if (details.open) load();
  } }, el("summary", { "data-keep": "yaml" }, "YAML"), pre);
  if (yamlOpen) load();
  return [details];
}
