// Models x boards: the first section. Ranks and texts of tables are computed before; here they are only shown.

const { matrix } = data;
const order = { column: "overall", reversed: false };
const narrow = window.matchMedia("(max-width: 44rem)");

boards.forEach((board, index) => {
  board.key = matrix.columns[index];
  board.short = board.dataset.split(/[/:]/).filter(Boolean).at(-1) ?? board.dataset;
  const values = board.rows.map((row) => row.scores[0][0]);
  board.range = [Math.min(...values), Math.max(...values)];
});
matrix.models.forEach((model, place) => {
  model.place = place;
  model.entries = model.rows.map((row) => (row === null ? null : rows[row]));
  model.first = model.entries.find((row) => row !== null);
  model.lacks = boards.filter((_, index) => model.rows[index] === null).map((board) => board.key);
});

const standingOf = (model, family) => (model.ranked ? matrix.standings[family]?.[model.place] ?? null : null);
const span = ([low, high]) => (low === high ? `rank ${low}` : `ranks ${low}–${high}`);

// Columns ------------------------------------------------------------------------------------------

function rankColumn(name, family, title, under, count) {
  return { name, title, under, family, kind: "number rank", hint: `Mean rank over ${counted(count, "board")}`,
    key: (model) => standingOf(model, family)?.[0] ?? null, draw: (model) => rankCell(model, family) };
}

function boardColumn(index, family) {
  const board = boards[index];
  const { name, unit, higher } = board.metrics[0];
  const sign = higher ? -1 : 1;
  return { name: board.key, title: board.short, under: `${board.task}${board.twin ? ` #${board.protocol.slice(0, 4)}` : ""}`,
    family, kind: "number", down: higher,
    hint: `${board.title}: ${name} (${shownUnit(unit)}), ${higher ? "more" : "less"} is better`,
    key: (model) => (model.entries[index] ? sign * model.entries[index].scores[0][0] : null),
    draw: (model) => scoreCell(model.entries[index], board) };
}

// The boards that are chosen: all, those of one family, or one.
function shownColumns() {
  const chosen = byId("matrix-boards").value;
  const model = { name: "model", title: "Model", kind: "name", key: ({ name }) => name.toLowerCase(), draw: modelCell };
  const overall = matrix.why ? [] : [rankColumn("overall", "overall", "Overall", "mean rank", boards.length)];
  const families = matrix.families.flatMap(({ name, boards: places }) => {
    // A narrow screen has room for the ranks of a family where it is chosen.
    const room = !narrow.matches || chosen === `family:${name}`;
    const several = room && places.length > 1 && matrix.families.length > 1 && !matrix.why;
    return [
      ...(several ? [rankColumn(`family:${name}`, name, "Mean rank", `${places.length} boards`, places.length)] : []),
      ...places.map((place) => boardColumn(place, name)),
    ].filter((column) => chosen === "" || chosen === `family:${name}` || chosen === column.name);
  });
  return [model, ...overall, ...families];
}

// Cells --------------------------------------------------------------------------------------------

function modelCell(model) {
  const size = parameters(model.first) ? `, ${rounded(parameters(model.first))}\u00a0M` : "";
  return element("th", { scope: "row", class: "name" }, element("span", { class: `dot ${lookOf(model.first.supervision)}` }),
    model.name, element("div", { class: "under" }, kindOf(model.first), element("span", { class: "wide" }, size)));
}

function rankCell(model, family) {
  const place = standingOf(model, family);
  if (place === null) {
    const lacks = family === "overall" ? `lacks ${model.lacks.length}` : "";
    return element("td", { class: "rank number quiet", title: `Lacks ${model.lacks.join(", ")}` }, "–",
      element("div", { class: "under" }, lacks));
  }
  const [mean, images, others] = place;
  const hint = [images && `other test images: ${span(images)}`, others && `other boards: ${span(others)}`].filter(Boolean);
  return element("td", { class: "rank number", title: hint.join("; ") }, mean.toFixed(2),
    element("div", { class: "under" }, images ? span(images) : ""));
}

function scoreCell(row, board) {
  if (!row) return element("td", { class: "number quiet" }, "–");
  const metric = board.metrics[0];
  const [value, low, high] = row.scores[0];
  const [least, most] = board.range;
  const share = most > least ? (value - least) / (most - least) : 1;
  const leads = row.rank === 1 ? (row === board.rows[0] ? " best" : " tied") : "";
  const hint = `${row.label}, ${board.title}: ${metric.name} ${scoreText({ ...metric, value, low, high })}, rank ${row.tied ? "=" : ""}${row.rank}`;
  return element("td", { class: `number score${leads}`, style: `--share: ${(metric.higher ? share : 1 - share).toFixed(3)}` },
    element("button", { type: "button", tabindex: "-1", title: hint, onclick: () => openDetails(row) }, number(value, metric.unit) + row.mark));
}

// Rows ---------------------------------------------------------------------------------------------

function shownModels() {
  const words = wordsOf("matrix-find");
  return matrix.models.filter((model) => words.every((word) => model.text.includes(word)));
}

function groupsOf(models) {
  // Where none is ranked, all are equals.
  const ranked = models.filter((model) => model.ranked || matrix.why);
  const others = models.filter((model) => !ranked.includes(model));
  const found = byId("matrix-group").checked ? [...new Set(ranked.map((model) => model.first.supervision))] : [];
  const parts = found.length ? found.map((kind) => [kind, ranked.filter((model) => model.first.supervision === kind)]) : [["", ranked]];
  const size = (kind) => matrix.groups.findIndex(([name]) => name === kind);
  // Best first; a kind that is not known is no group, and comes last.
  parts.sort(([one], [two]) => (size(one) + 1 || Infinity) - (size(two) + 1 || Infinity));
  return [...parts.map(([kind, members]) => [kind && groupTitle(kind), members]),
    ["Not ranked, for want of boards", others]].filter(([, members]) => members.length > 0);
}

