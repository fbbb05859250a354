// Charts, drawn by Plotly.

const looks = {
  self: { color: "#0072b2", symbol: "circle" },
  weak: { color: "#d55e00", symbol: "diamond" },
  full: { color: "#007a5a", symbol: "square" },
  none: { color: "#6b7280", symbol: "x" },
};
const look = (kind) => looks[kind] ?? { color: "#8a4f9e", symbol: "triangle-up" };

const hovers = window.matchMedia("(hover: hover)").matches;

const layout = (extra) => ({
  margin: { l: 60, r: 16, t: 16, b: 56 },
  font: { family: "system-ui, sans-serif", size: 13, color: "#1a1c20" },
  hovermode: "closest",
  legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  // A finger that moves over a chart moves the page.
  dragmode: hovers ? "zoom" : false,
  ...extra,
});
const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
  displayModeBar: hovers ? "hover" : false };

const axis = (text, extra = {}) => ({ title: { text: plain(text), font: { size: 13 } }, automargin: true, ...extra });

// Ticks of a logarithmic axis with whole numbers beside them, no more than fit.
function logAxis(text, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const decades = Math.log10(high / low);
  const steps = decades > 2.5 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const first = Math.floor(Math.log10(low)) - 1;
  const ticks = Array.from({ length: Math.ceil(decades) + 4 }, (_, place) => steps.map((step) => step * 10 ** (first + place))).flat();
  return axis(text, { type: "log", tickvals: ticks, ticktext: ticks.map((tick) => String(Number(tick.toPrecision(2)))) });
}

const plot = (id, traces, extra, label) => plotInto(byId(id), traces, extra, label);

function plotInto(box, traces, extra, label, overrides = {}) {
  box.classList.toggle("empty", traces.length === 0);
  box.setAttribute("aria-label", label);
  if (traces.length === 0) {
    Plotly.purge(box);
    box.replaceChildren(label);
  } else {
    Plotly.react(box, traces, layout(extra), { ...settings, ...overrides });
  }
}

const scaled = (value, unit) => (unit === "fraction" ? value * 100 : value);

// Cost ---------------------------------------------------------------------------------------------

function costTrace(board, cost, kind) {
  const { unit } = board.metrics[0];
  const points = board.rows
    .map((row, place) => ({ row, spent: cost.values[place] }))
    .filter(({ row, spent }) => spent !== null && row.supervision === kind);
  const part = (index) => points.map(({ row }) => scaled(row.scores[0][index], unit));
  const [middle, low, high] = [0, 1, 2].map(part);
  return {
    type: "scatter", mode: "markers", name: kinds[kind] ?? plain(kind),
    x: points.map(({ spent }) => spent), y: middle,
    error_y: { type: "data", symmetric: false, thickness: 1, width: 3, color: look(kind).color + "88",
      array: high.map((end, place) => end - middle[place]), arrayminus: low.map((end, place) => middle[place] - end) },
    text: points.map(({ row }) => plain(row.label)),
    hovertemplate: "%{text}<br>%{y:.4g} at %{x:.4g}<extra></extra>",
    marker: { size: 10, color: look(kind).color, symbol: look(kind).symbol },
  };
}

