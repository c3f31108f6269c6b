// The parts together.

function update() {
  showFilters();
  showTable();
  updateChoice();
}

// The rows stay where they are, and so does the focus.
function updateChoice() {
  showChoice();
  showCurves();
  writeAddress();
}

makeFilters();
makeTable();
find("choose").addEventListener("click", () => toggle(shown, true));
find("clear").addEventListener("click", () => toggle(runs, false));
find("part").addEventListener("change", () => {
  view.part = find("part").value;
  updateChoice();
});
find("numbers").addEventListener("toggle", () => find("numbers").open && showNumbers());
find("table-csv").addEventListener("click", saveTable);
find("curves-csv").addEventListener("click", saveCurves);
find("curves-svg").addEventListener("click", savePicture);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("making").open) toggle(runs, false);
});
addEventListener("hashchange", () => {
  readAddress();
  update();
});
new ResizeObserver(() => requestAnimationFrame(() => {
  if (chosen.size && find("curves").clientWidth !== drawnWidth) showCurves();
})).observe(find("curves"));
readAddress();
update();
