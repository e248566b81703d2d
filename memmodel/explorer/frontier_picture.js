// The frontier: lines of the longest sequence by batch, with the state's own place.

const DASHES = ["", "6 3", "2 3", "9 3 2 3", "4 4", "1 3"];
const MARKERS = [
  "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
  "M-3.5 -3.5h7v7h-7z",
  "M0 -4.5l4.5 8h-9z",
  "M0 -5l5 5l-5 5l-5 -5z",
  "M0 4.5l4.5 -8h-9z",
  "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
];
const marker = (series, x, y) =>
  `<path d="${MARKERS[series]}" transform="translate(${px(x)} ${px(y)})" class="marker c${series + 1}"/>`;
const seriesOf = (algorithm) => Object.keys(TABLES.algorithms).indexOf(algorithm);

// Both axes are logarithmic; the state's own place is inside.
function frontierPlace(state, lines, width) {
  const [left, right, top, height] = [46, width - 14, 14, width < 500 ? 250 : 320];
  const bottom = height - 34;
  const {batches} = frontierParts(state);
  const lengths = lines.flatMap(({walls}) => walls.map((each) => each.largest)).filter(Boolean);
  const low = Math.log2(Math.min(...lengths, state.seq, 1024)) - 0.5;
  const high = Math.log2(Math.max(...lengths, state.seq, 65536)) + 0.7;
  const last = Math.log2(batches.at(-1));
  const x = (batch) => left + 14 + (Math.log2(batch) / last) * (right - left - 20);
  const y = (length) => bottom - ((Math.log2(length) - low) / (high - low)) * (bottom - top);
  return {height, left, right, top, bottom, low, high, last, x, y};
}

// `lines` are those of frontier(), as far as they are known.
function frontierPicture(state, lines, width) {
  const place = frontierPlace(state, lines, width);
  const walls = lines.map((each) => frontierLine(each, each.algorithm === state.algorithm, place));
  const body = `${frontierAxes(place)}${walls.join("")}<g id="here"></g>`;
  return svg(width, place.height, "the longest sequence that fits, by batch, for each algorithm", body);
}

function frontierAxes({left, right, top, bottom, low, high, last, x, y}) {
  const up = powersOfTwo(low, high, high - low > 8 ? 2 : 1).map(
    (size) => line(left, y(size), right, y(size), "grid") + wordsBefore(left - 5, y(size) + 4, sizeText(size), "tick"),
  );
  const across = powersOfTwo(0, last, Math.ceil(last / 10)).map(
    (batch) => line(x(batch), top, x(batch), bottom, "grid") + words(x(batch), bottom + 14, batch, "tick", "middle"),
  );
  const axis = line(left, bottom, right, bottom, "axis") + wordsBefore(right, bottom + 28, "batch", "tick");
  return [...up, ...across, axis, words(left + 4, top + 2, "longest sequence", "tick")].join("");
}

// Those between two powers whose power is a multiple of the stride.
function powersOfTwo(low, high, stride) {
  const found = [];
  for (let power = Math.ceil(low / stride) * stride; power <= high; power += stride) found.push(2 ** power);
  return found;
}

function frontierLine({algorithm, walls}, own, {x, y}) {
  const series = seriesOf(algorithm);
  const points = walls.filter(({largest}) => largest).map(({batch, largest}) => [x(batch), y(largest)]);
  const path = points.map(([across, up], i) => `${i ? "L" : "M"}${px(across)} ${px(up)}`).join("");
  const look = `wall s${series + 1}${own ? " own" : ""}`;
  const markers = points.map(([across, up]) => marker(series, across, up)).join("");
  return `<path d="${path}" class="${look}" stroke-dasharray="${DASHES[series]}"/>${markers}`;
}

function hereMark(state, lines, width) {
  const place = frontierPlace(state, lines, width);
  const [x, y] = [place.x(state.batch), place.y(state.seq)];
  const cross = `<path d="M-7 0h14M0 -7v14" transform="translate(${px(x)} ${px(y)})" class="here"/>`;
  const before = x > width / 2;
  return cross + (before ? wordsBefore : words)(x + (before ? -9 : 9), y + 15, "here", "here-text halo");
}

function frontierLegend(state, lines) {
  return lines
    .map(({algorithm, walls}) => {
      const here = walls.find((each) => each.batch === state.batch);
      const series = seriesOf(algorithm);
      const dashes = `class="wall s${series + 1}" stroke-dasharray="${DASHES[series]}"`;
      const drawn = `<path d="M0 7h34" ${dashes}/>${marker(series, 17, 7)}`;
      const sample = `<svg width="34" height="14" aria-hidden="true">${drawn}</svg>`;
      const value = here ? (here.largest ? wholeText(here.largest) : "nothing fits") : "…";
      return legendItem(sample, TABLES.algorithms[algorithm], value, "k-line");
    })
    .join("");
}
