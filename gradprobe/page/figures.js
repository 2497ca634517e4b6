// The figures: curves, profile, heat map and learning curves. Each says what it shows in a sentence as well.

const ZERO = "exact zero";
const NONFINITE = "NaN or inf";
const MANY = 60; // layers whose lines all have one width: a new threshold leaves them as they are
const POLE_ROWS = 3; // of names of branches above the profile

function lowestAndHighest(arm) {
  const there = reached(arm).filter((row) => Number.isFinite(magnitude(row, arm)));
  const order = there.sort((a, b) => magnitude(a, arm) - magnitude(b, arm));
  return [order[0], order[order.length - 1]];
}

function spanSentence(arm) {
  const count = reached(arm).length;
  const missing = LAYERS - count ? `; ${counted(LAYERS - count, "layer")} unreached, not drawn` : "";
  const [low, high] = lowestAndHighest(arm);
  if (low === undefined) return `No finite gradient in ${counted(count, "layer")}${missing}.`;
  const below = rows((row) => magnitude(row, arm) < state.threshold).length;
  const ends = [low, high].map((row) => `${DATA.shorts[row]} (${said(magnitude(row, arm))})`);
  const span = low === high ? `${state.how} ${ends[0]}` : `${state.how} from ${ends[0]} to ${ends[1]}`;
  return `${below} of ${counted(count, "layer")} below ${short(state.threshold)}; ${span}${missing}.`;
}

function hasLog(arm, value) {
  return record(arm).logs.includes(value);
}

function triangle(x, y) {
  return `M${x - 5} ${y - 7}L${x + 5} ${y - 7}L${x} ${y + 1}Z`;
}

function cross(x, y) {
  return `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}`;
}

function laneEntries(arms) {
  const found = [];
  if (arms.some((arm) => hasLog(arm, -Infinity))) {
    found.push([picture(drawn("path", { d: triangle(11, 9), fill: "currentColor" })), `${ZERO}, at the floor`]);
  }
  if (arms.some((arm) => hasLog(arm, Infinity))) {
    const path = drawn("path", { d: cross(11, 6), stroke: "currentColor", "stroke-width": 2 });
    found.push([picture(path), `${NONFINITE}, at the top`]);
  }
  return found;
}

function depthRamp() {
  const bar = element("span", { className: "ramp" });
  const stops = [0, 0.25, 0.5, 0.75, 1].map((part) => depthColour(part * (LAYERS - 1)));
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  return bar;
}

class Curves extends Chart {
  constructor(parent, arm) {
    super(parent, DATA.arms[arm].title ? `Gradient by iteration: ${DATA.arms[arm].title.toLowerCase()}` : "Gradient by iteration");
    this.arm = arm;
    this.threshold = new Threshold(this);
  }

  arrange() {
    const { iterations } = DATA.arms[this.arm];
    const [first, last] = [iterations[0], iterations[iterations.length - 1]];
    this.xs = first < last ? [first, last] : [first - 0.5, first + 0.5];
    this.ys = limits();
    this.height = this.width < 420 ? 330 : 420;
    const longest = Math.max(...DATA.shorts.map((name) => name.length), 0);
    this.margin = { left: 48, right: this.width < 360 ? 12 : Math.min(longest * 6.8 + 26, 132), top: 22, bottom: 40 };
  }

  // dragging the threshold over a thousand lines has to be smooth: they are drawn again only where they change
  told(what) {
    const [low, high] = limits();
    const stays = LAYERS > MANY && !touches(what, "of", "how", "theme") && low === this.ys?.[0] && high === this.ys[1];
    if (!stays || !touches(what, "threshold", "dragging")) super.told(what);
    else if (!this.isStale) {
      this.describe();
      this.rule();
    }
  }

  log(row, column) {
    return record(this.arm).logs[row * DATA.arms[this.arm].iterations.length + column];
  }

