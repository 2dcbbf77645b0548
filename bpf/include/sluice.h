/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the programs and user space share: map keys and values, verdicts.
 * Everything is in host byte order unless it says "network order". The lay-out
 * is described in ../README.md; change SLC_LAYOUT with any change in here.
 */
#ifndef SLC_SLUICE_H
#define SLC_SLUICE_H

#include <linux/bpf.h>
#include <linux/types.h>

enum slc_layout {
	SLC_LAYOUT = 1,			/* version of everything in this file */
	SLC_GHASH_TABLES = 8,		/* nibble tables per GCM session */
	SLC_WINDOW = 128,		/* replay window, packets */
	SLC_MAX_DROPOUT = 3000,		/* RFC 3550 A.1 */
	SLC_KEYSTREAM_SMALL = 224,	/* octets of keystream in a small slot */
	SLC_KEYSTREAM_LARGE = 1504,	/* ... in a large slot; also the largest payload */
	SLC_PAYLOAD_UP = 0xff,		/* payload map: not mapped, goes up */
};

/*
 * What became of a packet. The order is the lay-out of the counters; append
 * only. FORWARDED left the machine; UP_* went up the stack untouched; TC_* were
 * passed by XDP to the tc program, untouched; DROP_* are gone.
 */
enum slc_verdict {
	SLC_FORWARDED,
	SLC_UP_NOT_IP,		/* another EtherType */
	SLC_UP_VLAN,		/* more than one VLAN tag */
	SLC_UP_FRAGMENT,
	SLC_UP_IP_OPTIONS,
	SLC_UP_IPV6_EXTENSION,
	SLC_UP_NOT_UDP,
	SLC_UP_LENGTH,		/* lengths of the headers do not agree */
	SLC_UP_GSO,		/* several datagrams in one buffer (tc only) */
	SLC_UP_UNKNOWN,		/* no binding for the 4-tuple */
	SLC_UP_STUN,		/* first octet 0..3 (RFC 7983) */
	SLC_UP_DTLS,		/* 20..63 */
	SLC_UP_NOT_RTP,		/* any other first octet, or RTP of an unknown version */
	SLC_UP_RTCP,		/* RFC 5761 4 */
	SLC_UP_UNKNOWN_SSRC,
	SLC_UP_PAYLOAD_TYPE,	/* not in the payload map */
	SLC_UP_BEFORE_CUT,	/* index <= from: still the user engine's */
	SLC_UP_RELEASED,	/* index > until: the user engine's again */
	SLC_UP_JUMP,		/* plain RTP far ahead or behind: probation in user space */
	SLC_UP_TTL,		/* TTL or hop limit is used up */
	SLC_UP_SIZE,		/* longer than the program can transform */
	SLC_TC_NEIGHBOUR,	/* next hop not resolved yet */
	SLC_TC_MTU,		/* grows over the MTU of the way out */
	SLC_TC_TAIL,		/* this driver cannot grow this packet */
	SLC_TC_ROUTE,		/* bpf_fib_lookup does not answer (forwarding off) */
	SLC_TC_DEVICE,		/* the way out takes no XDP frames */
	SLC_DROP_MALFORMED,	/* bound 4-tuple, broken RTP header */
	SLC_DROP_REPLAY,	/* seen before, or SRTP older than the window */
	SLC_DROP_AUTH,		/* tag does not verify */
	SLC_DROP_NO_ROUTE,
	SLC_DROP_NO_ROOM,	/* tc could not grow the packet either */
	SLC_DROP_TORN,		/* keys or keystream changed under the packet */
	SLC_DROP_MTU,		/* over the MTU and cannot be fragmented */
	SLC_VERDICTS,
};

/* Counted besides the verdict. */
enum slc_event {
	SLC_KEYSTREAM_HIT,	/* one per cipher pass */
	SLC_KEYSTREAM_MISS,
	SLC_FRAGMENTED,		/* sent as two fragments (tc) */
	SLC_RACED,		/* two CPUs, one index: the second gave way */
	SLC_EVENTS,
};

enum slc_profile {
	SLC_PLAIN = 0,			/* RTP */
	SLC_AES_CM_128_HMAC_SHA1_80 = 1,
	SLC_AEAD_AES_128_GCM = 7,
};

enum slc_stream_flag {
	SLC_STRIP_EXTENSION = 1,	/* drop the RFC 8285 block */
	SLC_IN_LARGE = 2,		/* in ring is in keystream_large */
	SLC_OUT_LARGE = 4,		/* out ring is in keystream_large */
	SLC_NO_XDP_OUT = 8,		/* out_ifindex takes no XDP frames: use tc */
	SLC_NO_XDP_TX = 16,		/* ... takes them by redirect only, never by XDP_TX */
};

enum slc_interface_flag {
	SLC_INTERFACE_NO_XDP_OUT = 1,
	SLC_INTERFACE_NO_XDP_TX = 2,
};

/* bindings: exact 4-tuple of an arriving packet -> session. */
struct slc_binding_key {
	__u8 local[16];		/* IPv4 as the 12 octets zero and the address last */
	__u8 remote[16];
	__u16 local_port;	/* network order */
	__u16 remote_port;	/* network order */
	__u32 family;		/* 4 or 6 */
};

struct slc_binding {
	__u32 session;		/* slot in sessions; part of the stream key */
};

/* streams: (session, SSRC) -> constants. Replaced whole, so never torn. */
struct slc_stream_key {
	__u32 session;		/* slot in sessions of what arrives */
	__u32 ssrc;		/* host order */
};

