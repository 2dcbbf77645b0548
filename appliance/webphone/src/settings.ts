import { byId, make } from './dom';
import { canChooseSpeaker, listDevices, saveChoice, type AudioChoice } from './media';

/** The settings dialog: which microphone, which speaker, voice processing. */
export class Settings {
  private readonly dialog = byId<HTMLDialogElement>('settings');
  private readonly microphone = byId<HTMLSelectElement>('microphone');
  private readonly speaker = byId<HTMLSelectElement>('speaker');
  private readonly processing = byId<HTMLInputElement>('processing');

  constructor(
    private readonly choice: AudioChoice,
    private readonly changed: (microphone: boolean) => void,
  ) {
    byId('open-settings').addEventListener('click', () => {
      this.dialog.showModal();
      void this.fill();
    });
    this.dialog.addEventListener('click', (e) => {
      if (e.target === this.dialog) this.dialog.close();
    });
    this.microphone.addEventListener('change', () => this.store(true));
    this.processing.addEventListener('change', () => this.store(true));
    this.speaker.addEventListener('change', () => this.store(false));
    navigator.mediaDevices?.addEventListener('devicechange', () => {
      if (this.dialog.open) void this.fill();
    });
    this.processing.checked = choice.processing;
  }

  close(): void {
    this.dialog.close();
  }

  private store(microphone: boolean): void {
    this.choice.microphone = this.microphone.value;
    this.choice.speaker = this.speaker.value;
    this.choice.processing = this.processing.checked;
    saveChoice(this.choice);
    this.changed(microphone);
  }

  private async fill(): Promise<void> {
    const devices = await listDevices();
    options(this.microphone, devices.microphones, this.choice.microphone);
    options(this.speaker, devices.speakers, this.choice.speaker);
    this.speaker.disabled = !canChooseSpeaker;
    const note = byId('devices-note');
    note.hidden = devices.named && canChooseSpeaker;
    note.textContent = devices.named
      ? 'This browser plays on the system’s speaker only.'
      : 'Names of devices appear once you have allowed the microphone.';
  }
}

function options(select: HTMLSelectElement, devices: MediaDeviceInfo[], chosen: string): void {
  const rest = devices.filter((d) => d.deviceId !== 'default' && d.deviceId !== 'communications');
  select.replaceChildren(
    make('option', { value: '' }, 'System default'),
    ...rest.map((d, i) => make('option', { value: d.deviceId }, d.label || `Device ${i + 1}`)),
  );
  select.value = rest.some((d) => d.deviceId === chosen) ? chosen : '';
}
