// SPDX-License-Identifier: Apache-2.0
//
// Where the model comes from: the file that holds this page, or the site, which is asked
// every few seconds and answers only if something changed.

const EVERY = 2000;
const PATIENCE = 90000; // a large cluster takes its time
const held = $("data") ? JSON.parse($("data").textContent) : null; // in a file
let etag = "";
let failures = 0;
let heardAt = 0;

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch("model.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE), headers: etag ? { "If-None-Match": etag } : {} });
      if (answer.status === 200) {
        etag = answer.headers.get("ETag") ?? "";
        show(await answer.json());
      } else if (answer.status !== 304) {
        throw new Error(`HTTP ${answer.status}`);
      }
      failures = 0;
      heardAt = Date.now();
    } catch {
      failures += 1;
    }
    drawFreshness();
  }
  setTimeout(poll, failures > 2 ? 3 * EVERY : EVERY);
}

async function yaml(id) {
  if (held) return held.yaml[id] ?? "The file had no room for it: kubectl get shows it.";
  try {
    const answer = await fetch(`yaml?id=${encodeURIComponent(id)}`, { cache: "no-store" });
    return await answer.text();
  } catch {
    return "kubectl m2m ui does not answer.";
  }
}

function start() {
  if (held) {
    show(held.model);
    drawFreshness();
    return;
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
  poll();
}

function drawFreshness() {
  const line = $("freshness");
  const ended = !held && failures > 1;
  document.body.classList.toggle("ended", ended);
  if (held) line.replaceChildren("As of ", moment(held.model.readAt, "since"));
  else if (ended) line.replaceChildren(...[glyph("Failing"), "kubectl m2m ui has ended", heardAt && [", this was read ", moment(new Date(heardAt).toISOString(), "since")]].flat().filter(Boolean));
  else if (model.error) line.replaceChildren(glyph("Warning"), "Not up to date");
  else line.replaceChildren(el("span", { class: "pulse", "aria-hidden": "true" }), "Live");
}
