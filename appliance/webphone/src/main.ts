import './style.css';
import { forget, remember, rememberedUser, storedAccount } from './account';
import type { Call } from './call';
import { CallScreen } from './callscreen';
import { byId, icon, keypad, make } from './dom';
import { loadChoice, openMicrophone, microphoneFault, useSpeaker } from './media';
import { Phone, type LineState } from './phone';
import { addRecent, clearRecent, recentCalls } from './recent';
import { Settings } from './settings';
import { keySound } from './sound';
import { duration } from './words';

const choice = loadChoice();
const number = byId<HTMLInputElement>('number');
const user = byId<HTMLInputElement>('user');
const password = byId<HTMLInputElement>('password');
const rememberMe = byId<HTMLInputElement>('remember');
/** The domain of the gateway's users: nobody signs in before it is known. */
const domain = askDomain();
let pending: { user: string; password: string } | undefined; // until the gateway has accepted it

const phone = new Phone(
  {
    line: showLine,
    refused(words) {
      pending = undefined;
      busy(false);
      tell(words);
      password.select();
    },
    call(call) {
      hush();
      byId('home').hidden = true;
      byId('recent').hidden = true;
      screen.show(call);
    },
    microphone: (fault) => tell(`${fault.title} ${fault.advice}`),
  },
  () => choice,
);

const screen = new CallScreen(
  () => void phone.answer(),
  tell,
  (call) => {
    phone.release(call);
    finished(call);
  },
);

const settings = new Settings(choice, (microphone) => {
  void useSpeaker(byId<HTMLAudioElement>('remote'), choice.speaker);
  const call = phone.call;
  if (!microphone || !call?.micStream) return;
  openMicrophone(choice)
    .then((stream) => call.replaceMicrophone(stream))
    .catch((error: unknown) => {
      const fault = microphoneFault(error);
      tell(`${fault.title} ${fault.advice}`);
    });
});

function tell(words: string): void {
  byId('alert-text').textContent = words;
  byId('alert').hidden = false;
}

function hush(): void {
  byId('alert').hidden = true;
}

const lineWords: Record<LineState, string> = {
  off: 'Signed out',
  connecting: 'Connecting…',
  registering: 'Signing in…',
  ready: 'Ready',
  lost: 'No connection, trying again…',
};

function showLine(state: LineState): void {
  const chip = byId('status');
  chip.dataset['state'] = state;
  chip.textContent = state === 'ready' ? phone.address : lineWords[state];
  byId<HTMLButtonElement>('call-go').disabled = state !== 'ready';
  if (state === 'ready') {
    if (pending && rememberMe.checked) void remember(pending.user, pending.password);
    pending = undefined;
    password.value = '';
    busy(false);
    if (!byId('signin').hidden) hush();
  }
  if (state === 'lost') tell('The connection to the gateway was lost. Calls go on while their sound does; the phone signs in again by itself.');
  else if (state === 'ready') hush();
  const inside = state === 'ready' || state === 'lost' || (state === 'registering' && !pending && phone.call !== undefined);
  if (inside || state === 'off') showHome(inside);
}

function showHome(signedIn: boolean): void {
  const calling = phone.call !== undefined;
  byId('signin').hidden = signedIn;
  byId('signout').hidden = !signedIn;
  byId('home').hidden = !signedIn || calling;
  byId('recent').hidden = !signedIn || calling;
  if (!signedIn) {
    (user.value ? password : user).focus();
    return;
  }
  if (!calling) {
    listRecent();
    number.focus({ preventScroll: true });
  }
}

function busy(on: boolean): void {
  const go = byId<HTMLButtonElement>('signin-go');
  go.disabled = on;
  go.textContent = on ? 'Signing in…' : 'Sign in';
}

