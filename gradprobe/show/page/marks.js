// What the figures share: the sentence on what is drawn, marks for what a log axis cannot show, legend entries.

const ZERO = "exact zero";
const NONFINITE = "NaN or inf";

// the title of a figure; in a comparison it names the arm
function titled(text, arm) {
  const { title } = DATA.arms[arm];
  return title ? `${text}: ${title.toLowerCase()}` : text;
}

function lowestAndHighest(arm) {
  const finite = reached(arm).filter((row) => Number.isFinite(magnitude(row, arm)));
  const order = finite.sort((a, b) => magnitude(a, arm) - magnitude(b, arm));
  return [order[0], order[order.length - 1]];
}

function spanSentence(arm) {
  const count = reached(arm).length;
  const missing = LAYERS - count ? `; ${counted(LAYERS - count, "layer")} unreached, not drawn` : "";
  const [low, high] = lowestAndHighest(arm);
  const finite = finiteIterations(arm);
  if (low === undefined) return `The ${state.how} is finite in none of ${counted(count, "layer")}${finite}${missing}.`;
  const below = rows((row) => magnitude(row, arm) < state.threshold).length;
  const ends = [low, high].map((row) => `${DATA.shorts[row]} (${inWords(magnitude(row, arm))})`);
  const span = low === high ? `${state.how} ${ends[0]}` : `${state.how} from ${ends[0]} to ${ends[1]}`;
  return `${below} of ${counted(count, "layer")} below ${short(state.threshold)}; ${span}${finite}${missing}.`;
}

// which iterations are finite in every layer, where not all of them are
function finiteIterations(arm) {
  const { iterations } = DATA.arms[arm];
  const { logs } = record(arm);
  const bad = new Set();
  logs.forEach((log, i) => log === Infinity && bad.add(i % iterations.length));
  if (!bad.size) return "";
  const finite = iterations.filter((_, column) => !bad.has(column));
  const [first, last] = [finite[0], finite[finite.length - 1]];
  if (!finite.length) return "; no iteration is finite";
  if (finite.length === 1) return `; only iteration ${first} is finite`;
  const inRow = iterations.indexOf(last) - iterations.indexOf(first) === finite.length - 1;
  return inRow ? `; iterations ${first} to ${last} are finite` : `; ${finite.length} of ${iterations.length} iterations are finite`;
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

function offScaleEntries(arms) {
  const entries = [];
  if (arms.some((arm) => hasLog(arm, -Infinity))) {
    entries.push([picture(svgElement("path", { d: triangle(11, 9), fill: "currentColor" })), `${ZERO}, at the bottom`]);
  }
  if (arms.some((arm) => hasLog(arm, Infinity))) {
    const path = svgElement("path", { d: cross(11, 6), stroke: "currentColor", "stroke-width": 2 });
    entries.push([picture(path), `${NONFINITE}, at the top`]);
  }
  return entries;
}

function colourBar(colour) {
  const bar = element("span", { className: "ramp" });
  bar.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(colour).join(", ")})`;
  return bar;
}
