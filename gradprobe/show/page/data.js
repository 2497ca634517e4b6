// The data that numbers.py packed, and how numbers, colours and elements are written. A layer is its row in depth order.

const DATA = JSON.parse(document.getElementById("data").textContent);
const QUANTITIES = Object.keys(DATA.quantities);
const LAYERS = DATA.names.length;

function unpack(text, Numbers) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i += 1) bytes[i] = packed.charCodeAt(i);
  return new Numbers(bytes.buffer);
}

function unpackAll(record, Numbers) {
  return Object.fromEntries(Object.entries(record).map(([name, text]) => [name, unpack(text, Numbers)]));
}

// logs: log10 of each layer's magnitude in each iteration, one layer after another; -Infinity is an exact zero,
// Infinity a gradient with NaN or inf in it, NaN no gradient. aggregates and statistics: one number for each layer.
for (const arm of DATA.arms) {
  for (const quantity of Object.values(arm.of)) {
    quantity.logs = unpack(quantity.logs, Float32Array);
    quantity.aggregates = unpackAll(quantity.aggregates, Float64Array);
    quantity.statistics = unpackAll(quantity.statistics, Float32Array);
  }
}
// spread, share and update: one number for each layer, NaN where it is missing; null where only gradients were recorded
if (DATA.signal) DATA.signal = unpackAll(DATA.signal, Float64Array);

// one number for each weight of a recurrent layer
DATA.weights.aggregates = unpackAll(DATA.weights.aggregates, Float64Array);
DATA.weights.update = unpack(DATA.weights.update, Float64Array);

// as gradprobe.record.quantities.short
function short(value) {
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4)) return String(Number(value.toPrecision(3)));
  const [digits, exponent] = value.toExponential(2).split("e");
  return `${Number(digits)}e${Number(exponent)}`;
}

function inWords(value) {
  if (Number.isNaN(value)) return "unreached";
  if (value === Infinity) return "NaN or inf";
  return value === 0 ? "exactly 0" : short(value);
}

function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

// the points after each layer, and whether one of them has a branch
const POINTS = DATA.names.map(() => []);
for (const point of DATA.points) POINTS[Math.min(point.row, LAYERS - 1)]?.push(point);
const BRANCHES = DATA.points.filter(({ branch }) => branch);

function hasBranch(row) {
  return POINTS[row].some(({ branch }) => branch);
}

// the weights of a recurrent layer, by their place in DATA.weights
function weightsOf(row) {
  return DATA.weights.names.map((_, place) => place).filter((place) => DATA.weights.rows[place] === row);
}

function nameOf(row) {
  return DATA.names[row] || "(root)";
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// viridis at a position from 0 to 1: red, green, blue
const STOPS = DATA.colours.map((hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16)));

function ramp(position) {
  const exact = clamp(position, 0, 1) * (STOPS.length - 1);
  const left = Math.min(Math.floor(exact), STOPS.length - 2);
  return STOPS[left].map((channel, i) => Math.round(channel + (exact - left) * (STOPS[left + 1][i] - channel)));
}

function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

// elements; text is only ever set as text, so that a layer called <script> does no harm

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && name !== "role") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// a sentence whose numbers stay on one line: a browser breaks lines after the dash in 1e-7
function unbroken(text) {
  const parts = text.split(/(\d[\d.]*e-\d+)/);
  return parts.map((part, i) => (i % 2 ? element("span", { className: "unbroken", textContent: part }) : part));
}

function svgElement(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}
