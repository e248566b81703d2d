// What fills the memory at the peak, against the GPU's capacity.

// The tensors at the peak, then what the allocator holds beyond them, then what is outside the allocator.
function peakParts({timeline, memory}) {
  const {bands, moments, peak} = timeline;
  const at = moments[peak];
  const parts = bands.map((band, i) => ({
    name: band.name,
    bytes: band.live[peak],
    saved: band.saved[peak],
    look: bandClass(band, i),
    mark: i + 1,
    formula: formulaText(band.atPeak),
  }));
  const beyond = [
    ["cuBLAS workspaces, rounding to blocks", at.allocated - at.live, "c-blocks"],
    ["reserved, and free: cache and fragments", memory.reservedPeak - at.allocated, "c-free"],
    ["outside the allocator", memory.context, "c-context"],
  ].map(([name, bytes, look]) => ({name, bytes, saved: 0, look, mark: ""}));
  return [...parts, ...beyond.filter((part) => part.bytes > 0)];
}

// The bytes of tensors in letters: "2·b·h·n²", or "4 × 2·b·h·n·d" for four alike; empty for more than two kinds.
function formulaText(formulas) {
  const counts = new Map();
  for (const formula of formulas) counts.set(formula, (counts.get(formula) ?? 0) + 1);
  if (counts.size > 2) return "";
  return [...counts].map(([formula, count]) => `${count > 1 ? `${count} × ` : ""}${productText(formula)}`).join(" + ");
}

// A formula's factors, letters in the order of shapes; g·r heads are h.
function productText(formula) {
  const code = String(FORMULAS[formula]).split("=>")[1].split("*");
  const factors = code.includes("r") ? code.filter((each) => each !== "r").map((each) => each.replace("g", "h")) : code;
  const power = (letter) => factors.filter((factor) => factor === letter).length;
  const letters = [..."bhgnd"].filter(power).map((letter) => letter + (power(letter) > 1 ? "²" : ""));
  return [...factors.filter((factor) => /^\d/.test(factor)), ...letters].join("·");
}

function barPicture(result, width) {
  const {memory} = result;
  const parts = peakParts(result);
  const height = 76;
  const top = 22;
  const thick = 34;
  const total = memory.reservedPeak + memory.context;
  const end = Math.max(total, memory.capacity) * 1.01;
  const x = (bytes) => (bytes / end) * (width - 2) + 1;
  let at = 0;
  let body = hatch("hatch-bar");
  for (const part of parts) {
    const x0 = x(at);
    const wide = x(at + part.bytes) - x0;
    body += rect(x0, top, wide, thick, `area ${part.look}`);
    if (part.saved) body += rect(x0, top, (wide * part.saved) / part.bytes, thick, "saved-bar");
    if (part.mark && wide > 16) body += words(x0 + wide / 2, top + thick / 2 + 4, part.mark, "number", "middle");
    at += part.bytes;
  }
  const limit = x(memory.capacity);
  const right = limit > width / 2;
  body += line(limit, top - 8, limit, top + thick + 6, "capacity");
  const name = `capacity ${bytesText(memory.capacity)}`;
  body += (right ? wordsBefore : words)(limit + (right ? 2 : -2), top - 11, name, "capacity-text");
  body += words(1, top + thick + 17, `${bytesText(total)} taken`, "tick");
  return svg(width, height, `${bytesText(total)} taken of ${bytesText(memory.capacity)}`, body);
}

function barLegend(result) {
  return peakParts(result)
    .map((part) => {
      const remark = [part.formula, part.saved ? "kept for backward" : ""].filter(Boolean).join(", ");
      return legendItem(part.mark, part.name, part.bytes ? bytesText(part.bytes) : "–", part.look, remark);
    })
    .join("");
}