/* A stream's part of a keystream map: slots base .. base+mask. */
struct slc_ring {
	__u32 base;		/* first slot */
	__u32 mask;		/* number of slots - 1, a power of two less one */
	__u16 epoch;		/* 0: no ring. Never the same for two users of a slot in a row */
	__u16 reserved[3];
};

struct slc_stream {
	__u32 slot;		/* in states and drops */
	__u8 in_profile;	/* enum slc_profile */
	__u8 out_profile;
	__u8 family;		/* of the way out: 4 or 6, as the way in */
	__u8 flags;		/* enum slc_stream_flag */
	__u32 in_session;	/* slot in sessions, profile not plain */
	__u32 out_session;
	__u32 in_epoch;		/* must equal the session's */
	__u32 out_epoch;
	__u64 index_offset;	/* out index = (in index + offset) mod 2^48 */
	__u32 out_ssrc;		/* host order */
	__u32 timestamp_add;
	struct slc_ring in_ring;
	struct slc_ring out_ring;
	__u8 source[16];	/* of what we send, as in slc_binding_key */
	__u8 destination[16];
	__u16 source_port;	/* network order */
	__u16 destination_port;	/* network order */
	__u32 out_ifindex;	/* expected way out; 0 unknown. See interfaces */
	__u32 link_ifindex;	/* device to transmit on when the way out is out_ifindex */
	__u16 vlan;		/* 802.1Q id on that device, 0 untagged; host order */
	__u16 reserved;
	__u32 clock_q32;	/* RTP clock in 2^-32 ticks per ns: rate * 2^32 / 10^9; 0 unknown */
	__u32 route_ifindex;	/* the look-up is done as if from here; 0: where the packet came in */
	__u8 payload[128];	/* payload type map, SLC_PAYLOAD_UP */
};

/*
 * states: one per stream slot, behind its lock. User space writes a slot only
 * before its stream is in streams; after that by the control program alone.
 * Read with BPF_F_LOCK.
 */
struct slc_state {
	struct bpf_spin_lock lock;
	__u32 started;		/* a packet has been accepted */
	__u64 highest;		/* newest accepted index, 48 bits */
	__u64 window[2];	/* bit n: highest - n accepted */
	__u64 from;		/* indices >= from are the kernel's (cut + 1); 0 all */
	__u64 until;		/* indices < until are the kernel's; 2^48 all */
	__u64 last_packet;	/* CLOCK_MONOTONIC ns of the newest accepted packet, 0 none */
	__u64 reserved;
	/* second cache line: what is only counted */
	__u64 packets;		/* forwarded by the kernel */
	__u64 octets;		/* their RTP payload with padding */
	__u64 first;		/* index of the first packet counted in packets */
	__u32 last_timestamp;	/* input RTP timestamp of highest */
	__u32 jitter_q4;	/* RFC 3550 A.8: 16 times the jitter, in timestamp units */
	__u64 arrival;		/* ns of the packet jitter was last taken from, 0 none */
	__u32 arrival_timestamp;
	__u32 reserved2;
	__u64 reserved3[2];
};

/*
 * sessions: key material by slot; nothing else in the system holds any but
 * the keystream maps. Wipe: epoch 0 first, then the rest.
 */
struct slc_session {
	/* [k][n]: the nibble n at bits 4k.. times H, {high, low} halves */
	__u64 ghash[SLC_GHASH_TABLES][16][2];
	__u32 hmac_inner[5];	/* SHA-1 state after the inner pad */
	__u32 hmac_outer[5];
	__u32 profile;
	__u32 epoch;		/* not 0 while the keys are valid */
	__u32 salt[4];		/* counter block of index 0, SSRC 0: octets in memory order */
	__u32 round[44];	/* AES-128 key schedule: octets in memory order */
	__u32 reserved[16];
};

/*
 * keystream, keystream_large: a slot. tag = epoch << 48 | index. The writer
 * stores 0, then the rest, then the tag; the reader compares the tag before
 * and after.
 */
struct slc_keystream {
	__u64 tag;
	__u64 reserved;
	__u8 mask[16];		/* GCM: E(K, counter 1), hides the tag */
	__u8 bytes[SLC_KEYSTREAM_SMALL];
};

struct slc_keystream_large {
	__u64 tag;
	__u64 reserved;
	__u8 mask[16];
	__u8 bytes[SLC_KEYSTREAM_LARGE];
};

/* interfaces: ifindex of a route -> how to transmit, where not out_ifindex. */
struct slc_interface {
	__u32 link_ifindex;	/* device to transmit on */
	__u16 vlan;		/* tag to add, 0 none; host order */
	__u16 flags;		/* enum slc_interface_flag */
};

/* verdicts: per CPU, key is enum slc_program. */
enum slc_program {
	SLC_XDP,
	SLC_TC,
	SLC_PROGRAMS,
};

struct slc_counters {
	__u64 verdict[SLC_VERDICTS];
	__u64 event[SLC_EVENTS];
};

/* The control program's packet (BPF_PROG_TEST_RUN data in and out). */
enum slc_operation {
	SLC_READ = 1,		/* state */
	SLC_RELEASE = 2,	/* until = highest + 1 (or from), then state */
	SLC_CLOSE = 3,		/* until = 0, then state: it is final */
};

struct slc_control {
	__u8 ethernet[14];	/* zero: room that the kernel wants */
	__u16 reserved;
	__u32 operation;	/* enum slc_operation */
	__u32 slot;
	__s32 result;		/* 0, or a negative errno */
	__u32 reserved2;
	struct slc_state state;
};

#endif
