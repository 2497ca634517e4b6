// A picture with axes: data on a canvas, axes and words in SVG below it, the marked layer in SVG above it; all in CSS
// pixels. The classes of the figures decide what is drawn, and which layer is at the pointer.

const CHARTS = [];
const MAX_NAMED = 14; // layers that are all named at the ends of their lines

class Chart {
  constructor(parent, title) {
    this.canvas = element("canvas", { tabIndex: 0, role: "img" });
    const [under, over] = [0, 1].map(() => svgElement("svg", { "aria-hidden": "true" }));
    this.sentence = element("p", { className: "finding" });
    this.legend = element("ul", { className: "legend" });
    this.plot = element("div", { className: "plot" }, under, this.canvas, over);
    this.title = title;
    parent.append(
      element("figure", {}, element("h3", { textContent: title }), this.sentence, this.legend, this.frame(this.plot)),
    );
    this.axes = under;
    this.marks = over;
    this.listenToPointer();
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    CHARTS.push(this);
    listen((changes) => this.onChange(changes));
    // both also call once at the start, when everything is set up
    new ResizeObserver(() => this.fit()).observe(this.plot);
    const visibility = new IntersectionObserver(([entry]) => this.setNear(entry.isIntersecting), { rootMargin: "300px" });
    visibility.observe(this.plot);
  }

  frame(plot) {
    return plot;
  }

  onChange(changes) {
    if (touches(changes, "of", "how", "threshold", "dragging", "theme")) this.redraw();
    else if (touches(changes, "layer", "iteration") && !this.isStale) this.highlight();
  }

  fit() {
    if (this.plot.clientWidth !== this.width) this.redraw();
  }

  setNear(isNear) {
    this.isNear = isNear;
    if (isNear && this.isStale) this.draw();
  }

  // lays the figure out and describes it; it is drawn at once only where it can be seen, else when the browser is idle
  redraw() {
    this.width = this.plot.clientWidth;
    if (this.width < 60) return;
    this.layOut();
    const { left, right, top, bottom } = this.margin;
    this.inner = { left, top, width: this.width - left - right, height: this.height - top - bottom };
    this.plot.style.height = `${this.height}px`;
    this.describe();
    this.isStale = true;
    if (this.isNear) this.draw();
    else whenIdle(() => this.isStale && this.draw());
  }

