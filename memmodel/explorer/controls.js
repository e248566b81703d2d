// The controls, the link, and what is drawn from the one result of evaluate().

const STOPS = {
  batch: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024],
  heads: [1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 96, 112, 128],
  headDim: [16, 32, 40, 48, 56, 64, 72, 80, 96, 104, 112, 120, 128, 144, 160, 192, 224, 256],
  seq: octaves(128, 2 ** 20),
  window: octaves(128, 2 ** 20),
};
const laidOut = new Map(); // HTML by id
const byId = (id) => document.getElementById(id);
let state = {...DEFAULTS};
let result = null;
let pending = 0;
let linking = 0;

function octaves(from, to) {
  // four stops an octave
  const found = [];
  for (let size = from; size < to; size *= 2) found.push(size, (size * 5) / 4, (size * 3) / 2, (size * 7) / 4);
  return [...found, to];
}

const stopsOf = (name) => (name === "kvHeads" ? divisors(validSize(state.heads) ? state.heads : 1) : STOPS[name]);
const validSize = (size) => Number.isInteger(size) && size >= 1 && size <= LARGEST;

function start() {
  for (const [name, ids] of Object.entries(choices())) {
    const label = {gpu: (id) => gpuOf(id).name, algorithm: (id) => TABLES.algorithms.get(id).title}[name] ?? ((id) => id);
    byId(name).innerHTML = ids.map((id) => `<option value="${escaped(id)}">${escaped(label(id))}</option>`).join("");
    byId(name).addEventListener("input", (event) => change({[name]: event.target.value}));
  }
  for (const name of SIZES) {
    byId(name).addEventListener("input", (event) => changeSize(name, parseSize(event.target.value), event.target));
    byId(`${name}-slider`).addEventListener("input", (event) => {
      changeSize(name, stopsOf(name)[Number(event.target.value)], event.target);
    });
  }
  byId("moment").addEventListener("input", drawMoment);
  byId("timeline").addEventListener("pointermove", pointed);
  byId("copy").addEventListener("click", copyLink);
  window.addEventListener("hashchange", () => {
    if (location.hash !== toFragment(state)) restore();
  });
  let width = 0;
  new ResizeObserver(() => {
    if (width !== (width = byId("bar").clientWidth)) draw();
  }).observe(byId("bar"));
  restore();
}

function restore() {
  const {state: found, remarks} = fromFragment(location.hash);
  state = found;
  clearTimeout(linking);
  byId("remarks").textContent = remarks.join("; ");
  show();
}

function change(changes, from = null) {
  state = {...state, ...changes};
  byId("remarks").textContent = "";
  show(from);
  clearTimeout(linking); // browsers limit how often a page may set its address
  linking = setTimeout(() => history.replaceState(null, "", toFragment(state)), 150);
}

// Heads take their key/value heads with them: as many where they were as many, else the nearest divisor.
function changeSize(name, size, from) {
  if (name !== "heads" || !validSize(size) || !validSize(state.kvHeads)) return change({[name]: size}, from);
  const kvHeads = state.kvHeads === state.heads ? size : nearestDivisor(size, state.kvHeads);
  return change({heads: size, kvHeads}, from);
}

// Everything on the page follows from the state; `from` is the control that the reader is changing.
function show(from = null) {
  for (const name of Object.keys(choices())) byId(name).value = state[name];
  for (const name of SIZES) {
    const stops = stopsOf(name);
    const slider = byId(`${name}-slider`);
    const size = state[name];
    const nearest = stops.reduce(
      (best, stop, i) => (Math.abs(stop - size) < Math.abs(stops[best] - size) ? i : best),
      0,
    );
    if (byId(name) !== from) byId(name).value = size;
    slider.max = stops.length - 1;
    if (slider !== from) slider.value = nearest;
    slider.setAttribute("aria-valuetext", model.format(size, ","));
    byId(name).setAttribute("aria-invalid", !validSize(size));
  }
  byId("window-row").hidden = state.mask !== "window";
  let message = "";
  try {
    result = evaluate(state);
  } catch (error) {
    if (!(error instanceof model.ValueError)) throw error;
    [result, message] = [null, error.message];
  }
  byId("results").hidden = !result;
  byId("figures").hidden = !result;
  byId("verdict").className = result ? (result.prediction.memory.fits ? "yes" : "no") : "wrong";
  byId("verdict").textContent = result ? `${result.prediction.memory.fits ? "✓" : "✗"} ${result.verdict}` : message;
  draw();
}

