// The example beside its map: its tokens, or its picture, coloured by what the chosen query looks at.

// The weights of the chosen query: token by token if the page holds them, else in blocks of tokens.
function weightsOf(shown) {
  const { view, map } = shown;
  if (state.query === null || state.query >= map.tokens) return null;
  const whole = view.row(map, state.layer, state.head, state.query);
  if (whole) return { block: 1, weights: whole.subarray(0, state.query + 1) };
  const row = Math.floor(state.query / map.block);
  return { block: map.block, weights: Float64Array.from({ length: row + 1 }, (_, key) => map.at(row, key)) };
}

const largestOf = (found) => found.weights.reduce((most, weight) => Math.max(most, weight), 0);

// The chosen query in words.
function readoutOf(shown) {
  const { view: { example }, map } = shown;
  const found = weightsOf(shown);
  if (!found) return "No query is chosen. Point at a row of the map, or step through the rows with the arrow keys.";
  const order = [...found.weights.keys()].sort((one, other) => found.weights[other] - found.weights[one]);
  const names = order.slice(0, 3).map((key) => `${blockName(example, key * found.block, found.block)} ${said(found.weights[key])}`);
  const query = found.block === 1 ? tokenAndPlace(example, state.query) : blockName(example, state.query - (state.query % map.block), map.block);
  const read = example.read.includes(state.query) ? ", which is read," : "";
  const key = state.key === null ? -1 : Math.floor(state.key / found.block);
  const asked = key >= 0 && key < found.weights.length
    ? ` Its weight on ${blockName(example, key * found.block, found.block)} is ${said(found.weights[key], 4)}.` : "";
  return `${query}${read} looks most at: ${names.join("; ")}.${asked}${state.held ? " (Held: Esc lets go.)" : ""}`;
}

function drawTokens(host, shown) {
  const { example } = shown[0].view;
  host.replaceChildren(...(example.picture ? [pictureWith(shown, host.clientWidth)] : shown.map(tokenList)));
}

function tokenList(shown) {
  const { view: { example } } = shown;
  const found = weightsOf(shown);
  const scale = new Scale(state.colours === "own" ? "own" : state.colours, found ? largestOf(found) : 1);
  const list = element("ol", { class: "tokens tall", start: 0 });
  for (let token = 0; token < example.tokens; token++) {
    const weight = found?.weights[Math.floor(token / found.block)];
    const name = tokenName(example, token);
    const chip = element("button", { type: "button", tabindex: -1, "aria-pressed": token === state.query,
      class: example.read.includes(token) ? "is-read" : null, title: `token ${token}${weight === undefined ? "" : `: ${said(weight, 4)}`}`,
      onclick: () => change({ query: token, key: null, held: true }) }, name);
    if (weight !== undefined) Object.assign(chip.style, { background: scale.css(weight), color: scale.ink(weight) });
    list.append(element("li", {}, chip));
  }
  const label = shown.beside ? element("p", { class: "soft" }, shown.caption) : null;
  return element("div", {}, ...[label, list].filter(Boolean));
}

// The picture, and again with the weights of the chosen query over its patches, for each map that is shown.
function pictureWith(shown, room) {
  const { example } = shown[0].view;
  const picture = pictureOf(example);
  const [rows, columns] = content.grid;
  const count = 1 + shown.length;
  const size = Math.min(220, (Math.max(room, 240) - 12 * (count - 1)) / count);
  const high = (size * picture.height) / picture.width;
  const svg = drawn("svg", { width: count * size + 12 * (count - 1), height: high + 24, class: "drawing pictures", role: "img" });
  const place = (left, caption) => svg.append(
    drawn("image", { x: left, y: 0, width: size, height: high, href: picture.toDataURL(), class: "pixels", preserveAspectRatio: "none" }),
    drawn("text", { x: left, y: high + 15 }, shortened(caption, Math.floor(size / 6.2))));
  place(0, "as it is");
  const said_ = shown.map((one, number) => {
    const left = (number + 1) * (size + 12);
    const found = weightsOf(one);
    place(left, found ? `${one.beside ? "beside: " : ""}brightest ${said(largestOf(found))}` : "no query is chosen");
    if (!found) return "";
    svg.append(drawn("image", { x: left, y: 0, width: size, height: high, class: "pixels", preserveAspectRatio: "none",
      href: laidOver(found, rows, columns) }));
    const [row, column] = [Math.floor(state.query / columns), state.query % columns];
    const box = { x: left + (column * size) / columns, y: (row * high) / rows, width: size / columns, height: high / rows };
    svg.append(drawn("rect", { ...box, class: "chosen halo" }), drawn("rect", { ...box, class: "chosen" }));
    const best = found.weights.indexOf(largestOf(found)) * found.block;
    return `${one.caption}: the query ${example.labels[state.query]} looks most at ${example.labels[best]}.`;
  });
  svg.setAttribute("aria-label", `The picture, and the attention laid over its patches. ${said_.join(" ")}`);
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) % (size + 12), event.clientY - box.top];
    const [row, column] = [Math.floor((y * rows) / high), Math.floor((x * columns) / size)];
    if (row < rows && column < columns) change({ query: row * columns + column, key: null, held: true });
  });
  return svg;
}

