// Model versions and refreshes: the panels that change something.

import { ask } from "./api.js";
import { byId, el, replaceKeepingFocus, say, setText } from "./dom.js";
import { clock, day, duration, integer, plural, rate } from "./format.js";

const LONG_MS = 600000;
const QUEUED = "Queued.";
let caches = null;
let afterChange = () => {};

/** Wire the buttons; `changed` is called after something was changed. */
export function startOperating(changed) {
  afterChange = changed;
  byId("rollback").addEventListener("click", () => switchTo(null));
  byId("refresh-form").addEventListener("submit", (event) => {
    event.preventDefault();
    startRefresh();
  });
  for (const option of byId("refresh-form").elements.mode) option.addEventListener("change", modeChanged);
}

function modeChanged() {
  byId("budget-field").hidden = byId("refresh-form").elements.mode.value !== "stale";
}

/** Show an answer of GET /models; `known` are the cache versions that have lists, null where that is not known. */
export function showModels(found, known) {
  caches = known;
  const rows = found.models.toReversed().map((model) => {
    const cached = isCached(model.version);
    return el("tr", { "data-served": model.served ? "true" : null },
      el("th", { scope: "row" }, el("span", { class: "version-name" }, model.version)),
      el("td", { class: "spare" }, day(model.created_at)),
      el("td", { class: "spare" }, model.recipe),
      el("td", { class: "num spare" }, integer(model.items)),
      el("td", {}, cached === null ? "–" : cached ? "cached" : el("span", { class: "chip warn" }, "none")),
      el("td", { class: "num" }, model.served
        ? el("span", { class: "chip good" }, "served")
        : el("button", { type: "button", class: "link", "data-key": model.version, "aria-label": `Activate ${model.version}`,
          onclick: () => switchTo(model.version) }, "Activate")));
  });
  for (const [name, reason] of Object.entries(found.unreadable))
    rows.push(el("tr", {}, el("th", { scope: "row" }, el("span", { class: "version-name" }, name)),
      el("td", { colspan: 5 }, el("span", { class: "chip bad" }, "unreadable"), ` ${reason}`)));
  replaceKeepingFocus(byId("models-table").tBodies[0], rows);
  byId("rollback").disabled = found.models.length < 2;
}

function isCached(version) {
  // An extension answers from the lists of its base.
  return caches === null ? null : caches.includes(version.split("+")[0]);
}

function confirmed(title, text, warning, yes) {
  const dialog = byId("confirm");
  setText("confirm-title", title);
  setText("confirm-text", text);
  setText("confirm-warning", warning ?? "");
  byId("confirm-warning").hidden = !warning;
  setText("confirm-yes", yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function switchTo(version) {
  const cached = version === null ? null : isCached(version);
  const warning = cached === false ? `No list of ${version} is cached. Until you refresh it, users are decoded live or get popular items.` : null;
  const text = "Every worker follows within a second. Requests under way end on the version they began with.";
  const title = version === null ? "Roll back to the version before?" : `Serve ${version}?`;
  if (!(await confirmed(title, text, warning, version === null ? "Roll back" : "Activate"))) return;
  say("models-status", "Verifying the version's files …");
  try {
    const path = version === null ? "/models/rollback" : `/models/${encodeURIComponent(version)}/activate`;
    const done = await ask(path, { method: "POST", timeout: LONG_MS });
    const about = done.cached_lists_estimated ? "about " : "";
    say("models-status", done.warning ?? `${done.version} is served now; ${about}${plural(done.cached_lists, "cached list")}.`,
      done.warning ? "warn" : "good");
  } catch (trouble) {
    say("models-status", `Not switched: ${trouble.message}`, "bad");
  }
  afterChange();
}

async function startRefresh() {
  const form = byId("refresh-form");
  const body = { mode: form.elements.mode.value };
  const budget = byId("budget-users").valueAsNumber;
  if (body.mode === "stale" && budget) body.budget_users = budget;
  byId("refresh-start").disabled = true;
  try {
    await ask("/refresh", { body });
    say("refresh-status", QUEUED);
  } catch (trouble) {
    say("refresh-status", `Not started: ${trouble.message}`, "bad");
  }
  byId("refresh-start").disabled = false;
  afterChange();
}

const KINDS = { queued: "", running: "", done: "good", failed: "bad", cancelled: "warn" };

/** Show the part `refresh` of GET /overview. Returns whether something is under way. */
export function showRefresh(found) {
  if (!found) {
    setText("worker-note", "");
    byId("jobs").replaceChildren(el("li", { class: "empty" }, "Redis does not answer, and refreshes are kept there."));
    return false;
  }
  setText("worker-note", found.worker ? "worker ready" : "no worker");
  const rows = found.jobs.map(jobRow);
  if (!found.worker)
    rows.unshift(el("li", { class: "empty" }, "No worker does refreshes. Start ", el("code", {}, "tessera worker"),
      " where the model extra is installed, with the same Redis and store."));
  else if (!rows.length)
    rows.push(el("li", { class: "empty" }, "No refresh in the last week. Start one: users whose list is missing or out of date go first."));
  replaceKeepingFocus(byId("jobs"), rows);
  if (found.jobs[0]?.status !== "queued" && byId("refresh-status").textContent === QUEUED) setText("refresh-status", "");
  return found.jobs.some((job) => job.status === "running" || job.status === "queued");
}

function jobRow(job) {
  const what = job.mode === "stale" ? "Out of date" : job.users === null ? "Everybody" : plural(job.users, "named user");
  const budgets = [job.budget_users && `${integer(job.budget_users)} users at most`, job.budget_s && `${duration(job.budget_s)} at most`];
  const live = job.status === "running" || job.status === "queued";
  const state = job.cancelling ? "cancelling" : job.status;
  const counted = job.users_total !== null;
  return el("li", { "data-job": job.id },
    el("span", { class: "name" }, el("strong", {}, what), el("span", { class: `chip ${KINDS[job.status]}` }, state),
      el("span", { class: "muted" }, [job.version, ...budgets].filter(Boolean).join(" · "))),
    live ? el("button", { type: "button", class: "link", "data-key": job.id, disabled: job.cancelling, onclick: () => cancel(job.id),
      "aria-label": `Cancel the refresh of ${clock(job.created_at)}` }, "Cancel") : el("span", { class: "muted" }, clock(job.created_at)),
    job.status === "running" && el("progress", { "aria-label": "Users done", ...(counted ? { max: Math.max(job.users_total, 1), value: job.users_done } : {}) }),
    el("span", { class: `line ${job.status === "failed" ? "bad" : ""}` }, progressOf(job, counted)));
}

function progressOf(job, counted) {
  if (job.status === "failed") return job.error ?? "failed";
  if (job.status === "queued") return job.starts ? "waits to go on" : "waits for the worker";
  const done = counted ? `${integer(job.users_done)} of ${plural(job.users_total, "user")}` : "";
  if (job.status === "running") {
    if (!counted) return "loading the model and choosing users";
    const left = job.left_s === null ? "" : `, ${duration(job.left_s)} left`;
    return `${done}, ${rate(job.users_per_second ?? 0)} users a second${left}`;
  }
  const took = job.started_at === null ? "" : `${done ? ", " : ""}in ${duration(job.ended_at - job.started_at)}`;
  return `${done}${took}` || "before it began";
}

async function cancel(id) {
  try {
    await ask(`/refresh/${id}`, { method: "DELETE" });
  } catch (trouble) {
    say("refresh-status", `Not cancelled: ${trouble.message}`, "bad");
  }
  afterChange();
}