function drawCost() {
  const board = boards[byId("cost-board").value];
  const cost = board?.costs[byId("cost-kind").value];
  if (!cost) {
    plot("cost-chart", [], {}, "There are no results.");
    byId("cost-front").textContent = "";
    return;
  }
  if (cost.front.length === 0) {
    plot("cost-chart", [], {}, `No result of this board has it recorded: ${cost.missing}.`);
    byId("cost-front").textContent = "";
    return;
  }
  const { name, unit } = board.metrics[0];
  const front = cost.front.map((place) => board.rows[place]);
  const line = {
    type: "scatter", mode: "lines", name: "front", hoverinfo: "skip", line: { color: "#1a1c20", width: 1.5, dash: "dot", shape: "hv" },
    x: cost.front.map((place) => cost.values[place]), y: front.map((row) => scaled(row.scores[0][0], unit)),
  };
  const present = [...new Set(board.rows.map((row) => row.supervision))].sort();
  plot("cost-chart", [line, ...present.map((kind) => costTrace(board, cost, kind))], {
    xaxis: logAxis(cost.name, cost.values.filter((value) => value !== null)),
    yaxis: axis(`${name} (${shownUnit(unit)})`),
  }, `${name} of ${board.title} against ${cost.name}`);
  const missing = cost.values.filter((value) => value === null).length;
  byId("cost-front").textContent =
    `${board.title}: ${name} against ${cost.name}. On the front, from the cheapest: ${front.map((row) => `${row.label} ${number(row.scores[0][0], unit)}`).join("; ")}.` +
    (missing ? ` Not drawn, because it is not recorded: ${missing} of ${board.rows.length} (${cost.missing}).` : "");
}

function startCost() {
  options(byId("cost-board"), boards.map((board, index) => [String(index), board.title]));
  byId("cost-board").value = largest([...boards.keys()]);
  const chosen = () => {
    const costs = boards[byId("cost-board").value]?.costs ?? [];
    options(byId("cost-kind"), costs.map((cost, index) => [String(index), cost.name]));
    drawCost();
  };
  byId("cost-board").addEventListener("input", chosen);
  byId("cost-kind").addEventListener("input", drawCost);
  chosen();
}

// Self- against weakly supervised ------------------------------------------------------------------

function startContrast() {
  const contrasted = boards.filter((board) => board.contrast !== null);
  const head = ["Task / dataset", "Metric", "Best self-supervised", "Best weakly supervised", "Difference [95 %]", "Verdict"];
  byId("contrast-table").tHead.rows[0].replaceChildren(...head.map((text) => element("th", { scope: "col" }, text)));
  byId("contrast-table").tBodies[0].replaceChildren(...contrasted.map(contrastRow));
  const drawn = contrasted.filter((board) => board.metrics[0].unit === "fraction");
  const percent = (name) => drawn.map((board) => board.contrast[name] * 100);
  const [middle, low, high] = ["difference", "low", "high"].map(percent);
  const trace = {
    type: "scatter", mode: "markers", x: middle, y: drawn.map((board) => `${plain(board.name)}${board.twin ? `<br>${board.protocol}` : ""}`),
    error_x: { type: "data", symmetric: false, array: high.map((end, i) => end - middle[i]),
      arrayminus: low.map((end, i) => middle[i] - end), thickness: 1.5 },
    marker: { size: 9, color: middle.map((_, i) => (low[i] > 0 ? looks.self : high[i] < 0 ? looks.weak : looks.none).color) },
    hovertemplate: "%{y}: %{x:.2f}<extra></extra>",
  };
  byId("contrast-chart").style.height = `${6 + 2.6 * Math.max(1, drawn.length)}rem`;
  plot("contrast-chart", drawn.length ? [trace] : [], {
    showlegend: false,
    xaxis: axis("self- minus weakly supervised, points", { zeroline: true, zerolinewidth: 2 }),
    yaxis: { range: [drawn.length - 0.5, -0.5], automargin: true, type: "category" },
  }, drawn.length ? "Best self-supervised minus best weakly supervised, by board"
    : "No board in per cent has both a self-supervised and a weakly supervised model.");
}

function contrastRow(board) {
  const { own, weak, difference, low, high, tried, verdict } = board.contrast;
  const { name, unit } = board.metrics[0];
  const best = (place, count) => {
    const row = board.rows[place];
    return cell(`${row.label}: ${number(row.scores[0][0], unit)} (of ${count})`, "name");
  };
  return element("tr", {}, cell(board.title, "name"), cell(name), best(own, tried[0]), best(weak, tried[1]),
    cell(`${number(difference, unit, 1)} [${number(low, unit, 1)}, ${number(high, unit, 1)}]`, "number"), cell(verdict));
}
