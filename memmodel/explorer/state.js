// The state: what the controls say and the link holds. Wrong values stay in it, for the model to say what is wrong.

const LARGEST = 2 ** 31; // sizes above this are taken for a mistake
const SIZES = ["batch", "heads", "kvHeads", "seq", "headDim", "window"];
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
  algorithm: [...TABLES.algorithms],
  phase: ["inference", "forward", "train"],
  dtype: ["bf16", "fp16", "fp32", "fp64"],
  mask: ["none", "causal", "window"],
});

// A size as people write it: 4096, 16k, 1M. Anything else stays as it was given, to be complained of.
function parseSize(text) {
  const match = /^(\d+)([km]?)$/i.exec(text.trim().replaceAll("_", "").replaceAll(",", ""));
  return match ? Number(match[1]) * {"": 1, k: 2 ** 10, m: 2 ** 20}[match[2].toLowerCase()] : text;
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
