// A state of the controls, evaluated by the model's own code on the programs of the tables.

const gpus = new Map(); // by id

function gpuOf(id) {
  if (!gpus.has(id)) {
    const found = TABLES.gpus.find((gpu) => gpu.id === id);
    if (!found) throw new model.ValueError(`unknown GPU “${id}”: choose one from the list`);
    const {name, arch, compute_capability, values} = found;
    const listed = Object.entries(values).map(([quantity, value]) => [quantity, new model.Value(value, "datasheet")]);
    gpus.set(id, new model.Gpu(id, name, "", arch, compute_capability, new model.Dict(listed)));
  }
  return gpus.get(id);
}

// The checked case of a state on its GPU. Throws model.ValueError, with what to change.
function caseOf({gpu, algorithm, batch, heads, kvHeads, seq, headDim, dtype, mask, window, phase}) {
  const seen = model.mask(mask, mask === "window" ? window : null);
  const sizes = [batch, heads, kvHeads, seq, seq, headDim, headDim];
  const [kase] = model.on_gpu([model.make_case(algorithm, ...sizes, dtype, seen, 0, phase)], gpuOf(gpu));
  const {reason} = model.supported(kase);
  if (reason) throw new model.ValueError(reason.replace(" with --algorithm", ""));
  return kase;
}

function evaluate(state) {
  const [kase, gpu] = [caseOf(state), gpuOf(state.gpu)];
  const prediction = model.predict_case(kase, gpu);
  if (!(prediction.memory.reserved_peak_bytes < Number.MAX_SAFE_INTEGER)) throw tooLarge();
  const report = new model.Report(gpu, [prediction], [], []);
  const [timeline, roofline] = [model.timeline(kase, gpu), prediction.time && model.roofline(report)];
  return {
    state,
    gpu,
    report,
    prediction,
    verdict: `${prediction.title} ${prediction.memory.verdict}`,
    timeline,
    roofline,
    pictures: {timeline: model.timeline_pictures(timeline)[0], roofline: roofline && model.roofline_pictures(roofline)[0]},
    formulas: formulasAtPeak(programOf(kase)),
  };
}

// Numbers of the formulas of the storages at the peak, by name.
function formulasAtPeak({program, formulas}) {
  const found = new Map();
  for (const key of model.at_peak(program)[1]) {
    const name = program.names.get(key);
    found.set(name, [...(found.get(name) ?? []), formulas[key]]);
  }
  return found;
}

// The longest sequence that fits at a batch, as a multiple of 128; 0 where none does.
const STEP = 128;
const walls = new Map(); // by algorithm, batch and the rest of the configuration

function wallKey({gpu, phase, dtype, mask, heads, kvHeads, headDim}, algorithm, batch) {
  return [gpu, phase, dtype, mask, heads, kvHeads, headDim, algorithm, batch].join(" ");
}

function wall(state, algorithm, batch) {
  const key = wallKey(state, algorithm, batch);
  if (!walls.has(key)) {
    const kase = caseOf({...state, algorithm, batch});
    const {lines} = model.frontier([kase], [gpuOf(state.gpu)], "batch", [batch]);
    walls.set(key, lines[0].walls[0].largest);
  }
  return walls.get(key);
}

// The algorithms that can run a state, and the batches of the picture with the state's own.
function frontierParts(state) {
  const batches = [...new Set([1, 2, 4, 8, 16, 32, 64, state.batch])].sort((a, b) => a - b);
  const runs = (algorithm) => model.supported(model.replace(caseOf(state), {algorithm})).reason === "";
  return {algorithms: [...TABLES.algorithms].filter(runs), batches};
}

// The frontier, as far as its walls are known.
function frontierOf(state) {
  const {algorithms, batches} = frontierParts(state);
  const {name, id} = gpuOf(state.gpu);
  const lines = algorithms.map((algorithm) => {
    const found = batches.map((batch) => new model.Wall(batch, walls.get(wallKey(state, algorithm, batch))));
    return new model.Line(algorithm, TABLES.algorithms.get(algorithm).title, name, id, found);
  });
  const whole = lines.filter((each) => each.walls.every(({largest}) => largest !== undefined));
  return new model.Frontier(caseOf(state).describe("seq"), "batch", STEP, whole);
}

function frontier(state) {
  const {algorithms, batches} = frontierParts(state);
  for (const algorithm of algorithms) for (const batch of batches) wall(state, algorithm, batch);
  return frontierOf(state);
}
