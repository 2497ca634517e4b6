// What the reader chose. Whatever shows a part of it listens, and is called once a frame with the names of the changes.

const state = {
  of: DATA.decided.of,
  how: DATA.decided.aggregate,
  threshold: DATA.decided.threshold,
  layer: null, // marked everywhere
  pinned: false, // stays marked when the pointer leaves
  iteration: null, // a column, where one is pointed at
  dragging: false, // the threshold: the axes do not change meanwhile
  theme: 0, // counts up when the colours change
};
const listeners = [];
let pendingChanges = null;

function listen(listener) {
  listeners.push(listener);
}

function change(values) {
  const fresh = Object.keys(values).filter((name) => !Object.is(values[name], state[name]));
  Object.assign(state, values);
  if (!fresh.length) return;
  if (!pendingChanges) requestAnimationFrame(notifyListeners);
  pendingChanges = new Set([...(pendingChanges ?? []), ...fresh]);
}

function notifyListeners() {
  const changes = pendingChanges;
  pendingChanges = null;
  for (const listener of listeners) listener(changes);
}

function touches(changes, ...names) {
  return names.some((name) => changes.has(name));
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
  const matching = [];
  for (let row = 0; row < LAYERS; row += 1) if (test(row)) matching.push(row);
  return matching;
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

// colours of the theme, as the browser resolves them; those of the layers without the end that is lost on the page's background
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
listen((changes) => {
  if (changes.has("theme")) isDarkNow = isDark();
});
