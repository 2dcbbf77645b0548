import * as JsSIP from 'jssip';
import type { RTCSessionEvent, UA, UnRegisteredEvent } from 'jssip/lib/UA';
import { Call } from './call';
import { microphoneFault, openMicrophone, type AudioChoice, type MicrophoneFault } from './media';

export type LineState = 'off' | 'connecting' | 'registering' | 'ready' | 'lost';

export interface PhoneEvents {
  line(state: LineState): void;
  refused(words: string): void; // sign-in did not work; the phone is off again
  call(call: Call): void; // a new call, either way
  microphone(fault: MicrophoneFault): void;
}

interface Transport {
  connect(): void;
  disconnect(): void;
}

const pcConfig: RTCConfiguration = { iceServers: [], bundlePolicy: 'max-bundle', rtcpMuxPolicy: 'require' };

/** The user's line at the gateway: sign-in, registration, reconnection, and at most one call. */
export class Phone {
  state: LineState = 'off';
  call: Call | undefined;
  address = '';

  private ua: UA | undefined;
  private proven = false; // the password was accepted once
  private connecting: number | undefined; // timer

  constructor(
    private readonly events: PhoneEvents,
    private readonly choice: () => AudioChoice,
  ) {
    window.addEventListener('online', () => this.reconnect());
    window.addEventListener('pagehide', () => this.call?.hangUp());
  }

  signIn(user: string, password: string, domain: string): void {
    this.stop();
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    this.address = `${user}@${domain}`;
    this.proven = false;
    const ua = new JsSIP.UA({
      sockets: [new JsSIP.WebSocketInterface(`${scheme}://${location.host}/ws`)],
      uri: new JsSIP.URI('sip', user, domain).toString(),
      authorization_user: user,
      password,
      instance_id: instance(),
      register_expires: 300,
      connection_recovery_min_interval: 1,
      connection_recovery_max_interval: 8,
      user_agent: 'Sluice web phone',
    });
    this.ua = ua;
    ua.on('connecting', () => {
      this.become(this.proven ? 'lost' : 'connecting');
      this.watchConnecting();
    });
    ua.on('connected', () => {
      window.clearTimeout(this.connecting);
      this.become('registering');
    });
    ua.on('registered', () => {
      this.proven = true;
      this.become('ready');
    });
    ua.on('disconnected', () => {
      window.clearTimeout(this.connecting);
      if (this.ua !== ua) return;
      if (this.proven) this.become('lost');
      else this.refuse('The gateway does not answer. Check your network and try again.');
    });
    ua.on('registrationFailed', (e: UnRegisteredEvent) => {
      if (this.ua !== ua) return;
      const status = e.response?.status_code;
      if (status === 401 || status === 403 || status === 404 || status === 407) {
        this.refuse('The user name or the password is not right.');
      } else if (!this.proven) {
        this.refuse(status ? `The gateway refused to sign you in (${status}).` : 'The gateway did not answer the sign-in.');
      } else {
        this.become('lost');
      }
    });
    ua.on('newRTCSession', (e: RTCSessionEvent) => {
      if (e.originator !== 'remote') return;
      if (this.call) {
        e.session.terminate({ status_code: 486, reason_phrase: 'Busy Here' });
        return;
      }
      this.adopt(new Call(e.session, undefined, undefined));
    });
    this.become('connecting');
    ua.start();
  }

  stop(): void {
    window.clearTimeout(this.connecting);
    this.call?.hangUp();
    const ua = this.ua;
    this.ua = undefined;
    ua?.stop();
    this.become('off');
  }

  async dial(target: string): Promise<void> {
    const ua = this.ua;
    if (!ua || this.call) return;
    const microphone = await this.microphone();
    if (!microphone) return;
    let session;
    try {
      // The session exists before ua.call returns, so nothing is missed here:
      // its events come from the network.
      session = ua.call(target, { mediaStream: microphone, pcConfig });
    } catch (error) {
      microphone.getTracks().forEach((t) => t.stop());
      throw error;
    }
    this.adopt(new Call(session, target, microphone));
  }

  async answer(): Promise<void> {
    const call = this.call;
    if (call?.state !== 'incoming') return;
    const microphone = await this.microphone();
    if (!microphone) return;
    if (call.state !== 'incoming') {
      microphone.getTracks().forEach((t) => t.stop());
      return;
    }
    call.answer(microphone, pcConfig);
  }

  /** Replaces the socket at once, for when the network is known to have changed. */
  reconnect(): void {
    if (!this.ua || !this.proven) return;
    const { transport } = this.ua as unknown as { transport: Transport };
    transport.disconnect();
    transport.connect();
  }

  // A network that swallows packets leaves a socket connecting for minutes.
  private watchConnecting(): void {
    window.clearTimeout(this.connecting);
    this.connecting = window.setTimeout(() => {
      if (this.proven) this.reconnect();
      else this.refuse('The gateway does not answer. Check your network and try again.');
    }, 8000);
  }

  private async microphone(): Promise<MediaStream | undefined> {
    try {
      return await openMicrophone(this.choice());
    } catch (error) {
      this.events.microphone(microphoneFault(error));
      return undefined;
    }
  }

  private adopt(call: Call): void {
    this.call = call;
    call.onunstable = () => {
      if (call.state === 'up') this.reconnect();
    };
    this.events.call(call);
  }

  /** Called by the screen once it has shown how the call ended. */
  release(call: Call): void {
    if (this.call === call) this.call = undefined;
  }

  private refuse(words: string): void {
    const ua = this.ua;
    this.ua = undefined;
    ua?.stop();
    this.become('off');
    this.events.refused(words);
  }

  private become(state: LineState): void {
    if (this.state === state) return;
    this.state = state;
    this.events.line(state);
  }
}

// One instance per tab: the gateway replaces the binding of a tab that comes
// back and keeps those of other tabs (RFC 5626 section 4.1).
function instance(): string {
  const key = 'sluice.instance';
  const kept = sessionStorage.getItem(key);
  if (kept) return kept;
  const made = JsSIP.Utils.newUUID();
  sessionStorage.setItem(key, made);
  return made;
}
