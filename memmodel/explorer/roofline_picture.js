// The roofline: memmodel/pictures/roofline.py, drawn.

const letterOf = (i) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i % 26] + (i >= 26 ? Math.floor(i / 26) + 1 : "");

const isRoofOf = (rate, peak) => Math.abs(rate / peak - 1) < 0.02; // merged ceilings have the rate of one of them

// Kernels with arithmetic, equal ones together, in order of their first launch; and the names of the others.
function rooflineOf({kernels, gpu, state}) {
  const points = new Map();
  const without = new Set();
  for (const {name, flops, hbmBytes, seconds, binding} of kernels) {
    if (!flops) {
      without.add(name);
      continue;
    }
    const key = [name, flops, hbmBytes, seconds, binding].join(" ");
    const point = points.get(key) ?? {
      name,
      intensity: flops / hbmBytes,
      rate: flops / seconds,
      seconds,
      binding,
      launches: 0,
    };
    point.launches += 1;
    points.set(key, point);
  }
  const peak = gpu.values[peakQuantity(gpu, state.dtype)];
  const [memory, ...roofs] = gpu.roofs;
  return {points: [...points.values()], without: [...without], peak, memory, roofs, balance: peak / memory.rate};
}

function rooflinePicture(result, width) {
  const all = rooflineOf(result);
  const met = ({name, rate}) => isRoofOf(rate, all.peak) || /fp32 units|exp units/.test(name); // not other dtypes' own
  const shown = {...all, roofs: all.roofs.filter(met), l2: all.roofs.find((roof) => roof.name === "L2")};
  const place = rooflinePlace(shown, width);
  const body = [rooflineAxes, rooflineRoofs, rooflineBalance, rooflinePoints]
    .map((part) => part(shown, place))
    .join("");
  return svg(width, place.height, `${shown.points.length} kernels under the ceilings of ${result.gpu.name}`, body);
}

// Both axes are logarithmic; the right end leaves room for the names of ceilings.
function rooflinePlace({points, roofs, memory, balance}, width) {
  const narrow = width < 500;
  const [left, right, top, height] = [46, width - 10, 12, narrow ? 270 : 330];
  const bottom = height - 34;
  const intensities = points.map((point) => point.intensity);
  const rates = [...points, ...roofs].map((each) => each.rate);
  const x0 = Math.min(...intensities, balance, 1) / 3;
  const x1 = Math.max(...intensities, balance) * (narrow ? 60 : 40);
  const y0 = Math.min(...rates, memory.rate * x0) / 2;
  const y1 = Math.max(...rates) * 3;
  const x = (value) => left + (Math.log(value / x0) / Math.log(x1 / x0)) * (right - left);
  const y = (value) => bottom - (Math.log(value / y0) / Math.log(y1 / y0)) * (bottom - top);
  return {height, left, right, top, bottom, x0, x1, y0, y1, x, y};
}

function rooflineAxes(_, {left, right, top, bottom, x0, x1, y0, y1, x, y}) {
  const across = decades(x0, x1).map((value) => {
    const label = value >= 1e5 ? rateText(value) : wholeText(Number(value.toPrecision(1)));
    return line(x(value), top, x(value), bottom, "grid") + words(x(value), bottom + 14, label, "tick", "middle");
  });
  const up = decades(y0, y1).map(
    (value) =>
      line(left, y(value), right, y(value), "grid") + wordsBefore(left - 5, y(value) + 4, rateText(value), "tick"),
  );
  const axis = line(left, bottom, right, bottom, "axis") + words(left + 4, top + 8, "FLOP/s", "tick");
  return [...across, ...up, axis, wordsBefore(right, bottom + 28, "FLOP per byte of HBM traffic", "tick")].join("");
}

function rooflineRoofs({roofs, memory, l2, peak}, {right, x0, y0, x, y}) {
  const high = Math.max(...roofs.map((roof) => roof.rate));
  const from = Math.max(x0, y0 / memory.rate);
  const middle = Math.sqrt((from * high) / memory.rate); // of HBM's slope: its name stands right of it, L2's left
  const name = `HBM: ${decimalText(memory.rate, "B/s")}`;
  const parts = [
    line(x(from), y(from * memory.rate), x(high / memory.rate), y(high), "roof-main"),
    words(x(middle) + 8, y(middle * memory.rate) + 4, name, "roof-text halo strong"),
  ];
  if (l2) {
    const start = Math.max(x0, y0 / l2.rate);
    const label = `L2: ${decimalText(l2.rate, "B/s")}`;
    const place = high / 6 / l2.rate;
    parts.push(line(x(start), y(start * l2.rate), x(high / l2.rate), y(high), "roof"));
    parts.push(wordsBefore(x(place) - 8, y(place * l2.rate) + 4, label, "roof-text halo"));
  }
  let above = -Infinity; // the label before, which this one must not touch
  for (const {name, rate} of roofs) {
    const main = isRoofOf(rate, peak);
    above = Math.max(y(rate) - (main ? 9 : 4), above + 11);
    const label = `${name}: ${decimalText(rate, name === "exp units" ? "exp/s" : "FLOP/s")}`;
    parts.push(line(x(Math.max(rate / memory.rate, x0)), y(rate), right, y(rate), main ? "roof-main" : "roof"));
    parts.push(wordsBefore(right - 2, above, label, `roof-text halo${main ? " strong" : ""}`));
  }
  return parts.join("");
}

function rooflineBalance({balance}, {top, bottom, x}) {
  const label = `balance ${fixed(balance, 0)} FLOP/B`;
  return (
    line(x(balance), top, x(balance), bottom, "balance") +
    wordsBefore(x(balance) - 4, bottom - 6, label, "balance-text halo")
  );
}

function rooflinePoints({points}, {right, x, y}) {
  const places = points.map((point) => [x(point.intensity), y(point.rate)]);
  const circles = places.map(([cx, cy]) => `<circle cx="${px(cx)}" cy="${px(cy)}" r="5" class="point"/>`);
  const labels = nearby(places).map(({at: [cx, cy], members}) => {
    const letters = members.map(letterOf).join(" ");
    return cx > right - 60
      ? wordsBefore(cx - 9, cy + 15, letters, "letter halo")
      : words(cx + 9, cy + 15, letters, "letter halo");
  });
  return [...circles, ...labels].join("");
}

// Points that touch share one label.
function nearby(places) {
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

function rateText(value) {
  const text = decimalText(value, "").trim();
  return text.replace(/\.0+(?= |$)/, ""); // 100 G, not 100.0 G
}

function rooflineLegend(result) {
  const {points, without} = rooflineOf(result);
  const items = points.map(({name, launches, seconds, binding}, i) => {
    const kernel = launches > 1 ? `${name} ×${launches}` : name;
    return legendItem(letterOf(i), kernel, secondsText(seconds), "k-letter", binding);
  });
  if (without.length) items.push(legendItem("", `without arithmetic, not shown: ${without.join(", ")}`, "", "k-none"));
  return items.join("");
}
