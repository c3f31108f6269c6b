// The picture of learning curves: an SVG element of lines, floors and axes, for the page or as a file of its own.

const DASHES = ["", "8 4", "2 3", "10 3 2 3"]; // with the colours, what tells lines apart
const PAGE = { ink: "var(--ink)", soft: "var(--soft)", line: "var(--line)", paper: "var(--sheet)" };
const LINE_HEIGHT = 14; // of the floors' names
const FILE = { ink: "#1c1b1a", soft: "#5f5b57", line: "#d9d5cf", paper: "#ffffff" };

// An SVG element with attributes; styles are told apart because colours may be CSS variables.
function svg(name, attributes = {}, styles = {}, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  for (const [key, value] of Object.entries(styles)) made.style.setProperty(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// The colour and dashes of the line with a number; black is the colour of the text, which is light on a dark page.
function lineStyle(number, colours, palette) {
  const colour = colours[number % colours.length];
  const dashes = DASHES[Math.floor(number / colours.length) % DASHES.length];
  return { fill: "none", "stroke-width": 2, "stroke-linejoin": "round", "stroke-dasharray": dashes || "none",
           stroke: colour === "#000000" ? palette.ink : colour };
}

// Round numbers from `low` to `high`, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + step * 1e-9; number += 1) {
    found.push(Number((number * step).toPrecision(12)));
  }
  return found;
}

// Heights of labels of so many lines, moved apart from above so that none covers another, and kept above `bottom`.
function apart(heights, counts, bottom) {
  const moved = [];
  heights.forEach((height, number) => {
    moved.push(number ? Math.max(height, moved[number - 1] + counts[number - 1] * LINE_HEIGHT + 2) : height);
  });
  for (let number = moved.length - 1, limit = bottom; number >= 0; number -= 1) {
    moved[number] = Math.min(moved[number], limit - (counts[number] - 1) * LINE_HEIGHT);
    limit = moved[number] - LINE_HEIGHT - 2;
  }
  return moved;
}

// A text in lines of about `length` characters.
function wrapped(text, length) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= length) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) && " ") + word;
  }
  return lines;
}

// lines: [{label, style, runs: [{name, points: [[step, accuracy or null]]}]}]; floors: [{label, value}], the best first.
// A legend is drawn below where the picture stands alone.
function drawCurves({ lines, floors, title, width, colours, palette, legend }) {
  const beside = width > 640 && floors.length > 0; // room for the floors' names
  const left = 52, right = beside ? 200 : 14, top = 14, plotted = Math.max(240, Math.min(380, width * 0.55));
  const bottom = top + plotted;
  const columns = Math.max(1, Math.floor(width / 420));
  const rows = legend ? Math.ceil(lines.length / columns) : 0;
  const height = bottom + 46 + rows * 20;
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title },
                   { "font-family": "system-ui, 'DejaVu Sans', sans-serif", "font-size": "13px" });
  if (legend) made.append(svg("rect", { width, height }, { fill: palette.paper }));

  const points = lines.flatMap((line) => line.runs.flatMap((run) => run.points)).filter((point) => point[1] !== null);
  const values = [...points.map((point) => point[1]), ...floors.map((floor) => floor.value)];
  const last = points.reduce((most, point) => Math.max(most, point[0]), 0) || 1;
  let low = values.reduce((least, value) => Math.min(least, value), 1);
  let high = values.reduce((most, value) => Math.max(most, value), 0);
  const margin = Math.max(0.02, (high - low) * 0.06);
  [low, high] = [Math.max(0, low - margin), Math.min(1, high + margin)];
  const across = (step) => left + (step / last) * (width - left - right);
  const down = (value) => bottom - ((value - low) / (high - low)) * plotted;

  for (const value of ticks(low, high, 6)) {
    made.append(svg("line", { x1: left, x2: width - right, y1: down(value), y2: down(value) }, { stroke: palette.line }),
                svg("text", { x: left - 8, y: down(value) + 4, "text-anchor": "end" }, { fill: palette.soft }, String(value)));
  }
  for (const step of ticks(0, last, Math.max(2, Math.min(8, width / 110)))) {
    made.append(svg("line", { x1: across(step), x2: across(step), y1: bottom, y2: bottom + 5 }, { stroke: palette.soft }),
                svg("text", { x: across(step), y: bottom + 19, "text-anchor": "middle" }, { fill: palette.soft },
                    step.toLocaleString("en")));
  }
  made.append(svg("line", { x1: left, x2: width - right, y1: bottom, y2: bottom }, { stroke: palette.soft }),
              svg("text", { x: (left + width - right) / 2, y: bottom + 38, "text-anchor": "middle" }, { fill: palette.ink },
                  "training step"));

  const names = floors.map((floor) => wrapped(`${floor.value.toFixed(3)} ${floor.label}`, beside ? 28 : width / 10));
  const heights = floors.map((floor) => down(floor.value) + (beside ? 4 : -5));
  const places = apart(heights, names.map((name) => name.length), bottom - 4);
  floors.forEach((floor, number) => {
    const y = down(floor.value), x = beside ? width - right + 8 : width - right;
    made.append(svg("line", { x1: left, x2: width - right, y1: y, y2: y },
                    { stroke: palette.soft, "stroke-dasharray": "4 3" }));
    const label = svg("text", { "text-anchor": beside ? "start" : "end" },
                      { fill: palette.soft, "font-size": "12px", stroke: palette.paper, "stroke-width": "4px",
                        "paint-order": "stroke" });
    names[number].forEach((said, line) => label.append(svg("tspan", { x, y: places[number] + line * LINE_HEIGHT }, {}, said)));
    made.append(label);
  });

  lines.forEach((line, number) => {
    const group = svg("g", { class: "curve", "data-line": number });
    for (const run of line.runs) {
      let path = "", broken = true;
      for (const [step, value] of run.points) {
        if (value === null) {
          broken = true;
          continue;
        }
        path += `${broken ? "M" : "L"}${across(step).toFixed(1)} ${down(value).toFixed(1)}`;
        broken = false;
        if (lines.length <= DASHES.length * colours.length) {
          group.append(svg("circle", { cx: across(step).toFixed(1), cy: down(value).toFixed(1), r: 2.5 },
                           { fill: line.style.stroke }));
        }
      }
      const drawn = svg("path", { d: path }, line.style);
      drawn.append(svg("title", {}, {}, run.name));
      group.append(drawn);
    }
    made.append(group);
    if (legend) {
      const x = 12 + (number % columns) * (width / columns), y = bottom + 60 + Math.floor(number / columns) * 20;
      made.append(svg("line", { x1: x, x2: x + 30, y1: y - 4, y2: y - 4 }, line.style),
                  svg("text", { x: x + 38, y }, { fill: palette.ink }, line.label));
    }
  });
  return made;
}
