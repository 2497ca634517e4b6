// The network as a tree of its modules, each layer with the colour of its magnitude, points and branches marked.

class Tree {
  constructor(parent) {
    this.nodes = []; // of layers and of the modules that hold them: what to update, and the rows that it is about
    this.lineOf = new Map(); // of the layers
    this.sentence = document.getElementById("tree-finding");
    parent.append(this.list(buildTree()));
    for (const [button, open] of [["open-all", true], ["close-all", false]]) {
      document.getElementById(button).addEventListener("click", () => this.openAll(parent, open));
    }
    listen((changes) => this.onChange(changes));
    this.update();
  }

  openAll(parent, open) {
    for (const details of parent.querySelectorAll("details")) details.open = open;
  }

  list(children) {
    return element("ul", {}, ...[...children.values()].map((node) => this.item(node)));
  }

  item(node) {
    const line = this.line(node);
    if (!node.children.size) return element("li", {}, line);
    const inside = element("details", {}, element("summary", {}, line), this.list(node.children));
    inside.open = LAYERS <= 40 || node.level < 1 || node.branched;
    return element("li", {}, inside);
  }

  line(node) {
    const swatch = element("span", { className: "swatch" });
    const number = element("span", { className: "of" });
    const flag = element("span", { className: "mark flagged" });
    const kind = node.row === null ? "" : DATA.kinds[node.row];
    const own = element("span", { className: "own", textContent: node.own });
    const line = element("span", { className: "node" }, swatch, own, element("span", { className: "of", textContent: kind }), number, flag);
    if (node.point) {
      const { branch, shape } = node.point;
      const mark = branch ? "\u25c6 branch here" : "\u25cf point";
      line.append(element("span", { className: `mark ${branch ? "branch" : "point"}`, textContent: `${mark} (${shape.join(", ")})` }));
    }
    if (node.row !== null) {
      this.lineOf.set(node.row, line);
      line.addEventListener("pointerenter", () => mark(node.row));
      line.addEventListener("pointerleave", () => state.pinned || unmark());
      if (!node.children.size) line.addEventListener("click", () => pin(node.row));
    }
    if (node.rows.length) this.nodes.push({ ...node, line, swatch, number, flag });
    else swatch.style.visibility = "hidden";
    return line;
  }

  onChange(changes) {
    if (touches(changes, "of", "how", "threshold")) this.update();
    if (changes.has("layer")) this.highlight();
  }

  update() {
    const colour = colourScale();
    for (const { row, rows: inside, swatch, number, flag } of this.nodes) {
      const values = inside.map((at) => magnitude(at)).filter((value) => !Number.isNaN(value));
      const lowest = values.length ? Math.min(...values) : NaN;
      const low = inside.filter(isFlagged).length;
      const text = row !== null && inside.length === 1 ? inWords(lowest) : `${counted(inside.length, "layer")}, lowest ${inWords(lowest)}`;
      if (number.textContent !== text) number.textContent = text;
      swatch.style.background = Number.isFinite(lowest) ? css(colour(Math.log10(lowest))) : "transparent";
      const flags = !low ? "" : inside.length === 1 ? "\u25bc flagged" : `\u25bc ${low} flagged`;
      if (flag.textContent !== flags) flag.textContent = flags;
    }
    this.sentence.textContent =
      `Each module with the smallest ${DATA.quantities[state.of]} (${state.how}) in it. ` +
      `${counted(DATA.points.length, "supervision point")} (\u25cf), ${counted(BRANCHES.length, "branch", "branches")} (\u25c6).`;
  }

  highlight() {
    this.marked?.classList.remove("is-current");
    this.marked = state.layer === null ? null : this.lineOf.get(state.layer);
    this.marked?.classList.add("is-current");
  }
}

// the modules that own parameters or are points, by the parts of their names
function buildTree() {
  const root = newNode("", "(root)", -1);
  DATA.names.forEach((name, row) => {
    const path = nodesTo(root, name);
    path[path.length - 1].row = row;
    for (const node of path) node.rows.push(row);
    for (const point of POINTS[row]) addPoint(root, point);
  });
  return root.row === null && !root.point ? root.children : new Map([["", root]]);
}

function addPoint(root, point) {
  const path = nodesTo(root, point.name);
  path[path.length - 1].point = point;
  if (point.branch) for (const node of path) node.branched = true;
}

function newNode(name, own, level) {
  return { name, own, level, row: null, rows: [], point: null, branched: false, children: new Map() };
}

function nodesTo(root, name) {
  const path = [root];
  for (const part of name ? name.split(".") : []) {
    const parent = path[path.length - 1];
    if (!parent.children.has(part)) parent.children.set(part, newNode(name, part, parent.level + 1));
    path.push(parent.children.get(part));
  }
  return path;
}
