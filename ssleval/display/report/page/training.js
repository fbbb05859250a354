// Curves of training runs: one small chart a quantity, all runs in each.

const runColors = ["self", "weak", "full", "other", "ink", "run-1", "run-2", "run-3"];
const runDashes = ["solid", "dash", "dot", "dashdot"];
const runColor = (place) => runColors[place % runColors.length];
const runDash = (place) => runDashes[Math.floor(place / runColors.length) % runDashes.length];

const curveTitles = {
  loss: "loss, all terms", dino: "DINO loss", ibot: "iBOT loss", koleo: "KoLeo loss",
  teacher_entropy: "teacher entropy (nats)", kl: "KL of teacher and student (nats)",
  information: "what assignments tell of the image (nats)", feature_rank: "effective rank of features",
  images_per_second: "images per second", lr: "learning rate", teacher_temp: "teacher temperature",
};
const curveTitle = (name) => curveTitles[name] ?? name.replaceAll("_", " ");

const losses = ["loss", "dino", "ibot", "koleo"];
const watched = ["teacher_entropy", "kl", "information", "feature_rank"];

// What a reader wants first is open: losses, signs of collapse, and the score that decides.
function curveGroups() {
  const names = (part) => [...new Set(data.runs.flatMap((run) => Object.keys(run[part])))];
  const terms = names("terms");
  const [leading, ...others] = names("scores");
  const rest = terms.filter((name) => !losses.includes(name) && !watched.includes(name));
  return [
    { title: "Losses", part: "terms", names: losses.filter((name) => terms.includes(name)), open: true },
    { title: "Signs of collapse", part: "terms", names: watched.filter((name) => terms.includes(name)), open: true },
    { title: "Evaluation of the teacher [95 %]", part: "scores", names: leading ? [leading] : [], open: true },
    { title: "More scores", part: "scores", names: others, open: false },
    { title: "Schedules and speed", part: "terms", names: rest, open: false },
  ].filter((group) => group.names.length > 0);
}

function curveTrace(run, place, part, name) {
  const { x, y, low, high } = run[part][name];
  return {
    type: "scatter", mode: part === "scores" ? "lines+markers" : "lines", name: plain(run.name), x, y,
    line: { color: ink(runColor(place)), dash: runDash(place), width: 1.8 }, marker: { size: 6 },
    error_y: low && { type: "data", symmetric: false, thickness: 1, width: 3,
      array: high.map((end, i) => end - y[i]), arrayminus: low.map((end, i) => y[i] - end) },
    hovertemplate: "%{y:.4g} at step %{x}<extra>%{fullData.name}</extra>",
  };
}

function drawCurve(box, part, name) {
  const has = data.runs.map((run, place) => ({ run, place })).filter(({ run }) => run[part][name]);
  plotInto(box, has.map(({ run, place }) => curveTrace(run, place, part, name)), {
    showlegend: false, margin: { l: 52, r: 8, t: 8, b: 40 },
    xaxis: axis("step"), yaxis: { automargin: true, gridcolor: ink("line") },
  }, `${curveTitle(name)} by training step`, { displayModeBar: false });
}

function curvesPart({ title, part, names, open }) {
  const figures = names.map((name) => {
    const box = element("div", { class: "chart small", role: "img" });
    return { box, name, figure: element("figure", {}, element("figcaption", {}, curveTitle(name)), box) };
  });
  const grid = element("div", { class: "grid" }, ...figures.map(({ figure }) => figure));
  const whole = element("details", { open: open ? "" : null }, element("summary", {}, title), grid);
  let drawn = false;
  // A chart in a closed part has no width to be drawn in.
  const draw = () => {
    if (!whole.open || drawn) return;
    drawn = true;
    for (const { box, name } of figures) drawCurve(box, part, name);
  };
  whole.addEventListener("toggle", draw);
  redraws.push(() => { drawn = false; draw(); });
  return { whole, draw };
}

function startTraining() {
  if (data.runs.length === 0) return;
  byId("training").hidden = false;
  byId("training-runs").replaceChildren(...data.runs.map((run, place) => element("li", {},
    element("span", { class: "swatch", style: `border-top-color: var(--${runColor(place)}); border-top-style: ${
      runDash(place) === "solid" ? "solid" : "dashed"}` }), run.name)));
  const parts = curveGroups().map(curvesPart);
  byId("training-charts").replaceChildren(...parts.map(({ whole }) => whole));
  for (const { draw } of parts) draw();
  const merged = Math.max(1, ...data.runs.flatMap((run) => Object.values(run.terms).map((term) => term.steps_per_point)));
  byId("training-note").textContent = merged > 1 ? `Each point of a curve is the mean of up to ${merged} steps.` : "";
}
