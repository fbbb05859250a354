// The embedded data, and arrays unpacked from it when they are asked for.

const data = JSON.parse(byId("data").textContent);
const { boards, rows, pool } = data;

rows.forEach((row, index) => { row.index = index; });
boards.forEach((board, index) => {
  board.rows = rows.filter((row) => row.board === index);
  board.name = `${board.task}/${board.dataset}`;
});
for (const board of boards) {
  board.twin = boards.filter((other) => other.name === board.name).length > 1;
  board.title = `${board.name} (${board.split}${board.twin ? `, protocol ${board.protocol}` : ""})`;
}

const kinds = { self: "self-supervised", weak: "weakly supervised", full: "supervised", none: "not trained", unknown: "unknown" };
const lookOf = (kind) => (["self", "weak", "full", "none"].includes(kind) ? kind : "other");
const kindOf = (row) => kinds[row.supervision] ?? row.supervision;

const shared = (row, name) => pool[row.shared[name]];
const parameters = (row) => shared(row, "backbone").parameters || null;
const gflops = (row) => (row.own.cost.flops_per_image ?? 0) / 1e9 || null;
const speed = (row) => row.own.timings.images_per_second || null;

const unpackers = {
  u1: (buffer) => new Uint8Array(buffer),
  u2: (buffer) => new Uint16Array(buffer),
  i4: (buffer) => new Int32Array(buffer),
  f4: (buffer) => new Float32Array(buffer),
};

function unpack([kind, text], length) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  if (kind !== "bits") return unpackers[kind](bytes.buffer);
  return Uint8Array.from({ length }, (_, item) => (bytes[item >> 3] >> (item & 7)) & 1);
}

// What was said of every item; where it is stored of wrong items only, the others were called what they are.
function predictions(packed, values, labels) {
  if (!packed.only_wrong) return unpack(packed.predicted, values.length);
  const all = Int32Array.from(labels);
  const said = unpack(packed.predicted, 0);
  let next = 0;
  values.forEach((right, item) => { if (!right) all[item] = said[next++]; });
  return all;
}

// Items of a result: ids, values, labels, predicted; null where the page holds none.
function itemsOf(row) {
  const packed = row.details;
  if (packed.values === undefined) return null;
  const ids = pool[packed.ids];
  const values = unpack(packed.values, ids.length);
  const labels = packed.labels === undefined ? null : unpack(pool[packed.labels], ids.length);
  return {
    ids,
    binary: packed.values[0] === "bits",
    values,
    labels,
    predicted: packed.predicted === undefined ? null : predictions(packed, values, labels),
  };
}

const className = (board, label) => board.class_names[label] ?? `class ${label}`;

// Where a section shows one board, it opens with the largest.
const largest = (among) => String(among.reduce((best, one) => (boards[one].size > boards[best].size ? one : best), among[0] ?? 0));