  // a layer's line into a pen; it has gaps where there is nothing finite, and a lonely value is a dot
  trace(row, pen) {
    const { iterations } = DATA.arms[this.arm];
    let open = false;
    for (let column = 0; column < iterations.length; column += 1) {
      const log = this.log(row, column);
      if (Number.isFinite(log)) {
        const [x, y] = [this.x(iterations[column]), this.y(log)];
        if (open) pen.lineTo(x, y);
        else {
          pen.moveTo(x, y);
          pen.lineTo(x + 0.01, y);
        }
      }
      open = Number.isFinite(log);
    }
  }

  // the same as SVG has it
  line(row) {
    const steps = [];
    const step = (letter) => (x, y) => steps.push(`${letter}${x.toFixed(2)} ${y.toFixed(2)}`);
    this.trace(row, { moveTo: step("M"), lineTo: step("L") });
    return steps.join("");
  }

  paint(pen) {
    this.decades();
    this.iterationAxis("iteration");
    this.nameY(DATA.quantities[state.of]);
    const shown = reached(this.arm);
    const width = clamp(24 / Math.max(shown.length, 1), 0.6, 1.6);
    pen.lineCap = pen.lineJoin = "round";
    for (const row of shown) {
      pen.strokeStyle = pen.fillStyle = depthColour(row);
      pen.lineWidth = width * (LAYERS <= MANY && isFlagged(row) ? 1.7 : 1);
      pen.beginPath();
      this.trace(row, pen);
      pen.stroke();
      this.lanes(pen, row);
    }
    this.names(shown);
    this.shade = drawn("rect", { fill: "var(--flagged)", opacity: 0.07 });
    this.axes.append(this.shade);
    this.rule();
  }

  lanes(pen, row) {
    const { iterations } = DATA.arms[this.arm];
    for (let column = 0; column < iterations.length; column += 1) {
      const log = this.log(row, column);
      const x = this.x(iterations[column]);
      if (log === -Infinity) pen.fill(new Path2D(triangle(x, this.inner.top + this.inner.height)));
      if (log === Infinity) pen.stroke(new Path2D(cross(x, this.inner.top)));
    }
  }

  rule() {
    const { left, top, width, height } = this.inner;
    const y = this.y(Math.log10(state.threshold));
    const box = { x: left, y, width, height: top + height - y };
    for (const [name, value] of Object.entries(box)) this.shade.setAttribute(name, value);
    this.threshold.place();
  }

  lastColumn(row) {
    let column = DATA.arms[this.arm].iterations.length - 1;
    while (column > 0 && Number.isNaN(this.log(row, column))) column -= 1;
    return column;
  }

  names(shown) {
    if (this.margin.right < 20 || !shown.length) return;
    const [lowest] = lowestAndHighest(this.arm);
    const telling = new Set([shown[0], lowest ?? shown[0], shown[shown.length - 1]]);
    const named = shown.length <= FEW ? shown : shown.filter((row) => telling.has(row));
    const wanted = named.map((row) => this.y(this.log(row, this.lastColumn(row))));
    const { left, width, top, height } = this.inner;
    const heights = apart(wanted, 14, top, top + height);
    named.forEach((row, i) => {
      const start = this.x(DATA.arms[this.arm].iterations[this.lastColumn(row)]);
      const d = `M${start + 2} ${wanted[i]}L${left + width + 12} ${heights[i]}`;
      const text = DATA.shorts[row].length > 17 ? `\u2026${DATA.shorts[row].slice(-16)}` : DATA.shorts[row];
      this.axes.append(
        drawn("path", { d, stroke: depthColour(row), "stroke-width": 1, fill: "none", opacity: 0.8 }),
        drawn("text", { x: left + width + 15, y: heights[i] + 4 }, text),
      );
    });
  }

  remark() {
    this.marks.replaceChildren();
    const row = state.layer;
    if (row === null) return;
    const look = { fill: "none", "stroke-linecap": "round", "stroke-linejoin": "round" };
    const d = this.line(row);
    this.marks.append(
      drawn("path", { d, stroke: "var(--page)", "stroke-width": 6, opacity: 0.85, ...look }),
      drawn("path", { d, class: "current", stroke: "var(--ink)", "stroke-width": 2.6, ...look }),
    );
    if (state.iteration === null) return;
    const [x, y] = this.where(row, state.iteration);
    if (!Number.isNaN(y)) this.marks.append(drawn("circle", { cx: x, cy: y, r: 4.5, fill: "var(--ink)", stroke: "var(--page)" }));
  }

