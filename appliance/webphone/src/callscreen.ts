import type { Call } from './call';
import { byId, keypad, setIcon } from './dom';
import { QualityProbe, type Quality } from './quality';
import { incomingRing, keySound, Meter, ringback } from './sound';
import { duration } from './words';

const states: Record<Call['state'], string> = {
  calling: 'Calling…',
  ringing: 'Ringing…',
  early: 'Ringing…',
  incoming: 'is calling you',
  answering: 'Connecting…',
  up: 'Connected',
  ended: 'Call ended',
};

/** The screen of one call: who, how long, controls, levels and quality. */
export class CallScreen {
  private call: Call | undefined;
  private clock: number | undefined;
  private frame: number | undefined;
  private meters: { you?: Meter; them?: Meter; microphone?: MediaStream } = {};
  private probe: QualityProbe | undefined;
  private readonly remote = byId<HTMLAudioElement>('remote');

  constructor(
    private readonly answer: () => void,
    private readonly tell: (words: string) => void,
    private readonly ended: (call: Call) => void,
  ) {
    byId('hangup').addEventListener('click', () => this.call?.hangUp());
    byId('answer').addEventListener('click', () => this.answer());
    byId('mute').addEventListener('click', () => this.call?.toggleMute());
    byId('hold').addEventListener('click', () => this.call?.toggleHold());
    byId('keypad').addEventListener('click', () => this.toggleKeypad());
    keypad(byId('call-keys'), (key) => this.press(key));
    const wide = window.matchMedia('(min-width: 860px)');
    const open = () => (byId<HTMLDetailsElement>('quality-box').open = wide.matches);
    wide.addEventListener('change', open);
    open();
  }

  show(call: Call): void {
    this.call = call;
    call.onchange = () => this.draw();
    call.onremote = () => this.listen();
    byId('peer').textContent = call.peer;
    byId('avatar').textContent = initials(call.peer);
    byId('call-kind').textContent = call.incoming ? 'Incoming call' : 'Outgoing call';
    byId('quality').hidden = true;
    this.clearQuality();
    this.toggleKeypad(false);
    byId('call').hidden = false;
    this.draw();
    byId(call.incoming ? 'answer' : 'hangup').focus({ preventScroll: true });
    this.clock = window.setInterval(() => this.tick(), 1000);
    if (call.remote) this.listen();
  }

