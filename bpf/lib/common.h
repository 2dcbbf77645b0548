/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What every part of the library uses. */
#ifndef SLC_COMMON_H
#define SLC_COMMON_H

#include <stddef.h>
#include "maps.h"
#include <bpf/bpf_endian.h>

#define SLC_BLOCKS (1 + SLC_KEYSTREAM_LARGE / 16)	/* mask and keystream */
#define SLC_LONGEST 1600	/* RTP packet with header and tag, octets */
#define SLC_LONGEST_HEADER 512	/* RTP header with CSRC and extension */
#define SLC_OFFSET_LIMIT 0x7ff	/* of anything in a frame */
#define SLC_INDEX_LIMIT (1ULL << 48)
#define SLC_INDEX_MASK (SLC_INDEX_LIMIT - 1)

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* Keeps clang from merging or moving what the verifier must see in order. */
#define slc_opaque(x) asm volatile("" : "+r"(x))

struct slc_block {
	__u32 w[4];
};

/* What parsing found: offsets from the start of the frame, lengths in octets. */
struct slc_packet {
	__u32 l3;		/* IP header */
	__u32 rtp;		/* RTP header */
	__u32 length;		/* of the RTP packet with tag: the UDP payload */
	__u32 header;		/* RTP header with CSRC and extension */
	__u32 extension;	/* part of header that is the extension, 0 none */
	__u32 session;		/* of the binding */
	__u32 ssrc;
	__u32 timestamp;
	__u16 sequence;
	__u8 type;		/* payload type without marker */
	__u8 family;		/* 4 or 6 */
	__u8 hops;		/* TTL or hop limit */
	__u8 made;		/* the scratch holds the keystream of the way in */
	__u8 partial;		/* the device completes the UDP checksum (tc) */
	__u8 reserved;
	__u32 payload;		/* octets between header and tag */
	__u32 out_length;	/* of the RTP packet that goes out */
	__u32 grown;		/* octets the tail was grown by */
	__u32 pushed;		/* octets the head was grown by */
	__s32 action;		/* what the program returns when it forwards */
	__u32 frame;		/* octets of the whole frame, with padding */
	__u64 index;		/* estimated */
};

/*
 * Per CPU: what parsing found (the stack is short), keystream made here, and
 * the message that HMAC hashes. A run that another may interrupt on its CPU
 * (BPF_PROG_TEST_RUN) needs a map of its own.
 */
struct slc_scratch {
	struct slc_packet packet;
	__u64 reserved;
	struct slc_keystream_large keystream;
	__u8 message[SLC_LONGEST + 128];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slc_scratch);
} scratch SEC(".maps");

static __always_inline struct slc_scratch *slc_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* To 16 bits, with the carries (RFC 1071). */
static __always_inline __u32 slc_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

#endif
