// What one user did and what is recommended, side by side, and what changes when something happens.

import { ask } from "./api.js";
import { byId, el, put, say, setText } from "./dom.js";
import { duration, milliseconds, percent, plural } from "./format.js";
import { SOURCES } from "./overview.js";

const HUES = 12;
const HISTORY_SHOWN = 20;
const LISTED = 10;
let shown = null;
let newest = 0;

/** `<u_17><v_4><x_9><y_0>` as [["u", "17"], ...]. */
export function parseCode(code) {
  return [...code.matchAll(/<([a-z])_(\d+)>/g)].map((part) => [part[1], part[2]]);
}

/** One of a fixed palette; the same code of the same level always gets the same. */
export function hueOf(letter, number) {
  return (Number(number) * 5 + letter.charCodeAt(0) * 7) % HUES;
}

export function tiles(code) {
  const parts = parseCode(code);
  return el("span", { class: "tiles", role: "img", "aria-label": `Code ${parts.map((part) => part.join(" ")).join(", ")}` },
    parts.map(([letter, number]) => el("span", { class: `tile hue-${hueOf(letter, number)}`, "aria-hidden": "true" }, `${letter} ${number}`)));
}

export function startTryIt() {
  byId("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    recommend(byId("try-fresh").checked);
  });
}

/** Offer some users to try with. */
export function offerExamples(users) {
  const list = byId("try-people");
  if (list.dataset.users === JSON.stringify(users)) return;
  list.dataset.users = JSON.stringify(users);
  byId("try-examples").replaceChildren(...users.map((user) => el("option", { value: user })));
  list.replaceChildren(...(users.length ? ["For example"] : []), ...users.map((user) =>
    el("button", { type: "button", class: "link", onclick: () => { byId("try-user").value = user; recommend(false); } }, user)));
}

export function queriesAreTaken(taken) {
  const field = byId("try-query");
  field.disabled = !taken;
  field.placeholder = taken ? "" : "this version takes no queries";
}

async function recommend(fresh, compareWith = null) {
  const user = byId("try-user").value.trim();
  if (!user) return;
  const turn = ++newest;
  const path = encodeURIComponent(user);
  const asked = new URLSearchParams({ n: LISTED, explain: "true" });
  if (fresh) asked.set("fresh", "true");
  for (const [name, id] of [["q", "try-query"], ["category", "try-category"]]) {
    const value = byId(id).value.trim();
    if (value && !byId(id).disabled) asked.set(name, value);
  }
  say("try-status", "Asking …");
  try {
    const begin = performance.now();
    const answer = await ask(`/recommend/${path}?${asked}`);
    const took = performance.now() - begin;
    const history = (await ask(`/users/${path}/history`)).items.slice(-HISTORY_SHOWN).reverse();
    const ids = [...new Set([...history, ...answer.items.map((item) => item.item_id)])];
    const described = ids.length ? (await ask("/items/lookup", { body: { ids } })).items : [];
    if (turn !== newest) return;
    const before = compareWith === user && shown?.user === user ? shown.ranks : null;
    show(user, answer, history, new Map(described.map((item) => [item.item_id, item])), took, before);
  } catch (trouble) {
    if (turn !== newest) return;
    shown = null;
    byId("try-sides").hidden = byId("explain").hidden = true;
    say("try-status", `No recommendations: ${trouble.message}`, "bad");
  }
}

function show(user, answer, history, items, took, before) {
  shown = { user, ranks: new Map(answer.items.map((item) => [item.item_id, item.rank])) };
  const line = byId("try-status");
  line.dataset.kind = "good";
  const age = answer.age_s > 1 ? `, decoded ${duration(answer.age_s)} ago` : "";
  put(line,
    el("span", { class: "chip" }, el("span", { class: `swatch fill-${answer.source}`, "aria-hidden": "true" }), ` ${SOURCES[answer.source]}`),
    el("span", {}, `${plural(answer.items.length, "item")} by ${answer.model_version}${age}, in ${milliseconds(took)} ms`),
    answer.degraded && el("span", { class: "chip warn" }, "degraded"),
    answer.shortfall_reason && el("span", { class: "chip warn" }, answer.shortfall_reason.replaceAll("_", " ")),
    ...Object.entries(answer.not_applied).map(([option, reason]) =>
      el("span", { class: "chip warn" }, `${option} not applied: ${reason.replaceAll("_", " ")}`)),
  );
  setText("history-note", history.length ? "newest first" : "");
  const codes = history.map((id) => items.get(id)).filter(Boolean);
  byId("history-items").replaceChildren(...(history.length
    ? history.map((id, at) => card({ rank: at + 1, id, item: items.get(id) }))
    : [el("li", { class: "empty" }, "Nothing is recorded of this user. Record a view of an item on the list, and see what changes.")]));
  setText("answer-note", before ? "compared with before" : "");
  byId("answer-items").replaceChildren(...(answer.items.length
    ? answer.items.map((row) => recommended(user, answer, row, items.get(row.item_id), codes, before))
    : [el("li", { class: "empty" }, "No item passes. Try another category, or leave it out.")]));
  byId("try-sides").hidden = false;
  explain(answer.explain);
}

