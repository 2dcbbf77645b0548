package bpf

// The objects are committed: a normal build needs no compiler. Regenerate with
// clang-19 and llvm-strip-19 by go generate ./bpf.

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I. -Iinclude -I/usr/include/x86_64-linux-gnu" -no-global-types -type slc_layout -type slc_verdict -type slc_event -type slc_profile -type slc_stream_flag -type slc_interface_flag -type slc_program -type slc_operation -type slc_binding_key -type slc_binding -type slc_stream_key -type slc_ring -type slc_stream -type slc_state -type slc_session -type slc_keystream -type slc_keystream_large -type slc_interface -type slc_counters -type slc_control Control control.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I. -Iinclude -I/usr/include/x86_64-linux-gnu" -no-global-types XDP xdp.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I. -Iinclude -I/usr/include/x86_64-linux-gnu" -no-global-types TC tc.bpf.c
