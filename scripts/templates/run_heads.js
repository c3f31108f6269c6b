// The grid of all heads of a moment: a small map each, which Enter or a click enlarges and between which the arrow keys move.

const headName = (layer, head) =>
  layer === MEAN && head === MEAN ? "mean over all layers and heads"
    : layer === MEAN ? `head ${head}, mean over layers`
      : head === MEAN ? `layer ${layer}, mean over heads` : `layer ${layer}, head ${head}`;

// What is known of a head by a quantity, at a moment: null where nothing is.
function valueOf(quantity, moment, layer, head) {
  const table = quantity?.tables[moment];
  return table && layer !== MEAN && head !== MEAN ? table[layer]?.[head] ?? null : null;
}

// The heads in the order in which they are shown, in rows: by layer, with the means, or by a quantity, the largest first.
function headRows(moment) {
  const { layers, heads } = content.moments[moment];
  const [rows, columns] = [[...Array(layers).keys()], [...Array(heads).keys()]];
  if (state.order === "layer") {
    return [...rows, MEAN].map((layer) => [...columns, MEAN].map((head) => [layer, head]));
  }
  const quantity = content.quantities[state.order];
  const all = rows.flatMap((layer) => columns.map((head) => [layer, head]));
  const by = (place) => valueOf(quantity, moment, ...place) ?? valueOf(quantity, content.now, ...place) ?? -Infinity;
  const sign = quantity.unit === "nats" ? -1 : 1; // of entropy, the least is what tells most
  all.sort((one, other) => sign * (by(other) - by(one)));
  return Array.from({ length: layers }, (_, row) => all.slice(row * heads, (row + 1) * heads));
}

class HeadsGrid {
  constructor(host) {
    this.host = host;
    this.cells = [];
    host.addEventListener("click", (event) => this.choose(event.target.closest("[role=gridcell]")));
    host.addEventListener("keydown", (event) => this.key(event));
  }

  draw(view, moment) {
    const rows = headRows(moment);
    const focused = this.cells.findIndex((cell) => cell.element === document.activeElement);
    const byLayer = state.order === "layer";
    const grid = element("div", { role: "grid", class: byLayer ? "grid by-layer" : "grid",
      "aria-label": `Attention maps of all heads, ${content.moments[moment].label}` });
    grid.style.setProperty("--columns", rows[0].length);
    if (byLayer) {
      grid.append(element("div", { role: "row" }, element("span", { role: "columnheader", class: "corner" }, "layer ↓ head →"),
        ...rows[0].map(([, head]) => element("span", { role: "columnheader" }, String(head)))));
    }
    this.columns = rows[0].length;
    this.cells = [];
    for (const row of rows) {
      const line = element("div", { role: "row" });
      if (byLayer) line.append(element("span", { role: "rowheader" }, String(row[0][0])));
      for (const [layer, head] of row) line.append(this.cell(view, moment, layer, head));
      grid.append(line);
    }
    this.host.replaceChildren(grid);
    this.select();
    if (focused >= 0) this.cells[Math.min(focused, this.cells.length - 1)].element.focus();
  }

  cell(view, moment, layer, head) {
    const map = view.small(layer, head);
    const canvas = pixels(map, new Scale(state.colours, map.bright));
    canvas.setAttribute("aria-hidden", "true");
    const quantity = content.quantities[state.quantity];
    const value = valueOf(quantity, moment, layer, head);
    const label = headName(layer, head) + (value === null ? "" : `: ${quantity.name} ${said(value)}`);
    const under = [state.order === "layer" ? null : `${layer}.${head}`, value === null ? null : said(value, 2)];
    const made = element("div", { role: "gridcell", tabindex: -1, "aria-label": label, title: label }, canvas,
      element("span", { class: "under" }, under.filter((part) => part !== null).join(" · ") || " "));
    this.cells.push({ element: made, layer, head, canvas });
    return made;
  }

  select() {
    let chosen = 0;
    this.cells.forEach((cell, number) => {
      const here = cell.layer === state.layer && cell.head === state.head;
      cell.element.setAttribute("aria-selected", here);
      cell.element.tabIndex = -1;
      if (here) chosen = number;
    });
    this.cells[chosen].element.tabIndex = 0;
  }

  choose(cell) {
    const found = this.cells.find((one) => one.element === cell);
    if (found) change({ layer: found.layer, head: found.head });
  }

  key(event) {
    const now = this.cells.findIndex((cell) => cell.element === event.target);
    if (now < 0) return;
    const first = now - (now % this.columns);
    const steps = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowUp: now - this.columns, ArrowDown: now + this.columns,
      Home: event.ctrlKey ? 0 : first, End: event.ctrlKey ? this.cells.length - 1 : first + this.columns - 1 };
    if (event.key === "Enter" || event.key === " ") this.choose(event.target);
    else if (event.key in steps) this.cells[steps[event.key]]?.element.focus();
    else return;
    event.preventDefault();
  }

  // The grid as one drawing.
  drawing() {
    const [size, gap, left, top] = [72, 18, 70, 40];
    const rows = Math.ceil(this.cells.length / this.columns);
    const [width, height] = [left + this.columns * (size + 6), top + rows * (size + gap)];
    const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "drawing" });
    this.cells.forEach(({ layer, head, canvas, element: cell }, number) => {
      const [x, y] = [left + (number % this.columns) * (size + 6), top + Math.floor(number / this.columns) * (size + gap)];
      svg.append(drawn("image", { x, y, width: size, height: size, href: canvas.toDataURL(), preserveAspectRatio: "none",
        class: "pixels" }), drawn("text", { x: x + size / 2, y: y + size + 12, "text-anchor": "middle" },
        cell.querySelector(".under").textContent.trim()));
      if (state.order !== "layer") return;
      if (number < this.columns) svg.append(drawn("text", { x: x + size / 2, y: top - 8, "text-anchor": "middle" }, `head ${head}`));
      if (number % this.columns === 0) svg.append(drawn("text", { x: left - 8, y: y + size / 2, "text-anchor": "end" }, `layer ${layer}`));
    });
    return svg;
  }
}
