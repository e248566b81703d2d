// Programs: the tables that programs.py made, looked up by a case's structure, with its sizes filled in. What is read
// from their events is the model's own code.

TABLES.algorithms = new model.Dict(Object.entries(TABLES.algorithms));
const [MARK, ALLOC, FREE, SAVE, RELEASE, LAUNCH] = [0, 1, 2, 3, 4, 5];

const tooLarge = () =>
  new model.ValueError("these sizes need more bytes than this page can count exactly (2^53): take smaller ones");

// The letters of the formulas, with the tiles of the GPU's fused kernels.
function lettersOf(kase) {
  const {batch: b, heads: h, kv_heads: g, seq: n, head_dim: d, dtype, mask} = kase;
  const letters = {b, h, g, r: h / g, n, d, s: dtype.itemsize, w: mask.window};
  if (!TABLES.algorithms.get(kase.algorithm).fused) return letters;
  const tiles = model.flash_tiles(kase.device.arch, dtype, d);
  tiles.constructor.fields.forEach((name, i) => {
    if (tiles[i]) Object.assign(letters, {[`${name}Rows`]: tiles[i].rows, [`${name}Cols`]: tiles[i].cols});
  });
  return letters;
}

function structureKey({algorithm, phase, dtype, mask}, {b, h, n, d, r, fusedRows}) {
  const {fused} = TABLES.algorithms.get(algorithm);
  const name = algorithm === "flash" && !fusedRows ? "flash-deterministic" : algorithm;
  const kind = dtype.name === "float16" ? "bf16" : model.short_name(dtype); // runs as bf16 does
  const ones = {"b*h=1": b * h === 1, "n=1": n === 1, "d=1": d === 1};
  const held = Object.keys(ones).filter((one) => ones[one]);
  return [name, phase, mask.name, ...(fused ? [kind] : []), ...(r > 1 ? ["grouped"] : []), ...(fused ? [] : held)].join(" ");
}

// What the page has instead of the model's own functions: see NATIVES in page.py.
const programRecorded = (kase) => programOf(kase).program;
const recorded = (kase) => ({program: programRecorded(kase), choices: [], unknown: new model.Dict()});
const namesOf = (program) => program.names;
const nothing = () => [];
const noTime = () => [null, []];
const noClosedForm = () => null;
const ceilDiv = (a, b) => Math.ceil(a / b);
const unknown = (kind, given) => new model.ValueError(`unknown ${kind} “${given}”: choose one from the list`);

// Blocks under a causal mask, or a window of w keys: what the formulas of fused kernels call.
const blocks = (n, rows, cols, w) => new model.Mask(true, w).blocks(n, n, rows, cols);

// The events of a case, and by storage its name and the formula of its bytes.
function programOf(kase) {
  const letters = lettersOf(kase);
  const numbers = TABLES.programs[TABLES.keys[structureKey(kase, letters)]];
  const known = [];
  const value = (formula) => (known[formula] ??= FORMULAS[formula](letters));
  const [events, names, groups, formulas] = [[], new model.Dict(), new model.Dict(), []];
  for (let i = 0; i < numbers.length; i += 2) {
    const [op, number] = [numbers[i], numbers[i + 1]];
    if (op === ALLOC) {
      events.push(new model.Alloc(formulas.length, bytes(value(number)), [], kase.dtype, "", null, "tensor"));
      names.set(formulas.length, TABLES.names[numbers[i + 2]]);
      groups.set(formulas.length, TABLES.groups[numbers[i + 3]]);
      formulas.push(number);
      i += 2;
    } else if (op === LAUNCH) events.push(launchOf(TABLES.kernels[number], kase, value));
    else if (op === MARK) events.push(new model.Mark(TABLES.phases[number]));
    else events.push(new {[FREE]: model.Free, [SAVE]: model.Save, [RELEASE]: model.Release}[op](number, ""));
  }
  return {program: new model.Program(events, names, new model.Dict(), groups), formulas};
}

function bytes(count) {
  if (count > Number.MAX_SAFE_INTEGER) throw tooLarge();
  return count;
}

function launchOf(fields, kase, value) {
  const held = Object.fromEntries(model.Launch.fields.map((name, i) => [name, fields[i]]));
  const work = (amounts) => amounts && new model.Work(...amounts.map(value));
  const dtype = held.dtype ? new model.DType(...TABLES.dtypes[held.dtype]) : kase.dtype;
  const filled = {work: work(held.work), needed: work(held.needed), dtype, sizes: held.sizes.map(value)};
  return new model.Launch(...Object.values({...held, ...filled}));
}