// Weights as a picture of one pixel a patch, the more opaque the greater; patches that the query may not look at are veiled.
function laidOver(found, rows, columns) {
  const canvas = element("canvas", { width: columns, height: rows });
  const image = canvas.getContext("2d").createImageData(columns, rows);
  const scale = new Scale("own", largestOf(found));
  for (let token = 0; token < rows * columns; token++) {
    const weight = found.weights[Math.floor(token / found.block)];
    const hidden = weight === undefined || token > state.query;
    const colour = hidden ? [128, 128, 128, 150] : [...scale.rgb(weight), 70 + Math.round(150 * scale.part(weight))];
    image.data.set(colour, 4 * token);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL();
}

// The weights of the chosen query as a table.
function weightsTable(shown) {
  const { example } = shown[0].view;
  const found = shown.map(weightsOf);
  if (!found[0]) return element("p", {}, "No query is chosen.");
  const { block, weights } = found[0];
  const head = element("tr", {}, element("th", { scope: "col", class: "number" }, "Token"), element("th", { scope: "col" }, "Key"),
    ...shown.map((one) => element("th", { scope: "col", class: "number" }, one.caption)));
  const rows = [...weights.keys()].map((key) => element("tr", {}, element("td", { class: "number" }, String(key * block)),
    element("td", {}, blockName(example, key * block, block)),
    ...found.map((one) => element("td", { class: "number" }, one?.block === block ? one.weights[key].toFixed(6) : "–"))));
  return element("table", {}, element("caption", {}, `What ${tokenName(example, state.query)} (token ${state.query}) looks at`),
    element("thead", {}, head), element("tbody", {}, ...rows));
}

// How much of an example a moment answers right, in words.
function verdictOf(moment, number) {
  const { right, scored } = content.moments[moment].answers[number];
  return scored === 1 ? (right ? "right" : "wrong") : right === scored ? `all ${scored} right` : `${right} of ${scored} right`;
}

// What a moment answers, beside the true answer; where these are long, one above the other, what is wrong being underlined.
function answerOf(moment, number) {
  const example = content.examples[number];
  const about = content.moments[moment];
  const found = about.answers[number];
  const verdict = `${found.right === found.scored ? "✓" : "✗"} ${verdictOf(moment, number)}`;
  const sure = found.probability === null ? "" : ` with probability ${said(found.probability)}`;
  const words = found.text ? [found.text, example.text] : found.predicted?.length === 1 ? [found.predicted[0], example.targets[0]] : null;
  if (words) return element("p", {}, `${about.label}: the model answers ${words[0]}${sure}; the answer is ${words[1]}. ${verdict}`);
  if (!found.predicted) return element("p", {}, `${about.label}: ${verdict}`);
  const wrong = (value, place) => example.targets[place] >= 0 && value !== example.targets[place];
  return element("div", {}, element("p", {}, `${about.label}: ${verdict}`), element("div", { class: "answers" },
    element("div", {}, "answer ", example.targets.map((value) => (value < 0 ? "·" : value)).join(" ")),
    element("div", {}, "model  ", ...found.predicted.flatMap((value, place) =>
      [wrong(value, place) ? element("span", { class: "wrong" }, String(value)) : String(value), " "]))));
}
