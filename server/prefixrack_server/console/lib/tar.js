// Files out of a tar that is read as it comes. What nobody wants is read past, never kept.
const BLOCK = 512;

export async function readEntries(stream, wanted) {
  const reader = new ByteReader(stream.getReader());
  const texts = {};
  for (;;) {
    const header = await reader.take(BLOCK);
    if (!header || header[0] === 0) return texts;
    const name = text(header.subarray(0, 100));
    const size = parseInt(text(header.subarray(124, 136)), 8);
    const padded = Math.ceil(size / BLOCK) * BLOCK;
    if (wanted[name]) {
      texts[wanted[name]] = new TextDecoder().decode((await reader.take(padded)).subarray(0, size));
    } else {
      await reader.skip(padded);
    }
  }
}

const text = (bytes) => new TextDecoder().decode(bytes).replace(/\0.*$/s, "").trim();

class ByteReader {
  #reader;
  #rest = new Uint8Array();

  constructor(reader) {
    this.#reader = reader;
  }

  // null where the stream ends before.
  async take(size) {
    const taken = new Uint8Array(size);
    let filled = 0;
    while (filled < size) {
      if (!(await this.#fill())) return null;
      const piece = this.#rest.subarray(0, size - filled);
      taken.set(piece, filled);
      filled += piece.length;
      this.#rest = this.#rest.subarray(piece.length);
    }
    return taken;
  }

  async skip(size) {
    for (let left = size; left > 0; ) {
      if (!(await this.#fill())) return;
      const step = Math.min(left, this.#rest.length);
      this.#rest = this.#rest.subarray(step);
      left -= step;
    }
  }

  async #fill() {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#reader.read();
      if (done) return false;
      this.#rest = value;
    }
    return true;
  }
}
