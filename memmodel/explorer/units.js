// Numbers for people: memmodel/units.py. Memory is in binary units, rates are in decimal ones.

function bytesText(count) {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < 6) [value, unit] = [value / 1024, unit + 1];
  return unit ? `${value.toFixed(2)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit]}` : `${value} B`;
}

function decimalText(number, name) {
  let value = number;
  let step = 0;
  while (value >= 999.5 && step < 7) [value, step] = [value / 1000, step + 1];
  const digits = step === 0 && Number.isInteger(value) ? 0 : Math.max(0, 3 - String(Math.trunc(value)).length);
  return `${value.toFixed(digits)} ${["", "K", "M", "G", "T", "P", "E", "Z"][step]}${name}`;
}

function secondsText(seconds) {
  for (const [factor, unit] of [
    [1, "s"],
    [1e3, "ms"],
    [1e6, "µs"],
  ]) {
    if (seconds * factor >= 1 || unit === "µs") return `${Number((seconds * factor).toPrecision(4))} ${unit}`;
  }
}

const wholeText = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");

function sizeText(size) {
  // as the options take it: 512, 16k, 1M
  for (const [factor, unit] of [
    [2 ** 20, "M"],
    [2 ** 10, "k"],
  ]) {
    if (size >= factor && size % factor === 0) return `${size / factor}${unit}`;
  }
  return `${size}`;
}

const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
