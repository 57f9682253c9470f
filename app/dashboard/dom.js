// Building the page. Text goes in as text nodes only: ids and titles come from outside.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (`class`, `data-x`, ...; null and false leave one out), listeners (`onclick`) and children. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Replace what is in a node; null and false are left out. */
export function put(node, ...children) {
  node.replaceChildren();
  return fill(node, {}, children);
}

export function setText(id, text) {
  const node = byId(id);
  // A live region speaks whenever it is written to.
  if (node.textContent !== text) node.textContent = text;
}

/** Say something below a panel's head; `kind` is good, warn or bad. */
export function say(id, text, kind = "good") {
  byId(id).dataset.kind = kind;
  setText(id, text);
}

/** Replace rows, and keep the focus on the control that had it. */
export function replaceKeepingFocus(parent, nodes) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...nodes);
  if (focused) [...parent.querySelectorAll("[data-key]")].find((node) => node.dataset.key === focused)?.focus();
}
