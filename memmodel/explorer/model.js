// A state evaluated: memory as memmodel/step.py reads it, work and time, the verdict in words.

class StateError extends Error {} // its message is for the reader

const gpuOf = (state) => TABLES.gpus.find((gpu) => gpu.id === state.gpu);

// The letters of the formulas, with the tiles of the GPU's fused kernels.
function lettersOf(state, gpu) {
  const letters = {
    b: state.batch,
    h: state.heads,
    g: state.kvHeads,
    r: state.heads / state.kvHeads,
    n: state.seq,
    d: state.headDim,
    w: state.window,
  };
  if (!state.algorithm.startsWith("flash")) return letters;
  const padded = Math.max(16, 2 ** Math.ceil(Math.log2(state.headDim)));
  return {...letters, ...TABLES.tiles[gpu.arch][state.dtype === "fp32" ? "fp32" : "half"][padded]};
}

const tooLarge = () =>
  new StateError("these sizes need more bytes than this page can count exactly (2^53): take smaller ones");

function evaluate(state) {
  const [problem] = problems(state);
  if (problem) throw new StateError(problem);
  try {
    return evaluated(state);
  } catch (error) {
    throw error instanceof TooLarge ? tooLarge() : error;
  }
}

function evaluated(state) {
  const gpu = gpuOf(state);
  const letters = lettersOf(state, gpu);
  const program = programOf(state, letters);
  const bytes = bytesOf(program, letters);
  const peaks = livePeaks(program, bytes);
  const {usage, ...read} = replayed(program, bytes, gpu);
  const memory = {
    forwardPeak: peaks.forward,
    backwardPeak: peaks.backward,
    livePeak: peaks.live,
    saved: peaks.saved,
    allocatedPeak: read.allocatedPeak,
    reservedPeak: read.reservedPeak,
    workspaces: read.workspaces,
    context: gpu.context,
    capacity: gpu.capacity,
    fits: read.fits,
  };
  const {flops, hbmBytes, kernels, time, note} = workAndTime(program, state, letters, gpu);
  const title = TABLES.algorithms[state.algorithm];
  return {
    state,
    gpu,
    title,
    memory,
    flops,
    hbmBytes,
    kernels,
    time,
    note,
    verdict: `${title} ${verdict(memory)}`,
    timeline: timelineOf(program, bytes, usage),
  };
}

const roomOf = (gpu) => gpu.capacity - gpu.context; // for the allocator

// With endless memory; where a step takes more than the room and still fits, because the cache is released, with that.
function replayed(program, bytes, gpu) {
  const endless = replay(program, bytes, gpu.workspace);
  if (endless.highest <= roomOf(gpu)) return {...endless, fits: true};
  const limited = replay(program, bytes, gpu.workspace, roomOf(gpu));
  return limited.failed ? {...endless, fits: false} : {...limited, fits: true};
}

function fits(state) {
  const gpu = gpuOf(state);
  const letters = lettersOf(state, gpu);
  const program = programOf(state, letters);
  try {
    const bytes = bytesOf(program, letters);
    if (livePeaks(program, bytes).live > roomOf(gpu)) return false;
    return !replay(program, bytes, gpu.workspace, roomOf(gpu)).failed;
  } catch (error) {
    if (error instanceof TooLarge) return false;
    throw error;
  }
}

function verdict({fits, capacity, context, allocatedPeak, reservedPeak}) {
  const of = bytesText(capacity);
  const taken = bytesText(reservedPeak + context);
  if (fits) return `fits: ${taken} of ${of}`;
  const words = `does not fit in ${of}: it allocates ${bytesText(allocatedPeak)}`;
  return allocatedPeak > capacity ? words : `${words}, and reserves ${taken} by fragmentation`;
}
