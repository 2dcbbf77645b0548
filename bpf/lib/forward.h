/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One packet of a bound 4-tuple: everything that can fail comes first, then
 * authentication, then the one change of state, then the packet is rewritten.
 *
 * The context's file gives slc_route(), slc_push(), slc_settle(), slc_checksum() and
 * slc_transmit().
 */
#ifndef SLC_FORWARD_H
#define SLC_FORWARD_H

#include "auth.h"
#include "rewrite.h"

static __always_inline int slc_dropped(const struct slc_stream *stream, int verdict)
{
	__u32 slot = stream->slot;
	__u64 *count;

	if (verdict >= SLC_DROP_MALFORMED) {
		count = bpf_map_lookup_elem(&drops, &slot);
		if (count)
			(*count)++;
	}
	return verdict;
}

/* Room for what goes out, or a verdict; undone by slc_unmake_room. */
static __always_inline int slc_make_room(struct slc_context *ctx, struct slc_packet *packet,
					 const struct slc_route *route)
{
	__u32 frame;

	if (slc_push(ctx, packet, route) || slc_linear(ctx))
		return SLC_NO_ROOM;
	frame = packet->rtp + packet->out_length;
	if (frame > packet->frame) {
		if (slc_resize(ctx, frame - packet->frame)) {
			slc_unpush(ctx, packet);
			return SLC_NO_ROOM;
		}
		packet->grown = frame - packet->frame;
	}
	return SLC_CONTINUE;
}

static __always_inline void slc_unmake_room(struct slc_context *ctx, struct slc_packet *packet)
{
	if (packet->grown)
		slc_resize(ctx, -(__s32)packet->grown);
	slc_unpush(ctx, packet);
}

/* Decrypts the payload; the sum over it, or SLC_TORN. */
static __always_inline long slc_unprotect(struct slc_context *ctx, const struct slc_stream *stream,
					  const struct slc_packet *packet,
					  struct slc_counters *counters)
{
	struct slc_side side = {};

	slc_side_in(&side, stream, packet);
	return slc_cipher(ctx, &side, counters, packet->rtp + packet->header, packet->payload, packet->made);
}

/* From an accepted packet to one ready to leave: the sum over fixed header, payload and tag, or SLC_TORN. */
static __always_inline long slc_transform(struct slc_context *ctx, const struct slc_stream *stream,
					  struct slc_packet *packet, struct slc_counters *counters)
{
	__u64 header;
	long sum = 0;

	slc_settle(ctx, packet);
	if (stream->in_profile != SLC_PLAIN) {
		sum = slc_unprotect(ctx, stream, packet, counters);
		if (sum < 0)
			return SLC_TORN;
	}
	if (packet->extension && (stream->flags & SLC_STRIP_EXTENSION) && !slc_strip(ctx, packet))
		return SLC_TORN;
	if (!slc_header(ctx, stream, packet, &header))
		return SLC_TORN;
	if (stream->out_profile != SLC_PLAIN)
		sum = slc_protect(ctx, stream, packet, counters);
	else if (stream->in_profile == SLC_PLAIN)
		sum = slc_sum(ctx, packet->rtp + packet->header, packet->payload);
	if (sum < 0)
		return SLC_TORN;
	return sum + header;
}

static __always_inline int slc_forward(struct slc_context *ctx, struct slc_packet *packet,
				       struct slc_counters *counters)
{
	struct slc_route route = {};
	struct slc_stream_key key;
	struct slc_stream *stream;
	struct slc_state *state;
	__u32 slot, tag, strip;
	int verdict, plain;
	long sum;

	key.session = packet->session;
	key.ssrc = packet->ssrc;
	stream = bpf_map_lookup_elem(&streams, &key);
	if (!stream)
		return SLC_UP_UNKNOWN_SSRC;
	if (slc_several(ctx))
		return SLC_UP_GSO;
	if (packet->family != stream->family)
		return SLC_UP_UNKNOWN_SSRC;
	slot = stream->slot;
	state = bpf_map_lookup_elem(&states, &slot);
	if (!state)
		return SLC_UP_UNKNOWN_SSRC;
	plain = stream->in_profile == SLC_PLAIN;
	tag = slc_tag_length(stream->in_profile);
	if (packet->length < packet->header + tag)
		return slc_dropped(stream, SLC_DROP_MALFORMED);
	packet->payload = packet->length - packet->header - tag;
	if (packet->payload > SLC_KEYSTREAM_LARGE || packet->header > SLC_LONGEST_HEADER ||
	    packet->payload + packet->header > SLC_LONGEST)
		return SLC_UP_SIZE;
	if (packet->hops <= 1)
		return SLC_UP_TTL;
	slc_touch_keys(stream->in_profile, stream->in_session);
	slc_touch_keys(stream->out_profile, stream->out_session);
	packet->index = slc_estimate(state->highest, state->started, packet->sequence);
	slc_touch_ring(stream->in_profile, &stream->in_ring, packet->index);
	slc_touch_ring(stream->out_profile, &stream->out_ring, packet->index + stream->index_offset);
	verdict = slc_admit(state, packet->index, plain);
	if (verdict != SLC_CONTINUE)
		return slc_dropped(stream, verdict);
	if (stream->payload[packet->type & 0x7f] == SLC_PAYLOAD_UP)
		return SLC_UP_PAYLOAD_TYPE;
	strip = stream->flags & SLC_STRIP_EXTENSION ? packet->extension : 0;
	packet->out_length = packet->header - strip + packet->payload + slc_tag_length(stream->out_profile);

	verdict = slc_route(ctx, stream, packet, &route);
	if (verdict != SLC_CONTINUE)
		return slc_dropped(stream, verdict);
	verdict = slc_make_room(ctx, packet, &route);
	if (verdict != SLC_CONTINUE)
		return slc_dropped(stream, verdict);

	verdict = SLC_CONTINUE;
	if (!plain)
		verdict = slc_verify(ctx, stream, packet);
	if (verdict == SLC_CONTINUE) {
		verdict = slc_commit(stream, packet);
		if (verdict != SLC_CONTINUE)
			counters->event[SLC_RACED]++;
	}
	if (verdict != SLC_CONTINUE) {
		slc_unmake_room(ctx, packet);
		return slc_dropped(stream, verdict);
	}

	sum = slc_transform(ctx, stream, packet, counters);
	if (sum < 0 || !slc_rewrite(ctx, stream, packet, &route, sum))
		return slc_dropped(stream, SLC_DROP_TORN);
	packet->action = slc_transmit(ctx, packet, &route);
	return SLC_FORWARDED;
}

/* A frame's verdict, counted. */
static __always_inline int slc_run(struct slc_context *ctx, struct slc_packet *packet)
{
	struct slc_counters *counters;
	__u32 program = SLC_PROGRAM;
	int verdict;

	counters = bpf_map_lookup_elem(&verdicts, &program);
	if (!counters)
		return SLC_UP_UNKNOWN;
	packet->made = 0;
	packet->grown = 0;
	packet->pushed = 0;
	verdict = slc_parse(ctx, packet);
	if (verdict == SLC_CONTINUE)
		verdict = slc_forward(ctx, packet, counters);
	if ((__u32)verdict < SLC_VERDICTS)
		counters->verdict[verdict]++;
	return verdict;
}

#endif