  where(row, column) {
    return [this.x(DATA.arms[this.arm].iterations[column]), this.y(this.log(row, column))];
  }

  under(x, y) {
    const { iterations } = DATA.arms[this.arm];
    const place = this.xs[0] + ((x - this.inner.left) / this.inner.width) * (this.xs[1] - this.xs[0]);
    let column = 0;
    iterations.forEach((iteration, i) => {
      if (Math.abs(iteration - place) < Math.abs(iterations[column] - place)) column = i;
    });
    const [row, distance] = reached(this.arm).reduce(
      (best, candidate) => {
        const away = Math.abs(this.y(this.log(candidate, column)) - y);
        return away < best[1] ? [candidate, away] : best;
      },
      [null, 40],
    );
    return row === null || distance >= 40 ? null : { row, column };
  }

  finding() {
    return spanSentence(this.arm);
  }

  entries() {
    const order = [depthRamp(), "first layer to last"];
    return [order, ...laneEntries([this.arm])];
  }
}

class Profile extends Chart {
  constructor(parent) {
    super(parent, "Gradient by depth");
    this.threshold = new Threshold(this);
  }

  arrange() {
    this.xs = [-0.6, LAYERS - 0.4];
    this.ys = limits();
    const longest = Math.max(...DATA.shorts.map((name) => name.length), 0);
    const bottom = Math.min(longest, 24) * 6.8 + 36;
    this.margin = { left: 48, right: 12, top: 22 + 15 * Math.min(BRANCHES.length, POLE_ROWS), bottom };
    this.height = (this.width < 420 ? 240 : 320) + bottom + this.margin.top;
  }

  paint(pen) {
    this.decades();
    this.nameY(`${DATA.quantities[state.of]}, ${state.how}`);
    this.layerAxis();
    this.poles();
    this.dots(pen, 0);
    if (DATA.arms.length > 1) this.dots(pen, 1);
    this.threshold.place();
  }

  layerAxis() {
    const step = Math.ceil(LAYERS / Math.max(2, Math.floor(this.inner.width / 15)));
    const bottom = this.inner.top + this.inner.height;
    for (let row = 0; row < LAYERS; row += step) {
      const turn = `translate(${this.x(row) + 4} ${bottom + 9}) rotate(-90)`;
      const look = isFlagged(row) ? { fill: "var(--flagged)", "font-weight": 600 } : {};
      this.axes.append(drawn("text", { transform: turn, "text-anchor": "end", ...look }, DATA.shorts[row]));
    }
    const named = step > 1 ? `layer, by depth (${Math.ceil(LAYERS / step)} of ${LAYERS} named)` : "layer, by depth";
    const middle = this.inner.left + this.inner.width / 2;
    this.axes.append(drawn("text", { class: "name", x: middle, y: this.height - 4, "text-anchor": "middle" }, named));
  }

  // a line for each branch; its name stands on it like a flag, in the lowest row with room for it, if there is one
  poles() {
    const { top, height, left, width } = this.inner;
    const ends = Array(POLE_ROWS).fill(Infinity); // of each row: where what stands there begins
    for (const { row, short: name } of [...BRANCHES].reverse()) {
      const x = this.x(row);
      const text = `\u25c6 ${name}`;
      const start = Math.min(x, left + width - 7 * text.length);
      const at = ends.findIndex((end) => start + 7 * text.length < end);
      const y = top - 7 - 15 * Math.max(at, 0);
      const line = { x1: x, x2: x, y1: y, y2: top + height, stroke: "var(--branch)" };
      this.axes.append(drawn("line", { ...line, "stroke-width": clamp(16 / BRANCHES.length, 0.5, 1.5) }));
      if (at < 0) continue;
      this.axes.append(drawn("text", { class: "halo", x: start + 4, y: y + 2, style: "fill: var(--branch)" }, text));
      ends.fill(start, 0, at + 1);
    }
  }

