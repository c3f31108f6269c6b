// Saves what is seen: a drawing as SVG or PNG, its numbers as CSV.

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "fill-opacity", "font-family", "font-size",
  "font-weight", "text-anchor", "dominant-baseline", "image-rendering"];

// A drawing that is seen alike without this page: its styles are written into it, and it has the page's paper behind it.
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((one, number) => {
    if (one.namespaceURI !== SVG || ["title", "pattern", "defs"].includes(one.localName)) return;
    const style = getComputedStyle(originals[number]);
    for (const name of KEPT) if (style.getPropertyValue(name)) one.style.setProperty(name, style.getPropertyValue(name));
  });
  const paper = getComputedStyle(document.documentElement).getPropertyValue("--sheet").trim();
  copy.insertBefore(drawn("rect", { width: "100%", height: "100%", fill: paper }), copy.firstChild);
  copy.setAttribute("xmlns", SVG);
  return copy;
}

function saveSvg(svg, name) {
  save(new Blob([new XMLSerializer().serializeToString(standalone(svg))], { type: "image/svg+xml" }), `${name}.svg`);
}

async function savePng(svg, name) {
  const [width, height] = ["width", "height"].map((side) => Number(svg.getAttribute(side)));
  const source = URL.createObjectURL(
    new Blob([new XMLSerializer().serializeToString(standalone(svg))], { type: "image/svg+xml" }));
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = element("canvas", { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, 2 * width, 2 * height);
  URL.revokeObjectURL(source);
  canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
}

const quoted = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

function saveCsv(rows, name) {
  save(new Blob([rows.map((row) => row.map(quoted).join(",") + "\n").join("")], { type: "text/csv" }), `${name}.csv`);
}

// Several drawings under one another as one.
function stacked(drawings) {
  let height = 0;
  const parts = drawings.map((svg) => {
    const part = drawn("g", { transform: `translate(0 ${height})` }, ...[...svg.cloneNode(true).childNodes]);
    height += Number(svg.getAttribute("height")) + 12;
    return part;
  });
  const width = Math.max(...drawings.map((svg) => Number(svg.getAttribute("width"))));
  return drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "drawing" }, ...parts);
}

// What can be saved: name of a figure -> { name, drawing(), rows() }.
const figures = {};

for (const exports of document.querySelectorAll(".exports")) {
  exports.addEventListener("click", async (event) => {
    const kind = event.target.dataset.as;
    if (!kind) return;
    await drawing;
    const figure = figures[exports.dataset.of];
    const name = `${content.run}-${figure.name()}`.replaceAll(/[^\w.-]+/g, "-");
    if (kind === "csv") {
      saveCsv(figure.rows(), name);
      return;
    }
    const svg = figure.drawing();
    const hidden = svg.isConnected ? null : element("div", { class: "offstage" }, svg); // its styles are known on the page only
    if (hidden) document.body.append(hidden);
    await (kind === "svg" ? saveSvg(svg, name) : savePng(svg, name));
    hidden?.remove();
  });
}
