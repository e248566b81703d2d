// The CUDA caching allocator: memmodel/allocator/ (blocks.py, caching.py, segments.py) with whole segments and
// PyTorch's default settings. Sizes are bytes.

const MiB = 2 ** 20;
const MIN_BLOCK = 512;
const SMALL = MiB;
const SMALL_SEGMENT = 2 * MiB;
const LARGE_SEGMENT = 20 * MiB;
const MIN_LARGE = 10 * MiB;
const ROUND_LARGE = 2 * MiB;

const roundUp = (size, multiple) => Math.ceil(size / multiple) * multiple; // multiples are powers of two: exact

class TooLarge extends Error {}

class Pool {
  constructor(small) {
    this.small = small;
    this.free = []; // by size, then address
  }

  indexOf(size, address) {
    // the first block that is not before (size, address)
    let low = 0;
    let high = this.free.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const block = this.free[middle];
      if (block.size < size || (block.size === size && block.address < address)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  add(block) {
    this.free.splice(this.indexOf(block.size, block.address), 0, block);
  }

  remove(block) {
    this.free.splice(this.indexOf(block.size, block.address), 1);
  }

  merge(block, neighbour) {
    if (!neighbour || neighbour.allocated) return;
    this.remove(neighbour);
    if (block.prev === neighbour) {
      block.address = neighbour.address;
      block.prev = neighbour.prev;
      if (block.prev) block.prev.next = block;
    } else {
      block.next = neighbour.next;
      if (block.next) block.next.prev = block;
    }
    block.size += neighbour.size;
  }
}

class CachingAllocator {
  constructor(capacity = Infinity) {
    this.capacity = capacity;
    this.small = new Pool(true);
    this.large = new Pool(false);
    this.allocated = this.allocatedPeak = this.reserved = this.reservedPeak = 0;
    this.nextAddress = 0;
    this.failed = false;
  }

  resetPeak() {
    this.allocatedPeak = this.allocated;
    this.reservedPeak = this.reserved;
  }

  malloc(requested) {
    const size = Math.max(MIN_BLOCK, roundUp(requested, MIN_BLOCK));
    const pool = size <= SMALL ? this.small : this.large;
    let block = this.cached(size, pool) ?? this.fresh(size, pool);
    if (!block) {
      this.failed = true;
      return null;
    }
    const rest = block.size - size;
    if (pool.small ? rest >= MIN_BLOCK : rest > SMALL) block = this.split(block, size, pool);
    block.allocated = true;
    this.allocated += block.size;
    this.allocatedPeak = Math.max(this.allocatedPeak, this.allocated);
    return block;
  }

  free(block) {
    const pool = block.small ? this.small : this.large;
    block.allocated = false;
    this.allocated -= block.size;
    pool.merge(block, block.prev);
    pool.merge(block, block.next);
    pool.add(block);
  }

  cached(size, pool) {
    // the best fit
    const index = pool.indexOf(size, -1);
    return index < pool.free.length ? pool.free.splice(index, 1)[0] : null;
  }

  fresh(size, pool) {
    // a segment; where the device has none left, free segments go back first
    const block = this.grow(size, pool);
    if (block) return block;
    for (const each of [this.large, this.small]) this.release(each);
    return this.grow(size, pool);
  }

  grow(size, pool) {
    const segment = size <= SMALL ? SMALL_SEGMENT : size < MIN_LARGE ? LARGE_SEGMENT : roundUp(size, ROUND_LARGE);
    if (this.reserved + segment > this.capacity) return null;
    this.reserved += segment;
    this.reservedPeak = Math.max(this.reservedPeak, this.reserved);
    const address = this.nextAddress;
    this.nextAddress += roundUp(segment, SMALL_SEGMENT) + 1024 * MiB;
    if (this.nextAddress > Number.MAX_SAFE_INTEGER) throw new TooLarge();
    return {size: segment, address, small: pool.small, allocated: false, prev: null, next: null};
  }

  release(pool) {
    // whole free segments
    for (const block of pool.free.filter((each) => !each.prev && !each.next)) {
      pool.remove(block);
      this.reserved -= block.size;
    }
  }

  split(block, size, pool) {
    const front = {size, address: block.address, small: pool.small, allocated: false, prev: block.prev, next: block};
    if (front.prev) front.prev.next = front;
    block.prev = front;
    block.address += size;
    block.size -= size;
    pool.add(block);
    return front;
  }
}
