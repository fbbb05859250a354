// Fill the page.

const models = new Set(rows.map((row) => row.model)).size;
const newest = rows.map((row) => row.own.created).sort().at(-1) ?? "";
byId("summary").textContent =
  `${rows.length} results of ${models} models on ${boards.length} boards` + (newest ? `, the newest of ${newest.slice(0, 10)}.` : ".");
byId("made").textContent = `Made by ssleval ${data.version}. One file; it asks no network for anything.` +
  (data.left_out ? ` Items of ${data.left_out} results were left out to keep it small (--detail-mb).` : "");

startTable();
startDetails();
startCost();
startContrast();
startFlips();
startPictures();
startTraining();
