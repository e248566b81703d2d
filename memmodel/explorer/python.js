// Python's built-ins, as far as the rules of the model use them. Lists and tuples are arrays, ints are numbers.

class Instance {
  // of a class of the model
  replace_(changes) {
    return replace(this, changes);
  }
}
class Tuple extends Array {
  // a NamedTuple
  static get [Symbol.species]() {
    return Array;
  }
  _replace(changes) {
    return new this.constructor(...this.constructor.fields.map((name, i) => (name in changes ? changes[name] : this[i])));
  }
}
class Exception extends Error {}
class TypeError extends Exception {}
class ValueError extends Exception {}
class AssertionError extends Exception {}
class KeyError extends Exception {}
class IndexError extends Exception {}

// Tuples and frozen dataclasses are keys by what they hold.
const keyOf = (key) =>
  typeof key === "object" && (key instanceof Instance || Array.isArray(key)) ? JSON.stringify(key) : key;

class Dict {
  constructor(pairs = []) {
    this.held = new Map();
    for (const [key, value] of pairs instanceof Dict ? pairs.items() : pairs) this.set(key, value);
  }
  get size() {
    return this.held.size;
  }
  set(key, value) {
    this.held.set(keyOf(key), [key, value]);
    return value;
  }
  has(key) {
    return this.held.has(keyOf(key));
  }
  get(key, otherwise = null) {
    const found = this.held.get(keyOf(key));
    return found === undefined ? otherwise : found[1];
  }
  delete(key) {
    this.held.delete(keyOf(key));
  }
  setdefault(key, value) {
    return this.has(key) ? this.get(key) : this.set(key, value);
  }
  pop_(key, otherwise) {
    if (!this.has(key) && otherwise === undefined) throw new KeyError(key);
    const found = this.get(key, otherwise);
    this.delete(key);
    return found;
  }
  items() {
    return [...this.held.values()];
  }
  keys() {
    return this.items().map(([key]) => key);
  }
  values() {
    return this.items().map(([, value]) => value);
  }
  [Symbol.iterator]() {
    return this.keys()[Symbol.iterator]();
  }
  toJSON() {
    return record(this);
  }
}

class Counts extends Dict {
  factory() {
    return 0;
  }
  update(found) {
    for (const [key, count] of found.items()) this.set(key, this.get(key, 0) + count);
  }
}

const methods = (prototype, found) => {
  for (const [name, value] of Object.entries(found)) Object.defineProperty(prototype, name, {value, configurable: true});
};
methods(Number.prototype, {
  __index__() {
    return Number(this);
  },
  bit_length() {
    return this > 0 ? Math.floor(Math.log2(this)) + 1 : 0; // exact below 2^48
  },
});
methods(Array.prototype, {
  append(item) {
    this.push(item);
  },
  extend(items) {
    this.push(...items);
  },
  copy() {
    return [...this];
  },
  index(item) {
    return this.findIndex((each) => equal(each, item));
  },
  remove(item) {
    this.splice(this.indexOf(item), 1);
  },
  pop_(index = -1) {
    return this.splice(index, 1)[0];
  },
});
methods(String.prototype, {
  join_(parts) {
    return [...parts].join(this);
  },
  split_(separator) {
    return this.split(separator);
  },
  replace_(from, to) {
    return this.replaceAll(from, to);
  },
  partition(separator) {
    const at = this.indexOf(separator);
    return at < 0 ? [String(this), "", ""] : [this.slice(0, at), separator, this.slice(at + separator.length)];
  },
  startswith(starts) {
    return [starts].flat().some((start) => this.startsWith(start));
  },
  endswith(ends) {
    return [ends].flat().some((end) => this.endsWith(end));
  },
  removeprefix(start) {
    return this.startsWith(start) ? this.slice(start.length) : String(this);
  },
  removesuffix(end) {
    return end && this.endsWith(end) ? this.slice(0, -end.length) : String(this);
  },
  strip() {
    return this.trim();
  },
  casefold() {
    return this.toLowerCase();
  },
  isdigit() {
    return /^\d+$/.test(this);
  },
  lower() {
    return this.toLowerCase();
  },
});

const record = (dict) => Object.fromEntries(dict.items());
const placed = (names, given, keywords) => [...given, ...names.slice(given.length).map((name) => keywords[name])];
const len = (found) => found.size ?? found.length;
const truth = (found) => {
  if (found === null || typeof found !== "object") return Boolean(found);
  return found.__bool__ ? found.__bool__() : (found.size ?? (Array.isArray(found) ? found.length : 1)) > 0;
};
const either = (first, other) => (truth(first) ? first : other());
const both = (first, other) => (truth(first) ? other() : first);
const called = (callee, ...given) => (callee.prototype?.constructor === callee ? new callee(...given) : callee(...given));
const bound = (self, name) => (typeof self[name] === "function" ? self[name].bind(self) : self[name]);

