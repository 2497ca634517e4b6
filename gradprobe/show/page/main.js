// Sets up the page: controls, theme, copying, printing, and the figures where there is something to draw.

let table = null;

function byId(name) {
  return document.getElementById(name);
}

function setUpControls() {
  for (const of of QUANTITIES) {
    const input = element("input", { type: "radio", name: "of", value: of, checked: of === state.of });
    input.addEventListener("change", () => change({ of }));
    byId("quantity").append(element("label", {}, input, ` ${of}`));
  }
  byId("quantity").hidden = QUANTITIES.length < 2;
  for (const how of DATA.aggregates) byId("aggregate").append(element("option", { value: how, textContent: how }));
  byId("aggregate").addEventListener("change", () => change({ how: byId("aggregate").value }));
  byId("threshold").addEventListener("input", thresholdTyped);
  byId("threshold").addEventListener("blur", followState);
  byId("reset").addEventListener("click", () => {
    const { of, aggregate, threshold } = DATA.decided;
    change({ of, how: aggregate, threshold });
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  listen((changes) => touches(changes, "of", "how", "threshold") && followState());
  followState();
}

function thresholdTyped() {
  const value = Number(byId("threshold").value.trim() || NaN);
  const valid = value > 0 && Number.isFinite(value);
  byId("threshold").setAttribute("aria-invalid", String(!valid));
  if (valid) change({ threshold: value });
}

function followState() {
  for (const input of byId("quantity").querySelectorAll("input")) input.checked = input.value === state.of;
  byId("aggregate").value = state.how;
  if (document.activeElement !== byId("threshold")) {
    byId("threshold").value = short(state.threshold);
    byId("threshold").setAttribute("aria-invalid", "false");
  }
  const low = flagged();
  const same = low.length === DATA.flagged.length && low.every((row, i) => row === DATA.flagged[i]);
  const decided = same ? "" : `; decided: ${DATA.flagged.length} flagged`;
  byId("count").textContent = `${low.length} of ${counted(reached().length, "layer")} below ${short(state.threshold)}${decided}`;
}

function setUpTheme() {
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    change({ theme: state.theme + 1 });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => change({ theme: state.theme + 1 }));
}

function setUpCopying() {
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      button.textContent = (await copyToClipboard(code)) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
}

// where the clipboard cannot be written the code is selected, so that one key copies it
async function copyToClipboard(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}

// on paper everything is open, and drawn in the colours and at the width of the paper
function setUpPrinting() {
  const paper = matchMedia("print");
  let closed = [];
  paper.addEventListener("change", () => {
    if (paper.matches) {
      closed = [...document.querySelectorAll("details:not([open])")];
      for (const details of closed) details.open = true;
    } else for (const details of closed) details.open = false;
    if (paper.matches) table?.showAll();
    isDarkNow = isDark();
    for (const chart of CHARTS) {
      chart.redraw();
      chart.draw();
    }
  });
}

function setUpFigures() {
  byId("figures").hidden = false;
  if (DATA.signal) new SignalByDepth(byId("signal"));
  for (let arm = 0; arm < DATA.arms.length; arm += 1) new Curves(byId("curves"), arm);
  new Profile(byId("profile"));
  for (let arm = 0; arm < DATA.arms.length; arm += 1) new HeatMap(byId("heat"), arm);
  for (const curve of DATA.learning) new Learning(byId("learning"), curve);
  new Tree(byId("tree"));
  table = new LayerTable(byId("table"));
}

// a layer that the verdict names is marked where it is drawn
function setUpLinks() {
  for (const link of document.querySelectorAll("a[data-layer]")) {
    link.addEventListener("click", () => {
      if (state.layer !== Number(link.dataset.layer) || !state.pinned) pin(Number(link.dataset.layer));
    });
  }
}

setUpTheme();
setUpCopying();
setUpLinks();
setUpPrinting();
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  unmark();
  tip.hidden = true;
});
if (QUANTITIES.length && DATA.arms[0].iterations.length) {
  setUpControls();
  setUpFigures();
} else byId("nothing").hidden = false;
document.documentElement.dataset.ready = "yes";