function groupTitle(kind) {
  const [, count, mean] = matrix.groups.find(([name]) => name === kind) ?? [];
  return (kinds[kind] ?? kind) + (count ? `: ${counted(count, "model")}, mean rank ${mean.toFixed(2)}` : "");
}

function ordered(models, columns) {
  // Models come by mean rank, which holds where the column is not shown.
  const column = columns.find(({ name }) => name === order.column);
  if (!column) return models;
  const keyed = models.map((model) => [model, column.key(model)]);
  return keyed.sort(([, one], [, two]) => byKey(one, two, order.reversed)).map(([model]) => model);
}

// Head ---------------------------------------------------------------------------------------------

function familyRow(columns) {
  const cells = [element("td", { class: "name" }), ...(matrix.why ? [] : [element("td")])];
  for (const { name } of matrix.families) {
    const width = columns.filter(({ family }) => family === name).length;
    if (width) cells.push(element("th", { scope: "colgroup", colspan: width, class: "family" }, name.replaceAll("_", " ")));
  }
  return element("tr", { class: "families" }, ...cells);
}

function headCell(column) {
  const active = order.column === column.name;
  const descending = Boolean(column.down) !== order.reversed;
  const arrow = active ? (descending ? " ▼" : " ▲") : "";
  return element("th", { scope: "col", class: column.kind, "aria-sort": active ? (descending ? "descending" : "ascending") : "none" },
    element("button", { type: "button", title: column.hint ?? null, "data-column": column.name, onclick: () => orderBy(column.name) },
      element("span", { class: "title" }, column.title + arrow), element("span", { class: "under" }, column.under ?? "")));
}

function orderBy(name) {
  order.reversed = order.column === name && !order.reversed;
  order.column = name;
  drawMatrix();
  remember();
  // The head is drawn anew; whoever came by keyboard stays where they were.
  [...byId("matrix-table").tHead.querySelectorAll("button")].find((one) => one.dataset.column === name).focus();
}

function drawMatrix() {
  const columns = shownColumns();
  const models = shownModels();
  const bodies = groupsOf(models).map(([title, members]) => element("tbody", {},
    ...(title ? [element("tr", { class: "group" }, element("th", { scope: "rowgroup", colspan: columns.length }, element("span", {}, title)))] : []),
    ...ordered(members, columns).map((model) => element("tr", {}, ...columns.map((column) => column.draw(model))))));
  byId("matrix-table").replaceChildren(element("thead", {}, familyRow(columns),
    element("tr", {}, ...columns.map(headCell))), ...bodies);
  byId("matrix-count").textContent = models.length < matrix.models.length
    ? `${models.length} of ${counted(matrix.models.length, "model")} shown.` : "";
}

// The verdict on groups, and what a reader must know of the ranks.
function matrixNote() {
  const groups = matrix.groups.map(([kind, count, mean]) => `${kinds[kind] ?? kind} ${mean.toFixed(2)} (${counted(count, "model")})`);
  const said = matrix.pvalue === null ? "" : matrix.pvalue < 0.05 ? " The groups differ" : " No difference between the groups is shown";
  const verdict = said && `${said} (p = ${matrix.pvalue.toFixed(3)}, by permutation of models).`;
  const sets = matrix.standings.overall?.[0][1];
  return [
    matrix.why && `No model is ranked overall: ${matrix.why}.`,
    groups.length > 1 && `Mean rank by supervision: ${groups.join(", ")}.${verdict}`,
    !matrix.why && !sets && "There are no sets of ranks: so many results would take minutes.",
  ].filter(Boolean).join(" ");
}

function save(text, name, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function moveInMatrix(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = event.target.closest("td");
  if (!steps || !from) return;
  const lines = [...byId("matrix-table").querySelectorAll("tbody tr:not(.group)")];
  const target = lines[lines.indexOf(from.parentElement) + steps[0]]?.cells[from.cellIndex + steps[1]]?.querySelector("button");
  if (target) { event.preventDefault(); target.focus(); }
}

function startMatrix() {
  for (const model of matrix.models) {
    model.text = [model.name, shared(model.first, "backbone").family ?? "", kindOf(model.first)].join(" ").toLowerCase();
  }
  options(byId("matrix-boards"), [["", "All boards"],
    ...(matrix.families.length > 1 ? matrix.families.map(({ name }) => [`family:${name}`, `All of ${name.replaceAll("_", " ")}`]) : []),
    ...boards.map((board) => [board.key, board.key])]);
  byId("matrix-note").textContent = matrixNote();
  byId("matrix-ranks").hidden = matrix.why !== "";
  byId("matrix-csv").addEventListener("click", () => save(matrix.csv.join("\n"), "ssleval.csv", "text/csv"));
  byId("matrix-latex").addEventListener("click", () => save(matrix.latex.join("\n"), "ssleval.tex", "text/x-tex"));
  byId("matrix-table").addEventListener("keydown", moveInMatrix);
  for (const id of ["matrix-find", "matrix-boards", "matrix-group"]) byId(id).addEventListener("input", drawMatrix);
  narrow.addEventListener("change", drawMatrix);
  byId("matrix-filters").addEventListener("submit", (event) => event.preventDefault());
  keep("sort", () => (order.reversed ? "-" : "") + order.column, (value) => {
    order.reversed = value.startsWith("-");
    order.column = value.replace(/^-/, "");
    drawMatrix();
  });
  drawMatrix();
}
