// All statistics of every layer: sorted by any column, filtered by name and kind.

const MAX_LINES = 200; // until the reader asks for all: a browser takes long to lay out a large table
const TEXTS = { rms: aligned, max_abs: aligned, zero_fraction: percent, nonfinite: whole };
const NARROW = matchMedia("(max-width: 34rem)"); // as in page.css
const STATISTICS = { rms: "rms", max_abs: "largest", zero_fraction: "zeros", nonfinite: "not finite" };

class LayerTable {
  constructor(parent) {
    this.title = element("span");
    this.head = element("tr");
    this.body = element("tbody");
    const caption = element("caption", {}, this.title);
    parent.append(element("table", {}, caption, element("thead", {}, this.head), this.body));
    this.sorted = { column: "depth", down: false };
    this.filter = document.getElementById("filter");
    this.only = document.getElementById("only-flagged");
    this.all = document.getElementById("all-lines");
    this.all.addEventListener("click", () => this.showAll());
    for (const input of [this.filter, this.only]) input.addEventListener("input", () => this.show());
    this.body.addEventListener("keydown", (event) => this.key(event));
    listen((changes) => this.onChange(changes));
    NARROW.addEventListener("change", () => this.build());
    this.build();
  }

  onChange(changes) {
    if (touches(changes, "of", "how")) this.build();
    else if (changes.has("threshold")) this.flag();
    if (changes.has("layer")) this.highlight();
  }

  columns() {
    const several = DATA.arms.length > 1;
    const number = (name, title, value, text = inWords) => ({ name, title, value, text, number: true });
    const statistics = Object.keys(STATISTICS).filter((name) => !record().statistics[name].every(Number.isNaN));
    const depth = number("depth", "depth", (row) => row, String);
    const layer = { name: "layer", title: "layer", value: nameOf, text: String };
    const status = { name: "status", title: "status", value: (row) => this.status(row), text: String };
    const numbers = [
      number("magnitude", several ? "without" : "magnitude", (row) => magnitude(row), aligned),
      ...(several ? [number("with", "with", (row) => magnitude(row, 1), aligned), number("times", "times", ratio, plain)] : []),
      ...Object.keys(DATA.signal ?? {}).map((name) => number(name, name, (row) => DATA.signal[name][row], aligned)),
    ];
    const rest = [
      ...statistics.map((name) => number(name, STATISTICS[name], (row) => record().statistics[name][row], TEXTS[name])),
      { name: "kind", title: "kind", value: (row) => DATA.kinds[row], text: String },
      number("parameters", "parameters", (row) => DATA.parameters[row], (value) => value.toLocaleString("en")),
    ];
    // on a phone the numbers come first: what they mean for a layer is its mark
    return NARROW.matches ? [layer, ...numbers, status, ...rest, depth] : [depth, layer, status, ...numbers, ...rest];
  }

  status(row) {
    const words = isFlagged(row) ? ["\u25bc\u00a0flagged"] : [];
    if (hasBranch(row)) words.push("\u25c6\u00a0branch");
    const why = DATA.unreached[row][state.of];
    const missing = DATA.missing[row][state.of] ?? "unreached";
    if (Number.isNaN(magnitude(row))) words.push(`${missing}: ${why ?? "no gradient was recorded"}`);
    return words.join(", ");
  }

  build() {
    this.shown = this.columns();
    const several = DATA.arms.length > 1 ? " without and with branches" : "";
    this.title.textContent = `Layers by ${DATA.quantities[state.of]}${several}, ${state.how} over the iterations`;
    this.head.replaceChildren(...this.shown.map((column) => this.header(column)));
    this.lines = new Map();
    this.show();
  }

