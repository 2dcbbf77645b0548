// Microphones, speakers and what to say when the browser gives none.

export type MicrophoneFault = { title: string; advice: string };

export interface AudioChoice {
  microphone: string; // deviceId, '' = the system's choice
  speaker: string;
  processing: boolean; // echo cancellation, noise suppression, gain control
}

const choiceKey = 'sluice.audio';

export function loadChoice(): AudioChoice {
  const fallback: AudioChoice = { microphone: '', speaker: '', processing: true };
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(choiceKey) ?? '{}');
    return { ...fallback, ...(typeof kept === 'object' ? kept : {}) };
  } catch {
    return fallback;
  }
}

export function saveChoice(choice: AudioChoice): void {
  localStorage.setItem(choiceKey, JSON.stringify(choice));
}

/** Opens the chosen microphone; a chosen one that is gone gives way to any other. */
export async function openMicrophone(choice: AudioChoice): Promise<MediaStream> {
  if (!navigator.mediaDevices) throw new DOMException('insecure', 'SecurityError');
  const audio: MediaTrackConstraints = {
    echoCancellation: choice.processing,
    noiseSuppression: choice.processing,
    autoGainControl: choice.processing,
  };
  if (!choice.microphone) return navigator.mediaDevices.getUserMedia({ audio });
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { ...audio, deviceId: { exact: choice.microphone } } });
  } catch (error) {
    if (!(error instanceof DOMException) || !['OverconstrainedError', 'NotFoundError'].includes(error.name)) throw error;
    return navigator.mediaDevices.getUserMedia({ audio });
  }
}

/** Puts a getUserMedia failure into words a person can act on. */
export function microphoneFault(error: unknown): MicrophoneFault {
  const name = error instanceof DOMException ? error.name : '';
  switch (name) {
    case 'NotAllowedError':
      return {
        title: 'Your browser does not let this page use the microphone.',
        advice: 'Allow the microphone in the address bar or in the site settings, then call again.',
      };
    case 'NotFoundError':
    case 'OverconstrainedError':
      return { title: 'No microphone was found.', advice: 'Plug one in or switch it on, then call again.' };
    case 'NotReadableError':
    case 'AbortError':
      return {
        title: 'The microphone could not be opened.',
        advice: 'Another program may be using it. Close that program or choose another microphone in the settings.',
      };
    case 'SecurityError':
      return {
        title: 'Browsers give the microphone to safe pages only.',
        advice: 'Open this page over https:// or on http://localhost.',
      };
    default:
      return { title: 'The microphone could not be opened.', advice: String(error instanceof Error ? error.message : error) };
  }
}

export interface Devices {
  microphones: MediaDeviceInfo[];
  speakers: MediaDeviceInfo[];
  named: boolean; // false until the microphone has been allowed once
}

export async function listDevices(): Promise<Devices> {
  const all = navigator.mediaDevices ? await navigator.mediaDevices.enumerateDevices() : [];
  const of = (kind: MediaDeviceKind) => all.filter((d) => d.kind === kind && d.deviceId !== '');
  return { microphones: of('audioinput'), speakers: of('audiooutput'), named: all.some((d) => d.label !== '') };
}

export const canChooseSpeaker = 'setSinkId' in HTMLMediaElement.prototype;

/** Plays on the chosen speaker; one that is gone gives way to the system's. */
export async function useSpeaker(element: HTMLAudioElement, speaker: string): Promise<void> {
  if (!canChooseSpeaker) return;
  try {
    await element.setSinkId(speaker);
  } catch {
    await element.setSinkId('').catch(() => undefined);
  }
}
