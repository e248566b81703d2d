// A model's step: its closed forms, evaluated at the sizes of the controls.

const byId = (id) => document.getElementById(id);
const STOPS = {batch: STEP.batches, seq: STEP.lengths};
const state = {gpu: STEP.gpu, batch: STEP.batch, seq: STEP.seq};
const GIB = 2 ** 30;

const bytesText = (bytes) => (bytes >= GIB ? `${(bytes / GIB).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(2)} MiB`);
const monomials = (b, n) => [1, b, n, b * n, n * n, b * n * n];
const valueOf = (factors, at) => factors.reduce((sum, factor, i) => sum + factor * at[i], 0);

// The forms of a GPU at some sizes, as the page was made.
function formsAt(gpu, b, n) {
  const regime = [b === 1, b * n <= STEP.few, !STEP.window || n < STEP.window];
  return STEP.forms[gpu.forms[regime.map(Number).join("")]];
}

// The moment of the peak, with the bytes of each group there and their factors.
function peakAt(gpu, b, n) {
  const at = monomials(b, n);
  let found = {bytes: -1};
  for (const [phase, groups] of formsAt(gpu, b, n)) {
    const bytes = groups.reduce((sum, factors) => sum + valueOf(factors, at), 0);
    if (bytes > found.bytes) found = {bytes, phase, groups};
  }
  const parts = found.groups.map((factors, i) => ({name: STEP.groups[i], factors, bytes: valueOf(factors, at)}));
  return {bytes: found.bytes, phase: found.phase, parts: parts.filter(({bytes}) => bytes > 0)};
}

// The longest sequences of a batch whose live bytes fit; 0 for none.
function wall(gpu, b) {
  let [low, high] = [0, STEP.lengths.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (peakAt(gpu, b, STEP.lengths[middle]).bytes <= gpu.room) low = middle + 1;
    else high = middle;
  }
  return low ? STEP.lengths[low - 1] : 0;
}

const LETTERS = ["", "b", "n", "b·n", "n²", "b·n²"];
function formulaText(factors) {
  const terms = factors.map((factor, i) => [factor, LETTERS[i]]).filter(([factor]) => factor);
  const text = ([factor, letters]) => Math.abs(factor).toLocaleString("en") + (letters && `·${letters}`);
  return terms.map((term, i) => (term[0] < 0 ? (i ? " − " : "−") : i ? " + " : "") + text(term)).join("");
}

function rows(table, header, lines) {
  const cells = (tag, line) => line.map((cell) => `<${tag}>${cell}</${tag}>`).join("");
  byId(table).innerHTML = [cells("th", header), ...lines.map((line) => cells("td", line))].map((row) => `<tr>${row}</tr>`).join("");
}

function show() {
  const gpu = STEP.gpus.find(({id}) => id === state.gpu);
  for (const name of Object.keys(STOPS)) {
    const stops = STOPS[name];
    byId(name).setAttribute("aria-invalid", !stops.includes(state[name]));
    byId(`${name}-slider`).max = stops.length - 1;
    byId(`${name}-slider`).value = Math.max(0, stops.findLastIndex((stop) => stop <= state[name]));
    if (document.activeElement !== byId(name)) byId(name).value = state[name];
  }
  const wrong = Object.keys(STOPS).find((name) => !STOPS[name].includes(state[name]));
  byId("results").hidden = Boolean(wrong);
  if (wrong) {
    const [stops, step] = [STOPS[wrong], wrong === "seq" && STOPS.seq.length > 1 ? `, in steps of ${STOPS.seq[0]}` : ""];
    byId("verdict").className = "wrong";
    byId("verdict").textContent = `${LABELS[wrong]} ${state[wrong]}: expected ${stops[0]} to ${stops.at(-1)}${step}`;
    return;
  }
  const peak = peakAt(gpu, state.batch, state.seq);
  const [fits, share] = [peak.bytes <= gpu.room, ((100 * peak.bytes) / gpu.room).toFixed(1)];
  byId("verdict").className = fits ? "yes" : "no";
  byId("verdict").textContent = fits
    ? `✓ live bytes fit: ${bytesText(peak.bytes)} of ${bytesText(gpu.room)}, ${share} %`
    : `✗ does not fit in ${bytesText(gpu.room)}: ${bytesText(peak.bytes)} are alive at once`;
  byId("bar").setAttribute("aria-label", `${bytesText(peak.bytes)} of ${bytesText(gpu.room)}`);
  byId("bar").replaceChildren(
    ...peak.parts.map(({bytes}, i) => {
      const part = document.createElement("span");
      part.className = `tone-${(i % 7) + 1}`;
      part.style.width = `${(100 * bytes) / Math.max(peak.bytes, gpu.room)}%`;
      return part;
    }),
  );
  const key = (i) => `<span class="key tone-${(i % 7) + 1}"></span>`;
  const lines = peak.parts.map(({name, bytes, factors}, i) => [`${key(i)} ${name}`, bytesText(bytes), formulaText(factors)]);
  rows("groups", ["group", "bytes", "in letters: b sequences of n tokens"], lines);
  byId("peak").textContent = `The peak is in ${peak.phase}.`;
  const walls = STEP.walls.map((b) => [b, wall(gpu, b)]);
  rows("walls", ["batch", "tokens"], walls.map(([b, n]) => [b, n ? n.toLocaleString("en") : "none fits"]));
}

const LABELS = {batch: "batch", seq: "sequence"};
function start() {
  byId("gpu").innerHTML = STEP.gpus.map(({id, name}) => `<option value="${id}">${name}</option>`).join("");
  byId("gpu").value = state.gpu;
  byId("gpu").addEventListener("input", (event) => change({gpu: event.target.value}));
  for (const name of Object.keys(STOPS)) {
    byId(name).addEventListener("input", (event) => change({[name]: sizeOf(event.target.value)}));
    byId(`${name}-slider`).addEventListener("input", (event) => change({[name]: STOPS[name][Number(event.target.value)]}));
  }
  show();
}

// A size as people write it: 4096, 16k. Anything else stays as it was given, to be complained of.
function sizeOf(text) {
  const match = /^(\d+)(k?)$/i.exec(text.trim());
  return match ? Number(match[1]) * (match[2] ? 1024 : 1) : text;
}

function change(changes) {
  Object.assign(state, changes);
  show();
}

window.memmodel = {peakAt, wall, data: STEP};
start();
