// Pictures, { width, height, channels, data }, made smaller, larger and turned as OpenCV does it.
// `data` is a Uint8ClampedArray [height, width, channels], which rounds what is written to it.

export function blank(width, height, channels) {
  const data = new Uint8ClampedArray(width * height * channels);
  return { width, height, channels, data };
}

/** ImageData without its fourth channel. */
export function rgb({ width, height, data }) {
  const picture = blank(width, height, 3);
  for (let i = 0, o = 0; i < data.length; i += 4) {
    picture.data[o++] = data[i];
    picture.data[o++] = data[i + 1];
    picture.data[o++] = data[i + 2];
  }
  return picture;
}

/** cv2.COLOR_RGB2GRAY, with its weights of 15 bits. */
export function grey({ width, height, data }) {
  const picture = blank(width, height, 1);
  for (let i = 0, o = 0; o < picture.data.length; i += 3) {
    picture.data[o++] = (9798 * data[i] + 19235 * data[i + 1] + 3735 * data[i + 2] + 16384) >> 15;
  }
  return picture;
}

/** Three equal channels of one. */
export function spread(picture) {
  if (picture.channels === 3) return picture;
  const wide = blank(picture.width, picture.height, 3);
  wide.data.forEach((_, i) => (wide.data[i] = picture.data[Math.floor(i / 3)]));
  return wide;
}

/** cv2.resize with INTER_AREA: averages areas when it shrinks, mixes neighbours when it enlarges. */
export function resize(picture, width, height) {
  const { channels, data } = picture;
  const line = picture.width * channels;
  const columns = shares(picture.width, width);
  const out = blank(width, height, channels);
  const sums = new Float32Array(line);
  // Halves are rounded to even, but up where exactly 2 x 2 pixels are averaged.
  const up = picture.width === 2 * width && picture.height === 2 * height ? 0.125 : 0;
  let o = 0;
  for (const row of shares(picture.height, height)) {
    sums.fill(0);
    for (const { at, weight } of row) {
      for (let i = 0, s = at * line; i < line; i++) sums[i] += weight * data[s + i];
    }
    for (const column of columns) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = up;
        for (const { at, weight } of column) sum += weight * sums[at * channels + channel];
        out.data[o++] = sum;
      }
    }
  }
  return out;
}

/** Of each of `to` cells along a side: the pixels among `from` that it shows, and their weights. */
function shares(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, cell) => {
    const first = Math.floor(cell * scale);
    if (to > from) {
      const second = Math.max(0, cell + 1 - (first + 1) / scale) % 1;
      const next = Math.min(first + 1, from - 1);
      return [{ at: first, weight: 1 - second }, { at: next, weight: second }];
    }
    const start = cell * scale;
    const end = Math.min(start + scale, from);
    const pixels = [];
    for (let at = first; at < end; at++) {
      const weight = (Math.min(at + 1, end) - Math.max(at, start)) / (end - start);
      if (weight * (end - start) > 1e-3) pixels.push({ at, weight });
    }
    return pixels;
  });
}

/**
 * The square around `box` (left, top, width, height), turned by `turn` radians, as size x size
 * pixels: bilinear, mirrored beyond the borders. `warp_matrix` of fer_jax/data/augment.py.
 */
export function warp(picture, [left, top, width, height], turn, size) {
  const { channels, data } = picture;
  const cos = Math.cos(turn) / size;
  const sin = Math.sin(turn) / size;
  const out = blank(size, size, channels);
  const mirrored = (i, n) => {
    i = ((i % (2 * n)) + 2 * n) % (2 * n);
    return i < n ? i : 2 * n - 1 - i;
  };
  let o = 0;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const [u, v] = [column + 0.5 - size / 2, row + 0.5 - size / 2];
      const x = width * (cos * u - sin * v) + left + width / 2 - 0.5;
      const y = height * (sin * u + cos * v) + top + height / 2 - 0.5;
      const [x0, y0] = [Math.floor(x), Math.floor(y)];
      const [a, b] = [mirrored(x0, picture.width), mirrored(x0 + 1, picture.width)];
      const upper = mirrored(y0, picture.height) * picture.width;
      const lower = mirrored(y0 + 1, picture.height) * picture.width;
      for (let c = 0; c < channels; c++) {
        const at = (line, i) => data[(line + i) * channels + c];
        const above = at(upper, a) + (x - x0) * (at(upper, b) - at(upper, a));
        const below = at(lower, a) + (x - x0) * (at(lower, b) - at(lower, a));
        out.data[o++] = above + (y - y0) * (below - above);
      }
    }
  }
  return out;
}

/** `resize` of fer_jax/data/augment.py: areas averaged when shrinking, bilinear when enlarging. */
export function square(picture, size) {
  const [width, height] = [Math.min(size, picture.width), Math.min(size, picture.height)];
  const small = resize(picture, width, height);
  return width === size && height === size
    ? small
    : warp(small, [0, 0, width, height], 0, size);
}

/** The box of whole pixels, black where it leaves the picture, as size x size pixels. */
export function patch(picture, [left, top, right, bottom], size) {
  const { channels, data } = picture;
  const part = blank(right - left, bottom - top, channels);
  const [from, to] = [Math.max(left, 0), Math.min(right, picture.width)];
  for (let y = Math.max(top, 0); y < Math.min(bottom, picture.height); y++) {
    const line = data.subarray((y * picture.width + from) * channels, (y * picture.width + to) * channels);
    part.data.set(line, ((y - top) * part.width + from - left) * channels);
  }
  return resize(part, size, size);
}
