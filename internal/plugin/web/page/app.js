// SPDX-License-Identifier: Apache-2.0
//
// Puts the parts together: drawing, choosing, keys and the address.

let origin = null; // where the focus was before the panel took it

function show(next) {
  const before = byID;
  const first = before.size === 0;
  setModel(next);
  draw();
  if (!first) {
    const text = changes(before);
    if (text) announce(text);
  }
}

function draw() {
  drawHead();
  drawNotices();
  drawChoices();
  drawList();
  drawMap();
  drawLegend();
  drawDetail();
}

function drawHead() {
  const n = model.objects.length;
  const wrong = model.objects.filter((o) => o.wrong).length;
  $("scope").textContent = model.namespace ? `namespace ${model.namespace}` : "all namespaces";
  $("headline").textContent = !n ? "Nothing to show" : wrong ? `${wrong.toLocaleString("en")} of ${count(n, ["object needs", "objects need"])} attention` : `All ${count(n, ["object does its", "objects do their"])} job`;
  document.title = `${wrong ? `(${wrong}) ` : ""}m2m · ${model.namespace || "all namespaces"}`;
  const had = document.activeElement?.dataset?.state;
  $("counts").replaceChildren(...[...STATES].reverse().map((s) => {
    const many = model.objects.filter((o) => o.state === s).length;
    return many || view.state === s ? el("button", {
      type: "button", class: "count", "data-state": s, "aria-pressed": String(view.state === s), title: MEANING[s],
      onclick: () => choose({ state: view.state === s ? "" : s }),
    }, glyph(s), el("b", {}, many.toLocaleString("en")), ` ${s}`) : "";
  }));
  if (had) $("counts").querySelector(`[data-state="${had}"]`)?.focus();
}

function drawNotices() {
  const notices = [];
  if (model.error) notices.push(el("p", { class: "notice", role: "alert" }, glyph("Warning"), `The cluster could not be read again: ${model.error}`));
  const missing = model.missing ?? [];
  if (missing.length) {
    const old = $("notices").querySelector("details");
    notices.push(el("details", { class: "notice", open: old?.open },
      el("summary", {}, glyph("Hidden"), `Not shown, because ${count(missing.length, ["right is", "rights are"])} missing`),
      el("ul", {}, missing.map((r) => el("li", {}, r)))));
  }
  const text = JSON.stringify([model.error, missing]);
  if ($("notices").dataset.text === text) return;
  $("notices").dataset.text = text;
  $("notices").replaceChildren(...notices);
}

function drawChoices() {
  const names = [...new Set(model.objects.map((o) => o.namespace).filter(Boolean))].sort();
  options($("namespace"), [["", "Every namespace"], ...names.map((n) => [n, n])], view.ns);
  options($("kind"), [["", "Every kind"], ["M2MClient", "Clients"], ["APIResource", "APIs"], ["server", "Servers"]], view.kind);
  if ($("search").value !== view.q) $("search").value = view.q;
  $("wrong").setAttribute("aria-pressed", String(view.wrong));
}

function options(box, all, chosen) {
  if (chosen && !all.some(([value]) => value === chosen)) all.push([chosen, chosen]);
  const text = JSON.stringify(all);
  if (box.dataset.text !== text) {
    box.dataset.text = text;
    box.replaceChildren(...all.map(([value, name]) => el("option", { value }, name)));
  }
  box.value = chosen;
}

// choose changes what is shown. The address follows without a step in the history.
function choose(change) {
  Object.assign(view, change);
  history.replaceState(null, "", address(view.selected));
  draw();
  $("list").scrollTop = 0;
  announceCount();
}

let counting = 0;
function announceCount() {
  clearTimeout(counting);
  counting = setTimeout(() => announce(count(shown.length, ["object", "objects"])), 600);
}

// select opens the panel of an object. By keys, the focus goes there.
function select(id, byKeys) {
  if (!id) return;
  if (!$("detail").contains(document.activeElement)) origin = document.activeElement;
  if (id !== view.selected) history.pushState(null, "", address(id));
  follow(byKeys || narrow());
}

const narrow = () => matchMedia("(max-width: 719px)").matches;

// follow shows what the address says.
function follow(focus) {
  const before = view.selected;
  readAddress();
  const resized = Boolean(before) !== Boolean(view.selected);
  drawHead();
  drawChoices();
  if (shown.includes(view.selected)) cursor = view.selected;
  drawList();
  drawDetail();
  if (resized || filtered()) drawMap();
  else markMap();
  covered();
  if (focus && view.selected) $("detail-name")?.focus();
}

// markMap marks the selected box.
function markMap() {
  for (const n of $("map").querySelectorAll("[aria-pressed]")) n.setAttribute("aria-pressed", String(n.dataset.key === view.selected));
  light(view.selected);
}

// covered keeps the focus out of what the panel covers on a small screen.
function covered() {
  const over = narrow() && Boolean(view.selected);
  for (const part of document.querySelectorAll("header, .tabs, .notices, .browse, .mapping")) part.inert = over;
}

function closeDetail() {
  const was = view.selected;
  if (!was) return;
  history.pushState(null, "", address(""));
  follow(false);
  const from = origin;
  origin = null;
  if (from?.dataset?.key) focusBox(from.dataset.key); // the map was drawn again since
  else (from?.isConnected && from !== document.body ? from : rows.get(was) ?? $("search")).focus();
}

function showTab(name) {
  document.body.dataset.tab = name;
  for (const tab of ["list", "map"]) $(`tab-${tab}`).setAttribute("aria-pressed", String(tab === name));
  drawMap();
}

function keys(event) {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("search").focus();
    $("search").select();
  } else if (event.key === "Escape") {
    if (event.target === $("search") && view.q) choose({ q: "" });
    else if (view.selected) closeDetail();
    else if (filtered()) choose({ q: "", ns: "", kind: "", state: "", wrong: false });
  } else if (event.key === "ArrowDown" && event.target === $("search")) {
    event.preventDefault();
    moveTo(shown[0]);
  }
}

function wire() {
  document.addEventListener("keydown", keys);
  $("list").addEventListener("keydown", listKeys);
  $("list").addEventListener("click", (event) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    if (!id) return;
    moveTo(id);
    select(id, false);
  });
  $("detail").addEventListener("click", (event) => {
    const id = event.target.closest("a.object")?.dataset.id;
    if (!id || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    select(id, true);
  });
  $("map").addEventListener("keydown", mapKeys);
  $("search").addEventListener("input", () => choose({ q: $("search").value }));
  $("namespace").addEventListener("change", () => choose({ ns: $("namespace").value }));
  $("kind").addEventListener("change", () => choose({ kind: $("kind").value }));
  $("wrong").addEventListener("click", () => choose({ wrong: !view.wrong }));
  $("tab-list").addEventListener("click", () => showTab("list"));
  $("tab-map").addEventListener("click", () => showTab("map"));
  addEventListener("popstate", () => follow(false));
  addEventListener("hashchange", () => follow(false));
  let width = 0;
  new ResizeObserver(() => {
    if ($("map").clientWidth === width) return;
    width = $("map").clientWidth;
    drawMap();
    covered();
  }).observe($("map"));
  setInterval(tick, 1000);
}

readAddress();
wire();
start();
