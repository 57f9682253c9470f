// The API this page came from, and nobody else.

const KEY = "tessera-key";
const TIMEOUT_MS = 15000;

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** An answer that is no success. `status` is 0 when there was none. */
export class Trouble extends Error {
  constructor(status, name, message) {
    super(message);
    this.status = status;
    this.problem = name;
  }
}

/** Ask; `body` makes it a POST unless `method` says otherwise. Resolves to the answer's JSON, rejects with Trouble. */
export async function ask(path, { method, body, timeout = TIMEOUT_MS } = {}) {
  const headers = {};
  if (key.get()) headers["X-API-Key"] = key.get();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(timeout),
    });
  } catch {
    throw new Trouble(0, "unreachable", "The API does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const fields = (answer.errors ?? []).map((error) => `${error.location.slice(1).join(".")}: ${error.message}`);
  const said = fields.length ? fields.join("; ") : answer.detail;
  throw new Trouble(response.status, String(answer.type ?? "").split(":").pop(), said ?? `Status ${response.status}.`);
}