  header(column) {
    const button = element("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => this.sort(column.name));
    return element("th", { scope: "col", className: column.number ? "number" : "" }, button);
  }

  // made when it is first shown
  line(row) {
    if (!this.lines.has(row)) this.lines.set(row, this.newLine(row));
    return this.lines.get(row);
  }

  newLine(row) {
    const cells = this.shown.map((column) => {
      const head = column.name === "layer";
      const looks = column.name === "status" ? "status" : column.number ? "number" : "";
      const text = column.text(column.value(row));
      return head ? element("th", { scope: "row" }, ...breakable(text)) : element("td", { className: looks }, text);
    });
    const line = element("tr", { tabIndex: -1 }, ...cells);
    line.classList.toggle("is-flagged", isFlagged(row));
    line.addEventListener("pointerenter", () => mark(row));
    line.addEventListener("pointerleave", () => state.pinned || unmark());
    line.addEventListener("focus", () => mark(row));
    line.addEventListener("click", () => pin(row));
    return line;
  }

  // below a recurrent layer its weights, each with its own gradient and update
  weightLines(row) {
    if (state.of !== "weight") return [];
    return weightsOf(row).map((place) => {
      const numbers = { magnitude: DATA.weights.aggregates[state.how][place], update: DATA.weights.update[place] };
      const cells = this.shown.map(({ name, number }) => {
        if (name === "layer") return element("th", { scope: "row" }, ...breakable(DATA.weights.names[place]));
        return element("td", { className: number ? "number" : "" }, name in numbers ? aligned(numbers[name]) : "");
      });
      return element("tr", { className: "is-weight" }, ...cells);
    });
  }

  flag() {
    for (const [row, line] of this.lines) {
      const [text, cell] = [this.status(row), line.querySelector(".status")];
      line.classList.toggle("is-flagged", isFlagged(row));
      if (cell.textContent !== text) cell.textContent = text;
    }
    if (this.only.checked || this.sorted.column === "status") this.show();
  }

  sort(column) {
    this.sorted = { column, down: this.sorted.column === column && !this.sorted.down };
    this.show();
  }

  // what the filter lets through, in order
  show() {
    const { column, down } = this.sorted;
    const wanted = this.filter.value.trim().toLowerCase();
    const holds = (row) => `${nameOf(row)} ${DATA.kinds[row]}`.toLowerCase().includes(wanted);
    const matching = rows((row) => holds(row) && (!this.only.checked || isFlagged(row)));
    const { value } = this.shown.find(({ name }) => name === column) ?? this.shown[0];
    matching.sort((a, b) => inOrder(value(a), value(b), down) || a - b);
    this.visible = this.isWhole ? matching : matching.slice(0, MAX_LINES);
    const lines = this.visible.map((row) => this.line(row));
    this.body.replaceChildren(...this.visible.flatMap((row, i) => [lines[i], ...this.weightLines(row)]));
    lines.forEach((line, i) => (line.tabIndex = i ? -1 : 0));
    this.all.hidden = this.visible.length === matching.length;
    this.shown.forEach(({ name }, i) => {
      const sort = name !== column ? "none" : down ? "descending" : "ascending";
      this.head.children[i].setAttribute("aria-sort", sort);
    });
    document.getElementById("shown").textContent =
      `${this.visible.length} of ${counted(LAYERS, "layer")} shown`;
  }

  showAll() {
    this.isWhole = true;
    this.show();
  }

  key(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const at = this.visible.findIndex((row) => this.line(row) === event.target);
    if (at < 0) return;
    if (event.key === "Enter") pin(this.visible[at]);
    if (!step) return;
    event.preventDefault();
    const next = this.line(this.visible[clamp(at + step, 0, this.visible.length - 1)]);
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  highlight() {
    this.marked?.classList.remove("is-current");
    this.marked = this.lines.get(state.layer);
    this.marked?.classList.add("is-current");
  }
}

// a long name is broken after a dot, not within a word
function breakable(name) {
  return name.split(/(?<=\.)/).flatMap((part) => [part, element("wbr")]);
}

function ratio(row) {
  return magnitude(row, 1) / magnitude(row, 0);
}

function plain(value) {
  return Number.isNaN(value) ? "" : inWords(value);
}

// always three digits and an exponent, so that a column of them lines up
function aligned(value) {
  if (Number.isNaN(value)) return "";
  return Number.isFinite(value) && value > 0 ? value.toExponential(2) : inWords(value);
}

function percent(value) {
  return Number.isNaN(value) ? "" : `${(100 * value).toFixed(1)} %`;
}

function whole(value) {
  return Number.isNaN(value) ? "" : value.toLocaleString("en");
}

// NaN last, in either direction
function inOrder(a, b, down) {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a < b ? -1 : Number(a > b);
  return down ? -order : order;
}
