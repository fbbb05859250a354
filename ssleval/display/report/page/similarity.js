// Which models see images alike, set by set.

function startSimilarity() {
  byId("similarity").hidden = data.similarity.length === 0;
  byId("similarity-tables").replaceChildren(...data.similarity.flatMap((one) =>
    [element("h3", {}, one.title), tableOf(["", ...one.models], one.rows)]));
}
