// The panels that only show.

import { bars, empty, figures, legend, lines } from "./charts.js";
import { byId, el, setText } from "./dom.js";
import { bytes, clock, duration, integer, milliseconds, percent, plural, rate } from "./format.js";

export const SOURCES = {
  cache: "Cache", stale_cache: "Stale cache", live: "Live decode", neighbors: "Neighbours", popular: "Popular",
};
const QUANTILES = [["p50_ms", "p50", "p50 (half are faster)"], ["p95_ms", "p95", "p95"], ["p99_ms", "p99", "p99"]];
const AWAY = "Redis does not answer, and these figures are kept there. They come back with it.";
const QUIET = "No answers in the last hour. Ask for some below, or send GET /recommend/USER.";

const sum = (values) => values.reduce((total, value) => total + value, 0);
const sourceClass = (name) => (name in SOURCES ? name : "other");
const sourceName = (name) => SOURCES[name] ?? name;

function number(id, text, unit = "") {
  byId(id).replaceChildren(text, unit && el("span", { class: "unit" }, unit));
}

/** Show an answer of GET /overview and one of GET /latency. */
export function showOverview(found, latency) {
  setText("served", found.served);
  showTraffic(found.traffic);
  showSources(found.traffic, latency);
  showCache(found.cache, found.dependencies.redis.ok);
  showMemory(found.redis);
  showDependencies(found.dependencies, found.refresh);
}

function inOrder(answers) {
  const known = Object.keys(SOURCES);
  return Object.keys(answers).sort((a, b) => (known.indexOf(a) + 99) % 99 - (known.indexOf(b) + 99) % 99);
}

function showTraffic(traffic) {
  const charts = [byId("traffic-chart"), byId("latency-chart")];
  const names = traffic ? inOrder(traffic.answers) : [];
  if (!traffic || !names.length) {
    charts.forEach((chart) => empty(chart, traffic ? QUIET : AWAY));
    for (const id of ["traffic-legend", "latency-legend", "traffic-table", "latency-table"]) byId(id).replaceChildren();
    for (const id of ["kpi-rate", "kpi-cache", "kpi-fresh", "kpi-p99"]) number(id, "–");
    setText("kpi-rate-note", traffic ? "nothing asked yet" : "");
    setText("kpi-p99-note", "");
    return;
  }
  const { minutes } = traffic;
  const elapsed = minutes.map((minute) => Math.min(Math.max(Date.now() / 1000 - minute, 5), 60));
  const byName = names.map((name) => ({
    name: sourceClass(name), label: sourceName(name), values: traffic.answers[name].map((n, at) => n / elapsed[at]),
  }));
  const total = minutes.map((_, at) => sum(byName.map((one) => one.values[at])));
  const now = total.at(-1) || total.at(-2);
  const describe = (at) => byName.map((one) => `${one.label} ${rate(one.values[at])}/s`).join("\n");
  bars(charts[0], minutes, byName, `Answers a second over the last hour, now ${rate(now)}`, describe);
  legend(byId("traffic-legend"), byName);
  figures(byId("traffic-table"), "Answers a second by minute", minutes, byName, rate);

  const curves = QUANTILES.map(([field, name, label]) => ({ name, label, values: traffic.latency[field] }));
  const last = minutes.findLastIndex((_, at) => curves[2].values[at] !== null);
  const times = (at) => curves.map((one) => `${one.name} ${milliseconds(one.values[at])} ms`).join("\n");
  const latest = curves.map((one) => `${one.name} ${milliseconds(one.values[last])} ms`).join(", ");
  lines(charts[1], minutes, curves, `Latency over the last hour, at last ${latest}`, times);
  legend(byId("latency-legend"), curves);
  figures(byId("latency-table"), "Milliseconds by minute", minutes, curves, milliseconds);

  const all = sum(names.map((name) => sum(traffic.answers[name])));
  const failed = sum(traffic.failed);
  const cached = sum(["cache", "stale_cache"].map((name) => sum(traffic.answers[name] ?? [])));
  const fresh = traffic.fresh_share.findLast((share) => share !== null);
  number("kpi-rate", rate(now), "/s");
  setText("kpi-rate-note", `${integer(all)} in the last hour${failed ? `, ${plural(failed, "failure")}` : ""}`);
  number("kpi-cache", ...parts(percent(cached / all)));
  number("kpi-fresh", ...(fresh === undefined ? ["–"] : parts(percent(fresh))));
  number("kpi-p99", milliseconds(curves[2].values[last]), "ms");
  setText("kpi-p99-note", `half within ${milliseconds(curves[0].values[last])} ms, at ${clock(minutes[last])}`);
}

const parts = (text) => [text.slice(0, text.lastIndexOf(" ")), "%"];

