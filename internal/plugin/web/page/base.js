// SPDX-License-Identifier: Apache-2.0
//
// What all parts use: elements, states and times. Every text becomes a text node: names and
// messages come from tenants, and none is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

// STATES are in the order in which they matter.
const STATES = ["Failing", "Warning", "Waiting", "Hidden", "Ready"];
const MEANING = {
  Failing: "does not do its job",
  Warning: "does its job, and something fails",
  Waiting: "waits for the operator or something else",
  Hidden: "you may not read it",
  Ready: "does its job",
};
const KINDS = {
  M2MClient: ["client", "clients"],
  APIResource: ["API", "APIs"],
  Resource: ["resource", "resources"],
  AuthorizationServer: ["server", "servers"],
  ClusterAuthorizationServer: ["server", "servers"],
};

const worst = (states) => STATES.find((s) => states.includes(s)) ?? "Ready";
const count = (n, [one, many]) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const kindOf = (o) => KINDS[o.kind][0];

// fill puts attributes and children into an element. Children are elements and texts.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false));
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// GLYPHS are the shapes of the states, in a box of 12 by 12: no state is told by colour alone.
const GLYPHS = {
  Ready: [["circle", { cx: 6, cy: 6, r: 3 }]],
  Waiting: [["circle", { cx: 6, cy: 6, r: 4.4, class: "ring" }], ["path", { d: "M6 3.6V6.2L7.7 7.4", class: "ring" }]],
  Warning: [["path", { d: "M6 1.2L11.4 10.8H.6Z" }], ["path", { d: "M6 4.6V7.4M6 8.7V9.5", class: "cut" }]],
  Failing: [["path", { d: "M3.7.8H8.3L11.2 3.7V8.3L8.3 11.2H3.7L.8 8.3V3.7Z" }], ["path", { d: "M4.2 4.2L7.8 7.8M7.8 4.2L4.2 7.8", class: "cut" }]],
  Hidden: [["circle", { cx: 6, cy: 6, r: 4.4, class: "ring", "stroke-dasharray": "2.2 2.4" }]],
};

const glyphParts = (state) => (GLYPHS[state] ?? GLYPHS.Hidden).map(([tag, attributes]) => svg(tag, attributes));

// glyph returns the shape of a state, for those who see it.
const glyph = (state) => svg("svg", { class: `glyph ${state}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, glyphParts(state));

const offscreen = (text) => el("span", { class: "offscreen" }, text);

// span says how long something takes, in the way of kubectl.
function span(ms, exact) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s}s`;
  if (s < 7200) return exact && s < 3600 ? `${Math.floor(s / 60)}m ${s % 60}s` : `${Math.floor(s / 60)}m`;
  if (s < 172800) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86400)}d`;
}

// MOMENTS say how far a moment is away: before, and after it.
const MOMENTS = {
  short: [(d) => d, () => "expired"],
  expires: [(d) => `in ${d}`, (d) => `${d} ago`],
  due: [(d) => `in ${d}`, (d) => `due ${d} ago`],
  since: [(d) => `in ${d}`, (d) => `${d} ago`],
};

function momentText(at, form, exact) {
  const left = at - Date.now();
  return MOMENTS[form][left > 0 ? 0 : 1](span(Math.abs(left), exact));
}

// moment returns an element that ticks.
function moment(iso, form, exact) {
  const at = Date.parse(iso);
  const full = new Date(at).toISOString().replace("T", " ").replace(".000Z", "Z");
  return el("time", { datetime: iso, title: full, "data-at": at, "data-form": form, "data-exact": exact ? "1" : undefined }, momentText(at, form, exact));
}

// tick brings all moments up to date.
function tick() {
  if (document.hidden) return;
  for (const t of document.querySelectorAll("time[data-at]")) {
    const text = momentText(Number(t.dataset.at), t.dataset.form, t.dataset.exact);
    if (t.textContent !== text) t.textContent = text;
  }
  for (const life of document.querySelectorAll(".life")) placeLife(life);
}

const announce = (text) => { $("announce").textContent = text; };
