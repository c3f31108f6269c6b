// One map enlarged: queries down, keys across, with what each token is, the chosen row, and the cells that hold the answer.

const MOST_RECTANGLES = 64; // columns: more are drawn as one picture
const DIGITS = 7; // width of a character of a label, about

// A token as it is called: what it stands for, and its value where that is not said by it.
const tokenName = (example, token) =>
  example.values ? `${example.labels[token]} = ${example.values[token]}` : example.labels[token];

// Likewise, with its number where others are called the same.
function tokenAndPlace(example, token) {
  const name = tokenName(example, token);
  example.unique ??= new Set(example.labels).size === example.labels.length;
  return example.unique ? name : `${name} (token ${token})`;
}

// Tokens `first` to `first + block - 1` as they are called.
function blockName(example, first, block) {
  const last = Math.min(first + block, example.tokens) - 1;
  return last === first ? tokenAndPlace(example, first) : `tokens ${first} to ${last}`;
}

// The lines of an enlarged map: the query of each, its weights, and how many of these it may look at.
function linesOf(view, map, layer, head) {
  const { example } = view;
  const inBlocks = (line) => ({ token: line * map.block, block: map.block, visible: line + 1, weight: (key) => map.at(line, key) });
  if (state.rows === "all" || !example.read.length) {
    return { columns: map.side, block: map.block, lines: Array.from({ length: map.side }, (_, line) => inBlocks(line)) };
  }
  const rows = example.read.map((token) => [token, view.row(map, layer, head, token)]);
  if (rows.every(([, weights]) => weights)) {
    return { columns: map.tokens, block: 1, lines: rows.map(([token, weights]) =>
      ({ token, block: 1, visible: token + 1, weight: (key) => weights[key] })) };
  }
  const lines = [...new Set(example.read.map((token) => Math.floor(token / map.block)))];
  return { columns: map.side, block: map.block, lines: lines.map(inBlocks) };
}

class LargeMap {
  constructor(host, moment, view, map, caption) {
    Object.assign(this, { moment, view, map, example: view.example });
    Object.assign(this, linesOf(view, map, state.layer, state.head));
    this.scale = new Scale(state.colours, map.bright);
    this.measure(host.clientWidth);
    this.svg = drawn("svg", { width: this.width, height: this.height, viewBox: `0 0 ${this.width} ${this.height}`, class: "drawing",
      role: "img", "aria-label": this.gist(caption) });
    this.svg.append(drawn("text", { x: 0, y: 13, class: "strong" }, shortened(caption, Math.floor(this.width / 6.6))));
    this.cells();
    this.axes();
    this.overlay = drawn("g");
    this.svg.append(this.overlay);
    this.host = element("div", { class: "map", tabindex: 0, role: "application", "aria-roledescription": "attention map",
      "aria-label": "Attention map. The arrow keys step through queries and keys, Enter holds one, Esc clears.",
      onkeydown: (event) => this.key(event), onpointermove: (event) => this.point(event),
      onclick: (event) => this.point(event, true) }, this.svg);
    host.append(this.host);
  }

  measure(width) {
    const { columns, lines, example } = this;
    this.narrow = width < 460;
    this.pictured = Boolean(example.picture) && this.block === 1 && columns <= MOST_RECTANGLES;
    const longest = (names) => Math.max(...names.map((name) => name.length)) * DIGITS + 6;
    this.rowNames = lines.map((line) => this.label(line.token, line.block));
    this.columnNames = Array.from({ length: columns }, (_, column) => this.label(column * this.block, this.block));
    this.left = 34 + (this.pictured ? 22 : longest(this.rowNames));
    this.top = 42 + (this.pictured ? 22 : longest(this.columnNames));
    this.width = Math.min(Math.max(width, 240), 640);
    this.wide = (this.width - this.left - 4) / columns;
    this.high = state.rows === "read" && lines.length < columns ? Math.min(Math.max(this.wide, 20), 36) : this.wide;
    this.height = this.top + this.high * lines.length + 8;
  }

  label(token, block) {
    if (block > 1) return `${token}–${Math.min(token + block, this.example.tokens) - 1}`;
    return this.narrow ? String(token) : shortened(tokenName(this.example, token), 22);
  }

  cells() {
    const { left, top, wide, high, columns, lines, scale } = this;
    if (columns > MOST_RECTANGLES) {
      const canvas = element("canvas", { width: columns, height: lines.length });
      const image = canvas.getContext("2d").createImageData(columns, lines.length);
      lines.forEach((line, row) => {
        for (let key = 0; key < line.visible; key++) {
          paint(image, row * columns + key, scale.rgb(line.weight(key)));
        }
      });
      canvas.getContext("2d").putImageData(image, 0, 0);
      this.svg.append(drawn("image", { x: left, y: top, width: wide * columns, height: high * lines.length, class: "pixels",
        href: canvas.toDataURL(), preserveAspectRatio: "none" }));
      return;
    }
    const group = drawn("g", { "shape-rendering": "crispEdges" });
    const numbers = drawn("g", { "text-anchor": "middle", class: "cells" });
    lines.forEach((line, row) => {
      for (let key = 0; key < line.visible; key++) {
        const weight = line.weight(key);
        const [x, y] = [left + key * wide, top + row * high];
        group.append(drawn("rect", { x, y, width: wide, height: high, fill: scale.css(weight) }));
        if (wide >= 27 && high >= 18) {
          numbers.append(drawn("text", { x: x + wide / 2, y: y + high / 2 + 4, fill: scale.ink(weight) },
            weight.toFixed(2).replace(/^0/, "")));
        }
      }
    });
    this.svg.append(group, numbers);
  }

