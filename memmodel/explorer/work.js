// Work and the least time of kernels: memmodel/masks.py (blocks), memmodel/timing/terms.py and model.py with a
// datasheet alone.

const LAUNCH_SECONDS = 2e-6;
const IN_FLIGHT_PER_SM = 2048 * 16;
const LATENCY_SECONDS = 0.8e-6;
const SOFTMAX_ROW_BYTES = 48 * 1024;
const SOFTMAX_WARP_ELEMENTS = 1024;
const ITEMSIZE = {bf16: 2, fp16: 2, fp32: 4, fp64: 8};
const SHORT = {bfloat16: "bf16", float16: "fp16", float32: "fp32", float64: "fp64"};

// Blocks of rows x cols that a window of w keys lets n queries see, of as many keys; a causal mask's window is n.
function blocks(n, rows, cols, w) {
  const tiles = Math.ceil(n / rows);
  const ends = ramp(tiles - 1, rows, rows, cols, true) + Math.ceil(n / cols);
  return ends - ramp(tiles, rows, 1 - w, cols, false);
}

// Sum over i = 0 .. count-1 of (start + i step) / size, rounded up or down, terms below zero left out.
function ramp(count, step, start, size, up) {
  const skip = Math.min(Math.max(Math.ceil(-start / step), 0), Math.max(count, 0));
  return floorSum(Math.max(count - skip, 0), size, step, start + skip * step + (up ? size - 1 : 0));
}

// Sum over i = 0 .. count-1 of floor((step i + start) / modulus), by Euclid's algorithm.
function floorSum(count, modulus, step, start) {
  start = Math.max(start, 0);
  const whole = Math.floor(step / modulus) * ((count * (count - 1)) / 2) + Math.floor(start / modulus) * count;
  step %= modulus;
  start %= modulus;
  if (step === 0) return whole;
  const top = step * count + start;
  return whole + floorSum(Math.floor(top / modulus), step, modulus, top % modulus);
}

class Unlisted extends Error {} // a rate that the GPU's data lack

function listed(gpu, quantity) {
  const value = gpu.values[quantity];
  if (value === undefined) throw new Unlisted(`no ${quantity.replace(".", "_TFLOPS.")} is known for ${gpu.name}`);
  return value;
}

// The quantity that a type's matrix products are read from: the vector pipe where tensor cores do not take it.
function peakQuantity(gpu, dtype) {
  const vector = (dtype === "fp32" || dtype === "fp64") && gpu.values[`tensor.${dtype}`] === undefined;
  return `${vector ? "vector" : "tensor"}.${dtype}`;
}

// Each kernel of the step: what it is, and its amounts.
function kernelsOf(program, state, letters) {
  const known = [];
  const amount = (formula) => (known[formula] ??= FORMULAS[formula](letters));
  return program.events
    .filter((event) => event.op === LAUNCH)
    .map((launch) => {
      const work = {};
      for (const name in launch.formulas) work[name] = amount(launch.formulas[name]);
      const dtype = SHORT[launch.dtype] ?? launch.dtype;
      return {
        name: launch.name,
        kind: launch.kind,
        dtype: dtype || state.dtype,
        ...work,
        flops: work.matmul + work.vector + work.exp,
        hbmBytes: work.read + work.written,
      };
    });
}

// The ceiling that a kernel takes longest at, the seconds there, and those of the kernel with its launch.
function kernelTime(kernel, gpu) {
  const ceilings = [["HBM", (kernel.hbmBytes * softmaxPasses(kernel, gpu)) / listed(gpu, "bandwidth")]];
  const add = (name, amount, rate) => ceilings.push([name, amount / rate]);
  if (kernel.kind !== "gemm" && kernel.kind !== "fused" && gpu.values.sm_count) {
    add("loads in flight", kernel.hbmBytes, (gpu.values.sm_count * IN_FLIGHT_PER_SM) / LATENCY_SECONDS);
  }
  if (kernel.matmul) {
    const quantity = peakQuantity(gpu, kernel.dtype);
    add(quantity.startsWith("tensor") ? "tensor cores" : "fp32 units", kernel.matmul, listed(gpu, quantity));
  }
  if (kernel.vector) add("fp32 units", kernel.vector, listed(gpu, "vector.fp32"));
  if (kernel.exp && gpu.expRate) add("exp units", kernel.exp, gpu.expRate);
  const [binding, seconds] = ceilings.reduce((best, each) => (each[1] > best[1] ? each : best));
  return {binding, ceiling: seconds, seconds: seconds + LAUNCH_SECONDS};
}

// How often softmax moves its scores, against once in and once out: long rows are read again, past L2.
function softmaxPasses({kind, row, dtype}, gpu) {
  if (kind !== "softmax" && kind !== "softmax_backward") return 1;
  const bytes = row * ITEMSIZE[dtype];
  if (row <= SOFTMAX_WARP_ELEMENTS || (kind === "softmax" && bytes < SOFTMAX_ROW_BYTES)) return 1;
  const {sm_count: sms, l2} = gpu.values;
  const missed = sms && l2 ? Math.min(1, Math.max(0, ((sms * 2 * bytes * 2) / l2 - 0.7) / 0.7)) : 0;
  return 1 + (kind === "softmax" ? 1 : 1 / 3) * missed;
}

// FLOP and bytes of the step, its least time and what limits it; `note` says why there is no time.
function workAndTime(program, state, letters, gpu) {
  const kernels = kernelsOf(program, state, letters);
  const total = (name) => kernels.reduce((sum, kernel) => sum + kernel[name], 0);
  const found = {flops: total("flops"), hbmBytes: total("hbmBytes"), kernels, time: null, note: ""};
  try {
    const shares = new Map();
    const add = (name, seconds) => shares.set(name, (shares.get(name) ?? 0) + seconds);
    for (const kernel of kernels) {
      Object.assign(kernel, kernelTime(kernel, gpu));
      add(kernel.binding, kernel.ceiling);
      add("launch", LAUNCH_SECONDS);
    }
    const [binding, most] = [...shares].reduce((best, each) => (each[1] > best[1] ? each : best));
    const seconds = total("seconds");
    found.time = {seconds, binding, share: most / seconds};
    if (!gpu.expRate) found.note = `the exp ceiling is left out: ${gpu.name} has no known exp rate`;
  } catch (error) {
    if (!(error instanceof Unlisted)) throw error;
    const advice = error.message.includes("bf16") && gpu.values["tensor.fp16"] ? "; try fp16" : "";
    found.note = `no time: ${error.message}${advice}`;
  }
  return found;
}