  draw() {
    if (!this.inner) return;
    this.isStale = false;
    const scale = Math.max(window.devicePixelRatio || 1, 2); // at least 2, for paper
    Object.assign(this.canvas, { width: this.width * scale, height: this.height * scale });
    Object.assign(this.canvas.style, { width: `${this.width}px`, height: `${this.height}px` });
    for (const svg of [this.axes, this.marks]) {
      svg.setAttribute("width", this.width);
      svg.setAttribute("height", this.height);
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    this.axes.replaceChildren();
    this.paint(context);
    this.highlight();
  }

  describe() {
    this.sentence.replaceChildren(...unbroken(this.finding()));
    this.canvas.setAttribute("aria-label", `${this.title}. ${this.sentence.textContent}`);
    this.legend.replaceChildren(...this.entries().map(([picture, text]) => element("li", {}, picture, text)));
  }

  // from data to pixels; y in powers of ten
  x(value) {
    const [first, last] = this.xs;
    return this.inner.left + ((value - first) / (last - first)) * this.inner.width;
  }

  // the reverse of x
  valueAt(x) {
    const [first, last] = this.xs;
    return first + ((x - this.inner.left) / this.inner.width) * (last - first);
  }

  y(value) {
    const [low, high] = this.ys;
    return this.inner.top + ((high - clamp(value, low, high)) / (high - low)) * this.inner.height;
  }

  ruleY(value, text) {
    const at = this.y(value);
    const { left, width } = this.inner;
    this.axes.append(
      svgElement("line", { class: "grid", x1: left, x2: left + width, y1: at, y2: at }),
      svgElement("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, text),
    );
  }

  decades() {
    const [low, high] = this.ys;
    const step = Math.max(1, Math.ceil((high - low) / Math.max(2, this.inner.height / 34)));
    for (let power = Math.ceil(low / step) * step; power <= high; power += step) this.ruleY(power, short(10 ** power));
  }

  iterationAxis(name, at = this.inner.top + this.inner.height, down = 1) {
    const [first, last] = this.xs;
    const step = niceStep((last - first) / Math.max(2, Math.floor(this.inner.width / 60)));
    for (let value = Math.ceil(first / step) * step; value <= last; value += step) {
      const x = this.x(value);
      this.axes.append(svgElement("text", { x, y: at + (down > 0 ? 16 : -6), "text-anchor": "middle" }, String(value)));
    }
    const middle = this.inner.left + this.inner.width / 2;
    const y = at + (down > 0 ? 33 : -20);
    this.axes.append(svgElement("text", { class: "name", x: middle, y, "text-anchor": "middle" }, name));
  }

  nameY(text) {
    this.axes.append(svgElement("text", { class: "name", x: 0, y: 10 }, text));
  }

  // pointing and stepping

  listenToPointer() {
    const layerUnder = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return this.layerAt(event.clientX - box.left, event.clientY - box.top);
    };
    this.canvas.addEventListener("pointermove", (event) => {
      const place = layerUnder(event);
      if (place) this.hover(place, event.clientX, event.clientY);
    });
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("click", (event) => {
      const place = layerUnder(event);
      if (place && place.row !== null) pin(place.row);
    });
    this.canvas.addEventListener("blur", () => this.leave());
  }

  leave() {
    tip.hidden = true;
    if (!state.pinned) unmark();
  }

  hover({ row, column }, x, y) {
    if (state.pinned) return;
    mark(row, column);
    showTip(row, column, x, y);
  }

  key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (state.layer !== null) pin(state.layer);
    }
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [down, along] = this.rowAndColumnStep(steps[event.key]);
    const columns = DATA.arms[0].iterations.length;
    const isFirst = state.layer === null; // the first press shows the first layer
    const row = isFirst ? 0 : clamp(state.layer + down, 0, LAYERS - 1);
    const column = isFirst ? 0 : clamp((state.iteration ?? 0) + along, 0, columns - 1);
    change({ layer: row, iteration: column, pinned: false });
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.positionOf(row, column);
    showTip(row, column, box.left + x, box.top + y);
  }

  // rows and columns to go for a step down and along
  rowAndColumnStep(step) {
    return step;
  }
}

function whenIdle(call) {
  if ("requestIdleCallback" in window) requestIdleCallback(call);
  else setTimeout(call, 100);
}

// the least of 1, 2 and 5 times a power of ten that is not below rough; whole numbers by default
function niceStep(rough, least = 1) {
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, least)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

// limits of the log axis, as in gradprobe.show.grid: all values and the threshold, with space for zeros and NaN
let lastLimits = null;

function limits() {
  if (state.dragging && lastLimits) return lastLimits;
  let [low, high] = [Math.log10(state.threshold), Math.log10(state.threshold)];
  let [zeros, nonfinite] = [false, false];
  for (let arm = 0; arm < DATA.arms.length; arm += 1) {
    for (const value of record(arm).logs) {
      if (value === -Infinity) zeros = true;
      else if (value === Infinity) nonfinite = true;
      else if (value < low) low = value;
      else if (value > high) high = value;
    }
  }
  const pad = Math.max(0.25, 0.04 * (high - low));
  lastLimits = [low - pad * (zeros ? 4 : 1), high + pad * (nonfinite ? 4 : 1)];
  if (lastLimits[1] - lastLimits[0] < 2) lastLimits = [Math.floor(lastLimits[0]), Math.ceil(lastLimits[1])];
  return lastLimits;
}