  axes() {
    const { left, top, wide, high, columns, lines, example } = this;
    const bottom = top + high * lines.length;
    this.svg.append(
      drawn("text", { x: left, y: 32 }, "key (across): the token that is looked at"),
      drawn("text", { x: 12, y: bottom, transform: `rotate(-90 12 ${bottom})` }, high * lines.length > 90 ? "query (down)" : "query"));
    if (this.pictured) {
      const tokens = lines.map((line) => line.token);
      this.svg.append(drawn("image", { x: left, y: top - 22, width: wide * columns, height: 18, href: strip(example, false),
        preserveAspectRatio: "none", class: "pixels" }));
      if (tokens.length === columns) {
        this.svg.append(drawn("image", { x: left - 22, y: top, width: 18, height: high * columns, href: strip(example, true),
          preserveAspectRatio: "none", class: "pixels" }));
      }
    } else {
      const far = columns > MOST_RECTANGLES ? 36 : 12; // pixels from label to label
      const skip = Math.ceil(far / wide);
      this.columnNames.forEach((name, column) => {
        const x = left + (column + 0.5) * wide + 4;
        if (column % skip === 0) this.svg.append(drawn("text", { x, y: top - 6, transform: `rotate(-90 ${x} ${top - 6})` }, name));
      });
      const jump = Math.ceil(far / high);
      this.rowNames.forEach((name, row) => {
        if (row % jump === 0) {
          this.svg.append(drawn("text", { x: left - 12, y: top + (row + 0.5) * high + 4, "text-anchor": "end" }, name));
        }
      });
    }
    lines.forEach((line, row) => {
      if (!example.read.some((token) => token >= line.token && token < line.token + line.block)) return;
      const y = top + (row + 0.5) * high;
      this.svg.append(drawn("path", { d: `M ${left - 8} ${y - 4} L ${left - 2} ${y} L ${left - 8} ${y + 4} Z`, class: "read" }));
    });
  }

  // Draws anew what is chosen: the row, the key in it, and the outlined cells.
  choose() {
    const { left, top, wide, high, lines } = this;
    const parts = [];
    const box = (x, y, width, height, name) =>
      parts.push(drawn("rect", { x, y, width, height, class: `${name} halo` }), drawn("rect", { x, y, width, height, class: name }));
    const row = this.lineOf(state.query);
    if (row >= 0) box(left, top + row * high, wide * lines[row].visible, high, "chosen");
    const inside = Math.min(2, wide / 4, high / 4);
    for (const [line, key] of this.outlined()) {
      box(left + key * wide + inside, top + line * high + inside, wide - 2 * inside, high - 2 * inside, "answer");
    }
    const key = row < 0 || state.key === null ? -1 : Math.floor(state.key / this.block);
    if (key >= 0 && key < lines[row].visible) box(left + key * wide, top + row * high, wide, high, "chosen");
    this.overlay.replaceChildren(...parts);
  }

  // Which cells hold the answer by the chosen mask, as [line, column].
  outlined() {
    const mask = this.example.masks[state.answer];
    if (!mask) return [];
    const found = this.example.read.flatMap((token, number) =>
      mask[number].map((key) => `${this.lineOf(token)} ${Math.floor(key / this.block)}`));
    return [...new Set(found)].map((place) => place.split(" ").map(Number)).filter(([row]) => row >= 0);
  }

  lineOf(token) {
    return token === null ? -1 : this.lines.findIndex((line) => token >= line.token && token < line.token + line.block);
  }

  point(event, hold = false) {
    if (state.held && !hold) return;
    const box = this.svg.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - this.top) / this.high);
    const key = Math.floor((event.clientX - box.left - this.left) / this.wide);
    const line = this.lines[row];
    if (!line) return;
    const query = this.tokenOf(line);
    const inside = key >= 0 && key < line.visible;
    const released = hold && state.held && state.query === query;
    change({ query, key: inside ? key * this.block : null, held: hold ? !released : state.held });
  }

  // The token that a line of several stands for: the last that is read in it, else its first.
  tokenOf(line) {
    return this.example.read.findLast((token) => token >= line.token && token < line.token + line.block) ?? line.token;
  }

  key(event) {
    const { lines, block } = this;
    const row = this.lineOf(state.query);
    const column = state.key === null ? -1 : Math.floor(state.key / block);
    const to = (line) => change({ query: this.tokenOf(lines[Math.min(Math.max(line, 0), lines.length - 1)]) });
    const across = (place) => row >= 0 && change({ key: block * Math.min(Math.max(place, 0), lines[row].visible - 1) });
    const keys = { ArrowUp: () => to(row < 0 ? lines.length - 1 : row - 1), ArrowDown: () => to(row + 1),
      ArrowLeft: () => across(column < 0 ? lines[row]?.visible - 1 : column - 1), ArrowRight: () => across(column + 1),
      Home: () => to(0), End: () => to(lines.length - 1), Enter: () => change({ held: !state.held }) };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  gist(caption) {
    let most = { weight: -1 };
    this.lines.forEach((line) => {
      for (let key = 0; key < line.visible; key++) {
        if (line.visible > 1 && line.weight(key) > most.weight) most = { weight: line.weight(key), line, key };
      }
    });
    const where = most.line ? ` The largest weight but for the first row is ${said(most.weight)}, from ${
      blockName(this.example, most.line.token, most.line.block)} to ${blockName(this.example, most.key * this.block, this.block)}.` : "";
    return `${caption}: ${this.lines.length} queries down, ${this.columns} keys across.${where}`;
  }
}
