// How the main output learnt: without and with branches, or with each of several arms.

class Learning extends Chart {
  constructor(parent, curve) {
    super(parent, `${curve.title}, main output`);
    this.curve = curve;
  }

  onChange(changes) {
    if (changes.has("theme")) this.redraw();
  }

  layOut() {
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

  paint(context) {
    const [low, high] = this.ys;
    const step = niceStep((high - low) / 6, 0);
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) this.ruleY(value, String(Number(value.toFixed(6))));
    this.iterationAxis("iteration");
    this.nameY(this.curve.label);
    // the first one is dashed and drawn last, so that both can be seen where two are equal
    for (let i = this.curve.arms.length - 1; i >= 0; i -= 1) this.line(context, this.curve.arms[i], i);
    if (this.curve.chance === null) return;
    const { left, width } = this.inner;
    const y = this.y(this.curve.chance);
    this.axes.append(svgElement("line", { x1: left, x2: left + width, y1: y, y2: y, stroke: "var(--grey)", "stroke-dasharray": "2 3" }));
  }

  line(context, arm, i) {
    const points = (values) => values.map((value, at) => `${this.x(arm.iterations[at]).toFixed(1)} ${this.y(value).toFixed(1)}`);
    if (!arm.mean.length) return;
    context.strokeStyle = context.fillStyle = themed(arm.colour);
    context.globalAlpha = 0.15;
    context.fill(new Path2D(`M${points(arm.high).join("L")}L${points(arm.low).reverse().join("L")}Z`));
    context.globalAlpha = 1;
    context.lineWidth = 2;
    context.setLineDash(i ? [] : [6, 3]);
    context.stroke(new Path2D(`M${points(arm.mean).join("L")}`));
    context.setLineDash([]);
    if (!this.curve.markers) return;
    arm.mean.forEach((value, at) => {
      const [x, y] = [this.x(arm.iterations[at]), this.y(value)];
      const path = new Path2D();
      if (i) path.arc(x, y, 3.5, 0, 7);
      else path.rect(x - 5, y - 5, 10, 10);
      if (i) context.fill(path);
      else context.stroke(path);
    });
  }

  highlight() {}

  layerAt(x) {
    return { row: null, place: this.valueAt(x) };
  }

  hover({ place }, x, y) {
    const lines = this.curve.arms.flatMap((arm) => {
      const near = arm.iterations.reduce((best, at, k) => (Math.abs(at - place) < Math.abs(arm.iterations[best] - place) ? k : best), 0);
      return arm.mean.length ? [`${arm.name}: ${short(arm.mean[near])} at iteration ${arm.iterations[near]}`] : [];
    });
    showLines(lines, x, y);
  }

  leave() {
    tip.hidden = true;
  }

  key() {}

  finding() {
    const ends = this.curve.arms.filter((arm) => arm.mean.length);
    return `At the end ${ends.map((arm) => `${short(arm.mean[arm.mean.length - 1])} ${arm.name}`).join(", ")}.`;
  }

  entries() {
    const lines = this.curve.arms.map((arm, i) => [arm, [picture(stroke(`var(--${arm.colour})`, i ? "" : "6 3")), arm.name]]);
    const entries = lines.filter(([arm]) => arm.mean.length).map(([, entry]) => entry);
    if (this.curve.chance !== null) entries.push([picture(stroke("var(--grey)", "2 3", 1)), "chance"]);
    if (this.curve.seeds > 1) entries.push([picture(svgElement("rect", { width: 22, height: 12, fill: "var(--grey)", opacity: 0.3 })), `range of ${this.curve.seeds} seeds`]);
    return entries;
  }
}
