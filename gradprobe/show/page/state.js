// What the reader chose. Everything that shows some of it listens, and is told once a frame what changed.

const state = {
  of: DATA.decided.of,
  how: DATA.decided.aggregate,
  threshold: DATA.decided.threshold,
  layer: null, // marked everywhere
  pinned: false, // stays marked when the pointer leaves
  iteration: null, // a column, where one is pointed at
  dragging: false, // the threshold: axes keep still
  theme: 0, // counts up when colours changed
};
const listeners = [];
let changed = null;

function listen(listener) {
  listeners.push(listener);
}

function change(values) {
  const fresh = Object.keys(values).filter((name) => !Object.is(values[name], state[name]));
  Object.assign(state, values);
  if (!fresh.length) return;
  if (!changed) requestAnimationFrame(tell);
  changed = new Set([...(changed ?? []), ...fresh]);
}

function tell() {
  const what = changed;
  changed = null;
  for (const listener of listeners) listener(what);
}

function touches(what, ...names) {
  return names.some((name) => what.has(name));
}

// the arm's record of the chosen quantity, and one number of it for each layer
function record(arm = 0) {
  return DATA.arms[arm].of[state.of];
}

function magnitude(row, arm = 0) {
  return record(arm).aggregates[state.how][row];
}

// the rule of gradprobe.ThresholdPolicy; comparing with NaN (unreached) is false
function isFlagged(row) {
  return magnitude(row) < state.threshold;
}

function rows(test) {
  const found = [];
  for (let row = 0; row < LAYERS; row += 1) if (test(row)) found.push(row);
  return found;
}

function reached(arm = 0) {
  return rows((row) => !Number.isNaN(magnitude(row, arm)));
}

function flagged() {
  return rows(isFlagged);
}

function mark(row, iteration = null) {
  if (!state.pinned) change({ layer: row, iteration });
}

function pin(row) {
  const again = state.pinned && state.layer === row;
  change({ layer: row, pinned: !again });
}

function unmark() {
  change({ layer: null, iteration: null, pinned: false });
}

// colours of the theme, as the browser resolves them; of the layers by depth, without the end that the page swallows
const probe = document.body.appendChild(element("span", { hidden: true }));

function themed(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function isDark() {
  const [red, green, blue] = themed("page").match(/[\d.]+/g).map(Number);
  return red + green + blue < 380;
}

function depthColour(row) {
  const position = LAYERS > 1 ? row / (LAYERS - 1) : 0;
  return css(ramp(isDarkNow ? 0.25 + 0.75 * position : 0.8 * position));
}

let isDarkNow = isDark();
listen((what) => {
  if (what.has("theme")) isDarkNow = isDark();
});