function showSources(traffic, latency) {
  const rows = byId("sources-table").tBodies[0];
  const bar = byId("sources-bar");
  const names = traffic ? inOrder(traffic.answers) : [];
  if (!names.length) {
    bar.replaceChildren();
    const text = traffic ? "Nothing was answered in the last hour." : AWAY;
    rows.replaceChildren(el("tr", {}, el("td", { colspan: 6, class: "muted" }, text)));
    return;
  }
  const counts = Object.fromEntries(names.map((name) => [name, sum(traffic.answers[name])]));
  const all = sum(Object.values(counts));
  bar.setAttribute("aria-label", names.map((name) => `${sourceName(name)} ${percent(counts[name] / all)}`).join(", "));
  bar.replaceChildren(...names.map((name) => {
    const piece = el("span", { class: `fill-${sourceClass(name)}`, title: sourceName(name) });
    piece.style.flex = `${counts[name]} 1 0`;
    return piece;
  }));
  rows.replaceChildren(...names.map((name) => {
    const times = busiest(latency, name);
    return el("tr", {},
      el("th", { scope: "row" }, el("span", { class: "source" },
        el("span", { class: `swatch fill-${sourceClass(name)}` }), sourceName(name))),
      el("td", { class: "num" }, percent(counts[name] / all)),
      el("td", { class: "num" }, integer(counts[name])),
      ["p50_ms", "p95_ms", "p99_ms"].map((field) =>
        el("td", { class: `num ${field === "p95_ms" ? "spare" : ""}` }, milliseconds(times?.[field]))));
  }));
  const span = latency?.minutes ? `times of the last ${plural(latency.minutes, "minute")}` : "times since the start";
  setText("sources-note", `last hour; ${span}, ms`);
}

/** Of the routes that answered from a source, the one with the most answers. */
function busiest(latency, source) {
  const rows = (latency?.latencies ?? []).filter((row) => row.source === source && row.count);
  return rows.sort((a, b) => b.count - a.count)[0];
}

function showCache(cache, redisIsThere) {
  const body = byId("cache-body");
  const seen = cache ? `${duration(Math.max(Date.now() / 1000 - cache.measured_at, 1))} ago` : "";
  setText("cache-note", cache?.sampled < cache?.histories ? `${seen}, ${cache.sampled} users looked at` : seen);
  if (!cache) {
    number("kpi-coverage", "–");
    setText("kpi-coverage-note", "");
    const text = redisIsThere ? "The cache has not been looked at yet; the first look comes within a minute." : AWAY;
    body.replaceChildren(el("p", { class: "empty" }, text));
    return;
  }
  const known = cache.coverage !== null;
  const lists = `${cache.entries_estimated ? "about " : ""}${plural(cache.entries, "list")}`;
  const histories = `${cache.histories_estimated ? "about " : ""}${plural(cache.histories, "user")} with a history`;
  number("kpi-coverage", ...(known ? parts(percent(cache.coverage)) : ["–"]));
  setText("kpi-coverage-note", known ? `of ${histories}` : "no histories yet");
  if (!known && !cache.entries) {
    const hint = "Nothing is cached and no user has a history. Import some with ";
    body.replaceChildren(el("p", { class: "empty" }, hint, el("code", {}, "tessera refresh --data DIR"),
      " or send events."));
    return;
  }
  const filled = el("span");
  filled.style.width = `${100 * (cache.coverage ?? 0)}%`;
  const head = el("div", { class: "measure" },
    el("div", { class: "big" }, el("strong", {}, known ? percent(cache.coverage) : "–"),
      el("span", { class: "muted" }, "of users with a history have a list")),
    el("div", { class: "track" }, filled),
    el("span", { class: "muted" }, `${lists}, ${histories}` +
      (cache.median_age_s === null ? "" : `; half of the lists younger than ${duration(cache.median_age_s)}`)));
  let from = 0;
  const ages = cache.ages.map(({ up_to_s: upTo, share }) => {
    const name = upTo === null ? `over ${duration(from)}` : from ? `${duration(from)} to ${duration(upTo)}` : `under ${duration(upTo)}`;
    from = upTo;
    const bar = el("span");
    bar.style.width = `${100 * share}%`;
    return [el("span", {}, name), el("span", { class: "track" }, bar), el("span", { class: "value" }, percent(share, 0))];
  });
  body.replaceChildren(head, el("div", { class: "ages", role: "group", "aria-label": "Age of the lists" }, ages));
}

function showMemory(redis) {
  number("kpi-memory", ...(redis ? bytes(redis.used_bytes) : ["–"]));
  if (!redis) return setText("kpi-memory-note", "");
  const limit = redis.max_bytes ? `${percent(redis.used_bytes / redis.max_bytes)} of ${bytes(redis.max_bytes).join(" ")}` : "no limit set";
  setText("kpi-memory-note", redis.nodes > 1 ? `${limit}, ${redis.nodes} nodes` : limit);
}

const MEANING = {
  model: "Catalogue, codes and trie of the served version",
  redis: "Cached lists, histories, refresh jobs",
  decoder: "Decodes live what is not cached",
  worker: "Does the refreshes that are asked for here",
};

function showDependencies(dependencies, refresh) {
  const parts = { ...dependencies };
  if (refresh) parts.worker = { ok: refresh.worker, configured: refresh.worker, detail: null };
  byId("dependencies").replaceChildren(...Object.entries(parts).map(([name, part]) => {
    const state = part.ok ? "yes" : part.configured ? "no" : "none";
    const word = { yes: "ok", no: "away", none: "none" }[state];
    return el("li", {}, el("i", { "data-ok": state, "aria-hidden": "true" }),
      el("span", {}, name[0].toUpperCase() + name.slice(1)),
      el("strong", { "data-ok": state }, word),
      el("span", { class: "detail muted" }, part.detail ?? MEANING[name] ?? ""));
  }));
}
