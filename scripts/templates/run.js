// What is chosen on the page, and what is drawn anew when the choice changes.

const last = content.examples.length - 1; // of the examples: the mean over many
const own = content.moments.filter((moment) => moment.of === 0).length;
const state = {
  example: 0, moment: content.now, beside: "", order: "layer", quantity: "0", measure: "0", colours: content.examples[0].tokens > 64 ? "own" : "root", rows: "all", answer: "",
  layer: content.head[0], head: content.head[1], query: null, key: null, held: false, tableOpen: false,
};
const grids = [new HeadsGrid(at("heads")), new HeadsGrid(at("heads-beside"))];
let shown = []; // the enlarged maps: the moment's, and the one beside it
let drawing = Promise.resolve();

// Takes up a new choice and draws what depends on it, one change after another.
function change(choice) {
  const before = { ...state };
  Object.assign(state, choice);
  if ("example" in choice && choice.example !== before.example) chooseExample();
  const changed = (...names) => names.some((name) => state[name] !== before[name]);
  if (changed("query", "key", "held", "answer") && !changed("example")) drawing = drawing.then(drawQuery);
  if (changed("example", "moment", "beside", "order", "quantity", "colours")) drawing = drawing.then(drawHeads);
  if (changed("layer", "head")) drawing = drawing.then(() => grids.forEach((grid) => grid.cells.length && grid.select()));
  if (changed("example", "moment", "beside", "colours", "layer", "head", "rows")) drawing = drawing.then(drawMaps);
  if (changed("moment", "layer", "head", "measure")) drawing = drawing.then(drawMeasures);
  settle();
}

// Says that the page is busy until what was asked for is drawn.
function settle() {
  const waited = drawing;
  document.body.setAttribute("aria-busy", "true");
  drawing.then(() => waited === drawing && document.body.setAttribute("aria-busy", "false"));
}

// With another example go its first token that is read, its masks and its text.
function chooseExample() {
  const example = content.examples[state.example];
  Object.assign(state, { query: example.read[0] ?? null, key: null, held: false });
  const names = Object.keys(example.masks);
  if (!names.includes(state.answer)) state.answer = "";
  options(at("answer"), [["", "nothing"], ...names.map((name) => [name, `the answer: ${name}`])]);
  at("answer").value = state.answer;
  at("text-of").textContent = example.text;
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
}

// The moments whose heads are shown, with their unpacked views; one whose example was left out shows the mean.
async function views() {
  const numbers = [state.moment, ...(state.beside === "" ? [] : [Number(state.beside)])];
  const found = [];
  for (const moment of numbers) {
    const view = (await View.load(moment, state.example)) ?? (await View.load(moment, last));
    found.push({ moment, view });
  }
  return found;
}

async function drawHeads() {
  const found = await views();
  grids.forEach((grid, number) => {
    grid.host.hidden = !found[number];
    if (found[number]) grid.draw(found[number].view, found[number].moment);
    else grid.cells = [];
  });
  at("heads-title").textContent = `All heads: ${content.moments[state.moment].label}` +
    (state.beside === "" ? "" : `; below: ${content.moments[state.beside].label}`);
  const { view } = found[0];
  at("blocks").textContent = [
    view.block > 1 ? `Each cell stands for ${view.block} queries and ${view.block} keys: the weights that a query of the block puts on ` +
      "all keys of the other, on average over these queries." : "",
    view.example === content.examples[state.example] ? "" : "This page holds only the first example and the mean at this step: here is the mean.",
  ].join(" ");
  drawLegend();
}

async function drawMaps() {
  const found = await views();
  const host = at("maps");
  host.replaceChildren();
  shown = [];
  for (const [number, { moment, view }] of found.entries()) {
    const caption = content.moments[moment].label;
    if (!view.has(state.layer, state.head)) {
      host.append(element("p", {}, `${caption} has no ${headName(state.layer, state.head)}.`));
      continue;
    }
    const map = await view.large(state.layer, state.head);
    shown.push(Object.assign(new LargeMap(host, moment, view, map, caption), { caption, beside: number > 0 }));
  }
  const name = headName(state.layer, state.head);
  at("chosen-title").textContent = name[0].toUpperCase() + name.slice(1);
  at("chosen-numbers").replaceChildren(...numbersOf());
  at("tokens-title").textContent = exampleName(state.example);
  at("answer-said").replaceChildren(...(state.example === last ? [content.examples[last].text] : found.map(({ moment }) => answerOf(moment, state.example))));
  const whole = shown[0].map.block > 1 && state.layer !== MEAN && state.head !== MEAN;
  at("chosen-numbers").append(whole ? element("p", {}, `Not all maps fit this page token by token: --head ${state.layer}.${state.head} keeps this one.`) : "");
  drawQuery();
}

