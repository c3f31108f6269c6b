// What the picture of the chosen runs shows: labels, floors, words, the legend, and the same as a table.

// The settings in which the chosen groups differ, as a legend says them. Of those that have no column, no more are said than
// tell groups apart; where all of them leave some alike, the digest of a run is.
function labels(groups) {
  const firsts = [...groups.values()].map((group) => group[0]);
  const names = data.columns.filter((name) => name !== "seed");
  const differ = new Set(names.filter((name) => new Set(firsts.map((run) => run.words[name] ?? "")).size > 1));
  if (differ.has("birth") || differ.has("load")) differ.add("body");
  let said = firsts.map((run) => names.filter((name) => differ.has(name)).map((name) => run.words[name]).filter(Boolean));
  const kinds = (some) => new Set(some.map((words) => words.join())).size;
  for (const name of new Set(firsts.flatMap((run) => Object.keys(run.also)))) {
    const longer = said.map((words, number) => (name in firsts[number].also ? [...words, setting(name, firsts[number])] : words));
    if (kinds(longer) > kinds(said)) said = longer;
  }
  if (!said.flat().length) said = firsts.map((run) => [run.words.task, run.words.body]);
  said = said.map((words, number) => words.join(", ") || firsts[number].name);
  return said.map((label, number) => {
    const alike = said.filter((other) => other === label).length > 1;
    return alike ? `${label} (${firsts[number].status}, ${firsts[number].name.slice(-8)})` : label;
  });
}

// What the picture of the chosen runs shows: a line for each group of runs that differ by their seed alone, and floors.
function pictured(palette) {
  const drawn = [...chosen].filter((run) => view.part in run.parts && run.steps.length);
  const groups = new Map();
  for (const [group] of [...slots].sort((one, other) => one[1] - other[1])) {
    const members = drawn.filter((run) => run.group === group);
    if (members.length) groups.set(group, members);
  }
  const said = labels(groups);
  const lines = [...groups].map(([group, members], number) => ({
    label: members.length > 1 ? `${said[number]} (${members.length} seeds)` : said[number],
    group, style: lineStyle(slots.get(group), data.colours, palette),
    runs: members.map((run) => ({ name: run.name, points: run.steps.map((step, place) => [step, run.parts[view.part][place]]) })),
  }));
  return { lines, floors: floorsOf(drawn), missing: chosen.size - drawn.length };
}

// The floors that apply; of several tasks, or of sizes with floors of their own, the best of each.
function floorsOf(drawn) {
  const tasks = new Set(drawn.map((run) => run.task));
  const found = new Map();
  const sets = new Map(drawn.map((run) => [JSON.stringify([run.task, run.floors[view.part]]), run]));
  for (const run of sets.values()) {
    const here = Object.entries(run.floors[view.part] ?? {}).sort((one, other) => other[1] - one[1]);
    for (const [name, value] of sets.size > 1 ? here.slice(0, 1) : here) {
      const label = tasks.size > 1 ? `${run.task}, ${name}` : name;
      found.set(`${label} ${value.toFixed(3)}`, { label, value });
    }
  }
  return [...found.values()].sort((one, other) => other.value - one.value);
}

// The point of the highest accuracy, the first of equals; null where there is none.
function best(points) {
  const better = (most, point) => (point[1] !== null && (most === null || point[1] > most[1]) ? point : most);
  return points.reduce(better, null);
}

// The gist of the picture in words.
function gist(lines) {
  const told = lines.slice(0, 8).map((line) => {
    const point = best(line.runs.flatMap((run) => run.points));
    return point ? `${line.label}: at best ${accuracy(point[1])} at step ${point[0]}` : `${line.label}: no accuracy`;
  });
  const more = lines.length > 8 ? `; and ${lines.length - 8} more` : "";
  return `Accuracy on validation${view.part ? `, ${view.part}` : ""}, by training step. ${told.join("; ")}${more}.`;
}

const partName = (part) => part || "all answers";

function showCurves() {
  find("nothing").hidden = chosen.size > 0;
  find("drawn").hidden = chosen.size === 0;
  if (!chosen.size) {
    find("picture").replaceChildren();
    return;
  }
  const parts = [...new Set([...chosen].flatMap((run) => Object.keys(run.parts)))];
  if (!parts.includes(view.part)) view.part = "";
  const options = (parts.length ? parts : [""]).map((part) => element("option", { value: part }, partName(part)));
  find("part").replaceChildren(...options);
  find("part").value = view.part;

  const { lines, floors, missing } = pictured(PAGE);
  const width = Math.max(300, find("picture").clientWidth - 34);
  drawnWidth = find("curves").clientWidth;
  const picture = drawCurves({ lines, floors, title: gist(lines), width, colours: data.colours, palette: PAGE, legend: false });
  const legend = element("ul", { "aria-label": "Legend: press an entry to bring its curves forward" });
  lines.forEach((line) => {
    const swatch = svg("svg", { width: 30, height: 12, "aria-hidden": "true" });
    swatch.append(svg("line", { x1: 0, x2: 30, y1: 6, y2: 6 }, line.style));
    const button = element("button", { type: "button", "aria-pressed": "false" }, swatch, line.label);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", on && other === button);
      legend.pressed = on ? slots.get(line.group) : undefined;
      light(legend.pressed);
    });
    const over = () => light(slots.get(line.group)), out = () => light();
    for (const kind of ["mouseenter", "focus"]) button.addEventListener(kind, over);
    for (const kind of ["mouseleave", "blur"]) button.addEventListener(kind, out);
    legend.append(element("li", {}, button));
  });
  picture.querySelectorAll(".curve").forEach((curve, number) => (curve.dataset.slot = slots.get(lines[number].group)));
  find("picture").replaceChildren(picture, legend);

  const notes = ["Floors are the accuracies of trivial predictors on test."];
  if (missing) notes.push(`${missing} chosen ${missing === 1 ? "run has" : "runs have"} no such curve.`);
  if (lines.length > DASHES.length * data.colours.length) {
    notes.push(`Colours and dashes repeat after ${DASHES.length * data.colours.length}: point at a curve or at its name.`);
  }
  find("note").textContent = notes.join(" ");
  if (find("numbers").open) showNumbers();
}

// Brings the curves of a line forward; without a number, those of the entry of the legend that is pressed, or none.
function light(slot = find("picture").querySelector("ul")?.pressed) {
  const picture = find("picture").querySelector("svg[role=img]");
  picture?.classList.toggle("lit", slot !== undefined);
  for (const curve of picture?.querySelectorAll(".curve") ?? []) {
    curve.classList.toggle("on", curve.dataset.slot === String(slot));
  }
}

function showNumbers() {
  const { lines, floors } = pictured(PAGE);
  const points = lines.flatMap((line) => line.runs.flatMap((run) => run.points));
  const steps = [...new Set(points.map((point) => point[0]))].sort((one, other) => one - other);
  const head = element("tr", {}, element("th", { scope: "col" }, "run, by training step"),
                       ...steps.map((step) => element("th", { scope: "col", class: "number" }, step.toLocaleString("en"))));
  const rows = lines.flatMap((line) => line.runs.map((run) => {
    const values = new Map(run.points);
    return element("tr", {}, element("th", { scope: "row" }, run.name),
                   ...steps.map((step) => element("td", { class: "number" }, accuracy(values.get(step) ?? null) || "–")));
  }));
  for (const floor of floors) {
    rows.push(element("tr", {}, element("th", { scope: "row" }, `floor: ${floor.label}`),
                      element("td", { class: "number" }, floor.value.toFixed(3))));
  }
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  find("numbers").querySelector("div").replaceChildren(table);
}
