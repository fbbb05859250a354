// Accuracy against cost, with the front and the names of models where they fit.

const PLACES = [["middle right", 0.5, 0], ["middle left", -0.5, 0], ["top center", 0, -1], ["bottom center", 0, 1]];

// Return where the name of every point goes, "" where it would cover something; earlier points choose first.
function labelPlaces(points, width, height) {
  const [letter, line, gap] = [7, 16, 9];
  const marks = points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  const taken = [];
  const clash = (one, two) => one.left < two.right && two.left < one.right && one.top < two.bottom && two.top < one.bottom;
  return points.map(({ x, y, text }, place) => {
    const size = text.length * letter;
    for (const [name, across, down] of PLACES) {
      const [middle, level] = [x + across * (size + 2 * gap), y + down * (line / 2 + gap)];
      const box = { left: middle - size / 2, right: middle + size / 2, top: level - line / 2, bottom: level + line / 2 };
      const inside = box.left >= 0 && box.right <= width && box.top >= 0 && box.bottom <= height;
      const free = (other) => !clash(box, other);
      if (inside && taken.every(free) && marks.every((mark, other) => other === place || free(mark))) {
        taken.push(box);
        return name;
      }
    }
    return "";
  });
}

// The points of a board, those on the front first, with their places in pixels.
function costPoints(board, cost, ranges) {
  const { unit } = board.metrics[0];
  const box = byId("cost-chart");
  const [width, height] = [box.clientWidth - 90, box.clientHeight - 110];
  const points = board.rows
    .map((row, place) => ({ row, spent: cost.values[place], front: cost.front.includes(place), text: row.label,
      ends: row.scores[0].slice(0, 3).map((value) => scaled(value, unit)) }))
    .filter(({ spent }) => spent !== null)
    .sort((one, two) => two.front - one.front);
  const { x, y } = ranges(points);
  for (const point of points) {
    point.x = width * (Math.log10(point.spent) - x[0]) / (x[1] - x[0]);
    point.y = height * (y[1] - point.ends[0]) / (y[1] - y[0]);
  }
  const places = labelPlaces(points, width, height);
  points.forEach((point, place) => { point.place = places[place]; });
  return { points, x, y };
}

function costRanges(points) {
  const padded = (values, share) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = (high - low || Math.abs(high) * 0.1 || 1) * share;
    return [low - pad, high + pad];
  };
  return { x: padded(points.map(({ spent }) => Math.log10(spent)), 0.12), y: padded(points.flatMap(({ ends }) => ends), 0.06) };
}

function costTrace(points, kind) {
  const of = points.filter(({ row }) => row.supervision === kind);
  const { color, symbol } = look(kind);
  const part = (index) => of.map(({ ends }) => ends[index]);
  const [middle, low, high] = [0, 1, 2].map(part);
  return {
    type: "scatter", mode: "markers+text", name: kinds[kind] ?? plain(kind), x: of.map(({ spent }) => spent), y: middle,
    error_y: { type: "data", symmetric: false, thickness: 1, width: 3, color: color + "88",
      array: high.map((end, place) => end - middle[place]), arrayminus: low.map((end, place) => middle[place] - end) },
    text: of.map(({ place, text }) => (place ? plain(text) : "")), textposition: of.map(({ place }) => place || "top center"),
    textfont: { size: 11.5, color: ink("ink") }, cliponaxis: false,
    hovertext: of.map(({ text }) => plain(text)), hovertemplate: "%{hovertext}<br>%{y:.4g} at %{x:.4g}<extra></extra>",
    marker: { size: 10, color, symbol },
  };
}

function costParts() {
  const board = boards[byId("cost-board").value];
  return { board, cost: board.costs.find(({ name }) => name === byId("cost-kind").value) };
}

function drawCost() {
  const { board, cost } = costParts();
  const { name, unit } = board.metrics[0];
  const front = cost.front.map((place) => board.rows[place]);
  const { points, x, y } = costPoints(board, cost, costRanges);
  const line = {
    type: "scatter", mode: "lines", name: "front", hoverinfo: "skip", line: { color: ink("ink"), width: 1.5, dash: "dot", shape: "hv" },
    x: cost.front.map((place) => cost.values[place]), y: front.map((row) => scaled(row.scores[0][0], unit)),
  };
  const present = [...new Set(board.rows.map((row) => row.supervision))].sort();
  plot("cost-chart", [line, ...present.map((kind) => costTrace(points, kind))], {
    xaxis: { ...logAxis(cost.name, points.map(({ spent }) => spent)), range: x },
    yaxis: axis(`${name} (${shownUnit(unit)})`, { range: y }),
  }, `${name} of ${board.title} against ${cost.name}`);
  const missing = cost.values.filter((value) => value === null).length;
  byId("cost-front").textContent =
    `${board.title}: ${name} against ${cost.name}. On the front, from the cheapest: ${front.map((row) => `${row.label} ${number(row.scores[0][0], unit)}`).join("; ")}.` +
    (missing ? ` Not drawn, because it is not recorded: ${missing} of ${board.rows.length} (${cost.missing}).` : "");
}

function startCost() {
  const known = (board) => board.costs.filter((cost) => cost.front.length > 0);
  const drawable = [...boards.keys()].filter((index) => known(boards[index]).length > 0);
  byId("cost").hidden = drawable.length === 0;
  if (drawable.length === 0) return;
  options(byId("cost-board"), drawable.map((index) => [String(index), boards[index].title]));
  byId("cost-board").value = largest(drawable);
  const chosen = () => {
    const before = byId("cost-kind").value;
    const names = known(boards[byId("cost-board").value]).map(({ name }) => name);
    options(byId("cost-kind"), names.map((name) => [name, name]));
    if (names.includes(before)) byId("cost-kind").value = before;
    drawCost();
  };
  byId("cost-board").addEventListener("input", chosen);
  byId("cost-kind").addEventListener("input", drawCost);
  redraws.push(drawCost);
  chosen();
}
