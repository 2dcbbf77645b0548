// Package bpf holds the kernel programs of the data plane, the lay-out of their
// maps and what user space must compute for them: session keys and keystream.
//
// README.md describes the maps and who may write what, when.
package bpf

// The shared types of include/sluice.h. The names in the alias are ours, the
// types are generated.
type (
	BindingKey     = ControlSlcBindingKey
	Binding        = ControlSlcBinding
	StreamKey      = ControlSlcStreamKey
	Stream         = ControlSlcStream
	Ring           = ControlSlcRing
	State          = ControlSlcState
	Session        = ControlSlcSession
	Keystream      = ControlSlcKeystream
	KeystreamLarge = ControlSlcKeystreamLarge
	Interface      = ControlSlcInterface
	Counters       = ControlSlcCounters
	Control        = ControlSlcControl
	Verdict        = ControlSlcVerdict
	Event          = ControlSlcEvent
	Profile        = ControlSlcProfile
	StreamFlag     = ControlSlcStreamFlag
	InterfaceFlag  = ControlSlcInterfaceFlag
	Program        = ControlSlcProgram
	Operation      = ControlSlcOperation
)

const (
	Layout         = uint32(ControlSlcLayoutSLC_LAYOUT)         // version of the map lay-out
	KeystreamSmall = int(ControlSlcLayoutSLC_KEYSTREAM_SMALL)   // octets in a Keystream slot
	LargestPayload = int(ControlSlcLayoutSLC_KEYSTREAM_LARGE)   // octets the programs transform at most
	PayloadUp      = uint8(ControlSlcLayoutSLC_PAYLOAD_UP)      // payload map: goes up
	MaxDropout     = uint64(ControlSlcLayoutSLC_MAX_DROPOUT)    // RFC 3550 A.1
	Window         = uint64(ControlSlcLayoutSLC_WINDOW)         // replay window in packets
	IndexLimit     = uint64(1) << 48                            // indices are below it
	Verdicts       = int(ControlSlcVerdictSLC_VERDICTS)         // number of verdicts
	Events         = int(ControlSlcEventSLC_EVENTS)             // number of events
	Programs       = int(ControlSlcProgramSLC_PROGRAMS)         // number of Program values
	ProgramXDP     = ControlSlcProgramSLC_XDP                   // key of verdicts
	ProgramTC      = ControlSlcProgramSLC_TC                    // key of verdicts
	Plain          = ControlSlcProfileSLC_PLAIN                 // RTP
	AESCM          = ControlSlcProfileSLC_AES_CM_128HMAC_SHA180 // AES_CM_128_HMAC_SHA1_80
	AEADGCM        = ControlSlcProfileSLC_AEAD_AES_128GCM       // AEAD_AES_128_GCM
	OpRead         = ControlSlcOperationSLC_READ
	OpRelease      = ControlSlcOperationSLC_RELEASE
	OpClose        = ControlSlcOperationSLC_CLOSE
	StripExtension = ControlSlcStreamFlagSLC_STRIP_EXTENSION
	InLarge        = ControlSlcStreamFlagSLC_IN_LARGE
	OutLarge       = ControlSlcStreamFlagSLC_OUT_LARGE
	NoXDPOut       = ControlSlcStreamFlagSLC_NO_XDP_OUT
	NoXDPTx        = ControlSlcStreamFlagSLC_NO_XDP_TX
)
