// Tones made on the spot (no audio files) and level meters.

let context: AudioContext | undefined;

/** The page's one AudioContext. Browsers start it only once the user has touched the page. */
export function audio(): AudioContext {
  context ??= new AudioContext({ latencyHint: 'interactive' });
  if (context.state === 'suspended') void context.resume().catch(() => undefined);
  return context;
}

/** A cadence is a list of [on, off] seconds, repeated. */
class Cadence {
  private timer: number | undefined;
  private stopCurrent: (() => void) | undefined;

  constructor(
    private readonly frequencies: number[],
    private readonly cadence: [number, number][],
    private readonly volume: number,
  ) {}

  start(): void {
    if (this.timer !== undefined) return;
    let step = 0;
    const next = () => {
      const [on, off] = this.cadence[step++ % this.cadence.length] ?? [1, 1];
      this.stopCurrent = beep(this.frequencies, on, this.volume);
      this.timer = window.setTimeout(next, (on + off) * 1000);
    };
    next();
  }

  stop(): void {
    window.clearTimeout(this.timer);
    this.timer = undefined;
    this.stopCurrent?.();
    this.stopCurrent = undefined;
  }
}

function beep(frequencies: number[], seconds: number, volume: number): () => void {
  const ctx = audio();
  const gain = ctx.createGain();
  const start = ctx.currentTime;
  gain.gain.setValueAtTime(0, start);
  gain.gain.linearRampToValueAtTime(volume, start + 0.01);
  gain.gain.setValueAtTime(volume, start + seconds - 0.015);
  gain.gain.linearRampToValueAtTime(0, start + seconds);
  gain.connect(ctx.destination);
  const oscillators = frequencies.map((frequency) => {
    const o = ctx.createOscillator();
    o.frequency.value = frequency;
    o.connect(gain);
    o.start(start);
    o.stop(start + seconds);
    return o;
  });
  oscillators[0]?.addEventListener('ended', () => gain.disconnect());
  return () => oscillators.forEach((o) => o.stop());
}

export const incomingRing = new Cadence([523.25, 659.25, 783.99], [[0.35, 0.15], [0.35, 1.6]], 0.12);
export const ringback = new Cadence([425], [[1, 4]], 0.06);

const rows = [697, 770, 852, 941];
const columns = [1209, 1336, 1477];
const layout = ['123', '456', '789', '*0#'];

/** The short sound a key makes for the person who presses it. */
export function keySound(key: string): void {
  const row = layout.findIndex((line) => line.includes(key));
  if (row < 0) return;
  const column = layout[row]!.indexOf(key);
  beep([rows[row]!, columns[column]!], 0.11, 0.05);
}

/** Reads the level of a stream, 0 to 1 on a scale that follows hearing. */
export class Meter {
  private readonly source: MediaStreamAudioSourceNode;
  private readonly analyser: AnalyserNode;
  private readonly samples: Float32Array<ArrayBuffer>;
  private shown = 0;

  constructor(stream: MediaStream) {
    const ctx = audio();
    this.source = ctx.createMediaStreamSource(stream);
    this.analyser = ctx.createAnalyser();
    this.analyser.fftSize = 1024;
    this.samples = new Float32Array(this.analyser.fftSize);
    this.source.connect(this.analyser);
  }

  read(): number {
    this.analyser.getFloatTimeDomainData(this.samples);
    let sum = 0;
    for (const s of this.samples) sum += s * s;
    const decibels = 10 * Math.log10(sum / this.samples.length + 1e-10);
    const level = Math.min(1, Math.max(0, (decibels + 60) / 54));
    this.shown = level > this.shown ? level : this.shown * 0.85 + level * 0.15;
    return this.shown;
  }

  close(): void {
    this.source.disconnect();
    this.analyser.disconnect();
  }
}
