// The drawer of pictures: a Picture of memmodel/pictures/picture.py as SVG text in CSS pixels, and its legend as HTML.
// Colours, dashes and hatches are classes of page.css.

const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const px = (value) => (typeof value === "number" ? Math.round(value * 10) / 10 : escaped(value));
const ALONG = [0.5, 0.35, 0.65, 0.2, 0.8]; // shares of a line, near which its name may stand
const LETTER = 6.4; // pixels: about the width of a letter
const SHAPES = {
  "●": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
  "■": "M-3.5 -3.5h7v7h-7z",
  "▲": "M0 -4.5l4.5 8h-9z",
  "◆": "M0 -5l5 5l-5 5l-5 -5z",
  "▼": "M0 4.5l4.5 -8h-9z",
  "✚": "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
  "✖": "M-4 -4l8 8M4 -4l-8 8",
  "★": "M0 -5l1.5 3.2l3.5 .5l-2.5 2.5l.6 3.5l-3.1 -1.7l-3.1 1.7l.6 -3.5l-2.5 -2.5l3.5 -.5z",
};

function tag(name, attributes, body = "") {
  const shown = Object.entries(attributes).map(([key, value]) => `${key}="${px(value)}"`);
  return `<${name} ${shown.join(" ")}>${body}</${name}>`;
}

const path = (d, look, place = "") => tag("path", {d, class: look, ...(place && {transform: place})});
const line = (x1, y1, x2, y2, look) => tag("line", {x1, y1, x2, y2, class: look});
const rect = (x, y, width, height, look) => tag("rect", {x, y, width: Math.max(width, 0), height, class: look});
const words = (x, y, text, look = "", anchor = "start") =>
  tag("text", {x, y, class: look, "text-anchor": anchor}, escaped(text));
const tone = (look) => `tone-${look.tone}`;
const stroke = (look) => `stroke-${look.tone} ${look.dash}${look.width > 1 ? " wide" : ""}`;
const up = (look) => (look.key === "▼" ? 4.5 : 0); // it stands on its point, which it does not cover
const mark = (look, x, y) =>
  path(SHAPES[look.shape], `mark ${tone(look)} ${look.fill}`, `translate(${px(x)} ${px(y - up(look))})`);

function svg(width, height, title, body) {
  const hatch = '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">';
  const lines = '<line x1="0" y1="0" x2="0" y2="6" class="hatch"/></pattern></defs>';
  const box = {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title};
  return tag("svg", box, hatch + lines + body);
}

// Where the axes stand in so many pixels, and where values do; what is above the picture is at its upper edge.
function placeOf({x, y, aspect}, width) {
  const left = 12 + LETTER * Math.max(...y.ticks.map(([, text]) => text.length));
  const [right, top] = [width - 14, 20];
  const bottom = Math.round(top + (right - left) * (width < 500 ? Math.max(aspect, 0.75) : aspect));
  const share = (axis, value) => Math.min(Math.max(axis.share(value), 0), 1);
  return {
    ...{left, right, top, bottom, height: bottom + 36},
    x: (value) => left + share(x, value) * (right - left),
    y: (value) => bottom - share(y, value) * (bottom - top),
  };
}

function drawn(picture, width) {
  const place = placeOf(picture, width);
  const room = new Room(place, picture.lines);
  for (const {look, x, y} of marksOf(picture)) if (look.shape) room.take(place.x(x) - 5, place.y(y) - 5, 10, 10);
  const parts = [axes(picture, place), ...picture.areas.map((area) => stack(area, place))];
  parts.push('<g class="pointed"></g>'); // a line at the moment pointed at, beneath the letters
  parts.push(...picture.areas.map((area) => areaKey(area, place)), ...picture.lines.map((each) => trace(each, place)));
  parts.push(...picture.marks.map(({look, x, y}) => mark(look, place.x(x), place.y(y))));
  parts.push(levels(picture, place), labels(picture, place, room));
  return svg(width, place.height, `${picture.title}: ${picture.subtitle}`, parts.join(""));
}

