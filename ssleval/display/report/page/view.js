// What is shown stands in the address, so that a link keeps it; what is as usual is left out.

const kept = new Map();

// Keep what `get` returns and `set` takes, both texts, under a name in the address.
function keep(name, get, set) {
  kept.set(name, { get, set, usual: get() });
}

// A field is kept by the text that is shown, which means the same in another report.
function keepField(name, id) {
  const field = byId(id);
  const texts = () => [...field.options].map((one) => one.textContent);
  const get = () => (field.type === "checkbox" ? (field.checked ? "yes" : "") : field.options ? texts()[field.selectedIndex] ?? "" : field.value);
  keep(name, get, (value) => {
    if (value === get()) return;
    if (field.type === "checkbox") field.checked = value !== "";
    else if (!field.options) field.value = value;
    else if (texts().includes(value)) field.selectedIndex = texts().indexOf(value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
  field.addEventListener("input", remember);
}

let restoring = false;

function remember() {
  if (restoring) return;
  const parts = new URLSearchParams();
  for (const [name, { get, usual }] of kept) if (get() !== usual) parts.set(name, get());
  history.replaceState(null, "", `#${parts}`);
}

function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (![...parts.keys()].some((name) => kept.has(name))) return;
  restoring = true;
  for (const [name, { set, usual }] of kept) set(parts.get(name) ?? usual);
  restoring = false;
}

const here = { section: "" };

function goTo(section) {
  here.section = section;
  document.getElementById(section)?.scrollIntoView();
}

function startView() {
  const fields = { find: "matrix-find", board: "matrix-boards", group: "matrix-group", "list-find": "find", "list-board": "board",
    "list-kind": "supervision-filter", "list-metric": "metric", "cost-board": "cost-board", cost: "cost-kind",
    "flip-board": "flip-board", "flip-first": "flip-first", "flip-second": "flip-second", "flip-show": "flip-kind" };
  for (const [name, id] of Object.entries(fields)) keepField(name, id);
  keep("at", () => here.section, (value) => { if (value !== "") goTo(value); });
  byId("sections").addEventListener("click", (event) => {
    const section = event.target.closest("a")?.getAttribute("href").slice(1);
    if (!section) return;
    event.preventDefault();
    goTo(section);
    remember();
  });
  addEventListener("hashchange", restore);
  restore();
}
