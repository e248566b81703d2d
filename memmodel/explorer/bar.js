// What fills the memory at the peak, against the GPU's capacity; and the formulas of its tensors.

// The tensors at the peak, looking as in the timeline, then what the allocator holds beyond them and what is outside it.
function peakParts({timeline: {bands, moments, peak, memory}, pictures}) {
  const {allocated_bytes: allocated, live_bytes: live} = moments[peak];
  const parts = bands.map((band, i) => [pictures.timeline.areas[i].look, band.name, band.live_bytes[peak], band.saved_bytes[peak]]);
  const beyond = [
    ["blocks", "cuBLAS workspaces, rounding to blocks", allocated - live],
    ["free", "reserved, and free: cache and fragments", memory.reserved_peak_bytes - allocated],
    ["context", "outside the allocator", memory.context_bytes?.[1] ?? 0],
  ].map(([shade, name, bytes]) => [new model.Look("", shade), name, bytes, 0]);
  return [...parts, ...beyond.filter(([, , bytes]) => bytes > 0)];
}

function barDrawn(result, width) {
  const {memory} = result.timeline;
  const [top, thick, total] = [22, 34, memory.device_bytes];
  const x = (bytes) => 1 + (bytes / (Math.max(total, memory.capacity_bytes) * 1.01)) * (width - 2);
  let at = 0;
  const parts = peakParts(result).map(([look, , bytes, saved]) => {
    const [start, wide] = [x(at), x(at + bytes) - x(at)];
    at += bytes;
    const kept = saved ? rect(start, top, (wide * saved) / bytes, thick, "hatched") : "";
    const key = wide > 16 ? words(start + wide / 2, top + thick / 2 + 4, look.key, "number", "middle") : "";
    return rect(start, top, wide, thick, `area ${tone(look)}`) + kept + key;
  });
  const limit = x(memory.capacity_bytes);
  const capacity = `capacity ${model.bytes_text(memory.capacity_bytes)}`;
  parts.push(line(limit, top - 8, limit, top + thick + 6, "line stroke-limit dashdot"));
  parts.push(words(limit, top - 11, capacity, "limit-text", limit > width / 2 ? "end" : "start"));
  const taken = `${model.bytes_text(total)} taken`;
  return svg(width, 76, `${taken}, ${capacity}`, parts.join("") + words(1, top + thick + 17, taken, "tick"));
}

// The timeline's legend with the formulas of what is alive at the peak, and what is there beside the tensors.
function memoryLegend(result) {
  const {columns, legend: entries, notes} = result.pictures.timeline;
  const rows = entries.map(({look, cells}) => ({look, cells: [...cells, formulaText(result, cells[0])]}));
  const beyond = peakParts(result).slice(result.timeline.bands.length);
  const also = beyond.map(([look, name, bytes]) => ({look, cells: [`${name}: ${model.bytes_text(bytes)}`]}));
  return legend({columns: [...columns, "at the peak, in letters"], legend: rows, notes: [...also, ...notes]});
}

// The bytes of tensors in letters: "2·b·h·n²", or "4 × 2·b·h·n·d" for four alike; empty for more than two kinds.
function formulaText({formulas, state}, names) {
  const counts = new Map();
  for (const formula of names.split(", ").flatMap((name) => formulas.get(name) ?? [])) {
    counts.set(formula, (counts.get(formula) ?? 0) + 1);
  }
  if (counts.size > 2) return "";
  const {itemsize} = caseOf(state).dtype;
  return [...counts].map(([formula, count]) => `${count > 1 ? `${count} × ` : ""}${productText(formula, itemsize)}`).join(" + ");
}

// A formula's factors, letters in the order of shapes; g·r heads are h, s is the size of an item.
function productText(formula, itemsize) {
  const code = String(FORMULAS[formula]).split("=>")[1].split("*");
  const factors = code.includes("r") ? code.filter((each) => each !== "r").map((each) => each.replace("g", "h")) : code;
  const power = (letter) => factors.filter((factor) => factor === letter).length;
  const letters = [..."bhgnd"].filter(power).map((letter) => letter + (power(letter) > 1 ? "²" : ""));
  const numbers = factors.map((factor) => (factor === "s" ? itemsize : Number(factor))).filter(Number.isInteger);
  return [numbers.reduce((a, b) => a * b, 1), ...letters].join("·");
}