function axes({x, y, areas}, {left, right, top, bottom, ...place}) {
  const up = y.ticks.map(([value, text]) => {
    const at = place.y(value);
    return line(left, at, right, at, "grid") + words(left - 6, at + 4, text, "tick", "end");
  });
  const most = Math.max(...x.ticks.map(([, text]) => text.length)) * LETTER + 6;
  const every = Math.ceil((most * x.ticks.length) / (right - left)); // ticks whose texts would touch are left out
  const across = x.ticks.map(([value, text], i) => {
    if (areas.length) return words(place.x(value), top - 7, text, "phase", "middle");
    const at = place.x(value);
    return line(at, top, at, bottom, "grid") + (i % every ? "" : words(at, bottom + 15, text, "tick", "middle"));
  });
  const names = words(right, bottom + 30, x.label, "tick", "end") + (areas.length ? "" : words(left, top - 8, y.label, "tick"));
  return [...up, ...across, line(left, bottom, right, bottom, "axis"), names].join("");
}

// A layer of steps: its colour, and the part that is hatched over it.
function stack({look, lower, upper, hatched}, place) {
  const there = (values) => values.map((value, i) => `V${px(place.y(value))}H${px(place.x(i + 1))}`);
  const back = lower.map((value, i) => `V${px(place.y(value))}H${px(place.x(i))}`).reverse();
  const area = (values, name) =>
    path(`M${px(place.x(0))} ${px(place.y(lower[0]))}${there(values).join("")}${back.join("")}Z`, name);
  return area(upper, `area ${tone(look)}`) + (hatched.some((high, i) => high > lower[i]) ? area(hatched, "hatched") : "");
}

// An area's key, in the middle of its highest run that has room for it; none where no run has.
function areaKey(area, place) {
  for (const [start, end] of area.runs) {
    const [x0, x1, y0, y1] = [place.x(start), place.x(end), place.y(area.lower[start]), place.y(area.upper[start])];
    if (y0 - y1 >= 13 && x1 - x0 >= 10)
      return words((x0 + x1) / 2, (y0 + y1) / 2 + 4, area.look.key, "number", "middle");
  }
  return "";
}

function trace({look, points, step}, place) {
  const ends = points.map(([x, y]) => [px(place.x(x)), px(place.y(y))]);
  const d = ends.map(([x, y], i) => (i ? (step ? `H${x}V${y}` : `L${x} ${y}`) : `M${x} ${y}`)).join("");
  return path(d, `line ${stroke(look)}`) + (look.shape ? ends.map(([x, y]) => mark(look, x, y)).join("") : "");
}

// The marks of a picture, those at the points of its lines among them.
function marksOf({lines, marks}) {
  const along = lines.filter(({look}) => look.shape).flatMap(({look, points}) => points.map(([x, y]) => ({look, x, y})));
  return [...marks, ...along];
}

// Keys of level lines right of the axes, the highest first and none on another; the legend has their names.
function levels({lines}, place) {
  const named = lines.filter(({name, level}) => name && level).sort((a, b) => b.points[0][1] - a.points[0][1]);
  let at = 0;
  return named.map(({look, points: [[, y]]}) => {
    at = Math.max(place.y(y) + 4, at + 12);
    return words(place.right + 4, at, look.key, "tick");
  }).join("");
}

// Keys of marks, of a line's at its first point, and names of sloping lines.
function labels(picture, place, room) {
  const firsts = picture.lines.filter(({look}) => look.shape).map(({look, points: [[x, y]]}) => ({look, x, y}));
  const keyed = [...picture.marks, ...firsts].filter(({look}) => look.key !== look.shape && look.key.length < 4);
  const found = keyed.map(({look, x, y}) => room.label([[place.x(x), place.y(y)]], look.key, "number halo"));
  for (const {look, points, name, level} of picture.lines.filter((each) => each.name && !each.level)) {
    const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)].map(([x, y]) => [place.x(x), place.y(y)]);
    const along = ALONG.map((share) => [x0 + (x1 - x0) * share, y0 + (y1 - y0) * share]);
    found.push(room.label(along, name, `halo${look.width > 1 ? " strong" : ""}`));
  }
  return found.join("");
}

