// Numbers for people: memmodel/units.py. Memory is in binary units, rates are in decimal ones.

// With that many decimals; a value halfway between two goes to the even one, as in Python: 1.125 is 1.12.
function fixed(value, digits) {
  const halfway = Math.abs((value * 2 ** (digits + 1)) % 2) === 1; // only then its decimal ends in 5 there
  if (!halfway) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 ? below + 1 : below) / 10 ** digits).toFixed(digits);
}

function bytesText(count) {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < 6) [value, unit] = [value / 1024, unit + 1];
  return unit ? `${fixed(value, 2)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit]}` : `${value} B`;
}

function decimalText(number, name) {
  let value = number;
  let step = 0;
  while (value >= 999.5 && step < 7) [value, step] = [value / 1000, step + 1];
  const digits = step === 0 && Number.isInteger(value) ? 0 : Math.max(0, 3 - String(Math.trunc(value)).length);
  return `${fixed(value, digits)} ${["", "K", "M", "G", "T", "P", "E", "Z"][step]}${name}`;
}

function numberText(number) {
  return number.toLocaleString("en", {maximumSignificantDigits: 4});
}

function secondsText(seconds) {
  for (const [factor, unit] of [
    [1, "s"],
    [1e3, "ms"],
    [1e6, "µs"],
  ]) {
    if (seconds * factor >= 1 || unit === "µs") return `${numberText(seconds * factor)} ${unit}`;
  }
}

const wholeText = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");

// A size as the options take it: 512, 16k, 1M.
function sizeText(size) {
  for (const [factor, unit] of [
    [2 ** 20, "M"],
    [2 ** 10, "k"],
  ]) {
    if (size >= factor && size % factor === 0) return `${size / factor}${unit}`;
  }
  return `${size}`;
}

const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
