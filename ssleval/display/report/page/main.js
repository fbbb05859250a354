// Fill the page.

const models = new Set(rows.map((row) => row.model)).size;
const newest = rows.map((row) => row.own.created).sort().at(-1) ?? "";
byId("summary").textContent = rows.length === 0 ? "There are no results." :
  `${counted(rows.length, "result")} of ${counted(models, "model")} on ${counted(boards.length, "board")}` + (newest ? `, the newest of ${newest.slice(0, 10)}.` : ".");
byId("made").textContent = `Made by ssleval ${data.version}. One file; it asks no network for anything.` +
  (data.left_out ? ` Without the items of ${counted(data.left_out, "result")}, to keep it small (--detail-mb).` : "");

byId("matrix").hidden = byId("results").hidden = rows.length === 0;
startMatrix();
startTable();
startDetails();
startCost();
startCurves();
startContrast();
startFlips();
startPictures();
startSimilarity();
startTraining();
for (const link of document.querySelectorAll("#sections a")) link.hidden = document.querySelector(link.getAttribute("href")).hidden;
startView();
