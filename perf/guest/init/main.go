// Command init is process 1 of the test guest: it mounts what BPF needs, loads
// the modules it was packed with, runs the job line by line and powers off. The
// last line on the console is "guest: N failed", which boot.sh reads.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	failed := 0
	for _, m := range [][2]string{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"},
		{"tmpfs", "/run"}, {"bpf", "/sys/fs/bpf"}, {"tracefs", "/sys/kernel/tracing"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		_ = os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Printf("guest: mount %s: %v\n", m[1], err)
		}
	}
	os.Setenv("PATH", "/job:/bin")
	os.Setenv("HOME", "/tmp")
	os.Setenv("TMPDIR", "/tmp")
	os.Setenv("CI", "true")
	for _, line := range lines("/modules/list") {
		if err := load("/modules/" + line); err != nil {
			fmt.Printf("guest: module %s: %v\n", line, err)
			failed++
		}
	}
	loopbackUp()
	for _, line := range lines("/job/run") {
		fmt.Println("guest: $", line)
		argv := strings.Fields(line)
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = "/job", os.Stdout, os.Stdout
		if err := cmd.Run(); err != nil {
			fmt.Printf("guest: %s: %v\n", argv[0], err)
			failed++
		}
	}
	fmt.Printf("guest: %d failed\n", failed)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// lines returns the non-empty lines of a file, none when it cannot be read.
func lines(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if l := strings.TrimSpace(s.Text()); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// loopbackUp sets lo up without any tool in the guest.
func loopbackUp() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	_ = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
