// The runs, and what the page is to show of them: `view` and `chosen`, both kept in the address.

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

// Which of two values comes first: numbers by size, others by their text.
function order(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return text(one) < text(other) ? -1 : text(one) > text(other) ? 1 : 0;
}

const setting = (name, run) => `${name.replaceAll("_", " ")} ${text(run.also[name]) || "none"}`;
const also = (run) => Object.keys(run.also).map((name) => setting(name, run)).join(", ");

for (const run of runs) {
  const floors = Object.entries(run.floors[""] ?? {}).sort((one, other) => other[1] - one[1]);
  [run.predictor, run.floor] = floors[0] ?? ["", null];
  run.above = run.test === null || run.floor === null ? null : Number((run.test - run.floor).toFixed(6));
  const words = [run.name, ...FIELDS.map((field) => text(run[field])), also(run), run.predictor, run.why ?? ""];
  run.searched = words.join(" ").toLowerCase();
}