// heights at least a gap apart and as near to the wanted ones as possible, as in gradprobe.show.plots.labels: with the
// gaps taken out, neighbours in the wrong order share their mean
function moveApart(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const step = Math.min(gap, (high - low) / Math.max(wanted.length - 1, 1));
  const blocks = [];
  order.forEach((i, rank) => {
    let [mean, size] = [wanted[i] - step * rank, 1];
    while (blocks.length && blocks[blocks.length - 1][0] > mean) {
      const [other, members] = blocks.pop();
      mean = (mean * size + other * members) / (size + members);
      size += members;
    }
    blocks.push([mean, size]);
  });
  const level = blocks.flatMap(([mean, size]) => Array(size).fill(mean));
  const heights = [];
  order.forEach((i, rank) => {
    heights[i] = clamp(level[rank], low, high - step * (wanted.length - 1)) + step * rank;
  });
  return heights;
}

// the line that can be dragged: a slider in powers of ten
class Threshold {
  constructor(chart) {
    this.chart = chart;
    this.line = element("div", { className: "threshold", tabIndex: 0, role: "slider" });
    this.line.setAttribute("aria-label", "Threshold");
    this.line.setAttribute("aria-orientation", "vertical");
    chart.plot.append(this.line);
    this.line.addEventListener("pointerdown", (event) => this.grab(event));
    this.line.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) this.line.addEventListener(end, () => change({ dragging: false }));
    this.line.addEventListener("keydown", (event) => this.key(event));
  }

  place() {
    const [low, high] = this.chart.ys;
    const value = Math.log10(state.threshold);
    const { left, width } = this.chart.inner;
    Object.assign(this.line.style, { left: `${left}px`, width: `${width}px`, top: `${this.chart.y(value)}px` });
    this.line.dataset.label = `threshold ${short(state.threshold)}`;
    const range = { valuemin: low, valuemax: high, valuenow: value };
    for (const [name, number] of Object.entries(range)) this.line.setAttribute(`aria-${name}`, number.toFixed(2));
    this.line.setAttribute("aria-valuetext", `${short(state.threshold)}, ${counted(flagged().length, "layer")} below`);
  }

  grab(event) {
    this.line.setPointerCapture(event.pointerId);
    this.line.focus({ preventScroll: true });
    event.preventDefault();
    change({ dragging: true });
  }

  drag(event) {
    if (!state.dragging) return;
    const { top, height } = this.chart.inner;
    const [low, high] = this.chart.ys;
    const at = clamp((event.clientY - this.chart.plot.getBoundingClientRect().top - top) / height, 0, 1);
    change({ threshold: rounded(10 ** (high - at * (high - low))) });
  }

  key(event) {
    const steps = { ArrowUp: 0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowLeft: -0.1, PageUp: 1, PageDown: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    change({ threshold: rounded(10 ** (Math.log10(state.threshold) + steps[event.key])) });
  }
}

// to the three digits that are shown
function rounded(value) {
  return Number(value.toPrecision(3));
}

// the words next to the pointer

const tip = document.getElementById("tip");

function showTip(row, column, x, y) {
  const lines = [element("strong", { textContent: nameOf(row) }), `${DATA.kinds[row]}, depth ${row}`];
  for (let arm = 0; arm < DATA.arms.length; arm += 1) {
    const { iterations } = DATA.arms[arm];
    const which = DATA.arms.length > 1 ? `${["without", "with"][arm]}: ` : "";
    lines.push(`${which}${inWords(magnitude(row, arm))} (${state.how})`);
    if (column !== null && column < iterations.length) {
      const log = record(arm).logs[row * iterations.length + column];
      lines.push(`${which}${inWords(10 ** log)} at iteration ${iterations[column]}`);
    }
  }
  if (isFlagged(row)) lines.push(`\u25bc below ${short(state.threshold)}`);
  showLines(lines, x, y);
}

function showLines(lines, x, y) {
  tip.replaceChildren(...lines.flatMap((line) => [line, document.createElement("br")]).slice(0, -1));
  tip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tip;
  tip.style.left = `${clamp(x + 16, 4, window.innerWidth - width - 4)}px`;
  tip.style.top = `${y + 18 + height > window.innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
}

// pictures for legends
function picture(...shapes) {
  const svg = svgElement("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" });
  svg.append(...shapes);
  return svg;
}

function stroke(colour, dashes = "", width = 2) {
  return svgElement("line", { x1: 0, x2: 22, y1: 6, y2: 6, stroke: colour, "stroke-width": width, "stroke-dasharray": dashes });
}
