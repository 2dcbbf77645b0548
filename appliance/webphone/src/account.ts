// Signing in again. The page itself keeps the user name only. A password goes to
// the browser's password manager, which asks the user first and encrypts it.

const nameKey = 'sluice.user';

interface PasswordCredential extends Credential {
  password?: string;
}
interface PasswordCredentialInit {
  id: string;
  password: string;
  name: string;
}
declare global {
  interface Window {
    PasswordCredential?: new (init: PasswordCredentialInit) => PasswordCredential;
  }
}

export function rememberedUser(): string {
  return localStorage.getItem(nameKey) ?? '';
}

/** The stored account, when the user has let the browser keep it and sign in by itself. */
export async function storedAccount(): Promise<{ user: string; password: string } | undefined> {
  if (!window.PasswordCredential || !rememberedUser()) return undefined;
  try {
    const options = { password: true, mediation: 'silent' } as CredentialRequestOptions;
    const found = (await navigator.credentials.get(options)) as PasswordCredential | null;
    return found?.password && found.id === rememberedUser() ? { user: found.id, password: found.password } : undefined;
  } catch {
    return undefined;
  }
}

export async function remember(user: string, password: string): Promise<void> {
  localStorage.setItem(nameKey, user);
  if (!window.PasswordCredential) return;
  try {
    await navigator.credentials.store(new window.PasswordCredential({ id: user, password, name: user }));
  } catch {
    // The browser has no password manager here; the name alone is remembered.
  }
}

export async function forget(): Promise<void> {
  localStorage.removeItem(nameKey);
  await navigator.credentials?.preventSilentAccess?.().catch(() => undefined);
}
