// Every layer and every iteration at once, in colour.

// the smallest and the largest log in both arms, so that a colour means the same in both
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

// the colour of a part from 0 to 1
function shade(part) {
  return ramp(0.08 + 0.92 * part);
}

const SHADES = Array.from({ length: 256 }, (_, i) => shade(i / 255));

// a function from a log to its colour; an exact zero is as pale as nothing
function colourScale() {
  const [low, high] = colourSpan();
  const [zero, bad] = ["pale", "flagged"].map((name) => themed(name).match(/[\d.]+/g).map(Number));
  return (log) => {
    if (log === -Infinity) return zero;
    return log === Infinity ? bad : SHADES[clamp(Math.round((255 * (log - low)) / (high - low)), 0, 255)];
  };
}

const LANES = 440; // at most: a lane is a row of pixels, of one layer or of several that follow each other

// of several layers in a lane what matters most is drawn: NaN or inf, then the smallest; NaN is no gradient
function worse(one, other) {
  if (Number.isNaN(one) || other === Infinity) return other;
  return Number.isNaN(other) || one === Infinity ? one : Math.min(one, other);
}

class HeatMap extends Chart {
  constructor(parent, arm) {
    super(parent, titled("Every layer and iteration", arm));
    this.arm = arm;
  }

  layOut() {
    const { iterations } = DATA.arms[this.arm];
    this.columns = iterations.length;
    this.lanes = Math.min(LAYERS, LANES);
    this.rowHeight = Math.min(LANES / LAYERS, 20);
    const longest = Math.max(...DATA.shorts.map((name) => name.length), 0);
    const left = Math.min(longest * 7.4 + 20, this.width < 420 ? 118 : 198); // the names of the flagged are bold
    this.margin = { left, right: 14, top: 38, bottom: 6 };
    this.height = LAYERS * this.rowHeight + 44;
    [this.low, this.high] = colourSpan();
  }

  paint(context) {
    const { left, top, width, height } = this.inner;
    const cells = new OffscreenCanvas(this.columns, this.lanes);
    const image = new ImageData(this.columns, this.lanes);
    const logs = this.inLanes();
    const colour = colourScale();
    for (let i = 0; i < logs.length; i += 1) {
      if (Number.isNaN(logs[i])) continue; // stays transparent
      const cell = colour(logs[i]);
      for (let channel = 0; channel < 3; channel += 1) image.data[4 * i + channel] = cell[channel];
      image.data[4 * i + 3] = 255;
    }
    cells.getContext("2d").putImageData(image, 0, 0);
    context.fillStyle = hatched(context);
    context.fillRect(left, top, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, left, top, width, height);
    this.sideMarks(context);
    this.names();
    this.columnAxis();
  }

  // the logs to draw, one lane after another
  inLanes() {
    const { logs } = record(this.arm);
    const drawn = new Float32Array(this.lanes * this.columns).fill(NaN);
    for (let row = 0; row < LAYERS; row += 1) {
      const lane = Math.floor((row * this.lanes) / LAYERS);
      for (let column = 0; column < this.columns; column += 1) {
        const at = lane * this.columns + column;
        drawn[at] = worse(drawn[at], logs[row * this.columns + column]);
      }
    }
    return drawn;
  }

  // a flagged layer has a bar at its left, and one with a branch after it a diamond at its right
  sideMarks(context) {
    const { left, top, width } = this.inner;
    context.fillStyle = themed("flagged");
    for (const row of flagged()) context.fillRect(left - 7, top + row * this.rowHeight, 5, Math.max(this.rowHeight, 1));
    for (const point of BRANCHES) {
      const y = top + (point.row + 0.5) * this.rowHeight;
      this.axes.append(svgElement("text", { x: left + width + 2, y: y + 4, style: "fill: var(--branch)" }, "\u25c6"));
    }
  }

