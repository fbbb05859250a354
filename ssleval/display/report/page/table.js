// The table of results: filtered, sorted, drawn a page at a time.

const PAGE = 100;
const view = { sort: "board", descending: false, shown: PAGE };

function scoreOf(row) {
  const board = boards[row.board];
  const wanted = byId("metric").value;
  const place = wanted === "" ? 0 : board.metrics.findIndex((metric) => metric.name === wanted);
  if (place < 0 || row.scores[place] === null) return null;
  const [value, low, high, n] = row.scores[place];
  return { ...board.metrics[place], place, value, low, high, n };
}

const cell = (content, kind = "", label = null) => element("td", { class: kind, "data-label": label }, ...[content].flat());
const scoreText = (score) =>
  `${number(score.value, score.unit)} [${number(score.low, score.unit)}, ${number(score.high, score.unit)}]`;

const columns = [
  { name: "rank", title: "Rank", kind: "number", key: (row) => row.rank,
    draw: (row, score) => (score.place === 0 ? `${row.tied ? "=" : ""}${row.rank}` : "") },
  { name: "model", title: "Model", kind: "name", key: (row) => row.label.toLowerCase(),
    draw: (row) => [element("button", { type: "button", onclick: () => openDetails(row) }, row.label),
      element("div", { class: "narrow quiet" }, boards[row.board].title)] },
  { name: "score", title: "Score [95 %]", kind: "number", best: true, key: (row, score) => score.value,
    draw: (row, score) => scoreText(score) + row.mark },
  { name: "board", title: "Task / dataset", kind: "name wide", key: (row) => boards[row.board].title,
    draw: (row) => boards[row.board].title },
  { name: "metric", title: "Metric", kind: "wide", key: (row, score) => score.name,
    draw: (row, score) => `${score.name}${score.unit === "fraction" ? "" : ` (${score.unit})`}` },
  { name: "supervision", title: "Supervision", kind: "wide", key: kindOf, draw: kindOf },
  { name: "n", title: "n", kind: "number wide", key: (row, score) => score.n, draw: (row, score) => String(score.n) },
  { name: "parameters", title: "Params (M)", kind: "number wide", key: parameters,
    draw: (row) => rounded(parameters(row)) },
  { name: "gflops", title: "GFLOPs", kind: "number wide", key: gflops, draw: (row) => rounded(gflops(row)) },
  { name: "speed", title: "Images/s", kind: "number wide", best: true, key: speed, draw: (row) => rounded(speed(row)) },
];

function matching() {
  const words = wordsOf("find");
  const board = byId("board").value;
  const supervision = byId("supervision-filter").value;
  return rows.filter((row) =>
    (board === "" || row.board === Number(board)) &&
    (supervision === "" || row.supervision === supervision) &&
    words.every((word) => row.text.includes(word)));
}

function sorted(matches) {
  const column = columns.find((one) => one.name === view.sort);
  const keyed = matches.map((row) => [row, scoreOf(row)]).filter(([, score]) => score !== null);
  // Rows come ranked within their boards, and sorting is stable: equal keys keep that order.
  return keyed.sort((one, two) => byKey(column.key(...one), column.key(...two), view.descending));
}

function drawHead() {
  const head = byId("table").tHead.rows[0];
  head.replaceChildren(...columns.map((column) => {
    const active = view.sort === column.name;
    const arrow = active ? (view.descending ? " ▼" : " ▲") : "";
    const order = active ? (view.descending ? "descending" : "ascending") : "none";
    const button = element("button", { type: "button", onclick: () => sortBy(column) }, column.title + arrow);
    return element("th", { scope: "col", class: column.kind, "aria-sort": order }, button);
  }));
}

function sortBy(column) {
  view.descending = view.sort === column.name ? !view.descending : Boolean(column.best);
  view.sort = column.name;
  view.shown = PAGE;
  drawTable();
  remember();
  // The head is drawn anew; whoever came by keyboard stays where they were.
  byId("table").tHead.rows[0].cells[columns.indexOf(column)].firstChild.focus();
}

function drawTable() {
  const matches = sorted(matching());
  drawHead();
  byId("table").tBodies[0].replaceChildren(...matches.slice(0, view.shown).map(([row, score]) =>
    element("tr", {}, ...columns.map((column) => cell(column.draw(row, score), column.kind)))));
  const shown = Math.min(view.shown, matches.length);
  byId("count").textContent = `${shown} of ${counted(matches.length, "matching result")} shown, ${rows.length} in all.`;
  byId("more").hidden = shown >= matches.length;
}

function startTable() {
  for (const row of rows) {
    const family = shared(row, "backbone").family ?? "";
    row.text = [row.label, family, kindOf(row), boards[row.board].title].join(" ").toLowerCase();
  }
  const all = boards.map((board, index) => [String(index), board.title]);
  const metrics = [...new Set(boards.flatMap((board) => board.metrics.map((metric) => metric.name)))];
  options(byId("board"), [["", "All boards"], ...all]);
  options(byId("supervision-filter"),
    [["", "All"], ...[...new Set(rows.map((row) => row.supervision))].sort().map((kind) => [kind, kinds[kind] ?? kind])]);
  options(byId("metric"), [["", "The one that ranks"], ...metrics.map((name) => [name, name])]);
  const restart = () => { view.shown = PAGE; drawTable(); };
  for (const id of ["find", "board", "supervision-filter", "metric"]) byId(id).addEventListener("input", restart);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => { view.shown += PAGE; drawTable(); });
  keep("list-sort", () => (view.descending ? "-" : "") + view.sort, (value) => {
    view.descending = value.startsWith("-");
    view.sort = columns.find(({ name }) => name === value.replace(/^-/, ""))?.name ?? "board";
    drawTable();
  });
  keep("list", () => (byId("list").open ? "open" : ""), (value) => { byId("list").open = value !== ""; });
  byId("list").addEventListener("toggle", remember);
  window.matchMedia("print").addEventListener("change", ({ matches }) => { if (matches) byId("list").open = true; });
  drawTable();
}
