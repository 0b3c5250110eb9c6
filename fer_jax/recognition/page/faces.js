// Where the faces are, by MTCNN's cascade, and each one cut out upright: the arithmetic of
// fer_jax/recognition/faces.py. Within, a box is [left, top, right, bottom, score, ...].
import { grey, patch, resize, spread, square, warp } from "./pixels.js";

const STEP = 0.709; // from one size of the picture to the next: half the area
const WINDOW = 12; // pixels that the first network sees at a time, every second pixel
const LIMITS = [0.6, 0.7, 0.7]; // least scores of the three networks
const BATCH = 32;
const MARGIN = 0.9; // side of the part recognised, of the longer side of the box
const SIDE = 48; // pixels of FER2013: the weights have seen no finer detail

/**
 * Faces of at least `least` pixels in an RGB picture, the best first: { box, landmarks, detection }.
 * `networks` are functions { p, r, o }: (Float32Array, dims) -> outputs by name.
 */
export async function detect(picture, least, networks) {
  let [boxes, nearest] = [[], picture];
  const shorter = Math.min(picture.width, picture.height);
  for (let scale = WINDOW / least; shorter * scale >= WINDOW; scale *= STEP) {
    const [width, height] = [picture.width, picture.height].map((side) => Math.ceil(side * scale));
    while (nearest.width >= 2 * width && nearest.height >= 2 * height) {
      nearest = resize(nearest, Math.ceil(nearest.width / 2), Math.ceil(nearest.height / 2));
    }
    boxes.push(...(await propose(resize(nearest, width, height), scale, networks.p)));
  }
  boxes = squares(best(boxes, 0.7), picture);
  boxes = squares(await refine(picture, boxes, networks.r), picture);
  return describe(picture, boxes, networks.o);
}

/** The windows of the picture, here at `scale`, that may hold a face. */
async function propose(small, scale, network) {
  const { conv2d_4: shifts, softmax: scores } = await network(...input([small]));
  const [, across, down] = scores.dims;
  const boxes = [];
  for (let i = 0; i < across * down; i++) {
    const score = scores.data[2 * i + 1];
    if (!(score >= LIMITS[0])) continue;
    const [x, y] = [2 * Math.floor(i / down) + 1, 2 * (i % down) + 1];
    const corners = [x, y, x + WINDOW - 1, y + WINDOW - 1].map((at) => Math.trunc(at / scale));
    boxes.push([...corners, score, ...shifts.data.subarray(4 * i, 4 * i + 4)]);
  }
  return best(boxes, 0.5).map(shifted);
}

/** The boxes that may still hold a face, nearer to it. */
async function refine(picture, boxes, network) {
  const answers = await inBatches(picture, boxes, 24, network);
  const closer = answers.map(([box, { dense_2: shift, softmax_1: score }]) => [
    ...box.slice(0, 4), score[1], ...shift,
  ]);
  return best(closer.filter((box) => box[4] > LIMITS[1]), 0.7).map(shifted);
}

/** The faces with their landmarks: eyes, nose, corners of the mouth, as [x, y]. */
async function describe(picture, boxes, network) {
  const answers = await inBatches(picture, boxes, 48, network);
  const found = answers.map(([box, { dense_5: shift, dense_6: points, softmax_2: score }]) => {
    const [left, top, right, bottom] = box;
    const marks = [0, 1, 2, 3, 4].map((i) => [
      left + points[i] * (right - left), top + points[i + 5] * (bottom - top),
    ]);
    return [...shifted([left, top, right, bottom, score[1], ...shift]), marks];
  });
  const kept = best(found.filter((box) => box[4] > LIMITS[2]), 0.7, true);
  return kept.map(([left, top, right, bottom, detection, landmarks]) => ({
    box: [left, top, right - left, bottom - top], landmarks, detection,
  }));
}

/** Of each box, as size x size pixels, its outputs by name: [[box, outputs], ...]. */
async function inBatches(picture, boxes, size, network) {
  const answers = [];
  for (let start = 0; start < boxes.length; start += BATCH) {
    const part = boxes.slice(start, start + BATCH);
    const outputs = await network(...input(part.map((box) => patch(picture, box, size))));
    part.forEach((box, row) => {
      const own = Object.entries(outputs).map(([name, { data, dims }]) => [
        name, data.subarray(row * dims[1], (row + 1) * dims[1]),
      ]);
      answers.push([box, Object.fromEntries(own)]);
    });
  }
  return answers;
}

/** Pictures of one size as the networks take them: scaled, x and y exchanged; and the shape. */
function input(pictures) {
  const { width, height } = pictures[0];
  const values = new Float32Array(pictures.length * width * height * 3);
  let o = 0;
  for (const { data } of pictures) {
    for (let x = 0; x < width; x++) {
      for (let y = 0; y < height; y++) {
        for (let c = 0; c < 3; c++) values[o++] = (data[(y * width + x) * 3 + c] - 127.5) / 128;
      }
    }
  }
  return [values, [pictures.length, width, height, 3]];
}

/** Corners moved by the last four values, in shares of the sides. */
function shifted([left, top, right, bottom, score, ...shift]) {
  const [width, height] = [right - left, bottom - top];
  const corners = [left, top, right, bottom];
  return [...corners.map((at, i) => at + shift[i] * (i % 2 ? height : width)), score];
}

/** Of the longer sides, around the same centres, in whole pixels; those that touch the picture. */
function squares(boxes, { width, height }) {
  const made = boxes.map(([left, top, right, bottom, score]) => {
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const half = Math.max(right - left, bottom - top) / 2;
    return [...[x - half, y - half, x + half, y + half].map(Math.trunc), score];
  });
  return made.filter(([left, top, right, bottom]) =>
    left < width && top < height && right > Math.max(0, left) && bottom > Math.max(0, top));
}

/** Best first, without those that share over `limit` with a better one, of both or the smaller. */
function best(boxes, limit, ofSmaller = false) {
  const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
  const shared = (a, b) =>
    Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) *
    Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const kept = [];
  for (const box of boxes.toSorted((a, b) => b[4] - a[4])) {
    const apart = (better) => {
      const common = shared(better, box);
      const [one, other] = [area(better), area(box)];
      return common <= limit * (ofSmaller ? Math.min(one, other) : one + other - common);
    };
    if (kept.every(apart)) kept.push(box);
  }
  return kept;
}

/**
 * What the model takes of each face: RGB, size x size. Squares around the box, turned so that
 * the eyes are level, grey, averaged down to 48 pixels. Without landmarks the whole picture.
 */
export function cutOut(picture, faces, size) {
  const shades = faces.some((face) => face.landmarks) ? grey(picture) : null;
  return faces.map(({ box: [left, top, width, height], landmarks }) => {
    if (!landmarks) return spread(square(picture, size));
    const [[x, y], [u, v]] = landmarks;
    const side = MARGIN * Math.max(width, height);
    const area = [left + (width - side) / 2, top + (height - side) / 2, side, side];
    const fine = warp(shades, area, Math.atan2(v - y, u - x), Math.max(SIDE, Math.round(side)));
    return spread(square(square(fine, SIDE), size));
  });
}
