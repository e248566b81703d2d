// The state: what the controls say and the link holds. Checked as memmodel/case.py checks a case.

const LARGEST = 2 ** 31; // sizes above this are taken for a mistake
const SIZES = ["batch", "heads", "kvHeads", "seq", "headDim", "window"];
const LABELS = {
  gpu: "GPU",
  algorithm: "algorithm",
  phase: "phase",
  dtype: "dtype",
  mask: "mask",
  batch: "batch",
  heads: "heads",
  kvHeads: "kv-heads",
  seq: "sequence",
  headDim: "head dim",
  window: "window",
};
const DEFAULTS = {
  gpu: "a100-80gb-sxm",
  algorithm: "naive",
  phase: "train",
  dtype: "bf16",
  mask: "none",
  batch: 1,
  heads: 32,
  kvHeads: 32,
  seq: 16384,
  headDim: 128,
  window: 4096,
};

const choices = () => ({
  gpu: TABLES.gpus.map((gpu) => gpu.id),
  algorithm: Object.keys(TABLES.algorithms),
  phase: ["inference", "forward", "train"],
  dtype: Object.keys(ITEMSIZE),
  mask: ["none", "causal", "window"],
});

// A size as people write it: 4096, 16k, 1M. Anything else stays as it was given, to be complained of.
function parseSize(text) {
  const match = /^(\d+)([km]?)$/i.exec(text.trim().replaceAll("_", "").replaceAll(",", ""));
  return match ? Number(match[1]) * {"": 1, k: 2 ** 10, m: 2 ** 20}[match[2].toLowerCase()] : text;
}

// What is wrong with a state, a sentence each; none where it can be computed.
function problems(state) {
  const found = [];
  for (const [name, known] of Object.entries(choices())) {
    const given = state[name];
    if (!known.includes(given)) found.push(`unknown ${LABELS[name]} “${given}”: choose one from the list`);
  }
  for (const name of SIZES) {
    const size = state[name];
    if (name === "window" && state.mask !== "window") continue;
    if (!Number.isInteger(size) || size < 1) {
      const given = size === "" ? "" : ` “${size}”`;
      found.push(`${LABELS[name]}${given}: expected a whole number of at least 1, such as ${DEFAULTS[name]}`);
    } else if (size > LARGEST) {
      found.push(
        `${LABELS[name]} ${wholeText(size)}: sizes above ${wholeText(LARGEST)} (2^31) are taken for a mistake`,
      );
    }
  }
  return found.length ? found : [...conflicts(state)];
}

function* conflicts(state) {
  const {heads, kvHeads, window, seq, algorithm, dtype, headDim} = state;
  if (heads % kvHeads) {
    const such = nearestDivisor(heads, kvHeads);
    const must = `kv-heads must be a divisor of heads, such as ${such}`;
    yield `${heads} heads do not divide among ${kvHeads} kv-heads: ${must}`;
  }
  if (state.mask === "window" && window > seq) {
    yield `window ${window} with ${seq} keys: give a window from 1 to ${seq}, or no window`;
  }
  if (algorithm.startsWith("flash") && (dtype === "fp64" || headDim > 256)) {
    yield (
      `flash attention of ${dtype} with head dim ${headDim}: there are kernels for fp16, bf16 and fp32 up to ` +
      "head dim 256; choose another algorithm"
    );
  }
}

function divisors(number) {
  const small = [];
  for (let d = 1; d * d <= number; d++) if (number % d === 0) small.push(d);
  return [...new Set([...small, ...small.map((d) => number / d)])].sort((a, b) => a - b);
}

function nearestDivisor(heads, near) {
  return divisors(heads).reduce((best, d) => (Math.abs(d - near) < Math.abs(best - near) ? d : best));
}

// A state as the part of a link after #, and back. What a link says wrongly stays in the state.
function toFragment(state) {
  const words = new URLSearchParams();
  for (const name of Object.keys(DEFAULTS)) {
    if (name !== "window" || state.mask === "window") words.set(name, state[name]);
  }
  return `#${words}`;
}

function fromFragment(fragment) {
  const state = {...DEFAULTS};
  const remarks = [];
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  for (const [name, value] of given) {
    if (!(name in DEFAULTS)) remarks.push(`the link says “${name}”, which this page does not know: left out`);
    else state[name] = SIZES.includes(name) ? parseSize(value) : value;
  }
  if (given.has("heads") && !given.has("kvHeads")) state.kvHeads = state.heads;
  return {state, remarks};
}
