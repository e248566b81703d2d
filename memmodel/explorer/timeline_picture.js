// The timeline: memmodel/report/plot_timeline.py and scales.py, in the browser.

// The upper end of the timeline's axis: live bytes, and the allocator's and the capacity unless far above.
function topOf({memory}) {
  let highest = Math.max(memory.livePeak, 1);
  if (memory.reservedPeak <= 4 * highest) highest = Math.max(highest, memory.reservedPeak);
  if (memory.capacity <= 1.6 * highest) highest = Math.max(highest, memory.capacity);
  return 1.12 * highest;
}

function binaryTicks(top, about) {
  const unit = 1024 ** Math.min(Math.floor(Math.log(top) / Math.log(1024)), 6);
  const rough = top / unit / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => power * factor >= rough) * power;
  const name = bytesText(unit).split(" ")[1];
  const count = Math.floor(top / unit / step);
  return Array.from({length: count + 1}, (_, i) => [i * step * unit, `${Number((i * step).toPrecision(3))} ${name}`]);
}

function timelinePlace(result, width) {
  const [left, right, top, height] = [62, width - 10, 22, width < 500 ? 250 : 320];
  const bottom = height - 26;
  const count = result.timeline.moments.length;
  const high = topOf(result);
  const x = (moment) => left + (moment / count) * (right - left);
  const y = (bytes) => bottom - (bytes / high) * (bottom - top);
  return {height, left, right, top, bottom, high, x, y};
}

function timelinePicture(result, width) {
  const place = timelinePlace(result, width);
  const parts = [timelineAxes, timelineBands, timelineLines, timelinePeak].map((part) => part(result, place));
  const {moments, peak} = result.timeline;
  const title = `live bytes through one step: at most ${bytesText(moments[peak].live)}, when ${moments[peak].what}`;
  return svg(width, place.height, title, `${hatch("hatch-timeline")}${parts.join("")}<g id="cursor"></g>`);
}

function timelineAxes({timeline: {backward}}, {left, right, top, bottom, high, x, y}) {
  const ticks = binaryTicks(high, 5).map(
    ([bytes, label]) =>
      line(left, y(bytes), right, y(bytes), "grid") + wordsBefore(left - 6, y(bytes) + 4, label, "tick"),
  );
  const axis =
    line(left, bottom, right, bottom, "axis") + words(left, bottom + 17, "allocations and frees, in order", "tick");
  const parts = [...ticks, axis, words(left + 2, top - 8, "forward", "phase")];
  if (backward > 0) {
    parts.push(line(x(backward), top - 16, x(backward), bottom, "divider"));
    parts.push(words(x(backward) + 5, top - 8, "backward", "phase"));
  }
  return parts.join("");
}

// The bands on each other, what is kept for backward hatched, and their numbers above all.
function timelineBands({timeline: {bands, moments}}, {x, y}) {
  const areas = [];
  const numbers = [];
  let base = new Array(moments.length).fill(0);
  bands.forEach((band, i) => {
    const on = (sizes) => base.map((low, at) => low + sizes[at]);
    areas.push(stepArea(base, on(band.live), x, y, `area ${bandClass(band, i)}`));
    areas.push(stepArea(base, on(band.saved), x, y, "saved-timeline"));
    numbers.push(bandNumber(band, base, i + 1, x, y));
    base = on(band.live);
  });
  return [...areas, ...numbers].join("");
}

// What the allocator holds, and the capacity where it is in the picture.
function timelineLines({timeline: {moments}, memory: {capacity}}, {left, right, high, x, y}) {
  const parts = ["allocated", "reserved"].map((name) => {
    const values = moments.map((moment) => Math.min(moment[name], high));
    return stepLine(values, x, y, name);
  });
  if (capacity <= high) {
    parts.push(line(left, y(capacity), right, y(capacity), "capacity"));
    parts.push(wordsBefore(right - 4, y(capacity) + 14, `capacity ${bytesText(capacity)}`, "capacity-text halo"));
  }
  return parts.join("");
}

function timelinePeak({timeline: {moments, peak}}, {x, y}) {
  const [middle, high] = [x(peak + 0.5), y(moments[peak].live)];
  const label = `peak ${bytesText(moments[peak].live)}`;
  const mark = `<path d="M${px(middle - 5)} ${px(high - 9)}h10l-5 8z" class="peak"/>`;
  const before = peak > moments.length / 2;
  return mark + (before ? wordsBefore : words)(middle + (before ? -9 : 9), high - 4, label, "peak-text halo");
}

// An area wherever the upper level is above the lower.
function stepArea(lower, upper, x, y, name) {
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

function stepLine(values, x, y, name) {
  const steps = values.map((value, i) => `V${px(y(value))}H${px(x(i + 1))}`);
  return `<path d="M${px(x(0))} ${px(y(values[0]))}${steps.join("")}" class="${name}"/>`;
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
  const [start, end] = best;
  const tall = y(0) - y(most);
  const wide = x(end) - x(start);
  if (tall < 13 || wide < 10) return "";
  return words((x(start) + x(end)) / 2, y(base[start] + most / 2) + 4, mark, "number", "middle");
}

function timelineLegend({memory}) {
  return (
    legendItem("", "kept for backward", bytesText(memory.saved), "k-saved") +
    legendItem("", "allocated, at most", bytesText(memory.allocatedPeak), "k-allocated") +
    legendItem("", "reserved, at most", bytesText(memory.reservedPeak), "k-reserved")
  );
}
