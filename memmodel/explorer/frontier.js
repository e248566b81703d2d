// The longest sequence that fits, by batch: memmodel/thresholds.py, on a grid of STEP.

const STEP = 128;
const BATCHES = [1, 2, 4, 8, 16, 32, 64];
const walls = new Map(); // by algorithm, batch and the rest of the configuration

function wallKey({gpu, phase, dtype, mask, heads, kvHeads, headDim}, algorithm, batch) {
  return [gpu, phase, dtype, mask, heads, kvHeads, headDim, algorithm, batch].join(" ");
}

// The largest multiple of STEP that fits before one that does not; 0 where the first does not.
function wall(state, algorithm, batch) {
  const key = wallKey(state, algorithm, batch);
  if (!walls.has(key)) {
    const runs = (count) => fits({...state, algorithm, batch, seq: count * STEP});
    walls.set(key, STEP * lastTrue(runs, LARGEST / STEP));
  }
  return walls.get(key);
}

function lastTrue(runs, end) {
  if (!runs(1)) return 0;
  let low = 1;
  let high = 2;
  while (high <= end && runs(high)) [low, high] = [high, high * 2];
  high = Math.min(high, end + 1);
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (runs(middle)) low = middle;
    else high = middle;
  }
  return low;
}

// The algorithms that can run a state, and the batches of the picture with the state's own.
function frontierParts(state) {
  const batches = [...new Set([...BATCHES, state.batch])].sort((a, b) => a - b);
  const algorithms = Object.keys(TABLES.algorithms).filter((name) => !problems({...state, algorithm: name}).length);
  return {algorithms, batches};
}

function frontier(state) {
  const {algorithms, batches} = frontierParts(state);
  return algorithms.map((algorithm) => ({
    algorithm,
    walls: batches.map((batch) => ({batch, largest: wall(state, algorithm, batch)})),
  }));
}
