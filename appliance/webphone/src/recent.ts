export interface Recent {
  target: string;
  peer: string;
  incoming: boolean;
  missed: boolean;
  at: number; // ms since the epoch
  seconds: number;
}

const key = 'sluice.recent';
const most = 12;

export function recentCalls(): Recent[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(key) ?? '[]');
    return Array.isArray(kept) ? kept.slice(0, most) : [];
  } catch {
    return [];
  }
}

export function addRecent(call: Recent): void {
  localStorage.setItem(key, JSON.stringify([call, ...recentCalls()].slice(0, most)));
}

export function clearRecent(): void {
  localStorage.removeItem(key);
}
