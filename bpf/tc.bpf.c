//go:build ignore

/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
#include "maps.h"
#include <linux/pkt_cls.h>
SEC("tc") int sluice_tc(struct __sk_buff *skb) { return TC_ACT_OK; }
char LICENSE[] SEC("license") = "Dual BSD/GPL";