function index(value) {
  if (!Number.isInteger(value)) throw new TypeError(value);
  return value;
}

function at(found, key) {
  if (!(found instanceof Dict)) return found.at(key);
  if (found.has(key)) return found.get(key);
  if (found.factory) return found.set(key, found.factory());
  throw new KeyError(key);
}
const put = (found, key, value) => (found instanceof Dict ? found.set(key, value) : (found[key] = value));
const drop = (found, key) => (found instanceof Dict ? found.delete(key) : found.splice(key, 1));
function sliced(found, from, to, step) {
  const part = found.slice(from ?? 0, to ?? undefined);
  if (step < 0) throw new ValueError("no slices backwards");
  return step > 1 ? part.filter((_, i) => i % step === 0) : part;
}
const ends = (rows, count) => [...rows].map((row) => row.slice(-count));
const add = (a, b) => (typeof a === "number" ? a + b : a?.__add__ ? a.__add__(b) : Array.isArray(a) ? [...a, ...b] : a + b);
const mul = (a, b) => (typeof a === "object" && Array.isArray(a) ? Array(b).fill(a).flat() : a * b);
const floordiv = (a, b) => Math.floor(a / b);
const mod = (a, b) => ((a % b) + b) % b;
const lshift = (a, b) => a * 2 ** b;
const rshift = (a, b) => Math.floor(a / 2 ** b);
const union = (a, b) =>
  a instanceof Dict ? new Dict([...a.items(), ...b.items()]) : a instanceof Set ? new Set([...a, ...b]) : [a, b].flat();
const xor = (a, b) => new Set([...[...a].filter((item) => !b.has(item)), ...[...b].filter((item) => !a.has(item))]);
const subset = (a, b) => [...a].every((item) => contains(b, item));
const contains = (found, item) => {
  if (found.has) return found.has(item); // of dicts, sets and ranges
  if (typeof found === "string" || (Array.isArray(found) && typeof item !== "object")) return found.includes(item);
  return [...found].some((each) => equal(each, item));
};
function equal(a, b) {
  if (a === b || typeof a !== "object" || a === null || b === null) return a === b;
  if (a instanceof Set || b instanceof Set) return len(a) === len(b) && [...a].every((item) => contains(b, item));
  return keyOf(a) === keyOf(b);
}
function compare(a, b) {
  if (!Array.isArray(a)) return a < b ? -1 : a > b ? 1 : 0;
  for (let i = 0; i < a.length && i < b.length; i++) {
    const order = compare(a[i], b[i]);
    if (order) return order;
  }
  return a.length - b.length;
}
const isinstance = (value, kinds) => (Array.isArray(kinds) ? kinds.some((kind) => isOf(value, kind)) : isOf(value, kinds));
function isOf(value, kind) {
  if (kind === int || kind === float) return typeof value === "number" && (kind === float || Number.isInteger(value));
  if (kind === bool) return typeof value === "boolean";
  return kind === str ? typeof value === "string" : value instanceof kind;
}
const hasattr = (value, name) => {
  if (name === "__index__") return Number.isInteger(value); // of ints
  return typeof value === "object" && value !== null && name in value;
};
const getattr = (value, name, otherwise) => value[name] ?? otherwise;
const type = (value) => value.constructor;

