// Colours for weights: viridis, whose lightness rises evenly and which is told apart without red or green.

const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"]
  .map((stop) => [0, 2, 4].map((first) => parseInt(stop.slice(first, first + 2), 16)));

// A number in 0 .. 1 -> red, green and blue.
function viridis(part) {
  const place = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1);
  const first = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[first].map((from, channel) => Math.round(from + (place - first) * (VIRIDIS[first + 1][channel] - from)));
}

const TABLE = Array.from({ length: 1024 }, (_, step) => viridis(step / 1023));

// How weights become colours: `most` is the weight of the brightest, `root` whether the scale is that of square roots.
class Scale {
  constructor(kind, most) {
    this.root = kind === "root";
    this.most = kind === "own" ? most || 1 : 1;
  }

  part(weight) {
    const part = Math.min(Math.max(weight / this.most, 0), 1);
    return this.root ? Math.sqrt(part) : part;
  }

  rgb(weight) {
    return TABLE[Math.round(this.part(weight) * 1023)];
  }

  css(weight) {
    return `rgb(${this.rgb(weight).join(",")})`;
  }

  // Black or white: what can be read on the colour of a weight.
  ink(weight) {
    const [red, green, blue] = this.rgb(weight);
    return 0.299 * red + 0.587 * green + 0.114 * blue > 120 ? "#000000" : "#ffffff";
  }

  get ticks() {
    return (this.root ? [0, 0.01, 0.1, 0.25, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]).map((tick) => tick * this.most);
  }
}
