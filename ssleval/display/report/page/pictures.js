// Pictures of what models see, drawn beforehand and given by name.

const drawnOf = (row) => data.drawn[row.own.file.split("/")[0]] ?? {};

function drawnFigure(address, what, caption) {
  return element("figure", {}, element("img", { src: address, alt: `${what} of ${caption}` }),
    element("figcaption", {}, caption));
}

function drawPictures() {
  const what = byId("picture-kind").value;
  const names = new Map(rows.map((row) => [row.own.file.split("/")[0], row.model]));
  byId("picture-grid").replaceChildren(...Object.entries(data.drawn)
    .filter(([, pictures]) => pictures[what] !== undefined)
    .map(([folder, pictures]) => drawnFigure(pictures[what], what, names.get(folder))));
}

function startPictures() {
  const kinds = [...new Set(Object.values(data.drawn).flatMap((pictures) => Object.keys(pictures)))].sort();
  if (kinds.length === 0) return;
  byId("pictures").hidden = false;
  options(byId("picture-kind"), kinds.map((kind) => [kind, kind]));
  byId("picture-kind").addEventListener("input", drawPictures);
  drawPictures();
}
