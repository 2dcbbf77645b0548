// Package harness holds the program that the benchmarks of package bpf measure
// the shipped programs with. Nothing but tests imports it.
package harness

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I../include -I/usr/include/x86_64-linux-gnu" -no-global-types -type harness_frame -type harness_position Harness harness.bpf.c
