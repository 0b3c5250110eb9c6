// What a person sees and does: pictures in by file, drop, paste or camera; boxes and bars out.
const MOST_PIXELS = 80e6; // as in Python
const MOST_DRAWN = 16e6; // of a canvas on a telephone: larger pictures are drawn smaller
const at = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;

const recogniser = new Worker("recogniser.js", { type: "module" });
const waiting = new Map(); // id of a question -> what to do with its answer
const shown = { labels: [], faces: [], stream: null, photograph: 0, reading: 0, early: null, asked: 0, status: "" };

recogniser.onerror = ({ message }) => {
  if (!shown.labels.length) say("The model cannot be loaded: this browser may be too old.");
  waiting.forEach((resolve) => resolve({ error: message }));
  waiting.clear();
};
recogniser.onmessage = ({ data: { id, labels, ...answer } }) => {
  if (id !== undefined) {
    waiting.get(id)(answer);
    waiting.delete(id);
  } else if (labels) {
    shown.labels = labels;
    at("choose").disabled = false;
    at("camera").disabled = !navigator.mediaDevices;
    at("camera").title = navigator.mediaDevices ? "" : "A browser gives its camera to pages by https alone.";
    say("Ready.");
    if (shown.early) take([shown.early]);
  } else {
    say(`The model cannot be loaded: ${answer.error}`);
  }
};

/** The answer of the worker to the pixels of a canvas. */
function ask(canvas) {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const id = ++shown.asked;
  recogniser.postMessage({ id, pixels, whole: at("whole").checked }, [pixels.data.buffer]);
  return new Promise((resolve) => waiting.set(id, resolve));
}

/** Instead of a status that would stay for ever. */
function failed(error) {
  stopCamera();
  say(`That did not work: ${error.message}`);
}

// Photographs

/** A picture that comes before the model waits for it. */
function take(files) {
  const picture = [...files].find((file) => file.type.startsWith("image/")) ?? files[0];
  if (!picture) return;
  if (at("choose").disabled) shown.early = picture;
  else open(picture).catch(failed);
}

async function open(file) {
  const number = ++shown.photograph; // a later one makes this one pointless
  stopCamera();
  say("Reading the picture …");
  shown.reading++;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    if (number !== shown.photograph) return;
    return say(`${file.name || "That"} is not a picture that this browser can read.`);
  } finally {
    shown.reading--;
  }
  try {
    if (number !== shown.photograph) return;
    if (bitmap.width * bitmap.height > MOST_PIXELS) {
      return say(`${file.name} has more than ${MOST_PIXELS / 1e6} million pixels: make it smaller.`);
    }
    draw(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
  await recognise();
}

/** Draw a picture or a frame, on white, for the worker to read. */
function draw(source, sourceWidth, sourceHeight) {
  const canvas = at("picture");
  const share = Math.min(1, Math.sqrt(MOST_DRAWN / (sourceWidth * sourceHeight)));
  const [width, height] = [sourceWidth, sourceHeight].map((side) => Math.floor(side * share));
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  at("frame").style.setProperty("--ratio", width / height);
  at("frame").hidden = !(at("hint").hidden = true);
  at("drop").classList.add("filled");
}

async function recognise() {
  const number = ++shown.photograph;
  show([]);
  say("Looking for faces …");
  const { faces, milliseconds, error } = await ask(at("picture"));
  if (number !== shown.photograph) return;
  if (error) return say(`That did not work: ${error}`);
  show(faces);
  const none = "No face found. If the picture is a cut-out face, tick the box that says so.";
  const found = `${faces.length} ${faces.length === 1 ? "face" : "faces"}`;
  const seconds = (milliseconds / 1000).toFixed(1);
  say(() => (faces.length ? `${found} in ${seconds} s: ${summary(faces)}.` : none));
}

// Camera

async function startCamera() {
  const number = ++shown.photograph;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
  } catch (error) {
    if (number !== shown.photograph) return;
    return say(error.name === "NotAllowedError"
      ? "The camera may not be used: allow it in the browser’s settings for this page."
      : "There is no camera to use.");
  }
  if (number !== shown.photograph) return stop(stream);
  shown.stream = stream;
  const video = Object.assign(at("video"), { srcObject: stream, hidden: false });
  at("picture").hidden = true;
  pressed(true);
  say("Watching.");
  stream.getVideoTracks()[0].onended = () => {
    if (shown.stream !== stream) return;
    stopCamera();
    say("The camera is gone.");
  };
  try {
    await watch(video, stream);
  } catch (error) {
    if (shown.stream === stream) failed(error);
  }
}

