// Starts the page: theme, key, and asking again and again.

import { Trouble, ask, key } from "./api.js";
import { byId, setText } from "./dom.js";
import { clock } from "./format.js";
import { showModels, showRefresh, startOperating } from "./operate.js";
import { showOverview } from "./overview.js";
import { offerExamples, queriesAreTaken, startTryIt } from "./try_it.js";

const EVERY_MS = 5000;
const BUSY_MS = 1000;
const LONGEST_MS = 60000;
const MODELS_EVERY_MS = 30000;
const THEME = "tessera-theme";

let timer = 0;
let failures = 0;
let asking = false;
let again = false;
let busy = false;
let modelsAt = 0;
let modelsOf = "";
let openedByHand = false;

// Theme: what the system says, unless somebody chose.

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const chosen = localStorage.getItem(THEME) ?? "auto";
  document.documentElement.dataset.theme = chosen === "auto" ? (prefersDark.matches ? "dark" : "light") : chosen;
  byId("theme-button").textContent = `Theme: ${chosen}`;
}

function nextTheme() {
  const order = ["auto", "light", "dark"];
  localStorage.setItem(THEME, order[(order.indexOf(localStorage.getItem(THEME) ?? "auto") + 1) % order.length]);
  applyTheme();
}

// Key

function wantKey(show) {
  byId("key-panel").hidden = !show;
  byId("key-button").hidden = !show && !key.get();
  openedByHand = false;
}

function startKey() {
  byId("key-button").addEventListener("click", () => {
    wantKey(true);
    openedByHand = true;
    byId("key-input").focus();
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set(byId("key-input").value.trim());
    byId("key-input").value = "";
    wantKey(false);
    soon();
  });
  byId("key-forget").addEventListener("click", () => {
    key.forget();
    soon();
  });
}

// Asking

function banner(text, state) {
  const node = byId("banner");
  node.hidden = !text;
  node.dataset.state = state;
  if (node.textContent !== text) node.textContent = text;
}

function state(name, text) {
  byId("state").dataset.state = name;
  setText("state-text", text);
}

async function look() {
  const [found, latency] = await Promise.all([ask("/overview"), ask("/latency")]);
  showOverview(found, latency);
  busy = showRefresh(found.refresh);
  offerExamples(found.cache?.examples ?? []);
  queriesAreTaken(found.takes_queries);
  const caches = found.caches;
  if (found.served !== modelsOf || Date.now() - modelsAt > MODELS_EVERY_MS) {
    showModels(await ask("/models"), caches);
    [modelsOf, modelsAt] = [found.served, Date.now()];
  }
  const away = Object.entries(found.dependencies).filter(([, part]) => part.configured && !part.ok);
  state(found.status, found.status === "ready" ? "ready" : "degraded");
  const parts = away.map(([name, part]) => `${name} (${part.detail ?? "away"})`).join(", ");
  banner(away.length ? `Degraded: ${parts}. Answers go on without it.` : "", "degraded");
  setText("updated", `Updated ${clock(found.generated_at)}`);
}

async function round() {
  clearTimeout(timer);
  if (document.hidden) return;
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    await look();
    failures = 0;
    if (!openedByHand) wantKey(false);
  } catch (trouble) {
    if (!(trouble instanceof Trouble)) throw trouble;
    failures += 1;
    if (trouble.status === 401) {
      state("away", "key needed");
      banner(key.get() ? "The key is not known to this server." : "", "away");
      wantKey(true);
    } else if (trouble.status === 0) {
      state("away", "unreachable");
      banner("API unreachable. What you see is from before; it is asked again by itself.", "away");
    } else {
      state("away", `status ${trouble.status}`);
      banner(trouble.message, "away");
      if (trouble.status === 403) wantKey(true);
    }
  } finally {
    asking = false;
    const pause = failures ? Math.min(EVERY_MS * 2 ** (failures - 1), LONGEST_MS) : busy ? BUSY_MS : EVERY_MS;
    // Without a key there is nothing to wait for.
    const waits = failures && !byId("key-panel").hidden;
    if (again) soon();
    else if (!waits) timer = setTimeout(round, pause);
    again = false;
  }
}

/** Look at once, models too. */
function soon() {
  modelsAt = 0;
  failures = 0;
  round();
}

applyTheme();
prefersDark.addEventListener("change", applyTheme);
byId("theme-button").addEventListener("click", nextTheme);
startKey();
startTryIt();
startOperating(soon);
document.addEventListener("visibilitychange", round);
round();
