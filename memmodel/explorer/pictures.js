// Pictures as SVG text, in CSS pixels, and their legends as HTML. Colours and hatches are classes of page.css; what is
// shown, in which order, follows memmodel/pictures/ and memmodel/report/.

const SERIES = 7; // colours of tensors, c1 to c7
const line = (x1, y1, x2, y2, name) => `<line x1="${px(x1)}" y1="${px(y1)}" x2="${px(x2)}" y2="${px(y2)}" class="${name}"/>`;
const rect = (x, y, width, height, name) =>
  `<rect x="${px(x)}" y="${px(y)}" width="${px(Math.max(width, 0))}" height="${px(height)}" class="${name}"/>`;
const words = (x, y, text, name = "", anchor = "start") =>
  `<text x="${px(x)}" y="${px(y)}" class="${name}" text-anchor="${anchor}">${escaped(text)}</text>`;
const px = (value) => Math.round(value * 10) / 10;
const svg = (width, height, title, body) =>
  `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(title)}">${body}</svg>`;
const hatch = (id) =>
  `<defs><pattern id="${id}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
  '<line x1="0" y1="0" x2="0" y2="6" class="hatch"/></pattern></defs>';
const bandClass = (band, i) => ({inputs: "c-inputs", rest: "c-rest"})[band.kind] ?? `c${(i - 1) % SERIES + 1}`;
const legendItem = (mark, name, value, look = "", remark = "") =>
  `<li><span class="key ${look}" aria-hidden="true">${mark}</span><span class="name">${escaped(name)}` +
  `${remark ? ` <span class="faint">${escaped(remark)}</span>` : ""}</span><span class="value">${escaped(value)}</span></li>`;

// The tensors at the peak, then what the allocator holds beyond them, then what is outside the allocator.
function peakParts({timeline, memory}) {
  const {bands, moments, peak} = timeline, at = moments[peak];
  const parts = bands.map((band, i) => ({
    name: band.name, bytes: band.live[peak], saved: band.saved[peak], look: bandClass(band, i), mark: i + 1,
    formula: formulaText(band.atPeak),
  }));
  const beyond = [
    ["cuBLAS workspaces, rounding to blocks", at.allocated - at.live, "c-blocks"],
    ["reserved, and free: cache and fragments", memory.reservedPeak - at.allocated, "c-free"],
    ["outside the allocator", memory.context, "c-context"],
  ].map(([name, bytes, look]) => ({name, bytes, saved: 0, look, mark: ""}));
  return [...parts, ...beyond.filter((part) => part.bytes > 0)];
}

// The bytes of tensors in letters: "2·b·h·n²", or "4 × 2·b·d·h·n" for four alike; empty for more than two kinds.
function formulaText(formulas) {
  const counts = new Map();
  for (const formula of formulas) counts.set(formula, (counts.get(formula) ?? 0) + 1);
  if (counts.size > 2) return "";
  return [...counts].map(([formula, count]) => `${count > 1 ? `${count} × ` : ""}${productText(formula)}`).join(" + ");
}

function productText(formula) { // letters in the order of shapes, g·r query heads as h
  const code = String(FORMULAS[formula]).split("=>")[1];
  const factors = (code.includes("g") && code.includes("r") ? code.replace("g", "h").replace("*r", "") : code).split("*");
  const letters = [..."bhgnd"].filter((letter) => factors.includes(letter))
    .map((letter) => letter + (factors.indexOf(letter) < factors.lastIndexOf(letter) ? "²" : ""));
  return [...factors.filter((factor) => /^\d/.test(factor)), ...letters].join("·");
}

function barPicture(result, width) {
  const {memory} = result, parts = peakParts(result), height = 76, top = 22, thick = 34;
  const total = memory.reservedPeak + memory.context, end = Math.max(total, memory.capacity) * 1.01;
  const x = (bytes) => bytes / end * (width - 2) + 1;
  let at = 0, body = hatch("hatch-bar");
  for (const part of parts) {
    const x0 = x(at), wide = x(at + part.bytes) - x0;
    body += rect(x0, top, wide, thick, `area ${part.look}`);
    if (part.saved) body += rect(x0, top, wide * part.saved / part.bytes, thick, "saved-bar");
    if (part.mark && wide > 16) body += words(x0 + wide / 2, top + thick / 2 + 4, part.mark, "number", "middle");
    at += part.bytes;
  }
  const limit = x(memory.capacity), right = limit > width / 2;
  body += line(limit, top - 8, limit, top + thick + 6, "capacity");
  body += words(limit + (right ? 2 : -2), top - 11, `capacity ${bytesText(memory.capacity)}`, "capacity-text", right ? "end" : "start");
  body += words(1, top + thick + 17, `${bytesText(total)} taken`, "tick");
  return svg(width, height, `${bytesText(total)} taken of ${bytesText(memory.capacity)}`, body);
}

function barLegend(result) {
  return peakParts(result).map((part) => {
    const remark = [part.formula, part.saved ? "kept for backward" : ""].filter(Boolean).join(", ");
    return legendItem(part.mark, part.name, part.bytes ? bytesText(part.bytes) : "–", part.look, remark);
  }).join("");
}

// The upper end of the timeline's axis: live bytes, and the allocator's and the capacity unless far above.
function topOf({memory}) {
  let highest = Math.max(memory.livePeak, 1);
  if (memory.reservedPeak <= 4 * highest) highest = Math.max(highest, memory.reservedPeak);
  if (memory.capacity <= 1.6 * highest) highest = Math.max(highest, memory.capacity);
  return 1.12 * highest;
}

function binaryTicks(top, about) {
  const unit = 1024 ** Math.min(Math.floor(Math.log(top) / Math.log(1024)), 6), rough = top / unit / about;
  const power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((factor) => power * factor >= rough) * power;
  const name = bytesText(unit).split(" ")[1], count = Math.floor(top / unit / step);
  return Array.from({length: count + 1}, (_, i) => [i * step * unit, `${Number((i * step).toPrecision(3))} ${name}`]);
}

function timelinePlace(result, width) {
  const height = width < 500 ? 250 : 320, left = 62, right = 10, top = 22, bottom = 26;
  const count = result.timeline.moments.length, high = topOf(result);
  return {
    height, left, top, right: width - right, bottom: height - bottom, high,
    x: (moment) => left + moment / count * (width - left - right),
    y: (bytes) => height - bottom - bytes / high * (height - bottom - top),
  };
}

function timelinePicture(result, width) {
  const {timeline, memory} = result, {moments, bands, peak, backward} = timeline;
  const place = timelinePlace(result, width), {x, y, left, right, top, bottom} = place;
  let body = hatch("hatch-timeline");
  for (const [bytes, label] of binaryTicks(place.high, 5)) {
    body += line(left, y(bytes), right, y(bytes), "grid") + words(left - 6, y(bytes) + 4, label, "tick", "end");
  }
  let base = new Array(moments.length).fill(0);
  const numbers = [];
  bands.forEach((band, i) => {
    const roof = base.map((low, at) => low + band.live[at]);
    body += stepArea(base, roof, x, y, `area ${bandClass(band, i)}`);
    if (band.saved.some(Boolean)) {
      body += stepArea(base, base.map((low, at) => low + band.saved[at]), x, y, "saved-timeline");
    }
    numbers.push(bandNumber(band, base, i + 1, x, y));
    base = roof;
  });
  body += numbers.join("");
  body += stepLine(moments.map((moment) => moment.allocated), x, y, place.high, "allocated");
  body += stepLine(moments.map((moment) => moment.reserved), x, y, place.high, "reserved");
  if (memory.capacity <= place.high) {
    body += line(left, y(memory.capacity), right, y(memory.capacity), "capacity");
    body += words(right - 4, y(memory.capacity) + 14, `capacity ${bytesText(memory.capacity)}`, "capacity-text halo", "end");
  }
  body += words(left + 2, top - 8, "forward", "phase");
  if (backward > 0) {
    body += line(x(backward), top - 16, x(backward), bottom, "divider") + words(x(backward) + 5, top - 8, "backward", "phase");
  }
  body += line(left, bottom, right, bottom, "axis");
  body += words(left, bottom + 17, "allocations and frees, in order", "tick");
  const high = y(moments[peak].live), middle = x(peak + 0.5), toLeft = peak > moments.length / 2;
  body += `<path d="M${px(middle - 5)} ${px(high - 9)}h10l-5 8z" class="peak"/>`;
  body += words(middle + (toLeft ? -9 : 9), high - 4, `peak ${bytesText(moments[peak].live)}`, "peak-text halo", toLeft ? "end" : "start");
  const title = `live bytes through one step: at most ${bytesText(memory.livePeak)}, when ${moments[peak].what}`;
  return svg(width, place.height, title, body + '<g id="cursor"></g>');
}

function stepArea(lower, upper, x, y, name) { // where upper is above lower
  let path = "";
  for (let start = 0; start < lower.length; start++) {
    if (upper[start] === lower[start]) continue;
    let end = start;
    while (end < lower.length && upper[end] !== lower[end]) end++;
    path += `M${px(x(start))} ${px(y(upper[start]))}`;
    for (let i = start; i < end; i++) path += `V${px(y(upper[i]))}H${px(x(i + 1))}`;
    for (let i = end - 1; i >= start; i--) path += `V${px(y(lower[i]))}H${px(x(i))}`;
    path += "Z";
    start = end;
  }
  return path ? `<path d="${path}" class="${name}"/>` : "";
}

function stepLine(values, x, y, high, name) {
  const path = values.map((value, i) => `${i ? "V" : `M${px(x(0))} `}${px(y(Math.min(value, high)))}H${px(x(i + 1))}`).join("");
  return `<path d="${path}" class="${name}"/>`;
}

// A band's number where it is longest at its largest; none where there is no room.
function bandNumber(band, base, mark, x, y) {
  const most = Math.max(...band.live);
  let best = [0, 0];
  for (let i = 0; i < base.length;) {
    let end = i + 1;
    while (end < base.length && band.live[end] === band.live[i] && base[end] === base[i]) end++;
    if (band.live[i] === most && end - i > best[1] - best[0]) best = [i, end];
    i = end;
  }
  const [start, end] = best, tall = y(0) - y(most), wide = x(end) - x(start);
  if (tall < 13 || wide < 10) return "";
  return words((x(start) + x(end)) / 2, y(base[start] + most / 2) + 4, mark, "number", "middle");
}

function timelineLegend({memory}) {
  return legendItem("", "kept for backward", bytesText(memory.saved), "k-saved") +
    legendItem("", "allocated, at most", bytesText(memory.allocatedPeak), "k-allocated") +
    legendItem("", "reserved, at most", bytesText(memory.reservedPeak), "k-reserved");
}

const letterOf = (i) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i % 26] + (i >= 26 ? Math.floor(i / 26) + 1 : "");

const MET = /fp32 units|exp units/; // ceilings that kernels of every dtype meet; of the others only the dtype's own is drawn

// Kernels with arithmetic, equal ones together, in order of their first launch; and the names of the others.
function rooflineOf({kernels, gpu, state}) {
  const points = new Map(), without = new Set();
  for (const {name, flops, hbmBytes, seconds, binding} of kernels) {
    if (!flops) {
      without.add(name);
      continue;
    }
    const key = [name, flops, hbmBytes, seconds, binding].join(" ");
    const point = points.get(key) ?? {name, intensity: flops / hbmBytes, rate: flops / seconds, seconds, binding, launches: 0};
    point.launches += 1;
    points.set(key, point);
  }
  const peak = gpu.values[peakQuantity(gpu, state.dtype)], [memory, ...roofs] = gpu.roofs;
  return {points: [...points.values()], without: [...without], peak, memory, roofs, balance: peak / memory.rate};
}

function rooflinePicture(result, width) {
  const shown = rooflineOf(result), {points, roofs, memory, balance, peak} = shown, narrow = width < 500;
  const height = narrow ? 270 : 330, left = 46, right = width - 10, top = 12, bottom = height - 34;
  const xs = points.map((point) => point.intensity), rates = [...points.map((point) => point.rate), ...roofs.filter((roof) => MET.test(roof.name)).map((roof) => roof.rate), peak];
  const x0 = Math.min(...xs, balance, 1) / 3, x1 = Math.max(...xs, balance) * (narrow ? 60 : 40);
  const y0 = Math.min(...rates, memory.rate * x0) / 2, y1 = Math.max(...rates) * 3;
  const x = (value) => left + Math.log(value / x0) / Math.log(x1 / x0) * (right - left);
  const y = (value) => bottom - Math.log(value / y0) / Math.log(y1 / y0) * (bottom - top);
  let body = decades(x0, x1).map((value) =>
    line(x(value), top, x(value), bottom, "grid") + words(x(value), bottom + 14, wholeOrPower(value), "tick", "middle")).join("");
  body += decades(y0, y1).map((value) =>
    line(left, y(value), right, y(value), "grid") + words(left - 5, y(value) + 4, rateText(value), "tick", "end")).join("");
  body += line(left, bottom, right, bottom, "axis") + words(right, bottom + 28, "FLOP per byte of HBM traffic", "tick", "end");
  body += words(left + 4, top + 8, "FLOP/s", "tick");
  const high = Math.max(...roofs.filter((roof) => MET.test(roof.name)).map((roof) => roof.rate), peak);
  const from = Math.max(x0, y0 / memory.rate);
  body += line(x(from), y(from * memory.rate), x(high / memory.rate), y(high), "roof-main");
  let last = -Infinity;
  for (const roof of roofs) {
    const main = Math.abs(roof.rate / peak - 1) < 0.02, start = Math.max(roof.rate / memory.rate, x0);
    if (!main && !MET.test(roof.name)) continue;
    body += line(x(start), y(roof.rate), right, y(roof.rate), main ? "roof-main" : "roof");
    const place = Math.max(y(roof.rate) - (main ? 9 : 4), last + 11);
    last = place;
    const unit = roof.name === "exp units" ? "exp/s" : "FLOP/s";
    body += words(right - 2, place, `${roof.name}: ${decimalText(roof.rate, unit)}`, `roof-text halo${main ? " strong" : ""}`, "end");
  }
  body += line(x(balance), top, x(balance), bottom, "balance");
  body += words(x(balance) - 4, bottom - 6, `balance ${balance.toFixed(0)} FLOP/B`, "balance-text halo", "end");
  const slope = (from * high / memory.rate) ** 0.5;
  body += words(x(slope) - 8, y(slope * memory.rate) - 4, `HBM: ${decimalText(memory.rate, "B/s")}`, "roof-text halo strong", "end");
  points.forEach((point, i) => {
    body += `<circle cx="${px(x(point.intensity))}" cy="${px(y(point.rate))}" r="5" class="point"/>`;
  });
  for (const group of nearby(points.map((point) => [x(point.intensity), y(point.rate)]))) {
    const [cx, cy] = group.at, beside = cx > right - 60;
    body += words(cx + (beside ? -9 : 9), cy + 15, group.members.map(letterOf).join(" "), "letter halo", beside ? "end" : "start");
  }
  return svg(width, height, `${points.length} kernels under the ceilings of ${result.gpu.name}`, body);
}

function nearby(places) { // points that touch share one label
  const groups = [];
  places.forEach((at, i) => {
    const near = groups.find((group) => Math.hypot(group.at[0] - at[0], group.at[1] - at[1]) < 20);
    if (near) near.members.push(i);
    else groups.push({at, members: [i]});
  });
  return groups;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.ceil(Math.log10(low)); power <= Math.floor(Math.log10(high)); power++) found.push(10 ** power);
  return found.length > 7 ? found.filter((_, i) => i % 2 === 0) : found;
}

const rateText = (value) => decimalText(value, "").trim().replace(/\.0+(?= |$)/, "");
const wholeOrPower = (value) => value >= 1e5 ? rateText(value) : wholeText(Number(value.toPrecision(1)));

function rooflineLegend(result) {
  const {points, without} = rooflineOf(result);
  const items = points.map(({name, launches, seconds, binding}, i) =>
    legendItem(letterOf(i), `${name}${launches > 1 ? ` ×${launches}` : ""}`, secondsText(seconds), "k-letter", binding));
  if (without.length) items.push(legendItem("", `without arithmetic, not shown: ${without.join(", ")}`, "", "k-none"));
  return items.join("");
}

const DASHES = ["", "6 3", "2 3", "9 3 2 3", "4 4", "1 3"];
const MARKERS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", "M-3.5 -3.5h7v7h-7z", "M0 -4.5l4.5 8h-9z", "M0 -5l5 5l-5 5l-5 -5z",
  "M0 4.5l4.5 -8h-9z", "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
];
const marker = (series, x, y) =>
  `<path d="${MARKERS[series]}" transform="translate(${px(x)} ${px(y)})" class="marker c${series + 1}"/>`;
const seriesOf = (algorithm) => Object.keys(TABLES.algorithms).indexOf(algorithm);

function frontierPlace(state, lines, width) {
  const height = width < 500 ? 250 : 320, left = 46, right = width - 14, top = 14, bottom = height - 34;
  const batches = frontierParts(state).batches, lengths = lines.flatMap(({walls}) => walls.map((each) => each.largest)).filter(Boolean);
  const low = Math.log2(Math.min(...lengths, state.seq, 1024)) - 0.5, high = Math.log2(Math.max(...lengths, state.seq, 65536)) + 0.7;
  const last = Math.log2(batches.at(-1));
  return {
    height, left, right, top, bottom, batches, low, high, last,
    x: (batch) => left + 14 + Math.log2(batch) / last * (right - left - 20),
    y: (length) => bottom - (Math.log2(Math.max(length, 1)) - low) / (high - low) * (bottom - top),
  };
}

// `lines` are those of frontier(), as far as they are known.
function frontierPicture(state, lines, width) {
  const {height, left, right, top, bottom, batches, low, high, last, x, y} = frontierPlace(state, lines, width);
  let body = "", power = Math.ceil(low);
  const stride = high - low > 8 ? 2 : 1;
  for (; power <= high; power++) {
    if (power % stride) continue;
    body += line(left, y(2 ** power), right, y(2 ** power), "grid") + words(left - 5, y(2 ** power) + 4, sizeText(2 ** power), "tick", "end");
  }
  for (let batch = 1; batch <= batches.at(-1); batch *= 2 ** Math.ceil(last / 10)) {
    body += line(x(batch), top, x(batch), bottom, "grid") + words(x(batch), bottom + 14, batch, "tick", "middle");
  }
  body += line(left, bottom, right, bottom, "axis") + words(right, bottom + 28, "batch", "tick", "end");
  body += words(left + 4, top + 2, "longest sequence", "tick");
  for (const {algorithm, walls} of lines) {
    const series = seriesOf(algorithm), own = algorithm === state.algorithm;
    const known = walls.filter((each) => each.largest);
    const path = known.map((each, i) => `${i ? "L" : "M"}${px(x(each.batch))} ${px(y(each.largest))}`).join("");
    body += `<path d="${path}" class="wall s${series + 1}${own ? " own" : ""}" stroke-dasharray="${DASHES[series]}"/>`;
    body += known.map((each) => marker(series, x(each.batch), y(each.largest))).join("");
  }
  return svg(width, height, "the longest sequence that fits, by batch, for each algorithm", `${body}<g id="here"></g>`);
}

function hereMark(state, lines, width) {
  const place = frontierPlace(state, lines, width), x = place.x(state.batch), y = place.y(state.seq), beside = x > width / 2;
  return `<path d="M-7 0h14M0 -7v14" transform="translate(${px(x)} ${px(y)})" class="here"/>` +
    words(x + (beside ? -9 : 9), y + 15, "here", "here-text halo", beside ? "end" : "start");
}

function frontierLegend(state, lines) {
  return lines.map(({algorithm, walls}) => {
    const here = walls.find((each) => each.batch === state.batch), series = seriesOf(algorithm);
    const sample = `<svg width="34" height="14" aria-hidden="true"><line x1="0" y1="7" x2="34" y2="7" class="wall s${series + 1}" ` +
      `stroke-dasharray="${DASHES[series]}"/>${marker(series, 17, 7)}</svg>`;
    const value = here ? here.largest ? wholeText(here.largest) : "nothing fits" : "…";
    return legendItem(sample, TABLES.algorithms[algorithm], value, "k-line");
  }).join("");
}
