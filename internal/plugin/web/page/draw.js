// SPDX-License-Identifier: Apache-2.0
//
// Draws the map. It is one stop of Tab; the arrow keys move from box to box.

const LINES = {
  Ready: "works", Waiting: "waits", Warning: "works, and something fails", Failing: "does not work", Hidden: "you may not read it",
};
const HEADS = ["Clients", "APIs", "Servers"];
const ruler = document.createElement("canvas").getContext("2d");
let drawn = null; // the layout on the screen
let mapCursor = ""; // the key of the box that Tab leads to

function drawMap() {
  const holder = $("map");
  const width = holder.clientWidth - 16;
  if (width < 0) return; // it is not shown
  const had = holder.contains(document.activeElement);
  ruler.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  drawn = layout(width, holder.clientHeight - 24);
  const boxes = stops();
  if (!boxes.some((b) => b.key === mapCursor)) mapCursor = boxes[0]?.key ?? "";
  const picture = svg("svg", {
    width: drawn.width, height: drawn.height, viewBox: `0 0 ${drawn.width} ${drawn.height}`, role: "group", class: drawn.links.length > 80 ? "busy" : "",
    "aria-label": "Access map: clients, the APIs that they call, and the servers that issue tokens",
  });
  drawn.columns.forEach((groups, c) => {
    if (groups.length) picture.append(svg("text", { x: groups[0].x + SIZE.pad, y: 16, class: "head" }, HEADS[c]));
  });
  const frames = svg("g");
  const lines = svg("g", { class: "lines" });
  const nodes = svg("g");
  for (const g of drawn.columns.flat()) {
    if (g.open) frames.append(frame(g));
    nodes.append(...(g.open ? [groupHead(g)] : []), ...g.nodes.map((n) => (n.object ? node(n) : box(n, g))));
  }
  // What is wrong lies on top.
  for (const l of [...drawn.links].sort((a, b) => STATES.indexOf(b.state) - STATES.indexOf(a.state))) lines.append(line(l));
  picture.append(frames, lines, nodes, svg("g", { id: "labels", "aria-hidden": "true" }));
  holder.replaceChildren(picture);
  light(view.selected);
  if (had) focusBox(mapCursor);
}

function frame(g) {
  return svg("rect", { class: "frame", x: g.x - 4, y: g.y, width: drawn.node + 8, height: g.height, rx: 9 });
}

// fit cuts a text in its middle so that it fits, because names differ at their ends.
function fit(text, width) {
  if (ruler.measureText(text).width <= width) return text;
  let keep = text.length;
  while (keep > 4) {
    keep -= 1;
    const cut = `${text.slice(0, Math.ceil(keep * 0.6))}…${text.slice(text.length - Math.floor(keep * 0.4))}`;
    if (ruler.measureText(cut).width <= width) return cut;
  }
  return "…";
}

// stop makes an element of the map one that can have the focus.
function stop(g, key, label, act, more) {
  fill(g, {
    role: "button", "aria-label": label, "data-key": key, tabindex: key === mapCursor ? 0 : -1, ...more,
    onclick: () => { mapCursor = key; act(false); },
    onfocus: () => light(key),
    onmouseenter: () => light(key),
    onmouseleave: () => light(document.activeElement?.dataset?.key ?? view.selected),
    onact: () => act(true),
  }, []);
  return g;
}

function node(n) {
  const o = n.object;
  const calls = (n.links ?? []).filter((l) => l.access).flatMap((l) => l.edges);
  const what = o.kind === "M2MClient" ? `, calls ${count(calls.length, KINDS.APIResource)}` : column(o.kind) === 1 ? `, ${count(calls.length, ["access", "accesses"])}` : "";
  const g = svg("g", { class: `node ${o.state}`, transform: `translate(${n.x} ${n.y})` },
    svg("title", {}, `${o.namespace ? `${o.namespace}/` : ""}${o.name}: ${o.sentence}`),
    svg("rect", { width: drawn.node, height: n.height, rx: 6 }),
    svg("g", { class: `glyph ${o.state}`, transform: `translate(9 ${n.height / 2 - 6})` }, glyphParts(o.state)),
    svg("text", { x: 28, y: n.height / 2 + 4.5 }, fit(o.name, drawn.node - 38)));
  return stop(g, o.id, `${o.name}, ${kindOf(o)} in ${groupName(o)}, ${o.state}${what}`, (keys) => select(o.id, keys), { "aria-pressed": String(o.id === view.selected) });
}