  names() {
    const step = Math.ceil(15 / this.rowHeight);
    const room = Math.floor((this.margin.left - 14) / 7.2);
    for (let row = 0; row < LAYERS; row += step) {
      const y = this.inner.top + (row + 0.5) * this.rowHeight + 4;
      const look = isFlagged(row) ? { style: "fill: var(--flagged)", "font-weight": 600 } : {};
      const name = DATA.shorts[row];
      const text = name.length > room ? `\u2026${name.slice(1 - room)}` : name;
      this.axes.append(svgElement("text", { x: this.inner.left - 11, y, "text-anchor": "end", ...look }, text));
    }
  }

  columnAxis() {
    const { iterations } = DATA.arms[this.arm];
    const step = niceStep(this.columns / Math.max(2, Math.floor(this.inner.width / 50)));
    for (let column = 0; column < this.columns; column += step) {
      const [x] = this.positionOf(0, column);
      this.axes.append(svgElement("text", { x, y: 32, "text-anchor": "middle" }, String(iterations[column])));
    }
    const middle = this.inner.left + this.inner.width / 2;
    this.axes.append(svgElement("text", { class: "name", x: middle, y: 14, "text-anchor": "middle" }, "iteration"));
  }

  highlight() {
    this.marks.replaceChildren();
    if (state.layer === null) return;
    const { left, top, width } = this.inner;
    const tall = Math.max(this.rowHeight, 3);
    const y = top + (state.layer + 0.5) * this.rowHeight - tall / 2;
    const box = { x: left - 1, y: y - 1, width: width + 2, height: tall + 2, fill: "none" };
    this.marks.append(
      svgElement("rect", { ...box, stroke: "var(--page)", "stroke-width": 4 }),
      svgElement("rect", { ...box, class: "current", stroke: "var(--ink)", "stroke-width": 2 }),
    );
  }

  positionOf(row, column = 0) {
    const { left, top, width } = this.inner;
    return [left + ((column + 0.5) / this.columns) * width, top + (row + 0.5) * this.rowHeight];
  }

  layerAt(x, y) {
    const row = Math.floor((y - this.inner.top) / this.rowHeight);
    const column = clamp(Math.floor(((x - this.inner.left) / this.inner.width) * this.columns), 0, this.columns - 1);
    return row >= 0 && row < LAYERS ? { row, column } : null;
  }

  finding() {
    const { length } = DATA.arms[this.arm].iterations;
    const shared = LAYERS > LANES ? " Several layers share a line, which shows the smallest." : "";
    const size = `${counted(LAYERS, "layer")}, first on top, by ${counted(length, "iteration")}.`;
    return `${size}${shared} ${spanSentence(this.arm)}`;
  }

  entries() {
    const bar = colourBar((part) => css(shade(part)));
    const scale = element("span", {}, short(10 ** this.low), bar, short(10 ** this.high));
    const block = (fill) => picture(svgElement("rect", { x: 4, y: 0, width: 14, height: 12, fill, stroke: "var(--grey)" }));
    const entries = [[scale, ""]];
    const stripe = picture(svgElement("rect", { x: 9, y: 0, width: 5, height: 12, fill: "var(--flagged)" }));
    if (flagged().length) entries.push([stripe, `below ${short(state.threshold)}`]);
    if (BRANCHES.length) entries.push(["\u25c6 ", "branch"]);
    if (hasLog(this.arm, -Infinity)) entries.push([block("var(--pale)"), ZERO]);
    if (hasLog(this.arm, Infinity)) entries.push([block("var(--flagged)"), NONFINITE]);
    if (record(this.arm).logs.some(Number.isNaN)) entries.push(["\u2571\u2571 ", "no gradient"]);
    return entries;
  }
}

function hatched(context) {
  const tile = new OffscreenCanvas(12, 12);
  const small = tile.getContext("2d");
  small.strokeStyle = themed("grey");
  small.globalAlpha = 0.6;
  small.stroke(new Path2D("M0 12L12 0M-3 3L3 -3M9 15L15 9"));
  return context.createPattern(tile, "repeat");
}
