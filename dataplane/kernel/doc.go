// Package kernel is the dataplane's Forwarder on XDP and tc programs: it loads,
// pins and attaches what bpf/ holds, chooses per interface, installs and hands
// back streams, keeps their keystream ahead and reaps what nobody owns.
//
// Everything that needs a privilege happens in New. Afterwards the engine uses
// descriptors it holds, so DropCapabilities may follow. Programs, maps and links
// are pinned and outlive the process: established streams go on while no daemon
// runs, and the next New of the same layout finds them.
package kernel
