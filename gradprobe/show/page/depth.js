// What the figures with an axis of layers share: the names along it, and which layer is at the pointer.

class DepthChart extends Chart {
  layOutLayers(top) {
    this.xs = [-0.6, LAYERS - 0.4];
    const longest = Math.max(...DATA.shorts.map((name) => name.length), 0);
    const bottom = Math.min(longest, 24) * 6.8 + 36;
    this.margin = { left: 48, right: 12, top, bottom };
    this.height = (this.width < 420 ? 240 : 320) + bottom + top;
  }

  // the rows of emphasised layers have a colour
  layerAxis(isEmphasised) {
    const step = Math.ceil(LAYERS / Math.max(2, Math.floor(this.inner.width / 15)));
    const bottom = this.inner.top + this.inner.height;
    for (let row = 0; row < LAYERS; row += step) {
      const turn = `translate(${this.x(row) + 4} ${bottom + 9}) rotate(-90)`;
      const look = isEmphasised(row) ? { fill: "var(--flagged)", "font-weight": 600 } : {};
      this.axes.append(svgElement("text", { transform: turn, "text-anchor": "end", ...look }, DATA.shorts[row]));
    }
    const named = step > 1 ? `layer, by depth (${Math.ceil(LAYERS / step)} of ${LAYERS} named)` : "layer, by depth";
    const middle = this.inner.left + this.inner.width / 2;
    this.axes.append(svgElement("text", { class: "name", x: middle, y: this.height - 4, "text-anchor": "middle" }, named));
  }

  // heights at which the marked layer has a circle
  levels(row) {
    return [this.positionOf(row)[1]];
  }

  highlight() {
    this.marks.replaceChildren();
    if (state.layer === null) return;
    const x = this.x(state.layer);
    const { top, height, left, width } = this.inner;
    this.marks.append(svgElement("line", { class: "current", x1: x, x2: x, y1: top, y2: top + height, stroke: "var(--ink)", opacity: 0.5 }));
    for (const y of this.levels(state.layer).filter((level) => !Number.isNaN(level))) {
      this.marks.append(svgElement("circle", { cx: x, cy: y, r: 7, fill: "none", stroke: "var(--ink)", "stroke-width": 2 }));
    }
    const anchor = x > left + width / 2 ? "end" : "start";
    const place = { class: "halo", x: x + (anchor === "end" ? -6 : 6), y: top + height - 6, "text-anchor": anchor, "font-weight": 600 };
    this.marks.append(svgElement("text", place, DATA.shorts[state.layer]));
  }

  layerAt(x) {
    const row = Math.round(this.valueAt(x));
    return row >= 0 && row < LAYERS ? { row, column: null } : null;
  }

  rowAndColumnStep([down, along]) {
    return [down + along, 0];
  }
}