const int = (value) => {
  const found = Math.trunc(Number(value));
  if (Number.isNaN(found)) throw new ValueError(value);
  return found;
};
const float = Number;
const bool = truth;
const str = (value) => (value === null ? "None" : value.__str__ ? value.__str__() : String(value));
const repr = (value) => (typeof value === "string" ? `'${value}'` : str(value));
const abs = Math.abs;
const id = (value) => value; // as a key of a dict, which compares what objects hold
const isqrt = (value) => Math.floor(Math.sqrt(value));
const list = (found = []) => [...found];
const deque = (found, {maxlen = Infinity} = {}) => [...found].filter((_, i, all) => i >= all.length - maxlen);
const tuple = list;
tuple.__new__ = (kind, items) => new kind(...items);
const Counter = (pairs) => new Counts(pairs);
const defaultdict = (factory) => Object.assign(new Dict(), {factory});
const dict = (pairs) => new Dict(pairs);
const set = (found) => new Set(found);
const frozenset = set;
const iter = (found) => found[Symbol.iterator]();
const next = (found, otherwise) => {
  const {done, value} = found.next();
  return done ? otherwise : value;
};
class Range {
  constructor(from, to, step = 1) {
    Object.assign(this, {from, to, step, length: Math.max(Math.ceil((to - from) / step), 0)});
  }
  has(item) {
    const place = (item - this.from) / this.step;
    return Number.isInteger(place) && place >= 0 && place < this.length;
  }
  *[Symbol.iterator]() {
    for (let i = 0; i < this.length; i++) yield this.from + i * this.step;
  }
}
const range = (from, to, step) => (to === undefined ? new Range(0, from) : new Range(from, to, step));
function* enumerate(found, start = 0) {
  for (const item of found) yield [start++, item];
}
function* zip(...found) {
  if (!(Symbol.iterator in found.at(-1))) found.pop(); // strict=True
  const all = found.map(list);
  const count = Math.min(...all.map(len));
  for (let i = 0; i < count; i++) yield all.map((each) => each[i]);
}
function* map(call, ...found) {
  for (const each of zip(...found)) yield call(...each);
}
function* filter(call, found) {
  for (const each of found) if (truth(call ? call(each) : each)) yield each;
}
function* chain(...found) {
  for (const each of found) yield* each;
}
function* groupby(found) {
  let group = null;
  for (const item of found) {
    if (group && equal(group[0], item)) group[1].push(item);
    else {
      if (group) yield group;
      group = [item, [item]];
    }
  }
  if (group) yield group;
}
function* islice(found, from, to) {
  let i = 0;
  for (const item of found) {
    if (i >= from) yield item;
    if (to !== null && ++i >= to) return;
    if (to === null) i += 1;
  }
}
function* accumulate(found) {
  let total = 0;
  for (const each of found) yield (total += each);
}
const sum = (found, {start = 0} = {}) => {
  for (const each of found) start = add(start, each);
  return start;
};
const reduce = (call, found) => [...found].reduce((a, b) => call(a, b));
const attrgetter = (name) => (value) => value[name];
const any = (found) => [...found].some(truth);
const all = (found) => [...found].every(truth);
const sorted = (found, {key = (item) => item, reverse = false} = {}) => {
  const keyed = [...found].map((item) => [key(item), item]);
  return keyed.sort((a, b) => (reverse ? -1 : 1) * compare(a[0], b[0])).map(([, item]) => item);
};
const extreme = (sign) => (...given) => {
  const options = given.at(-1)?.constructor === Object ? given.pop() : {};
  const {key = (item) => item} = options;
  let best;
  for (const item of given.length > 1 ? given : given[0]) {
    if (best === undefined || sign * compare(key(item), key(best)) > 0) best = item;
  }
  return best === undefined ? options.default : best;
};
const max = extreme(1);
const min = extreme(-1);
const reversed = (found) => [...found].reverse();
function bisect_left(found, item) {
  let [low, high] = [0, found.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(found[middle], item) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
const insort_right = (found, item) => found.splice(bisect_left(found, item), 0, item);
const replace = (value, changes) => Object.assign(Object.create(Object.getPrototypeOf(value)), value, changes);
dict.fromkeys = (keys, value = null) => new Dict([...keys].map((key) => [key, value]));
const math = {...Object.fromEntries(Object.getOwnPropertyNames(Math).map((name) => [name, Math[name]]))};
math.log = (value, base = Math.E) => Math.log(value) / Math.log(base);

// A number by the formats that the model uses: ",.2f", ".4g", "g", ".0f", "". Halfway goes to the even digit.
function format(value, spec) {
  const [, comma, digits, kind] = /^(,?)(?:\.(\d+))?([fg%]?)$/.exec(spec);
  if (typeof value !== "number") return str(value);
  let text = kind === "f" ? fixed(value, Number(digits ?? 6)) : kind === "g" ? general(value, Number(digits ?? 6)) : String(value);
  if (comma) text = text.replace(/\B(?=(\d{3})+(?!\d))/g, (_, __, place) => (/\./.test(text.slice(0, place)) ? "" : ","));
  return text;
}
function fixed(value, digits) {
  const halfway = Math.abs((value * 2 ** (digits + 1)) % 2) === 1; // only then its decimals can end in 5 there
  if (!halfway) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 ? below + 1 : below) / 10 ** digits).toFixed(digits);
}
function general(value, digits) {
  const power = value ? Math.floor(Math.log10(Math.abs(Number(value.toPrecision(digits))))) : 0;
  if (power < -4 || power >= digits) return Number(value.toPrecision(digits)).toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  return String(Number(fixed(value, digits - 1 - power)));
}

const python = {Dict, ValueError, equal, format, replace}; // what the page uses of it besides