function recommended(user, answer, row, item, history, before) {
  const record = el("button", {
    type: "button", class: "link", "data-key": row.item_id, "aria-label": `Record a view of ${item?.title || row.item_id}`,
    onclick: () => recordView(user, row.item_id, item?.title || row.item_id),
  }, "Record view");
  return card({ rank: row.rank, id: row.item_id, item, code: row.code, moved: movedFrom(row, before),
    why: reasons(answer, row, history), action: record });
}

function card({ rank, id, item, code, moved = null, why = null, action = null }) {
  const facts = item ? [item.categories.join(" · "), item.price === null ? "" : item.price.toFixed(2), item.available ? "" : "out of stock"] : [];
  const title = item ? item.title || id : id;
  const shownCode = code ?? item?.code;
  return el("li", {},
    el("span", { class: "rank" }, String(rank)),
    el("div", { class: "what" },
      el("span", { class: "title" }, title, moved && [" ", moved]),
      el("span", { class: "facts" }, el("code", {}, id), facts.filter(Boolean).map((fact) => ` · ${fact}`),
        !item && " · not in the served catalogue"),
      why),
    el("div", { class: "tail" }, shownCode ? tiles(shownCode) : null, action));
}

function movedFrom(row, before) {
  if (!before) return null;
  const was = before.get(row.item_id);
  if (was === undefined) return el("span", { class: "moved new" }, "new");
  if (was === row.rank) return null;
  const kind = was > row.rank ? "up" : "down";
  return el("span", { class: `moved ${kind}` }, `${kind === "up" ? "↑" : "↓"} ${Math.abs(was - row.rank)}`);
}

function reasons(answer, row, history) {
  const age = answer.explain.entry_age_s;
  const chance = percent(Math.exp(row.score), 2);
  const first = {
    cache: () => ["decoded for this user", age === null ? "" : ` ${duration(age)} ago`, `, probability ${chance}`],
    reranked: () => [`cached, ranked anew by the model now, probability ${chance}`],
    live: () => [`decoded for this request, probability ${chance}`],
    neighbors: () => [`near the newest of the history, similarity ${row.score.toFixed(2)}`],
    popular: () => [`popular, ${plural(row.score, "event")} in training`],
  }[row.reason]?.() ?? [row.reason];
  const own = parseCode(row.code).map((part) => part.join(" "));
  let best = { depth: 0, title: "" };
  for (const item of history) {
    const other = parseCode(item.code).map((part) => part.join(" "));
    let depth = 0;
    while (depth < own.length && own[depth] === other[depth]) depth += 1;
    if (depth > best.depth) best = { depth, title: item.title || item.item_id };
  }
  const shared = best.depth ? ["; shares ", el("span", { class: "prefix" }, own.slice(0, best.depth).join(", ")), " with ", el("b", {}, best.title)] : [];
  return el("span", { class: "why" }, el("b", {}, SOURCES[row.reason] ?? "Ranked anew"), ": ", first, shared);
}

async function recordView(user, id, title) {
  say("try-status", `Recording a view of ${title} …`);
  try {
    await ask("/events", { body: [{ user_id: user, item_id: id, type: "view" }] });
    // Decoded now: what comes back is what the event changed.
    await recommend(true, user);
    byId("try-user").value === user && byId("answer-items").querySelector("button")?.focus({ preventScroll: true });
  } catch (trouble) {
    say("try-status", `The view was not recorded: ${trouble.message}`, "bad");
  }
}

const EXPLAINED = [["given", "Items by part"], ["removed", "Cached items removed"], ["unavailable", "Did not answer"], ["stages_ms", "Time, ms"]];

function explain(found) {
  const entry = found.entry_items
    ? `${plural(found.entry_items, "item")}, ${duration(found.entry_age_s ?? 0)} old${found.dirty ? ", events since" : ""}`
    : "none";
  const group = (title, rows) => el("div", {}, el("h4", {}, title),
    rows.length ? el("dl", {}, rows.map(([name, value]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, value)]))
      : el("span", { class: "muted" }, "none"));
  byId("explain-body").replaceChildren(
    group("Before it", [["cached list", entry], ["known items of the history", String(found.history_items)]]),
    ...EXPLAINED.map(([field, title]) => group(title, Object.entries(found[field]).map(([name, value]) =>
      [name, field === "stages_ms" ? milliseconds(value) : String(value)]))));
  byId("explain").hidden = false;
}