// The rows of the command's table; whether it fits stands above.
function figures({prediction}) {
  return model.ROWS.map(([name, cell]) => [name, cell(prediction)])
    .filter(([name, value]) => value && name !== "fits")
    .map(([name, value]) => `<div><dt>${name}</dt><dd>${escaped(value)}</dd></div>`)
    .join("");
}

// Only what changed is laid out again.
function put(id, html) {
  if (laidOut.get(id) === html) return;
  laidOut.set(id, html);
  byId(id).innerHTML = html;
}

function draw() {
  clearTimeout(pending);
  if (!result || !byId("bar").clientWidth) return; // a window without a width is drawn when it has one
  const {pictures, prediction} = result;
  const [width, half] = [byId("bar").clientWidth, byId("roofline").clientWidth];
  put("figures", figures(result));
  put("bar", barDrawn(result, width));
  put("timeline", drawn(pictures.timeline, width));
  put("memory-legend", memoryLegend(result));
  byId("moment").max = result.timeline.moments.length - 1;
  byId("moment").value = result.timeline.peak;
  drawMoment();
  put("roofline", pictures.roofline ? drawn(pictures.roofline, half) : "");
  put("roofline-legend", pictures.roofline ? legend(pictures.roofline) : "");
  byId("note").textContent = prediction.notes.join("; ");
  drawFrontier();
}

function drawMoment() {
  const {timeline} = result;
  const at = Number(byId("moment").value);
  const {phase, what, live_bytes, saved_bytes, reserved_bytes} = timeline.moments[at];
  const place = placeOf(result.pictures.timeline, byId("timeline").clientWidth);
  const x = place.x(at + 0.5);
  byId("timeline").querySelector(".pointed").innerHTML = line(x, place.top, x, place.bottom, "cursor");
  const text = `${at + 1} of ${timeline.moments.length}, ${phase}: ${what}`;
  byId("moment").setAttribute("aria-valuetext", text);
  byId("moment-text").textContent =
    `${text}. ${model.bytes_text(live_bytes)} live, ${model.bytes_text(saved_bytes)} of it kept for backward; ` +
    `${model.bytes_text(reserved_bytes)} reserved`;
}

function pointed(event) {
  const box = byId("timeline").getBoundingClientRect();
  const place = placeOf(result.pictures.timeline, box.width);
  const share = (event.clientX - box.left - place.left) / (place.right - place.left);
  if (share < 0 || share >= 1) return;
  byId("moment").value = Math.floor(share * result.timeline.moments.length);
  drawMoment();
}

// The frontier takes hundreds of replays: it is searched a slice at a time, while the page stays quick.
function drawFrontier() {
  const shown = state;
  const {algorithms, batches} = frontierParts(shown);
  const wanted = algorithms.flatMap((algorithm) => batches.map((batch) => [algorithm, batch]));
  const search = () => {
    const until = performance.now() + 8;
    const missing = wanted.filter((each) => !walls.has(wallKey(shown, ...each)));
    while (missing.length && performance.now() < until) wall(shown, ...missing.shift());
    byId("frontier").setAttribute("aria-busy", missing.length > 0);
    if (missing.length) pending = setTimeout(search, 0);
    else frontierDrawn(shown);
  };
  byId("frontier").setAttribute("aria-busy", true);
  pending = setTimeout(search, wanted.every((each) => walls.has(wallKey(shown, ...each))) ? 0 : 60);
}

function frontierDrawn(shown) {
  const [picture] = model.frontier_pictures(frontierOf(shown));
  const here = new model.Point(new model.Look("here", "limit", "", 1, "✖"), shown.batch, shown.seq);
  put("frontier", drawn({...picture, marks: [here]}, byId("frontier").clientWidth));
  put("frontier-legend", legend(picture));
}

async function copyLink() {
  const link = location.href.split("#")[0] + toFragment(state);
  history.replaceState(null, "", link);
  try {
    await navigator.clipboard.writeText(link);
    byId("copied").textContent = "copied";
  } catch {
    byId("copied").textContent = "copy it from the address bar";
  }
}

// The page's one global, beside `ready`: what a reader's console and the tests use.
Object.assign(window.memmodel, {evaluate, frontier, fromFragment, toFragment, defaults: DEFAULTS});
start();
