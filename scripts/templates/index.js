// The table of runs and what is chosen in it. The state is `view` and `chosen`; the address keeps both.

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const find = (id) => document.getElementById(id);
const TITLES = { lr: "rate", test: "on test", floor: "best floor", above: "above it" };
const NUMBERS = new Set(["lr", "seed", "test", "floor", "above"]);
const FALLING = new Set(["test", "above"]); // the best comes first
const FIELDS = [...data.columns, "status"]; // each has a filter
const COLUMNS = [...FIELDS, "test", "floor", "above"];
const DEBOUNCE = 200; // milliseconds: browsers forbid a page to change its address often

const view = { words: "", sort: "", part: "", only: {} }; // sort: a column, with a dash in front the other way round
const chosen = new Set();
const slots = new Map(); // group of a chosen run -> number of its line, which it keeps while it is chosen
let shown = runs;
let drawnWidth = 0; // of the section that the picture of the curves was fitted to

function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

const title = (column) => TITLES[column] ?? column;
const text = (value) => (value === null || value === undefined ? "" : String(value));
const accuracy = (value) => (value === null ? "" : value.toFixed(3));
const setting = (name, run) => `${name.replaceAll("_", " ")} ${text(run.also[name]) || "none"}`;
const also = (run) => Object.keys(run.also).map((name) => setting(name, run)).join(", ");

for (const run of runs) {
  const floors = Object.entries(run.floors[""] ?? {}).sort((one, other) => other[1] - one[1]);
  [run.predictor, run.floor] = floors[0] ?? ["", null];
  run.above = run.test === null || run.floor === null ? null : Number((run.test - run.floor).toFixed(6));
  run.searched = [run.name, ...FIELDS.map((field) => text(run[field])), also(run), run.predictor, run.why ?? ""].join(" ").toLowerCase();
}

// ---- The table -------------------------------------------------------------------------------------------------------

function state(run) {
  if (run.status === "unfinished" && run.steps.length) {
    const [step, value] = [run.steps.at(-1), run.parts[""].at(-1)];
    return `${accuracy(value) || "no accuracy"} on validation at step ${step.toLocaleString("en")}`;
  }
  return run.status === "damaged" ? `${run.name}: ${run.why}` : "";
}

function makeRow(run) {
  const cell = (column, ...content) => element("td", { role: "gridcell", "data-name": title(column),
    class: `${column}${NUMBERS.has(column) ? " number" : ""}` }, ...content);
  const small = (said) => (said ? [element("small", {}, said)] : []);
  run.box = element("input", { type: "checkbox", tabindex: -1, "aria-label": `Choose ${run.name}` });
  const told = FIELDS.map((field) => cell(field, text(run[field])));
  const status = told.at(-1);
  told[0].append(...small(also(run)));
  status.append(...small(state(run)));
  status.classList.add(run.status);
  run.row = element("tr", { role: "row", title: run.name }, cell("choose", run.box), ...told);
  run.row.run = run;
  if (run.status === "damaged") {
    status.colSpan = COLUMNS.length - FIELDS.length + 2; // the reason in place of what there is not
    return;
  }
  const above = cell("above", (run.above > 0 ? "+" : "") + accuracy(run.above));
  if (run.above !== null) above.classList.add(run.above > 0 ? "above" : "below");
  const door = cell("page");
  run.row.append(cell("test", accuracy(run.test)), cell("floor", accuracy(run.floor), ...small(run.predictor)), above, door);
  if (run.page) {
    run.door = element("a", { href: run.page, "aria-label": `Page of ${run.name}` }, "page");
  } else if (run.status !== "unfinished") {
    run.door = element("button", { type: "button", "aria-label": `The command that makes the page of ${run.name}` }, "make page");
  }
  if (run.door) {
    run.door.tabIndex = -1;
    door.append(run.door);
  }
}

