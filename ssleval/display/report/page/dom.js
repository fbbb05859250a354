// Elements and texts. Names in results are untrusted: they only ever become text.

const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(child))));
  return made;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
}

// Plotly reads a little markup in its texts.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const absent = (value) => value === null || value === undefined || Number.isNaN(value);

// As `results/numbers.py` writes scores: percent with 1 decimal, other units with 3; one more where scores are compared.
function number(value, unit, more = 0) {
  if (absent(value)) return "–";
  return unit === "fraction" ? (value * 100).toFixed(1 + more) : value.toFixed(3 + more);
}

const rounded = (value) => (absent(value) ? "–" : String(Number(value.toPrecision(4))));

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const shownUnit = (unit) => (unit === "fraction" ? "%" : unit);

const wordsOf = (id) => byId(id).value.toLowerCase().split(/\s+/).filter(Boolean);

// The order of two keys; what is missing comes last either way.
function byKey(left, right, reversed) {
  if (left === right) return 0;
  if (absent(left)) return 1;
  if (absent(right)) return -1;
  const sign = reversed ? -1 : 1;
  return sign * (typeof left === "string" ? left.localeCompare(right) : left - right);
}

// A page of a long list, and a button for the next one.
function paged(list, size, draw) {
  const box = element("div");
  let shown = 0;
  const more = element("button", { type: "button", onclick: () => next() }, "Show more");
  const line = element("p", { class: "more" }, more);
  function next() {
    const part = list.slice(shown, shown + size);
    shown += part.length;
    box.insertBefore(draw(part), line);
    line.hidden = shown >= list.length;
    more.textContent = `Show more (${list.length - shown} left)`;
  }
  box.append(line);
  next();
  return box;
}