class Room {
  constructor(place, lines) {
    const dots = lines.flatMap(({points}) => points.slice(1).flatMap((end, i) => this.dots(points[i], end, place)));
    Object.assign(this, {place, taken: [], lines: dots});
  }
  // Points along a line, closer than a letter is wide.
  dots(from, to, place) {
    const [[x0, y0], [x1, y1]] = [from, to].map(([x, y]) => [place.x(x), place.y(y)]);
    const count = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 4) || 1;
    return Array.from({length: count + 1}, (_, i) => [x0 + ((x1 - x0) * i) / count, y0 + ((y1 - y0) * i) / count]);
  }
  take(x, y, width, height) {
    this.taken.push([x, y, x + width, y + height]);
  }
  // Text near one of some places, where it is free and crosses fewest lines: four steps away cost as much as two dots.
  label(places, text, look) {
    const [width, height] = [text.length * LETTER + 4, 13];
    let [best, least] = [null, Infinity];
    for (const [x, y] of places)
      for (let away = 6; away <= 30; away += 3)
        for (const [turnX, turnY] of [[1, 1], [1, -1], [-1, 1], [-1, -1], [0, -1], [0, 1], [1, 0], [-1, 0]]) {
          const [left, top] = [x + turnX * (away + width / 2) - width / 2, y + turnY * (away + 6) - height / 2];
          const near = (a, b) => a > left - 3 && a < left + width + 3 && b > top - 3 && b < top + height + 3;
          const crossed = this.lines.filter(([a, b]) => near(a, b));
          const cost = away / 6 + crossed.length;
          if (cost < least && this.free(left, top, left + width, top + height)) [best, least] = [[left, top], cost];
        }
    if (!best) return "";
    this.take(...best, width, height);
    return words(best[0] + width / 2, best[1] + 10, text, look, "middle");
  }
  free(x0, y0, x1, y1) {
    const {left, right, top, bottom} = this.place;
    if (x0 < left || x1 > right || y0 < top || y1 > bottom) return false;
    return this.taken.every(([a0, b0, a1, b1]) => x1 <= a0 || x0 >= a1 || y1 <= b0 || y0 >= b1);
  }
}

// The legend: a row for each entry in the columns of the picture, then the names of lines and what there is to know.
function legend({columns, legend: entries, lines = [], notes}) {
  const named = lines.filter(({name}) => name).map(({look, name}) => ({look, cells: [name]}));
  const cells = (row, name) => row.map((text) => `<${name}>${escaped(text)}</${name}>`).join("");
  const rows = entries.map(({look, cells: row}) => `<tr><td>${sample(look)}</td>${cells(row, "td")}</tr>`);
  const table = entries.length ? `<table><tr><th></th>${cells(columns, "th")}</tr>${rows.join("")}</table>` : "";
  return table + [...named, ...notes].map(({look, cells: [text]}) => `<p>${sample(look)} ${escaped(text)}</p>`).join("");
}

// What the legend shows of a look.
function sample(look) {
  if (look.dash || look.shape) {
    const drawn = (look.dash ? path("M0 7h28", `line ${stroke(look)}`) : "") + (look.shape ? mark(look, 14, 7) : "");
    const key = look.key !== look.shape && /\w/.test(look.key) ? look.key : "";
    return `<svg class="sample" width="28" height="14" aria-hidden="true">${drawn}</svg>${escaped(key)}`;
  }
  const filled = look.fill === "hatched" ? "k-hatched" : look.tone === "ink" ? "" : `key ${tone(look)}`;
  return filled && `<span class="key ${filled}" aria-hidden="true">${look.fill === "hatched" ? "" : escaped(look.key)}</span>`;
}
