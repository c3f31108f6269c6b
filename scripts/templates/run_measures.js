// What is known of each head as numbers: by layer and head, and over training.

const UNITS = { share: "share of the weights", nats: "nats", tokens: "tokens", patches: "patches", accuracy: "accuracy", "nats gained": "nats" };

function drawMeasures() {
  const quantity = content.quantities[state.measure];
  const moment = quantity.tables[state.moment] ? state.moment : content.now;
  const table = quantity.tables[moment];
  const title = quantity.name;
  const label = content.moments[moment].label;
  at("table-title").textContent = `${title[0].toUpperCase()}${title.slice(1)} (${UNITS[quantity.unit]}), ${label}`;
  const chosen = [state.layer, state.head];
  const ranked = table.flatMap((row, layer) => row.map((value, head) => [value, `${layer}.${head}`])).sort((one, other) => other[0] - one[0]);
  const gist = `${title}, by layer and head: from ${said(ranked.at(-1)[0])} (head ${ranked.at(-1)[1]}) to ${said(ranked[0][0])} (head ${ranked[0][1]}).`;
  const host = element("div", { class: "chart" });
  at("table").replaceChildren(host);
  headChart(host, { label: gist, table, chosen, onchoose: (layer, head) => change({ layer, head }) });
  at("table").append(element("details", { open: state.tableOpen, ontoggle: (event) => { state.tableOpen = event.target.open; } },
    element("summary", {}, "As a table"), headTable(title, table, quantity.errors[moment])));
  at("nulls").textContent = nullsOf(quantity, moment);
  drawTraining(quantity, title);
  figures.table = { name: () => quantity.name, drawing: () => host.querySelector("svg"), rows: () =>
    [["layer", "head", "moment", title, "uniform"], ...Object.entries(quantity.tables).flatMap(([number, one]) =>
      one.flatMap((row, layer) => row.map((value, head) => [layer, head, content.moments[number].label, value, quantity.uniform ?? ""])))] };
}

function headTable(title, table, errors) {
  const head = element("tr", {}, element("th", { scope: "col" }, "Layer"), ...table[0].map((_, number) =>
    element("th", { scope: "col", class: "number" }, `head ${number}`)));
  const rows = table.map((row, layer) => element("tr", {}, element("th", { scope: "row" }, String(layer)), ...row.map((value, number) =>
    element("td", { class: "number" }, said(value, 4) + (errors ? ` ± ${said(errors[layer][number])}` : "")))));
  return element("div", { class: "wide" }, element("table", {}, element("caption", {}, title + (errors ? ", ± standard error" : "")),
    element("thead", {}, head), element("tbody", {}, ...rows)));
}

const meanOf = (table) => average(table.flat().map((value) => [value]))[0];

// The quantity of the chosen head beside what says nothing about the run.
function nullsOf(quantity, moment) {
  const named = state.layer === MEAN || state.head === MEAN ? "Mean over heads" : `Layer ${state.layer}, head ${state.head}`;
  const told = (table) => (named === "Mean over heads" ? meanOf(table) : table[state.layer]?.[state.head] ?? meanOf(table));
  const others = content.moments.map((one, number) => [one, quantity.tables[number], number])
    .filter(([one, table, number]) => table && number !== moment && (one.of > 0 || number === 0 || number === content.now))
    .map(([one, table]) => `${one.label} ${said(told(table))}`);
  const even = quantity.uniform === null ? [] : [`spread evenly ${said(quantity.uniform)}`];
  const error = quantity.errors[moment] && named !== "Mean over heads" ? ` ± ${said(quantity.errors[moment][state.layer][state.head])}` : "";
  const beside = [...even, ...others];
  return `${named}: ${said(told(quantity.tables[moment]))}${error}${beside.length ? `; beside it: ${beside.join("; ")}` : ""}.`;
}

// A quantity of the run by its step, in order: at the moments that the page shows, and at others.
function stepsOf(quantity) {
  const own = content.moments.map((moment, number) => [moment.step, moment.of === 0 && quantity.tables[number]]);
  return [...new Map([...own.filter(([, table]) => table), ...quantity.steps])].sort(([one], [other]) => one - other);
}

function drawTraining(quantity, title) {
  const steps = stepsOf(quantity);
  const host = at("training");
  const figure = host.closest("figure");
  figure.hidden = steps.length < 2;
  if (figure.hidden) return;
  at("training-title").textContent = `${title}: each head over training`;
  const { layers, heads } = content.moments[content.now];
  const all = Array.from({ length: layers * heads }, (_, place) => [Math.floor(place / heads), place % heads]);
  const line = (layer, head) => steps.map(([step, table]) => [step, table[layer][head]]);
  const series = all.map(([layer, head]) => ({ name: `layer ${layer}, head ${head}`, points: line(layer, head), faint: true }));
  series.push({ name: "mean over heads", points: steps.map(([step, table]) => [step, meanOf(table)]), colour: CURVES[1], shown: true });
  const single = state.layer !== MEAN && state.head !== MEAN;
  if (single) series.push({ name: headName(state.layer, state.head), points: line(state.layer, state.head), colour: CURVES[0], shown: true });
  const rules = quantity.uniform === null ? [] : [{ name: "spread evenly", value: quantity.uniform }];
  content.moments.forEach((moment, number) => {
    const table = quantity.tables[number];
    if (moment.of > 0 && table) {
      const value = single ? table[state.layer]?.[state.head] : meanOf(table);
      if (value !== undefined) rules.push({ name: moment.label, value });
    }
  });
  curveChart(host, { label: `${title} by training step, a line for each head.`, series, rules, across: "training step",
    up: UNITS[quantity.unit] });
  const head = element("tr", {}, element("th", { scope: "col" }, "Layer.head"), ...steps.map(([step]) =>
    element("th", { scope: "col", class: "number" }, `step ${step.toLocaleString("en")}`)));
  at("training-table").replaceChildren(element("table", {}, element("caption", {}, title), element("thead", {}, head),
    element("tbody", {}, ...all.map(([layer, one]) => element("tr", {}, element("th", { scope: "row" }, `${layer}.${one}`),
      ...line(layer, one).map(([, value]) => element("td", { class: "number" }, said(value, 4))))))));
  figures.training = { name: () => `${quantity.name}-over-training`, drawing: () => host.querySelector("svg"), rows: () =>
    [["step", "layer", "head", title], ...steps.flatMap(([step, table]) =>
      table.flatMap((row, layer) => row.map((value, one) => [step, layer, one, value])))] };
}