function makeTable() {
  const heads = [element("th", { role: "columnheader" }, element("span", { class: "hidden" }, "chosen"))];
  for (const column of COLUMNS) {
    heads.push(element("th", { role: "columnheader", class: NUMBERS.has(column) ? "number" : "" },
                       element("button", { type: "button", "data-sort": column }, title(column))));
  }
  heads.push(element("th", { role: "columnheader" }, element("span", { class: "hidden" }, "page")));
  runs.forEach(makeRow);
  const body = element("tbody", { role: "rowgroup" });
  const table = element("table", { role: "grid", "aria-label": "Runs", "aria-multiselectable": "true" },
                        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), body);
  find("runs").append(table, element("p", { class: "empty soft", hidden: "" }, "No run is as the filters ask."));
  table.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr"), sort = event.target.dataset.sort;
    if (sort) {
      const usual = (FALLING.has(sort) ? "-" : "") + sort;
      view.sort = view.sort === usual ? (usual === sort ? `-${sort}` : sort) : usual;
      update();
    } else if (event.target.closest("td.page button")) {
      showCommand(row.run);
    } else if (row && !event.target.closest("a") && getSelection().isCollapsed) {
      toggle([row.run], !chosen.has(row.run));
      row.run.box.focus({ preventScroll: true });
    }
  });
  body.addEventListener("keydown", move);
  body.addEventListener("focusin", (event) => {
    const row = event.target.closest("tr");
    body.querySelectorAll('input[tabindex="0"]').forEach((box) => (box.tabIndex = -1));
    row.run.box.tabIndex = 0;
    light(slots.get(row.run.group));
  });
  body.addEventListener("focusout", () => light());
  body.addEventListener("mouseover", (event) => light(slots.get(event.target.closest("tr")?.run.group)));
  body.addEventListener("mouseleave", () => light());
}

// The arrow keys in the table.
function move(event) {
  const run = event.target.closest("tr").run, place = shown.indexOf(run), page = 10;
  const targets = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1, PageDown: place + page, PageUp: place - page };
  if (event.key in targets) {
    shown[Math.max(0, Math.min(shown.length - 1, targets[event.key]))].box.focus();
  } else if (event.key === "ArrowRight" && run.door) {
    run.door.focus();
  } else if (event.key === "ArrowLeft") {
    run.box.focus();
  } else {
    return;
  }
  event.preventDefault();
}

function compare(one, other) {
  const falling = view.sort.startsWith("-"), column = view.sort.replace("-", "");
  const [first, second] = [one[column], other[column]];
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(first) || missing(second)) return missing(first) - missing(second); // last, whichever way round
  const both = typeof first === "number" && typeof second === "number";
  const order = both ? first - second : text(first) < text(second) ? -1 : text(first) > text(second) ? 1 : 0;
  return falling ? -order : order;
}

function showTable() {
  const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
  const asked = Object.entries(view.only);
  const kept = runs.filter((run) => words.every((word) => run.searched.includes(word))
                                    && asked.every(([field, value]) => text(run[field]) === value));
  shown = view.sort ? kept.toSorted(compare) : kept;
  document.querySelector("#runs tbody").replaceChildren(...shown.map((run) => run.row));
  document.querySelector("#runs .empty").hidden = shown.length > 0;
  if (shown.length && !shown.some((run) => run.box.tabIndex === 0)) shown[0].box.tabIndex = 0;
  for (const button of document.querySelectorAll("#runs th button")) {
    const column = button.dataset.sort;
    const order = view.sort === column ? "ascending" : view.sort === `-${column}` ? "descending" : "none";
    button.parentElement.setAttribute("aria-sort", order);
    button.textContent = title(column) + { ascending: " ↑", descending: " ↓", none: "" }[order];
  }
}

function showChoice() {
  const groups = new Set([...chosen].map((run) => run.group));
  for (const group of slots.keys()) if (!groups.has(group)) slots.delete(group);
  const taken = new Set(slots.values());
  let free = 0;
  for (const group of groups) {
    if (slots.has(group)) continue;
    while (taken.has(free)) free += 1;
    slots.set(group, free);
    taken.add(free);
  }
  for (const run of runs) {
    run.box.checked = chosen.has(run);
    run.row.classList.toggle("chosen", run.box.checked);
    run.row.setAttribute("aria-selected", run.box.checked);
  }
  const seen = new Set(shown);
  const unseen = [...chosen].filter((run) => !seen.has(run)).length;
  find("count").textContent = `${shown.length} of ${runs.length} runs are shown, ${chosen.size} chosen`
    + (unseen ? `, ${unseen} of these not shown.` : ".");
  find("clear").disabled = chosen.size === 0;
  find("choose").disabled = shown.length === 0;
}

function toggle(some, on) {
  for (const run of some) on ? chosen.add(run) : chosen.delete(run);
  updateChoice();
}

function showCommand(run) {
  find("command").value = run.command;
  find("making").showModal();
  find("command").select();
}

// ---- The filters and the address --------------------------------------------------------------------------------------

