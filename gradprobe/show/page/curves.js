// Magnitude against iteration, a line for each layer.

const MANY = 60; // layers: their lines have one width, so a new threshold does not change them

class Curves extends Chart {
  constructor(parent, arm) {
    super(parent, titled("Gradient by iteration", arm));
    this.arm = arm;
    this.threshold = new Threshold(this);
  }

  layOut() {
    const { iterations } = DATA.arms[this.arm];
    const [first, last] = [iterations[0], iterations[iterations.length - 1]];
    this.xs = first < last ? [first, last] : [first - 0.5, first + 0.5];
    this.ys = limits();
    this.height = this.width < 420 ? 330 : 420;
    const longest = Math.max(...DATA.shorts.map((name) => name.length), 0);
    this.margin = { left: 48, right: this.width < 360 ? 12 : Math.min(longest * 6.8 + 26, 132), top: 22, bottom: 40 };
  }

  // dragging the threshold over a thousand lines has to be smooth: they are redrawn only if they change
  onChange(changes) {
    const [low, high] = limits();
    const stays = LAYERS > MANY && !touches(changes, "of", "how", "theme") && low === this.ys?.[0] && high === this.ys[1];
    if (!stays || !touches(changes, "threshold", "dragging")) super.onChange(changes);
    else if (!this.isStale) {
      this.describe();
      this.moveThreshold();
    }
  }

  log(row, column) {
    return record(this.arm).logs[row * DATA.arms[this.arm].iterations.length + column];
  }

  // adds a layer's line to a path; it has gaps where there is nothing finite, and an isolated value is a dot
  trace(row, path, alone = () => {}) {
    const { iterations } = DATA.arms[this.arm];
    let open = false;
    for (let column = 0; column < iterations.length; column += 1) {
      const log = this.log(row, column);
      if (Number.isFinite(log)) {
        const [x, y] = [this.x(iterations[column]), this.y(log)];
        if (open) path.lineTo(x, y);
        else {
          path.moveTo(x, y);
          path.lineTo(x + 0.01, y);
          if (!Number.isFinite(this.log(row, column + 1)) || column + 1 === iterations.length) alone(x, y);
        }
      }
      open = Number.isFinite(log);
    }
  }

  // the same as the path of an SVG element
  line(row) {
    const steps = [];
    const step = (letter) => (x, y) => steps.push(`${letter}${x.toFixed(2)} ${y.toFixed(2)}`);
    this.trace(row, { moveTo: step("M"), lineTo: step("L") });
    return steps.join("");
  }

  paint(context) {
    this.decades();
    this.iterationAxis("iteration");
    this.nameY(DATA.quantities[state.of]);
    const shown = reached(this.arm);
    const width = clamp(24 / Math.max(shown.length, 1), 0.6, 1.6);
    context.lineCap = context.lineJoin = "round";
    for (const row of shown) {
      context.strokeStyle = context.fillStyle = depthColour(row);
      context.lineWidth = width * (LAYERS <= MANY && isFlagged(row) ? 1.7 : 1);
      context.beginPath();
      this.trace(row, context, (x, y) => this.dot(context, x, y));
      context.stroke();
      this.offScaleMarks(context, row);
    }
    this.names(shown);
    this.shade = svgElement("rect", { fill: "var(--flagged)", opacity: 0.07 });
    this.axes.append(this.shade);
    this.moveThreshold();
  }

  // an isolated value, which a line of no length would not show
  dot(context, x, y) {
    const size = LAYERS <= MANY ? 3 : 1.5;
    context.fill(new Path2D(`M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0Z`));
  }

  offScaleMarks(context, row) {
    const { iterations } = DATA.arms[this.arm];
    for (let column = 0; column < iterations.length; column += 1) {
      const log = this.log(row, column);
      const x = this.x(iterations[column]);
      if (log === -Infinity) context.fill(new Path2D(triangle(x, this.inner.top + this.inner.height)));
      if (log === Infinity) context.stroke(new Path2D(cross(x, this.inner.top)));
    }
  }

  moveThreshold() {
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
    const few = new Set([shown[0], lowest ?? shown[0], shown[shown.length - 1]]);
    const named = shown.length <= MAX_NAMED ? shown : shown.filter((row) => few.has(row));
    const wanted = named.map((row) => this.y(this.log(row, this.lastColumn(row))));
    const { left, width, top, height } = this.inner;
    const heights = moveApart(wanted, 14, top, top + height);
    named.forEach((row, i) => {
      const start = this.x(DATA.arms[this.arm].iterations[this.lastColumn(row)]);
      const d = `M${start + 2} ${wanted[i]}L${left + width + 12} ${heights[i]}`;
      const text = DATA.shorts[row].length > 17 ? `\u2026${DATA.shorts[row].slice(-16)}` : DATA.shorts[row];
      this.axes.append(
        svgElement("path", { d, stroke: depthColour(row), "stroke-width": 1, fill: "none", opacity: 0.8 }),
        svgElement("text", { x: left + width + 15, y: heights[i] + 4 }, text),
      );
    });
  }

  highlight() {
    this.marks.replaceChildren();
    const row = state.layer;
    if (row === null) return;
    const look = { fill: "none", "stroke-linecap": "round", "stroke-linejoin": "round" };
    const d = this.line(row);
    this.marks.append(
      svgElement("path", { d, stroke: "var(--page)", "stroke-width": 6, opacity: 0.85, ...look }),
      svgElement("path", { d, class: "current", stroke: "var(--ink)", "stroke-width": 2.6, ...look }),
    );
    if (state.iteration === null) return;
    const [x, y] = this.positionOf(row, state.iteration);
    if (!Number.isNaN(y)) this.marks.append(svgElement("circle", { cx: x, cy: y, r: 4.5, fill: "var(--ink)", stroke: "var(--page)" }));
  }

  positionOf(row, column) {
    return [this.x(DATA.arms[this.arm].iterations[column]), this.y(this.log(row, column))];
  }

  layerAt(x, y) {
    const { iterations } = DATA.arms[this.arm];
    const place = this.valueAt(x);
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
    const order = colourBar((part) => depthColour(part * (LAYERS - 1)));
    return [[order, "first layer to last"], ...offScaleEntries([this.arm])];
  }
}
