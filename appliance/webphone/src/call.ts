import type { EndEvent, IceCandidateEvent, IncomingEvent, OutgoingEvent, RTCSession } from 'jssip/lib/RTCSession';
import { endWords } from './words';

export type CallState = 'calling' | 'ringing' | 'early' | 'incoming' | 'answering' | 'up' | 'ended';

export interface Ending {
  words: string;
  seconds: number; // talked; 0 when the call never stood
  missed: boolean;
}

const iceDisconnected = new Set(['disconnected', 'failed']);

/** One call: what JsSIP's session does, as the screen needs to know it. */
export class Call {
  state: CallState;
  readonly incoming: boolean;
  readonly peer: string; // what to show
  readonly target: string; // what to dial to call back
  startedAt: number | undefined;
  muted = false;
  held = false; // by me
  heldByPeer = false;
  holdPending = false;
  unstable = false; // media path in trouble
  digits = '';
  ending: Ending | undefined;
  remote: MediaStream | undefined;

  onchange: () => void = () => undefined;
  onremote: () => void = () => undefined;
  onunstable: () => void = () => undefined;

  private connection: RTCPeerConnection | undefined;
  private forcedWords: string | undefined;

  constructor(
    readonly session: RTCSession,
    dialled: string | undefined,
    private microphone: MediaStream | undefined,
  ) {
    this.incoming = dialled === undefined;
    this.state = this.incoming ? 'incoming' : 'calling';
    const identity = session.remote_identity;
    this.target = dialled ?? identity.uri.user ?? identity.uri.host;
    this.peer = (this.incoming && identity.display_name) || this.target;

    session.on('peerconnection', (e) => this.attach(e.peerconnection));
    if (session.connection) this.attach(session.connection);
    session.on('progress', (e: IncomingEvent | OutgoingEvent) => {
      if (this.incoming || !('response' in e)) return;
      if (e.response.body) this.become('early');
      else if (this.state !== 'early') this.become('ringing');
    });
    session.on('accepted', () => this.stand());
    session.on('confirmed', () => this.stand());
    session.on('hold', () => this.readHold());
    session.on('unhold', () => this.readHold());
    session.on('ended', (e) => this.end(e));
    session.on('failed', (e) => this.end(e));
    // Candidate gathering must not hold a call up when one interface does not
    // answer: the gateway has a fixed address and learns ours from our checks.
    let gathering: number | undefined;
    session.on('icecandidate', (e: IceCandidateEvent) => {
      gathering ??= window.setTimeout(() => e.ready(), 300);
    });
  }

  get peerConnection(): RTCPeerConnection | undefined {
    return this.connection;
  }

  get micStream(): MediaStream | undefined {
    return this.microphone;
  }

  answer(microphone: MediaStream, pcConfig: RTCConfiguration): void {
    this.microphone = microphone;
    this.become('answering');
    this.session.answer({ mediaStream: microphone, pcConfig });
  }

  /** Ends the call whatever its state; words, when given, say why. */
  hangUp(words?: string): void {
    this.forcedWords = words;
    if (this.session.isEnded()) return;
    try {
      this.session.terminate(this.incoming && this.state === 'incoming' ? { status_code: 603, reason_phrase: 'Decline' } : {});
    } catch {
      this.finish(words ?? 'Call ended.');
    }
  }

  toggleMute(): void {
    this.muted = !this.muted;
    if (this.muted) this.session.mute({ audio: true });
    else this.session.unmute({ audio: true });
    this.onchange();
  }

  toggleHold(): void {
    if (this.holdPending || this.state !== 'up') return;
    const done = () => {
      this.holdPending = false;
      this.readHold();
    };
    this.holdPending = this.held ? this.session.unhold({}, done) : this.session.hold({}, done);
    this.readHold();
  }

  /** Sends one RFC 4733 digit; false when the call has no telephone-event. */
  sendDigit(digit: string): boolean {
    const sender = this.connection?.getSenders().find((s) => s.track?.kind === 'audio');
    if (!sender?.dtmf?.canInsertDTMF) return false;
    sender.dtmf.insertDTMF(sender.dtmf.toneBuffer + digit, 120, 70);
    this.digits = (this.digits + digit).slice(-32);
    this.onchange();
    return true;
  }

  /** Swaps the microphone in mid-call without a new offer. */
  async replaceMicrophone(stream: MediaStream): Promise<void> {
    const track = stream.getAudioTracks()[0];
    const sender = this.connection?.getSenders().find((s) => s.track?.kind === 'audio');
    if (!track || !sender) return;
    track.enabled = !this.muted && !this.held;
    await sender.replaceTrack(track);
    this.microphone?.getTracks().forEach((t) => t.stop());
    this.microphone = stream;
    this.onchange();
  }

  private attach(connection: RTCPeerConnection): void {
    if (this.connection === connection) return;
    this.connection = connection;
    connection.addEventListener('track', (e) => {
      if (e.track.kind !== 'audio') return;
      // After a hold the same track comes again; only a new stream makes the
      // browser play it again.
      this.remote = new MediaStream([e.track]);
      this.onremote();
    });
    connection.addEventListener('iceconnectionstatechange', () => {
      const state = connection.iceConnectionState;
      const unstable = iceDisconnected.has(state);
      if (unstable !== this.unstable) {
        this.unstable = unstable;
        this.onchange();
        if (unstable) this.onunstable();
      }
      if (state === 'failed') this.hangUp('The connection was lost.');
    });
  }

  private become(state: CallState): void {
    if (this.state === 'ended' || this.state === 'up') return;
    this.state = state;
    this.onchange();
  }

  private stand(): void {
    if (this.state === 'up' || this.state === 'ended') return;
    this.startedAt = Date.now();
    this.become('up');
  }

  private readHold(): void {
    const { local, remote } = this.session.isOnHold();
    this.held = local;
    this.heldByPeer = remote;
    this.onchange();
  }

  private end(e: EndEvent): void {
    const status = e.message && 'status_code' in e.message ? e.message.status_code : undefined;
    this.finish(this.forcedWords ?? endWords(e.cause, status, this.incoming), e.originator === 'remote');
  }

  private finish(words: string, byPeer = false): void {
    if (this.state === 'ended') return;
    const talked = this.startedAt ? (Date.now() - this.startedAt) / 1000 : 0;
    const missed = this.incoming && this.startedAt === undefined && byPeer;
    if (!this.forcedWords && this.incoming && this.startedAt === undefined && !byPeer) words = 'Call declined.';
    this.ending = { words, seconds: talked, missed };
    this.state = 'ended';
    this.microphone?.getTracks().forEach((t) => t.stop());
    this.onchange();
  }
}
