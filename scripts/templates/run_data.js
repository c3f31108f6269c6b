// What the page was written with: what is known as JSON, and the maps, which are unpacked when they are first looked at.

const content = JSON.parse(document.getElementById("content").textContent);
const MEAN = "mean"; // stands for a layer or a head where the mean over all of them is meant

const unpacked = new Map();

// The weights in a packed array: for each of its maps all cells, row after row.
function unpack(stored) {
  if (!unpacked.has(stored.blob)) unpacked.set(stored.blob, inflate(stored));
  return unpacked.get(stored.blob);
}

async function inflate(stored) {
  const text = atob(document.getElementById(`blob-${stored.blob}`).textContent);
  const packed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const { maps, rows, first, bits } = stored;
  const scales = new Float32Array(bytes.buffer, 0, maps * rows); // little-endian, as machines with browsers are
  const numbers = bytes.subarray(scales.byteLength);
  const cells = rows * first + (rows * (rows - 1)) / 2;
  const levels = 2 ** bits - 1;
  return Array.from({ length: maps }, (_, map) => {
    const weights = new Float64Array(cells);
    for (let row = 0, cell = 0; row < rows; row++) {
      const scale = scales[map * rows + row];
      for (const end = cell + first + row; cell < end; cell++) {
        const at = map * cells + cell;
        const whole = bits === 16 ? numbers[at] * 256 + numbers[maps * cells + at] : numbers[at];
        weights[cell] = (whole / levels) * scale;
      }
    }
    return weights;
  });
}

// A square map below its diagonal, in blocks of `block` tokens: side x side cells, row after row.
class AttentionMap {
  constructor(cells, block, tokens) {
    Object.assign(this, { cells, block, tokens, side: Math.ceil(tokens / block) });
  }

  at(row, column) {
    return column > row ? 0 : this.cells[(row * (row + 1)) / 2 + column];
  }

  // The weight that one cell of fifty exceeds; the largest says little, being 1 in the first row of every map.
  // Of a large map, some thousand cells stand for all.
  get bright() {
    const skip = Math.ceil(this.cells.length / 5000);
    const some = this.cells.filter((_, cell) => cell % skip === 0).sort();
    return some[Math.floor(0.98 * (some.length - 1))];
  }
}

function average(arrays) {
  const sum = new Float64Array(arrays[0].length);
  for (const array of arrays) for (let cell = 0; cell < sum.length; cell++) sum[cell] += array[cell];
  return sum.map((value) => value / arrays.length);
}

// What one moment shows on one example: all that is needed to draw any of its heads, unpacked.
class View {
  static async load(moment, example) {
    const about = content.moments[moment];
    const stored = about.views[example];
    if (!stored) return null;
    const view = new View();
    Object.assign(view, { layers: about.layers, heads: about.heads, block: stored.block, stored });
    view.example = content.examples[example];
    view.grid = await unpack(stored.grid);
    view.rows = stored.rows && (await unpack(stored.rows));
    return view;
  }

  // The places in the arrays of the heads that a choice of layer and head stands for.
  places(layer, head) {
    const layers = layer === MEAN ? [...Array(this.layers).keys()] : [layer];
    const heads = head === MEAN ? [...Array(this.heads).keys()] : [head];
    return layers.flatMap((one) => heads.map((other) => one * this.heads + other));
  }

  has(layer, head) {
    return (layer === MEAN || layer < this.layers) && (head === MEAN || head < this.heads);
  }

  small(layer, head) {
    const places = this.places(layer, head);
    const cells = places.length === 1 ? this.grid[places[0]] : average(places.map((place) => this.grid[place]));
    return new AttentionMap(cells, this.block, this.example.tokens);
  }

  // The map token by token if the page holds it, else in blocks.
  async large(layer, head) {
    const whole = this.stored.whole[`${layer}.${head}`];
    return whole ? new AttentionMap((await unpack(whole))[0], 1, this.example.tokens) : this.small(layer, head);
  }

  // The weights of a query on each token, if the page holds them token by token, else null.
  row(map, layer, head, query) {
    const number = this.example.read.indexOf(query);
    if (!this.rows || number < 0) {
      return map.block === 1 ? Float64Array.from({ length: map.tokens }, (_, key) => map.at(query, key)) : null;
    }
    const first = this.example.read.slice(0, number).reduce((sum, place) => sum + place + 1, 0);
    const parts = this.places(layer, head).map((place) => this.rows[place].subarray(first, first + query + 1));
    const weights = new Float64Array(map.tokens);
    weights.set(average(parts));
    return weights;
  }
}