  // a diamond for what is flagged, a disc for the rest; with branches in place an open ring
  dots(pen, arm) {
    const size = clamp(150 / LAYERS, 1.3, 4.5);
    const { min, max } = record(arm).aggregates;
    const colours = [themed("fine"), themed("flagged"), themed("branch")];
    const aside = DATA.arms.length > 1 ? (arm - 0.5) * clamp(this.inner.width / LAYERS / 3, 0, 14) : 0;
    for (const row of reached(arm)) {
      const [x, low, high] = [this.x(row) + aside, this.level(min[row]), this.level(max[row])];
      const y = this.level(magnitude(row, arm));
      pen.strokeStyle = pen.fillStyle = arm ? colours[2] : colours[isFlagged(row) ? 1 : 0];
      pen.globalAlpha = 0.25;
      pen.lineWidth = clamp(this.inner.width / LAYERS / 3, 0.8, 7);
      pen.beginPath();
      pen.moveTo(x, low);
      pen.lineTo(x, high);
      pen.stroke();
      pen.globalAlpha = 1;
      this.dot(pen, row, arm, x, y, size);
    }
  }

  dot(pen, row, arm, x, y, size) {
    const value = magnitude(row, arm);
    const path = new Path2D();
    if (value === 0) path.addPath(new Path2D(triangle(x, y)));
    else if (value === Infinity) {
      pen.lineWidth = 2;
      pen.stroke(new Path2D(cross(x, y)));
      return;
    } else if (!arm && isFlagged(row)) {
      const far = size * 1.4;
      path.addPath(new Path2D(`M${x} ${y - far}L${x + far} ${y}L${x} ${y + far}L${x - far} ${y}Z`));
    } else path.arc(x, y, size, 0, 7);
    if (!arm) {
      pen.fill(path);
      return;
    }
    pen.lineWidth = clamp(size / 2, 0.8, 2);
    pen.stroke(path);
  }

  level(value) {
    return this.y(value === 0 ? -Infinity : Math.log10(value));
  }

  remark() {
    this.marks.replaceChildren();
    if (state.layer === null) return;
    const x = this.x(state.layer);
    const { top, height, left, width } = this.inner;
    this.marks.append(drawn("line", { class: "current", x1: x, x2: x, y1: top, y2: top + height, stroke: "var(--ink)", opacity: 0.5 }));
    for (let arm = 0; arm < DATA.arms.length; arm += 1) {
      const y = this.level(magnitude(state.layer, arm));
      if (!Number.isNaN(y)) this.marks.append(drawn("circle", { cx: x, cy: y, r: 7, fill: "none", stroke: "var(--ink)", "stroke-width": 2 }));
    }
    const anchor = x > left + width / 2 ? "end" : "start";
    const place = { class: "halo", x: x + (anchor === "end" ? -6 : 6), y: top + height - 6, "text-anchor": anchor, "font-weight": 600 };
    this.marks.append(drawn("text", place, DATA.shorts[state.layer]));
  }

  where(row) {
    const value = magnitude(row);
    return [this.x(row), Number.isNaN(value) ? this.inner.top : this.level(value)];
  }

  under(x) {
    const row = Math.round(this.xs[0] + ((x - this.inner.left) / this.inner.width) * (this.xs[1] - this.xs[0]));
    return row >= 0 && row < LAYERS ? { row, column: null } : null;
  }

  turned([down, along]) {
    return [down + along, 0];
  }

  finding() {
    const both = DATA.arms.length > 1 ? ` With branches: ${spanSentence(1)}` : "";
    return spanSentence(0) + both;
  }

  entries() {
    const disc = (shape, colour) => picture(drawn(shape.tag, { ...shape.at, ...colour }));
    const diamond = { tag: "path", at: { d: "M11 1L16 6L11 11L6 6Z" } };
    const round = { tag: "circle", at: { cx: 11, cy: 6, r: 4 } };
    const found = [
      [disc(diamond, { fill: "var(--flagged)" }), `below ${short(state.threshold)}`],
      [disc(round, { fill: "var(--fine)" }), "other layers"],
    ];
    if (DATA.arms.length > 1) {
      found.push([disc(round, { fill: "none", stroke: "var(--branch)", "stroke-width": 2 }), "with branches"]);
    }
    found.push([disc({ tag: "rect", at: { x: 8, y: 0, width: 6, height: 12 } }, { fill: "var(--grey)", opacity: 0.4 }), "range over the iterations"]);
    const upright = drawn("line", { x1: 11, x2: 11, y1: 0, y2: 12, stroke: "var(--branch)", "stroke-width": 1.5 });
    if (BRANCHES.length) found.push([picture(upright), `\u25c6 ${counted(BRANCHES.length, "branch", "branches")}`]);
    return [...found, ...laneEntries(DATA.arms.map((_, arm) => arm))];
  }
}

