// Magnitude against depth, and where the branches are.

const NAME_ROWS = 3; // of the names of branches, above the axes

class Profile extends DepthChart {
  constructor(parent) {
    super(parent, "Gradient by depth");
    this.threshold = new Threshold(this);
  }

  layOut() {
    this.ys = limits();
    this.layOutLayers(22 + 15 * Math.min(BRANCHES.length, NAME_ROWS));
  }

  paint(context) {
    this.decades();
    this.nameY(`${DATA.quantities[state.of]}, ${state.how}`);
    this.layerAxis(isFlagged);
    this.branchLines();
    this.dots(context, 0);
    if (DATA.arms.length > 1) this.dots(context, 1);
    this.threshold.place();
  }

  // a line for each branch, with its name at the upper end, in the lowest row that has room for it, if one has
  branchLines() {
    const { top, height, left, width } = this.inner;
    const ends = Array(NAME_ROWS).fill(Infinity); // of each row: where its leftmost name begins
    for (const { row, short: name } of [...BRANCHES].reverse()) {
      const x = this.x(row);
      const text = `\u25c6 ${name}`;
      const start = Math.min(x, left + width - 7 * text.length);
      const at = ends.findIndex((end) => start + 7 * text.length < end);
      const y = top - 7 - 15 * Math.max(at, 0);
      const line = { x1: x, x2: x, y1: y, y2: top + height, stroke: "var(--branch)" };
      this.axes.append(svgElement("line", { ...line, "stroke-width": clamp(16 / BRANCHES.length, 0.5, 1.5) }));
      if (at < 0) continue;
      this.axes.append(svgElement("text", { class: "halo", x: start + 4, y: y + 2, style: "fill: var(--branch)" }, text));
      ends.fill(start, 0, at + 1);
    }
  }

  // a diamond for a flagged layer, a disc for another one, a ring with branches in place; for each a bar from the
  // smallest to the largest, with a mark at an end that is zero or not finite
  dots(context, arm) {
    const size = clamp(150 / LAYERS, 1.3, 4.5);
    const { min, max } = record(arm).aggregates;
    const colours = [themed("fine"), themed("flagged"), themed("branch")];
    const aside = DATA.arms.length > 1 ? (arm - 0.5) * clamp(this.inner.width / LAYERS / 3, 0, 14) : 0;
    for (const row of reached(arm)) {
      const [x, low, high] = [this.x(row) + aside, this.level(min[row]), this.level(max[row])];
      context.strokeStyle = context.fillStyle = arm ? colours[2] : colours[isFlagged(row) ? 1 : 0];
      context.globalAlpha = 0.25;
      context.lineWidth = clamp(this.inner.width / LAYERS / 3, 0.8, 7);
      context.beginPath();
      context.moveTo(x, low);
      context.lineTo(x, high);
      context.stroke();
      context.globalAlpha = 1;
      context.lineWidth = 2;
      if (min[row] === 0) context.fill(new Path2D(triangle(x, low)));
      if (max[row] === Infinity) context.stroke(new Path2D(cross(x, high)));
      this.dot(context, row, arm, x, size);
    }
  }

  dot(context, row, arm, x, size) {
    const value = magnitude(row, arm);
    if (value === 0 || value === Infinity) return;
    const y = this.level(value);
    const path = new Path2D();
    if (!arm && isFlagged(row)) {
      const far = size * 1.4;
      path.addPath(new Path2D(`M${x} ${y - far}L${x + far} ${y}L${x} ${y + far}L${x - far} ${y}Z`));
    } else path.arc(x, y, size, 0, 7);
    if (!arm) {
      context.fill(path);
      return;
    }
    context.lineWidth = clamp(size / 2, 0.8, 2);
    context.stroke(path);
  }

  level(value) {
    return this.y(value === 0 ? -Infinity : Math.log10(value));
  }

  levels(row) {
    return DATA.arms.map((_, arm) => this.level(magnitude(row, arm)));
  }

  positionOf(row) {
    const value = magnitude(row);
    return [this.x(row), Number.isNaN(value) ? this.inner.top : this.level(value)];
  }

  finding() {
    const both = DATA.arms.length > 1 ? ` With branches: ${spanSentence(1)}` : "";
    return spanSentence(0) + both;
  }

  entries() {
    const disc = (shape, colour) => picture(svgElement(shape.tag, { ...shape.at, ...colour }));
    const diamond = { tag: "path", at: { d: "M11 1L16 6L11 11L6 6Z" } };
    const round = { tag: "circle", at: { cx: 11, cy: 6, r: 4 } };
    const some = flagged().length > 0;
    const entries = some ? [[disc(diamond, { fill: "var(--flagged)" }), `below ${short(state.threshold)}`]] : [];
    entries.push([disc(round, { fill: "var(--fine)" }), some ? "other layers" : "layers"]);
    if (DATA.arms.length > 1) {
      entries.push([disc(round, { fill: "none", stroke: "var(--branch)", "stroke-width": 2 }), "with branches"]);
    }
    entries.push([disc({ tag: "rect", at: { x: 8, y: 0, width: 6, height: 12 } }, { fill: "var(--grey)", opacity: 0.4 }), "range over the iterations"]);
    const upright = svgElement("line", { x1: 11, x2: 11, y1: 0, y2: 12, stroke: "var(--branch)", "stroke-width": 1.5 });
    if (BRANCHES.length) entries.push([picture(upright), `\u25c6 ${counted(BRANCHES.length, "branch", "branches")}`]);
    return [...entries, ...offScaleEntries(DATA.arms.map((_, arm) => arm))];
  }
}
