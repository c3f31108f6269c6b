// Elements of the page and of its drawings.  Text is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const at = (id) => document.getElementById(id);

// A number with as many digits as a reader can use.
function said(value, digits = 3) {
  if (value === null || value === undefined) return "unknown";
  if (value !== 0 && Math.abs(value) < 0.0005) return value.toExponential(1);
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(digits);
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, Math.max(1, length - 1))}…` : text);

// Sets one pixel, without making arrays of which a large map would need a million.
function paint(image, pixel, colour) {
  const first = 4 * pixel;
  for (let channel = 0; channel < 3; channel++) image.data[first + channel] = colour[channel];
  image.data[first + 3] = 255;
}

// A map as a picture of one pixel a cell; above the diagonal there is nothing.
function pixels(map, scale) {
  const canvas = element("canvas", { width: map.side, height: map.side });
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.side, map.side);
  for (let row = 0, cell = 0; row < map.side; row++) {
    for (let column = 0; column <= row; column++, cell++) {
      paint(image, row * map.side + column, scale.rgb(map.cells[cell]));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// The picture of an example, as large as it was stored; null where it has none.
const pictures = new Map();

function pictureOf(example) {
  if (!example.picture) return null;
  if (!pictures.has(example)) {
    const [height, width, channels] = example.picture.size;
    const canvas = element("canvas", { width, height });
    const image = canvas.getContext("2d").createImageData(width, height);
    for (let pixel = 0; pixel < width * height; pixel++) {
      const digits = example.picture.pixels.slice(2 * channels * pixel, 2 * channels * (pixel + 1));
      const values = digits.match(/../g).map((two) => parseInt(two, 16));
      image.data.set(channels === 1 ? [values[0], values[0], values[0], 255] : [...values, 255], 4 * pixel);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    pictures.set(example, canvas);
  }
  return pictures.get(example);
}

// The patches of an example one after another, in a row or in a column, as the source of an image; null without a picture.
function strip(example, down) {
  const picture = pictureOf(example);
  if (!picture) return null;
  const [rows, columns] = content.grid;
  const [high, wide] = [picture.height / rows, picture.width / columns];
  const count = rows * columns;
  const canvas = element("canvas", down ? { width: wide, height: high * count } : { width: wide * count, height: high });
  const context = canvas.getContext("2d");
  for (let place = 0; place < count; place++) {
    const [row, column] = [Math.floor(place / columns), place % columns];
    context.drawImage(picture, column * wide, row * high, wide, high, down ? 0 : place * wide, down ? place * high : 0, wide, high);
  }
  return canvas.toDataURL();
}
