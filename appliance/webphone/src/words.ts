// What a SIP outcome means to the person who placed or took the call.

export function endWords(cause: string, status: number | undefined, incoming: boolean): string {
  switch (status) {
    case 401:
    case 407:
      return 'The gateway did not accept your password for this call.';
    case 403:
      return 'This call is not allowed.';
    case 404:
    case 604:
    case 484:
      return 'No such number or name.';
    case 408:
      return 'No answer.';
    case 480:
      return 'Not available right now.';
    case 410:
      return 'This number is no longer in use.';
    case 486:
    case 600:
      return 'Busy.';
    case 487:
      return incoming ? 'Missed call.' : 'Call cancelled.';
    case 488:
    case 606:
      return 'The other side speaks no codec we have in common.';
    case 603:
      return 'Declined.';
    case 503:
      return 'The gateway or the line is overloaded. Try again in a moment.';
    case 500:
    case 502:
    case 504:
      return `The call failed on the other side (${status}).`;
  }
  if (status !== undefined && status >= 300) return `The call failed (${status}).`;
  switch (cause) {
    case 'Canceled':
      return incoming ? 'Missed call.' : 'Call cancelled.';
    case 'Terminated':
      return 'Call ended.';
    case 'Connection Error':
    case 'RTP Timeout':
      return 'The connection was lost.';
    case 'Request Timeout':
      return 'The gateway did not answer.';
    case 'No Answer':
    case 'Expires':
      return incoming ? 'Missed call.' : 'No answer.';
    case 'WebRTC Error':
    case 'Bad Media Description':
    case 'Incompatible SDP':
      return 'The two sides could not agree on audio.';
    case 'User Denied Media Access':
      return 'The microphone could not be opened.';
    case 'No ACK':
      return 'The call could not be set up.';
    default:
      return cause ? `The call ended: ${cause}.` : 'Call ended.';
  }
}

export function duration(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n: number) => String(n).padStart(2, '0');
  const hours = Math.floor(s / 3600);
  return `${hours ? `${hours}:` : ''}${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}
