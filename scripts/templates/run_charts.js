// Charts: curves over training steps, and bars.  A drawing is as wide as the place that it is put in.

const CURVES = ["var(--curve-0)", "var(--curve-1)", "var(--curve-2)", "var(--curve-3)", "var(--curve-4)", "var(--curve-5)"];

// Round numbers that divide a range evenly.
function ticksOf(low, high, count) {
  const raw = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, number) => (first + number) * step);
}

// series: { name, points: [[x, y]], colour, faint, dashed }; rules: { name, value }, levels across the whole width.
function curveChart(host, { label, series, rules, across, up, from, to }) {
  const width = Math.min(Math.max(host.clientWidth, 240), 620);
  const named = series.filter((one) => !one.faint);
  const legend = named.length > 1 || named[0]?.shown ? 18 * named.length : 0;
  const [left, right, top, below] = [52, 22, 12 + legend, 40];
  const high = 210;
  const height = top + high + below;
  const values = [...series.flatMap((one) => one.points.map(([, y]) => y)), ...rules.map((rule) => rule.value)];
  const [least, most] = [from ?? Math.min(...values), to ?? Math.max(...values)];
  const margin = (most - least) * 0.05 || 0.05;
  const [low, top_] = [from ?? least - margin, to ?? most + margin];
  const steps = series.flatMap((one) => one.points.map(([x]) => x));
  const last = Math.max(...steps, 1);
  const x = (step) => left + (step / last) * (width - left - right);
  const y = (value) => top + high - ((value - low) / (top_ - low)) * high;
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "drawing", role: "img", "aria-label": label });
  for (const tick of ticksOf(low, top_, 5)) {
    svg.append(drawn("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "rule" }),
      drawn("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(Number(tick.toPrecision(6)))));
  }
  for (const tick of ticksOf(0, last, width < 400 ? 3 : 5)) {
    svg.append(drawn("text", { x: x(tick), y: top + high + 16, "text-anchor": "middle" }, tick.toLocaleString("en")));
  }
  svg.append(drawn("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, across),
    drawn("text", { x: 12, y: top + high / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${top + high / 2})` }, up));
  for (const rule of rules) {
    svg.append(drawn("line", { x1: left, x2: width - right, y1: y(rule.value), y2: y(rule.value), class: "level" }),
      drawn("text", { x: width - right, y: y(rule.value) - 4, "text-anchor": "end", class: "quiet" }, `${rule.name} ${said(rule.value)}`));
  }
  series.forEach((one) => {
    const colour = one.colour ?? "var(--soft)";
    const path = one.points.map(([step, value], number) => `${number ? "L" : "M"} ${x(step)} ${y(value)}`).join(" ");
    const line = drawn("path", { d: path, class: one.faint ? "curve faint" : one.dashed ? "curve dashed" : "curve" },
      drawn("title", {}, one.name));
    line.style.stroke = colour;
    svg.append(line);
    if (one.faint) return;
    for (const [step, value] of one.points) {
      const dot = drawn("circle", { cx: x(step), cy: y(value), r: 3 },
        drawn("title", {}, `${one.name}, step ${step.toLocaleString("en")}: ${said(value, 4)}`));
      dot.style.fill = colour;
      svg.append(dot);
    }
  });
  if (legend) {
    named.forEach((one, number) => {
      const mark = drawn("line", { x1: left, x2: left + 22, y1: 10 + 18 * number, y2: 10 + 18 * number,
        class: one.dashed ? "curve dashed" : "curve" });
      mark.style.stroke = one.colour;
      svg.append(mark, drawn("text", { x: left + 28, y: 14 + 18 * number }, shortened(one.name, Math.floor((width - left - 40) / 6.4))));
    });
  }
  host.replaceChildren(svg);
  return svg;
}

function barChart(host, groups) {
  const width = Math.min(Math.max(host.clientWidth, 240), 620);
  const left = Math.min(190, width * 0.42);
  const svg = drawn("svg", { width, class: "drawing", role: "img" });
  const hatch = drawn("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    drawn("rect", { width: 2.5, height: 6, class: "hatched" }));
  svg.append(drawn("defs", {}, hatch));
  let y = 4;
  for (const group of groups) {
    if (groups.length > 1) {
      svg.append(drawn("text", { x: 0, y: y + 14, class: "strong" }, group.name));
      y += 22;
    }
    for (const row of group.rows) {
      const long = row.value * (width - left - 52);
      svg.append(
        drawn("text", { x: left - 8, y: y + 15, "text-anchor": "end" }, shortened(row.name, Math.floor(left / 6.6)), drawn("title", {}, row.name)),
        drawn("rect", { x: left, y: y + 2, width: Math.max(long, 1), height: 18, class: row.floor ? "bar floor" : "bar" }),
        drawn("text", { x: left + long + 6, y: y + 15 }, said(row.value)));
      y += 25;
    }
    y += 6;
  }
  svg.setAttribute("height", y);
  svg.setAttribute("viewBox", `0 0 ${width} ${y}`);
  svg.setAttribute("aria-label", groups.map((group) =>
    `${group.name}: ${group.rows.map((row) => `${row.name} ${said(row.value)}`).join(", ")}`).join(". "));
  host.replaceChildren(svg);
  return svg;
}

// A number for each layer and head as a drawing: the more, the brighter.
function headChart(host, { label, table, chosen, onchoose }) {
  const [heads, layers] = [table[0].length, table.length];
  const width = Math.min(Math.max(host.clientWidth, 240), 620);
  const left = 56;
  const wide = Math.min((width - left - 2) / heads, 64);
  const high = Math.min(Math.max(wide * 0.6, 22), 32);
  const values = table.flat();
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const scale = new Scale("own", most - least || 1);
  const height = 40 + layers * high + 34;
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "drawing", role: "img", "aria-label": label });
  svg.append(drawn("text", { x: left, y: 12 }, "head (across)"));
  for (let head = 0; head < heads; head++) {
    svg.append(drawn("text", { x: left + (head + 0.5) * wide, y: 32, "text-anchor": "middle" }, String(head)));
  }
  table.forEach((row, layer) => {
    const y = 40 + layer * high;
    svg.append(drawn("text", { x: left - 8, y: y + high / 2 + 4, "text-anchor": "end" }, `layer ${layer}`));
    row.forEach((value, head) => {
      const x = left + head * wide;
      const words = drawn("title", {}, `layer ${layer}, head ${head}: ${said(value, 5)}`);
      const cell = drawn("g", { class: "pick" }, drawn("rect", { x, y, width: wide, height: high, fill: scale.css(value - least) }), words);
      if (wide >= 34) {
        cell.append(drawn("text", { x: x + wide / 2, y: y + high / 2 + 4, "text-anchor": "middle", fill: scale.ink(value - least) },
          said(value, wide >= 44 ? 3 : 2).replace(/^(-?)0\./, "$1.")));
      }
      cell.addEventListener("click", () => onchoose(layer, head));
      svg.append(cell);
    });
  });
  if (chosen[0] < layers && chosen[1] < heads) {
    const box = { x: left + chosen[1] * wide, y: 40 + chosen[0] * high, width: wide, height: high };
    svg.append(drawn("rect", { ...box, class: "chosen halo" }), drawn("rect", { ...box, class: "chosen" }));
  }
  const parts = 40;
  for (let part = 0; part < parts; part++) {
    svg.append(drawn("rect", { x: left + part * 4, y: height - 22, width: 4.5, height: 8, fill: scale.css((part / (parts - 1)) * (most - least)) }));
  }
  svg.append(drawn("text", { x: left - 6, y: height - 14, "text-anchor": "end" }, said(least)), drawn("text", { x: left + parts * 4 + 6, y: height - 14 }, said(most)));
  host.replaceChildren(svg);
  return svg;
}
