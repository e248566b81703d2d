// Pictures as SVG text, in CSS pixels, and their legends as HTML. Colours and hatches are classes of page.css; what is
// shown, in which order, follows memmodel/pictures/ and memmodel/report/.

const SERIES = 7; // colours of tensors, c1 to c7
const line = (x1, y1, x2, y2, name) =>
  `<line x1="${px(x1)}" y1="${px(y1)}" x2="${px(x2)}" y2="${px(y2)}" class="${name}"/>`;
const rect = (x, y, width, height, name) =>
  `<rect x="${px(x)}" y="${px(y)}" width="${px(Math.max(width, 0))}" height="${px(height)}" class="${name}"/>`;
const words = (x, y, text, name = "", anchor = "start") =>
  `<text x="${px(x)}" y="${px(y)}" class="${name}" text-anchor="${anchor}">${escaped(text)}</text>`;
const px = (value) => Math.round(value * 10) / 10;
const wordsBefore = (x, y, text, name) => words(x, y, text, name, "end");
const svg = (width, height, title, body) =>
  `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" ` +
  `aria-label="${escaped(title)}">${body}</svg>`;
const hatch = (id) =>
  `<defs><pattern id="${id}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
  '<line x1="0" y1="0" x2="0" y2="6" class="hatch"/></pattern></defs>';
const bandClass = (band, i) => ({inputs: "c-inputs", rest: "c-rest"})[band.kind] ?? `c${((i - 1) % SERIES) + 1}`;

function legendItem(mark, name, value, look = "", remark = "") {
  const more = remark ? ` <span class="faint">${escaped(remark)}</span>` : "";
  const key = `<span class="key ${look}" aria-hidden="true">${mark}</span>`;
  return `<li>${key}<span class="name">${escaped(name)}${more}</span><span class="value">${escaped(value)}</span></li>`;
}
