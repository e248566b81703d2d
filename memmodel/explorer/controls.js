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
    const label = {gpu: (id) => gpuOf({gpu: id}).name, algorithm: (id) => TABLES.algorithms[id]}[name] ?? ((id) => id);
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
    slider.setAttribute("aria-valuetext", wholeText(size));
    byId(name).setAttribute("aria-invalid", !validSize(size));
  }
  byId("window-row").hidden = state.mask !== "window";
  const wrong = problems(state);
  let message = wrong.join("; ");
  result = null;
  if (!wrong.length) {
    try {
      result = evaluate(state);
    } catch (error) {
      if (!(error instanceof StateError)) throw error;
      message = error.message;
    }
  }
  byId("results").hidden = !result;
  byId("figures").hidden = !result;
  byId("verdict").className = result ? (result.memory.fits ? "yes" : "no") : "wrong";
  byId("verdict").textContent = result ? `${result.memory.fits ? "✓" : "✗"} ${result.verdict}` : message;
  draw();
}

function figures({memory, flops, hbmBytes, time}) {
  const device = bytesText(memory.reservedPeak + memory.context);
  return [
    ["live peak", bytesText(memory.livePeak)],
    ["allocated peak", bytesText(memory.allocatedPeak)],
    ["reserved peak", bytesText(memory.reservedPeak)],
    ["nvidia-smi", memory.context ? device : `${device} + context`],
    ["saved for backward", bytesText(memory.saved)],
    ["FLOP", decimalText(flops, "FLOP")],
    ["HBM traffic", bytesText(hbmBytes)],
    ["intensity", `${numberText(flops / hbmBytes)} FLOP/B`],
    ["time, at least", time ? secondsText(time.seconds) : "–"],
    ["limited by", time ? `${time.binding} (${fixed(100 * time.share, 1)}\u00a0%)` : "–"],
  ]
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
  if (!result) return;
  const width = byId("bar").clientWidth;
  const half = byId("roofline").clientWidth;
  put("figures", figures(result));
  put("bar", barPicture(result, width));
  put("bar-legend", barLegend(result));
  byId("letters").textContent =
    "b batch, h heads, n sequence, d head dim" + (state.heads > state.kvHeads ? ", g kv-heads" : "");
  put("timeline", timelinePicture(result, width));
  put("timeline-legend", timelineLegend(result));
  byId("moment").max = result.timeline.moments.length - 1;
  byId("moment").value = result.timeline.peak;
  drawMoment();
  put("roofline", result.time ? rooflinePicture(result, half) : "");
  put("roofline-legend", result.time ? rooflineLegend(result) : "");
  byId("note").textContent = [result.note, ownKernels(result)].filter(Boolean).join("; ");
  drawFrontier();
}

function ownKernels({state: {algorithm}, gpu}) {
  if (!algorithm.startsWith("flash") || gpu.kernels) return "";
  return `there are no kernels for ${gpu.name}: the figures are what those for an A100 would take`;
}

function drawMoment() {
  const {timeline} = result;
  const at = Number(byId("moment").value);
  const {phase, what, live, saved, reserved} = timeline.moments[at];
  const place = timelinePlace(result, byId("timeline").clientWidth);
  const x = place.x(at + 0.5);
  byId("cursor").innerHTML = line(x, place.top, x, place.bottom, "cursor");
  const text = `${at + 1} of ${timeline.moments.length}, ${phase}: ${what}`;
  byId("moment").setAttribute("aria-valuetext", text);
  byId("moment-text").textContent =
    `${text}. ${bytesText(live)} live, ${bytesText(saved)} of it kept for backward; ${bytesText(reserved)} reserved`;
}

function pointed(event) {
  const box = byId("timeline").getBoundingClientRect();
  const place = timelinePlace(result, box.width);
  const share = (event.clientX - box.left - place.left) / (place.right - place.left);
  if (share < 0 || share >= 1) return;
  byId("moment").value = Math.floor(share * result.timeline.moments.length);
  drawMoment();
}

// The frontier takes hundreds of replays: it is searched a slice at a time, while the page stays quick.
function drawFrontier() {
  const shown = state;
  const {algorithms, batches} = frontierParts(shown);
  const width = byId("frontier").clientWidth;
  const order = [shown.batch, ...batches];
  const wanted = algorithms.flatMap((algorithm) => order.map((batch) => [algorithm, batch]));
  const known = () =>
    algorithms.map((algorithm) => ({
      algorithm,
      walls: batches
        .map((batch) => ({batch, largest: walls.get(wallKey(shown, algorithm, batch))}))
        .filter((each) => each.largest !== undefined),
    }));
  const missing = () => wanted.filter(([algorithm, batch]) => !walls.has(wallKey(shown, algorithm, batch)));
  const drawn = (done) => {
    const lines = known();
    put("frontier", frontierPicture(shown, lines, width));
    put("frontier-legend", frontierLegend(shown, lines));
    byId("here").innerHTML = hereMark(shown, lines, width);
    byId("frontier").setAttribute("aria-busy", !done);
  };
  const search = () => {
    const until = performance.now() + 8;
    for (const [algorithm, batch] of missing()) {
      wall(shown, algorithm, batch);
      if (performance.now() > until) break;
    }
    const done = !missing().length;
    if (done) drawn(true);
    else pending = setTimeout(search, 0);
  };
  const done = !missing().length;
  drawn(done);
  if (!done) pending = setTimeout(search, 60);
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
