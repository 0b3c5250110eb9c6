// Uses the page as a person does, in Chromium: node drive_page.mjs URL CHROMIUM FOLDER. Shows it
// FOLDER's one.png, group.png and film.mjpeg (as the camera), prints what it saw as JSON, and
// leaves pictures of the screen in FOLDER.
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const [url, executablePath, folder] = process.argv.slice(2);
const args = [
  "--no-sandbox", // which root cannot have
  "--use-fake-ui-for-media-stream", // the camera is allowed
  "--use-fake-device-for-media-stream",
  `--use-file-for-fake-video-capture=${folder}/film.mjpeg`,
];
const browser = await chromium.launch({ executablePath, args });
const seen = { requests: [], problems: [] };

async function open(settings, early = async () => {}) {
  const context = await browser.newContext(settings);
  context.on("request", (request) => seen.requests.push(request.url()));
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.problems.push(message.text());
  });
  page.on("pageerror", (error) => seen.problems.push(String(error)));
  await page.addInitScript(() => {
    window.answers = [];
    window.Worker = class extends Worker {
      constructor(...given) {
        super(...given);
        this.addEventListener("message", ({ data }) => window.answers.push(data));
      }
    };
  });
  await page.goto(url);
  await early(page);
  await page.locator("#choose:enabled").waitFor({ timeout: 120_000 });
  return page;
}

/** The next answer of the worker to what `act` does. */
async function answer(page, act) {
  const before = await page.evaluate(() => window.answers.length);
  await act();
  await page.waitForFunction((count) => window.answers.length > count, before, { timeout: 60_000 });
  const { faces, milliseconds, error } = await page.evaluate(() => window.answers.at(-1));
  for (const face of faces ?? []) delete face.seen;
  return { faces, milliseconds, error };
}

const bytes = [...(await readFile(`${folder}/one.png`))];

/** As if the photograph, or a text, were dropped or pasted. */
const hand = (page, kind, type) => page.evaluate(({ bytes, kind, type }) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "photograph", { type }));
  const settings = { bubbles: true, cancelable: true };
  const event = kind === "drop"
    ? new DragEvent("drop", { ...settings, dataTransfer: transfer })
    : new ClipboardEvent("paste", { ...settings, clipboardData: transfer });
  document.body.dispatchEvent(event);
}, { bytes: type === "image/png" ? bytes : [104, 105], kind, type });

// At a desk: every way to hand over a photograph.
const page = await open({ viewport: { width: 1280, height: 800 } });
seen.dropped = await answer(page, () => hand(page, "drop", "image/png"));
await page.screenshot({ path: `${folder}/desktop.png` });
seen.pasted = await answer(page, () => hand(page, "paste", "image/png"));
seen.chosen = await answer(page, () => page.locator("#file").setInputFiles(`${folder}/group.png`));
await page.screenshot({ path: `${folder}/group_screen.png` });
await answer(page, () => page.locator("#file").setInputFiles(`${folder}/one.png`));
seen.whole = await answer(page, () => page.locator("#whole").check());
await answer(page, () => page.locator("#whole").uncheck());
seen.status = await page.locator("#status").textContent();

// The slider by keyboard, and the card.
await page.locator("#least").focus();
await page.keyboard.press("End");
seen.unsure = await page.locator(".face b").allTextContents();
seen.unsure_status = await page.locator("#status").textContent();
await page.keyboard.press("Home");
seen.sure = await page.locator(".face b").allTextContents();
await page.locator("#limits").focus();
await page.keyboard.press("Enter");
await page.locator("#card h3").first().waitFor();
seen.card = await page.locator("#card").innerText();
await page.screenshot({ path: `${folder}/card.png` });
await page.keyboard.press("Escape");
await hand(page, "drop", "text/plain");
await page.locator("#status", { hasText: "not a picture" }).waitFor();

// The camera, which Chromium makes up.
await page.locator("#camera").focus();
seen.watched = await answer(page, () => page.keyboard.press("Space"));
seen.later = await answer(page, () => {}); // it goes on by itself
await page.screenshot({ path: `${folder}/camera.png` });
seen.playing = await page.locator("#video").evaluate((video) => video.videoWidth > 0 && !video.paused);
await page.locator("#camera").click();
seen.stopped = await page.locator("#video").isHidden();

// Who is asked for the camera answers late: after a photograph, or in another order.
await page.evaluate(() => {
  const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
  Object.assign(window, { allow: [], streams: [] });
  devices.getUserMedia = (wanted) => new Promise((resolve) => window.allow.push(async () => {
    window.streams.push(await ask(wanted));
    resolve(window.streams.at(-1));
  }));
});
const allow = (number) => page.evaluate(async (number) => {
  await window.allow[number]();
  await new Promise((resolve) => setTimeout(resolve, 300));
}, number);
const watching = () => page.evaluate(() => window.streams.map((stream) => stream.active));
await page.locator("#camera").click();
await hand(page, "drop", "image/png");
await page.locator("#status", { hasText: "1 face" }).waitFor();
await allow(0);
seen.undisturbed = [await page.locator("#status").textContent(), await watching()];
for (let i = 0; i < 2; i++) await page.locator("#camera").click();
for (const number of [2, 1]) await allow(number);
seen.one_stream = await watching();
await page.locator("#camera").click();
seen.no_stream = await watching();
await page.locator("#camera").click();
await allow(3);
await page.evaluate(() => window.streams.at(-1).getVideoTracks()[0].dispatchEvent(new Event("ended")));
seen.unplugged = [await page.locator("#status").textContent(), (await watching()).at(-1)];

// A picture that is too large is let go.
await page.evaluate(() => {
  window.large = { width: 1e5, height: 1e4, close() { this.closed = true; } };
  window.createImageBitmap = async () => window.large;
});
await hand(page, "drop", "image/png");
await page.locator("#status", { hasText: "million pixels" }).waitFor();
seen.large_is_closed = await page.evaluate(() => window.large.closed === true);
await page.evaluate(() => (window.createImageBitmap = async () => ({ width: 9, height: 9, close() {} })));
await hand(page, "drop", "image/png");
await page.locator("#status", { hasText: "That did not work: " }).waitFor({ timeout: 5_000 });
seen.isolated = await page.evaluate(() => window.crossOriginIsolated);

// On a telephone, in the dark, by plain http, where browsers lack these; handed over early.
const small = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const phone = await open({ ...small, colorScheme: "dark" }, async (page) => {
  await page.screenshot({ path: `${folder}/phone_empty.png` });
  await page.waitForFunction(() => document.ondrop);
  await page.evaluate(() => {
    delete Crypto.prototype.randomUUID;
    Object.defineProperty(Navigator.prototype, "mediaDevices", { value: undefined });
  });
  await hand(page, "drop", "image/png");
});
await phone.locator("#status", { hasText: "1 face" }).waitFor({ timeout: 60_000 });
seen.no_camera = await phone.locator("#camera").getAttribute("title");
await phone.screenshot({ path: `${folder}/phone_dark.png`, fullPage: true });
seen.overflow = await phone.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
seen.dark = await phone.evaluate(() => getComputedStyle(document.body).backgroundColor);

await browser.close();
console.log(JSON.stringify(seen));