// box draws a namespace that is one box, with a bar of its states.
function box(n, g) {
  const bar = svg("g", { transform: `translate(10 ${n.height - 10})` });
  const wide = drawn.node - 20;
  let x = 0;
  const total = n.members.length;
  for (const s of [...STATES].reverse()) {
    const share = n.members.filter((o) => o.state === s).length;
    if (!share) continue;
    const w = Math.max(3, (share / total) * wide);
    bar.append(svg("rect", { class: `bar ${s}`, x, y: 0, width: Math.max(0, Math.min(w, wide - x) - 1), height: 3, rx: 1.5 }));
    x += w;
  }
  const what = count(total, g.column === 0 ? KINDS.M2MClient : g.column === 1 ? KINDS.APIResource : KINDS.AuthorizationServer);
  const bad = n.members.filter((o) => o.wrong).length;
  const state = worst(n.members.map((o) => o.state));
  const width = ruler.measureText(what).width;
  const drawing = svg("g", { class: "node box", transform: `translate(${n.x} ${n.y})` },
    svg("title", {}, `${n.name}: ${what}${bad ? `, ${bad} in trouble` : ""}; open it with a click`),
    svg("rect", { class: "behind", x: 3, y: 3, width: drawn.node, height: n.height, rx: 6 }),
    svg("rect", { width: drawn.node, height: n.height, rx: 6 }),
    bad ? svg("g", { class: `glyph ${state === "Ready" ? "Warning" : state}`, transform: "translate(9 8)" }, glyphParts(state === "Ready" ? "Warning" : state)) : null,
    svg("text", { x: bad ? 28 : 10, y: 18.5 }, fit(n.name, drawn.node - width - (bad ? 44 : 26))),
    svg("text", { x: drawn.node - 10, y: 18.5, class: "dim", "text-anchor": "end" }, what),
    bar);
  return stop(drawing, n.key, `${n.name}, ${what}${bad ? `, ${bad} in trouble` : ""}`, (keys) => toggleGroup(g, keys), { "aria-expanded": "false" });
}

function groupHead(g) {
  const y = g.y + SIZE.head / 2 + 4;
  const head = svg("g", { class: g.closable ? "group-head node" : "group-head" }, svg("rect", { class: "hit", x: g.x, y: g.y + 2, width: drawn.node, height: SIZE.head - 4, rx: 4 }));
  if (g.closable) head.append(svg("path", { class: "chevron", d: `M${g.x + drawn.node - 15} ${y - 6}l4 4l4 -4` }));
  head.append(svg("text", { x: g.x + SIZE.pad, y }, fit(g.name, drawn.node - 40)));
  if (!g.closable) return head;
  return stop(head, g.key, `${g.name}, ${g.members.length} objects`, (keys) => toggleGroup(g, keys), { "aria-expanded": "true" });
}

function toggleGroup(g, keys) {
  opened.set(g.key, !g.open);
  mapCursor = g.key;
  drawMap();
  focusBox(g.key);
  if (keys) announce(`${g.name} is ${g.open ? "closed" : "open"}`);
}

// line draws an access, or several. Its pattern tells the state, too, and a mark in its middle.
function line(l) {
  const x1 = l.from.x + drawn.node;
  const x2 = l.to.x;
  const bend = (x2 - x1) * 0.5;
  const path = `M${x1} ${l.y1}C${x1 + bend} ${l.y1} ${x2 - bend} ${l.y2} ${x2} ${l.y2}`;
  const width = l.edges.length > 1 ? Math.min(3.2, 1.3 + Math.log2(l.edges.length) * 0.35) : 1.4;
  const g = svg("g", { class: `line ${l.access ? l.state : `link ${l.state}`}`, "data-line": l.key },
    svg("title", {}, lineText(l)), svg("path", { d: path, class: "wide" }), svg("path", { d: path, class: "seen", "stroke-width": width }));
  if (l.access && l.state !== "Ready") {
    g.append(svg("circle", { class: "plate", cx: (x1 + x2) / 2, cy: (l.y1 + l.y2) / 2, r: 8 }),
      svg("g", { class: `glyph ${l.state}`, transform: `translate(${(x1 + x2) / 2 - 6} ${(l.y1 + l.y2) / 2 - 6})` }, glyphParts(l.state)));
  }
  l.drawing = g;
  return g;
}

function lineText(l) {
  if (!l.access) return "tokens for the API are issued here";
  if (l.edges.length > 1) {
    const parts = STATES.map((s) => [s, l.states.filter((x) => x === s).length]).filter(([, n]) => n);
    return parts.map(([s, n]) => `${n} ${s}`).join(", ");
  }
  const e = l.edges[0];
  return `${e.scopes?.join(", ") || e.requested?.join(", ") || "no scopes"}: ${e.sentence}`;
}

