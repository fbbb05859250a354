// Two models of one board, item by item.

const flipKinds = { both: "All that flipped", gained: "Only the second is right", lost: "Only the first is right" };
const changeKinds = { both: "Largest changes", gained: "Better in the second", lost: "Better in the first" };

// Shared items with both values and by how much the second is better.
function pairedItems(first, second, board) {
  const place = new Map(second.ids.map((id, item) => [id, item]));
  const sign = board.metrics[0].higher ? 1 : -1;
  return first.ids.map((id, item) => ({ id, item, other: place.get(id) }))
    .filter(({ other }) => other !== undefined)
    .map((pair) => ({ ...pair, gain: sign * (second.values[pair.other] - first.values[pair.item]) }))
    .filter(({ gain }) => !Number.isNaN(gain));
}

// A name as a shell takes it for one word, whatever is in it.
const quoted = (name) => (/^[\w.:@/+-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

function flipSides() {
  const board = boards[byId("flip-board").value];
  const [one, two] = ["flip-first", "flip-second"].map((id) => board?.rows[byId(id).value]);
  return { board, one, two };
}

function drawFlips() {
  const { board, one, two } = flipSides();
  byId("flip-items").replaceChildren();
  if (!one || !two || one === two) {
    byId("flip-summary").textContent = "Choose two different models of a board.";
    return;
  }
  const [first, second] = [itemsOf(one), itemsOf(two)];
  if (first === null || second === null) {
    const why = (first === null ? one : two).details.why ?? "this metric has no value for one item";
    byId("flip-summary").textContent = `No items to compare: ${why}.`;
    return;
  }
  const pairs = pairedItems(first, second, board);
  const better = pairs.filter(({ gain }) => gain > 0);
  const worse = pairs.filter(({ gain }) => gain < 0);
  const verb = first.binary && second.binary ? "right only for" : "better for";
  byId("flip-summary").textContent =
    `${board.title}. Of ${counted(pairs.length, "shared item")}, ${better.length} ${verb} ${two.label} and ${worse.length} for ${one.label}; ` +
    `${pairs.length - better.length - worse.length} equal. Whether that is a difference: ` +
    `ssleval compare ${quoted(one.model)} ${quoted(two.model)}`;
  const chosen = { both: [...better, ...worse], gained: better, lost: worse }[byId("flip-kind").value];
  const pictured = ({ id }) => (board.pictures[id] === undefined ? 1 : 0);
  chosen.sort((a, b) => Math.abs(b.gain) - Math.abs(a.gain) || pictured(a) - pictured(b));
  if (chosen.length === 0) return;
  byId("flip-items").append(paged(chosen, 24, (part) =>
    element("ul", { class: "items" }, ...part.map((pair) => flipCard(board, one, two, first, second, pair)))));
}

function flipCard(board, one, two, first, second, { id, item, other, gain }) {
  const { unit } = board.metrics[0];
  const line = (row, items, place, good) => {
    const outcome = items.predicted === null ? (items.binary ? (good ? "right" : "wrong") : number(items.values[place], unit))
      : predictionOf(board, items, place);
    return element("div", { class: good ? "right" : "wrong" }, `${good ? "✓" : "✗"} ${row.label}: ${outcome}`);
  };
  const truth = first.labels === null ? [] : [element("div", {}, `true: ${className(board, first.labels[item])}`)];
  return element("li", {}, ...picture(board, id), element("div", {}, id), ...truth,
    line(one, first, item, gain < 0), line(two, second, other, gain > 0));
}

function startFlips() {
  const several = [...boards.keys()].filter((index) => boards[index].size > 1);
  byId("flips").hidden = !several.some((index) => boards[index].rows.some((row) => row.details.values !== undefined));
  options(byId("flip-board"), several.map((index) => [String(index), boards[index].title]));
  byId("flip-board").value = largest(several);
  const chosen = () => {
    const board = boards[byId("flip-board").value];
    const names = (board?.rows ?? []).map((row, place) => [String(place), row.label]);
    for (const id of ["flip-first", "flip-second"]) options(byId(id), names);
    if (names.length > 1) byId("flip-first").value = "1";
    const binary = board?.rows[0].details.values?.[0] === "bits";
    options(byId("flip-kind"), Object.entries(binary ? flipKinds : changeKinds));
    drawFlips();
  };
  byId("flip-board").addEventListener("input", chosen);
  for (const id of ["flip-first", "flip-second", "flip-kind"]) byId(id).addEventListener("input", drawFlips);
  chosen();
}
