// Signal, gradient and steps against depth: spread, share and update of each layer, on one axis.

const SIGNAL_FLOOR = -12; // powers of ten, as in gradprobe.show.plots.signal
const SIGNAL_TOP = 1;
const MOST_DOTS = 200; // layers: of more the line alone shows
const SIGNALS = {
  spread: { colour: "var(--fine)", dashes: "", text: "spread: how far the output depends on the input" },
  share: { colour: "var(--share)", dashes: "6 3", text: "share: the gradient's norm over that at the last layer" },
  update: { colour: "var(--update)", dashes: "2 3", text: "update: how far a step moves the weights, relative to them" },
};

class SignalByDepth extends DepthChart {
  constructor(parent) {
    super(parent, "Signal by depth");
    this.found = new Set(DATA.finding.layers);
  }

  layOut() {
    const logs = Object.keys(SIGNALS).flatMap((name) => rows((row) => DATA.signal[name][row] > 0).map((row) => this.log(name, row)));
    const low = logs.length ? Math.min(...logs) : -3;
    this.ys = [low - 0.6, Math.max(0.3, ...logs) + 0.3];
    this.layOutLayers(22);
  }

  log(name, row) {
    const value = DATA.signal[name][row];
    return value === 0 ? -Infinity : clamp(Math.log10(value), SIGNAL_FLOOR, SIGNAL_TOP);
  }

  paint() {
    this.background();
    this.decades();
    this.nameY("ratio, median over the window");
    this.layerAxis((row) => this.found.has(row));
    for (const [name, { colour, dashes }] of Object.entries(SIGNALS)) this.line(name, colour, dashes);
  }

  background() {
    const { top, height } = this.inner;
    for (const row of this.found) {
      const [x, width] = [this.x(row - 0.5), this.x(row + 0.5) - this.x(row - 0.5)];
      this.axes.append(svgElement("rect", { x, y: top, width, height, fill: "var(--flagged)", opacity: 0.09 }));
    }
  }

  line(name, colour, dashes) {
    const known = rows((row) => !Number.isNaN(DATA.signal[name][row]));
    const d = known.map((row, i) => `${i ? "L" : "M"}${this.x(row).toFixed(2)} ${this.y(this.log(name, row)).toFixed(2)}`).join("");
    this.axes.append(svgElement("path", { d, fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dashes }));
    const radius = clamp(90 / LAYERS, 1.2, 3.5);
    for (const row of known.filter((one) => LAYERS <= MOST_DOTS || DATA.signal[name][one] === 0)) {
      const [cx, cy] = [this.x(row), this.y(this.log(name, row))];
      const mark = DATA.signal[name][row] === 0 ? svgElement("path", { d: triangle(cx, cy) }) : svgElement("circle", { cx, cy, r: radius });
      mark.setAttribute("fill", colour);
      this.axes.append(mark);
    }
  }

  levels(row) {
    return Object.keys(SIGNALS).map((name) => this.y(this.log(name, row)));
  }

  positionOf(row) {
    const known = this.levels(row).find((level) => !Number.isNaN(level));
    return [this.x(row), known ?? this.inner.top];
  }

  finding() {
    return DATA.finding.sentence;
  }

  entries() {
    const entries = Object.values(SIGNALS).map(({ colour, dashes, text }) => [picture(stroke(colour, dashes)), text]);
    const zero = Object.keys(SIGNALS).some((name) => DATA.signal[name].includes(0));
    const triangular = picture(svgElement("path", { d: triangle(11, 9), fill: "currentColor" }));
    if (zero) entries.push([triangular, `${ZERO}, at the bottom`]);
    if (this.found.size) {
      const box = svgElement("rect", { x: 4, y: 0, width: 14, height: 12, fill: "var(--flagged)", opacity: 0.25 });
      entries.push([picture(box), "layers of the finding"]);
    }
    return entries;
  }
}
