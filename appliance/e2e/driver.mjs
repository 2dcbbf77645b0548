// Drives one Chromium for the Go tests: one JSON request per line on stdin, one
// JSON answer per line on stdout. It ends its browser when stdin closes.
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

let browser;
let pid;
const pages = new Map();
let nextPage = 1;

// Runs in the page: notes ten times a second what the call's sound is made of.
// Each entry is [ms since the epoch, strongest frequency in Hz, its share of
// the power 0..1, RMS 0..1].
function listen() {
  const heard = [];
  window.sluiceHeard = heard;
  let context, analyser, source, stream, bins, samples;
  setInterval(() => {
    const remote = document.getElementById('remote');
    const now = remote?.srcObject;
    if (!now || now.getAudioTracks().length === 0) return;
    if (stream !== now) {
      context ??= new AudioContext();
      if (context.state === 'suspended') void context.resume();
      source?.disconnect();
      source = context.createMediaStreamSource(now);
      analyser = context.createAnalyser();
      analyser.fftSize = 4096;
      analyser.smoothingTimeConstant = 0;
      source.connect(analyser);
      bins = new Float32Array(analyser.frequencyBinCount);
      samples = new Float32Array(analyser.fftSize);
      stream = now;
    }
    analyser.getFloatFrequencyData(bins);
    analyser.getFloatTimeDomainData(samples);
    let best = 0;
    let total = 0;
    const power = Array.from(bins, (decibels) => 10 ** (decibels / 10));
    power.forEach((p, i) => {
      if (i < 2) return;
      total += p;
      if (p > power[best]) best = i;
    });
    let near = 0;
    for (let i = Math.max(2, best - 3); i <= best + 3; i++) near += power[i] ?? 0;
    const rms = Math.sqrt(samples.reduce((sum, s) => sum + s * s, 0) / samples.length);
    heard.push([Date.now(), (best * context.sampleRate) / analyser.fftSize, total > 0 ? near / total : 0, rms]);
    if (heard.length > 3000) heard.splice(0, 1000);
  }, 100);
}

// Runs in the page before its own scripts: keeps the connections it makes, for statistics.
function keepConnections() {
  const connections = [];
  window.sluiceConnections = connections;
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(...args) {
      super(...args);
      connections.push(this);
    }
  };
}

function find(page, { role, name, label, selector, text, exact = true }) {
  if (selector) return page.locator(selector);
  if (label) return page.getByLabel(label, { exact });
  if (text) return page.getByText(text, { exact: false });
  return page.getByRole(role ?? 'button', { name, exact });
}

const operations = {
  async launch({ executable, args }) {
    browser = await chromium.launch({ executablePath: executable, args, chromiumSandbox: false, headless: true });
    const session = await browser.newBrowserCDPSession();
    const { processInfo } = await session.send('SystemInfo.getProcessInfo');
    pid = processInfo.find((p) => p.type === 'browser').id;
    return { pid, version: browser.version() };
  },
  async page({ width = 1100, height = 860, dark = false, storage = {}, permissions, secure = false }) {
    const context = await browser.newContext({
      viewport: { width, height },
      colorScheme: dark ? 'dark' : 'light',
      ignoreHTTPSErrors: secure,
      ...(permissions ? { permissions } : {}),
    });
    await context.addInitScript((entries) => {
      for (const [k, v] of Object.entries(entries)) if (localStorage.getItem(k) === null) localStorage.setItem(k, v);
    }, storage);
    await context.addInitScript(keepConnections);
    const page = await context.newPage();
    const log = [];
    page.on('console', (m) => log.push(`${m.type()}: ${m.text()}`));
    page.on('pageerror', (e) => log.push(`uncaught: ${e.message}`));
    const frames = [];
    page.on('websocket', (socket) => {
      const note = (way) => ({ payload }) => {
        frames.push(`${way} ${payload}`);
        if (frames.length > 400) frames.shift();
      };
      socket.on('framesent', note('>'));
      socket.on('framereceived', note('<'));
    });
    const id = nextPage++;
    pages.set(id, { context, page, log, frames });
    return { page: id };
  },
  async goto({ page, url }) {
    await pages.get(page).page.goto(url);
    await pages.get(page).page.evaluate(listen);
  },
  async fill({ page, value, ...where }) {
    await find(pages.get(page).page, where).fill(value);
  },
  async click({ page, timeout = 10000, ...where }) {
    await find(pages.get(page).page, where).click({ timeout });
  },
  async type({ page, value }) {
    await pages.get(page).page.keyboard.type(value);
  },
  async press({ page, key }) {
    await pages.get(page).page.keyboard.press(key);
  },
  async see({ page, timeout = 10000, ...where }) {
    await find(pages.get(page).page, where).filter({ visible: true }).first().waitFor({ state: 'visible', timeout });
  },
  async text({ page, ...where }) {
    return await find(pages.get(page).page, where).first().innerText();
  },
  async evaluate({ page, script, argument }) {
    return await pages.get(page).page.evaluate(`(${script})(${JSON.stringify(argument ?? null)})`);
  },
  async heard({ page, since = 0 }) {
    return await pages.get(page).page.evaluate((t) => (window.sluiceHeard ?? []).filter((h) => h[0] >= t), since);
  },
  async stats({ page }) {
    return await pages.get(page).page.evaluate(async () => {
      const last = window.sluiceConnections.at(-1);
      if (!last) return [];
      return [...(await last.getStats()).values()].map((r) => ({ ...r }));
    });
  },
  async screenshot({ page, path }) {
    await pages.get(page).page.screenshot({ path });
  },
  async log({ page }) {
    const { log, frames } = pages.get(page);
    return { log, frames };
  },
  async closePage({ page }) {
    const { context } = pages.get(page);
    pages.delete(page);
    await context.close();
  },
  async close() {
    await browser?.close();
  },
  kill() {
    process.kill(pid, 'SIGKILL');
  },
};

const lines = createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  const { id, op, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { id, value: (await operations[op](rest)) ?? null };
  } catch (error) {
    answer = { id, error: String(error?.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
});
lines.on('close', async () => {
  await browser?.close().catch(() => undefined);
  process.exit(0);
});