// All that is known of the chosen head: a line for each quantity, a column for each map that is shown.
function numbersOf() {
  if (state.layer === MEAN || state.head === MEAN) return [];
  const number = (...words) => element("td", { class: "number" }, ...words);
  const value = (one, moment) => {
    const error = one.errors[moment]?.[state.layer]?.[state.head];
    const found = valueOf(one, moment, state.layer, state.head);
    return found === null ? "" : said(found) + (error === undefined ? "" : ` ± ${said(error)}`);
  };
  const rows = content.quantities.filter((one) => !one.all).map((one) => [one, shown.map((map) => value(one, map.moment))]);
  const heads = [...shown.map((map) => content.moments[map.moment].short), "spread evenly"];
  return [element("table", { class: "facts" }, element("caption", {}, "This head in numbers"),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Measure"),
      ...heads.map((head) => element("th", { scope: "col", class: "number" }, head)))),
    element("tbody", {}, ...rows.filter(([, values]) => values.some(Boolean)).map(([one, values]) => element("tr", {},
      element("th", { scope: "row" }, one.name), ...values.map((text) => number(text)),
      number(one.uniform === null ? "" : said(one.uniform))))))];
}

function drawQuery() {
  if (!shown.length) return;
  shown.forEach((map) => map.choose());
  at("readout").textContent = readoutOf(shown[0]);
  drawTokens(at("tokens"), shown);
  if (content.grid) at("tokens-saved").hidden = !shown[0].view.example.picture;
  if (at("weights").open) at("weights-of").replaceChildren(weightsTable(shown));
}

function drawLegend() {
  const scale = new Scale(state.colours, 1);
  const [left, wide] = [8, 240];
  const svg = drawn("svg", { width: 330, height: 36, class: "drawing", role: "img",
    "aria-label": "Colours of the weights, from 0, dark blue, to the largest, yellow." });
  for (let part = 0; part < 120; part++) {
    svg.append(drawn("rect", { x: left + part * 2, y: 2, width: 2.5, height: 12, fill: `rgb(${viridis(part / 119).join(",")})` }));
  }
  for (const tick of scale.ticks) {
    const words = state.colours === "own" ? (tick === 0 ? "0" : tick === 1 ? "a map’s largest 2%" : "") : String(Number(tick.toPrecision(3)));
    svg.append(drawn("text", { x: left + scale.part(tick) * wide, y: 30, "text-anchor": "middle" }, words));
  }
  at("legend").replaceChildren(element("span", {}, "Weight "), svg, element("span", { class: "soft" }, " ▸ marks a token that is read: the model answers from it."));
}

function exampleName(number) {
  const example = content.examples[number];
  return example.number === null ? "Mean over examples" : `Example ${example.number} of test`;
}

function drawResult() {
  barChart(at("bars"), content.bars);
  const rules = content.curves.length === 1 ? Object.entries(content.curves[0].floors).map(([name, value]) => ({ name, value })) : [];
  const series = content.curves.map((curve, number) => ({ ...curve, colour: CURVES[number % CURVES.length], shown: true }));
  curveChart(at("learning"), { series, rules, across: "training step", up: "accuracy on validation", to: 1,
    label: `Accuracy on validation by step. ${series.map((one) => `${one.name}: from ${said(one.points[0]?.[1])} to ${said(one.points.at(-1)?.[1])}`).join("; ")}.` });
}