  /** Keyboard shortcuts while a call is on the screen. */
  key(key: string): boolean {
    const call = this.call;
    if (!call || call.state === 'incoming') return false;
    if (/^[0-9*#]$/.test(key)) {
      this.press(key);
      return true;
    }
    const button = { m: 'mute', h: 'hold', k: 'keypad' }[key.toLowerCase()];
    if (!button) return false;
    byId<HTMLButtonElement>(button).click();
    return true;
  }

  private press(key: string): void {
    const call = this.call;
    if (!call || (call.state !== 'up' && call.state !== 'early')) return;
    if (call.sendDigit(key)) keySound(key);
    else if (call.held || call.heldByPeer) this.tell('Keypad tones cannot be sent while the call is on hold.');
    else this.tell('The other side does not take keypad tones.');
  }

  private toggleKeypad(open = byId('call-keys-box').hidden): void {
    byId('call-keys-box').hidden = !open;
    byId('keypad').setAttribute('aria-expanded', String(open));
    this.drawLevels();
  }

  private drawLevels(): void {
    byId('levels').hidden = this.call?.state === 'incoming' || !byId('call-keys-box').hidden;
  }

  private draw(): void {
    const call = this.call;
    if (!call) return;
    if (call.state === 'incoming') incomingRing.start();
    else incomingRing.stop();
    if (call.state === 'ringing') ringback.start();
    else ringback.stop();
    if (call.state === 'ended') {
      this.close(call);
      return;
    }
    const up = call.state === 'up';
    byId('call').dataset['state'] = call.state;
    byId('call-state').textContent = describe(call);
    byId('answer').hidden = call.state !== 'incoming';
    byId('hangup').setAttribute('aria-label', call.state === 'incoming' ? 'Decline' : 'Hang up');
    byId('tools').hidden = call.state === 'incoming';
    this.drawLevels();
    this.toggle('mute', call.muted, call.muted ? 'Unmute' : 'Mute', call.muted ? 'mic-off' : 'mic', true);
    this.toggle('hold', call.held, call.held ? 'Resume' : 'Hold', call.held ? 'play' : 'pause', up && !call.holdPending);
    byId<HTMLButtonElement>('keypad').disabled = !up && call.state !== 'early';
    byId('digits').textContent = call.digits;
    byId('quality').hidden = !up;
    document.title = call.state === 'incoming' ? `${call.peer} is calling – Sluice phone` : `${call.peer} – Sluice phone`;
    if (up && !this.probe && call.peerConnection) this.probe = new QualityProbe(call.peerConnection);
    this.meter(call);
  }

  private toggle(id: string, on: boolean, label: string, iconName: string, enabled: boolean): void {
    const button = byId<HTMLButtonElement>(id);
    button.setAttribute('aria-pressed', String(on));
    button.disabled = !enabled;
    setIcon(button, iconName);
    const words = button.querySelector('span:last-child');
    if (words) words.textContent = label;
  }

  private listen(): void {
    const call = this.call;
    if (!call?.remote) return;
    this.remote.srcObject = call.remote;
    void this.remote.play().catch(() => this.tell('Your browser holds the sound back. Click anywhere on the page to hear the call.'));
    this.meters.them?.close();
    this.meters.them = new Meter(call.remote);
    this.meter(call);
  }

  private meter(call: Call): void {
    if (call.micStream && this.meters.microphone !== call.micStream) {
      this.meters.you?.close();
      this.meters.you = new Meter(call.micStream);
      this.meters.microphone = call.micStream;
    }
    if (this.frame !== undefined) return;
    const paint = () => {
      level('level-you', call.muted || call.held ? 0 : (this.meters.you?.read() ?? 0));
      level('level-them', this.meters.them?.read() ?? 0);
      this.frame = requestAnimationFrame(paint);
    };
    paint();
  }

  private tick(): void {
    const call = this.call;
    if (!call) return;
    byId('call-clock').textContent = call.startedAt ? duration((Date.now() - call.startedAt) / 1000) : '';
    const probe = this.probe;
    if (probe) {
      probe.read().then((q) => {
        if (this.probe === probe) showQuality(q);
      }, () => undefined); // the connection was closed in between
    }
  }

  private clearQuality(): void {
    this.probe = undefined;
    for (const dd of byId('quality').querySelectorAll('dd')) dd.textContent = '–';
    grade('none');
    byId('call-clock').textContent = '';
    byId('digits').textContent = '';
  }

  private close(call: Call): void {
    window.clearInterval(this.clock);
    if (this.frame !== undefined) cancelAnimationFrame(this.frame);
    this.frame = undefined;
    this.meters.you?.close();
    this.meters.them?.close();
    this.meters = {};
    this.probe = undefined;
    this.remote.srcObject = null;
    this.call = undefined;
    byId('call').hidden = true;
    byId('quality').hidden = true;
    document.title = 'Sluice phone';
    this.ended(call);
  }
}

function describe(call: Call): string {
  if (call.unstable && call.state === 'up') return 'The connection is unstable…';
  if (call.state !== 'up') return states[call.state];
  if (call.held && call.heldByPeer) return 'Both sides on hold';
  if (call.held) return 'On hold';
  if (call.heldByPeer) return 'The other side put you on hold';
  return call.muted ? 'You are muted' : states.up;
}

function level(id: string, value: number): void {
  const meter = byId(id);
  const percent = Math.round(value * 100);
  if (meter.getAttribute('aria-valuenow') === String(percent)) return;
  meter.setAttribute('aria-valuenow', String(percent));
  meter.style.setProperty('--level', String(value));
}

const milliseconds = (s: number | undefined) => (s === undefined ? '–' : `${Math.round(s * 1000)} ms`);
const percent = (share: number | undefined) => (share === undefined ? '–' : `${(share * 100).toFixed(1)} %`);
const kilobits = (rate: number | undefined) => (rate === undefined ? '–' : `${Math.round(rate / 1000)}`);

function showQuality(q: Quality): void {
  byId('q-codec').textContent = q.codec || '–';
  byId('q-rtt').textContent = milliseconds(q.roundTrip);
  byId('q-loss-in').textContent = percent(q.lossIn);
  byId('q-loss-out').textContent = percent(q.lossOut);
  byId('q-jitter-in').textContent = milliseconds(q.jitterIn);
  byId('q-jitter-out').textContent = milliseconds(q.jitterOut);
  byId('q-rate').textContent = q.rateIn === undefined ? '–' : `${kilobits(q.rateIn)} / ${kilobits(q.rateOut)} kbit/s`;
  byId('q-srtp').textContent = q.srtp || '–';
  byId('q-dtls').textContent = q.dtls || '–';
  byId('q-path').textContent = q.path || '–';
  grade(q.grade);
}

function grade(value: Quality['grade']): void {
  const element = byId('quality-grade');
  element.dataset['grade'] = value;
  element.textContent = value === 'none' ? 'measuring' : value;
}

function initials(name: string): string {
  const words = name.split(/[\s._-]+/).filter((w) => /^\p{L}/u.test(w));
  if (words.length === 0) return '#';
  return words.slice(0, 2).map((w) => w[0]!.toUpperCase()).join('');
}
