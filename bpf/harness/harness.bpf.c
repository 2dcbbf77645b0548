//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * For measuring: puts the next of a set of frames into the buffer and its
 * stream back before that frame's index, then runs the shipped program by a
 * tail call. With run 0 only the preparation is left, to be subtracted.
 */
#include "maps.h"

#define LONGEST 1600

struct harness_frame {
	__u32 length;
	__u32 slot;
	__u64 index;
	__u8 octets[LONGEST];
};

struct harness_position {
	__u64 next;
	__u32 step;	/* prime to count: visits all frames in no order a prefetcher knows */
	__u32 count;	/* of frames, at least 1 */
	__u32 run;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct harness_frame);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct harness_position);
} position SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} program SEC(".maps");

SEC("xdp")
int harness(struct xdp_md *ctx)
{
	struct harness_position *at;
	struct harness_frame *frame;
	struct slc_state *state;
	__u32 zero = 0, i;
	__u64 length, now;

	at = bpf_map_lookup_elem(&position, &zero);
	if (!at)
		return XDP_ABORTED;
	i = at->next++ * at->step % at->count;
	frame = bpf_map_lookup_elem(&frames, &i);
	if (!frame)
		return XDP_ABORTED;
	state = bpf_map_lookup_elem(&states, &frame->slot);
	if (!state)
		return XDP_ABORTED;
	state->window[0] = 0;
	state->window[1] = 0;
	state->highest = frame->index - 1;
	state->started = 1;
	length = frame->length;
	/* the barrier keeps the difference of pointers 64 bits wide */
	now = (long)ctx->data_end - (long)ctx->data;
	asm volatile("" : "+r"(now));
	if (bpf_xdp_adjust_tail(ctx, length - now))
		return XDP_ABORTED;
	if (length < 14)
		return XDP_ABORTED;
	asm volatile("" : "+r"(length));
	if (length > LONGEST)
		return XDP_ABORTED;
	if (bpf_xdp_store_bytes(ctx, 0, frame->octets, length))
		return XDP_ABORTED;
	if (at->run)
		bpf_tail_call(ctx, &program, 0);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