Object.assign(figures, {
  bars: { name: () => "accuracy", drawing: () => at("bars").firstChild, rows: () =>
    [["answers", "predictor", "accuracy"], ...content.bars.flatMap((group) => group.rows.map((row) => [group.name, row.name, row.value]))] },
  learning: { name: () => "learning", drawing: () => at("learning").firstChild, rows: () =>
    [["answers", "step", "accuracy"], ...content.curves.flatMap((curve) => curve.points.map((point) => [curve.name, ...point]))] },
  heads: { name: () => `heads-${exampleName(state.example)}`, drawing: () => stacked(grids.filter((grid) => grid.cells.length).map((grid) => grid.drawing())),
    rows: () => [["layer", "head", "moment", "query", "key", "weight"], ...grids.flatMap((grid, number) => grid.cells.length === 0 ? [] :
      grid.cells.flatMap(({ layer, head }) => cellsOf(shown[number].view.small(layer, head)).map((cell) => [layer, head, shown[number].caption, ...cell])))] },
  maps: { name: () => `${headName(state.layer, state.head)}-${exampleName(state.example)}`, drawing: () => stacked(shown.map((map) => map.svg)),
    rows: () => [["moment", "query", "query token", "key", "key token", "weight"], ...shown.flatMap((map) => map.lines.flatMap((line) =>
      Array.from({ length: line.visible }, (_, key) => [map.caption, line.token, blockName(map.example, line.token, line.block), key * map.block,
        blockName(map.example, key * map.block, map.block), line.weight(key)])))] },
});

figures.tokens = { name: () => `picture-${headName(state.layer, state.head)}-${exampleName(state.example)}`,
  drawing: () => at("tokens").querySelector("svg"), rows: () => [["moment", "query", "key", "key token", "weight"], ...shown.flatMap((one) => {
    const found = weightsOf(one);
    return found ? [...found.weights].map((weight, key) =>
      [one.caption, state.query, key * found.block, blockName(one.example, key * found.block, found.block), weight]) : [];
  })] };

const cellsOf = (map) => Array.from({ length: map.side }, (_, row) => Array.from({ length: row + 1 }, (_, column) =>
  [row * map.block, column * map.block, map.at(row, column)])).flat();

function wire() {
  const names = content.quantities.map((quantity, number) => [String(number), quantity.name]);
  const marks = (number) => (number === last ? "" : ` (${verdictOf(content.now, number)})`);
  options(at("example"), content.examples.map((_, number) => [number, exampleName(number) + marks(number)]));
  options(at("beside"), [["", "nothing"], ...content.moments.map((moment, number) => [number, moment.label])]);
  options(at("order"), [["layer", "by layer"], ...names.map(([number, title]) => [number, `${content.quantities[number].unit === "nats" ? "smallest" : "largest"} ${title} first`])]);
  options(at("quantity"), names);
  options(at("measure"), names);
  Object.assign(at("moment"), { max: own - 1, value: state.moment, disabled: own < 2 });
  at("colours").value = state.colours;
  for (const name of ["beside", "order", "quantity", "colours", "rows", "answer", "measure"]) {
    at(name).addEventListener("change", (event) => change({ [name]: event.target.value }));
  }
  at("order").addEventListener("change", (event) => {
    if (event.target.value === "layer") return;
    at("quantity").value = event.target.value;
    change({ quantity: event.target.value });
  });
  at("example").addEventListener("change", (event) => change({ example: Number(event.target.value) }));
  const named = () => {
    at("moment-name").textContent = content.moments[at("moment").value].label;
    at("moment").setAttribute("aria-valuetext", at("moment-name").textContent);
  };
  at("moment").addEventListener("input", (event) => { named(); change({ moment: Number(event.target.value) }); });
  named();
  at("weights").addEventListener("toggle", drawQuery);
  if (content.examples[0].read.length > 1) {
    Object.assign(at("figure"), { hidden: false, onclick: () => {
      Object.assign(at("example"), { value: last });
      at("rows").value = "read";
      change({ example: last, rows: "read", layer: 0, head: MEAN });
      change({ answer: at("answer").value = Object.keys(content.examples[last].masks)[0] ?? "" });
    } });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.query !== null) change({ query: null, key: null, held: false });
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    drawing = drawing.then(drawResult).then(drawMeasures).then(drawMaps);
    settle();
  });
}

wire();
chooseExample();
drawResult();
drawing = drawHeads().then(drawMaps).then(drawMeasures);
settle();
