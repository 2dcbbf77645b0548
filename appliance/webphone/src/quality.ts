// The call-quality panel's figures, from RTCPeerConnection.getStats().

export type Grade = 'none' | 'good' | 'fair' | 'poor';

export interface Quality {
  codec: string;
  roundTrip: number | undefined; // seconds
  lossIn: number | undefined; // share of the last interval, 0..1
  lossOut: number | undefined;
  jitterIn: number | undefined; // seconds
  jitterOut: number | undefined;
  rateIn: number | undefined; // bit/s
  rateOut: number | undefined;
  srtp: string;
  dtls: string;
  path: string;
  grade: Grade;
}

// Not in TypeScript's DOM types yet.
type Row = Record<string, unknown> & { id: string; type: string; timestamp: number };

const number = (row: Row | undefined, key: string): number | undefined => {
  const value = row?.[key];
  return typeof value === 'number' ? value : undefined;
};
const text = (row: Row | undefined, key: string): string => {
  const value = row?.[key];
  return typeof value === 'string' ? value : '';
};

const srtpNames: Record<string, string> = {
  AES_CM_128_HMAC_SHA1_80: 'AES-CM-128 · HMAC-SHA1-80',
  AES_CM_128_HMAC_SHA1_32: 'AES-CM-128 · HMAC-SHA1-32',
  SRTP_AES128_CM_HMAC_SHA1_80: 'AES-CM-128 · HMAC-SHA1-80',
  AEAD_AES_128_GCM: 'AES-GCM-128',
  SRTP_AEAD_AES_128_GCM: 'AES-GCM-128',
  AEAD_AES_256_GCM: 'AES-GCM-256',
  SRTP_AEAD_AES_256_GCM: 'AES-GCM-256',
};

export class QualityProbe {
  private last: { at: number; received: number; lost: number; bytesIn: number; bytesOut: number } | undefined;

  constructor(private readonly connection: RTCPeerConnection) {}

  async read(): Promise<Quality> {
    const rows = new Map<string, Row>();
    (await this.connection.getStats()).forEach((row: Row) => rows.set(row.id, row));
    const find = (type: string) => [...rows.values()].find((r) => r.type === type && (r['kind'] ?? 'audio') === 'audio');

    const inbound = find('inbound-rtp');
    const outbound = find('outbound-rtp');
    const remoteIn = find('remote-inbound-rtp');
    const transport = find('transport');
    const pair = rows.get(text(transport, 'selectedCandidatePairId'));
    const codec = rows.get(text(inbound, 'codecId')) ?? rows.get(text(outbound, 'codecId'));
    const local = rows.get(text(pair, 'localCandidateId'));
    const remote = rows.get(text(pair, 'remoteCandidateId'));

    const now = {
      at: inbound?.timestamp ?? outbound?.timestamp ?? performance.now(),
      received: number(inbound, 'packetsReceived') ?? 0,
      lost: number(inbound, 'packetsLost') ?? 0,
      bytesIn: number(inbound, 'bytesReceived') ?? 0,
      bytesOut: number(outbound, 'bytesSent') ?? 0,
    };
    const before = this.last;
    this.last = now;
    const seconds = before ? (now.at - before.at) / 1000 : 0;
    let lossIn: number | undefined;
    let rateIn: number | undefined;
    let rateOut: number | undefined;
    if (before && seconds > 0) {
      const lost = Math.max(0, now.lost - before.lost);
      const expected = lost + now.received - before.received;
      lossIn = expected > 0 ? lost / expected : undefined;
      rateIn = ((now.bytesIn - before.bytesIn) * 8) / seconds;
      rateOut = ((now.bytesOut - before.bytesOut) * 8) / seconds;
    }
    const roundTrip = number(remoteIn, 'roundTripTime') ?? number(pair, 'currentRoundTripTime');
    const lossOut = number(remoteIn, 'fractionLost');
    const jitterIn = number(inbound, 'jitter');
    const cipher = text(transport, 'srtpCipher');
    const address = remote ? `${text(remote, 'address') || 'gateway'}:${number(remote, 'port') ?? ''}` : '';

    return {
      codec: codec ? describeCodec(codec) : '',
      roundTrip,
      lossIn,
      lossOut,
      jitterIn,
      jitterOut: number(remoteIn, 'jitter'),
      rateIn,
      rateOut,
      srtp: srtpNames[cipher] ?? cipher,
      dtls: describeDtls(transport),
      path: address && `${(text(local, 'protocol') || 'udp').toUpperCase()} to ${address}`,
      grade: grade(lossIn, lossOut, roundTrip, jitterIn),
    };
  }
}

function describeCodec(row: Row): string {
  const name = text(row, 'mimeType').replace('audio/', '');
  const rate = number(row, 'clockRate');
  return rate ? `${name} · ${rate / 1000} kHz` : name;
}

function describeDtls(transport: Row | undefined): string {
  const version = { FEFD: 'DTLS 1.2', FEFC: 'DTLS 1.3', FEFF: 'DTLS 1.0' }[text(transport, 'tlsVersion')] ?? '';
  return version ? `${version}${text(transport, 'dtlsState') === 'connected' ? '' : ' (connecting)'}` : '';
}

// Limits after ITU-T G.114 (delay) and G.113 appendix I (loss of narrow-band speech).
function grade(...[lossIn, lossOut, roundTrip, jitter]: (number | undefined)[]): Grade {
  if (lossIn === undefined) return 'none';
  const loss = Math.max(lossIn, lossOut ?? 0);
  if (loss > 0.05 || (roundTrip ?? 0) > 0.5 || (jitter ?? 0) > 0.06) return 'poor';
  if (loss > 0.01 || (roundTrip ?? 0) > 0.3 || (jitter ?? 0) > 0.03) return 'fair';
  return 'good';
}
