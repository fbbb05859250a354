// Charts, drawn by Plotly.

const symbols = { self: "circle", weak: "diamond", full: "square", none: "x", other: "triangle-up" };

// Colours are those of the page, which follow the system's setting.
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const look = (kind) => ({ color: ink(lookOf(kind)), symbol: symbols[lookOf(kind)] });

const redraws = [];
for (const query of ["(prefers-color-scheme: dark)", "print", narrow.media]) {
  window.matchMedia(query).addEventListener("change", () => redraws.forEach((draw) => draw()));
}

const hovers = window.matchMedia("(hover: hover)").matches;

const layout = (extra) => ({
  margin: { l: 60, r: 16, t: 16, b: 56 },
  font: { family: "system-ui, sans-serif", size: 13, color: ink("ink") },
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", modebar: { bgcolor: "rgba(0,0,0,0)" },
  hovermode: "closest",
  legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  // A finger that moves over a chart moves the page.
  dragmode: hovers ? "zoom" : false,
  ...extra,
});
const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"],
  displayModeBar: hovers ? "hover" : false };

const axis = (text, extra = {}) => ({ title: { text: plain(text), font: { size: 13 } }, automargin: true,
  gridcolor: ink("line"), zerolinecolor: ink("quiet"), linecolor: ink("line"), ...extra });

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

// Self- against weakly supervised ------------------------------------------------------------------

function startContrast() {
  const contrasted = boards.filter((board) => board.contrast !== null);
  byId("supervision").hidden = contrasted.length === 0;
  if (contrasted.length === 0) return;
  const head = ["Task / dataset", "Metric", "Best self-supervised", "Best weakly supervised", "Difference [95\u00a0%]", "Verdict"];
  byId("contrast-table").tHead.rows[0].replaceChildren(...head.map((text) => element("th", { scope: "col" }, text)));
  byId("contrast-table").tBodies[0].replaceChildren(...contrasted.map((board) => contrastRow(board, head)));
  const drawn = contrasted.filter((board) => board.metrics[0].unit === "fraction");
  byId("contrast-chart").hidden = drawn.length === 0;
  if (drawn.length === 0) return;
  const draw = () => drawContrast(drawn);
  redraws.push(draw);
  draw();
}

function drawContrast(drawn) {
  const percent = (name) => drawn.map((board) => board.contrast[name] * 100);
  const [middle, low, high] = ["difference", "low", "high"].map(percent);
  const trace = {
    type: "scatter", mode: "markers", x: middle, y: drawn.map((board) => `${plain(board.name)}${board.twin ? `<br>${board.protocol}` : ""}`),
    error_x: { type: "data", symmetric: false, array: high.map((end, i) => end - middle[i]),
      arrayminus: low.map((end, i) => middle[i] - end), thickness: 1.5, color: ink("quiet") },
    marker: { size: 9, color: middle.map((_, i) => ink(low[i] > 0 ? "self" : high[i] < 0 ? "weak" : "none")) },
    hovertemplate: "%{y}: %{x:.2f}<extra></extra>",
  };
  byId("contrast-chart").style.height = `${6 + 2.6 * drawn.length}rem`;
  plot("contrast-chart", [trace], {
    showlegend: false,
    xaxis: axis(narrow.matches ? "self- minus weakly, points" : "self- minus weakly supervised, points", { zeroline: true, zerolinewidth: 2 }),
    yaxis: { range: [drawn.length - 0.5, -0.5], automargin: true, type: "category", gridcolor: ink("line") },
  }, "Best self-supervised minus best weakly supervised, by board");
}

function contrastRow(board, head) {
  const { own, weak, difference, low, high, tried, verdict } = board.contrast;
  const { name, unit } = board.metrics[0];
  const best = (place, count) => {
    const row = board.rows[place];
    return `${row.label}: ${number(row.scores[0][0], unit)} (of ${count})`;
  };
  const gap = `${number(difference, unit, 1)} [${number(low, unit, 1)}, ${number(high, unit, 1)}]`;
  const texts = [board.title, name, best(own, tried[0]), best(weak, tried[1]), gap, verdict];
  const look = { 4: "number", 1: "", 5: "verdict" };
  return element("tr", {}, ...texts.map((text, place) => cell(text, look[place] ?? "name", head[place])));
}
