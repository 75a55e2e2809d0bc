// SPDX-License-Identifier: Apache-2.0
//
// Where things are on the map: clients, APIs and servers in a column each, by namespace. A
// namespace that would take too much room is one box, and opens with a click.

const ROOMY = { node: 32, box: 42, head: 27, gap: 6, space: 22, pad: 8, top: 34 };
const DENSE = { node: 26, box: 36, head: 22, gap: 4, space: 9, pad: 8, top: 30 };
let SIZE = DENSE;
const ROOM = 44; // nodes of a column that are shown one by one
const opened = new Map(); // what the user opened or closed, by the key of a group

const column = (kind) => (kind === "M2MClient" ? 0 : serverKind(kind) ? 2 : 1);

// mapped returns the objects and edges that the map shows: what is wanted, and what that has
// to do with.
function mapped() {
  const ids = new Set(model.objects.filter(wanted).map((o) => o.id));
  if (!filtered()) return { objects: model.objects, edges: model.edges };
  const edges = model.edges.filter((e) => ids.has(e.client) || ids.has(e.api));
  for (const e of edges) ids.add(e.client).add(e.api);
  for (const o of model.objects) if (ids.has(o.server) && column(o.kind) === 1) ids.add(o.id);
  for (const id of [...ids]) if (byID.get(id)?.server) ids.add(byID.get(id).server);
  return { objects: model.objects.filter((o) => ids.has(o.id)), edges };
}

// layout returns groups with nodes, each with its place, and the lines between them.
function layout(width, room) {
  const { objects, edges } = mapped();
  const grouped = () => [0, 1, 2].map((c) => groupsOf(objects.filter((o) => column(o.kind) === c), c));
  SIZE = ROOMY;
  let columns = grouped();
  if (Math.max(...columns.map((groups) => stack(groups, 0, { x: [0] }))) > room) {
    SIZE = DENSE;
    columns = grouped();
  }
  const at = new Map(); // where an object is: its node, or its group
  for (const groups of columns) {
    for (const g of groups) for (const n of g.nodes) for (const id of n.ids) at.set(id, n);
  }
  const links = linksOf(edges, objects, at);
  const across = widths(width);
  let height = 0;
  columns.forEach((groups, c) => {
    if (c > 0) arrange(groups, links);
    height = Math.max(height, stack(groups, c, across));
  });
  for (const groups of columns) centre(groups, height);
  ports(links);
  return { columns, links, width: across.total, height: height + SIZE.space, node: across.node };
}

// groupsOf returns the namespaces of a column, with a node for each object, or one for all.
function groupsOf(objects, c) {
  const all = new Map();
  for (const o of objects) {
    const name = groupName(o);
    if (!all.has(name)) all.set(name, []);
    all.get(name).push(o);
  }
  const many = objects.length > ROOM;
  const calm = (name) => many && !all.get(name).some((o) => o.wrong); // of many, those in trouble come first
  const names = [...all.keys()].sort((a, b) => calm(a) - calm(b) || (a < b ? -1 : 1));
  return names.map((name) => {
    const members = all.get(name);
    const key = `${c} ${name}`;
    const open = opened.get(key) ?? (!many || members.length === 1);
    const nodes = open
      ? members.map((o) => ({ key: o.id, ids: [o.id], object: o, height: SIZE.node }))
      : [{ key, ids: members.map((o) => o.id), members, name, height: SIZE.box }];
    return { key, name, column: c, open, members, nodes, closable: open && objects.length > 1 && members.length > 1 };
  });
}

// linksOf joins the accesses between two nodes, and those between APIs and servers.
function linksOf(edges, objects, at) {
  const all = new Map();
  const add = (from, to, state, edge) => {
    if (!from || !to) return;
    const key = `${from.key} → ${to.key}`;
    if (!all.has(key)) all.set(key, { key, from, to, states: [], edges: [], access: Boolean(edge) });
    const l = all.get(key);
    l.states.push(state);
    if (edge) l.edges.push(edge);
  };
  for (const e of edges) add(at.get(e.client), at.get(e.api), e.state, e);
  for (const o of objects) {
    if (column(o.kind) === 1 && o.server) add(at.get(o.id), at.get(o.server), byID.get(o.server)?.state === "Failing" ? "Failing" : "Ready");
  }
  const links = [...all.values()];
  for (const l of links) {
    l.state = worst(l.states);
    for (const end of [l.from, l.to]) (end.links ??= []).push(l);
  }
  return links;
}

// widths returns where the columns are.
function widths(width) {
  const pad = SIZE.pad + 4;
  const gap = Math.max(64, Math.min(190, Math.round(width * 0.15)));
  const node = Math.max(132, Math.min(230, Math.floor((width - 2 * gap - 2 * pad) / 3)));
  const total = Math.max(width, 3 * node + 2 * gap + 2 * pad);
  const free = (total - 2 * pad - 3 * node) / 2;
  return { node, total, x: [0, 1, 2].map((c) => pad + c * (node + free)) };
}

// arrange puts the groups of a column in the order of what they are linked with.
function arrange(groups, links) {
  const middle = new Map();
  for (const l of links) {
    if (l.from.y === undefined) continue;
    if (!middle.has(l.to)) middle.set(l.to, []);
    middle.get(l.to).push(l.from.y + l.from.height / 2);
  }
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  for (const g of groups) {
    for (const n of g.nodes) n.wish = middle.has(n) ? mean(middle.get(n)) : Infinity;
    g.nodes.sort((a, b) => a.wish - b.wish || a.key.localeCompare(b.key));
    const wishes = g.nodes.map((n) => n.wish).filter(Number.isFinite);
    g.wish = wishes.length ? mean(wishes) : Infinity;
  }
  groups.sort((a, b) => a.wish - b.wish || a.key.localeCompare(b.key));
}

// stack places the groups of a column one below the other, and returns how far they reach.
function stack(groups, c, across) {
  let y = SIZE.top;
  for (const g of groups) {
    g.x = across.x[c];
    g.y = y;
    y += g.open ? SIZE.head : 0;
    for (const n of g.nodes) {
      n.x = g.x;
      n.y = y;
      y += n.height + SIZE.gap;
    }
    g.height = y - g.y;
    y += SIZE.space;
  }
  return y - SIZE.space;
}

// centre spreads a column that is shorter than the others.
function centre(groups, height) {
  const last = groups.at(-1);
  if (!last) return;
  const spare = height - (last.y + last.height);
  const each = Math.min(spare / (groups.length + 1), 60);
  const first = (spare - each * (groups.length - 1)) / 2;
  groups.forEach((g, i) => {
    const by = Math.min(first, 240) + i * each;
    g.y += by;
    for (const n of g.nodes) n.y += by;
  });
}

// ports spreads the ends of lines over the side of a node, so that they do not cross there.
function ports(links) {
  const spread = (side, mine, other) => {
    const by = new Map();
    for (const l of links) {
      if (!by.has(l[mine])) by.set(l[mine], []);
      by.get(l[mine]).push(l);
    }
    for (const [n, list] of by) {
      list.sort((a, b) => a[other].y - b[other].y);
      const step = Math.min(5, (n.height - 10) / Math.max(1, list.length - 1));
      list.forEach((l, i) => { l[side] = n.y + n.height / 2 + (i - (list.length - 1) / 2) * step; });
    }
  };
  spread("y1", "from", "to");
  spread("y2", "to", "from");
}