async function watch(video, stream) {
  await video.play();
  while (shown.stream === stream) {
    draw(video, video.videoWidth, video.videoHeight);
    const { faces, error } = await ask(at("picture"));
    if (shown.stream !== stream) return;
    const status = error ? `That did not work: ${error}` : "Watching.";
    if (status !== shown.status) say(status);
    show(faces ?? []);
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  if (shown.stream) {
    stop(shown.stream);
    say("Stopped.");
  }
  shown.stream = null;
  at("video").hidden = !(at("picture").hidden = false);
  pressed(false);
}

function stop(stream) {
  stream.getTracks().forEach((track) => track.stop());
}

function pressed(yes) {
  at("camera").setAttribute("aria-pressed", yes);
  at("camera").textContent = yes ? "Stop the camera" : "Use the camera";
}

// Answers

/** A text, or a function that makes one of the answers as the slider has them. */
function say(text) {
  shown.status = text;
  at("status").textContent = text instanceof Function ? text() : text;
}

/** The most probable class, or that it is not sure. */
function answerOf({ probabilities }) {
  const confidence = Math.max(...probabilities);
  const unsure = confidence < at("least").value / 100;
  const label = unsure ? "not sure" : shown.labels[probabilities.indexOf(confidence)];
  return { label, confidence, unsure };
}

function summary(faces) {
  return faces.map(answerOf).map(({ label, confidence }) => `${label} ${percent(confidence)}`).join(", ");
}

function show(faces) {
  shown.faces = faces;
  at("least_shown").textContent = percent(at("least").value / 100);
  at("answers").replaceChildren(...faces.map(cardOf));
  drawBoxes();
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A face's answer with what the model saw of it and a bar for each class. */
function cardOf(face, index) {
  const { label, confidence, unsure } = answerOf(face);
  const { width, height, data } = face.seen;
  const small = element("canvas", { width, height, title: "What the model saw" });
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) pixels.data.set([...data.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  small.getContext("2d").putImageData(pixels, 0, 0);
  const title = `${index + 1}. `;
  const heading = element("h2", {}, small, element("span", {}, title, element("b", {}, label), ` ${percent(confidence)}`));
  const bars = shown.labels.map((name, i) => {
    const filled = element("i");
    filled.style.width = percent(face.probabilities[i]).replace(" ", "");
    const bar = element("span", { className: "bar" }, filled);
    return element("li", {}, element("span", {}, name), bar, element("span", {}, percent(face.probabilities[i])));
  });
  return element("li", { className: unsure ? "face unsure" : "face" }, heading, element("ul", {}, ...bars));
}

/** Boxes and labels over the picture, as sharp as the screen. */
function drawBoxes() {
  const canvas = at("boxes");
  const density = window.devicePixelRatio;
  Object.assign(canvas, { width: canvas.clientWidth * density, height: canvas.clientHeight * density });
  const context = canvas.getContext("2d");
  const scale = canvas.width / at("picture").width;
  const colours = getComputedStyle(document.documentElement);
  Object.assign(context, { font: `600 ${14 * density}px system-ui, sans-serif`, lineWidth: 2 * density, textBaseline: "middle" });
  shown.faces.forEach((face, index) => {
    const { label, unsure } = answerOf(face);
    const [left, top, width, height] = face.box.map((value) => value * scale);
    context.fillStyle = context.strokeStyle = colours.getPropertyValue(unsure ? "--unsure" : "--sure");
    context.strokeRect(left, top, width, height);
    const text = `${index + 1}. ${label}`;
    const [wide, high] = [context.measureText(text).width + 12 * density, 22 * density];
    const x = Math.max(0, Math.min(left - density, canvas.width - wide));
    const y = top > high ? top - high : Math.min(top + height, canvas.height - high);
    context.fillRect(x, y, wide, high);
    context.fillStyle = colours.getPropertyValue("--on-sure");
    context.fillText(text, x + 6 * density, y + high / 2);
  });
}

// The model's card: the limits first, all of it below

async function showLimits() {
  at("card").showModal();
  if (at("card_text").childElementCount) return;
  const text = await fetch("card.md").then((reply) => (reply.ok ? reply.text() : ""), () => "");
  const sections = text.split(/^## /m).slice(1).map((section) => section.split("\n"));
  const limits = sections.filter(([title]) => ["Known failures and limits", "Not for", "Licence"].includes(title));
  at("card_text").append(
    ...(text ? [] : [element("p", {}, "This model came without a card: nothing is known of its limits.")]),
    ...limits.flatMap(([title, ...lines]) => [element("h3", {}, title), ...paragraphs(lines)]),
    ...(text ? [element("details", {}, element("summary", {}, "The whole card"), element("pre", {}, text))] : []),
  );
}

/** Markdown's paragraphs and lists, without links. */
function paragraphs(lines) {
  const plain = (line) => line.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").replace(/[*`]/g, "");
  const kept = lines.filter(Boolean).map(plain);
  const items = kept.filter((line) => line.startsWith("- ")).map((line) => element("li", {}, line.slice(2)));
  const texts = kept.filter((line) => !line.startsWith("- ")).map((line) => element("p", {}, line));
  return [...(items.length ? [element("ul", {}, ...items)] : []), ...texts];
}

// Who calls what

at("choose").onclick = () => at("file").click();
at("file").onchange = () => {
  take(at("file").files);
  at("file").value = ""; // so that the same one can be chosen again
};
at("camera").onclick = () => (shown.stream ? stopCamera() : startCamera());
at("least").oninput = () => {
  show(shown.faces);
  say(shown.status);
};
at("whole").onchange = () => {
  if (!shown.stream && !shown.reading && !at("frame").hidden) recognise().catch(failed);
};
at("limits").onclick = showLimits;
new ResizeObserver(drawBoxes).observe(at("frame"));
matchMedia("(prefers-color-scheme: dark)").onchange = drawBoxes;
document.onpaste = ({ clipboardData }) => take(clipboardData.files);
document.ondragover = (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
};
document.ondragleave = () => at("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files);
};
show([]);