async function signIn(name: string, secret: string): Promise<void> {
  hush();
  byId('outcome').textContent = '';
  pending = { user: name, password: secret };
  busy(true);
  let at: string;
  try {
    at = await domain;
  } catch {
    pending = undefined;
    busy(false);
    tell(noAnswer);
    return;
  }
  try {
    phone.signIn(name, secret, at);
  } catch (error) {
    pending = undefined;
    busy(false);
    tell(`This user name cannot be used: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function finished(call: Call): void {
  const ending = call.ending!;
  byId('outcome').textContent = ending.seconds > 0 ? `${ending.words} ${duration(ending.seconds)}` : ending.words;
  addRecent({
    target: call.target,
    peer: call.peer,
    incoming: call.incoming,
    missed: ending.missed,
    at: Date.now(),
    seconds: ending.seconds,
  });
  hush();
  number.value = '';
  numberChanged();
  showHome(phone.state !== 'off');
  if (phone.state === 'lost') showLine('lost');
}

function listRecent(): void {
  const calls = recentCalls();
  byId('recent-none').hidden = calls.length > 0;
  byId('recent-clear').hidden = calls.length === 0;
  byId('recent-list').replaceChildren(
    ...calls.map((c) => {
      const when = new Date(c.at).toLocaleString(undefined, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
      const what = c.missed ? 'missed' : c.seconds > 0 ? duration(c.seconds) : c.incoming ? 'declined' : 'no answer';
      const button = make(
        'button',
        { type: 'button', className: c.missed ? 'missed' : '' },
        icon(c.incoming ? 'in' : 'out'),
        make('span', {}, make('b', {}, c.peer), make('small', {}, `${when} · ${what}`)),
      );
      button.setAttribute('aria-label', `Call ${c.peer} again, ${c.incoming ? 'incoming' : 'outgoing'} ${what}, ${when}`);
      button.addEventListener('click', () => {
        number.value = c.target;
        numberChanged();
        void dial();
      });
      return make('li', {}, button);
    }),
  );
}

function numberChanged(): void {
  byId('erase').hidden = number.value === '';
}

async function dial(): Promise<void> {
  const target = number.value.trim();
  if (!target) {
    number.value = recentCalls().find((c) => !c.incoming)?.target ?? '';
    numberChanged();
    number.focus();
    return;
  }
  hush();
  byId('outcome').textContent = '';
  try {
    await phone.dial(dialable(target));
  } catch {
    tell(`“${target}” is not a number or name that can be called.`);
  }
}

// People paste numbers with spaces, dashes and brackets.
function dialable(target: string): string {
  return /^[+\d][\d\s().\-/]*$/.test(target) ? target.replace(/[^\d+*#]/g, '') : target;
}

byId('signin-form').addEventListener('submit', (e) => {
  e.preventDefault();
  const name = user.value.trim();
  if (!name || !password.value) {
    tell('Enter your user name and your password.');
    (name ? password : user).focus();
    return;
  }
  void signIn(name, password.value);
});
byId('dial-form').addEventListener('submit', (e) => {
  e.preventDefault();
  void dial();
});
byId('signout').addEventListener('click', () => {
  settings.close();
  phone.stop();
  void forget();
  clearRecent();
  user.value = '';
  rememberMe.checked = false;
  byId('outcome').textContent = '';
  hush();
});
byId('alert-close').addEventListener('click', hush);
byId('recent-clear').addEventListener('click', () => {
  clearRecent();
  listRecent();
});
byId('erase').addEventListener('click', () => {
  number.value = number.value.slice(0, -1);
  numberChanged();
  number.focus();
});
number.addEventListener('input', numberChanged);
keypad(byId('dial-keys'), (key) => {
  keySound(key);
  number.value += key;
  numberChanged();
});
document.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target instanceof HTMLInputElement || e.target instanceof HTMLSelectElement) return;
  if (document.querySelector('dialog[open]')) return;
  if (screen.key(e.key)) e.preventDefault();
});
// A browser that held the call's sound back lets go at the first touch.
document.addEventListener('pointerdown', () => {
  const remote = byId<HTMLAudioElement>('remote');
  if (remote.srcObject && remote.paused) void remote.play().catch(() => undefined);
});

const noAnswer = 'The gateway does not answer. Check your network and open the page again.';

async function askDomain(): Promise<string> {
  const answer = await fetch('./phone.json', { cache: 'no-store' });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const told: { domain?: string } = await answer.json();
  return told.domain || location.hostname;
}

async function start(): Promise<void> {
  user.value = rememberedUser();
  rememberMe.checked = user.value !== '';
  showLine('off');
  void useSpeaker(byId<HTMLAudioElement>('remote'), choice.speaker);
  try {
    byId('domain').textContent = await domain;
  } catch {
    tell(noAnswer);
    return;
  }
  if (!window.isSecureContext) tell('Browsers give the microphone to safe pages only. Open this page over https:// or on http://localhost.');
  const stored = await storedAccount();
  if (stored && phone.state === 'off' && !pending) {
    rememberMe.checked = true;
    void signIn(stored.user, stored.password);
  }
}

void start();
