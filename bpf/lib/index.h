/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* RFC 3711 index estimation, the replay window, and the counters beside it. */
#ifndef SLC_INDEX_H
#define SLC_INDEX_H

#include "parse.h"

/*
 * RFC 3711 3.3.1. Where it would lie before the first roll-over the counter
 * stays 0, as in dataplane/srtp.Window.
 */
static __always_inline __u64 slc_estimate(__u64 highest, __u32 started, __u32 sequence)
{
	__u64 roc = highest >> 16;
	__u32 newest = highest & 0xffff;

	if (!started)
		return (highest & ~0xffffULL) | sequence;
	if (newest < 0x8000) {
		if (sequence > newest + 0x8000) {
			if (roc)
				roc--;
		}
	} else if (newest - 0x8000 > sequence) {
		roc++;
	}
	return (roc << 16 | sequence) & SLC_INDEX_MASK;
}

/*
 * May this index be taken? Reads only. Asked once without the lock, as advice,
 * and again with it.
 */
static __always_inline int slc_admit(const struct slc_state *state, __u64 index, int plain)
{
	__u64 highest = state->highest, behind;

	if (index < state->from)
		return SLC_UP_BEFORE_CUT;
	if (index >= state->until)
		return SLC_UP_RELEASED;
	if (!state->started)
		return SLC_CONTINUE;
	if (index > highest) {
		if (plain && index - highest > SLC_MAX_DROPOUT)
			return SLC_UP_JUMP;
		return SLC_CONTINUE;
	}
	behind = highest - index;
	if (behind >= SLC_WINDOW)
		return plain ? SLC_UP_JUMP : SLC_DROP_REPLAY;
	if (behind >= 64 ? state->window[1] >> (behind & 63) & 1 : state->window[0] >> (behind & 63) & 1)
		return SLC_DROP_REPLAY;
	return SLC_CONTINUE;
}

/* Takes the packet's index, or says why not. All of a packet's state changes here. */
static __always_inline int slc_commit(const struct slc_stream *stream, const struct slc_packet *packet)
{
	struct slc_state *state;
	__u64 now, index, ahead, octets;
	__u32 slot, timestamp, clock;
	int verdict, plain;

	slot = stream->slot;
	clock = stream->clock_q32;
	plain = stream->in_profile == SLC_PLAIN;
	index = packet->index;
	octets = packet->payload;
	timestamp = packet->timestamp;
	now = bpf_ktime_get_ns();
	state = bpf_map_lookup_elem(&states, &slot);
	if (!state)
		return SLC_DROP_TORN;

	bpf_spin_lock(&state->lock);
	verdict = slc_admit(state, index, plain);
	if (verdict == SLC_CONTINUE) {
		if (!state->started || index > state->highest) {
			ahead = state->started ? index - state->highest : SLC_WINDOW;
			if (ahead >= 128) {
				state->window[1] = 0;
				state->window[0] = 0;
			} else if (ahead >= 64) {
				state->window[1] = state->window[0] << (ahead & 63);
				state->window[0] = 0;
			} else {
				state->window[1] = state->window[1] << ahead |
						   state->window[0] >> 1 >> ((63 - ahead) & 63);
				state->window[0] <<= ahead;
			}
			state->window[0] |= 1;
			state->highest = index;
			state->last_timestamp = timestamp;
			state->started = 1;
		} else {
			ahead = state->highest - index;
			if (ahead >= 64)
				state->window[1] |= 1ULL << (ahead & 63);
			else
				state->window[0] |= 1ULL << (ahead & 63);
		}
		if (!state->packets || index < state->first)
			state->first = index;
		state->packets++;
		state->octets += octets;
		state->last_packet = now;
		if (clock) {
			__u64 passed = now - state->arrival;

			/* RFC 3550 A.8; a pause of seconds says nothing about jitter */
			if (state->arrival && passed < 1ULL << 32) {
				__s32 transit = (__s32)(passed * clock >> 32) -
						(__s32)(timestamp - state->arrival_timestamp);

				if (transit < 0)
					transit = -transit;
				state->jitter_q4 += transit - ((state->jitter_q4 + 8) >> 4);
			}
			state->arrival = now;
			state->arrival_timestamp = timestamp;
		}
	}
	bpf_spin_unlock(&state->lock);
	return verdict;
}

#endif