function makeFilters() {
  for (const field of FIELDS) {
    const values = [...new Set(runs.map((run) => run[field]).filter((value) => value !== null && value !== undefined))];
    values.sort((one, other) => (typeof one === "number" && typeof other === "number" ? one - other : text(one) < text(other) ? -1 : 1));
    const select = element("select", { "data-field": field }, element("option", { value: "" }, "any"));
    for (const value of values) select.append(element("option", { value: text(value) }, text(value)));
    find("fields").append(element("label", {}, title(field), select));
    select.addEventListener("change", () => {
      if (select.value) view.only[field] = select.value;
      else delete view.only[field];
      update();
    });
  }
  const sort = find("sort");
  sort.append(element("option", { value: "" }, "name"));
  for (const column of COLUMNS) {
    for (const [dash, word] of [["", "rising"], ["-", "falling"]]) {
      sort.append(element("option", { value: dash + column }, `${title(column)}, ${word}`));
    }
  }
  sort.addEventListener("change", () => {
    view.sort = sort.value;
    update();
  });
  find("words").addEventListener("input", () => {
    view.words = find("words").value;
    update();
  });
  find("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(view, { words: "", only: {} });
    update();
  });
  find("filters").addEventListener("submit", (event) => event.preventDefault());
}

function showFilters() {
  if (find("words").value !== view.words) find("words").value = view.words;
  find("sort").value = view.sort;
  for (const select of document.querySelectorAll("#fields select")) select.value = view.only[select.dataset.field] ?? "";
}

let writing = null;

function writeAddress() {
  const stated = new URLSearchParams(view.only);
  for (const key of ["words", "sort", "part"]) if (view[key]) stated.set(key, view[key]);
  for (const run of chosen) stated.append("run", run.name);
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState(null, "", `#${stated}`), DEBOUNCE);
}

// What the address asks for and this folder does not have, since it is an old link say, is left out.
function readAddress() {
  const stated = new URLSearchParams(location.hash.slice(1));
  const sort = stated.get("sort") ?? "";
  Object.assign(view, { words: stated.get("words") ?? "", part: stated.get("part") ?? "", only: {},
                        sort: COLUMNS.includes(sort.replace("-", "")) ? sort : "" });
  for (const field of FIELDS) {
    const value = stated.get(field);
    if (value && runs.some((run) => text(run[field]) === value)) view.only[field] = value;
  }
  const named = new Map(runs.map((run) => [run.name, run]));
  chosen.clear();
  for (const name of stated.getAll("run")) if (named.has(name)) chosen.add(named.get(name));
}

// ---- The curves of what is chosen -------------------------------------------------------------------------------------

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
  const groups = new Map([...slots].sort((one, other) => one[1] - other[1]).map(([group]) => [group, drawn.filter((run) => run.group === group)]));
  for (const [group, members] of groups) if (!members.length) groups.delete(group);
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

const best = (points) => points.reduce((most, point) => (point[1] !== null && (most === null || point[1] > most[1]) ? point : most), null);

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
    for (const [kind, act] of [["mouseenter", over], ["mouseleave", out], ["focus", over], ["blur", out]]) button.addEventListener(kind, act);
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
  for (const curve of picture?.querySelectorAll(".curve") ?? []) curve.classList.toggle("on", curve.dataset.slot === String(slot));
}

function showNumbers() {
  const { lines, floors } = pictured(PAGE);
  const steps = [...new Set(lines.flatMap((line) => line.runs.flatMap((run) => run.points.map((point) => point[0]))))].sort((one, other) => one - other);
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
  find("numbers").querySelector("div").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

// ---- Files ------------------------------------------------------------------------------------------------------------

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
  const rows = shown.map((run) => [run.name, ...FIELDS.map((field) => run[field]), ...more.map((name) => run.also[name]), run.test,
                                   run.floor, run.predictor, run.above, run.why]);
  save("runs.csv", "text/csv", csv([["run", ...FIELDS, ...more, "test", "floor", "floor's predictor", "above the floor", "damage"], ...rows]));
}

function saveCurves() {
  const { lines } = pictured(FILE);
  const rows = lines.flatMap((line) => line.runs.flatMap((run) => run.points.map(([step, value]) => [run.name, line.label, partName(view.part), step, value])));
  save("curves.csv", "text/csv", csv([["run", "label", "answers", "step", "accuracy on validation"], ...rows]));
}

function savePicture() {
  const { lines, floors } = pictured(FILE);
  const picture = drawCurves({ lines, floors, title: gist(lines), width: 900, colours: data.colours, palette: FILE, legend: true });
  save("curves.svg", "image/svg+xml", new XMLSerializer().serializeToString(picture));
}

// ---- Together ---------------------------------------------------------------------------------------------------------

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
