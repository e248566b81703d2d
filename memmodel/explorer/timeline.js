// What is in memory at each moment of a step, and as which tensors: memmodel/pictures/timeline.py.

const NAMED = 7; // tensors with a band of their own, besides the inputs
const INPUTS = ""; // stands for the names of all inputs

function timelineOf(program, bytes, usage) {
  const moments = [];
  const live = new Map();
  const saved = new Map();
  const holds = new Array(bytes.length).fill(0);
  const nameOf = (slot) => program.allocs[slot].name;
  let phase = "inputs";
  const change = (changes, slot, moment, sign) => {
    const own = slot < program.inputs;
    if (own && changes === saved) return; // the caller keeps it anyway
    const name = own ? INPUTS : nameOf(slot);
    if (!changes.has(name)) changes.set(name, new Map());
    const at = changes.get(name);
    at.set(moment, (at.get(moment) ?? 0) + sign * bytes[slot]);
  };
  const apply = (event) => {
    // what happened in words; empty for what changes no bytes
    const now = moments.length,
      {slot} = event;
    if (event.op === MARK) {
      phase = event.phase;
      return `${phase} begins`;
    }
    if (event.op === ALLOC) {
      change(live, slot, now, 1);
      return `${nameOf(slot)} is made`;
    }
    if (event.op === FREE) {
      if (holds[slot]) change(saved, slot, now, -1);
      holds[slot] = 0;
      change(live, slot, now, -1);
      return `${nameOf(slot)} is freed`;
    }
    if (event.op === SAVE && (holds[slot] += 1) === 1) change(saved, slot, Math.max(now - 1, 0), 1);
    if (event.op === RELEASE && (holds[slot] -= 1) === 0) change(saved, slot, now, -1);
    return "";
  };
  const eventOf = []; // of each moment
  for (let i = 0; i < program.after; i++) {
    const event = program.events[i];
    let what = apply(event);
    const at = i - program.forward;
    if (at < 0) continue;
    if (event.op === LAUNCH && at && usage[at].allocated > usage[at - 1].allocated) {
      what = `workspace of ${event.name} is taken`;
    }
    if (!what) continue;
    moments.push({phase, what, ...usage[at]});
    eventOf.push(i);
  }
  const all = levels(live, [...live.keys()], moments.length);
  const kept = levels(saved, [...saved.keys()], moments.length);
  moments.forEach((moment, i) => Object.assign(moment, {live: all[i], saved: kept[i]}));
  const peak = all.indexOf(Math.max(...all));
  const backward = moments.findIndex((moment) => moment.phase === "backward");
  const inputs = program.allocs
    .slice(0, program.inputs)
    .map(({name}) => name)
    .join(", ");
  const bands = bandsOf(live, saved, moments.length, inputs);
  const formulas = formulasAlive(program, eventOf[peak]);
  for (const band of bands) band.atPeak = band.names.flatMap((name) => formulas.get(name) ?? []);
  return {moments, peak, backward, bands};
}

// Numbers of the formulas of what is alive after an event, by name.
function formulasAlive(program, end) {
  const alive = new Set();
  const found = new Map();
  for (const {op, slot} of program.events.slice(0, end + 1)) {
    if (op === ALLOC) alive.add(slot);
    if (op === FREE) alive.delete(slot);
  }
  for (const slot of alive) {
    const name = slot < program.inputs ? INPUTS : program.allocs[slot].name;
    found.set(name, [...(found.get(name) ?? []), program.allocs[slot].formula]);
  }
  return found;
}

// Bytes of some names together, at each moment.
function levels(changes, names, count) {
  const steps = new Array(count).fill(0);
  for (const name of names) for (const [moment, bytes] of changes.get(name) ?? []) steps[moment] += bytes;
  let total = 0;
  return steps.map((step) => (total += step));
}

// Inputs lowest, then what is kept for backward, then the other large tensors, then the rest.
function bandsOf(live, saved, count, inputs) {
  const band = (name, kind, names) => ({
    name,
    kind,
    names,
    live: levels(live, names, count),
    saved: levels(saved, names, count),
  });
  const names = [...live.keys()].filter((name) => name !== INPUTS);
  const most = new Map(names.map((name) => [name, Math.max(...levels(live, [name], count))]));
  const largest = [...names].sort((a, b) => most.get(b) - most.get(a));
  const shown = new Set(largest.length > NAMED + 1 ? largest.slice(0, NAMED) : largest);
  const stacked = names.filter((name) => shown.has(name)).sort((a, b) => !saved.has(a) - !saved.has(b));
  const rest = names.filter((name) => !shown.has(name));
  return [
    band(inputs, "inputs", [INPUTS]),
    ...stacked.map((name) => band(name, "tensor", [name])),
    ...(rest.length ? [band(`${rest.length} more tensors`, "rest", rest)] : []),
  ];
}
