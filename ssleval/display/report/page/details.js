// One result: its scores, protocol and provenance, its classes and its items.

function openDetails(row) {
  const board = boards[row.board];
  byId("details-title").textContent = `${row.label} on ${board.title}`;
  byId("details-body").replaceChildren(
    scoresPart(row, board), ...classesPart(row, board), ...itemsPart(row, board), ...picturesPart(row),
    ...provenancePart(row));
  byId("details").showModal();
  byId("details").scrollTop = 0;
}

function tableOf(head, lines) {
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, ...lines.map((line) => element("tr", {}, ...line.map((text) => cell(text, "name")))))));
}

function scoresPart(row, board) {
  // A result from before the task gave a metric has no score of it.
  const lines = board.metrics.flatMap((metric, place) => {
    if (row.scores[place] === null) return [];
    const [value, low, high, n] = row.scores[place];
    const unit = metric.unit === "fraction" ? "%" : metric.unit;
    return [[metric.name, scoreText({ ...metric, value, low, high }), unit, metric.higher ? "more" : "less", String(n),
      row.own.notes[metric.name] ?? ""]];
  });
  return tableOf(["Metric", "Score [95 %]", "Unit", "Better", "n", "Note"], lines);
}

// Facts --------------------------------------------------------------------------------------------

function flat(value, path = []) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    return Object.entries(value).flatMap(([name, inner]) => flat(inner, [...path, name]));
  }
  const text = Array.isArray(value) ? value.map((one) => (typeof one === "object" ? JSON.stringify(one) : one)).join(", ") : value;
  return text === "" || text === null ? [] : [[path.join("."), String(text)]];
}

function facts(value) {
  return element("dl", { class: "facts" }, ...flat(value).flatMap(([name, text]) =>
    [element("dt", {}, name), element("dd", {}, text)]));
}

function provenancePart(row) {
  const parts = { protocol: "Protocol", settings: "Settings", backbone: "Model", data: "Data",
    skipped: "Images left out", hardware: "Hardware", versions: "Versions" };
  const named = Object.entries(parts)
    .map(([name, title]) => [title, facts(shared(row, name))])
    .filter(([, list]) => list.children.length > 0);
  return [["Protocol and provenance", facts({ ...row.own, notes: {} })], ...named]
    .flatMap(([title, list]) => [element("h3", {}, title), list]);
}

// Classes ------------------------------------------------------------------------------------------

function classesPart(row, board) {
  if (row.details.classes === undefined) return [];
  const { labels, counts } = pool[row.details.classes];
  const { name, unit } = board.metrics[0];
  const classes = labels.map((label, place) => ({ label, n: counts[place], value: row.details.by_class[place] }));
  const worst = board.metrics[0].higher ? 1 : -1;
  const missing = (one) => (one.value === null ? 1 : 0);
  classes.sort((one, two) => missing(one) - missing(two) || worst * (one.value - two.value));
  return [
    element("h3", {}, `Classes, worst first (${name}, ${shownUnit(unit)})`),
    paged(classes, 20, (part) => tableOf(["Class", "Score", "n"],
      part.map((one) => [className(board, one.label), number(one.value, unit), String(one.n)]))),
  ];
}

// Pictures -----------------------------------------------------------------------------------------

function picturesPart(row) {
  const pictures = Object.entries(drawnOf(row));
  if (pictures.length === 0) return [];
  return [element("h3", {}, "What the model sees"),
    element("div", { class: "grid" }, ...pictures.map(([what, address]) => drawnFigure(address, what, `${row.model}: ${what}`)))];
}

// Items --------------------------------------------------------------------------------------------

function itemsPart(row, board) {
  const items = itemsOf(row);
  if (items === null) {
    return [element("p", { class: "quiet" }, `Items: ${row.details.why ?? "this metric has no value for one item"}.`)];
  }
  const title = element("h3", {}, items.binary ? "Items it got wrong" : "Items, worst first");
  return [title, paged(worstItems(items, board), 24, (part) =>
    element("ul", { class: "items" }, ...part.map((item) => itemCard(board, items, item, row))))];
}

function worstItems(items, board) {
  const places = [...items.ids.keys()];
  if (items.binary) return places.filter((item) => items.values[item] === 0);
  const sign = board.metrics[0].higher ? 1 : -1;
  return places.filter((item) => !Number.isNaN(items.values[item]))
    .sort((one, two) => sign * (items.values[one] - items.values[two]));
}

function picture(board, id) {
  const address = board.pictures[id];
  return address === undefined ? [] : [element("img", { src: address, alt: `Item ${id}` })];
}

const predictionOf = (board, items, item) =>
  (items.predicted === null ? "" : className(board, items.predicted[item]));

function itemCard(board, items, item) {
  const id = items.ids[item];
  const { unit } = board.metrics[0];
  const lines = [id];
  if (items.labels !== null) lines.push(`true: ${className(board, items.labels[item])}`);
  if (items.predicted !== null) lines.push(`said: ${predictionOf(board, items, item)}`);
  if (!items.binary) lines.push(`${number(items.values[item], unit)} ${shownUnit(unit)}`);
  return element("li", {}, ...picture(board, id), ...lines.map((line) => element("div", {}, line)));
}

function startDetails() {
  byId("close").addEventListener("click", () => byId("details").close());
}