// the smallest and the largest log of both arms, so that a colour means the same in either
function colourSpan() {
  let [low, high] = [Infinity, -Infinity];
  for (let arm = 0; arm < DATA.arms.length; arm += 1) {
    for (const value of record(arm).logs) {
      if (!Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return [-8, 0];
  return high > low ? [low, high] : [low, low + 1];
}

// from a log to a colour; black stays free for exact zeros
const SHADES = Array.from({ length: 256 }, (_, i) => ramp(0.08 + (0.92 * i) / 255));

function colourScale() {
  const [low, high] = colourSpan();
  return (log) => (log === -Infinity ? [0, 0, 0] : SHADES[clamp(Math.round((255 * (log - low)) / (high - low)), 0, 255)]);
}

class HeatMap extends Chart {
  constructor(parent, arm) {
    super(parent, DATA.arms[arm].title ? `Every layer and iteration: ${DATA.arms[arm].title.toLowerCase()}` : "Every layer and iteration");
    this.arm = arm;
  }

  frame(plot) {
    this.viewport = element("div", { className: "viewport" }, plot);
    return this.viewport;
  }

  told(what) {
    super.told(what);
    const marked = what.has("layer") && state.layer !== null;
    if (marked && !this.canvas.matches(":hover")) this.bringIntoView(state.layer);
  }

  bringIntoView(row) {
    const [, y] = this.where(row);
    const { scrollTop, clientHeight } = this.viewport;
    if (y < scrollTop || y > scrollTop + clientHeight) this.viewport.scrollTop = y - clientHeight / 2;
  }

  arrange() {
    const { iterations } = DATA.arms[this.arm];
    this.columns = iterations.length;
    this.rowHeight = clamp(440 / LAYERS, 1, 20);
    const longest = Math.max(...DATA.shorts.map((name) => name.length), 0);
    const left = Math.min(longest * 6.8 + 20, this.width < 420 ? 118 : 180);
    this.margin = { left, right: 14, top: 38, bottom: 6 };
    this.height = LAYERS * this.rowHeight + 44;
    [this.low, this.high] = colourSpan();
  }

  paint(pen) {
    const { left, top, width, height } = this.inner;
    const cells = new OffscreenCanvas(this.columns, LAYERS);
    const image = new ImageData(this.columns, LAYERS);
    const bad = themed("flagged").match(/[\d.]+/g).map(Number);
    const { logs } = record(this.arm);
    const colour = colourScale();
    for (let i = 0; i < logs.length; i += 1) {
      if (Number.isNaN(logs[i])) continue; // stays transparent
      const cell = logs[i] === Infinity ? bad : colour(logs[i]);
      for (let channel = 0; channel < 3; channel += 1) image.data[4 * i + channel] = cell[channel];
      image.data[4 * i + 3] = 255;
    }
    cells.getContext("2d").putImageData(image, 0, 0);
    pen.fillStyle = hatched(pen);
    pen.fillRect(left, top, width, height);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(cells, left, top, width, height);
    this.strip(pen);
    this.names();
    this.columnAxis();
  }

  // what is flagged has a bar at its left, and what has a branch behind it a diamond at its right
  strip(pen) {
    const { left, top, width } = this.inner;
    pen.fillStyle = themed("flagged");
    for (const row of flagged()) pen.fillRect(left - 7, top + row * this.rowHeight, 5, Math.max(this.rowHeight, 1));
    for (const point of BRANCHES) {
      const y = top + (point.row + 0.5) * this.rowHeight;
      this.axes.append(drawn("text", { x: left + width + 2, y: y + 4, style: "fill: var(--branch)" }, "\u25c6"));
    }
  }

  names() {
    const step = Math.ceil(15 / this.rowHeight);
    const room = Math.floor((this.margin.left - 14) / 6.6);
    for (let row = 0; row < LAYERS; row += step) {
      const y = this.inner.top + (row + 0.5) * this.rowHeight + 4;
      const look = isFlagged(row) ? { style: "fill: var(--flagged)", "font-weight": 600 } : {};
      const name = DATA.shorts[row];
      const text = name.length > room ? `\u2026${name.slice(1 - room)}` : name;
      this.axes.append(drawn("text", { x: this.inner.left - 11, y, "text-anchor": "end", ...look }, text));
    }
  }

  columnAxis() {
    const { iterations } = DATA.arms[this.arm];
    const step = niceStep(this.columns / Math.max(2, Math.floor(this.inner.width / 50)));
    for (let column = 0; column < this.columns; column += step) {
      const [x] = this.where(0, column);
      this.axes.append(drawn("text", { x, y: 32, "text-anchor": "middle" }, String(iterations[column])));
    }
    const middle = this.inner.left + this.inner.width / 2;
    this.axes.append(drawn("text", { class: "name", x: middle, y: 14, "text-anchor": "middle" }, "iteration"));
  }

  remark() {
    this.marks.replaceChildren();
    if (state.layer === null) return;
    const { left, top, width } = this.inner;
    const tall = Math.max(this.rowHeight, 3);
    const y = top + (state.layer + 0.5) * this.rowHeight - tall / 2;
    const box = { x: left - 1, y: y - 1, width: width + 2, height: tall + 2, fill: "none" };
    this.marks.append(
      drawn("rect", { ...box, stroke: "var(--page)", "stroke-width": 4 }),
      drawn("rect", { ...box, class: "current", stroke: "var(--ink)", "stroke-width": 2 }),
    );
  }

  where(row, column = 0) {
    const { left, top, width } = this.inner;
    return [left + ((column + 0.5) / this.columns) * width, top + (row + 0.5) * this.rowHeight];
  }

  under(x, y) {
    const row = Math.floor((y - this.inner.top) / this.rowHeight);
    const column = clamp(Math.floor(((x - this.inner.left) / this.inner.width) * this.columns), 0, this.columns - 1);
    return row >= 0 && row < LAYERS ? { row, column } : null;
  }

  finding() {
    const { length } = DATA.arms[this.arm].iterations;
    return `${counted(LAYERS, "layer")}, first on top, by ${counted(length, "iteration")}. ${spanSentence(this.arm)}`;
  }

  entries() {
    const bar = element("span", { className: "ramp" });
    const stops = [0, 0.25, 0.5, 0.75, 1].map((part) => css(ramp(0.08 + 0.92 * part)));
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const scale = element("span", {}, short(10 ** this.low), bar, short(10 ** this.high));
    const block = (fill) => picture(drawn("rect", { x: 4, y: 0, width: 14, height: 12, fill, stroke: "var(--grey)" }));
    const found = [[scale, ""], [picture(drawn("rect", { x: 9, y: 0, width: 5, height: 12, fill: "var(--flagged)" })), `below ${short(state.threshold)}`]];
    if (BRANCHES.length) found.push(["\u25c6 ", "branch"]);
    if (hasLog(this.arm, -Infinity)) found.push([block("#000"), ZERO]);
    if (hasLog(this.arm, Infinity)) found.push([block("var(--flagged)"), NONFINITE]);
    if (record(this.arm).logs.some(Number.isNaN)) found.push(["\u2571\u2571 ", "no gradient"]);
    return found;
  }
}

function hatched(pen) {
  const tile = new OffscreenCanvas(12, 12);
  const small = tile.getContext("2d");
  small.strokeStyle = themed("grey");
  small.globalAlpha = 0.6;
  small.stroke(new Path2D("M0 12L12 0M-3 3L3 -3M9 15L15 9"));
  return pen.createPattern(tile, "repeat");
}

class Learning extends Chart {
  constructor(parent, curve) {
    super(parent, `${curve.title}, main output`);
    this.curve = curve;
  }

  told(what) {
    if (what.has("theme")) this.redraw();
  }

  arrange() {
    const { arms, chance } = this.curve;
    const all = arms.flatMap((arm) => arm.iterations);
    const [first, last] = [Math.min(...all), Math.max(...all)];
    this.xs = first < last ? [first, last] : [first - 0.5, first + 0.5];
    const values = arms.flatMap((arm) => [...arm.low, ...arm.high]).concat(chance ?? []);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = 0.06 * (high - low) || 0.5;
    this.ys = [low - pad, high + pad];
    this.height = 300;
    this.margin = { left: 48, right: 12, top: 22, bottom: 40 };
  }

  paint(pen) {
    const [low, high] = this.ys;
    const rough = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) this.ruleY(value, String(Number(value.toFixed(6))));
    this.iterationAxis("iteration");
    this.nameY(this.curve.label);
    this.line(pen, this.curve.arms[1], 1);
    this.line(pen, this.curve.arms[0], 0); // dashed, so that where both are equal both are seen
    if (this.curve.chance === null) return;
    const { left, width } = this.inner;
    const y = this.y(this.curve.chance);
    this.axes.append(drawn("line", { x1: left, x2: left + width, y1: y, y2: y, stroke: "var(--grey)", "stroke-dasharray": "2 3" }));
  }

  line(pen, arm, i) {
    const points = (values) => values.map((value, at) => `${this.x(arm.iterations[at]).toFixed(1)} ${this.y(value).toFixed(1)}`);
    if (!arm.mean.length) return;
    pen.strokeStyle = pen.fillStyle = themed(["flagged", "fine"][i]);
    pen.globalAlpha = 0.15;
    pen.fill(new Path2D(`M${points(arm.high).join("L")}L${points(arm.low).reverse().join("L")}Z`));
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.setLineDash(i ? [] : [6, 3]);
    pen.stroke(new Path2D(`M${points(arm.mean).join("L")}`));
    pen.setLineDash([]);
    if (!this.curve.markers) return;
    arm.mean.forEach((value, at) => {
      const [x, y] = [this.x(arm.iterations[at]), this.y(value)];
      const path = new Path2D();
      if (i) path.arc(x, y, 3.5, 0, 7);
      else path.rect(x - 5, y - 5, 10, 10);
      if (i) pen.fill(path);
      else pen.stroke(path);
    });
  }

  remark() {}

  under(x) {
    const place = this.xs[0] + ((x - this.inner.left) / this.inner.width) * (this.xs[1] - this.xs[0]);
    return { row: null, place };
  }

  point({ place }, x, y) {
    const lines = this.curve.arms.flatMap((arm, i) => {
      const near = arm.iterations.reduce((best, at, k) => (Math.abs(at - place) < Math.abs(arm.iterations[best] - place) ? k : best), 0);
      return arm.mean.length ? [`${["without", "with"][i]}: ${short(arm.mean[near])} at iteration ${arm.iterations[near]}`] : [];
    });
    showLines(lines, x, y);
  }

  leave() {
    tip.hidden = true;
  }

  key() {}

  finding() {
    const [plain, supervised] = this.curve.arms.map((arm) => arm.mean[arm.mean.length - 1]);
    const said = [[plain, "without"], [supervised, "with branches"]].filter(([value]) => value !== undefined);
    return `At the end ${said.map(([value, which]) => `${short(value)} ${which}`).join(", ")}.`;
  }

  entries() {
    const found = [
      [picture(stroke("var(--flagged)", "6 3")), "without"],
      [picture(stroke("var(--fine)")), "with deep supervision"],
    ];
    if (this.curve.chance !== null) found.push([picture(stroke("var(--grey)", "2 3", 1)), "chance"]);
    if (this.curve.seeds > 1) found.push([picture(drawn("rect", { width: 22, height: 12, fill: "var(--grey)", opacity: 0.3 })), `range of ${this.curve.seeds} seeds`]);
    return found.filter((_, i) => i > 1 || this.curve.arms[i].mean.length);
  }
}
