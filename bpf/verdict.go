package bpf

import "fmt"

// verdictNames are the stable words of the verdicts: metric label and CLI text.
// A test holds them against enum slc_verdict.
var verdictNames = [Verdicts]string{
	"forwarded",
	"up_not_ip",
	"up_vlan",
	"up_fragment",
	"up_ip_options",
	"up_ipv6_extension",
	"up_not_udp",
	"up_length",
	"up_gso",
	"up_unknown",
	"up_stun",
	"up_dtls",
	"up_not_rtp",
	"up_rtcp",
	"up_unknown_ssrc",
	"up_payload_type",
	"up_before_cut",
	"up_released",
	"up_jump",
	"up_ttl",
	"up_size",
	"tc_neighbour",
	"tc_mtu",
	"tc_tail",
	"tc_route",
	"tc_device",
	"drop_malformed",
	"drop_replay",
	"drop_auth",
	"drop_no_route",
	"drop_no_room",
	"drop_torn",
	"drop_mtu",
}

// String returns the verdict's stable word, as in metric labels.
func (v ControlSlcVerdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict_%d", uint32(v))
}

var eventNames = [Events]string{
	"keystream_hit",
	"keystream_miss",
	"fragmented",
	"raced",
}

// String returns the event's stable word, as in metric labels.
func (e ControlSlcEvent) String() string {
	if int(e) < len(eventNames) {
		return eventNames[e]
	}
	return fmt.Sprintf("event_%d", uint32(e))
}
