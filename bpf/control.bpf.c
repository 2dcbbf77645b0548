//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Acts on a stream's state under its lock, run by BPF_PROG_TEST_RUN: the
 * lock is not allowed in a SEC("syscall") program before 6.2. This object
 * also carries every map and every type for user space.
 */
#include "maps.h"
#include <linux/pkt_cls.h>

#define EINVAL 22
#define ENOENT 2

/* In-lock copies are field by field: a call to memcpy is not allowed there. */
static __always_inline void copy_state(struct slc_state *to, const struct slc_state *from)
{
	to->started = from->started;
	to->highest = from->highest;
	to->window[0] = from->window[0];
	to->window[1] = from->window[1];
	to->from = from->from;
	to->until = from->until;
	to->last_packet = from->last_packet;
	to->packets = from->packets;
	to->octets = from->octets;
	to->first = from->first;
	to->last_timestamp = from->last_timestamp;
	to->jitter_q4 = from->jitter_q4;
	to->arrival = from->arrival;
	to->arrival_timestamp = from->arrival_timestamp;
}

SEC("tc")
int sluice_control(struct __sk_buff *skb)
{
	struct slc_control *request = (void *)(long)skb->data;
	struct slc_state *state;
	__u32 slot, operation;
	__u64 limit;

	if ((void *)(request + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	slot = request->slot;
	operation = request->operation;
	state = bpf_map_lookup_elem(&states, &slot);
	if (!state) {
		request->result = -ENOENT;
		return TC_ACT_OK;
	}
	switch (operation) {
	case SLC_READ:
		limit = ~0ULL;
		break;
	case SLC_RELEASE:
	case SLC_CLOSE:
		limit = 0;
		break;
	default:
		request->result = -EINVAL;
		return TC_ACT_OK;
	}
	bpf_spin_lock(&state->lock);
	/* nothing accepted since the hand-over: a release gives back all of it */
	if (operation == SLC_RELEASE)
		limit = state->started && state->highest >= state->from ? state->highest + 1 : state->from;
	if (state->until > limit)
		state->until = limit;
	copy_state(&request->state, state);
	bpf_spin_unlock(&state->lock);
	request->result = 0;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* bpf2go takes types from BTF, and BTF keeps what is referred to. */
const enum slc_layout slc_layout_version = SLC_LAYOUT;
const enum slc_verdict slc_unused_verdict = 0;
const enum slc_event slc_unused_event = 0;
const enum slc_profile slc_unused_profile = 0;
const enum slc_stream_flag slc_unused_stream_flag = 0;
const enum slc_interface_flag slc_unused_interface_flag = 0;
const enum slc_program slc_unused_program = 0;
const enum slc_operation slc_unused_operation = 0;
const struct slc_control slc_unused_control;
