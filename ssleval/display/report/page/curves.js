// Scores by depth, resolution or training images: one chart a board, with 95 % bands.

function scoreCurve({ label, x, y, low, high, chosen }, place) {
  const percent = (values) => values.map((value) => 100 * value);
  return {
    type: "scatter", mode: "lines+markers", name: plain(label), x, y: percent(y),
    line: { color: ink(runColor(place)), dash: runDash(place), width: 1.8 },
    marker: { size: y.map((_, at) => (at === chosen ? 13 : 6)), symbol: y.map((_, at) => (at === chosen ? "circle-open-dot" : "circle")) },
    error_y: { type: "data", symmetric: false, thickness: 1, width: 3,
      array: high.map((end, at) => 100 * (end - y[at])), arrayminus: low.map((end, at) => 100 * (y[at] - end)) },
    hovertemplate: "%{y:.1f} at %{x:.3g}<extra>%{fullData.name}</extra>",
  };
}

function startCurves() {
  byId("curves").hidden = data.curves.length === 0;
  for (const panel of data.curves) {
    const box = element("div", { class: "chart", role: "img" });
    byId("curve-charts").append(element("figure", {}, element("figcaption", {}, panel.title), box));
    const draw = () => plotInto(box, panel.curves.map(scoreCurve), {
      showlegend: true, legend: { orientation: "h", y: -0.25 }, margin: { l: 52, r: 8, t: 8, b: 40 },
      xaxis: axis(panel.axis), yaxis: { automargin: true, gridcolor: ink("line"), title: { text: "%" } },
    }, `${panel.title}, by ${panel.axis}`, { displayModeBar: false });
    redraws.push(draw);
    draw();
  }
}
