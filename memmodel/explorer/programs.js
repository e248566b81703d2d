// Programs: the tables that memmodel/explorer/programs.py made, looked up by a state's structure, with its sizes
// filled in. The walks over their events are those of memmodel/timeline.py and memmodel/replay.py.

const [MARK, ALLOC, FREE, SAVE, RELEASE, LAUNCH] = [0, 1, 2, 3, 4, 5];
const PHASES = ["inputs", "forward", "backward", "after"];
const STEPS = 3; // the first two fill the allocator's cache, the third is read
const decoded = new Map();

function structureKey(state, letters) {
  const fused = state.algorithm.startsWith("flash");
  const algorithm = state.algorithm === "flash" && !letters.fusedRows ? "flash-deterministic" : state.algorithm;
  const words = [algorithm, state.phase, state.dtype === "fp16" ? "bf16" : state.dtype, state.mask];
  if (letters.r > 1) words.push("grouped");
  if (!fused) {
    if (letters.b * letters.h === 1) words.push("b*h=1");
    if (letters.n === 1) words.push("n=1");
    if (letters.d === 1) words.push("d=1");
  }
  return words.join(" ");
}

function programOf(state, letters) {
  const number = TABLES.keys[structureKey(state, letters)];
  if (!decoded.has(number)) decoded.set(number, decode(TABLES.programs[number]));
  return decoded.get(number);
}

function decode(numbers) {
  const events = [];
  const allocs = [];
  let inputs = 0;
  let forward = 0;
  let after = 0;
  for (let i = 0; i < numbers.length; i += 2) {
    const op = numbers[i];
    const value = numbers[i + 1];
    if (op === ALLOC) {
      events.push({op, slot: allocs.length});
      allocs.push({formula: value, name: TABLES.names[numbers[i + 2]]});
      i += 1;
    } else if (op === LAUNCH) {
      const [name, kind, dtype, thread, cublas, matmul, vector, exp, read, written, row] = TABLES.kernels[value];
      events.push({op, name, kind, dtype, thread, cublas, formulas: {matmul, vector, exp, read, written, row}});
    } else if (op === MARK) {
      if (PHASES[value] === "forward") [inputs, forward] = [allocs.length, events.length];
      if (PHASES[value] === "after") after = events.length;
      events.push({op, phase: PHASES[value]});
    } else {
      events.push({op, slot: value});
    }
  }
  return {events, allocs, inputs, forward, after}; // how many inputs, and where the step begins and ends
}

// Bytes of every storage. Throws TooLarge where a number would not be a whole one any more.
function bytesOf(program, letters) {
  const known = [];
  return program.allocs.map(({formula}) => {
    known[formula] ??= FORMULAS[formula](letters);
    if (!(known[formula] <= Number.MAX_SAFE_INTEGER)) throw new TooLarge();
    return known[formula];
  });
}

// Live peaks of forward, backward and the step, and what is kept for backward beyond the inputs.
function livePeaks(program, bytes) {
  const peaks = {};
  const holds = new Array(bytes.length).fill(0);
  let live = 0;
  let phase = "inputs";
  let saved = 0;
  for (const event of program.events) {
    if (event.op === MARK) {
      if (phase === "forward") {
        for (let slot = program.inputs; slot < bytes.length; slot++) if (holds[slot]) saved += bytes[slot];
      }
      phase = event.phase;
      peaks[phase] = live;
    } else if (event.op === ALLOC) {
      live += bytes[event.slot];
      if (live > peaks[phase]) peaks[phase] = live;
    } else if (event.op === FREE) {
      live -= bytes[event.slot];
    } else if (event.op === SAVE) {
      holds[event.slot] += 1;
    } else if (event.op === RELEASE) {
      holds[event.slot] -= 1;
    }
  }
  if (Math.max(...Object.values(peaks)) > Number.MAX_SAFE_INTEGER) throw new TooLarge();
  return {
    forward: peaks.forward,
    backward: peaks.backward ?? null,
    live: Math.max(peaks.forward, peaks.backward ?? 0),
    saved,
  };
}

// Allocated and reserved bytes of the last of three steps: their peaks, and after each event from "forward" on.
function replay(program, bytes, workspace, capacity = Infinity) {
  const allocator = new CachingAllocator(capacity);
  const blocks = new Array(bytes.length);
  const threads = new Set();
  const found = {allocatedPeak: 0, reservedPeak: 0, highest: 0, usage: []};
  const run = (from, to, last) => {
    for (let i = from; i < to && !allocator.failed; i++) {
      const event = program.events[i];
      if (event.op === ALLOC) blocks[event.slot] = allocator.malloc(bytes[event.slot]);
      else if (event.op === FREE) allocator.free(blocks[event.slot]);
      else if (event.op === LAUNCH && event.cublas && workspace && !threads.has(event.thread)) {
        threads.add(event.thread);
        allocator.malloc(workspace);
      } else if (event.op === MARK) allocator.resetPeak();
      found.highest = Math.max(found.highest, allocator.reserved);
      if (!last) continue;
      found.usage.push({allocated: allocator.allocated, reserved: allocator.reserved});
      found.allocatedPeak = Math.max(found.allocatedPeak, allocator.allocatedPeak);
      found.reservedPeak = Math.max(found.reservedPeak, allocator.reservedPeak);
    }
  };
  run(0, program.forward, false);
  for (let step = 1; step < STEPS; step++) run(program.forward, program.events.length, false);
  run(program.forward, program.after, true);
  return {...found, failed: allocator.failed, workspaces: workspace * threads.size};
}
