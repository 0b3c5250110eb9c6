// The worker that answers: finds the faces of a picture and asks the model about each of them.
// Sends { labels } once it can; gets { id, pixels: ImageData, whole }, sends { id, faces,
// milliseconds } or { id, error }.
import * as ort from "./ort.wasm.min.mjs";
import { cutOut, detect } from "./faces.js";
import { resize, rgb } from "./pixels.js";

const LEAST = 40; // pixels of a face's side, as in Python
const LARGEST = 1280; // pixels of a longer side: larger pictures are shrunk to find faces

ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
const ready = load();
ready.then(
  ({ labels }) => postMessage({ labels }),
  (error) => postMessage({ error: String(error) }),
);

onmessage = async ({ data: { id, pixels, whole } }) => {
  try {
    postMessage({ id, ...(await answer(rgb(pixels), whole)) });
  } catch (error) {
    postMessage({ id, error: String(error) });
  }
};

/** The networks, and what is known of the model. */
async function load() {
  const about = await (await fetch("model.json")).json();
  const session = (file) => {
    // Without this option weights of 8 bits take 2.8 times as long.
    const extra = { session: { disable_quant_qdq: "1" } };
    return ort.InferenceSession.create(file, { executionProviders: ["wasm"], extra });
  };
  const [model, ...cascade] = await Promise.all(
    ["model.onnx", "pnet.onnx", "rnet.onnx", "onet.onnx"].map(session),
  );
  const [p, r, o] = cascade.map((one) => (values, dims) => run(one, "float32", values, dims));
  return { ...about, model, networks: { p, r, o } };
}

const run = (session, type, values, dims) =>
  session.run({ [session.inputNames[0]]: new ort.Tensor(type, values, dims) });

/** The faces of a picture: box, landmarks, detection. */
async function find(picture, networks) {
  const share = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
  if (share === 1) return detect(picture, LEAST, networks);
  const sides = [picture.width, picture.height].map((side) => Math.ceil(side * share));
  const faces = await detect(resize(picture, ...sides), LEAST, networks);
  const enlarged = (values) => values.map((value) => value / share);
  return faces.map(({ box, landmarks, detection }) => ({
    box: enlarged(box), landmarks: landmarks.map(enlarged), detection,
  }));
}

/** The faces, each with probabilities in the order of the labels and what the model saw. */
async function answer(picture, whole) {
  const { model, networks, image_size: size } = await ready;
  const start = performance.now();
  const { width, height } = picture;
  const all = { box: [0, 0, width, height], landmarks: null, detection: null };
  const faces = whole ? [all] : await find(picture, networks);
  if (faces.length) {
    const seen = cutOut(picture, faces, size);
    const images = new Uint8Array(seen.length * size * size * 3);
    seen.forEach(({ data }, i) => images.set(data, i * data.length));
    const { probabilities } = await run(model, "uint8", images, [seen.length, size, size, 3]);
    const [, classes] = probabilities.dims;
    faces.forEach((face, i) => {
      face.probabilities = [...probabilities.data.slice(i * classes, (i + 1) * classes)];
      face.seen = seen[i];
    });
  }
  return { faces, milliseconds: performance.now() - start };
}