// light shows what belongs to a box, and moves the rest into the background.
function light(key) {
  if (!drawn) return;
  const hot = new Set();
  const start = drawn.columns.flat().flatMap((g) => g.nodes).filter((n) => n.key === key || n.ids.includes(key));
  const follow = (n, way) => {
    for (const l of n.links ?? []) {
      if (l[way] !== n || hot.has(l)) continue;
      hot.add(l);
      follow(way === "from" ? l.to : l.from, way);
    }
  };
  for (const n of start) for (const way of ["from", "to"]) follow(n, way);
  const picture = $("map").firstChild;
  picture?.classList.toggle("lit", hot.size > 0);
  for (const l of drawn.links) l.drawing?.classList.toggle("hot", hot.has(l));
  drawn.start = start[0];
  labels(start.length === 1 ? [...hot].filter((l) => l.access && (l.from === start[0] || l.to === start[0])) : []);
}

// labels writes scopes at the lines of a box, at their other ends and where they fit.
function labels(links) {
  const holder = $("labels");
  if (!holder) return;
  holder.replaceChildren();
  const taken = [];
  for (const l of links.slice(0, 24)) {
    const e = l.edges[0];
    const room = l.to.x - l.from.x - drawn.node - 16;
    const names = (e.scopes?.length ? e.scopes : e.requested ?? []).join(", ");
    const text = l.edges.length > 1 ? count(l.edges.length, ["access", "accesses"]) : names;
    const wide = ruler.measureText(text).width * 1.1; // the letters of code are wider
    if (!text || wide > room) continue;
    const t = drawn.start === l.from ? 0.68 : 0.32;
    const x = l.from.x + drawn.node + (room + 16) * Math.min(Math.max(t, wide / 2 / room), 1 - wide / 2 / room);
    const y = l.y1 + (l.y2 - l.y1) * t * t * (3 - 2 * t) + 4;
    if (taken.some((other) => Math.abs(other - y) < 13)) continue;
    taken.push(y);
    const label = svg("text", { x, y, class: "label", "text-anchor": "middle" }, text);
    holder.append(label);
    const around = label.getBBox(); // a halo of the letters alone would leave the line between them
    label.before(svg("rect", { class: "plate", x: around.x - 3, y: around.y - 1, width: around.width + 6, height: around.height + 2, rx: 3 }));
  }
}

// stops returns all boxes that can have the focus.
function stops() {
  return drawn.columns.flat().flatMap((g) => [
    ...(g.open && g.closable ? [{ key: g.key, x: g.x, y: g.y, column: g.column }] : []),
    ...g.nodes.map((n) => ({ key: n.key, x: n.x, y: n.y, column: g.column })),
  ]);
}

function focusBox(key) {
  const picture = $("map").firstChild;
  const to = [...picture.querySelectorAll("[data-key]")].find((x) => x.dataset.key === key);
  if (!to) return;
  for (const other of picture.querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", "-1");
  mapCursor = key;
  to.setAttribute("tabindex", "0");
  to.focus({ preventScroll: true });
  to.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function mapKeys(event) {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    event.target.dispatchEvent(new Event("act"));
    return;
  }
  const all = stops();
  const here = all.find((s) => s.key === mapCursor);
  if (!here) return;
  const mine = all.filter((s) => s.column === here.column).sort((a, b) => a.y - b.y);
  const i = mine.indexOf(here);
  const beside = (c) => all.filter((s) => s.column === c).sort((a, b) => Math.abs(a.y - here.y) - Math.abs(b.y - here.y))[0];
  const to = {
    ArrowDown: mine[i + 1], ArrowUp: mine[i - 1], Home: mine[0], End: mine.at(-1), ArrowRight: neighbour("from", "to") ?? beside(here.column + 1), ArrowLeft: neighbour("to", "from") ?? beside(here.column - 1),
  }[event.key];
  if (!to) return;
  event.preventDefault();
  focusBox(to.key);
}

// neighbour returns the first box that a line leads to from the one with the focus.
function neighbour(mine, other) {
  const l = drawn.links.filter((x) => x[mine].key === mapCursor).sort((a, b) => a[other].y - b[other].y)[0];
  return l?.[other];
}

function drawLegend() {
  const all = mapped();
  $("legend").replaceChildren(
    el("span", { class: "total" }, count(all.edges.length, ["access", "accesses"])),
    ...["Ready", "Waiting", "Warning", "Failing", "Hidden"].map((s) =>
      el("span", { class: "sample" },
        svg("svg", { width: 34, height: 12, viewBox: "0 0 34 12", class: `line ${s}`, "aria-hidden": "true" },
          svg("path", { d: "M0 6H34", class: "seen", "stroke-width": 1.6 })),
        LINES[s])));
}
