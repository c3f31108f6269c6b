// The files that the page saves.

function save(name, type, content) {
  const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const csv = (rows) => rows.map((row) => row.map((value) => {
  const said = text(value);
  return /[",\n\r]/.test(said) ? `"${said.replaceAll('"', '""')}"` : said;
}).join(",")).join("\r\n") + "\r\n";

function saveTable() {
  const more = [...new Set(shown.flatMap((run) => Object.keys(run.also)))];
  const head = ["run", ...FIELDS, ...more, "test", "floor", "floor's predictor", "above the floor", "damage"];
  const rows = shown.map((run) => [run.name, ...FIELDS.map((field) => run[field]), ...more.map((name) => run.also[name]),
                                   run.test, run.floor, run.predictor, run.above, run.why]);
  save("runs.csv", "text/csv", csv([head, ...rows]));
}

function saveCurves() {
  const { lines } = pictured(FILE);
  const part = partName(view.part);
  const rows = lines.flatMap((line) => line.runs.flatMap(
    (run) => run.points.map(([step, value]) => [run.name, line.label, part, step, value])));
  save("curves.csv", "text/csv", csv([["run", "label", "answers", "step", "accuracy on validation"], ...rows]));
}

function savePicture() {
  const { lines, floors } = pictured(FILE);
  const picture = drawCurves({ lines, floors, title: gist(lines), width: 900, colours: data.colours, palette: FILE,
                               legend: true });
  save("curves.svg", "image/svg+xml", new XMLSerializer().serializeToString(picture));
}
